"""Ablation of a trained fusion: images removed, swapped or changed; Shapley values of the modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations
from math import factorial

import torch
from torch import Tensor

from wbcbench.contracts import Fusion, Output, Outputs
from wbcbench.contracts.output import shown_in
from wbcbench.data.counter import permutation
from wbcbench.data.views import ResidentCells, laid_out
from wbcbench.evaluation.metrics import score
from wbcbench.evaluation.predict import eval_batch, joined

Subset = tuple[str, ...]


def subsets(modalities: Sequence[str]) -> list[Subset]:
    """All non-empty subsets, smaller ones first, each in the order of `modalities`; 2^M - 1 of them."""
    sizes = range(1, len(modalities) + 1)
    return list(chain.from_iterable(combinations(modalities, n) for n in sizes))


def shapley(values: Mapping[Subset, float], empty: float) -> dict[str, float]:
    """phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! [v(S + m) - v(S)].

    Args:
        values: v of every non-empty subset.
        empty: v of no modality at all: the score of guessing.

    Returns:
        One value per modality; they add up to v(all) - empty.

    Source: Shapley 1953; exact, 2^M terms.
    """
    modalities = max(values, key=len)
    count = len(modalities)
    worth = {frozenset(s): v for s, v in values.items()} | {frozenset(): empty}
    found = {}
    for m in modalities:
        others = [x for x in modalities if x != m]
        total = 0.0
        for s in [(), *subsets(others)]:
            weight = factorial(len(s)) * factorial(count - len(s) - 1) / factorial(count)
            total += weight * (worth[frozenset((*s, m))] - worth[frozenset(s)])
        found[m] = total
    return found


PROBE = 32
"""Number of cells on which to test whether the routes are separate."""
CLOSE = 1e-3
"""Larger differences are not due to rounding, even on accelerators in reduced precision."""

Images = dict[str, Tensor]
Change = Callable[[Images, Tensor | None, Tensor], tuple[Images, Tensor | None]]
"""(normalised images of a batch, `present` or None, its cell ids) -> images and `present`."""


@dataclass
class Answer:
    """The fusion's predictions for n cells."""

    probabilities: Tensor
    """[n, K]."""
    outputs: Outputs
    """Of every route, without maps."""
    present: Tensor | None
    """[n, M] bool: which modalities were available."""


