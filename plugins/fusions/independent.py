"""Independent subnetworks in one network: one trunk, one head per modality, each learning its own cell.

The fusion of Yang, Mehta, Mahapatra and Ge (arXiv 2208.08331), whose abstract names "modality specific
independent subnetworks inside a single network"; batch assembly, which the abstract leaves open, follows
MIMO (Havasi et al., ICLR 2021, arXiv 2010.06610). Slot m of the input always holds modality m.

With `rho` = 1 all slots show one cell and the network is early fusion with M heads; with `rho` = 0 every
slot shows a cell of its own and head m can learn no more than p(y | x_m): late fusion packed into one
trunk. `rho` interpolates between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._private import stem_name

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Draw,
    DrawsSlots,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    OwnHeads,
    Parameters,
    PerModality,
    Task,
    param,
)
from wbcbench.errors import IncompatibleError


class Independent(OwnHeads, DrawsSlots, Fusion):
    """One network, one head per modality, each supervised with the cell that its own modality showed.

    p = (1/M) sum_m softmax(W_m h(concat_m x_m)). Trained on the sum of the heads' losses. Parameters:
    P + S(sum_m C_m) + M (D + 1) K: about one backbone; with `unmix` M (D + 1) D more.
    """

    name = "independent"
    source = "Yang et al., arXiv 2208.08331 (abstract); batch assembly of Havasi et al., arXiv 2010.06610"
    traits = FusionTraits(
        emits=("modality",),
        missing="native",
        offers=("own_parameters", "meeting_losses"),
        solves=("redundant", "unique", "xor"),
        scales="width",
    )

    class Params(Parameters):
        rho: float = param(
            0.5,
            "Share of training rows that show the same cell in all slots; 0: every slot its own cell.",
            ge=0,
            le=1,
            search=(0.0, 1.0),
            when="modalities > 1",
        )
        repeats: int = param(
            1,
            "Times each cell of a batch is shown. Rows per step stay the same: fewer cells, shown more often.",
            ge=1,
            le=16,
            search=[1, 2, 4],
        )
        width: float = param(1.0, "Factor on every channel count of the backbone.", gt=0, le=8)
        stem: Literal["backbone", "symmetric", "asymmetric"] = param(
            "backbone",
            "How the first convolution starts: as the backbone does it (pretrained ones repeat their filters over "
            "all channels), with the first slot's filters in every slot, or with fresh ones in all but the first.",
            later=True,
        )
        slots: Literal["batch", "epoch"] = param(
            "batch",
            "Where the other cells of a row come from: the batch, so that two slots agree by chance in one row of "
            "batch_size, or the whole epoch, as with a data loader per modality.",
            later=True,
        )
        unmix: bool = param(
            False,
            "A layer of its own before each head, relu(U_m h): our form of what Sun et al. (CVPRW 2022, arXiv "
            "2205.10139) call unmixing, so that heads can share features and still separate their own.",
            later=True,
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.backbone = backbone(sum(task.channels.values()), width=params.width)
        if params.stem != "backbone":
            stem = self.backbone.get_submodule(stem_name(backbone, sum(task.channels.values())))
            assert isinstance(stem, nn.Conv2d)
            start_slots(stem.weight, tuple(task.channels.values()), params.stem)
        dim = self.backbone.dim
        self.heads = PerModality({m: nn.Linear(dim, task.n_classes) for m in task.modalities})
        self.unmix = PerModality({m: nn.Linear(dim, dim) for m in task.modalities} if params.unmix else {})

    def slots(self, order: Sequence[Tensor], draw: Draw) -> dict[str, list[Tensor]] | None:
        p = self.params
        return epoch_slots(order, self.task.modalities, p.rho, draw) if p.slots == "epoch" else None

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        if self.params.slots == "epoch":
            if batch.rows is None:
                raise IncompatibleError(
                    "independent:slots=epoch shows each cell once an epoch, so a policy cannot draw its rows "
                    "again. Leave out batch_repetition, or set slots=batch."
                )
            return batch
        batch.rows = slot_rows(len(batch), self.task.modalities, self.params.rho, self.params.repeats, draw)
        return batch

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        slots = []
        for i, m in enumerate(self.task.modalities):
            # An absent slot is filled with zeros, the training mean; `predict` leaves its head out.
            x = images[m]
            slots.append(x if present is None else torch.where(present[:, i, None, None, None], x, 0.0))
        features = self.backbone(torch.cat(slots, 1), maps)
        outputs: Outputs = {}
        for m, head in self.heads.items():
            h = F.relu(self.unmix[m](features.embedding)) if self.unmix else features.embedding
            outputs[m] = Output(
                logits=head(h), embedding=h, maps=features.maps, reads=frozenset({m}), head=head
            )  # fmt: skip
        return outputs

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        own = {m: nn.ModuleList([self.heads[m], *([self.unmix[m]] if self.unmix else [])]) for m in self.heads}
        return {m: list(modules.parameters()) for m, modules in own.items()}


@torch.no_grad()
def start_slots(weight: Tensor, channels: tuple[int, ...], how: str) -> None:
    """Set the starting filters of a convolution over M concatenated images, in place.

    Args:
        weight: [out, sum_m C_m, k, k].
        channels: C_m, in the order of the slots.
        how: `symmetric`: slot m has the first slot's filters, repeated or cut to C_m channels and scaled by
            sqrt(C_0 / C_m), so that each slot brings the same variance; `asymmetric`: all slots but the first are
            redrawn, with the first slot's standard deviation.
    """
    first = weight[:, : channels[0]].clone()
    start = channels[0]
    for count in channels[1:]:
        if how == "symmetric":
            repeated = first[:, torch.arange(count, device=weight.device) % channels[0]]
            weight[:, start : start + count] = repeated * (channels[0] / count) ** 0.5
        else:
            weight[:, start : start + count].normal_(0.0, float(first.std()))
        start += count


def epoch_slots(
    order: Sequence[Tensor], modalities: tuple[str, ...], rho: float, draw: Draw
) -> dict[str, list[Tensor]]:
    """The cells [R] that each slot shows in every step: the share `rho` of a step's rows shows the step's own
    cells in all slots; those of the other rows, of all steps together, are shuffled anew for each modality.

    So each cell is in each slot once an epoch, and two slots agree by chance in one row of N (1 - rho).
    """
    cuts = [round(len(ids) * (1.0 - rho)) for ids in order]
    pool = torch.cat([ids[:cut] for ids, cut in zip(order, cuts, strict=True)])
    found = {}
    for m in modalities:
        dealt = torch.split(pool[draw.permutation(len(pool), f"slot:{m}")], cuts)
        found[m] = [torch.cat([new, ids[cut:]]) for new, ids, cut in zip(dealt, order, cuts, strict=True)]
    return found


def slot_rows(cells: int, modalities: tuple[str, ...], rho: float, repeats: int, draw: Draw) -> dict[str, Tensor]:
    """Which cell each slot shows in each row: modality -> [B] positions in the batch.

    The batch's first B / repeats cells, each `repeats` times and shuffled; then, per modality, the first
    (1 - rho) of the rows are permuted again, independently of the other modalities.
    """
    unique = max(1, cells // repeats)
    base = draw.permutation(cells, "rows") % unique
    cut = round(cells * (1.0 - rho))
    rows = {}
    for m in modalities:
        shuffled = draw.permutation(cut, f"slot:{m}")
        rows[m] = torch.cat([base[:cut][shuffled], base[cut:]])
    return rows
