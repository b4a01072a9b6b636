"""The contract of routings as tests."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from wbcbench.contracts import Distiller, Output, Progress, Routing
from wbcbench.spec.lessons import pair
from wbcbench.testing.components import component_class


class RoutingContract:
    """What every routing must hold. `routing` is a registered name or a class."""

    routing: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}

    @property
    def cls(self) -> type[Routing]:
        return component_class("routing", self.routing)  # type: ignore[no-any-return]

    def build(self) -> Routing:
        return self.cls(self.cls.Params(**self.params))

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
            terms = self.build().teach([self.distiller()] * count, student, teachers, Progress(0, 1, 0, 1))
            assert terms
            for name, value in terms.items():
                assert torch.isfinite(value).all(), name
                assert value.requires_grad, name

    def test_equal_teachers_teach_as_one(self) -> None:
        g = torch.Generator().manual_seed(1)
        student = Output(torch.randn(5, 3, generator=g))
        student.labels, student.index = torch.arange(5) % 3, torch.arange(5)
        teacher = Output(torch.randn(5, 3, generator=g))
        routing = self.build()
        one, three = (
            sum(
                v.mean()
                for v in routing.teach([self.distiller()] * len(ts), student, ts, Progress(0, 1, 0, 1)).values()
            )
            for ts in ([teacher], [teacher] * 3)
        )
        assert torch.allclose(torch.as_tensor(one), torch.as_tensor(three), atol=1e-5)
