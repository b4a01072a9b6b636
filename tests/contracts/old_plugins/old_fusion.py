"""A fusion as it was written before contracts had traits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbcbench.contracts import BackboneFactory, Fusion, Output, Outputs, Parameters, PerModality, Task, param


class OldFusion(Fusion):
    """A joint head and a head per modality, mixed by weights that are fitted on validation cells."""

    name = "old_fusion"
    emits = ("joint", "modality")
    missing = "native"
    arity = (2, None)
    stage_maps = False
    offers = ("own_embedding", "own_parameters", "meeting_losses")

    class Params(Parameters):
        scale: float = param(1.0, "Factor on the embeddings.", gt=0, search=(0.5, 2.0))

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        trunks = {m: backbone(c) for m, c in task.channels.items()}
        width = sum(t.dim for t in trunks.values())
        self.trunks = PerModality(trunks)
        self.heads = PerModality({m: nn.Linear(t.dim, task.n_classes) for m, t in trunks.items()})
        self.joint = nn.Linear(width, task.n_classes)
        self.dims = [t.dim for t in trunks.values()]
        self.register_buffer("share", torch.tensor(0.5))
        if self.solves != ("redundant", "unique"):
            raise AssertionError("what is not stated has its default")

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = {}
        features = []
        for i, (m, width) in enumerate(zip(self.task.modalities, self.dims, strict=True)):
            if m not in self.trunks:
                features.append(next(iter(images.values())).new_zeros(len(next(iter(images.values()))), width))
                continue
            image = images[m]
            if present is not None:
                image = torch.where(present[:, i, None, None, None], image, 0.0)
            h = self.trunks[m](image).embedding * self.params.scale
            if present is not None:
                h = torch.where(present[:, i, None], h, 0.0)
            features.append(h)
            outputs[m] = Output(self.heads[m](h), h, reads=frozenset({m}), head=self.heads[m])
        whole = torch.cat(features, 1)
        reads = frozenset(self.task.modalities)
        joint = Output(self.joint(whole), whole, reads=reads, head=self.joint)
        return {"joint": joint, **outputs}

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        rest = super().predict({r: o for r, o in outputs.items() if r != "joint"}, present)
        return self.share * outputs["joint"].logits.float().softmax(1) + (1 - self.share) * rest

    def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
        super().fit_combiner(val_outputs, labels)
        right = [(o.logits.argmax(1) == labels).float().mean() for o in val_outputs.values()]
        self.share.copy_(right[0] / torch.stack(right).sum().clamp_min(1e-6))

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        return {m: list(head.parameters()) for m, head in self.heads.items()}
