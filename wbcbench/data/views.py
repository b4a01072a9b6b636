"""Cells on the device, random views of them (functions of seed, epoch, cell, modality), and an epoch's batches."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Batch, Cells, Draw, Task, over_rows
from wbcbench.data.counter import counter_hash, permutation, uniform
from wbcbench.spec import Augmentation

_CHUNK = 2048


@dataclass
class Modality:
    """One modality's images or vectors, and their normalisation."""

    images: Tensor
    """[N, C, S, S] uint8, or int16 holding a 16-bit image minus 32768; or [N, F] float32 of a vector, in which
    missing numbers are the median."""
    mean: Tensor
    """[C], of raw pixel values over training cells that have the modality; [F], of a vector's numbers."""
    std: Tensor
    """[C] or [F]."""
    median: Tensor | None = None
    """[F], of each number of a vector over the training cells that have it; None for images."""

    def gather(self, cells: Tensor) -> Tensor:
        """[B, C, S, S] or [B, F] float32, mean 0 and sd 1 over the training cells."""
        if self.median is not None:
            return standardised(self.images[cells], self.mean, self.std)
        x = self.images[cells].to(torch.float32)
        offset = 32768.0 if self.images.dtype == torch.int16 else 0.0
        scale = 1.0 / self.std
        return torch.addcmul(
            ((offset - self.mean) * scale)[:, None, None], x, scale[:, None, None]
        )  # one pass: x / std + (offset - mean) / std


