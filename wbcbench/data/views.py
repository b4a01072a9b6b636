"""Random views of training cells: a function of (seed, epoch, cell, modality) and of nothing else.

A cell's geometry is drawn per (seed, epoch, cell) and so shared by its modalities; intensity and noise
are drawn per modality. All numbers of an epoch are drawn at once; a batch only gathers them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.data.counter import counter_hash, uniform
from wbcbench.data.resident import ResidentCells
from wbcbench.spec import Augmentation

_BANK = 1 << 20


class Views:
    """Makes the views of one seed, epoch by epoch."""

    def __init__(self, cells: ResidentCells, augmentation: Augmentation, seed: int) -> None:
        self.cells = cells
        self.augmentation = augmentation
        self.seed = seed
        self.keeps = False
        """Whether the latest batch's views are kept: live teachers look at what the student was shown."""
        self._bank: Tensor | None = None
        self._places: Tensor | None = None
        self._cached: EpochViews | None = None

    def epoch(self, epoch: int) -> EpochViews:
        """The views of one epoch; the latest is kept."""
        if self._cached is None or self._cached.epoch != epoch:
            self._cached = EpochViews(self, epoch)
        return self._cached

    def places(self) -> Tensor:
        """[3, S * S]: x, y and 1 of every pixel, for `sampling_grid`."""
        if self._places is None:
            self._places = pixel_places(self.cells.image_size).to(self.cells.device)
        return self._places

    def noise_bank(self, length: int) -> Tensor:
        """A fixed field of Gaussian numbers that views read from a random place on.

        Drawing fresh normals per pixel costs more than a small network's step; a window into a field of
        a million costs one gather and repeats only after as many places.
        """
        if self._bank is None or len(self._bank) < _BANK + length:
            generator = torch.Generator().manual_seed(20220817)
            field = torch.randn(_BANK + length, generator=generator)
            self._bank = field.to(self.cells.device)
        return self._bank.unfold(0, length, 1)


class EpochViews:
    """All views of one epoch: call with a modality and cell ids, get images."""

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
                half = views.cells.image_size / 2
                quarter = math.pi / 2
                turns = (angle / quarter).floor() if a.rotate == 180 else (angle / quarter).round()
                angle = turns * quarter
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
        for m in views.cells.modalities:
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

    def __call__(self, modality: str, cells: Tensor) -> Tensor:
        """[B, C, S, S] float32: the view of each cell (ids [B]) in this epoch; the caller's own to change."""
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


def affine(angle: Tensor, zoom: Tensor, mirror: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """[N, 2, 3] matrices for `affine_grid`: mirror, then rotate (radians) and zoom, then shift.

    Shifts are in units of half the side, as `affine_grid` has them; zoom > 1 enlarges the cell.
    """
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    row0 = torch.stack([cos * mirror, -sin * mirror, dx], 1)
    row1 = torch.stack([sin, cos, dy], 1)
    return torch.stack([row0, row1], 1)


def pixel_places(side: int) -> Tensor:
    """[3, S * S]: x and y of every pixel's middle, in [-1, 1] as `affine_grid` has them, and ones."""
    still = F.affine_grid(torch.eye(2, 3)[None], [1, 1, side, side], align_corners=False)
    return torch.cat([still.reshape(-1, 2).T, torch.ones(1, side * side)])


def sampling_grid(theta: Tensor, places: Tensor) -> Tensor:
    """[B, S, S, 2]: where each pixel of each view is read, for `grid_sample`.

    The numbers of `affine_grid`, to the bit, at a tenth of its time on a CPU: [2, 3] x [3, S * S] per view, where
    `affine_grid` multiplies [S * S, 3] x [3, 2], a shape that matrix libraries are slow with.

    Args:
        theta: [B, 2, 3].
        places: [3, S * S], of `pixel_places`.
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
