"""The contract of distillers as tests: subclass `DistillerContract`, set `distiller`, run pytest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Distiller, Output, Parameters, Progress, Routing, TakesStep, TransformsLogits
from wbcbench.testing.components import component_class, distiller_types
from wbcbench.testing.effects import check_effects, distillation_trace, read_images
from wbcbench.testing.losses import START, evaluate_distiller, shapes_of
from wbcbench.testing.promise import BrokenPromise, check_registered, made, no_reads, promise


class Matched(Routing):
    """The default routing."""

    name = "toy_matched"


EPOCHS = (Progress(0, 100, 0, 1), Progress(5, 100, 0, 1), Progress(50, 100, 0, 1))
"""A warm-up may make the loss zero at first."""


class DistillerContract:
    """What every distiller must satisfy. `distiller`: a registered name, a class, or the path of a plugin file."""

    distiller: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}

    @property
    def cls(self) -> type[Distiller]:
        return component_class("distiller", self.distiller)  # type: ignore[no-any-return]

    def outputs(
        self, rows: int = 6, classes: int = 4, dtype: torch.dtype = torch.float32
    ) -> tuple[Output, Output]:
        """A student that requires gradients, and a teacher, with everything a distiller may read."""
        g = torch.Generator().manual_seed(0)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=g).to(dtype)

        def side(grad: bool) -> Output:
            maps = (noise(rows, 4, 8, 8), noise(rows, 6, 4, 4))
            out = Output(noise(rows, classes), noise(rows, 6), maps)
            out.head = partial(F.linear, weight=noise(classes, 6))
            if self.cls.needs.inputs:
                out = read_images(out, noise(rows, 2, 4, 4), noise(32, classes))
            for x in _tensors(out):
                if x.is_leaf and not x.requires_grad:
                    x.requires_grad_(grad)
            out.labels, out.index = torch.arange(rows) % classes, torch.arange(rows)
            return out

        return side(True), side(False)

    def build(self, student: Output, teacher: Output, **changed: Any) -> Distiller:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            distiller: Distiller = made(self.cls, "params", self.cls.Params(**{**self.params, **changed}))
            distiller.setup(shapes_of(student, teacher))
        return distiller

    def test_types(self) -> None:
        """Its methods return what they should: `terms` a dict name -> loss."""
        student, teacher = self.outputs()
        distiller_types(lambda: self.build(student, teacher), student, teacher)

    def test_terms_are_named_finite_and_per_sample_or_scalar(self) -> None:
        """Each loss has a name, is finite, and is one number per cell or a scalar."""
        student, teacher = self.outputs()
        for name, value in self.build(student, teacher).terms(student, teacher, START).items():
            promise(isinstance(name, str), f"A term is called {name!r}.", "Name terms by strings.", "terms")
            promise(
                value.shape == (6,) or (value.ndim == 0 and not self.cls.needs.inputs),
                f"Term '{name}' has the shape {list(value.shape)} for 6 cells.",
                "Return [B], one loss per cell (sum over classes or features), or, unless it reads inputs, a "
                "scalar.",
                "terms",
            )
            promise(
                torch.isfinite(value).all(),
                f"Term '{name}' is not finite on ordinary inputs.",
                "Look for a log of zero or a division by zero; use log_softmax, and clamp.",
                "terms",
            )

    def test_no_gradient_reaches_the_teacher(self) -> None:
        """The loss does not train the teacher."""
        student, teacher = self.outputs()
        if self.cls.needs.inputs:  # then the core cannot detach it
            found = _sum(self.build(student, teacher).terms(student, teacher, START))
            promise(
                torch.autograd.grad(found, teacher.logits, allow_unused=True)[0] is None,
                "The teacher's logits got a gradient.",
                "Detach the teacher's gradient in the images, and its logits.",
                "terms",
            )
            return
        for x in _tensors(teacher):
            x.requires_grad_(True)
        cut = teacher.detach()
        cut.labels, cut.index = teacher.labels, teacher.index
        terms = self.build(student, teacher).terms(student, cut, START)
        if terms:
            _sum(terms).backward()  # type: ignore[no-untyped-call]
            promise(
                teacher.logits.grad is None,
                "The teacher's logits got a gradient.",
                "Read the teacher only through the `teacher` that `terms` is given.",
                "terms",
            )

    def test_only_what_is_needed_is_read(self) -> None:
        """It reads no more than `needs` declares."""
        student, teacher = self.outputs()
        distiller = self.build(student, teacher)
        for out, taps in ((student, self.cls.needs.student), (teacher, self.cls.needs.teacher)):
            if "embedding" not in taps:
                out.embedding = None
            if "maps" not in taps:
                out.maps = ()
            if "inputs" not in taps:
                out.inputs = {}
            if not self.cls.needs.labels:
                out.labels = None
            if not self.cls.needs.index:
                out.index = None
        try:
            distiller.terms(student, teacher, START)
        except Exception as error:
            raise BrokenPromise(
                f"Given only what `needs` declares ({self.cls.needs}), `terms` raised "
                f"{type(error).__name__}: {error}.",
                "Declare what it reads: needs = Needs(student=(...), teacher=(...), labels=..., index=...).",
                "terms",
            ) from error

    def test_the_smallest_batch_and_class_count_it_admits(self) -> None:
        """It works on the smallest batch and the fewest classes that `needs` allows."""
        needs = self.cls.needs
        student, teacher = self.outputs(rows=needs.min_batch, classes=needs.min_classes)
        for name, value in self.build(student, teacher).terms(student, teacher, START).items():
            promise(
                torch.isfinite(value).all(),
                f"Term '{name}' is not finite for {needs.min_batch} cells and {needs.min_classes} classes.",
                "Handle that case, or declare min_batch or min_classes in `needs`.",
                "terms",
            )

    def test_state_is_complete(self) -> None:
        """It resumes exactly: all state is in the checkpoint."""
        student, teacher = self.outputs()
        first, second = self.build(student, teacher), self.build(student, teacher)
        names = {n for n, _ in first.named_parameters()}
        lost = names - set(first.state_dict())
        promise(not lost, f"`state_dict` lacks {sorted(lost)}.", "Do not override `state_dict`.")
        promise(
            bool(names) == self.cls.needs.trainable,
            f"It has {len(names)} parameters of its own, but `needs` has trainable={self.cls.needs.trainable}.",
            f"Declare needs = Needs(..., trainable={bool(names)}), or build parameters in `setup`.",
            "setup",
        )
        for parameter in first.parameters():
            parameter.data.add_(0.1)
        for step in range(3):  # what is remembered from step to step is state too
            first.terms(student, teacher, Progress(step, 100, 0, 1))
        second.load_state_dict(first.state_dict())
        a, b = (d.terms(student, teacher, Progress(3, 100, 0, 1)) for d in (first, second))
        promise(
            a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a),
            "After three steps, saved and loaded into a new instance, the next loss differs.",
            "Keep what is remembered between steps (averages, banks, counts) in a buffer "
            "(`self.register_buffer(name, tensor)`), not in a plain attribute: attributes are not saved.",
            "setup",
        )

    def test_a_term_has_a_gradient(self) -> None:
        """The student learns from every loss."""
        student, teacher = self.outputs()
        terms = self.build(student, teacher).terms(student, teacher, START)
        advice = "Look for .detach(), torch.no_grad(), .data, argmax or numpy on the student's side of the loss."
        for name, value in terms.items():
            promise(value.requires_grad, f"Term '{name}' is cut from the graph: no gradient.", advice, "terms")
        promise(
            not terms or any(self._student_gradient(progress) for progress in EPOCHS),
            "The loss has no gradient in any output of the student, which learns nothing from it.",
            advice,
            "terms",
        )

    def test_everything_that_is_trained_is_registered(self) -> None:
        """Every tensor that the loss trains is a registered parameter."""
        student, teacher = self.outputs()
        distiller = self.build(student, teacher)
        terms = distiller.terms(student, teacher, START)
        if terms:
            check_registered(_sum(terms), distiller, _tensors(student), "setup")

    def test_the_step_s_random_numbers_decide_all(self) -> None:
        """Equal inputs and an equal draw give equal losses."""
        student, teacher = self.outputs()
        a, b = (self.build(student, teacher).terms(student, teacher, START) for _ in range(2))
        promise(
            a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a),
            "Two calls on the same inputs in the same step gave different losses.",
            "Take random numbers from `progress.draw` and declare needs = Needs(..., draws=True); no torch.rand.",
            "terms",
        )

    def test_nothing_is_read_back_from_the_device(self) -> None:
        """A training step never waits for the device."""
        student, teacher = self.outputs()
        distiller = self.build(student, teacher)
        for progress in EPOCHS:
            with no_reads("terms"):
                distiller.terms(student, teacher, progress)

    def test_finite_in_low_precision_and_for_extreme_logits(self) -> None:
        """Losses and gradients stay finite for very confident predictions."""
        student, teacher = self.outputs()
        for out in (student, teacher):
            if out.inputs:
                out.logits = out.logits * 1e4
            else:
                out.logits = (out.logits.bfloat16().float() * 1e4).detach().requires_grad_(out is student)
            assert out.embedding is not None
            out.embedding = out.embedding.bfloat16().float().detach().requires_grad_(out is student)
        terms = self.build(student, teacher).terms(student, teacher, START)
        advice = "Use log_softmax and log-space differences; clamp what goes into log, sqrt and divisions."
        for name, value in terms.items():
            promise(
                torch.isfinite(value).all(),
                f"Term '{name}' is not finite for logits of size 10,000.",
                advice,
                "terms",
            )
        if terms and _sum(terms).requires_grad:
            _sum(terms).backward()  # type: ignore[no-untyped-call]
            for x in (x for x in _tensors(student) if x.is_leaf):
                promise(
                    x.grad is None or torch.isfinite(x.grad).all(),
                    "The gradient is not finite for logits of size 10,000.",
                    advice,
                    "terms",
                )

    def test_every_parameter_has_an_effect(self) -> None:
        """Every parameter changes the loss, its gradient or the optimiser's step, where its `when` holds."""
        if self.cls.name == "none":
            return
        logits = component_class("distiller", "logits")
        transforms = issubclass(self.cls, TransformsLogits)

        def trace(params: Mapping[str, Any], adds_loss: bool = True) -> Tensor:
            student, teacher = self.outputs()
            # A transform, and one that takes the step, acts on another's loss.
            others = [logits] if issubclass(self.cls, TakesStep) or not adds_loss else []
            return distillation_trace(
                lambda: [self.cls(self.cls.Params(**params)), *(c(c.Params()) for c in others)],
                lambda: Matched(Parameters()),
                student,
                [teacher],
                shapes_of,
            )

        exempt = {"weight"} if issubclass(self.cls, TakesStep) else set()
        facts = {"adds_loss": (True, False)} if transforms else {}
        check_effects(self.cls.Params, self.params, trace, "terms", facts, exempt)

    def _student_gradient(self, progress: Progress) -> bool:
        student, teacher = self.outputs()
        total = _sum(self.build(student, teacher).terms(student, teacher, progress))
        gradients = torch.autograd.grad(total, [*_tensors(student)], allow_unused=True)
        return any(g is not None and bool(g.abs().sum() > 0) for g in gradients)


def _sum(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([v.mean() for v in terms.values()]).sum()


def _tensors(out: Output) -> Iterator[Tensor]:
    yield from (x for x in (out.logits, out.embedding, *out.maps, *out.inputs.values()) if x is not None)


__all__ = ["START", "DistillerContract", "evaluate_distiller", "shapes_of"]