class ResidentCells:
    """What training reads: images, labels and availability, all on one device."""

    def __init__(self, cells: Cells, modalities: tuple[str, ...], train: np.ndarray, device: torch.device) -> None:
        """Copy the given modalities to `device`; the cells `train` [n] determine the normalisation."""
        self.device = device
        self.classes = cells.classes
        self.labels = torch.as_tensor(cells.labels, dtype=torch.int64, device=device)
        columns = {m: i for i, m in enumerate(cells.images)}
        self.features = dict(cells.features)
        """Modality that is a vector -> names of its numbers."""
        self.incomplete = frozenset(cells.incomplete)
        """Modalities that some cells of the set lack."""
        self._present: dict[str, Tensor] | None = None
        if cells.present is not None:
            self._present = {
                m: torch.as_tensor(np.ascontiguousarray(cells.present[:, column]), device=device)
                for m, column in columns.items()
            }
        self.modalities: dict[str, Modality] = {}
        for m in modalities:
            have = train if cells.present is None else train[cells.present[train, columns[m]]]
            if m in cells.features:
                self.modalities[m] = resident_vector(cells.images[m], have, device)
                continue
            mean, std = moments(cells.images[m], have)
            self.modalities[m] = Modality(
                images=_to_tensor(cells.images[m]).to(device),
                mean=torch.tensor(mean, dtype=torch.float32, device=device),
                std=torch.tensor(std, dtype=torch.float32, device=device),
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> int:
        """Side of the images; 0 without any."""
        return next((int(m.images.shape[-1]) for m in self.modalities.values() if m.median is None), 0)

    def task(self, modalities: tuple[str, ...]) -> Task:
        """The task of a network that reads these modalities."""
        channels = {m: int(self.modalities[m].images.shape[1]) for m in modalities}
        vectors = frozenset(m for m in modalities if self.modalities[m].median is not None)
        return Task(channels, self.classes, self.image_size, vectors)

    def present(self, cells: Tensor, modalities: tuple[str, ...]) -> Tensor | None:
        """[B, M] bool, or None if no cell of the set lacks a modality."""
        if self._present is None:
            return None
        return torch.stack([self._present[m][cells] for m in modalities], 1)

    def images(self, cells: Tensor, modality: str) -> Tensor:
        """[B, C, S, S] or [B, F], normalised and unaugmented; zero (the training mean) for cells that lack it."""
        return self.mask_absent(self.modalities[modality].gather(cells), cells, modality)

    def mask_absent(self, x: Tensor, cells: Tensor, modality: str) -> Tensor:
        """`x` with the rows of cells that lack the modality set to zero."""
        if self._present is None:
            return x
        return x * over_rows(self._present[modality][cells], x)


def moments(images: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd [C] of raw pixel values over the given cells, in float64; a flat channel gets sd 1."""
    channels = images.shape[1]
    if len(cells) == 0:
        return np.zeros(channels), np.ones(channels)
    total, square, count = np.zeros(channels), np.zeros(channels), 0
    for start in range(0, len(cells), _CHUNK):
        x = images[cells[start : start + _CHUNK]].astype(np.float64)
        total += x.sum((0, 2, 3))
        square += (x * x).sum((0, 2, 3))
        count += x.shape[0] * x.shape[2] * x.shape[3]
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0.0))
    return mean, np.where(std > 1e-6, std, 1.0)


def resident_vector(values: np.ndarray, cells: np.ndarray, device: torch.device) -> Modality:
    """Vectors [N, F] on the device, with missing numbers replaced by the median of the training cells `cells`."""
    mean, std, median = vector_moments(values, cells)
    return Modality(
        images=torch.from_numpy(np.where(np.isnan(values), median, values).astype(np.float32)).to(device),
        mean=torch.tensor(mean, dtype=torch.float32, device=device),
        std=torch.tensor(std, dtype=torch.float32, device=device),
        median=torch.tensor(median, dtype=torch.float32, device=device),
    )


def vector_moments(values: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, sd and median [F] of the numbers that the given cells have, in float64.

    A number that hardly varies gets sd 1; one that no cell has, mean and median 0.
    """
    mean, std, median = np.zeros(values.shape[1]), np.ones(values.shape[1]), np.zeros(values.shape[1])
    for i, column in enumerate(values[cells].astype(np.float64).T):
        given = column[~np.isnan(column)]
        if len(given):
            mean[i], median[i], sd = given.mean(), np.median(given), given.std()
            std[i] = sd if sd > 1e-6 * np.abs(given).max() else 1.0
    return mean, std, median


def standardised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """[B, F] numbers in sd from the mean; the mean is taken off first, since it may be much larger than the sd."""
    return (x - mean) * (1.0 / std)


def laid_out(x: Tensor) -> Tensor:
    """The same values as networks read them fastest: images with channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()


def _to_tensor(array: np.ndarray) -> Tensor:
    if array.dtype == np.uint16:
        # torch has no arithmetic on uint16; shifting to int16 keeps every value at the same memory.
        return torch.from_numpy((np.asarray(array).astype(np.int32) - 32768).astype(np.int16))
    return torch.from_numpy(np.array(array, dtype=np.uint8))


_BANK = 1 << 20


class Views:
    """Makes the views of one seed, epoch by epoch."""

    def __init__(
        self, cells: ResidentCells, augmentation: Augmentation, seed: int, student_side: int | None = None
    ) -> None:
        """`student_side`: for a teacher with another image side, that of the student whose views these repeat:
        the same flips, turns, shifts, gains and offsets of the same cells, with as many pixels as the teacher
        reads. Noise is drawn for each of its pixels."""
        self.cells = cells
        self.augmentation = augmentation
        self.seed = seed
        self.sides = [s for s in (student_side, cells.image_size) if s]
        """Without interpolation, shifts are rounded to whole pixels of the first, then of the next."""
        self.keeps = False
        """Whether the latest batch's views are kept: live teachers must see the same views as the student."""
        self._bank: Tensor | None = None
        self._places: Tensor | None = None
        self._cached: EpochViews | None = None

    def epoch(self, epoch: int) -> EpochViews:
        """The views of one epoch; those of the latest are cached."""
        if self._cached is None or self._cached.epoch != epoch:
            self._cached = EpochViews(self, epoch)
        return self._cached

    def places(self) -> Tensor:
        """[3, S * S]: x, y and 1 of every pixel, for `sampling_grid`."""
        if self._places is None:
            self._places = pixel_places(self.cells.image_size).to(self.cells.device)
        return self._places

    def noise_bank(self, length: int) -> Tensor:
        """A fixed array of Gaussian noise, as all its windows of `length`; a view reads a random one.

        Drawing new normals per pixel costs more than a small network's step. A window into an array of
        a million values costs one gather, and there are a million windows.
        """
        if self._bank is None or len(self._bank) < _BANK + length:
            generator = torch.Generator().manual_seed(20220817)
            field = torch.randn(_BANK + length, generator=generator)
            self._bank = field.to(self.cells.device)
        return self._bank.unfold(0, length, 1)


class EpochViews:
    """All views of one epoch: call it with a modality and cell ids to get images."""

    def __init__(self, views: Views, epoch: int) -> None:
        self.epoch = epoch
        self._views = views
        a, n, seed = views.augmentation, len(views.cells), views.seed
        device = views.cells.device
        ids = torch.arange(n, device=device)

        def signed(what: str) -> Tensor:
            return uniform(seed, "view", epoch, what, ids) * 2 - 1

        self._theta: Tensor | None = None
        self._mode = "bilinear" if a.interpolate else "nearest"
        if a.flip or a.rotate or a.scale or a.shift:
            angle, dx, dy = signed("angle") * math.radians(a.rotate), signed("dx"), signed("dy")
            dx, dy = dx * 2 * a.shift, dy * 2 * a.shift
            if not a.interpolate:
                quarter = math.pi / 2
                turns = (angle / quarter).floor() if a.rotate == 180 else (angle / quarter).round()
                angle = turns * quarter
                for half in (side / 2 for side in views.sides):
                    dx, dy = (dx * half).round() / half, (dy * half).round() / half
            self._theta = affine(
                angle=angle,
                zoom=1 + signed("zoom") * a.scale,
                mirror=torch.where(signed("flip") < 0, -1.0, 1.0) if a.flip else torch.ones(n, device=device),
                dx=dx,
                dy=dy,
            )
        self._cutout: tuple[Tensor, Tensor] | None = None
        if a.cutout:
            self._cutout = (uniform(seed, "view", epoch, "cx", ids), uniform(seed, "view", epoch, "cy", ids))
        self._photo: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        for m in (m for m, one in views.cells.modalities.items() if one.median is None):
            strength = a.of("intensity", m)
            gain = 1 + (uniform(seed, "gain", epoch, m, ids) * 2 - 1) * strength
            bias = (uniform(seed, "bias", epoch, m, ids) * 2 - 1) * strength
            sigma = uniform(seed, "sigma", epoch, m, ids) * a.of("noise", m)
            place = counter_hash(seed, "noise", epoch, m, ids)
            assert isinstance(place, Tensor)
            self._photo[m] = (gain, bias, sigma, place % _BANK)
        self._kept_for: Tensor | None = None
        self._kept: dict[str, Tensor] = {}

    @property
    def keeps(self) -> bool:
        """Whether the latest cells' views are kept for a second caller."""
        return self._views.keeps

    def reading(self) -> AbstractContextManager[None]:
        """The context in which networks are given these: none, they are images."""
        return nullcontext()

    def __call__(self, modality: str, cells: Tensor) -> Tensor:
        """[B, C, S, S] or [B, F] float32: the view of each cell (ids [B]) in this epoch; may be modified."""
        if not self._views.keeps:
            return self._make(modality, cells)
        if self._kept_for is not cells:
            self._kept_for, self._kept = cells, {}
        if modality not in self._kept:
            self._kept[modality] = self._make(modality, cells)
        return self._kept[modality].clone()

    def _make(self, modality: str, cells: Tensor) -> Tensor:
        views = self._views
        a = views.augmentation
        x = views.cells.modalities[modality].gather(cells)
        if x.ndim == 2:
            sd = a.of("vector_noise", modality)
            return views.cells.mask_absent(self._noisy(x, modality, cells, sd) if sd else x, cells, modality)
        if self._theta is not None:
            grid = sampling_grid(self._theta[cells], views.places())
            x = F.grid_sample(x, grid, mode=self._mode, padding_mode="border", align_corners=False)
        gain, bias, sigma, place = self._photo[modality]
        if a.of("intensity", modality):
            x = torch.addcmul(bias[cells][:, None, None, None], x, gain[cells][:, None, None, None])
        if a.of("noise", modality):
            bank = views.noise_bank(x[0].numel())
            x = torch.addcmul(x, bank[place[cells]].view_as(x), sigma[cells][:, None, None, None])
        if self._cutout is not None:
            x = erase(x, self._cutout[0][cells], self._cutout[1][cells], a.cutout)
        return views.cells.mask_absent(x, cells, modality)

    def _noisy(self, x: Tensor, modality: str, cells: Tensor, sd: float) -> Tensor:
        """Vectors [B, F] with Gaussian noise, independent for every number of every cell."""
        place = cells[:, None] * x.shape[1] + torch.arange(x.shape[1], device=x.device)
        u = uniform(self._views.seed, "vector noise", self.epoch, modality, place).clamp(1e-6, 1 - 1e-6)
        return x + sd * math.sqrt(2) * torch.erfinv(2 * u - 1)


def affine(angle: Tensor, zoom: Tensor, mirror: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """[N, 2, 3] matrices for `affine_grid`: mirror, then rotate (radians) and zoom, then shift.

    Shifts are in units of half the side, as in `affine_grid`; zoom > 1 enlarges the cell.
    """
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    row0 = torch.stack([cos * mirror, -sin * mirror, dx], 1)
    row1 = torch.stack([sin, cos, dy], 1)
    return torch.stack([row0, row1], 1)


def pixel_places(side: int) -> Tensor:
    """[3, S * S]: x and y of every pixel's centre, in [-1, 1] as in `affine_grid`, and ones."""
    still = F.affine_grid(torch.eye(2, 3)[None], [1, 1, side, side], align_corners=False)
    return torch.cat([still.reshape(-1, 2).T, torch.ones(1, side * side)])


def sampling_grid(theta: Tensor, places: Tensor) -> Tensor:
    """[B, S, S, 2]: where each pixel of each view is read, for `grid_sample`.

    Bitwise equal to `affine_grid`, in a tenth of its time on a CPU: it multiplies [2, 3] x [3, S * S] per view,
    where `affine_grid` multiplies [S * S, 3] x [3, 2], a shape for which matrix libraries are slow.

    Args:
        theta: [B, 2, 3].
        places: [3, S * S], from `pixel_places`.
    """
    side = math.isqrt(places.shape[1])
    read = torch.bmm(theta, places.expand(len(theta), *places.shape))
    return read.view(len(theta), 2, side, side).permute(0, 2, 3, 1)


def erase(x: Tensor, cx: Tensor, cy: Tensor, share: float) -> Tensor:
    """Set a square of side `share` x S around (cx, cy) in [0, 1) to zero, the training mean. x: [B, C, S, S]."""
    side = x.shape[-1]
    at = (torch.arange(side, device=x.device) + 0.5) / side
    inside_x = (at[None, :] - cx[:, None]).abs() < share / 2
    inside_y = (at[None, :] - cy[:, None]).abs() < share / 2
    hole = inside_y[:, :, None] & inside_x[:, None, :]
    return x.masked_fill(hole[:, None], 0.0)


def epoch_order(train: Tensor, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Cell ids of each step. Every training cell occurs once; batch sizes differ by at most one.

    Equal batches, instead of a short last one, so that no batch is too small for batch statistics and
    no cell of a small set is dropped.
    """
    steps = max(1, -(-len(train) // batch_size))
    return torch.tensor_split(permutation(train, seed, "order", epoch), steps)


class EpochDraws:
    """The random numbers that a fusion or a policy may request in the steps of one epoch.

    They are drawn for all steps at the first request: a hash takes about forty operations whatever the size of
    its tensor, and repeating those in every step would slow a small network down.
    """

    def __init__(self, seed: int, epoch: int, steps: int, device: torch.device) -> None:
        self._counters = (seed, "assemble", epoch, torch.arange(steps, device=device)[:, None])
        self._known: dict[str, Tensor] = {}

    def epoch(self) -> Draw:
        """The random numbers of the whole epoch, a function of (seed, epoch, purpose)."""
        seed, what, epoch, steps = self._counters
        device = steps.device
        return Draw(lambda salt, n: uniform(seed, f"{what}:epoch", epoch, salt, torch.arange(n, device=device)))

    def step(self, step: int) -> Draw:
        """The random numbers of one step, a function of (seed, epoch, step, purpose)."""

        def key(salt: str, n: int) -> Tensor:
            known = self._known.get(salt)
            if known is None or known.shape[1] < n:
                places = torch.arange(n, device=self._counters[3].device)
                known = self._known[salt] = uniform(*self._counters, salt, places)
            return known[step, :n].clone()

        return Draw(key)


def draw_batch(cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...]) -> Batch:
    """A batch of the given cells, before the fusion has assembled it (no images yet)."""
    present = cells.present(ids, modalities)
    return Batch(cells=ids, labels=cells.labels[ids], present=present, modalities=modalities)


class ShownInEpoch(Protocol):
    """`EpochViews`, or what stands for its images."""

    @property
    def keeps(self) -> bool: ...

    def __call__(self, modality: str, cells: Tensor) -> Tensor: ...


def fill_images(batch: Batch, views: ShownInEpoch, modalities: tuple[str, ...]) -> Batch:
    """Make what each row shows: [R, C, S, S] (channels last in memory) or [R, F] per modality."""
    for m in modalities:
        rows = None if batch.rows is None else batch.rows.get(m)
        if rows is None:
            images = views(m, batch.cells)
        elif len(rows) >= len(batch.cells) and (views.keeps or len(rows) > len(batch.cells)):
            # computed once, however many rows show it
            images = views(m, batch.cells)[rows]
        else:
            images = views(m, batch.cells[rows])
        batch.images[m] = laid_out(images)
    return batch
