"""Fusion points as a search space: a chain of cells, each joining the modalities' maps of one stage.

After MFAS (Pérez-Rúa et al., CVPR 2019, arXiv 1903.06496). Two differences. There, every modality may enter a
cell from a stage of its own, backbones are trained first and frozen, and a surrogate model chooses; here a cell
joins the same stage of all modalities, so that the space does not depend on M, everything trains together, and
the choice is left to the benchmark's own search. Stages are named from the last one backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import affine, build_trunks, pool

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
from wbcbench.errors import IncompatibleError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "leaky_relu": F.leaky_relu,
}


def fusion_chain(
    cells: Sequence[Sequence[Tensor]], layers: Sequence[tuple[Tensor, Tensor]], activation: str
) -> Tensor:
    """h_l = act(W_l [s_1; ..; s_M; h_(l-1)] + b_l), the last one: [B, H].

    MFAS, arXiv 1903.06496. cells: per cell, M tensors [B, C_l]; W_l: [H, sum C_l (+ H)].
    """
    h: list[Tensor] = []
    for inputs, layer in zip(cells, layers, strict=True):
        h = [ACTIVATIONS[activation](F.linear(torch.cat([*inputs, *h], 1), *layer))]
    return h[0]


class FusionSearch(Fusion):
    """Chain of fusion cells over pooled stage maps; which stages they join is searched (like MFAS).

    Parameters: sum_m [P + S(C_m)] + sum over cells of [(M C_l + H [l > 1] + 1) H] + (H + 1) K; stages after
    the deepest one joined are not built.
    """

    name = "fusion_search"
    aliases = ("mfas",)
    source = "Pérez-Rúa et al., CVPR 2019, arXiv 1903.06496"
    traits = FusionTraits(stage_maps=False, offers=("own_parameters",), solves=("redundant", "unique", "xor"))

    class Params(Parameters):
        cells: str = param(
            "last-1+last",
            "Stage of each cell, in order: 'last', 'last-1', 'last-2', joined by '+'; stages may be repeated.",
            search=["last", "last-1", "last-1+last", "last-2+last", "last-2+last-1", "last-2+last-1+last"],
        )
        hidden: int = param(64, "Width H of every cell.", ge=1, le=4096, search=[32, 64, 128])
        activation: Literal["relu", "sigmoid", "leaky_relu"] = param(
            "relu", "Activation after every cell.", search=["relu", "sigmoid", "leaky_relu"]
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        probe = cell_stages(params.cells)
        _, shapes = build_trunks(task, backbone)
        if max(probe) >= len(shapes):
            raise IncompatibleError(
                f"Fusion cells '{params.cells}' reach back over {max(probe) + 1} stages, but the backbone has "
                f"{len(shapes)}. Choose cells nearer to the last stage."
            )
        self.cells = [len(shapes) - 1 - back for back in probe]
        self.backbones, _ = build_trunks(task, backbone, max(self.cells) + 1)
        count, layers = len(task.modalities), []
        for i, number in enumerate(self.cells):
            layers.append(nn.Linear(count * shapes[number][0] + (params.hidden if i else 0), params.hidden))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(params.hidden, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        flow = {m: images[m] for m in self.task.modalities}
        pooled: list[list[Tensor]] = []
        for number in range(max(self.cells) + 1):
            flow = self.backbones.step(number, flow)
            pooled.append([pool(x) for x in flow.values()])
        layers = [affine(layer) for layer in self.layers]
        embedding = fusion_chain([pooled[c] for c in self.cells], layers, self.params.activation)
        reads = frozenset(self.task.modalities)
        return {"joint": Output(self.head(embedding), embedding, reads=reads, head=self.head)}


def cell_stages(cells: str) -> list[int]:
    """`"last-1+last"` -> [1, 0]: how many stages before the last each cell reads.

    Raises:
        IncompatibleError: another spelling.
    """
    back = []
    for part in cells.split("+"):
        rest = part.removeprefix("last")
        if rest == part or not (rest == "" or (rest[0] == "-" and rest[1:].isdecimal())):
            raise IncompatibleError(f"Expected fusion cells such as 'last-1+last', but got '{cells}'.")
        back.append(int(rest[1:] or 0))
    return back
