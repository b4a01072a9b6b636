"""Hinton's loss against values that five independent implementations agree on, and its invariants.

Inputs are closed forms, so that anyone can recompute them: z_s[i,j] = sin(1.7 i + 0.9 j),
z_t[i,j] = 2 cos(0.6 i - 1.3 j), 4 samples, 5 classes, float64. Values and sums of absolute gradients were
computed with RepDistiller, mdistiller, Knowledge-Distillation-Zoo, MMRazor and torchdistill (times T^2).
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Output, mean_teacher
from wbcbench.testing import evaluate_distiller

ROW, COLUMN = torch.meshgrid(
    torch.arange(4.0, dtype=torch.float64), torch.arange(5.0, dtype=torch.float64), indexing="ij"
)
STUDENT = torch.sin(1.7 * ROW + 0.9 * COLUMN)
TEACHER = 2 * torch.cos(0.6 * ROW - 1.3 * COLUMN)


@pytest.mark.parametrize(
    ("temperature", "value", "gradient"),
    [(1.0, 0.808489917791, 0.959168103429), (4.0, 1.23196168114, 1.33946659151)],
)
def test_golden_value_and_gradient(temperature: float, value: float, gradient: float) -> None:
    student = STUDENT.clone().requires_grad_()
    loss = evaluate_distiller("logits", {"logits": student}, {"logits": TEACHER}, temperature=temperature)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert student.grad is not None
    assert student.grad.abs().sum().item() == pytest.approx(gradient, rel=1e-9)


def test_zero_where_student_equals_teacher() -> None:
    assert kd_loss(TEACHER, TEACHER, 4.0).abs().max() < 1e-12


def test_gradient_check() -> None:
    student = STUDENT.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: kd_loss(z, TEACHER, 3.0), (student,))


def test_shift_of_a_row_and_permutation_of_the_batch_change_nothing() -> None:
    loss = kd_loss(STUDENT, TEACHER, 2.0)
    shifted = kd_loss(STUDENT + torch.arange(4.0)[:, None], TEACHER - 7, 2.0)
    assert torch.allclose(loss, shifted)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(loss[order], kd_loss(STUDENT[order], TEACHER[order], 2.0))


def test_at_high_temperature_it_is_half_the_squared_distance_of_centred_logits() -> None:
    def centred(z: Tensor) -> Tensor:
        return z - z.mean(1, keepdim=True)

    limit = 0.5 * (centred(STUDENT) - centred(TEACHER)).pow(2).mean(1)
    assert torch.allclose(kd_loss(STUDENT, TEACHER, 1e4), limit, rtol=1e-3)


def test_decomposes_into_target_and_non_target_parts() -> None:
    """KD = T^2 [TCKD + (1 - p_t,y) NCKD] (Zhao et al., CVPR 2022, eq. 6)."""
    y = torch.tensor([0, 2, 4, 1])
    p_t, p_s = (z.div(4.0).softmax(1) for z in (TEACHER, STUDENT))
    t, s = (p.gather(1, y[:, None])[:, 0] for p in (p_t, p_s))
    target = t * (t / s).log() + (1 - t) * ((1 - t) / (1 - s)).log()
    others = torch.ones_like(p_t).scatter_(1, y[:, None], 0.0).bool()
    q_t, q_s = (p[others].view(4, 4) / (1 - own)[:, None] for p, own in ((p_t, t), (p_s, s)))
    rest = (q_t * (q_t / q_s).log()).sum(1)
    assert torch.allclose(kd_loss(STUDENT, TEACHER, 4.0), 16 * (target + (1 - t) * rest))


def test_finite_in_low_precision_with_extreme_logits() -> None:
    assert torch.isfinite(kd_loss(STUDENT.float() * 1e4, TEACHER.float() * -1e4, 1.0)).all()


def test_mean_teacher_averages_softened_probabilities() -> None:
    teachers = [Output(TEACHER), Output(STUDENT * 3), Output(TEACHER.flip(1))]
    mean = torch.stack([t.logits.div(4.0).softmax(1) for t in teachers]).mean(0)
    assert torch.allclose(mean_teacher(teachers, 4.0).logits.div(4.0).softmax(1), mean)
    assert mean_teacher(teachers[:1], 4.0) is teachers[0]
