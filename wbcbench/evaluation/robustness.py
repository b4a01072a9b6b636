"""A trained network on the test split with modalities missing, corrupt or swapped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from wbcbench.contracts import Fusion, over_rows
from wbcbench.data.views import ResidentCells, standardised
from wbcbench.evaluation.ablation import Change, Examination, Images, Subset, shapley, subsets
from wbcbench.evaluation.corrupters import Corrupter, standard
from wbcbench.evaluation.cost import macs_or_why, parameters

Metrics = dict[str, float | None]


@torch.no_grad()
def examine(
    fusion: Fusion,
    cells: ResidentCells,
    ids: Tensor,
    modalities: tuple[str, ...],
    seed: int = 0,
    corruptions: Sequence[Corrupter] | None = None,
) -> dict[str, Any]:
    """The full evaluation, as JSON; `seconds`, `passes` and `passes_saved` state what it cost.

    Without `corruptions`, those of every full evaluation.

    Keys: `missing` (`native`: missing modalities are left out; `impute`: their images are imputed and read);
    `subsets` (metrics per subset of modalities, over the `subset_cells` that have all of them) and `subset_cost`
    (parameters and MACs of what is deployed for it), omitted if the fusion refuses missing modalities;
    `worst_subset`, `shapley` (of balanced accuracy, on complete cells, for at most 5 modalities;
    guessing is 1 / K), `permutation_drop` (macro-F1 lost if one modality shows other cells), `corruptions`
    (macro-F1 per modality, kind and severity 1 to 5), `retained` (their mean as a share of the clean value),
    `diversity` of routes, `cross_slot` (how much a route depends on the other modalities' images, in nats).
    """
    started = time.perf_counter()
    exam = Examination(fusion, cells, ids, modalities, seed)
    whole = exam.metrics(exam.clean.probabilities)
    found: dict[str, Any] = {"seed": seed, "clean": whole, "missing": fusion.traits.missing}
    if len(modalities) > 1 and fusion.traits.missing != "refuse":
        found |= _missing(exam)
    swapped = {m: exam.metrics(exam.swapped((m,)).probabilities) for m in modalities}
    found["permutation_drop"] = {m: _minus(whole, values) for m, values in swapped.items()}
    found |= _corrupt(exam, whole, standard() if corruptions is None else corruptions)
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
        shown: name -> [n] bool, the cells that count; no entry: all. A pair is compared on the cells of both.

    Returns:
        Empty if no pair has a cell in common.
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
    """KL(p || q) per row, [n, K] twice -> [n], in nats; smaller probabilities count as 1e-12."""
    p, q = p.clamp_min(1e-12), q.clamp_min(1e-12)
    return (p * (p / q).log()).sum(1)


def subset_cost(fusion: Fusion, given: Subset, device: torch.device) -> dict[str, int | None]:
    """Parameters and MACs per cell of the network that is deployed if only these modalities are given.

    MACs are None where they cannot be counted.
    """
    task, module = fusion.task, fusion.deploy(given)
    blank = {m: x for m, x in task.blank(1, device).items() if m in given}
    return {"params": parameters(module), "macs": macs_or_why(module, blank)[0]}


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


@torch.no_grad()
def corrupt_more(
    fusion: Fusion,
    cells: ResidentCells,
    ids: Tensor,
    modalities: tuple[str, ...],
    corruptions: Sequence[Corrupter],
    seed: int = 0,
) -> dict[str, Any]:
    """`corruptions` and `retained` of `examine` for further corruptions."""
    exam = Examination(fusion, cells, ids, modalities, seed)
    return _corrupt(exam, exam.metrics(exam.clean.probabilities), corruptions)


def _corrupt(exam: Examination, whole: Metrics, corruptions: Sequence[Corrupter]) -> dict[str, Any]:
    table: dict[str, dict[str, list[float]]] = {}
    for m in exam.modalities:
        table[m] = {}
        modality = exam.cells.modalities[m]
        for c in (c for c in corruptions if c.fits(modality.median is not None)):
            answers = [exam.ask(_corrupted(exam, m, c, strength)) for strength in c.corruption.strengths]
            table[m][c.name] = [exam.metrics(a.probabilities)["macro_f1"] or 0.0 for a in answers]
    base = whole["macro_f1"] or 0.0
    retained = {
        m: {kind: sum(c) / len(c) / base if base else 0.0 for kind, c in kinds.items()}
        for m, kinds in table.items()
    }
    return {"corruptions": table, "retained": retained}


def _corrupted(exam: Examination, modality: str, corrupt: Corrupter, strength: float) -> Change:
    """One modality's images corrupted, where they are available."""
    column, own = exam.modalities.index(modality), exam.cells.modalities[modality]
    imputed = None if own.median is None else standardised(own.median, own.mean, own.std)

    def change(images: Images, present: Tensor | None, ids: Tensor) -> tuple[Images, Tensor | None]:
        corrupted = corrupt(images[modality], ids, strength, exam.seed, imputed)
        if present is not None:
            corrupted = torch.where(over_rows(present[:, column], corrupted), corrupted, images[modality])
        return {**images, modality: corrupted}, present

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
