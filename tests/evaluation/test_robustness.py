"""Missing, corrupt and swapped modalities: closed forms, and networks whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wbcbench.contracts import Cells, Fusion, Output, Outputs, Task
from wbcbench.data.views import ResidentCells
from wbcbench.evaluation.ablation import Examination, shapley, subsets
from wbcbench.evaluation.corrupters import standard
from wbcbench.evaluation.robustness import diversity, examine, kl
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.toys import build_toy

CPU = torch.device("cpu")
COUNT = 90
CORRUPTIONS = {c.name: c for c in standard() if c.fits(vector=False)}


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
    two, seen = torch.cat([q, q]), torch.tensor([True, False])
    assert diversity({"a": two, "b": torch.cat([q, q.flip(1)])}, {"b": seen})["disagreement"] == 0
    assert diversity({"a": two, "b": two}, {"a": seen, "b": ~seen}) == {}, "no cell is shown to both"


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
        damage = [(corrupt(x, ids, s, 0) - x).pow(2).mean().item() for s in corrupt.corruption.strengths]
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
    assert found["passes"] == 1 + 2 * 6 * 5
    assert found["passes_saved"] == 3 + 2 + 2, "subsets, swaps and cross-slot follow from what each network said"
    again = examine(reader(), cells(), torch.arange(COUNT), ("a", "b"))  # type: ignore[arg-type]
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in found.items() if k != "seconds"}


SEPARATE = {
    "best_single", "dempster_shafer", "late_confidence", "late_logit", "late_prob", "late_temperature",
    "late_weighted", "packed", "shared_trunk", "thin_ensemble", "vote",
}  # fmt: skip
"""Whose networks each read one modality, and whose prediction leaves absent ones out."""


def incomplete(count: int = 40) -> ResidentCells:
    """Noisy cells; a fifth lacks `b`, another fifth `a`, two have nothing."""
    rng = np.random.default_rng(3)
    labels = np.arange(count) % 3
    present = np.ones((count, 2), bool)
    present[::5, 1] = present[1::5, 0] = False
    present[:2] = False
    images = {}
    for i, m in enumerate("ab"):
        level = 60 + 40 * labels[:, None, None, None] + rng.normal(0, 20, (count, 1, 16, 16))
        images[m] = np.where(present[:, i, None, None, None], level.clip(1, 255), 0).astype(np.uint8)
    raw = Cells(images=images, labels=labels, classes=("x", "y", "z"), fingerprint="f", present=present)
    return ResidentCells(raw, ("a", "b"), np.arange(count), CPU)


def trained(name: str) -> Fusion:
    """Not trained, but no mere guess either: weights are large, so that answers differ by cell."""
    cls = component_class("fusion", name)
    fusion = build_toy(cls, Task({"a": 1, "b": 1}, ("x", "y", "z"), 16))
    with torch.no_grad():
        for p in fusion.parameters():
            p.mul_(2.0)
    return fusion


def several() -> list[str]:
    return [c.name for c in registry().components("fusion")
            if c.builtin and component_class("fusion", c.name).traits.arity[1] != 1]  # fmt: skip


@pytest.mark.parametrize("name", several())
def test_passes_are_saved_only_where_nothing_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows from stored logits is what further passes say, on incomplete cells too."""
    cells, ids = incomplete(), torch.arange(39, -1, -1)
    found = examine(trained(name), cells, ids, ("a", "b"), corruptions=())
    assert found["passes"] == (1 if name in SEPARATE else 1 + 2 + 2 + 2 * ("cross_slot" in found))
    monkeypatch.setattr(Examination, "separate", False)
    again = examine(trained(name), cells, ids, ("a", "b"), corruptions=())
    assert again["passes"] > found["passes"] or name not in SEPARATE
    assert again["passes_saved"] == 1, "the full subset is the clean pass"
    for cost in ("passes", "passes_saved", "seconds"):
        del found[cost], again[cost]
    assert flat(found) == pytest.approx(flat(again), abs=1e-5)


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Numbers by their path."""
    numbers = {}
    for key, value in found.items():
        if isinstance(value, dict):
            numbers |= {f"{key}.{k}": v for k, v in flat(value).items()}
        elif isinstance(value, int | float):
            numbers[key] = float(value)
    return numbers


def test_a_subset_is_judged_by_the_cells_that_have_it() -> None:
    cells, ids = incomplete(), torch.arange(40)
    fusion = trained("late_prob")
    found = examine(fusion, cells, ids, ("a", "b"))
    present = cells.present(ids, ("a", "b"))
    assert present is not None
    have = {"a": present[:, 0], "b": present[:, 1], "a+b": present.all(1)}
    assert found["subset_cells"] == {s: int(rows.sum()) for s, rows in have.items()}
    assert found["subset_cells"] == {"a": 31, "b": 31, "a+b": 24}
    with torch.no_grad():
        outputs = fusion.eval()({m: cells.images(ids, m) for m in "ab"})
    for m in "ab":
        rows = have[m]
        right = (outputs[m].logits.argmax(1) == cells.labels)[rows].float().mean().item()
        assert found["subsets"][m]["accuracy"] == pytest.approx(right)
    whole = have["a+b"]
    p = torch.stack([outputs[m].logits.softmax(1) for m in "ab"]).mean(0)
    both = p[whole].argmax(1)
    recall = [(both == k)[cells.labels[whole] == k].float().mean().item() for k in range(3)]
    assert sum(found["shapley"].values()) == pytest.approx(np.mean(recall) - 1 / 3), "on cells that have all"


def test_a_subset_that_no_cell_has_is_left_out() -> None:
    present = np.zeros((12, 2), bool)
    present[:, 0] = True
    images = {m: np.full((12, 1, 16, 16), i * 9, np.uint8) for i, m in enumerate("ba")}
    images = {"a": images["a"], "b": images["b"]}
    raw = Cells(images=images, labels=np.arange(12) % 3, classes=("x", "y", "z"), fingerprint="f", present=present)
    resident = ResidentCells(raw, ("a", "b"), np.arange(12), CPU)
    found = examine(trained("mean"), resident, torch.arange(12), ("a", "b"))
    assert found["subset_cells"] == {"a": 12, "b": 0, "a+b": 0}
    assert set(found["subsets"]) == {"a"}
    assert "shapley" not in found
    assert found["worst_subset"]["modalities"] == ["a"]


def test_absent_images_stay_blank_and_presence_moves_with_the_images() -> None:
    """In every pass: an image is there exactly where `present` says so."""
    seen = []

    class Watched(component_class("fusion", "mean")):  # type: ignore[misc]
        def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
            if present is not None and len(present) > 1:
                there = torch.stack([(x != 0).flatten(1).any(1) for x in images.values()], 1)
                assert torch.equal(there, present)
                seen.append(present)
            found: Outputs = super().forward(images, present, maps)
            return found

    fusion = build_toy(Watched, Task({"a": 1, "b": 1}, ("x", "y", "z"), 16))
    found = examine(fusion, incomplete(), torch.arange(40), ("a", "b"))
    assert len(seen) == found["passes"] == 1 + 2 + 2 + 60
    swapped = [p for p in seen if int(p.sum()) == int(seen[0].sum()) and not torch.equal(p, seen[0])]
    assert len(swapped) == 2, "both permutations show what other cells have and lack"


def test_what_is_deployed_for_a_subset_is_counted() -> None:
    late, early = (examine(trained(n), cells(), torch.arange(COUNT), ("a", "b")) for n in ("late_prob", "early"))
    cost = late["subset_cost"]
    assert late["missing"] == "native"
    assert cost["a+b"] == {k: cost["a"][k] + cost["b"][k] for k in ("params", "macs")}
    assert early["missing"] == "impute"
    assert early["subset_cost"]["a"] == early["subset_cost"]["a+b"]
