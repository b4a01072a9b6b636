"""The contract of training policies as tests."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from wbcbench.contracts import Batch, Fusion, Outputs, Policy, Progress, Task
from wbcbench.errors import IncompatibleError
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import ToyBoth, ToyJoint, build_toy, toy_batch, toy_draw, toy_task
from wbcbench.training.supervision import task_loss, total, with_labels


def policy_step(
    fusion: Fusion, policies: list[Policy], batch: Batch, progress: Progress
) -> tuple[dict[str, Tensor], Outputs, Batch]:
    """One training step as the loop makes it, without the optimiser: task terms, outputs, the batch shown.

    `batch` comes with the images of its cells; gradients are left in the parameters.
    """
    images = batch.images
    batch = fusion.assemble(batch, progress.draw)
    for policy in policies:
        batch = policy.assemble(batch, progress.draw)
    if batch.rows is not None:
        batch.images = {m: x[batch.rows[m]] for m, x in images.items()}
        if batch.present is not None:
            columns = [batch.present[batch.rows[m], i] for i, m in enumerate(images)]
            batch.present = torch.stack(columns, 1)
    for policy in policies:
        batch = policy.images(batch, progress.draw)

    def run(images: dict[str, Tensor], present: Tensor | None) -> Outputs:
        return with_labels(fusion(images, present), batch)

    outputs = run(batch.images, batch.present)
    for policy in policies:
        policy.after_forward(run, outputs, batch, progress)
    weights = torch.ones(fusion.task.n_classes)
    terms = task_loss(fusion, policies, outputs, batch, weights, progress)
    if not any(policy.backward(terms, torch.zeros(()), fusion) for policy in policies):
        total(terms).backward()  # type: ignore[no-untyped-call]
    for policy in policies:
        policy.after_backward(fusion, outputs, batch, progress)
    return terms, outputs, batch


class PolicyContract:
    """What every policy must hold around every fusion named in `fusions` that it does not refuse."""

    policy: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    fusions: ClassVar[tuple[Any, ...]] = ("early", "late", "independent", ToyBoth, ToyJoint)

    @property
    def cls(self) -> type[Policy]:
        return component_class("policy", self.policy)  # type: ignore[no-any-return]

    def accepted(self, task: Task) -> list[tuple[Fusion, Policy]]:
        """Fresh fusions in training mode, each with this policy set up; those that it refuses are left out."""
        found = []
        for name in self.fusions:
            fusion = build_toy(component_class("fusion", name), task).train()
            policy = self.cls(self.cls.Params(**self.params))
            try:
                policy.setup(fusion)
                policy.setup_cells(200)
                policy_step(fusion, [policy], toy_batch(task), Progress(0, 2, 0, 1, toy_draw()))
            except IncompatibleError:
                continue
            fusion.zero_grad()
            found.append((fusion, policy))
        return found

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_steps_around_every_fusion(self, modalities: int) -> None:
        task = toy_task(modalities)
        pairs = self.accepted(task)
        assert pairs, "some fusion must be taken"
        for fusion, policy in pairs:
            for epoch in range(2):
                progress = Progress(epoch, 2, 0, 1, toy_draw(step=epoch))
                terms, _, _ = policy_step(fusion, [policy], toy_batch(task), progress)
                assert all(torch.isfinite(t) for t in terms.values()), fusion.name
                policy.on_epoch(fusion, progress, dict.fromkeys(fusion.routes, 0.5))
                grads = [p.grad for p in fusion.parameters() if p.grad is not None]
                assert grads, fusion.name
                assert all(torch.isfinite(g).all() for g in grads), fusion.name

    def test_steps_with_cells_that_lack_modalities(self) -> None:
        task = toy_task(2)
        for fusion, policy in self.accepted(task):
            batch = toy_batch(task)
            batch.present = torch.tensor([[True, True], [True, False], [False, True], [False, False]] * 2)
            terms, _, _ = policy_step(fusion, [policy], batch, Progress(1, 2, 0, 1, toy_draw()))
            assert all(torch.isfinite(t) for t in terms.values()), fusion.name
            assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)

    def test_predictions_and_weights_are_left_alone(self) -> None:
        task = toy_task(2)
        for fusion, policy in self.accepted(task):
            fresh = build_toy(type(fusion), task)
            assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in fusion.state_dict().items())
            images = toy_batch(task).images
            before = {k: o.logits for k, o in fresh.eval()(images).items()}
            assert all(torch.equal(o.logits, before[k]) for k, o in fusion.eval()(images).items())
            own = {id(p) for p in policy.parameters()}
            assert not own & {id(p) for p in fusion.parameters()}, "the fusion is no part of the policy"

    def test_what_is_shown_is_a_function_of_the_draw(self) -> None:
        task = toy_task(2)
        for fusion, policy in self.accepted(task):
            shown = []
            for _ in range(2):
                progress = Progress(0, 2, 3, 4, toy_draw(step=3))
                shown.append(policy_step(fusion, [policy], toy_batch(task), progress)[2])
            a, b = shown
            assert (a.present is None) == (b.present is None)
            if a.present is not None and b.present is not None:
                assert torch.equal(a.present, b.present)
            assert all(torch.equal(a.images[m], b.images[m]) for m in a.images)

    def test_resumes_exactly(self) -> None:
        task = toy_task(2)
        for fusion, policy in self.accepted(task):
            policy.on_epoch(fusion, Progress(0, 3, 0, 1), dict.fromkeys(fusion.routes, 0.5))
            again = self.cls(self.cls.Params(**self.params))
            twin = build_toy(type(fusion), task).train()
            again.setup(twin)
            again.setup_cells(200)
            again.load_state_dict(policy.state_dict())
            progress = Progress(1, 3, 0, 1, toy_draw(step=1))
            terms = [
                policy_step(f, [p], toy_batch(task), progress)[0] for f, p in ((fusion, policy), (twin, again))
            ]
            assert terms[0].keys() == terms[1].keys()
            assert all(torch.equal(v, terms[1][k]) for k, v in terms[0].items())
            for p, q in zip(fusion.parameters(), twin.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None)
                assert p.grad is None or q.grad is None or torch.equal(p.grad, q.grad)

    def test_reads_nothing_back_from_the_device(self) -> None:
        """On tensors without values, whatever asks for a value fails."""
        task = toy_task(3)
        for taken, _ in self.accepted(task):
            with FakeTensorMode():
                fusion = build_toy(type(taken), task).train()
                policy = self.cls(self.cls.Params(**self.params))
                policy.setup(fusion)
                policy.setup_cells(200)
                for epoch in range(2):
                    batch = toy_batch(task)
                    batch.present = torch.ones(len(batch), 3, dtype=torch.bool)
                    policy_step(fusion, [policy], batch, Progress(epoch, 2, 0, 1, toy_draw(step=epoch)))
