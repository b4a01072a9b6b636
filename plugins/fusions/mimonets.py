"""MIMONets: images bound to keys are added up, go through one trunk, and are unbound again (Menet et al. 2023).

Differences from the paper: slots are modalities, each with a first convolution of its own (the paper's images
share theirs), so that a slot always holds the same modality; the isometry penalty on the trunk's convolutions is
left out, since the backbone is any. As in `independent`, the slots of a training row may show different cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._private import replace_module, stem_name
from wbcbench_plugins.fusions._stages import masked
from wbcbench_plugins.fusions.independent import slot_rows

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Draw,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    PerModality,
    Progress,
    Task,
    param,
)


def bind(maps: Tensor, keys: Tensor) -> Tensor:
    """sum_m a_m (*) f_m, circular convolution along channels at every place: y_c = sum_m,j a_m,(c-j) f_m,j.

    Args:
        maps: [M, B, C, H, W].
        keys: a, [M, C].

    Returns:
        [B, C, H, W]. A key of one at 0 and zero elsewhere is the identity.

    Source: holographic reduced representations, Plate 1995; arXiv 2312.02829, section 3.
    """
    count = keys.shape[1]
    places = torch.arange(count, device=keys.device)
    circulant = keys[:, (places[:, None] - places[None, :]) % count]  # [M, C, C]
    return torch.einsum("mcj,mbjhw->bchw", circulant, maps)


def key_penalty(keys: Tensor) -> Tensor:
    """Mean squared cosine between keys, plus mean squared distance of their lengths from 1: 0 if orthonormal.

    keys: [M, C]; returns a scalar. Source: the authors' `binding_regularization`.
    """
    directions = F.normalize(keys, dim=1)
    cosines = (directions @ directions.T).triu(1).square().sum()
    pairs = max(1, len(keys) * (len(keys) - 1) // 2)
    penalty: Tensor = cosines / pairs + (torch.linalg.vector_norm(keys, dim=1) - 1).square().mean()
    return penalty


class BindingStem(nn.Module):
    """A convolution per modality on its own channels, bound to its key; the sum. Keys start as N(0, 1 / C)."""

    def __init__(self, stems: dict[str, nn.Module], channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.each, self.channels = nn.ModuleList(stems.values()), channels
        self.keys = nn.Parameter(torch.randn(len(stems), width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        images = torch.split(x, [*self.channels], 1)
        return bind(torch.stack([stem(i) for stem, i in zip(self.each, images, strict=True)]), self.keys)


class MIMONets(Fusion):
    """Computation in superposition: modalities are bound, added, processed once, and unbound for one shared head.

    p = (1/M) sum_m softmax(W u_m), u_m = relu(U_m trunk(sum_n a_n (*) stem_n(x_n))), over the modalities that a
    cell has. Adds `binding` times `key_penalty` to the sum of the M losses. Parameters: P + sum_m S(C_m) + M C +
    M (D + 1) D + (D + 1) K, with C channels after the stem: about one backbone.
    """

    name = "mimonets"
    source = (
        "Menet, Hersche, Karunaratne et al., NeurIPS 2023, arXiv 2312.02829, and the authors' code (MIMOConv, HRR)"
    )
    traits = FusionTraits(
        emits=("modality",),
        missing="native",
        offers=("own_parameters", "own_embedding", "meeting_losses"),
        solves=("redundant", "unique", "xor"),
    )

    class Params(Parameters):
        binding: float = param(0.1, "Weight of the penalty on keys.", ge=0, search=(0.01, 1.0), log=True)
        rho: float = param(
            0.5, "Share of training rows that show the same cell in all slots, as in `independent`; the paper's "
            "images are all different: 0.", ge=0, le=1, search=(0.0, 1.0), when="modalities > 1",
        )  # fmt: skip

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        name = stem_name(backbone, min(task.channels.values()))
        nets = {m: backbone(c) for m, c in task.channels.items()}
        stems = {m: net.get_submodule(name) for m, net in nets.items()}
        first = stems[task.modalities[0]]
        assert isinstance(first, nn.Conv2d)
        self.backbone = nets[task.modalities[0]]
        self.stem = BindingStem(stems, tuple(task.channels.values()), first.out_channels)
        replace_module(self.backbone, name, self.stem)
        dim = self.backbone.dim
        self.unbind = PerModality({m: nn.Linear(dim, dim) for m in task.modalities})
        self.head = nn.Linear(dim, task.n_classes)

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        batch.rows = slot_rows(len(batch), self.task.modalities, self.params.rho, 1, draw)
        return batch

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        x = torch.cat([masked(images[m], present, i) for i, m in enumerate(self.task.modalities)], 1)
        features = self.backbone(x, maps)
        outputs: Outputs = {}
        for m, layer in self.unbind.items():
            h = layer(features.embedding).relu()
            outputs[m] = Output(self.head(h), h, features.maps, reads=frozenset({m}), head=self.head)
        return outputs

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        penalty = self.params.binding * key_penalty(self.stem.keys.float())
        return {**super().task_terms(outputs, batch, progress), "binding": penalty}
