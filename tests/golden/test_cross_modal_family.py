"""Distillers across modalities against numpy, direct permutation, and their invariants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers.mad import mad_loss
from wbcbench_plugins.distillers.modality_focus import MOMENTUM, ModalityFocus, kept, saliency
from wbcbench_plugins.distillers.sp import sp_loss

from wbcbench.contracts import Output, PairShapes, Progress
from wbcbench.errors import IncompatibleError
from wbcbench.testing import closed_forms
from wbcbench.testing.toys import toy_draw

C = closed_forms()
F_S, F_T = C["f_s"], C["f_t"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- margin-aware distillation -----------------------------------------------------------------------------------


def test_mad_is_the_weighted_distance_of_numpy() -> None:
    z = 2 * randn(len(F_S), 4)
    s, t = (f.numpy() @ f.numpy().T for f in (F_S, F_T))
    s, t = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in (s, t))
    p = np.exp(z.numpy()) / np.exp(z.numpy()).sum(1, keepdims=True)
    entropy = -(p * np.log(p)).sum(1)
    expected = ((s - t) ** 2 * (entropy / entropy.sum())[None]).sum()
    assert mad_loss(F_S, F_T, z).mean().item() == pytest.approx(expected)


def test_mad_of_equal_entropies_is_sp_times_the_batch() -> None:
    z = torch.zeros(len(F_S), 4, dtype=torch.float64)
    assert torch.allclose(mad_loss(F_S, F_T, z), len(F_S) * sp_loss(F_S, F_T))
    assert torch.allclose(mad_loss(F_T * 3, F_T, z), torch.zeros(len(F_T), dtype=torch.float64), atol=1e-12)


def test_mad_has_gradients_and_survives_a_teacher_that_is_sure() -> None:
    z, student = randn(5, 3), randn(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: mad_loss(f, randn(5, 6, seed=2), z), student)
    sure = 1e4 * F.one_hot(torch.arange(5) % 3, 3).double()
    assert torch.isfinite(mad_loss(student, randn(5, 6, seed=2), sure)).all()


# --- modality focusing -------------------------------------------------------------------------------------------


def test_saliency_is_the_distance_after_permuting_one_feature() -> None:
    h, w, b, student = randn(6, 5), randn(3, 5, seed=1), randn(3, seed=2), randn(6, 3, seed=3)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    found = saliency(student, h, h @ w.T + b, w, order)
    for d in range(5):
        permuted = h.clone()
        permuted[:, d] = h[order, d]
        assert found[d].item() == pytest.approx(F.mse_loss(student, permuted @ w.T + b).item())


def test_the_most_salient_features_are_kept() -> None:
    s = torch.tensor([0.3, 0.9, 0.1, 0.5])
    assert kept(s, 0.5).tolist() == [0, 1, 0, 1]
    assert kept(s, 0.75).tolist() == [0, 1, 0, 0]
    assert kept(s, 0.0).tolist() == [1, 1, 1, 1]


def test_features_that_the_student_cannot_have_are_taken_out() -> None:
    """Two features decide; the student's modality knows the first. Alg. 1 must rank it first."""
    shared, private = randn(512, 1), randn(512, 1, seed=1)
    h = torch.cat([shared, private], 1)
    head = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    student = Output(shared @ torch.tensor([[1.0, -1.0]], dtype=torch.float64))
    distiller = ModalityFocus(ModalityFocus.Params(ratio=0.5)).double()
    distiller.setup(PairShapes(2, 512, 512, teacher_embedding=2))
    teacher = Output(head(h).detach(), h, head=head)
    value = distiller.terms(student, teacher, Progress(0, 1, 0, 1, toy_draw()))["kl"]
    assert kept(distiller.saliencies, 0.5).tolist() == [1, 0]
    assert value.abs().max() < 1e-12, "what is left of the teacher is what the student says"


def test_saliencies_are_a_moving_average() -> None:
    head = nn.Linear(3, 2).double()
    distiller = ModalityFocus(ModalityFocus.Params()).double()
    distiller.setup(PairShapes(2, 8, 8, teacher_embedding=3, key="u/0"))
    seen = []
    for step in range(2):
        h, draw = randn(8, 3, seed=step), toy_draw(step=step)
        student = Output(randn(8, 2, seed=10 + step))
        distiller.terms(student, Output(head(h).detach(), h, head=head), Progress(0, 1, 0, 1, draw))
        order = draw.permutation(8, "modality_focus:u/0")
        seen.append(saliency(student.logits, h, head(h), head.weight, order).detach())
    expected = MOMENTUM * seen[0] + (1 - MOMENTUM) * seen[1]
    assert torch.allclose(distiller.saliencies.double(), expected, atol=1e-6)


def test_a_teacher_without_features_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="features"):
        ModalityFocus(ModalityFocus.Params()).setup(PairShapes(2, 8, 8))
