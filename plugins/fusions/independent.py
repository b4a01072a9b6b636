"""Independent subnetworks in one network: one trunk, one head per modality, each learning its own cell.

The fusion of Yang, Mehta, Mahapatra and Ge (arXiv 2208.08331), whose abstract names "modality specific
independent subnetworks inside a single network"; batch assembly, which the abstract leaves open, follows
MIMO (Havasi et al., ICLR 2021, arXiv 2010.06610). Slot m of the input always holds modality m.

With `rho` = 1 all slots show one cell and the network is early fusion with M heads; with `rho` = 0 every
slot shows a cell of its own and head m can learn no more than p(y | x_m): late fusion packed into one
trunk. `rho` is the dial between them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Draw,
    Fusion,
    Output,
    Outputs,
    Parameters,
    PerModality,
    Task,
    param,
)


class Independent(Fusion):
    """One network, one head per modality, each supervised with the cell its own modality showed.

    p = (1/M) sum_m softmax(W_m h(concat_m x_m)). Trained on the sum of the heads' losses. Parameters:
    P + S(sum_m C_m) + M (D + 1) K: about one backbone.
    """

    name = "independent"
    source = "Yang et al., arXiv 2208.08331 (abstract); batch assembly of Havasi et al., arXiv 2010.06610"
    emits = ("modality",)
    missing = "native"
    solves = ("redundant", "unique", "xor")

    class Params(Parameters):
        rho: float = param(
            0.5,
            "Share of training rows that show the same cell in all slots; 0: every slot its own cell.",
            ge=0,
            le=1,
            search=(0.0, 1.0),
        )
        repeats: int = param(
            1,
            "Times each cell of a batch is shown. Rows per step stay the same: fewer cells, shown more often.",
            ge=1,
            le=16,
            search=[1, 2, 4],
        )
        width: float = param(1.0, "Factor on every channel count of the backbone.", gt=0, le=8)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.backbone = backbone(sum(task.channels.values()), width=params.width)
        self.heads = PerModality({m: nn.Linear(self.backbone.dim, task.n_classes) for m in task.modalities})

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        batch.rows = slot_rows(len(batch), self.task.modalities, self.params.rho, self.params.repeats, draw)
        return batch

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        slots = []
        for i, m in enumerate(self.task.modalities):
            # An absent slot is filled with zeros, the training mean; `predict` leaves its head out.
            x = images[m]
            slots.append(x if present is None else torch.where(present[:, i, None, None, None], x, 0.0))
        features = self.backbone(torch.cat(slots, 1), maps)
        return {
            m: Output(
                logits=head(features.embedding),
                embedding=features.embedding,
                maps=features.maps,
                reads=frozenset({m}),
                head=head,
            )
            for m, head in self.heads.items()
        }

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        return {m: list(self.heads[m].parameters()) for m in self.task.modalities}


def slot_rows(cells: int, modalities: tuple[str, ...], rho: float, repeats: int, draw: Draw) -> dict[str, Tensor]:
    """Which cell each slot shows in each row: modality -> [B] positions in the batch.

    The batch's first B / repeats cells, each `repeats` times and shuffled; then, per modality, the first
    (1 - rho) of the rows are permuted once more, by a permutation of that modality's own.
    """
    unique = max(1, cells // repeats)
    base = draw.permutation(cells, "rows") % unique
    cut = round(cells * (1.0 - rho))
    rows = {}
    for m in modalities:
        shuffled = draw.permutation(cut, f"slot:{m}")
        rows[m] = torch.cat([base[:cut][shuffled], base[cut:]])
    return rows
