"""Multi-head joint fusion: a joint head for complete cells, and a head per modality for those that lack some."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, seen

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    PerModality,
    Task,
)


class MultiHead(Fusion):
    """One backbone per modality, a linear head on all embeddings and one on each.

    p = softmax(W [h_1; ..; h_M]) of cells with all modalities, else (1/n) sum_m softmax(W_m h_m) over the n that
    there are: nothing is imputed. Trained on the sum of the M + 1 losses. The student of MIND (with one or more
    teachers per modality), and, with `--kd fitnet_pooled`, nearly that of UMT, whose joint head gets no hint.
    Parameters: sum_m [P + S(C_m) + (D_m + 1) K] + (sum_m D_m + 1) K: M backbones.
    """

    name = "multi_head"
    source = "MIND: Guerra-Manzanares, Shamout, TMLR 2025, arXiv 2502.01158 (multi-head joint fusion)"
    traits = FusionTraits(
        emits=("joint", "modality"),
        stage_maps=False,
        missing="native",
        offers=("own_embedding", "own_parameters", "meeting_losses"),
        own_backbones=True,
    )

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        dims = dict(zip(task.modalities, self.encoders.dims, strict=True))
        self.heads = PerModality({m: nn.Linear(d, task.n_classes) for m, d in dims.items()})
        self.head = nn.Linear(sum(dims.values()), task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        embeddings = self.encoders(images, present)
        every = torch.cat(embeddings, 1)
        outputs = {"joint": Output(self.head(every), every, reads=frozenset(names), head=self.head)}
        for m, h in zip(names, embeddings, strict=True):
            if m in self.heads:
                outputs[m] = Output(self.heads[m](h), h, reads=frozenset({m}), head=self.heads[m])
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        whole = outputs["joint"].logits.float().softmax(1)
        if present is None:
            return whole
        alone = {m: o for m, o in outputs.items() if m != "joint"}
        mask = seen(alone, present, self.task.modalities)
        each = torch.stack([o.logits.float().softmax(1) for o in alone.values()], 1)  # [B, routes, K]
        mean = torch.where(mask[..., None], each, 0.0).sum(1) / mask.sum(1, keepdim=True)
        return torch.where(present.all(1, keepdim=True), whole, mean)
