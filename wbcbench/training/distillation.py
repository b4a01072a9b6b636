"""Applies distillers: for every student route, the loss terms from its teachers (or the student itself)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wbcbench.contracts import (
    Batch,
    Distiller,
    Fusion,
    Output,
    Outputs,
    PairShapes,
    Progress,
    Routing,
    TakesStep,
    TransformsLogits,
    masked_mean,
)
from wbcbench.contracts.needs import RouteTeachers
from wbcbench.training.strength import balancing_weight, gradient_ratios
from wbcbench.training.teachers import TeacherBank


def valid_rows(student: Output, teachers: Sequence[Output]) -> Tensor | None:
    """[B] bool: rows in which the student and at least one teacher were shown something; None: all."""
    masks = [t.shown for t in teachers if t.shown is not None]
    some = torch.stack(masks).any(0) if masks and len(masks) == len(teachers) else None
    if student.shown is None or some is None:
        return some if student.shown is None else student.shown
    return student.shown & some


def only_valid(out: Output, valid: Tensor | None) -> Output:
    """The output with invalid rows replaced by valid ones, in turn; unchanged if no row is valid."""
    if valid is None:
        return out
    place = torch.arange(len(valid), device=valid.device)
    first = torch.argsort(valid.logical_not().to(torch.int8), stable=True)  # the valid ones, then the others
    count = valid.sum()
    return out.select(torch.where(valid | (count == 0), place, first[place % count.clamp(min=1)]))


def mean_of_valid(terms: dict[str, Tensor], valid: Tensor | None) -> dict[str, Tensor]:
    """Terms [B], or scalars: the mean over valid rows only; 0 where there are none."""
    if valid is None:
        return terms
    some = valid.any()
    return {n: masked_mean(v, valid) if v.ndim else torch.where(some, v, 0.0) for n, v in terms.items()}


class Average(nn.Module):
    """An exponential moving average of a fusion's weights. It runs in training mode, as in the authors' code.

    Averaged weights do not work with the student's batch-norm statistics: on 40-pixel cells the average then
    predicted noise. So it normalises by each batch and keeps its own running statistics. Its state is saved in
    the checkpoint, so that a resumed run continues with the same average.
    """

    def __init__(self, fusion: Fusion, decay: float) -> None:
        """`decay`: share of the old average kept per step, in [0, 1)."""
        super().__init__()
        self.copy = copy.deepcopy(fusion).requires_grad_(False)
        self.decay = decay
        self.register_buffer("steps", torch.zeros(()))
        self.steps: Tensor

    @torch.no_grad()
    def update(self, fusion: Fusion) -> None:
        """One step. Early on the average forgets faster: min(decay, 1 - 1 / (steps + 1))."""
        self.steps += 1
        keep = (1 - 1 / (self.steps + 1)).clamp(max=self.decay)
        for mine, theirs in zip(self.copy.parameters(), fusion.parameters(), strict=True):
            mine.mul_(keep).add_(theirs * (1 - keep))

    @torch.no_grad()
    def forward(self, images: dict[str, Tensor], present: Tensor | None) -> Outputs:
        """The average's outputs for a batch."""
        self.copy.train()
        outputs: Outputs = self.copy(images, present)
        return outputs


AVERAGE, SELF = "average", "self"


@dataclass(frozen=True)
class Pairing:
    """One distiller (by index) for one student route, and the sources it learns from."""

    distiller: int
    route: str
    sources: tuple[str, ...]
    """Teacher indices (`"0"`), `"self"`, `"average"`, or other routes of the student."""

    @property
    def taught(self) -> bool:
        """Whether the sources are trained teachers, and so combined by the routing."""
        return self.sources[0].isdigit()


