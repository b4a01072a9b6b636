"""Rules for several teachers, against values that CA-MKD's own code gives, and by their invariants.

Inputs are the closed forms of `wbcbench.testing.closed_forms`: three teachers' logits, 4 cells, 5 classes.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from wbcbench_plugins.distillers.logits import Logits
from wbcbench_plugins.routings.aekd import min_norm_weights
from wbcbench_plugins.routings.ca_mkd import confidence_weights
from wbcbench_plugins.routings.ebkd import entropy_weights
from wbcbench_plugins.routings.recruit import balance_loss, keep_top, mixture_loss

from wbcbench.contracts import Output
from wbcbench.testing import closed_forms
from wbcbench.testing.components import component_class
from wbcbench.testing.routings import START

A = closed_forms()
TEACHERS = torch.stack([A["z_t"], A["z_t2"], A["z_t3"]])


def teach(name: str, teachers: Tensor = TEACHERS) -> tuple[float, float]:
    """Value and sum of absolute gradients of KD at T = 4 under a routing."""
    cls = component_class("routing", name)
    student = Output(A["z_s"].clone().requires_grad_(), labels=A["y"])
    distiller = Logits(Logits.Params(temperature=4.0))
    outputs = [Output(t) for t in teachers]
    terms = cls(cls.Params()).teach([distiller] * len(outputs), student, outputs, START)
    loss = torch.stack([v.mean() for v in terms.values()]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.logits.grad is not None
    return loss.item(), student.logits.grad.abs().sum().item()


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [
        ("mean", 0.852563799835, 0.82201226263),
        ("ebkd", 0.57199275396, 0.547821515287),
        ("ca_mkd", 0.283331260246, 0.298441285912),
    ],
)
def test_golden_values(name: str, value: float, gradient: float) -> None:
    assert teach(name) == (pytest.approx(value, rel=1e-9), pytest.approx(gradient, rel=1e-9))


def test_golden_weights() -> None:
    entropy = [
        [0.691226219697, 0.666582527773, 0.717219315312, 0.664156455336],
        [0.681357480873, 0.711283876712, 0.6064129472, 0.702641375238],
        [0.62741629943, 0.622133595514, 0.676367737487, 0.633202169426],
    ]
    confidence = [
        [0.37437661867, 0.319444587556, 0.0976222634212, 0.479593699219],
        [0.354968921642, 0.367196668591, 0.475649155687, 0.0573352544223],
        [0.270654459688, 0.313358743852, 0.426728580892, 0.463071046359],
    ]
    assert torch.allclose(entropy_weights(TEACHERS), torch.tensor(entropy, dtype=torch.float64), rtol=1e-9)
    found = confidence_weights(TEACHERS, A["y"])
    assert torch.allclose(found, torch.tensor(confidence, dtype=torch.float64), rtol=1e-9)
    assert torch.allclose(found.sum(0), torch.ones(4, dtype=torch.float64))


def test_certain_teachers_share_evenly_and_stay_finite() -> None:
    certain = torch.tensor([[[1e4, 0.0]], [[0.0, 1e4]]])
    assert torch.allclose(entropy_weights(certain), torch.full((2, 1), 0.5))


def test_all_to_all_is_the_sum_of_what_mean_averages() -> None:
    assert teach("all_to_all")[0] == pytest.approx(3 * teach("mean")[0])


@pytest.mark.parametrize("name", ["mean", "ebkd", "ca_mkd", "aekd", "all_to_all"])
def test_the_order_of_teachers_does_not_matter(name: str) -> None:
    assert teach(name)[0] == pytest.approx(teach(name, TEACHERS.flip(0))[0], rel=1e-6)


def test_minimum_norm_weights_of_two_gradients_in_closed_form() -> None:
    """min over a in [0, 1] of |a g + (1 - a) h|^2 is at a = h.(h - g) / |g - h|^2, clipped."""
    for g, h in (([3.0, 0.0], [0.0, 1.0]), ([1.0, 1.0], [2.0, 2.0]), ([1.0, 0.0], [-1.0, 0.5])):
        a, b = torch.tensor(g), torch.tensor(h)
        share = (b @ (b - a) / (a - b).pow(2).sum()).clamp(0, 1)
        assert min_norm_weights(torch.stack([a, b]))[0].item() == pytest.approx(share.item(), abs=1e-6)


def test_minimum_norm_of_many_is_no_longer_than_any_other_mixture() -> None:
    g = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 20, generator=g, dtype=torch.float64) + 0.5
    w = min_norm_weights(gradients, steps=500)
    assert w.min() >= 0
    assert w.sum().item() == pytest.approx(1)
    found = (w @ gradients).norm()
    others = torch.rand(2000, 5, generator=g, dtype=torch.float64)
    assert found <= (others / others.sum(1, keepdim=True) @ gradients).norm(dim=1).min() + 1e-3


def test_gate_keeps_the_best_and_is_trained_on_the_label() -> None:
    gate = keep_top(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 9.0]]), 2)
    assert gate[0, 0] == 0
    assert torch.allclose(gate.sum(1), torch.ones(2))
    # all weight on one teacher: its cross-entropy
    alone = torch.zeros(4, 3, dtype=torch.float64)
    alone[:, 1] = 1
    expected = torch.nn.functional.cross_entropy(TEACHERS[1], A["y"], reduction="none")
    assert torch.allclose(mixture_loss(alone, TEACHERS, A["y"]), expected)
    assert balance_loss(torch.full((4, 3), 1 / 3)).item() == pytest.approx(0, abs=1e-6)
    assert balance_loss(alone).item() == pytest.approx(2)
