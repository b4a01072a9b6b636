"""The contract of distillers as tests, and the one door for golden values: `evaluate_distiller`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ValidationError
from torch import Tensor

from wbcbench.contracts import Distiller, Output, PairShapes, Progress
from wbcbench.contracts.params import describe_params
from wbcbench.testing.components import component_class

START = Progress(epoch=0, epochs=1, step=0, steps=1)


def evaluate_distiller(
    name: Any,
    student: Output | Mapping[str, Any],
    teacher: Output | Mapping[str, Any],
    labels: Tensor | None = None,
    progress: Progress = START,
    **params: Any,
) -> Tensor:
    """The summed, unweighted loss of a distiller on given tensors, differentiable in the student's.

    Args:
        name: a registered name, or a class.
        student, teacher: an `Output`, or a mapping with `logits` [B, K], `embedding` [B, D], `maps` (a
            list of [B, C, H, W]) and `head` (a callable, or weights [K, D]); what is not given is left out.
        labels: [B] int64.
        progress: how far training is, for distillers with a schedule.
        params: the distiller's parameters.
    """
    cls = component_class("distiller", name)
    s, t = _output(student, labels), _output(teacher, labels)
    distiller: Distiller = cls(cls.Params(**params))
    distiller.to(s.logits.dtype)
    distiller.setup(shapes_of(s, t))
    distiller.to(s.logits.dtype)
    terms = distiller.terms(s, t, progress)
    return torch.stack([v.mean() for v in terms.values()]).sum() if terms else s.logits.sum() * 0


def shapes_of(student: Output, teacher: Output) -> PairShapes:
    """The shapes of a pair of outputs."""

    def width(x: Tensor | None) -> int | None:
        return None if x is None else int(x.shape[1])

    def stages(maps: tuple[Tensor, ...]) -> tuple[tuple[int, int, int], ...]:
        return tuple((int(m.shape[1]), int(m.shape[2]), int(m.shape[3])) for m in maps)

    rows, classes = student.logits.shape
    return PairShapes(
        n_classes=int(classes),
        n_cells=int(rows),
        max_index=int(rows) - 1,
        student_embedding=width(student.embedding),
        teacher_embedding=width(teacher.embedding),
        student_maps=stages(student.maps),
        teacher_maps=stages(teacher.maps),
        cell_labels=student.labels if student.labels is not None else torch.zeros(rows, dtype=torch.int64),
        key="route/0",
    )


def _output(value: Output | Mapping[str, Any], labels: Tensor | None) -> Output:
    if isinstance(value, Output):
        out = value
    else:
        maps = tuple(value.get("maps") or ())
        given = [x for x in (value.get("logits"), value.get("embedding"), *maps) if x is not None]
        logits = value.get("logits")
        if logits is None:  # a loss on embeddings or maps alone still gets logits of the right batch
            logits = torch.zeros(len(given[0]), 2, dtype=given[0].dtype)
        head = value.get("head")
        if isinstance(head, Tensor):  # a classifier given by its weights [K, D]
            weights = head
            head = partial(F.linear, weight=weights)
        out = Output(logits=logits, embedding=value.get("embedding"), maps=maps, head=head)
    if labels is not None:
        out.labels = labels
    if out.index is None:
        out.index = torch.arange(len(out.logits))
    return out


class DistillerContract:
    """What every distiller must hold. `distiller` is a registered name or a class."""

    distiller: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    read_by_the_core: ClassVar[tuple[str, ...]] = ("weight", "decay", "delta")
    """Parameters that act outside of `terms`: on the sum of losses, the average, the optimiser's step."""

    @property
    def cls(self) -> type[Distiller]:
        return component_class("distiller", self.distiller)  # type: ignore[no-any-return]

    def outputs(
        self, rows: int = 6, classes: int = 4, dtype: torch.dtype = torch.float32
    ) -> tuple[Output, Output]:
        """A student that wants gradients, and a teacher, with everything a distiller may read."""
        g = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(dtype)

        def side(grad: bool) -> Output:
            maps = (noise(rows, 4, 8, 8), noise(rows, 6, 4, 4))
            out = Output(noise(rows, classes), noise(rows, 6), maps)
            out.head = partial(F.linear, weight=noise(classes, 6))
            for x in (out.logits, out.embedding, *out.maps):
                assert x is not None
                x.requires_grad_(grad)
            out.labels, out.index = torch.arange(rows) % classes, torch.arange(rows)
            return out

        return side(True), side(False)

    def build(self, student: Output, teacher: Output, **changed: Any) -> Distiller:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            distiller = self.cls(self.cls.Params(**{**self.params, **changed}))
            distiller.setup(shapes_of(student, teacher))
        return distiller

    def test_terms_are_named_finite_and_per_sample_or_scalar(self) -> None:
        student, teacher = self.outputs()
        for name, value in self.build(student, teacher).terms(student, teacher, START).items():
            assert isinstance(name, str)
            assert value.ndim == 0 or value.shape == (6,), f"{name}: {tuple(value.shape)}"
            assert torch.isfinite(value).all(), name

    def test_no_gradient_reaches_the_teacher(self) -> None:
        student, teacher = self.outputs()
        for x in (teacher.logits, teacher.embedding, *teacher.maps):
            assert x is not None
            x.requires_grad_(True)
        cut = teacher.detach()
        cut.labels, cut.index = teacher.labels, teacher.index
        terms = self.build(student, teacher).terms(student, cut, START)
        if terms:
            total = torch.stack([v.mean() for v in terms.values()]).sum()
            total.backward()  # type: ignore[no-untyped-call]
            assert teacher.logits.grad is None

    def test_only_what_is_needed_is_read(self) -> None:
        student, teacher = self.outputs()
        distiller = self.build(student, teacher)
        for out, taps in ((student, self.cls.needs.student), (teacher, self.cls.needs.teacher)):
            if "embedding" not in taps:
                out.embedding = None
            if "maps" not in taps:
                out.maps = ()
            if not self.cls.needs.labels:
                out.labels = None
            if not self.cls.needs.index:
                out.index = None
        distiller.terms(student, teacher, START)

    def test_the_smallest_batch_and_class_count_it_admits(self) -> None:
        needs = self.cls.needs
        student, teacher = self.outputs(rows=needs.min_batch, classes=needs.min_classes)
        for name, value in self.build(student, teacher).terms(student, teacher, START).items():
            assert torch.isfinite(value).all(), name

    def test_state_is_complete(self) -> None:
        student, teacher = self.outputs()
        first, second = self.build(student, teacher), self.build(student, teacher)
        names = {n for n, _ in first.named_parameters()}
        assert names <= set(first.state_dict())
        assert bool(names) == self.cls.needs.trainable
        for parameter in first.parameters():
            parameter.data.add_(0.1)
        second.load_state_dict(first.state_dict())
        a, b = (d.terms(student, teacher, START) for d in (first, second))
        assert all(torch.equal(a[k], b[k]) for k in a)

    def test_a_term_has_a_gradient(self) -> None:
        student, teacher = self.outputs()
        terms = self.build(student, teacher).terms(student, teacher, START)
        for name, value in terms.items():
            assert value.requires_grad, f"{name} is cut from the graph"

    def test_finite_in_low_precision_and_for_extreme_logits(self) -> None:
        student, teacher = self.outputs()
        for out in (student, teacher):
            out.logits = (out.logits.bfloat16().float() * 1e4).detach().requires_grad_(out is student)
            assert out.embedding is not None
            out.embedding = out.embedding.bfloat16().float().detach().requires_grad_(out is student)
        terms = self.build(student, teacher).terms(student, teacher, START)
        for name, value in terms.items():
            assert torch.isfinite(value).all(), name
        if terms:
            torch.stack([v.mean() for v in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
            assert student.embedding is not None
            for x in (student.logits, student.embedding, *student.maps):
                assert x.grad is None or torch.isfinite(x.grad).all()

    def test_every_parameter_has_an_effect(self) -> None:
        student, teacher = self.outputs()
        plain = self.trace(self.build(student, teacher), student, teacher)
        for name, values in alternatives(self.cls.Params, self.params).items():
            if name in self.read_by_the_core:
                continue
            for value in values:
                changed = self.trace(self.build(student, teacher, **{name: value}), student, teacher)
                if changed.shape != plain.shape or not torch.allclose(changed, plain, rtol=1e-6, atol=1e-9):
                    break
            else:
                raise AssertionError(f"{name} set to any of {values} changes nothing: no loss, no gradient")

    def trace(self, distiller: Distiller, student: Output, teacher: Output) -> Tensor:
        """Losses and gradients over training; the first epoch twice (banks remember the first time)."""
        found = []
        for epoch in (0, 0, 5, 50):
            terms = distiller.terms(student, teacher, Progress(epoch, 100, 0, 1))
            for value in terms.values():
                found.append(value.mean().detach()[None])
            if terms:
                total = torch.stack([v.mean() for v in terms.values()]).sum()
                wanted = [x for x in (student.logits, student.embedding, *student.maps) if x is not None]
                wanted += [p for p in distiller.parameters() if p.requires_grad]
                gradients = torch.autograd.grad(total, wanted, allow_unused=True)
                found += [g.abs().sum()[None] for g in gradients if g is not None]
        return torch.cat(found) if found else torch.zeros(0)


def alternatives(params: type[BaseModel], given: dict[str, Any]) -> dict[str, list[Any]]:
    """For every parameter, valid values other than its default, from its search space or its type."""
    found: dict[str, list[Any]] = {}
    for row in describe_params(params):
        name, default, search = row["name"], given.get(row["name"], row["default"]), row["search"]
        options: list[Any] = []
        if search and "choices" in search:
            options = list(search["choices"])
        elif search:
            low, high = search["low"], search["high"]
            options = [(low * high) ** 0.5 if search["log"] else (low + high) / 2, low, high]
        if isinstance(default, bool):
            options = [not default]
        elif isinstance(default, int | float):
            options = [type(default)(v) for v in [*options, default * 2 + 1, default / 2, 2, 1]]
        found[name] = [v for v in options if v != default and _valid(params, {**given, name: v})]
    return {name: values for name, values in found.items() if values}


def _valid(params: type[BaseModel], values: dict[str, Any]) -> bool:
    try:
        params(**values)
    except ValidationError:
        return False
    return True
