"""Distances from the training cells: calibrated, blind to class frequencies, and able to see what changed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from wbcbench.contracts import Output
from wbcbench.errors import RecordError
from wbcbench.evaluation.shift import (
    Evidence,
    Reference,
    image_statistics,
    measure,
    pixel_digests,
    shrunk_covariance,
)

NONE = np.zeros(0, np.uint64)


def cells(count: int, seed: int, by: float = 0.0, classes: tuple[int, ...] = (0, 1, 2)) -> Evidence:
    """Three clusters with correlated features; `by`: a shift of one direction of little spread."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, count)
    mixing = np.random.default_rng(0).normal(size=(8, 8))
    x = rng.normal(size=(count, 8))
    x[:, 0] += by
    values = (x @ mixing + 9 * labels[:, None]).astype(np.float32)
    return Evidence({"network joint": values}, {"network joint": np.ones(count, bool)}, labels)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.fitted("r", 3, cells(400, 1), cells(150, 2), np.arange(5, dtype=np.uint64), NONE)


def alarms(reference: Reference, count: int, **how: object) -> float:
    """Share of 200 batches."""
    found = [reference.judge(cells(count, 10 + i, **how), np.zeros(count, int)).unlike for i in range(200)]  # type: ignore[arg-type]
    return float(np.mean([bool(unlike) for unlike in found]))


@pytest.mark.parametrize("count", [1, 5, 20, 100])
@pytest.mark.parametrize("classes", [(0, 1, 2), (1,)])
def test_cells_of_the_source_raise_no_alarm(reference: Reference, count: int, classes: tuple[int, ...]) -> None:
    assert alarms(reference, count, classes=classes) <= 0.05


@pytest.mark.parametrize("count", [10, 20, 100])
def test_shifted_cells_do(reference: Reference, count: int) -> None:
    assert alarms(reference, count, by=6.0) >= 0.95


def test_one_is_the_distance_of_one_validation_cell_in_a_hundred(reference: Reference) -> None:
    held = reference.judge(cells(150, 2), np.zeros(150, int)).distances
    assert (held > 1).sum() == 2
    fresh = reference.judge(cells(4000, 3), np.zeros(4000, int)).distances
    assert 0.002 < (fresh > 1).mean() < 0.03


def test_cells_that_training_used_do_not_count(reference: Reference) -> None:
    both = Evidence.joined([cells(50, 5, by=9.0), cells(50, 6)])
    used = reference.used_for(np.repeat(np.array([3, 7], np.uint64), 50))
    judged = reference.judge(both, used)
    assert used.tolist() == [1] * 50 + [0] * 50
    assert judged.cells == 50
    assert judged.unlike == ()
    assert judged.distances[:50].min() > 1
    nothing = reference.judge(both, np.ones(100, int))
    assert nothing.score is None
    assert nothing.cells == 0


def test_a_view_with_few_validation_cells_is_left_out() -> None:
    made = Reference.fitted("r", 3, cells(40, 1), cells(11, 2), NONE, NONE)
    judged = made.judge(cells(20, 3), np.zeros(20, int))
    assert made.views == {}
    assert judged.score is None
    assert np.isnan(judged.distances).all()


def test_bytes_keep_everything_and_hold_no_pickle(reference: Reference) -> None:
    data = reference.to_bytes()
    same = Reference.of_bytes(data)
    some = cells(30, 4, by=2.0)
    a, b = (r.judge(some, np.zeros(30, int)) for r in (reference, same))
    np.testing.assert_array_equal(a.distances, b.distances)
    assert (a.scores, same.record, same.training.tolist()) == (b.scores, "r", [0, 1, 2, 3, 4])
    pickled = io.BytesIO()
    np.savez(pickled, meta=np.array([{}], dtype=object))
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    arrays["0.held_out"][7] += 1
    changed = io.BytesIO()
    np.savez_compressed(changed, **arrays)
    for bad in (b"", data[:-30], changed.getvalue(), pickled.getvalue()):
        with pytest.raises(RecordError, match="damaged"):
            Reference.of_bytes(bad)


def test_a_view_sees_the_cells_that_have_its_images() -> None:
    rng = torch.Generator().manual_seed(0)
    images = {m: torch.randn(4, 2, 16, 16, generator=rng) for m in "uv"}
    shared = torch.randn(4, 5, generator=rng)
    outputs = {m: Output(torch.zeros(4, 3), shared, reads=frozenset(m)) for m in "uv"}
    present = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
    found = measure(images, outputs, torch.eye(4, 3), present)
    assert list(found.views) == ["network u", "images u", "images v"]  # one trunk, one view
    assert found.seen["network u"].tolist() == [True, False, False, True]
    assert found.seen["images v"].tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 1.2,
        lambda x: x + 0.3,
        lambda x: torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        lambda x: x.flip(1),
        lambda x: torch.roll(x, 5, 3),
    ],
    ids=["contrast", "brightness", "blur", "channels", "place"],
)
def test_image_statistics_see(change: object) -> None:
    at = torch.linspace(-1, 1, 24)
    blob = torch.exp(-4 * (at[:, None] ** 2 + at[None] ** 2))
    noise = torch.randn(6, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([1.0, -0.5])[:, None, None] * blob + 0.1 * noise
    a, b = image_statistics(x), image_statistics(change(x))  # type: ignore[operator]
    assert ((a - b).abs().mean(0) > 3 * a.std(0)).any()


def test_digests_are_of_pixels() -> None:
    rng = np.random.default_rng(0)
    images = {m: rng.integers(0, 255, (5, 1, 8, 8), dtype=np.uint8) for m in "uv"}
    images["v"][3, 0, 0, 0] ^= 1
    again = {m: x[[3, 0]].copy() for m, x in images.items()}
    found = pixel_digests(images)
    assert len(set(found.tolist())) == 5
    assert pixel_digests(again).tolist() == [found[3], found[0]]
    again["v"][0, 0, 0, 0] ^= 1
    assert pixel_digests(again)[0] != found[3]


def test_covariance_is_that_of_scikit_learn() -> None:
    from sklearn.covariance import ledoit_wolf

    x = np.random.default_rng(0).normal(size=(30, 12)) * np.arange(1, 13)
    np.testing.assert_allclose(shrunk_covariance(x), ledoit_wolf(x, assume_centered=True)[0], rtol=1e-10)
