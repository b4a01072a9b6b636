"""Distillers of logits against values of other implementations, their identities, and their edge cases.

Each golden row names the implementation that gave its value and sum of absolute gradients, on the closed
forms of `wbcbench.testing.golden_inputs`. Loss as in the formula: no outer weight, no task loss.
"""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from wbcbench.testing import evaluate_distiller
from wbcbench.testing.golden_inputs import closed_forms

C = closed_forms()
S, T, Y = C["z_s"], C["z_t"], C["y"]

GOLDEN: list[tuple[str, dict[str, Any], float, float]] = [
    # AberHu/Knowledge-Distillation-Zoo 65470c8, Logits
    ("logit_mse", {}, 2.6519012308, 2.86066137654),
    # Hao840/OFAKD f7bb896, BKD
    ("bkd", {}, 0.769590058381, 0.364254330779),
    # megvii mdistiller a08d46f, dkd_loss: the two parts alone, and together
    ("dkd", {"alpha": 1.0, "beta": 0.0, "temperature": 4.0, "warmup": 0}, 0.531549166954, 0.787527153234),
    ("dkd", {"alpha": 0.0, "beta": 1.0, "temperature": 4.0, "warmup": 0}, 0.920693592196, 1.11233577752),
    ("dkd", {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warmup": 0}, 7.89709790452, 9.32471797743),
    # yzd-v/cls_KD 1e5d48f, NKDLoss and WSLDLoss
    ("nkd", {"gamma": 1.5, "temperature": 1.0}, 2.90654120254, 1.65737324807),
    ("wsld", {"temperature": 2.0}, 4.44539109917, 0.844456571896),
    # hunto/image_classification_sota 6f7a70a, DIST
    ("dist", {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}, 2.15702346204, 1.62879806634),
    ("dist", {"beta": 1.0, "gamma": 1.0, "temperature": 4.0}, 35.43902538, 25.4108825047),
    # sunshangquan/logit-standardization-KD f6e5aa5, kd_loss
    ("lskd", {"temperature": 2.0}, 0.897193229285, 0.869060830903),
    # zju-SWJ/RLD d54578f, rld_loss: together, and the two parts alone
    ("rld", {"alpha": 1.0, "beta": 8.0, "warmup": 0}, 4.99983089806, 6.23111499306),
    ("rld", {"alpha": 1.0, "beta": 0.0, "warmup": 0}, 0.422032773886, 0.73523294012),
    ("rld", {"alpha": 0.0, "beta": 1.0, "warmup": 0}, 0.572224765522, 0.707828606207),
    # zju-SWJ/RLD d54578f, kd_loss(swap(.)), rc_loss, revision_loss
    ("swap", {"temperature": 4.0}, 1.13282949127, 1.32336244018),
    ("rc", {"temperature": 4.0}, 0.0706491374025, 0.301223205116),
    ("revision", {"right": 4.0, "wrong": 1.0, "eta": 0.8}, 15.2283341453, 14.3495650377),
    # Hao840/OFAKD f7bb896, ofa_loss
    ("ofa", {"exponent": 1.0, "temperature": 1.0, "exits": False}, 1.85290300224, 0.959168103429),
    ("ofa", {"exponent": 1.5, "temperature": 1.0, "exits": False}, 1.80319824003, 1.11466202089),
]


def value_and_gradient(name: str, params: dict[str, Any]) -> tuple[Tensor, Tensor]:
    student = S.clone().requires_grad_()
    loss = evaluate_distiller(name, {"logits": student}, {"logits": T}, labels=Y, **params)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    return loss.detach(), student.grad


@pytest.mark.parametrize(("name", "params", "value", "gradient"), GOLDEN)
def test_golden_value_and_gradient(name: str, params: dict[str, Any], value: float, gradient: float) -> None:
    loss, grad = value_and_gradient(name, params)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert grad.abs().sum().item() == pytest.approx(gradient, rel=1e-9)
