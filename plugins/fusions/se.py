"""SE: squeeze-and-excitation of each modality by itself, the ablation of `mmtm` without its cross terms."""

from __future__ import annotations

from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import build_trunks, chosen_stages, concatenated, masked, pool, with_blanks
from wbcbench_plugins.fusions.mmtm import Transfer

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    PerModality,
    Task,
    param,
)


class SE(Fusion):
    """Squeeze-and-excitation inside each modality; pooled maps concatenated before one head.

    Same sites, ratio and gain as `mmtm`, of which it is the block-diagonal case. Parameters:
    sum_m [P + S(C_m)] + M sum over sites of [4 C_s^2 / ratio + 2 C_s / ratio + C_s] + (M D + 1) K.
    """

    name = "se"
    source = "Hu et al., CVPR 2018, arXiv 1709.01507; as ablation of Joze et al., arXiv 1911.08670"
    traits = FusionTraits(stage_maps=False, missing="native", offers=("own_parameters",))

    class Params(Parameters):
        sites: str = param(
            "late", "Stages after which maps are gated: 's2+3' (from 1), 'late' (second half), 'all', 'last'.",
            search=["late", "all", "last"],
        )  # fmt: skip
        ratio: int = param(
            4, "Reduction: a gate's hidden layer has 2 C / ratio values.", ge=1, le=64, search=[2, 4, 8]
        )
        gain: float = param(2.0, "Largest gate, as in `mmtm`.", gt=0, le=4, search=[1.0, 2.0])

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.backbones, shapes = build_trunks(task, backbone)
        self.stages = len(shapes)
        self.sites = nn.ModuleDict(
            {
                str(s): PerModality(
                    {m: Transfer([shapes[s][0]], params.ratio, params.gain) for m in task.modalities}
                )
                for s in chosen_stages(params.sites, len(shapes))
            }
        )
        self.head = nn.Linear(len(task.modalities) * shapes[-1][0], task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        flow = {m: masked(images[m], present, i) for i, m in enumerate(self.task.modalities)}
        for number in range(self.stages):
            flow = self.backbones.step(number, flow)
            if str(number) in self.sites:
                gates: nn.Module = self.sites[str(number)]
                assert isinstance(gates, nn.ModuleDict)
                flow = {m: gates[m]({m: x})[m] for m, x in flow.items()}
        embedding = concatenated(with_blanks({m: pool(x) for m, x in flow.items()}, self.task.modalities), present)
        reads = frozenset(self.task.modalities)
        return {"joint": Output(self.head(embedding), embedding, reads=reads, head=self.head)}
