"""The tensors passed between fusions, distillers, routings and the training loop."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """What a network is built for. M modalities, K classes."""

    channels: dict[str, int]
    """Modality -> channels, or numbers of a vector, in canonical order."""
    classes: tuple[str, ...]
    image_size: int
    vectors: frozenset[str] = frozenset()
    """The modalities that are vectors [B, F] instead of images [B, C, S, S]."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.channels)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def shape(self, modality: str) -> tuple[int, ...]:
        """Of one cell's input: (C, S, S), or (F,) of a vector."""
        count, side = self.channels[modality], self.image_size
        return (count,) if modality in self.vectors else (count, side, side)

    def blank(self, cells: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """Modality -> zeros, the training mean, for so many cells."""
        return {m: torch.zeros(cells, *self.shape(m), device=device) for m in self.channels}


@dataclass
class Features:
    """What a backbone returns for one image batch."""

    embedding: Tensor
    """[B, D], pooled."""
    maps: tuple[Tensor, ...] = ()
    """Stage maps [B, C_s, H_s, W_s], shallow to deep; empty unless requested."""


@dataclass
class Output:
    """One route's prediction: a joint head, or the head of one modality.

    `rows` is the cell of the batch that each row shows (None: row i shows cell i). Labels and cell ids
    belong to a route, not to the batch: if each modality of a row shows a different cell, each route is
    supervised and distilled for its own. The core fills `labels` and `index` accordingly.
    """

    logits: Tensor
    """[B, K]."""
    embedding: Tensor | None = None
    """[B, D], the input of the last linear layer."""
    maps: tuple[Tensor, ...] = ()
    """[B, C_s, H_s, W_s], shallow to deep, if requested."""
    reads: frozenset[str] = frozenset()
    """The modalities that this route's prediction may depend on."""
    rows: Tensor | None = None
    """[B] int64, positions in the batch, or None."""
    labels: Tensor | None = None
    """[B] int64; filled by the core."""
    index: Tensor | None = None
    """[B] int64 stable cell ids; filled by the core."""
    head: Callable[[Tensor], Tensor] | None = None
    """embedding [B, D] -> logits [B, K]: the classifier, for distillers that call it."""
    shown: Tensor | None = None
    """[B] bool: whether the row had an image of any modality that the route reads; filled by the core. None: all
    had. A row that had none is neither supervised nor distilled on this route."""
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """Modality -> what the route read, [B, C, S, S] or [B, F]; filled by the core in training. For distillers that
    declare to read `inputs`, the logits can be differentiated in them."""

    def float(self) -> Output:
        """The same output in float32, in which every loss is computed."""
        return replace(
            self,
            logits=self.logits.float(),
            embedding=None if self.embedding is None else self.embedding.float(),
            maps=tuple(m.float() for m in self.maps),
        )

    def detach(self) -> Output:
        """The same output, detached from the graph."""
        return replace(
            self,
            logits=self.logits.detach(),
            embedding=None if self.embedding is None else self.embedding.detach(),
            maps=tuple(m.detach() for m in self.maps),
        )

    def select(self, rows: Tensor | None) -> Output:
        """The output re-ordered so that row i belongs to cell `rows[i]` of the batch."""
        if rows is None:
            return self

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows]

        return replace(
            self,
            logits=self.logits[rows],
            embedding=pick(self.embedding),
            maps=tuple(m[rows] for m in self.maps),
            rows=pick(self.rows),
            labels=pick(self.labels),
            index=pick(self.index),
            shown=pick(self.shown),
        )


Outputs = dict[str, Output]
"""Route name -> output. Route names are `joint` and modality names."""


@dataclass(frozen=True)
class Evaluated:
    """What a network makes of n cells, in evaluation mode and unaugmented."""

    outputs: Outputs
    """Route -> its output, with `labels`, `index` (cell ids) and `shown`, without maps."""
    features: dict[str, Tensor]
    """Modality -> the embedding [n, D_m] of its own network, before any head; empty where the fusion does not
    offer `features`."""


