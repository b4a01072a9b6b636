"""What a trained network does when modalities are missing, corrupt or swapped, on the test split.

Nothing here chooses anything: it is read after training, from a finished record, and kept beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from wbcbench.contracts import Fusion
from wbcbench.data.resident import ResidentCells
from wbcbench.evaluation.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from wbcbench.evaluation.cost import macs, parameters
from wbcbench.evaluation.examination import Change, Examination, Images
from wbcbench.evaluation.shapley import Subset, shapley, subsets

Metrics = dict[str, float | None]


@torch.no_grad()
def examine(
    fusion: Fusion, cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...], seed: int = 0
) -> dict[str, Any]:
    """All of it as a JSON-able mapping; `seconds`, `passes` and `passes_saved` say what it cost.

    Keys: `missing` (`native`: absent modalities are left out; `impute`: their images are filled in and read);
    `subsets` (metrics per subset of modalities, of the `subset_cells` that have all of it) and `subset_cost`
    (parameters and MACs of what is deployed for it), absent where the fusion refuses missing ones;
    `worst_subset`, `shapley` (of balanced accuracy, on cells that have everything, for at most 5 modalities;
    guessing is 1 / K), `permutation_drop` (macro-F1 lost when one modality shows other cells), `corruptions`
    (macro-F1 per modality, kind and severity 1 to 5), `retained` (their mean as a share of the clean value),
    `diversity` of routes, `cross_slot` (how much a route minds what the other modalities show, in nats).
    """
    started = time.perf_counter()
    exam = Examination(fusion, cells, ids, modalities, seed)
    whole = exam.metrics(exam.clean.probabilities)
    found: dict[str, Any] = {"seed": seed, "clean": whole, "missing": fusion.missing}
    if len(modalities) > 1 and fusion.missing != "refuse":
        found |= _missing(exam)
    swapped = {m: exam.metrics(exam.swapped((m,)).probabilities) for m in modalities}
    found["permutation_drop"] = {m: _minus(whole, values) for m, values in swapped.items()}
    found |= _corrupt(exam, whole)
    if len(exam.clean.outputs) > 1:
        routes = exam.clean.outputs
        shown = {r: o.shown for r, o in routes.items() if o.shown is not None}
        found["diversity"] = diversity({r: o.logits.softmax(1) for r, o in routes.items()}, shown)
        found["cross_slot"] = _cross_slot(exam)
    seconds = round(time.perf_counter() - started, 2)
    return found | {"passes": exam.passes, "passes_saved": exam.saved, "seconds": seconds}


def diversity(routes: Mapping[str, Tensor], shown: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """Mean over pairs of routes: share of cells decided differently, and symmetrised KL in nats.

    Args:
        routes: name -> probabilities [n, K], two or more.
        shown: name -> [n] bool, the cells that count, where not all do. A pair is compared on those of both.

    Returns:
        Empty where no pair has a cell in common.
    """
    disagree, apart = [], []
    for one, two in combinations(routes, 2):
        a, b = routes[one], routes[two]
        masks = [shown[r] for r in (one, two) if shown and r in shown]
        if masks:
            both = torch.stack(masks).all(0)
            a, b = a[both], b[both]
        if len(a):
            disagree.append((a.argmax(1) != b.argmax(1)).float().mean())
            apart.append((kl(a, b).mean() + kl(b, a).mean()) / 2)
    if not apart:
        return {}
    return {"disagreement": float(torch.stack(disagree).mean()), "kl": float(torch.stack(apart).mean())}


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) per row, [n, K] twice -> [n], in nats; probabilities below 1e-12 count as that."""
    p, q = p.clamp_min(1e-12), q.clamp_min(1e-12)
    return (p * (p / q).log()).sum(1)


def subset_cost(fusion: Fusion, given: Subset, device: torch.device) -> dict[str, int]:
    """Parameters, and MACs of one cell, of what is deployed where only these modalities are given."""
    task, module = fusion.task, fusion.deploy(given)
    blank = {m: torch.zeros(1, task.channels[m], task.image_size, task.image_size, device=device) for m in given}
    return {"params": parameters(module), "macs": macs(module, blank)}


def _missing(exam: Examination) -> dict[str, Any]:
    everything = exam.having(exam.modalities)
    answers: dict[Subset, Metrics] = {}
    values: dict[Subset, float] = {}
    counts: dict[str, int] = {}
    for subset in subsets(exam.modalities):
        rows = exam.having(subset)
        counts["+".join(subset)] = count = len(exam.ids) if rows is None else int(rows.sum())
        if not count:
            continue
        probabilities = exam.kept(subset).probabilities
        answers[subset] = exam.metrics(probabilities, rows)
        if everything is None or everything.any():
            values[subset] = exam.metrics(probabilities, everything)["balanced_accuracy"] or 0.0
    costs = {"+".join(s): subset_cost(exam.fusion, s, exam.ids.device) for s in subsets(exam.modalities)}
    found: dict[str, Any] = {"subsets": {"+".join(s): v for s, v in answers.items()}}
    found |= {"subset_cells": counts, "subset_cost": costs}
    worst = min(answers, key=lambda s: answers[s]["macro_f1"] or 0.0)
    found["worst_subset"] = {"modalities": list(worst), "macro_f1": answers[worst]["macro_f1"]}
    if values and len(exam.modalities) <= 5:
        found["shapley"] = shapley(values, 1 / len(exam.cells.classes))
    return found


def _corrupt(exam: Examination, whole: Metrics) -> dict[str, Any]:
    table: dict[str, dict[str, list[float]]] = {}
    for m in exam.modalities:
        table[m] = {}
        for kind, corrupt in CORRUPTIONS.items():
            answers = [exam.ask(_spoilt(exam, m, corrupt, s / len(SEVERITIES))) for s in SEVERITIES]
            table[m][kind] = [exam.metrics(a.probabilities)["macro_f1"] or 0.0 for a in answers]
    base = whole["macro_f1"] or 0.0
    retained = {
        m: {kind: sum(c) / len(c) / base if base else 0.0 for kind, c in kinds.items()}
        for m, kinds in table.items()
    }
    return {"corruptions": table, "retained": retained}


def _spoilt(exam: Examination, modality: str, corrupt: Corruption, strength: float) -> Change:
    """One modality's images corrupted, where they are there."""
    column = exam.modalities.index(modality)

    def change(images: Images, present: Tensor | None, ids: Tensor) -> tuple[Images, Tensor | None]:
        spoilt = corrupt(images[modality], ids, strength, exam.seed)
        if present is not None:
            spoilt = torch.where(present[:, column, None, None, None], spoilt, images[modality])
        return {**images, modality: spoilt}, present

    return change


def _cross_slot(exam: Examination) -> dict[str, float]:
    """Per route of one modality: E KL(p(x) || p(x with every other modality permuted)); 0 if independent."""
    found = {}
    for route, out in exam.clean.outputs.items():
        others = tuple(m for m in exam.modalities if m != route)
        rows = exam.having((route,)) if route in exam.modalities else None
        if route in exam.modalities and others and (rows is None or rows.any()):
            after = exam.swapped(others).outputs[route].logits.softmax(1)
            apart = kl(out.logits.softmax(1), after)
            found[route] = float((apart if rows is None else apart[rows]).mean())
    return found


def _minus(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> float:
    return (a["macro_f1"] or 0.0) - (b["macro_f1"] or 0.0)