class Examination:
    """The evaluation of one trained fusion on fixed cells. Counts its forward `passes`, and those it `saved`."""

    def __init__(
        self, fusion: Fusion, cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...], seed: int
    ) -> None:
        self.fusion, self.cells, self.ids, self.modalities, self.seed = fusion.eval(), cells, ids, modalities, seed
        self.labels = cells.labels[ids].cpu().numpy()
        self.passes = self.saved = 0
        self.plain = True  # no output is of a subclass, whose extra attributes `predict` might read

    @cached_property
    def clean(self) -> Answer:
        """The predictions for unchanged images."""
        return self.ask(lambda images, present, _: (images, present))

    def ask(self, change: Change) -> Answer:
        """The predictions for changed images; takes one pass."""
        self.passes += 1
        return self._answer(self.ids, change)

    def kept(self, subset: Subset) -> Answer:
        """The predictions with only these modalities available."""
        whole = set(subset) == set(self.modalities)
        if not whole and not self.separate:
            return self.ask(self._keep(subset))
        self.saved += 1
        if whole:
            return self.clean
        present = self._here(self.clean.present, subset, len(self.ids))
        return Answer(self.fusion.predict(self.clean.outputs, present).float(), self.clean.outputs, present)

    def swapped(self, which: tuple[str, ...]) -> Answer:
        """The predictions with other cells of the split in these modalities, by a seeded permutation.

        What the other cells lack is missing.
        """
        to = permutation(self.ids, self.seed, "permute", "+".join(which))
        if not self.separate:
            other = torch.zeros(int(self.ids.max()) + 1, dtype=torch.int64, device=self.ids.device)
            other[self.ids] = to
            return self.ask(lambda images, present, ids: self._shown_instead(which, images, present, other[ids]))
        self.saved += 1
        order = torch.argsort(self.ids)
        rows = order[torch.searchsorted(self.ids[order], to)]  # ids[rows] is `to`
        routes = self.clean.outputs.items()
        outputs = {r: out.select(rows if min(out.reads) in which else None) for r, out in routes}
        _, present = self._shown_instead(which, {}, self.clean.present, to)
        return Answer(self.fusion.predict(outputs, present).float(), outputs, present)

    def having(self, subset: Subset) -> Tensor | None:
        """[n] bool: the cells that have all these modalities; None: all cells do."""
        if self.clean.present is None:
            return None
        return torch.stack([self.clean.present[:, self.modalities.index(m)] for m in subset]).all(0)

    def metrics(self, probabilities: Tensor, rows: Tensor | None = None) -> dict[str, float | None]:
        """Metrics of all cells, or of those in `rows` [n] bool, of which there must be at least one."""
        keep = slice(None) if rows is None else rows.cpu().numpy()
        return score(probabilities.cpu().numpy()[keep], self.labels[keep], self.cells.classes).summary

    @cached_property
    def separate(self) -> bool:
        """Whether every route depends on one modality's images only, and `predict` uses the available ones.

        If so, results for subsets follow from the clean outputs without another pass. `Output.reads` cannot show
        this: heads of a shared trunk read one modality each, but depend on all of them. So it is tested on a few
        complete cells, for every subset.
        """
        routes = self.clean.outputs.values()
        if self.fusion.traits.missing == "refuse" or not self.plain or any(len(out.reads) != 1 for out in routes):
            return False
        having = self.having(self.modalities)
        every = torch.arange(len(self.ids), device=self.ids.device)
        rows = (every if having is None else every[having])[:PROBE]
        few = {r: out.select(rows) for r, out in self.clean.outputs.items()}
        for subset in subsets(self.modalities)[:-1] if len(rows) else []:
            actual = self._answer(self.ids[rows], self._keep(subset))
            derived = self.fusion.predict(few, actual.present)
            mine = [r for r, out in few.items() if out.reads <= set(subset)]
            pairs = [(derived, actual.probabilities), *((few[r].logits, actual.outputs[r].logits) for r in mine)]
            if not all(torch.allclose(a, b, rtol=CLOSE, atol=CLOSE) for a, b in pairs):
                return False
        return len(rows) > 0

    @torch.no_grad()
    def _answer(self, cells: Tensor, change: Change) -> Answer:
        probs: list[Tensor] = []
        parts: list[Outputs] = []
        there: list[Tensor] = []
        for chunk in torch.split(cells, eval_batch(cells.device)):
            plain = {m: self.cells.images(chunk, m) for m in self.modalities}
            images, present = change(plain, self.cells.present(chunk, self.modalities), chunk)
            images = {m: laid_out(x) for m, x in images.items()}
            outputs = {r: o.float() for r, o in self.fusion(images, present).items()}
            for out in outputs.values():
                out.shown = shown_in(present, out.reads, self.modalities)
                self.plain = self.plain and type(out) is Output
            probs.append(self.fusion.predict(outputs, present).float())
            parts.append(outputs)
            there += [] if present is None else [present]
        routes = {r: joined([p[r] for p in parts]) for r in parts[0]}
        return Answer(torch.cat(probs), routes, torch.cat(there) if there else None)

    def _keep(self, subset: Subset) -> Change:
        def change(images: Images, present: Tensor | None, ids: Tensor) -> tuple[Images, Tensor]:
            # imputed by the training mean, which is zero after normalisation
            images = {m: x if m in subset else torch.zeros_like(x) for m, x in images.items()}
            return images, self._here(present, subset, len(ids))

        return change

    def _here(self, present: Tensor | None, subset: Subset, rows: int) -> Tensor:
        here = torch.tensor([m in subset for m in self.modalities], device=self.ids.device).expand(rows, -1)
        return here if present is None else present & here

    def _shown_instead(
        self, which: tuple[str, ...], images: Images, present: Tensor | None, ids: Tensor
    ) -> tuple[Images, Tensor | None]:
        """`images` with those of cells `ids` [B] in the modalities `which`, and their availability."""
        images = {m: self.cells.images(ids, m) if m in which else x for m, x in images.items()}
        theirs = self.cells.present(ids, self.modalities)
        if present is None or theirs is None:
            return images, present
        mine = torch.tensor([m in which for m in self.modalities], device=ids.device)
        return images, torch.where(mine, theirs, present)
