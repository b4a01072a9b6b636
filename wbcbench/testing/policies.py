"""The contract of training policies as tests."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from wbcbench.contracts import Policy, Progress
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import build_toy, toy_batch, toy_draw, toy_task
from wbcbench.training.supervision import task_loss, total, with_labels


class PolicyContract:
    """What every policy must hold around every fusion named in `fusions`."""

    policy: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    fusions: ClassVar[tuple[str, ...]] = ("early", "late", "independent")

    @property
    def cls(self) -> type[Policy]:
        return component_class("policy", self.policy)  # type: ignore[no-any-return]

    def test_one_step_around_every_fusion(self) -> None:
        task = toy_task(2)
        for name in self.fusions:
            fusion = build_toy(component_class("fusion", name), task).train()
            policy = self.cls(self.cls.Params(**self.params))
            policy.setup(fusion)
            batch = toy_batch(task)
            images = batch.images
            batch = policy.assemble(fusion.assemble(batch, toy_draw()), toy_draw())
            if batch.rows is not None:
                batch.images = {m: x[batch.rows[m]] for m, x in images.items()}
            outputs = with_labels(fusion(batch.images, batch.present), batch)
            progress = Progress(0, 2, 0, 1)
            loss = total(task_loss(fusion, [policy], outputs, batch, torch.ones(3), progress))
            assert torch.isfinite(loss), name
            loss.backward()  # type: ignore[no-untyped-call]
            policy.after_backward(fusion, outputs, batch, progress)
            policy.on_epoch(fusion, progress)
            grads = [p.grad for p in fusion.parameters() if p.grad is not None]
            assert grads, name
            assert all(torch.isfinite(g).all() for g in grads), name

    def test_assembling_is_a_function_of_the_draw(self) -> None:
        task = toy_task(2)
        fusion = build_toy(component_class("fusion", "early"), task)
        policy = self.cls(self.cls.Params(**self.params))
        policy.setup(fusion)
        a, b = (policy.assemble(toy_batch(task), toy_draw(step=3)) for _ in range(2))
        if a.present is not None:
            assert b.present is not None
            assert torch.equal(a.present, b.present)
        if a.rows is not None:
            assert b.rows is not None
            assert all(torch.equal(a.rows[m], b.rows[m]) for m in a.rows)
