"""Missing, corrupt and swapped modalities: closed forms, and networks whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from wbcbench.contracts import Cells, Output, Outputs, Task
from wbcbench.data.resident import ResidentCells
from wbcbench.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from wbcbench.evaluation.robustness import diversity, examine, kl
from wbcbench.evaluation.shapley import shapley, subsets
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import build_toy

CPU = torch.device("cpu")
COUNT = 90


def cells() -> ResidentCells:
    """Modality `a` shows the class as brightness, `b` shows nothing of it."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 3
    a = np.repeat(labels * 60 + 60, 256).reshape(COUNT, 1, 16, 16).astype(np.uint8)
    b = rng.integers(0, 256, (COUNT, 1, 16, 16), dtype=np.uint8)
    raw = Cells(images={"a": a, "b": b}, labels=labels, classes=("x", "y", "z"), fingerprint="f")
    return ResidentCells(raw, ("a", "b"), np.arange(COUNT), CPU)


def reader() -> torch.nn.Module:
    """A fusion of two heads: `a` reads the class off the brightness, `b` says always the first class."""
    base = component_class("fusion", "late_prob")

    class Reader(base):  # type: ignore[misc, valid-type]
        def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
            level = images["a"].mean((1, 2, 3))
            distance = -((level[:, None] - torch.tensor([-1.2247, 0.0, 1.2247])) ** 2) * 20
            constant = torch.tensor([1.0, 0.0, 0.0]).expand(len(level), 3)
            return {
                "a": Output(distance, reads=frozenset({"a"})),
                "b": Output(constant, reads=frozenset({"b"})),
            }

    task = Task({"a": 1, "b": 1}, ("x", "y", "z"), 16)
    return build_toy(Reader, task)


def test_subsets_smaller_first() -> None:
    assert subsets(("a", "b", "c")) == [
        ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c"),
    ]  # fmt: skip


def test_shapley_in_closed_form_and_adding_up() -> None:
    """Two players: phi_a = [v(a) - v() + v(ab) - v(b)] / 2."""
    found = shapley({("a",): 0.5, ("b",): 0.3, ("a", "b"): 0.9}, 0.2)
    assert found == {"a": pytest.approx((0.3 + 0.6) / 2), "b": pytest.approx((0.1 + 0.4) / 2)}
    rng = np.random.default_rng(1)
    values = {s: float(rng.random()) for s in subsets("abcd")}
    assert sum(shapley(values, 0.1).values()) == pytest.approx(values[tuple("abcd")] - 0.1)
    # a player that never changes anything gets nothing
    idle = {s: float("a" in s) for s in subsets("abc")}
    assert shapley(idle, 0.0) == {"a": pytest.approx(1), "b": pytest.approx(0), "c": pytest.approx(0)}


def test_kl_and_diversity() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    assert kl(p, q).item() == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    assert kl(p, p).item() == 0
    same = diversity({"a": q, "b": q})
    assert same == {"disagreement": 0.0, "kl": 0.0}
    assert diversity({"a": q, "b": q.flip(1)})["disagreement"] == 1


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_is_seeded_by_cell_and_grows_with_its_strength(kind: str) -> None:
    x, ids = torch.randn(6, 2, 24, 24, generator=torch.Generator().manual_seed(0)), torch.arange(10, 16)
    corrupt = CORRUPTIONS[kind]
    whole = corrupt(x, ids, 0.6, 0)
    assert torch.allclose(corrupt(x[2:3], ids[2:3], 0.6, 0), whole[2:3], atol=1e-5)
    assert whole.shape == x.shape
    damage = [(corrupt(x, ids, s / 5, 0) - x).pow(2).mean().item() for s in (1, 3, 5)]
    assert damage[0] < damage[1] < damage[2]
    if kind not in ("blur", "defocus"):
        assert not torch.equal(whole, corrupt(x, ids, 0.6, 1))


@pytest.mark.parametrize("side", [16, 24, 28, 40, 64])
def test_every_severity_damages_cells_more_than_the_one_before(side: int) -> None:
    """On rendered cells, whatever their size, 0 < d1 < .. < d5, and severity 1 is no mere rounding."""
    synthetic = component_class("dataset", "synthetic")
    raw = synthetic(synthetic.Params(cells=60, image_size=side)).load().images["brightfield"]
    x, ids = torch.from_numpy(raw[:24]).float(), torch.arange(24)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    for kind, corrupt in CORRUPTIONS.items():
        damage = [(corrupt(x, ids, s / len(SEVERITIES), 0) - x).pow(2).mean().item() for s in SEVERITIES]
        steps = zip([1e-3, *damage], damage, strict=False)
        assert all(less < more for less, more in steps), f"{kind} at {side} px: {damage}"


def test_blurs_keep_the_brightness_of_a_flat_image() -> None:
    flat = torch.full((1, 1, 20, 20), 0.7)
    for kind in ("blur", "defocus", "misregistration"):
        for strength in (0.2, 1.0):
            assert torch.allclose(CORRUPTIONS[kind](flat, torch.tensor([0]), strength, 0), flat, atol=1e-5)


def test_a_network_that_reads_one_modality_is_found_out() -> None:
    found = examine(reader(), cells(), torch.arange(COUNT), ("a", "b"))  # type: ignore[arg-type]
    assert found["clean"]["accuracy"] == 1
    assert found["subsets"]["a"]["accuracy"] == 1
    assert found["subsets"]["b"]["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["worst_subset"]["modalities"] == ["b"]
    assert found["shapley"] == {"a": pytest.approx(2 / 3), "b": pytest.approx(0, abs=1e-9)}
    assert found["permutation_drop"]["a"] > 0.5
    assert found["permutation_drop"]["b"] == 0
    assert found["cross_slot"] == {"a": 0.0, "b": 0.0}
    assert found["diversity"]["disagreement"] == pytest.approx(2 / 3)
    assert found["retained"]["b"]["noise"] == 1
    assert found["retained"]["a"]["misregistration"] == 1  # its evidence is flat
    assert found["passes"] == 1 + 3 + 2 + 2 * 6 * 5 + 2
    again = examine(reader(), cells(), torch.arange(COUNT), ("a", "b"))  # type: ignore[arg-type]
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in found.items() if k != "seconds"}
