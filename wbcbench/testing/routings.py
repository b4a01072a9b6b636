"""The contract of routings as tests."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from wbcbench.contracts import Distiller, Output, PairShapes, Progress, Routing
from wbcbench.spec.lessons import pair
from wbcbench.testing.components import component_class

START = Progress(epoch=0, epochs=1, step=0, steps=1)


class RoutingContract:
    """What every routing must hold. `routing` is a registered name or a class."""

    routing: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}

    @property
    def cls(self) -> type[Routing]:
        return component_class("routing", self.routing)  # type: ignore[no-any-return]

    def build(self, teachers: int = 3, classes: int = 3) -> Routing:
        routing: Routing = self.cls(self.cls.Params(**self.params))
        pairs = [
            PairShapes(n_classes=classes, n_cells=5, max_index=4, key=f"0/joint/{i}") for i in range(teachers)
        ]
        routing.setup(pairs)
        return routing

    def distiller(self) -> Distiller:
        cls = component_class("distiller", "logits")
        return cls(cls.Params())  # type: ignore[no-any-return]

    def test_every_route_is_taught(self) -> None:
        reads = [frozenset({"a"}), frozenset({"b"})]
        lessons = pair(("joint", "a", "b", "c"), reads, self.cls.pairing)
        assert [lesson.route for lesson in lessons] == ["joint", "a", "b", "c"]
        assert all(lesson.teachers for lesson in lessons)

    def test_terms_for_one_and_for_several_teachers(self) -> None:
        g = torch.Generator().manual_seed(0)
        student = Output(torch.randn(5, 3, generator=g).requires_grad_())
        student.labels, student.index = torch.arange(5) % 3, torch.arange(5)
        for count in (1, 3):
            teachers = [Output(torch.randn(5, 3, generator=g)) for _ in range(count)]
            terms = self.build(count).teach([self.distiller()] * count, student, teachers, Progress(0, 1, 0, 1))
            assert terms
            for name, value in terms.items():
                assert torch.isfinite(value).all(), name
                assert value.requires_grad, name

    def test_equal_teachers_teach_as_one(self) -> None:
        g = torch.Generator().manual_seed(1)
        student = Output(torch.randn(5, 3, generator=g))
        student.labels, student.index = torch.arange(5) % 3, torch.arange(5)
        teacher = Output(torch.randn(5, 3, generator=g))

        def taught(count: int) -> torch.Tensor:
            """The gradient in the student's logits, per unit of the weight that this many equal teachers get."""
            own = Output(student.logits.clone().requires_grad_(), labels=student.labels, index=student.index)
            terms = self.build(count).teach([self.distiller()] * count, own, [teacher] * count, START)
            torch.stack([v.mean() for v in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
            assert own.logits.grad is not None
            return own.logits.grad / own.logits.grad.abs().sum()

        assert torch.allclose(taught(1), taught(3), atol=1e-5)

    def test_state_is_complete(self) -> None:
        routing = self.build()
        names = {n for n, _ in routing.named_parameters()}
        assert names <= set(routing.state_dict())
        assert bool(names) == self.cls.trainable

    def test_it_does_not_teach_the_teacher(self) -> None:
        g = torch.Generator().manual_seed(2)
        student = Output(torch.randn(5, 3, generator=g).requires_grad_(), labels=torch.arange(5) % 3)
        teachers = [Output(torch.randn(5, 3, generator=g)) for _ in range(3)]
        terms = self.build().teach([self.distiller()] * 3, student, teachers, START)
        torch.stack([v.mean() for v in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        assert student.logits.grad is not None
        assert torch.isfinite(student.logits.grad).all()
        assert all(t.logits.grad is None for t in teachers)