class Distillation(nn.Module):
    """All distillers of a trial: one per configured distiller, student route and source."""

    def __init__(
        self,
        build: Callable[[], list[Distiller]],
        routing: Callable[[], Routing],
        assigned: tuple[RouteTeachers, ...],
        routes: tuple[str, ...],
        balanced: tuple[int, ...] = (),
    ) -> None:
        """`build` makes a new instance of every configured distiller, `routing` a new routing; `assigned`
        pairs routes with teachers; `balanced` are the distillers whose weight `balance` sets."""
        super().__init__()
        first = build()
        self.names = [d.name for d in first]
        self.pairings = [p for j, d in enumerate(first) for p in _pairings(j, d, assigned, routes)]
        self.pairs = nn.ModuleDict()
        for p in self.pairings:
            for source in p.sources:
                self.pairs[_key(p.distiller, p.route, source)] = build()[p.distiller]
        self.routings = nn.ModuleDict({_key(p.distiller, p.route): routing() for p in self.pairings if p.taught})
        self.stepper = next((d for d in first if isinstance(d, TakesStep)), None)
        # Transforms act on other distillers of logits; alone they are losses of their own.
        targets = {j for j, d in enumerate(first) if _is_loss(d) and set(d.needs.student) == {"logits"}}
        self.carriers = [j for j, d in enumerate(first) if isinstance(d, TransformsLogits)] if targets else []
        self.targets = targets
        self.average: Average | None = None
        decays = [float(d.params.decay) for d in first if d.needs.taught_by == AVERAGE]
        self._decay = max(decays, default=None)
        self._defaults = [float(d.params.weight) for d in first]
        self.balanced = balanced
        if balanced:  # checkpointed, so that a resumed run continues with the same weights
            self.register_buffer("balanced_weights", torch.tensor(self._defaults))
            self.balanced_weights: Tensor

    def setup(self, fusion: Fusion, shapes: Callable[[str, str], PairShapes]) -> None:
        """Build every pair's adapters; `shapes(route, source)`."""
        for key, distiller in self.pairs.items():
            _, route, source = key.split("/")
            pair = shapes(route, source)
            assert isinstance(distiller, Distiller)
            distiller.setup(replace(pair, key=key))
        for p in self.pairings:
            if p.taught:
                self.routing_of(p).setup([shapes(p.route, s) for s in p.sources])
        if self._decay is not None:
            self.average = Average(fusion, self._decay)

    def routing_of(self, pairing: Pairing) -> Routing:
        """The routing of a pairing with trained teachers."""
        return self.routings[_key(pairing.distiller, pairing.route)]  # type: ignore[return-value]

    def of(self, pairing: Pairing, distiller: int | None = None) -> list[Distiller]:
        """The distillers of a pairing, one per source."""
        j = pairing.distiller if distiller is None else distiller
        return [self.pairs[_key(j, pairing.route, s)] for s in pairing.sources]  # type: ignore[misc]

    def terms(
        self, outputs: Outputs, bank: TeacherBank | None, batch: Batch, progress: Progress, averaged: Outputs
    ) -> dict[str, Tensor]:
        """Weighted scalar terms, named `distiller.term.route`. Losses in float32.

        Rows in which the student's route, or all of its sources, were shown nothing are left out.
        """
        answers = [] if bank is None else bank.answers(batch)
        terms: dict[str, Tensor] = {}
        for pairing in self.pairings:
            if pairing.distiller in self.carriers:
                continue
            student = outputs[pairing.route]
            distillers = self.of(pairing)
            teachers = [
                self._said(s, d, student, pairing.route, outputs, answers, averaged)
                for s, d in zip(pairing.sources, distillers, strict=True)
            ]
            if pairing.taught:
                found = self._taught(pairing, student, teachers, progress)
            else:
                each = [_own_terms(d, student, t, progress) for d, t in zip(distillers, teachers, strict=True)]
                found = {n: torch.stack([e[n].mean() for e in each]).mean() for n in each[0]}
            for term, value in found.items():
                name = f"{self.names[pairing.distiller]}.{term}.{pairing.route}"
                terms[name] = value.mean() * self.weight(pairing.distiller)
        return terms

    def weight(self, distiller: int) -> float | Tensor:
        """The factor on a distiller's loss; a scalar tensor if it is balanced."""
        return self.balanced_weights[distiller] if distiller in self.balanced else self._defaults[distiller]

    def weights(self) -> dict[str, float]:
        """Distiller -> the factor on its loss, of those that have one. Reads from the device."""
        return {self.names[j]: float(self.weight(j)) for j in sorted({p.distiller for p in self.pairings})
                if j not in self.carriers}  # fmt: skip

    def unbalanced(self) -> list[str]:
        """The distillers that were to be balanced but had no gradient, and so kept their default weight."""
        return [
            self.names[j] for j in self.balanced if math.isclose(self.weight(j), self._defaults[j], rel_tol=1e-6)
        ]

    def by_distiller(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Distiller -> its loss, from the result of `terms`."""
        found: dict[str, list[Tensor]] = {}
        for term, value in terms.items():
            owner = max((n for n in self.names if term.startswith(f"{n}.")), key=len)
            found.setdefault(owner, []).append(value)
        return {name: torch.stack(values).sum() for name, values in found.items()}

    def balance(self, fusion: Fusion, task: Tensor, evaluate: Callable[[], dict[str, Tensor]]) -> None:
        """Set the balanced weights, so that each gradient starts as a fixed share of that of the task loss.

        Args:
            fusion: the student.
            task: the weighted task loss, a scalar.
            evaluate: calls `terms` for the first batch, as if every schedule had ended. What that changes in the
                distillers' buffers and in random states is undone.
        """
        kept = [(b, b.clone()) for b in self.buffers()]
        places = list(self.balanced)
        with torch.no_grad():
            self.balanced_weights[places] = 1.0
        devices = [task.device] if task.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            losses = self.by_distiller(evaluate())
        mine = {self.names[j]: losses[self.names[j]] for j in places}
        ratios = gradient_ratios(fusion, task, mine)
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
            for j in places:
                self.balanced_weights[j] = balancing_weight(ratios[self.names[j]], self._defaults[j])

    def after_step(self, fusion: Fusion) -> None:
        """Update the average from the student."""
        if self.average is not None:
            self.average.update(fusion)

    def _taught(
        self, pairing: Pairing, student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        """Terms of trained teachers, combined by the routing; transforms are applied to the logits first."""
        rows = valid_rows(student, teachers)
        if not self.of(pairing)[0].needs.inputs:  # gradients in inputs are of the rows as they were read
            student, teachers = only_valid(student, rows), [only_valid(t, rows) for t in teachers]
        if pairing.distiller in self.targets:
            for j in self.carriers:
                carrier = self.of(pairing, j)[0]
                assert isinstance(carrier, TransformsLogits)
                student, teachers = carrier.transform(student), [carrier.transform(t) for t in teachers]
        found = self.routing_of(pairing).teach(self.of(pairing), student, teachers, progress)
        return mean_of_valid(found, rows)

    def _said(
        self,
        source: str,
        distiller: Distiller,
        student: Output,
        route: str,
        outputs: Outputs,
        answers: list[Output],
        averaged: Outputs,
    ) -> Output:
        """A source's output for the cells that the student's rows show."""
        if source.isdigit():
            teacher = answers[int(source)]
            if teacher.rows is None:  # of cells, not of the images of the rows
                teacher = teacher.select(student.rows)
            if teacher.inputs and "inputs" not in distiller.needs.teacher:
                teacher = teacher.detach()
        elif source == SELF:
            teacher = student.detach()
        elif source == AVERAGE:
            teacher = averaged[route].detach()
        else:
            teacher = same_cells(outputs[source].detach(), student)
        return replace(teacher, labels=student.labels, index=student.index)


def same_cells(peer: Output, student: Output) -> Output:
    """A peer's rows, re-ordered to show the cells that the student's rows show.

    If several rows of the peer show a cell, the last one is used; if none does, the student's own
    (detached) logits are used, so that nothing is learned from that row.
    """
    if peer.rows is None and student.rows is None:
        return peer
    count = len(student.logits)
    order = torch.arange(count, device=student.logits.device)
    shown = order if peer.rows is None else peer.rows
    wanted = order if student.rows is None else student.rows
    # amax, not a plain scatter, because its result does not depend on thread order
    place = torch.full((count,), -1, device=order.device).scatter_reduce(0, shown, order, "amax")
    at = place[wanted]
    found, own = at >= 0, student.detach()
    picked = peer.select(at.clamp_min(0))
    logits = torch.where(found[:, None], picked.logits, own.logits)
    return replace(picked, logits=logits, shown=None if picked.shown is None else picked.shown & found)


def _own_terms(distiller: Distiller, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
    """Terms from the student itself, its average, or another of its routes."""
    rows = valid_rows(student, [teacher])
    if distiller.needs.inputs:
        return mean_of_valid(distiller.terms(student, teacher, progress), rows)
    return mean_of_valid(distiller.terms(only_valid(student, rows), only_valid(teacher, rows), progress), rows)


def _pairings(
    j: int, distiller: Distiller, assigned: tuple[RouteTeachers, ...], routes: tuple[str, ...]
) -> list[Pairing]:
    if isinstance(distiller, TakesStep):
        return []
    by = distiller.needs.taught_by
    if by == "teacher":
        return [Pairing(j, one.route, tuple(str(i) for i in one.teachers)) for one in assigned]
    if by == "peers":
        return [Pairing(j, r, tuple(p for p in routes if p != r)) for r in routes]
    return [Pairing(j, r, (by,)) for r in routes]


def _is_loss(distiller: Distiller) -> bool:
    return not isinstance(distiller, TransformsLogits | TakesStep)


def _key(*parts: object) -> str:
    return "/".join(map(str, parts))
