"""Distillers of students that teach each other or themselves, and of cross-modal proxies: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kendalltau
from wbcbench_plugins.distillers._parts import others
from wbcbench_plugins.distillers.c2kd import both_ways, kendall_tau
from wbcbench_plugins.distillers.mean_teacher import consistency, ramp_up
from wbcbench_plugins.distillers.mst import MaskNet

from wbcbench.testing import closed_forms, evaluate_distiller

A = closed_forms()


def test_mutual_learning_against_golden_values() -> None:
    """Knowledge-Distillation-Zoo, DML: each peer's KL at T = 1; the gradients of both directions agree."""
    student = A["z_s"].clone().requires_grad_()
    loss = evaluate_distiller("dml", {"logits": student}, {"logits": A["z_t"]})
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.808489917791, rel=1e-9)
    assert student.grad is not None
    assert student.grad.abs().sum().item() == pytest.approx(0.959168103429, rel=1e-9)
    back = evaluate_distiller("dml", {"logits": A["z_t"]}, {"logits": A["z_s"]})
    assert back.item() == pytest.approx(1.09968156561, rel=1e-9)


def test_consistency_is_zero_on_equals_and_at_most_two_over_k() -> None:
    assert consistency(A["z_s"], A["z_s"]).abs().max() == 0
    apart = consistency(torch.tensor([[50.0, 0, 0]]), torch.tensor([[0, 50.0, 0]]))
    assert apart.item() == pytest.approx(2 / 3)
    student = A["z_s"].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: consistency(z, A["z_t"]), (student,))


def test_ramp_rises_from_exp_minus_five_to_one() -> None:
    assert ramp_up(0.0, 0.3) == pytest.approx(math.exp(-5))
    assert ramp_up(0.15, 0.3) == pytest.approx(math.exp(-1.25))
    assert ramp_up(0.3, 0.3) == ramp_up(0.9, 0.3) == ramp_up(0.0, 0.0) == 1.0


def test_kendall_against_scipy() -> None:
    expected = [kendalltau(s, t).statistic for s, t in zip(A["z_s"].numpy(), A["z_t"].numpy(), strict=True)]
    assert kendall_tau(A["z_s"], A["z_t"]).tolist() == pytest.approx(expected)
    assert kendall_tau(A["z_t"], A["z_t"]).tolist() == [1.0] * 4
    assert kendall_tau(A["z_t"], -A["z_t"]).tolist() == [-1.0] * 4


def test_non_target_leaves_the_label_out() -> None:
    found = others(torch.arange(5.0).expand(4, 5), A["y"])
    assert found.tolist() == [[1, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 3], [0, 2, 3, 4]]


def test_both_ways_is_symmetric_and_zero_on_equals() -> None:
    assert torch.allclose(both_ways(A["z_s"], A["z_t"], 2.0), both_ways(A["z_t"], A["z_s"], 2.0))
    assert both_ways(A["z_t"], A["z_t"], 2.0).abs().max() < 1e-12


def test_a_cell_on_which_rankings_disagree_teaches_nothing_across_modalities() -> None:
    s = {"logits": A["z_t"].clone().requires_grad_(), "embedding": A["f_s"]}
    t = {"logits": -A["z_t"], "embedding": A["f_t"]}
    evaluate_distiller("c2kd", s, t, A["y"]).backward()  # type: ignore[no-untyped-call]
    assert s["logits"].grad is None or s["logits"].grad.abs().max() == 0
    close = {"logits": A["z_t"] + 0.01 * A["z_s"], "embedding": A["f_s"]}
    close["logits"].requires_grad_()
    evaluate_distiller("c2kd", close, {**t, "logits": A["z_t"]}, A["y"]).backward()  # type: ignore[no-untyped-call]
    assert close["logits"].grad is not None
    assert close["logits"].grad.abs().sum() > 0


def test_the_mask_starts_as_the_identity_so_that_mst_starts_as_kd() -> None:
    mask = MaskNet(6).double()
    assert torch.equal(mask(A["f_t"]), A["f_t"])
    head = A["W1"]
    logits = A["f_t"] @ head.T
    student = A["z_s"].clone().requires_grad_()
    teacher = {"logits": logits, "embedding": A["f_t"], "head": head}
    evaluate_distiller("mst", {"logits": student}, teacher, A["y"]).backward()  # type: ignore[no-untyped-call]
    again = A["z_s"].clone().requires_grad_()
    evaluate_distiller("logits", {"logits": again}, {"logits": logits}).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert again.grad is not None
    assert torch.allclose(student.grad, again.grad)
