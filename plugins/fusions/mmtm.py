"""MMTM: squeeze-and-excitation across modalities, at chosen stages.

The paper's gates are 2 sigmoid (1 for an undecided gate); its official code uses sigmoid: parameter `gain`.
The paper averages the scores of M heads and trains the average; here one linear head reads the concatenation,
which is the same function, since a mean of linear maps is a linear map of the concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import affine, build_own_trunks, chosen_stages, pool

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    Task,
    param,
)


def cross_gates(
    squeezes: Sequence[Tensor],
    squeeze: tuple[Tensor, Tensor],
    excite: Sequence[tuple[Tensor, Tensor]],
    gain: float,
) -> list[Tensor]:
    """Gates E_m = gain sigmoid(W_m Z + b_m), with Z = ReLU(W [s_1; ..; s_M] + b).

    Joze et al., CVPR 2020, arXiv 1911.08670. s_m: [B, C_m]; W: [dim Z, sum C], b: [dim Z];
    W_m: [C_m, dim Z], b_m: [C_m]; returns M tensors [B, C_m].
    """
    z = F.relu(F.linear(torch.cat(list(squeezes), 1), *squeeze))
    return [gain * torch.sigmoid(F.linear(z, *pair)) for pair in excite]


class Transfer(nn.Module):
    """One site: maps of one stage in, the same maps re-weighted per channel out.

    Parameters: (sum C + 1) dim Z + (dim Z + 1) sum C, with dim Z = 2 sum C / ratio.
    """

    def __init__(self, channels: Sequence[int], ratio: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.squeeze = nn.Linear(sum(channels), max(1, 2 * sum(channels) // ratio))
        self.excite = nn.ModuleList(nn.Linear(self.squeeze.out_features, c) for c in channels)

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        pairs = [affine(e) for e in self.excite]
        squeezes = [pool(x) for x in maps.values()]
        gates = cross_gates(squeezes, affine(self.squeeze), pairs, self.gain)
        return {m: x * g[:, :, None, None] for (m, x), g in zip(maps.items(), gates, strict=True)}


class MMTM(Fusion):
    """Multimodal transfer module: channel gates of every modality, computed from all of them.

    Parameters: sum_m [P + S(C_m)] + sum over sites of [4 (sum C)^2 / ratio + 2 sum C / ratio + sum C] +
    (M D + 1) K, where sum C = M C_s are the channels of a site over all modalities. Their backbones may differ, if
    they have as many stages.
    """

    name = "mmtm"
    source = "Joze et al., CVPR 2020, arXiv 1911.08670"
    traits = FusionTraits(
        stage_maps=False,
        own_backbones=True,
        vectors=False,
        offers=("own_parameters",),
        solves=("redundant", "unique", "xor"),
    )

    class Params(Parameters):
        sites: str = param(
            "late", "Stages after which maps are gated: 's2+3' (from 1), 'late' (second half), 'all', 'last'.",
            search=["late", "all", "last"],
        )  # fmt: skip
        ratio: int = param(
            4, "Reduction: the joint vector has 2 sum C / ratio values.", ge=1, le=64, search=[2, 4, 8]
        )
        gain: float = param(2.0, "Largest gate: 2 in the paper, 1 in its code.", gt=0, le=4, search=[1.0, 2.0])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.backbones, shapes = build_own_trunks(task, backbone)
        self.stages = len(shapes[task.modalities[0]])
        self.sites = nn.ModuleDict(
            {
                str(s): Transfer([own[s][0] for own in shapes.values()], params.ratio, params.gain)
                for s in chosen_stages(params.sites, self.stages)
            }
        )
        self.head = nn.Linear(sum(own[-1][0] for own in shapes.values()), task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        flow = {m: images[m] for m in self.task.modalities}
        for number in range(self.stages):
            flow = self.backbones.step(number, flow)
            if str(number) in self.sites:
                flow = self.sites[str(number)](flow)
        embedding = torch.cat([pool(x) for x in flow.values()], 1)
        reads = frozenset(self.task.modalities)
        return {"joint": Output(self.head(embedding), embedding, reads=reads, head=self.head)}
