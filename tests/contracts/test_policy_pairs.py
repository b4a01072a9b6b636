"""Every fusion with every policy that the matrix allows: two training steps on toy networks.

A pair may still be refused for what no declaration says (a fusion with one embedding has nothing to contrast):
with an `IncompatibleError`, and before training.
"""

from __future__ import annotations

import pytest
import torch

from wbcbench.contracts import Progress
from wbcbench.errors import IncompatibleError
from wbcbench.scheduling.matrix import compatibility
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.policies import policy_step
from wbcbench.testing.toys import build_toy, toy_batch, toy_draw, toy_task

MATRIX = {
    (r["first"].partition(":")[2], r["second"].partition(":")[2]): r["reason"]
    for r in compatibility(registry(), modalities=2, classes=5)
    if r["first"].startswith("fusion:") and r["second"].startswith("policy:")
}
FUSIONS = sorted({f for f, _ in MATRIX})
POLICIES = sorted({p for _, p in MATRIX})


def steps(fusion_name: str, policy_name: str) -> None:
    """Two steps; raises `IncompatibleError` where the pair is refused after all."""
    cls, chosen = component_class("fusion", fusion_name), component_class("policy", policy_name)
    task = toy_task(1 if cls.arity[1] == 1 else 2, classes=5)
    fusion, policy = build_toy(cls, task).train(), chosen(chosen.Params())
    policy.setup(fusion)
    policy.setup_cells(200)
    for step in range(2):
        progress = Progress(step, 2, 0, 1, toy_draw(step=step))
        terms, _, _ = policy_step(fusion, [policy], toy_batch(task, cells=10), progress)
        assert all(torch.isfinite(t) for t in terms.values()), f"{fusion_name} with {policy_name}: {terms}"
        policy.on_epoch(fusion, progress, dict.fromkeys(fusion.routes, 0.5))
    grads = [p.grad for p in fusion.parameters() if p.grad is not None]
    assert grads, f"{fusion_name} with {policy_name}: nothing learns"
    assert all(torch.isfinite(g).all() for g in grads), f"{fusion_name} with {policy_name}"


def test_the_matrix_has_every_pair() -> None:
    assert len(MATRIX) == len(FUSIONS) * len(POLICIES)
    assert len([r for r in MATRIX.values() if not r]) > len(MATRIX) / 2


@pytest.mark.parametrize("fusion", FUSIONS)
def test_steps_with_every_policy(fusion: str) -> None:
    taken, refusals = 0, []
    for policy in POLICIES:
        if MATRIX[fusion, policy]:
            continue
        try:
            steps(fusion, policy)
        except IncompatibleError as refusal:
            refusals.append((policy, str(refusal)))
            continue
        taken += 1
    assert all(fusion in text or policy in text for policy, text in refusals), refusals
    allowed = sum(not MATRIX[fusion, p] for p in POLICIES)
    assert taken >= allowed / 2, f"{fusion}: {taken} of {allowed} pairs that the matrix allows"
