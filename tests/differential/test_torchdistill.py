"""Our distillers against the installed package torchdistill, an independent implementation, on random inputs.

    pip install -e '.[test,differential]'

Skipped where torchdistill is not installed. Where it defines a method differently on purpose, the golden tests
say so; only equal definitions are compared here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from wbcbench.testing import evaluate_distiller

td: Any = pytest.importorskip("torchdistill.losses.mid_level")

G = torch.Generator().manual_seed(0)
BATCH, CLASSES = 9, 6


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=G, dtype=torch.float64)


Loss = Callable[[dict[str, Any], dict[str, Any]], Tensor]
LABELS = torch.arange(BATCH) % CLASSES
STUDENT: dict[str, Any] = {
    "logits": noise(BATCH, CLASSES),
    "embedding": noise(BATCH, 7),
    "maps": [noise(BATCH, 4, 8, 8), noise(BATCH, 5, 8, 8)],
}
TEACHER: dict[str, Any] = {
    "logits": 2 * noise(BATCH, CLASSES),
    "embedding": noise(BATCH, 7),
    "maps": [noise(BATCH, 4, 8, 8), noise(BATCH, 5, 8, 8)],
}
IO = ("m", "output", "m", "output")


def io(value: Tensor) -> dict[str, dict[str, Tensor]]:
    return {"m": {"output": value}}


def of(loss: Any, what: str) -> Loss:
    """A torchdistill loss of one tensor, called on our two sides."""
    return lambda s, t: loss(io(s[what]), io(t[what]), targets=LABELS)


def of_maps(loss: Any, count: int) -> Loss:
    """A torchdistill loss of the first `count` maps, known to it as `0`, `1`, ..."""

    def call(s: dict[str, Any], t: dict[str, Any]) -> Tensor:
        sides = [{str(i): {"output": m} for i, m in enumerate(x["maps"][:count])} for x in (s, t)]
        return loss(*sides)  # type: ignore[no-any-return]

    return call


def times(loss: Loss, factor: float) -> Loss:
    """torchdistill leaves T^2 out where no share is given to the task."""
    return lambda s, t: loss(s, t) * factor


def half(number: int) -> dict[str, str]:
    return {"io": "output", "path": str(number)}


AT_PAIR = {"0": {"student": half(0), "teacher": half(0), "factor": 1.0}}
FSP_PAIR = {
    "0": {
        "student_first": half(0),
        "student_second": half(1),
        "teacher_first": half(0),
        "teacher_second": half(1),
        "factor": 1.0,
    }
}
CC = {"type": "gaussian", "gamma": 0.4, "max_p": 2}

CASES: dict[str, tuple[dict[str, Any], Any, int | None]] = {
    # name: (our parameters, theirs, maps used; None: no maps)
    "lskd": (
        {"temperature": 2.0},
        lambda: times(of(td.LogitStdKDLoss(*IO, temperature=2.0, alpha=0.0, beta=1.0), "logits"), 4.0),
        None,
    ),
    "dist": ({"temperature": 1.0}, lambda: of(td.DISTLoss(*IO), "logits"), None),
    "pkt": ({}, lambda: of(td.PKTLoss(*IO), "embedding"), None),
    "sp_td": ({}, lambda: of(td.SPKDLoss("m", "m", "batchmean"), "embedding"), None),
    "rkd": (
        {"distance": 25.0, "angle": 50.0},
        lambda: of(td.RKDLoss("m", "m", 25.0, 50.0, "mean"), "embedding"),
        None,
    ),
    "at": ({}, lambda: of_maps(td.ATLoss(AT_PAIR, mode="code"), 1), 1),
    "at_paper": ({}, lambda: of_maps(td.ATLoss(AT_PAIR, mode="paper"), 1), 1),
    "fsp_td": ({}, lambda: of_maps(td.FSPLoss(FSP_PAIR), 2), 2),
}


@pytest.mark.parametrize("name", CASES)
def test_same_value_and_gradient(name: str) -> None:
    params, build, maps = CASES[name]
    theirs = build()

    def run(loss: Loss) -> tuple[Tensor, list[Tensor]]:
        student = {
            "logits": STUDENT["logits"].clone().requires_grad_(),
            "embedding": STUDENT["embedding"].clone().requires_grad_(),
            "maps": [m.clone().requires_grad_() for m in STUDENT["maps"][:maps]],
        }
        teacher = {**TEACHER, "maps": TEACHER["maps"][:maps]}
        value = loss(student, teacher)
        value.backward()  # type: ignore[no-untyped-call]
        leaves = [student["logits"], student["embedding"], *student["maps"]]
        return value, [x.grad if x.grad is not None else torch.zeros_like(x) for x in leaves]

    mine, my_gradients = run(lambda s, t: evaluate_distiller(name, s, t, LABELS, **params))
    other, other_gradients = run(theirs)
    assert mine.item() == pytest.approx(other.item(), rel=1e-6)
    assert all(
        torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(my_gradients, other_gradients, strict=True)
    )
