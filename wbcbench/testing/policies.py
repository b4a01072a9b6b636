"""The contract of training policies as tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from wbcbench.contracts import Fusion, Policy, Progress, Task
from wbcbench.errors import IncompatibleError
from wbcbench.registry.declaration import Declaration, describe
from wbcbench.scheduling.compatibility import lacks
from wbcbench.testing.components import component_class, policy_types
from wbcbench.testing.effects import check_effects, policy_trace, takes
from wbcbench.testing.promise import BrokenPromise, check_registered, made, no_reads, promise
from wbcbench.testing.toys import (
    ToyBoth,
    ToyJoint,
    build_toy,
    end_epoch,
    policy_step,
    set_up,
    toy_batch,
    toy_draw,
    toy_task,
)
from wbcbench.training.supervision import total


class PolicyContract:
    """What every policy must satisfy with every fusion named in `fusions` that it does not refuse."""

    policy: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    fusions: ClassVar[tuple[Any, ...]] = ("early", "late", "independent", ToyBoth, ToyJoint)

    @property
    def cls(self) -> type[Policy]:
        return component_class("policy", self.policy)  # type: ignore[no-any-return]

    def build(self) -> Policy:
        return made(self.cls, "params", self.cls.Params(**self.params))  # type: ignore[no-any-return]

    def count(self) -> int:
        """How many modalities to test with: two, or as many as the policy needs."""
        low, high = self.cls.traits.arity
        return max(low, min(2, high or 2))

    def fits(self, fusion: Fusion) -> bool:
        """Whether a run would combine the policy with this fusion: what `traits` declares is there."""
        cls = type(fusion)
        stored = describe(cls, "fusion", cls.name)
        declaration = Declaration("fusion", cls.name, (), "", stored, lambda: cls)
        return not list(lacks(self.cls.traits, declaration, cls.name, fusion.task.modalities, set()))

    def accepted(self, task: Task) -> list[tuple[Fusion, Policy]]:
        """New fusions in training mode, each with this policy set up; those that it refuses are left out."""
        found = []
        for name in self.fusions:
            fusion = build_toy(component_class("fusion", name), task).train()
            if not self.fits(fusion):
                continue
            policy = self.build()
            try:
                set_up(policy, fusion)
                policy_step(fusion, [policy], toy_batch(task), Progress(0, 2, 0, 1, toy_draw()))
            except IncompatibleError:
                continue
            except RuntimeError as error:
                if "does not require grad" not in str(error):
                    raise
                raise BrokenPromise(
                    f"With fusion '{fusion.name}' the losses that `task_terms` returned have no gradient at all.",
                    "Multiply losses, or add to them; never detach or recompute them from numbers.",
                    "task_terms",
                ) from error
            fusion.zero_grad()
            found.append((fusion, policy))
        promise(
            found,
            f"It refused every fusion: {', '.join(getattr(f, 'name', f) for f in self.fusions)}.",
            "Give the test `fusions = (...)` that it accepts, and declare in `traits` what it wants.",
            "setup",
        )
        return found

    def test_types(self) -> None:
        """Its hooks return what they should: a batch, a dict of losses, whether the backward pass is done."""
        task = toy_task(self.count())
        for name in self.fusions:
            fusion = build_toy(component_class("fusion", name), task).train()
            if not self.fits(fusion):
                continue
            try:
                policy_types(self.build(), fusion, task)
            except IncompatibleError:
                continue
            return

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_steps_around_every_fusion(self, modalities: int) -> None:
        """Steps with every fusion give finite losses and gradients."""
        low, high = self.cls.traits.arity
        task = toy_task(max(low, min(modalities, high or modalities)))
        for fusion, policy in self.accepted(task):
            for epoch in range(2):
                progress = Progress(epoch, 2, 0, 1, toy_draw(step=epoch))
                terms, _, _ = policy_step(fusion, [policy], toy_batch(task), progress)
                end_epoch(policy, fusion, progress)
                self._finite(fusion, terms)

    def test_steps_with_cells_that_lack_modalities(self) -> None:
        """Cells that lack a modality, or all, give finite losses and gradients."""
        task = toy_task(self.count())
        for fusion, policy in self.accepted(task):
            batch = toy_batch(task)
            there = torch.cartesian_prod(*[torch.tensor([True, False])] * 2)
            batch.present = there.repeat(2, 1)[:, torch.arange(len(task.modalities)) % 2]
            terms, _, _ = policy_step(fusion, [policy], batch, Progress(1, 2, 0, 1, toy_draw()))
            self._finite(fusion, terms)

    def test_steps_with_numbers(self) -> None:
        """Unless it refuses them, a step with numbers as a modality gives finite losses and gradients."""
        if not self.cls.traits.vectors:
            return
        task = toy_task(self.count())
        task = replace(task, vectors=frozenset(task.modalities[-1:]))
        for name in ("late", "concat"):
            fusion, policy = build_toy(component_class("fusion", name), task).train(), self.build()
            if not self.fits(fusion):
                continue
            try:
                set_up(policy, fusion)
            except IncompatibleError:
                continue
            batch = toy_batch(task)
            batch.present = torch.tensor([True, False]).repeat(4)[:, None].expand(-1, len(task.modalities))
            try:
                terms, _, _ = policy_step(fusion, [policy], batch, Progress(1, 2, 0, 1, toy_draw()))
            except (RuntimeError, IndexError) as error:
                raise BrokenPromise(
                    f"With numbers [B, F] for a modality: {type(error).__name__}: {error}",
                    "Scale or mask rows with `over_rows(mask, x)` instead of [:, None, None, None], or declare "
                    "`vectors=False` in `traits`.",
                    "images",
                ) from error
            self._finite(fusion, terms)

    def _finite(self, fusion: Fusion, terms: dict[str, Tensor]) -> None:
        infinite = [name for name, t in terms.items() if not torch.isfinite(t)]
        promise(
            not infinite,
            f"With fusion '{fusion.name}' the losses {infinite} are not finite.",
            "Look for a log of zero or a division by zero; means over no rows need a clamp.",
            "task_terms",
        )
        grads = [p.grad for p in fusion.parameters() if p.grad is not None]
        promise(
            grads and all(torch.isfinite(g).all() for g in grads),
            f"With fusion '{fusion.name}' the gradients are missing or not finite.",
            "Keep at least one loss, and check `after_backward` for a division by zero.",
            "after_backward",
        )

    def test_losses_keep_shape_and_gradient(self) -> None:
        """Losses stay one number per row or a scalar, and keep their gradient."""
        task = toy_task(self.count())
        for fusion, policy in self.accepted(task):
            seen: dict[str, Tensor] = {}
            original = policy.task_terms

            def watched(*given: Any, original: Any = original, seen: dict[str, Tensor] = seen) -> Any:
                terms = original(*given)
                seen.update(terms)
                return terms

            setattr(policy, "task_terms", watched)  # noqa: B010 (mypy rejects a plain assignment)
            _, _, batch = policy_step(fusion, [policy], toy_batch(task), Progress(0, 2, 0, 1, toy_draw()))
            rows = len(next(iter(batch.images.values())))
            for name, value in seen.items():
                promise(
                    value.ndim == 0 or value.shape == (rows,),
                    f"With fusion '{fusion.name}' term '{name}' has shape {list(value.shape)} for {rows} rows.",
                    "Return [R], one loss per row, or a scalar.",
                    "task_terms",
                )
                promise(
                    value.requires_grad,
                    f"With fusion '{fusion.name}' term '{name}' is cut from the graph: nothing learns from it.",
                    "Multiply losses, or add to them; never detach or recompute them from numbers.",
                    "task_terms",
                )

    def test_everything_that_is_trained_is_registered(self) -> None:
        """Every tensor that the loss trains is a registered parameter."""
        task = toy_task(self.count())
        for fusion, policy in self.accepted(task):
            terms, _, _ = policy_step(fusion, [policy], toy_batch(task), Progress(0, 2, 0, 1, toy_draw()))
            check_registered(total(terms), policy, fusion.parameters(), "setup")

    def test_predictions_and_weights_are_left_alone(self) -> None:
        """It changes neither the fusion's weights nor what a given network predicts."""
        task = toy_task(self.count())
        for fusion, policy in self.accepted(task):
            fresh = build_toy(type(fusion), task)
            promise(
                all(torch.equal(v, fresh.state_dict()[k]) for k, v in fusion.state_dict().items()),
                f"A step changed weights or buffers of fusion '{fusion.name}' before the optimiser did.",
                "Change gradients in `after_backward`; do not change the fusion's tensors.",
                "after_backward",
            )
            images = toy_batch(task).images
            before = {k: o.logits for k, o in fresh.eval()(images).items()}
            promise(
                all(torch.equal(o.logits, before[k]) for k, o in fusion.eval()(images).items()),
                f"Fusion '{fusion.name}' predicts differently once the policy is set up.",
                "Do not replace methods or modules of the fusion.",
                "setup",
            )
            own = {id(p) for p in policy.parameters()}
            promise(
                not own & {id(p) for p in fusion.parameters()},
                "The fusion became a part of the policy: its parameters would be trained and saved twice.",
                "Call super().setup(fusion) and use `self.fusion`; do not assign its modules to attributes.",
                "setup",
            )

    def test_what_is_shown_is_a_function_of_the_draw(self) -> None:
        """Which cells, modalities and pixels a step shows depends only on the step's random numbers."""
        task = toy_task(self.count())
        for fusion, policy in self.accepted(task):
            shown = []
            for _ in range(2):
                progress = Progress(0, 2, 3, 4, toy_draw(step=3))
                shown.append(policy_step(fusion, [policy], toy_batch(task), progress)[2])
            a, b = shown
            same = (a.present is None) == (b.present is None)
            if a.present is not None and b.present is not None:
                same = torch.equal(a.present, b.present)
            promise(
                same and all(torch.equal(a.images[m], b.images[m]) for m in a.images),
                f"With fusion '{fusion.name}' two steps with the same draw showed different images.",
                "Take random numbers from `draw`, never from torch.rand or numpy.",
                "images",
            )

    def test_it_declares_to_blend_cells(self) -> None:
        """It declares `blends_cells` if a row's image depends on the image of another row."""
        if self.cls.traits.blends_cells:
            return
        task = toy_task(self.count())
        for fusion, policy in self.accepted(task):
            for step in range(4):
                shown = []
                for seed in (0, 1):  # the images of the first half of the rows differ
                    batch, other = toy_batch(task), toy_batch(task, seed=seed)
                    half = len(batch) // 2
                    batch.images = {
                        m: torch.cat([other.images[m][:half], x[half:]]) for m, x in batch.images.items()
                    }
                    shown.append(policy.images(batch, toy_draw(step=step)).images)
                for m in task.modalities:
                    promise(
                        torch.equal(shown[0][m][half:], shown[1][m][half:]),
                        f"With fusion '{fusion.name}' the {m} image of a row depends on other rows' images, and "
                        "`traits` does not declare it: teachers would be compared on images that they never saw.",
                        'Declare traits = PolicyTraits(acts_on="images", blends_cells=True).',
                        "images",
                    )

    def test_every_parameter_has_an_effect(self) -> None:
        """Every parameter changes a loss, a gradient or what is shown, where its `when` holds."""
        taken = [type(fusion) for fusion, _ in self.accepted(toy_task(self.count()))][:2]
        low, high = self.cls.traits.arity
        alone = low <= 1 and high != 1

        def trace(params: Mapping[str, Any], modalities: int = self.count()) -> Tensor:
            return torch.cat([policy_trace(self.cls, f, params, modalities) for f in taken])

        alone = alone and all(takes(self.cls, f, self.params, 1) for f in taken)
        check_effects(
            self.cls.Params, self.params, trace, "task_terms", {"modalities": (self.count(), 1)} if alone else {}
        )

    def test_resumes_exactly(self) -> None:
        """It resumes exactly: all state is in the checkpoint."""
        task = toy_task(self.count())
        for fusion, policy in self.accepted(task):
            end_epoch(policy, fusion, Progress(0, 3, 0, 1))
            again = self.build()
            twin = build_toy(type(fusion), task).train()
            set_up(again, twin)
            twin.load_state_dict(fusion.state_dict())
            again.load_state_dict(policy.state_dict())
            progress = Progress(1, 3, 0, 1, toy_draw(step=1))
            terms = [
                policy_step(f, [p], toy_batch(task), progress)[0] for f, p in ((fusion, policy), (twin, again))
            ]
            same = terms[0].keys() == terms[1].keys() and all(
                torch.equal(v, terms[1][k]) for k, v in terms[0].items()
            )
            for p, q in zip(fusion.parameters(), twin.parameters(), strict=True):
                same = same and (p.grad is None) == (q.grad is None)
                same = same and (p.grad is None or q.grad is None or torch.equal(p.grad, q.grad))
            promise(
                same,
                f"With fusion '{fusion.name}', saved and loaded into a new instance, the next step differs.",
                "Keep what is remembered between steps or epochs in a buffer (`self.register_buffer(name, "
                "tensor)`), not in a plain attribute: attributes are not saved. Take random numbers from `draw`.",
                "on_epoch",
            )

    def test_reads_nothing_back_from_the_device(self) -> None:
        """A training step never waits for the device."""
        # On tensors without values, every read of a value fails.
        task = toy_task(self.count())
        for taken, _ in self.accepted(task):
            with FakeTensorMode():
                fusion = build_toy(type(taken), task).train()
                policy = self.build()
                set_up(policy, fusion, values=False)
                for epoch in range(2):
                    batch = toy_batch(task)
                    batch.present = torch.ones(len(batch), len(task.modalities), dtype=torch.bool)
                    with no_reads():
                        policy_step(fusion, [policy], batch, Progress(epoch, 2, 0, 1, toy_draw(step=epoch)))


__all__ = ["PolicyContract", "policy_step"]
