"""Feature-wise linear modulation (Perez et al.): one modality scales and shifts the other's embedding."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import Encoders, joint

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task, param


def film(target: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """(1 + gamma) * h + beta, all [B, D]: the identity where gamma and beta are zero.

    Source: Perez et al., AAAI 2018, arXiv 1709.07871, eq. 2, with the scale stated as its distance from one.
    """
    return (1 + gamma) * target + beta


class FiLM(Fusion):
    """Feature-wise linear modulation of one modality's embedding by the other's, before one head.

    p = softmax(W h), h = (1 + gamma(h_c)) * h_t + beta(h_c), gamma and beta linear in the conditioning
    embedding h_c: for exactly two modalities, and not symmetric. On pooled embeddings, not in every block as
    the paper. Parameters: sum_m [P + S(C_m)] + 2 (D_c + 1) D_t + (D_t + 1) K: two backbones.
    """

    name = "film"
    source = "Perez et al., AAAI 2018, arXiv 1709.07871, eq. 2"
    traits = FusionTraits(
        stage_maps=False,
        arity=(2, 2),
        offers=("own_embedding", "own_parameters"),
        solves=("redundant", "unique", "xor"),
        own_backbones=True,
    )

    class Params(Parameters):
        conditioner: Literal["first", "second"] = param(
            "first", "Which modality modulates the other, in canonical order.", search=["first", "second"]
        )

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.encoders = Encoders(task, backbone)
        self.condition, self.target = (0, 1) if params.conditioner == "first" else (1, 0)
        width = self.encoders.dims[self.target]
        self.modulation = nn.Linear(self.encoders.dims[self.condition], 2 * width)
        self.head = nn.Linear(width, task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = self.encoders(images)
        gamma, beta = self.modulation(embeddings[self.condition]).chunk(2, 1)
        return joint(self.task, film(embeddings[self.target], gamma, beta), self.head)
