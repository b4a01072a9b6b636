"""Other methods under names that are taken."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbcbench.contracts import BackboneFactory, Distiller, Fusion, Output, Outputs, Parameters, Progress, Task


class Gmu(Fusion):
    """The sum of the modalities' embeddings, under the name of another method."""

    name = "gmu"

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        trunks = {m: backbone(c) for m, c in task.channels.items()}
        self.trunks = nn.ModuleDict(trunks)
        self.head = nn.Linear(trunks[task.modalities[0]].dim, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        h = torch.stack([self.trunks[m](images[m]).embedding for m in self.task.modalities]).sum(0)
        return {"joint": Output(self.head(h), h, reads=frozenset(self.task.modalities), head=self.head)}


class Softer(Distiller):
    """Squared distance of the logits."""

    name = "softer"

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {"distance": (student.logits - teacher.logits).square().mean(1)}
