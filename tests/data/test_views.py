"""Views: a function of (seed, epoch, cell, modality), geometry shared, normalisation right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wbcbench.contracts import Batch, Cells
from wbcbench.data.views import (
    ResidentCells,
    Views,
    affine,
    erase,
    fill_images,
    moments,
    pixel_places,
    sampling_grid,
)
from wbcbench.spec import Augmentation

CPU = torch.device("cpu")
TURNED = Augmentation(interpolate=True, scale=0.1)
STILL = Augmentation(flip=False, rotate=0, scale=0, shift=0, intensity=0, noise=0, cutout=0)


def cells(n: int = 12, present: bool = False) -> Cells:
    rng = np.random.default_rng(0)
    return Cells(
        images={
            "a": rng.integers(0, 256, (n, 3, 16, 16), dtype=np.uint8),
            "b": rng.integers(0, 65536, (n, 1, 16, 16), dtype=np.uint16),
        },
        labels=np.arange(n) % 2,
        classes=("x", "y"),
        fingerprint="f",
        present=np.tile([[True, True], [True, False]], (n // 2, 1)) if present else None,
    )


def resident(**kwargs: bool) -> ResidentCells:
    return ResidentCells(cells(**kwargs), ("a", "b"), np.arange(8), CPU)


def test_normalised_by_training_cells_in_8_and_16_bit() -> None:
    r = resident()
    train = torch.arange(8)
    for m in ("a", "b"):
        x = r.images(train, m)
        assert x.mean((0, 2, 3)).abs().max() < 1e-3
        assert (x.std((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3
    raw = cells().images["b"]
    mean, std = moments(raw, np.arange(8))
    expected = (raw[9].astype(np.float64) - mean[:, None, None]) / std[:, None, None]
    assert np.allclose(r.images(torch.tensor([9]), "b")[0].numpy(), expected, atol=1e-3)


def test_a_view_does_not_depend_on_batch_or_order() -> None:
    views = Views(resident(), TURNED.model_copy(update={"cutout": 0.2}), seed=3)
    whole = views.epoch(1)("a", torch.arange(12))
    assert torch.equal(views.epoch(1)("a", torch.tensor([7, 2])), whole[[7, 2]])
    views.epoch(2)  # looking at another epoch in between changes nothing
    assert torch.equal(views.epoch(1)("a", torch.arange(12)), whole)


def test_seed_epoch_and_cell_all_matter() -> None:
    r = resident()
    base = Views(r, Augmentation(), 0).epoch(0)("a", torch.arange(12))
    assert not torch.equal(base, Views(r, Augmentation(), 1).epoch(0)("a", torch.arange(12)))
    assert not torch.equal(base, Views(r, Augmentation(), 0).epoch(1)("a", torch.arange(12)))


def test_geometry_is_shared_by_modalities_and_intensity_is_not() -> None:
    same = cells()
    same.images["b"] = same.images["a"][:, :1].copy()
    r = ResidentCells(same, ("a", "b"), np.arange(12), CPU)
    geometry = Augmentation(intensity=0, noise=0, interpolate=True, scale=0.1)
    views = Views(r, geometry, 0).epoch(0)
    assert torch.allclose(views("a", torch.arange(12))[:, :1], views("b", torch.arange(12)), atol=1e-5)
    intensity = Augmentation(flip=False, rotate=0, scale=0, shift=0, noise=0)
    views = Views(r, intensity, 0).epoch(0)
    assert not torch.allclose(views("a", torch.arange(12))[:, :1], views("b", torch.arange(12)), atol=1e-2)


def test_no_augmentation_is_the_plain_image() -> None:
    r = resident()
    assert torch.equal(Views(r, STILL, 0).epoch(5)("a", torch.arange(12)), r.images(torch.arange(12), "a"))


def test_absent_images_are_zero_in_views_and_in_plain_images() -> None:
    r = resident(present=True)
    ids = torch.arange(12)
    for x in (Views(r, TURNED, 0).epoch(0)("b", ids), r.images(ids, "b")):
        assert x[1::2].abs().max() == 0
        assert x[0::2].abs().amin((1, 2, 3)).max() >= 0
        assert (x[0::2].flatten(1).std(1) > 0.1).all()
    assert r.present(ids, ("b", "a"))[:2].tolist() == [[True, True], [False, True]]  # type: ignore[index]


def test_kept_views_are_the_views_and_nobody_can_spoil_them() -> None:
    fresh, kept = (Views(resident(present=True), TURNED.model_copy(update={"cutout": 0.3}), 5) for _ in range(2))
    kept.keeps = True
    for ids in (torch.arange(4), torch.arange(4, 9), torch.arange(4, 9)):
        for m in ("a", "b"):
            first = kept.epoch(2)(m, ids)
            assert torch.equal(first, fresh.epoch(2)(m, ids))
            first.zero_()
            assert torch.equal(kept.epoch(2)(m, ids), fresh.epoch(2)(m, ids))
    assert torch.equal(kept.epoch(3)("a", ids), fresh.epoch(3)("a", ids))


@pytest.mark.parametrize(("views", "side"), [(1, 16), (7, 28), (64, 33), (64, 64)])
def test_sampling_grid_is_affine_grid_to_the_bit(views: int, side: int) -> None:
    theta = torch.eye(2, 3) + 0.3 * torch.randn(views, 2, 3, generator=torch.Generator().manual_seed(side))
    there = torch.nn.functional.affine_grid(theta, [views, 3, side, side], align_corners=False)
    assert torch.equal(sampling_grid(theta, pixel_places(side)), there)


def test_affine_matrices() -> None:
    one, zero = torch.ones(1), torch.zeros(1)
    assert torch.allclose(affine(zero, one, one, zero, zero), torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]]))
    quarter = affine(one * torch.pi / 2, one * 2, one, one * 0.25, zero)
    assert torch.allclose(quarter, torch.tensor([[[0, -0.5, 0.25], [0.5, 0, 0]]]), atol=1e-6)
    mirrored = affine(zero, one, -one, zero, zero)
    assert torch.allclose(mirrored, torch.tensor([[[-1.0, 0, 0], [0, 1.0, 0]]]), atol=1e-6)


def test_erase_cuts_a_square() -> None:
    x = torch.ones(1, 1, 10, 10)
    hole = erase(x, torch.tensor([0.5]), torch.tensor([0.3]), 0.4)
    assert hole.sum() == 100 - 16
    assert hole[0, 0, 1:5, 3:7].abs().sum() == 0


def test_without_interpolation_every_view_is_the_same_pixels_in_another_place() -> None:
    still = Augmentation(rotate=180, scale=0, shift=0, intensity=0, noise=0, interpolate=False)
    r = resident()
    views, seen = Views(r, still, seed=3), set()
    for epoch in range(8):
        for cell in range(8):
            x = views.epoch(epoch)("a", torch.tensor([cell]))[0]
            plain = r.images(torch.tensor([cell]), "a")[0]
            whole = [torch.rot90(f, k, (1, 2)) for f in (plain, plain.flip(2)) for k in range(4)]
            match = [i for i, w in enumerate(whole) if torch.equal(w, x)]
            assert len(match) == 1, "a view is none of the eight symmetries of the square"
            seen.add(match[0])
    assert seen == set(range(8))


def test_shifts_without_interpolation_are_whole_pixels() -> None:
    r = resident()
    moved = Augmentation(flip=False, rotate=0, scale=0, shift=0.2, intensity=0, noise=0, interpolate=False)
    x = Views(r, moved, seed=0).epoch(0)("a", torch.arange(8))
    plain = r.images(torch.arange(8), "a")
    assert not torch.equal(x, plain)
    for cell in range(8):
        assert set(x[cell].flatten().tolist()) <= set(plain[cell].flatten().tolist())


def test_zoom_needs_interpolation() -> None:
    with pytest.raises(ValueError, match="set scale to 0"):
        Augmentation(scale=0.1, interpolate=False)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("rows", [[2, 0, 1, 3], [1, 1, 0, 0, 2, 3, 2, 3], [3]])
def test_a_row_shows_the_view_of_its_cell(rows: list[int], keeps: bool) -> None:
    """However many rows there are, and whether or not the views are kept for a teacher."""
    views = Views(resident(present=True), TURNED, seed=0)
    views.keeps = keeps
    ids = torch.tensor([5, 0, 7, 2])
    epoch = views.epoch(1)
    batch = Batch(cells=ids, labels=ids, rows={"a": torch.tensor(rows)}, modalities=("a", "b"))
    fill_images(batch, epoch, ("a", "b"))
    assert torch.equal(batch.images["a"], epoch("a", ids)[rows])
    assert torch.equal(batch.images["b"], epoch("b", ids))


@pytest.mark.parametrize("interpolate", [False, True])
def test_a_teacher_sees_its_students_views_at_its_own_side(interpolate: bool) -> None:
    """The same flips, turns, shifts, gains and offsets of the same cells, pixel for pixel if none is blurred."""
    small, ids = cells(), torch.arange(12)
    large = cells()
    large.images = {m: x.repeat(2, 2).repeat(2, 3) for m, x in small.images.items()}
    seen = Augmentation(noise=0, shift=0.2, interpolate=interpolate)
    student = Views(ResidentCells(small, ("a", "b"), np.arange(8), CPU), seen, 3)
    resident = ResidentCells(large, ("a", "b"), np.arange(8), CPU)
    teacher, alone = Views(resident, seen, 3, student_side=16), Views(resident, seen, 3)
    for m in ("a", "b"):
        mine, theirs = student.epoch(1)(m, ids), teacher.epoch(1)(m, ids)
        shrunk = torch.nn.functional.avg_pool2d(theirs, 2)
        if interpolate:
            assert torch.corrcoef(torch.stack([shrunk.flatten(), mine.flatten()]))[0, 1] > 0.9
        else:
            torch.testing.assert_close(shrunk, mine, atol=1e-4, rtol=0)
            assert not torch.equal(theirs, alone.epoch(1)(m, ids)), "whole pixels of its own only"


def test_a_teachers_pixels_stay_as_measured() -> None:
    """At one and a half times the student's side a whole pixel of the student's is none of the teacher's."""
    raw = cells()
    raw.images = {m: np.tile(np.arange(24, dtype=np.uint8), (12, 1, 24, 1)) for m in ("a", "b")}
    moved = STILL.model_copy(update={"shift": 0.3})
    views = Views(ResidentCells(raw, ("a", "b"), np.arange(8), CPU), moved, 0, student_side=16)
    steps = views.epoch(0)("a", torch.arange(12))[:, 0, 0].diff()
    inside = steps[:, 8:-8]
    torch.testing.assert_close(inside, inside[:1, :1].expand_as(inside))
