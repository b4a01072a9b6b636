"""MixMo: M stems, one per modality, mixed into one map that a single trunk reads; one head per modality.

In training a row's maps are mixed by shares (linear) or, with probability `patch`, by a box cut out for one
modality (Cut-MixMo); in evaluation they are summed. Each head's loss is weighted by the share that its modality
had. For M > 2, which the paper leaves open, one modality has the share kappa and the others share the rest.
Shares are drawn as Beta(2, 2), per row. Absent modalities have the share zero.

The shares travel through the backbone as M more input channels, which the stem splits off again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._private import replace_module, stem_name
from wbcbench_plugins.fusions._stages import availability, masked
from wbcbench_plugins.fusions.independent import slot_rows

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Draw,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    OwnHeads,
    Parameters,
    Progress,
    Task,
    param,
)


def mix(maps: list[Tensor], weights: Tensor) -> Tensor:
    """sum_m w_m f_m with weights that sum to M at every place: [B, C, H, W].

    Ramé et al., ICCV 2021, arXiv 2103.06132 (M = 2: 2 [1_mask f_0 + (1 - 1_mask) f_1]).
    maps: M of [B, C, H, W]; weights: [B, M, H, W].
    """
    return torch.einsum("bmhw,bmchw->bchw", weights, torch.stack(maps, 1))


def loss_weights(shares: Tensor, root: float) -> Tensor:
    """M kappa_m^(1/r) / sum_n kappa_n^(1/r): [B, M]; sums to M per row. arXiv 2103.06132.

    shares kappa: [B, M], rows sum to 1. r -> inf: all heads alike; r = 1: by share.
    """
    powered = shares.clamp(min=1e-6) ** (1 / root)
    return shares.shape[1] * powered / powered.sum(1, keepdim=True)


@dataclass
class Plan:
    """How one batch is mixed, per row. Fields are [B]."""

    first: Tensor
    """int64: the modality that has the share `kappa`."""
    kappa: Tensor
    """Its share."""
    boxed: Tensor
    """bool: whether its share is a box."""
    x: Tensor
    y: Tensor
    """Position of the box, in [0, 1)."""

    def shares(self, count: int) -> Tensor:
        """[B, M]: kappa for the first, the rest split evenly."""
        first = F.one_hot(self.first, count).to(self.kappa.dtype)
        rest = ((1 - self.kappa) / max(1, count - 1))[:, None]
        return torch.where(first > 0, self.kappa[:, None], rest) if count > 1 else first

    def weights(self, count: int, side: int) -> Tensor:
        """[B, M, side, side], sums to M everywhere."""
        shares = self.shares(count)[:, :, None, None].expand(-1, -1, side, side)
        place = (torch.arange(side, device=self.kappa.device) + 0.5) / side
        edge = self.kappa.sqrt()  # of a square box of area kappa, wholly inside

        def inside(start: Tensor) -> Tensor:
            low = (start * (1 - edge))[:, None]
            return (place >= low) & (place < low + edge[:, None])

        box = (inside(self.y)[:, :, None] & inside(self.x)[:, None, :])[:, None]  # [B, 1, side, side]
        first = F.one_hot(self.first, count).to(shares.dtype)[:, :, None, None]
        outside = (1 - first) / max(1, count - 1) if count > 1 else first
        cut = torch.where(box, first, outside)
        return count * torch.where(self.boxed[:, None, None, None], cut, shares)


class MixedStem(nn.Module):
    """M convolutions on their own channels, and the mix of their maps. Reads [images; weights] stacked."""

    def __init__(self, stems: list[nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.each = nn.ModuleList(stems)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        *images, weights = torch.split(x, [*self.channels, len(self.channels)], 1)
        maps = [stem(image) for stem, image in zip(self.each, images, strict=True)]
        return mix(maps, F.interpolate(weights, maps[0].shape[2:], mode="nearest-exact"))


@dataclass
class MixedOutput(Output):
    """An output with the share of its modality in each row."""

    weight: Tensor | None = None
    """[B], of the loss."""


class MixMo(OwnHeads, Fusion):
    """M stems mixed into one trunk by sum or patches, one head per modality (MixMo, Cut-MixMo).

    p = (1/M) sum_m softmax(W_m h(sum_m stem_m(x_m))). Parameters: P + sum_m S(C_m) + M (D + 1) K: about one
    backbone.
    """

    name = "mixmo"
    source = "Ramé et al., ICCV 2021, arXiv 2103.06132"
    traits = FusionTraits(
        emits=("modality",),
        missing="native",
        offers=("own_parameters", "meeting_losses"),
        solves=("redundant", "unique", "xor"),
    )

    class Params(Parameters):
        patch: float = param(
            0.5,
            "Share of rows mixed by a box instead of by shares.",
            ge=0,
            le=1,
            search=(0.0, 1.0),
            when="modalities > 1",
        )
        decay: float = param(
            11 / 12,
            "From this share of training on, `patch` falls linearly to 0; 1: it never does.",
            ge=0,
            le=1,
            when="modalities > 1 and patch != 0",
        )
        root: float = param(
            3.0,
            "r of the loss weights; 1: losses by share, large: all alike.",
            ge=1,
            le=100,
            search=[1.0, 3.0, 10.0],
            when="modalities > 1",
        )
        rho: float = param(
            0.5, "Share of training rows that show the same cell in all slots, as in `independent`.",
            ge=0, le=1, search=(0.0, 1.0),
        when="modalities > 1",
)  # fmt: skip
        repeats: int = param(1, "Times each cell of a batch is shown.", ge=1, le=16, search=[1, 2, 4])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        name = stem_name(backbone, min(task.channels.values()))
        nets = [backbone(c) for c in task.channels.values()]
        stems = [net.get_submodule(name) for net in nets]
        self.backbone = nets[0]
        replace_module(self.backbone, name, MixedStem(stems, tuple(task.channels.values())))
        self.heads = nn.ModuleDict({m: nn.Linear(self.backbone.dim, task.n_classes) for m in task.modalities})
        # For the batch assembled last: the mapping, not the plan in it, to which a policy adds that of more rows.
        self._extras: dict[str, Any] = {}
        # Training progress; `assemble` does not receive it, so the last step's loss stores it here.
        self.fraction: Tensor
        self.register_buffer("fraction", torch.zeros(()))

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        b, count = len(batch), len(self.task.modalities)
        batch.rows = slot_rows(b, self.task.modalities, self.params.rho, self.params.repeats, draw)
        # The median of three uniform numbers is Beta(2, 2).
        kappa = torch.stack([draw.uniform(b, f"mixmo:kappa{i}") for i in range(3)]).median(0).values
        left = ((1 - self.fraction) / max(1e-9, 1 - self.params.decay)).clamp(0, 1)
        plan = Plan(
            first=(draw.uniform(b, "mixmo:first") * count).long().clamp(max=count - 1),
            kappa=kappa,
            boxed=draw.uniform(b, "mixmo:boxed") < self.params.patch * left,
            x=draw.uniform(b, "mixmo:x"),
            y=draw.uniform(b, "mixmo:y"),
        )
        batch.extras[self.name] = vars(plan)
        self._extras = batch.extras
        return batch

    @property
    def plan(self) -> Plan | None:
        """How the batch assembled last is mixed; None before the first."""
        return Plan(**self._extras[self.name]) if self._extras else None

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        x = torch.cat([masked(images[m], present, i) for i, m in enumerate(names)], 1)
        seen = availability(present, x, len(names))
        weights, shares = self._mixture(x, seen)
        features = self.backbone(torch.cat([x, weights], 1), maps)
        of_loss = loss_weights(shares, self.params.root)
        return {
            m: MixedOutput(
                logits=self.heads[m](features.embedding),
                embedding=features.embedding,
                maps=features.maps,
                reads=frozenset({m}),
                head=self.heads[m],
                weight=of_loss[:, i],
            )
            for i, m in enumerate(names)
        }

    def _mixture(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mixing weights [B, M, S, S] and shares [B, M], of the modalities that are there."""
        count, side, plan = seen.shape[1], x.shape[2], self.plan
        there = seen[:, :, None, None]
        if self.training and plan is not None and len(plan.kappa) == len(x):
            weights, shares = plan.weights(count, side).to(x.dtype) * there, plan.shares(count) * seen
        else:
            weights, shares = there.expand(-1, -1, side, side), seen
        return renormalised(weights, there) * count, renormalised(shares, seen)

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = super().task_terms(outputs, batch, progress)
        if self.training:
            self.fraction.fill_(progress.fraction)
        for route, out in outputs.items():
            if isinstance(out, MixedOutput) and out.weight is not None:
                terms[route] = terms[route] * out.weight
        return terms

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        return {m: list(self.heads[m].parameters()) for m in self.task.modalities}


def renormalised(weights: Tensor, seen: Tensor) -> Tensor:
    """Weights [B, M, ...] divided by their sum over M; where that is zero, all that are there weigh alike."""
    total = weights.sum(1, keepdim=True)
    weights = torch.where(total > 0, weights, seen.expand_as(weights))
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
