"""What mixup and cutmix share: which rows are mixed, in which shares, and the loss that follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from wbcbench_plugins.policies._modalities import labels_of, masked_mean, shown

from wbcbench.contracts import Batch, Draw, Fusion, Outputs, Progress, over_rows

TRIES = 64


@dataclass
class Mix:
    """How one modality's rows are mixed."""

    partner: Tensor
    """[R] int64, the row that each row is mixed with."""
    share: Tensor
    """[R] in [0, 1], what is left of the row itself."""
    labels: Tensor
    """[R] labels of the cells that the partners show."""


def beta(n: int, alpha: float, draw: Draw, salt: str) -> Tensor:
    """[n] draws from Beta(alpha, alpha), 0.05 <= alpha <= 2, from uniform numbers alone, with no copy back from
    the device.

    Johnk's method in logarithms: x = U^(1/alpha), y = V^(1/alpha), kept where x + y <= 1; then x / (x + y).
    The first of 64 attempts that is kept counts; for alpha = 2 one in 10^5 draws keeps none and takes the last.
    """
    u, v = (draw.uniform(n * TRIES, f"{salt}:{w}").view(n, TRIES).clamp(min=1e-7).log() / alpha for w in "uv")
    kept = torch.logaddexp(u, v) <= 0
    kept[:, -1] = True
    first = kept.float().argmax(1, keepdim=True)
    return torch.sigmoid(u - v).gather(1, first)[:, 0]


def plan(
    batch: Batch,
    fusion: Fusion,
    shared: bool,
    rate: float,
    share: Callable[[int, str], Tensor],
    draw: Draw,
    name: str,
) -> dict[str, Mix]:
    """Modality -> partners and shares. `shared`: the same for all modalities of a row.

    Two images are mixed only if both are present: a row's presence does not change. With probability 1 - `rate`
    a row is left as it is. `share(R, salt)`: [R] draws of what is left of a row.
    """
    modalities = fusion.task.modalities
    count = len(next(iter(batch.images.values())))
    mixes = {}
    for i, m in enumerate(modalities):
        salt = name if shared else f"{name}:{m}"
        partner = draw.permutation(count, f"{salt}:partner")
        left = share(count, salt)
        mixed = draw.uniform(count, f"{salt}:apply") < rate
        if batch.present is not None:
            there = batch.present if shared else batch.present[:, i : i + 1]
            same = (there == there[partner]).all(1)
            mixed = mixed & same & (torch.ones_like(same) if shared else there[:, 0])
        rows = None if batch.rows is None else batch.rows[m]
        labels = batch.labels_of(rows)
        mixes[m] = Mix(partner, torch.where(mixed, left, 1.0), labels[partner])
    return mixes


def mixed_terms(
    terms: dict[str, Tensor],
    outputs: Outputs,
    batch: Batch,
    mixes: dict[str, Mix],
    fusion: Fusion,
    progress: Progress,
) -> dict[str, Tensor]:
    """One term per route: sum_m a_m [l_m L(y) + (1 - l_m) L(y_m) w(y_m) / w(y)].

    L is the fusion's own loss of the route, with the weights that it gives the row; l_m is the share of itself
    that the row kept in modality m, y_m its partner's label there; a_m is 1 / n for the n modalities that the
    route reads and the row has. The core multiplies the term by w(y), the class weight of the row's own label,
    so that each part has the weight of its own. Rows without any modality that a route reads add nothing to its
    loss.

    Recomputed from the fusion and not from `terms`: the factor between a term and the plain loss is undefined
    where the plain loss is 0.

    Source: Zhang et al., mixup, ICLR 2018, arXiv 1710.09412: for cross-entropy, that of the soft target.
    """
    modalities, found = fusion.task.modalities, dict(terms)
    own = fusion.task_terms(outputs, batch, progress)
    other = {
        m: fusion.task_terms({r: replace(o, labels=mix.labels) for r, o in outputs.items()}, batch, progress)
        for m, mix in mixes.items()
    }
    for route, out in outputs.items():
        if route not in terms or not own[route].ndim:
            continue
        reads = [m for m in modalities if m in out.reads]
        labels = labels_of(out)
        there = torch.stack([shown(batch, modalities, m, labels) for m in reads])
        parts = torch.where(there.any(0), there, True).to(own[route].dtype)
        value = torch.zeros_like(own[route])
        for m, part in zip(reads, parts / parts.sum(0), strict=True):
            mix = mixes[m]
            turned = other[m][route] * batch.weights_of(mix.labels) / batch.weights_of(labels)
            value = value + part * (mix.share * own[route] + (1 - mix.share) * turned)
        found[route] = masked_mean(value, there.any(0))
    return found


def mix_images(images: Tensor, mix: Mix) -> Tensor:
    """x_i <- lambda_i x_i + (1 - lambda_i) x_partner(i); `images`: [R, C, S, S], or vectors [R, F]."""
    share = over_rows(mix.share, images).to(images.dtype)
    return share * images + (1 - share) * images[mix.partner]


def boxes(size: int, share: Tensor, centre: Tensor) -> Tensor:
    """[R, S, S] bool: squares of area 1 - share around random centres, clipped at the border.

    Args:
        size: S, pixels.
        share: [R] in [0, 1].
        centre: [R, 2] in [0, 1), row and column.

    Source: Yun et al., CutMix, ICCV 2019, arXiv 1905.04899, equation 2 (side sqrt(1 - lambda) S).
    """
    half = (1 - share).sqrt()[:, None] * size / 2
    pixel = torch.arange(size, device=share.device)[None] + 0.5
    inside = [(pixel - centre[:, i, None] * size).abs() < half for i in (0, 1)]
    return inside[0][:, :, None] & inside[1][:, None, :]
