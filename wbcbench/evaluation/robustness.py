"""What a trained network does when modalities are missing, corrupt or swapped, on the test split.

Nothing here chooses anything: it is read after training, from a finished record, and kept beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from wbcbench.contracts import Fusion
from wbcbench.data.counter import permutation
from wbcbench.data.resident import ResidentCells
from wbcbench.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from wbcbench.evaluation.metrics import score
from wbcbench.evaluation.shapley import Subset, shapley, subsets

BATCH = 256
Images = dict[str, Tensor]
Logits = dict[str, Tensor]
"""Route -> [n, K]."""
Change = Callable[[Images, Tensor], Images]
"""(normalised images of a batch, its cell ids) -> images."""


class Examination:
    """One trained fusion on fixed cells; each question is one pass."""

    def __init__(
        self, fusion: Fusion, cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...], seed: int
    ) -> None:
        self.fusion, self.cells, self.ids, self.modalities, self.seed = fusion.eval(), cells, ids, modalities, seed
        self.labels = cells.labels[ids].cpu().numpy()
        self.passes = 0

    @torch.no_grad()
    def ask(self, change: Change = lambda images, _: images, keep: Subset | None = None) -> tuple[Tensor, Logits]:
        """Probabilities [n, K] and every route's logits, with images changed and only modalities `keep` there."""
        self.passes += 1
        probs, parts = [], []
        for chunk in torch.split(self.ids, BATCH):
            images = change({m: self.cells.images(chunk, m) for m in self.modalities}, chunk)
            present = self.cells.present(chunk, self.modalities)
            if keep is not None:
                here = torch.tensor([m in keep for m in self.modalities], device=chunk.device)
                present = here.expand(len(chunk), -1) if present is None else present & here
                # the one imputer: the training mean, which is zero after normalisation
                images = {m: x if m in keep else torch.zeros_like(x) for m, x in images.items()}
            images = {m: x.contiguous(memory_format=torch.channels_last) for m, x in images.items()}
            outputs = {r: o.float() for r, o in self.fusion(images, present).items()}
            probs.append(self.fusion.predict(outputs, present).float())
            parts.append({r: o.logits for r, o in outputs.items()})
        joined = {r: torch.cat([p[r] for p in parts]) for r in parts[0]}
        return torch.cat(probs), joined

    def metrics(self, probabilities: Tensor) -> dict[str, float | None]:
        return score(probabilities.cpu().numpy(), self.labels, self.cells.classes).summary


def examine(
    fusion: Fusion, cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...], seed: int = 0
) -> dict[str, Any]:
    """All of it as a JSON-able mapping; `seconds` and `passes` say what it cost.

    Keys: `subsets` (metrics per subset of modalities; absent where the fusion refuses missing ones),
    `worst_subset`, `shapley` (of balanced accuracy, for at most 5 modalities; guessing is 1 / K),
    `permutation_drop` (macro-F1 lost when one modality shows other cells), `corruptions` (macro-F1 per modality,
    kind and severity 1 to 5), `retained` (their mean as a share of the clean value), `diversity` of routes,
    `cross_slot` (how much a route minds what the other modalities show, in nats).
    """
    started = time.perf_counter()
    exam = Examination(fusion, cells, ids, modalities, seed)
    clean, routes = exam.ask()
    whole = exam.metrics(clean)
    found: dict[str, Any] = {"seed": seed, "clean": whole}
    if len(modalities) > 1 and fusion.missing != "refuse":
        found |= _missing(exam)
    swapped = {m: exam.ask(_permute(exam, (m,))) for m in modalities}
    found["permutation_drop"] = {m: _minus(whole, exam.metrics(p)) for m, (p, _) in swapped.items()}
    found |= _corrupt(exam, whole)
    if len(routes) > 1:
        found["diversity"] = diversity({r: z.softmax(1) for r, z in routes.items()})
        found["cross_slot"] = _cross_slot(exam, routes)
    return found | {"passes": exam.passes, "seconds": round(time.perf_counter() - started, 2)}


def diversity(routes: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean over pairs of routes: share of cells decided differently, and symmetrised KL in nats.

    `routes`: name -> probabilities [n, K], two or more.
    """
    pairs = list(combinations(routes.values(), 2))
    disagree = [(a.argmax(1) != b.argmax(1)).float().mean() for a, b in pairs]
    apart = [(kl(a, b).mean() + kl(b, a).mean()) / 2 for a, b in pairs]
    return {"disagreement": float(torch.stack(disagree).mean()), "kl": float(torch.stack(apart).mean())}


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) per row, [n, K] twice -> [n], in nats; probabilities below 1e-12 count as that."""
    p, q = p.clamp_min(1e-12), q.clamp_min(1e-12)
    return (p * (p / q).log()).sum(1)


def _missing(exam: Examination) -> dict[str, Any]:
    answers: dict[Subset, dict[str, float | None]] = {}
    for subset in subsets(exam.modalities):
        answers[subset] = exam.metrics(exam.ask(keep=subset)[0])
    found: dict[str, Any] = {"subsets": {"+".join(s): v for s, v in answers.items()}}
    worst = min(answers, key=lambda s: answers[s]["macro_f1"] or 0.0)
    found["worst_subset"] = {"modalities": list(worst), "macro_f1": answers[worst]["macro_f1"]}
    if len(exam.modalities) <= 5:
        values = {s: v["balanced_accuracy"] or 0.0 for s, v in answers.items()}
        found["shapley"] = shapley(values, 1 / len(exam.cells.classes))
    return found


def _corrupt(exam: Examination, whole: Mapping[str, float | None]) -> dict[str, Any]:
    table: dict[str, dict[str, list[float]]] = {}
    for m in exam.modalities:
        table[m] = {}
        for kind, corrupt in CORRUPTIONS.items():
            curve = []
            for severity in SEVERITIES:

                def change(images: Images, ids: Tensor, m: str = m, s: int = severity, c: Any = corrupt) -> Images:
                    return {**images, m: c(images[m], ids, s / len(SEVERITIES), exam.seed)}

                curve.append(exam.metrics(exam.ask(change)[0])["macro_f1"] or 0.0)
            table[m][kind] = curve
    base = whole["macro_f1"] or 0.0
    retained = {
        m: {kind: sum(c) / len(c) / base if base else 0.0 for kind, c in kinds.items()}
        for m, kinds in table.items()
    }
    return {"corruptions": table, "retained": retained}


def _permute(exam: Examination, which: tuple[str, ...]) -> Change:
    """Show, in the given modalities, another cell of the same split: a seeded permutation."""
    to = permutation(exam.ids, exam.seed, "permute", "+".join(which))
    other = torch.zeros(int(exam.ids.max()) + 1, dtype=torch.int64, device=exam.ids.device)
    other[exam.ids] = to
    return lambda images, ids: {**images, **{m: exam.cells.images(other[ids], m) for m in which}}


def _cross_slot(exam: Examination, routes: Logits) -> dict[str, float]:
    """Per route of one modality: E KL(p(x) || p(x with every other modality permuted)); 0 if independent."""
    found = {}
    for route in routes:
        others = tuple(m for m in exam.modalities if m != route)
        if route in exam.modalities and others:
            _, changed = exam.ask(_permute(exam, others))
            before, after = routes[route].softmax(1), changed[route].softmax(1)
            found[route] = float(kl(before, after).mean())
    return found


def _minus(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> float:
    return (a["macro_f1"] or 0.0) - (b["macro_f1"] or 0.0)
