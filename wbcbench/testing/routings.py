"""The contract of routings as tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from wbcbench.contracts import Distiller, Output, PairShapes, Progress, Routing
from wbcbench.contracts.needs import assign_teachers
from wbcbench.testing.components import component_class
from wbcbench.testing.effects import check_effects, distillation_trace
from wbcbench.testing.losses import shapes_of
from wbcbench.testing.promise import BrokenPromise, check_registered, made, no_reads, promise, returned_terms

START = Progress(epoch=0, epochs=1, step=0, steps=1)


class RoutingContract:
    """What every routing must satisfy. `routing` is a registered name, a class, or the path of a plugin file."""

    routing: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}

    @property
    def cls(self) -> type[Routing]:
        return component_class("routing", self.routing)  # type: ignore[no-any-return]

    def build(self, teachers: int = 3, classes: int = 3) -> Routing:
        routing: Routing = made(self.cls, "params", self.cls.Params(**self.params))
        pairs = [
            PairShapes(n_classes=classes, n_cells=5, max_index=4, key=f"0/joint/{i}") for i in range(teachers)
        ]
        routing.setup(pairs)
        return routing

    def distiller(self) -> Distiller:
        cls = component_class("distiller", "logits")
        return cls(cls.Params())  # type: ignore[no-any-return]

    def test_types(self) -> None:
        """Its methods return what they should: `teach` a dict name -> loss."""
        student, teachers = answers(3)
        returned_terms(self.teach(self.build(), student, teachers), "teach")

    def test_every_route_is_taught(self) -> None:
        """Every route of the student has at least one teacher."""
        reads = [frozenset({"a"}), frozenset({"b"})]
        assigned = assign_teachers(("joint", "a", "b", "c"), reads, self.cls.pairing)
        promise(
            [one.route for one in assigned] == ["joint", "a", "b", "c"] and all(x.teachers for x in assigned),
            f"With pairing '{self.cls.pairing}' some route has no teacher.",
            "Declare pairing = 'own' or 'all'.",
        )

    def test_terms_for_one_and_for_several_teachers(self) -> None:
        """One teacher and several give finite losses, one per cell or a scalar, with a gradient."""
        for count in (1, 3):
            student, teachers = answers(count)
            terms = self.teach(self.build(count), student, teachers)
            promise(
                terms, f"With {count} teachers `teach` returned no losses.", "Return a dict of losses.", "teach"
            )
            for name, value in terms.items():
                promise(
                    value.ndim == 0 or value.shape == (5,),
                    f"Term '{name}' has the shape {list(value.shape)} for 5 cells and {count} teachers.",
                    "Reduce over the teachers: [B], one loss per cell, or a scalar.",
                    "teach",
                )
                promise(
                    torch.isfinite(value).all(),
                    f"Term '{name}' is not finite with {count} teachers.",
                    "Look for a log of zero or a division by zero, and for weights that divide by `count - 1`.",
                    "teach",
                )
                promise(
                    value.requires_grad,
                    f"Term '{name}' is cut from the graph: the student learns nothing from it.",
                    "Detach weights and teachers, never the student or the losses.",
                    "teach",
                )

    def test_equal_teachers_teach_as_one(self) -> None:
        """Several identical teachers have the same effect as one of them."""
        student, (teacher,) = answers(1, seed=1)

        def taught(count: int) -> torch.Tensor:
            """The gradient in the student's logits, per unit of the weight that this many equal teachers get."""
            own = Output(student.logits.detach().requires_grad_(), labels=student.labels, index=student.index)
            total(self.teach(self.build(count), own, [teacher] * count)).backward()  # type: ignore[no-untyped-call]
            promise(own.logits.grad is not None, "No gradient reaches the student.", "Detach no loss.", "teach")
            assert own.logits.grad is not None
            return own.logits.grad / own.logits.grad.abs().sum()

        promise(
            torch.allclose(taught(1), taught(3), atol=1e-5),
            "Three identical teachers have a different effect from one of them.",
            "Let the weights of a cell's teachers sum to a number that does not depend on the cell.",
            "teach",
        )

    def test_only_what_is_declared_is_read(self) -> None:
        """It reads logits, and no more of student, teachers and labels than it declares."""
        student, teachers = answers(3)
        for out, taps in ((student, self.cls.student), *((t, self.cls.teacher) for t in teachers)):
            if "embedding" not in taps:
                out.embedding = None
        if self.cls.labels is False:
            student.labels = None
        try:
            self.teach(self.build(), student, teachers)
        except Exception as error:
            raise BrokenPromise(
                f"Given only what it declares, `teach` raised {type(error).__name__}: {error}.",
                'Declare what it reads besides logits, as in student = ("embedding",), and labels = True.',
                "teach",
            ) from error

    def test_every_parameter_has_an_effect(self) -> None:
        """Every parameter changes a loss or a gradient, with one of several distillers."""
        embeddings = component_class("distiller", "pad_l2")

        def trace(params: Mapping[str, Any]) -> torch.Tensor:
            found = []
            for cls in (type(self.distiller()), embeddings):
                student, teachers = answers(3)
                student.index = torch.arange(5)
                found.append(
                    distillation_trace(
                        lambda cls=cls: [cls(cls.Params())],  # type: ignore[misc]
                        lambda: self.cls(self.cls.Params(**params)),
                        student, teachers, shapes_of,
                    )
                )  # fmt: skip
            return torch.cat(found)

        check_effects(self.cls.Params, self.params, trace, "teach")

    def test_state_is_complete(self) -> None:
        """It resumes exactly: all state is in the checkpoint."""
        routing, again = self.build(), self.build()
        names = {n for n, _ in routing.named_parameters()}
        promise(
            names <= set(routing.state_dict()),
            f"`state_dict` lacks {sorted(names - set(routing.state_dict()))}.",
            "Do not override `state_dict`.",
        )
        promise(
            bool(names) == self.cls.trainable,
            f"It has {len(names)} parameters of its own, but declares trainable = {self.cls.trainable}.",
            f"Declare trainable = {bool(names)}, or build parameters in `setup`.",
            "setup",
        )
        student, teachers = answers(3)
        for _ in range(3):
            self.teach(routing, student, teachers)
        again.load_state_dict(routing.state_dict())
        a, b = (self.teach(r, student, teachers) for r in (routing, again))
        promise(
            a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a),
            "After three steps, saved and loaded into a new instance, the next loss differs.",
            "Keep what is remembered between steps in a buffer (`self.register_buffer(name, tensor)`), not in a "
            "plain attribute: attributes are not saved. Take random numbers from `progress.draw`.",
            "teach",
        )

    def test_everything_that_is_trained_is_registered(self) -> None:
        """Every tensor that the loss trains is a registered parameter."""
        routing = self.build()
        student, teachers = answers(3)
        check_registered(total(self.teach(routing, student, teachers)), routing, [student.logits], "setup")

    def test_nothing_is_read_back_from_the_device(self) -> None:
        """A training step never waits for the device."""
        for count in (1, 3):
            routing = self.build(count)
            student, teachers = answers(count)
            with no_reads("teach"):
                self.teach(routing, student, teachers)

    def test_it_does_not_teach_the_teacher(self) -> None:
        """The loss does not train the teachers."""
        student, teachers = answers(3, seed=2)
        terms = self.teach(self.build(), student, teachers)
        total(terms).backward()  # type: ignore[no-untyped-call]
        promise(
            student.logits.grad is not None and torch.isfinite(student.logits.grad).all(),
            "The student's gradient is missing or not finite.",
            "Detach weights and teachers, never the student or the losses.",
            "teach",
        )
        promise(
            all(t.logits.grad is None for t in teachers),
            "A teacher's logits got a gradient.",
            "Read teachers through what `teach` is given; they arrive detached.",
            "teach",
        )

    def teach(self, routing: Routing, student: Output, teachers: list[Output]) -> dict[str, torch.Tensor]:
        """The terms of a step, one distiller per teacher."""
        return routing.teach([self.distiller()] * len(teachers), student, teachers, START)


def answers(teachers: int, seed: int = 0) -> tuple[Output, list[Output]]:
    """A student that requires a gradient, and teachers: 5 cells, 3 classes, embeddings of width 4."""
    g = torch.Generator().manual_seed(seed)
    student = Output(torch.randn(5, 3, generator=g).requires_grad_(), labels=torch.arange(5) % 3)
    student.index = torch.arange(5)
    taught = [Output(torch.randn(5, 3, generator=g)) for _ in range(teachers)]
    for out in (student, *taught):
        out.embedding = torch.randn(5, 4, generator=g)
    student.embedding.requires_grad_()  # type: ignore[union-attr]
    return student, taught


def total(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of the terms' means."""
    return torch.stack([v.mean() for v in terms.values()]).sum()
