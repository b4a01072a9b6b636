"""Every fusion with every policy: steps on toy networks where the matrix says yes, a refusal elsewhere."""

from __future__ import annotations

import pytest
import torch

from wbcbench.contracts import Progress
from wbcbench.errors import IncompatibleError
from wbcbench.scheduling.matrix import compatibility
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.policies import policy_step
from wbcbench.testing.toys import build_toy, end_epoch, set_up, toy_batch, toy_draw, toy_task

COUNTS = (1, 2, 3)
"""Of modalities."""
MATRIX = {
    (count, r["first"].partition(":")[2], r["second"].partition(":")[2]): r["reason"]
    for count in COUNTS
    for r in compatibility(registry(), modalities=count, classes=5)
    if r["first"].startswith("fusion:") and r["second"].startswith("policy:")
}
CAUTIOUS = {"relearning": ("packed", "shaspec")}
"""Policy -> fusions that it would work with, which their declarations do not say."""
FUSIONS = sorted({f for _, f, _ in MATRIX})
POLICIES = sorted({p for _, _, p in MATRIX})


def steps(fusion_name: str, policy_name: str, modalities: int = 2, count: int = 2) -> None:
    """So many steps; raises `IncompatibleError` where the pair is refused."""
    cls, chosen = component_class("fusion", fusion_name), component_class("policy", policy_name)
    task = toy_task(1 if cls.traits.arity[1] == 1 else modalities, classes=5)
    fusion, policy = build_toy(cls, task).train(), chosen(chosen.Params())
    set_up(policy, fusion)
    for step in range(count):
        progress = Progress(step, 2, 0, 1, toy_draw(step=step))
        terms, _, _ = policy_step(fusion, [policy], toy_batch(task, cells=10), progress)
        assert all(torch.isfinite(t) for t in terms.values()), f"{fusion_name} with {policy_name}: {terms}"
        end_epoch(policy, fusion, progress)
    grads = [p.grad for p in fusion.parameters() if p.grad is not None]
    assert grads, f"{fusion_name} with {policy_name}: nothing learns"
    assert all(torch.isfinite(g).all() for g in grads), f"{fusion_name} with {policy_name}"


def test_the_matrix_has_every_pair() -> None:
    assert len(MATRIX) == len(COUNTS) * len(FUSIONS) * len(POLICIES)
    assert (
        len([r for (count, _, _), r in MATRIX.items() if count == 2 and not r]) > len(FUSIONS) * len(POLICIES) / 2
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_steps_with_every_policy(fusion: str) -> None:
    for policy in POLICIES:
        if not MATRIX[2, fusion, policy]:
            steps(fusion, policy)


@pytest.mark.parametrize("count", COUNTS)
def test_what_the_matrix_allows_is_not_refused_and_what_it_refuses_for_the_fusion_is(count: int) -> None:
    """What a fusion offers is declared; that it is true is seen here, for other numbers of modalities too."""
    for (modalities, fusion, policy), reason in MATRIX.items():
        wanting = "does not offer" in reason
        if modalities != count or (reason and not wanting):
            continue
        if fusion in CAUTIOUS.get(policy, ()):
            continue
        if wanting:
            with pytest.raises(IncompatibleError):
                steps(fusion, policy, count, 1)
        elif count != 2:
            steps(fusion, policy, count, 1)
