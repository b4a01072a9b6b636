"""my_method: state in one line what it does.

Start from here. The contract is `wbcbench.contracts.Fusion`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Output, Parameters, Task, param


class MyMethod(Fusion):
    """One network per modality; learned weights mix their embeddings before one head.

    h = sum_m w_m P_m f_m(x_m), w = softmax(a / temperature).
    """

    name = "my_method"
    traits = FusionTraits(own_backbones=True)

    class Params(Parameters):
        # Set by `--fusion my_method:temperature=2`.
        # `search`: the values that `wbcbench search` tries.
        temperature: float = param(1.0, "High: modalities weigh equally.", gt=0, search=(0.1, 10.0), log=True)

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        # The user chooses the backbone; `backbone(channels)` builds a new one, with `.dim` features.
        # Named with its modality, it may be another one for each: `--backbone dapi=resnet18,nucleus=cellnet`.
        trunks = {m: backbone(channels, modality=m) for m, channels in task.channels.items()}
        width = max(trunk.dim for trunk in trunks.values())
        # Modules go into nn.ModuleDict or nn.ModuleList and tensors into nn.Parameter: a plain dict or list
        # hides them from the optimiser and from checkpoints.
        self.trunks = nn.ModuleDict(trunks)
        self.project = nn.ModuleDict({m: nn.Linear(trunk.dim, width) for m, trunk in trunks.items()})
        self.scores = nn.Parameter(torch.zeros(len(trunks)))
        self.head = nn.Linear(width, task.n_classes)

    def forward(
        self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False
    ) -> dict[str, Output]:
        # images[m] is [B, C_m, S, S]. Loop over the task's modalities: the dict may have another order.
        features = [self.project[m](self.trunks[m](images[m]).embedding) for m in self.task.modalities]
        weights = (self.scores / self.params.temperature).softmax(0)
        h = (torch.stack(features) * weights[:, None, None]).sum(0)  # [B, width]
        # One Output per route; `reads` declares which modalities the route reads.
        return {"joint": Output(self.head(h), h, reads=frozenset(self.task.modalities), head=self.head)}

    # Further methods to override, each with a default: task_terms (the loss), predict (routes -> probabilities),
    # assemble, deploy. A head per modality, absent modalities, what policies find: `traits = FusionTraits(...)`.
    # The guide "The contracts" has them all.