@dataclass
class Batch:
    """One training batch as a fusion sees it. B cells drawn, R rows shown (R = B unless repeated).

    `cells` are drawn by the core; `rows` is decided by `Fusion.assemble` and policies.
    """

    cells: Tensor
    """[B] int64 stable cell ids."""
    labels: Tensor
    """[B] int64."""
    present: Tensor | None = None
    """[B, M] bool (canonical modality order), or None: nothing is absent. After `assemble`: [R, M],
    which modality image each row actually shows."""
    rows: dict[str, Tensor] | None = None
    """Modality -> [R] positions 0..B-1: the cell that each row shows in that modality.
    None: row i shows cell i in every modality."""
    images: dict[str, Tensor] = field(default_factory=dict)
    """Modality -> [R, C_m, S, S], or [R, F_m] of a vector; float, normalised; filled after `assemble`."""
    class_weights: Tensor | None = None
    """[K], mean 1 over the training cells; filled by the core, None outside of training."""
    extras: dict[str, Any] = field(default_factory=dict)
    """Policy name -> what that policy passes from one hook of the step to the next. Fusion name -> what the
    fusion stores for each row in `assemble`, a mapping of tensors [R, ...]; a policy that adds rows extends it."""
    modalities: tuple[str, ...] = ()
    """The columns of `present`; filled by the core. Empty: those of `images`, in their order."""

    def __len__(self) -> int:
        return len(self.cells)

    def labels_of(self, rows: Tensor | None) -> Tensor:
        """[R] labels of the cells in `rows`."""
        return self.labels if rows is None else self.labels[rows]

    def cells_of(self, rows: Tensor | None) -> Tensor:
        """[R] stable ids of the cells in `rows`."""
        return self.cells if rows is None else self.cells[rows]

    def weights_of(self, labels: Tensor) -> Tensor:
        """[R] class weights of the given labels [R]; ones where there are none."""
        if self.class_weights is None:
            return torch.ones(labels.shape, device=labels.device)
        return self.class_weights[labels]

    def shown(self, reads: frozenset[str]) -> Tensor | None:
        """[R] bool: which rows have an image of any of these modalities; None: all have."""
        return shown_in(self.present, reads, self.modalities or tuple(self.images))


def shown_in(present: Tensor | None, reads: frozenset[str], modalities: tuple[str, ...]) -> Tensor | None:
    """[B] bool: which rows of `present` [B, M] have any of the modalities `reads`; None: nothing is absent."""
    if present is None:
        return None
    return torch.stack([present[:, i] for i, m in enumerate(modalities) if m in reads]).any(0)


def over_rows(mask: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1] or [B, 1, 1, 1], so that it applies to whole rows of `like`, a vector or an image each."""
    return mask.view(-1, *[1] * (like.ndim - 1))


def input_gradient(out: Output, values: Tensor, modalities: Iterable[str]) -> Tensor:
    """[B, P]: each row's gradient of its value in its own inputs of these modalities, flattened and concatenated.

    It can be differentiated again. Where a batch norm lets rows depend on each other, a row's gradient is that of
    the sum of all values.

    Args:
        out: with `inputs`.
        values: [B], a function of `out`.
        modalities: in this order.
    """
    inputs = [out.inputs[m] for m in modalities]
    found = torch.autograd.grad(values.sum(), inputs, create_graph=True, materialize_grads=True)
    return torch.cat([g.flatten(1) for g in found], 1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """[R] values times mask, scaled so that its mean is the mean over the masked rows; zero without any."""
    weight = mask.to(values.dtype)
    return torch.where(mask, values, 0.0) / weight.mean().clamp(min=1.0 / max(1, len(weight)))


class Draw:
    """Random numbers of one training step, counter-based: the same call always gives the same numbers.

    `salt` names the purpose (say, the modality); nothing depends on the order of calls.
    """

    def __init__(self, key: Callable[[str, int], Tensor]) -> None:
        self._key = key

    def uniform(self, n: int, salt: str) -> Tensor:
        """[n] float32 in [0, 1)."""
        return self._key(salt, n)

    def permutation(self, n: int, salt: str) -> Tensor:
        """[n] int64, a permutation of 0..n-1."""
        return torch.argsort(self.uniform(n, salt), stable=True)

    def normal(self, n: int, salt: str) -> Tensor:
        """[n] float32, standard Gaussian (inverse of the error function)."""
        u = self.uniform(n, salt).clamp(1e-6, 1 - 1e-6)
        return torch.erfinv(2 * u - 1) * 2**0.5


def _unseeded(salt: str, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(salt.encode()))
    return torch.rand(n, generator=generator)


@dataclass(frozen=True)
class Progress:
    """How far training is, and the random numbers of the step."""

    epoch: int
    epochs: int
    step: int
    """Within the epoch."""
    steps: int
    draw: Draw = field(default=Draw(_unseeded), repr=False, compare=False)
    """A function of (seed, epoch, step). Outside training, of the salt alone."""

    @property
    def fraction(self) -> float:
        """0 at the first step, just under 1 at the last."""
        return (self.epoch + self.step / max(1, self.steps)) / max(1, self.epochs)
