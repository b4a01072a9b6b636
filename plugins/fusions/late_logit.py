"""Late fusion of logits: one network per modality; the softmax of their mean logit, a product of experts."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.fusions._modalities import Networks, seen, stacked_logits

from wbcbench.contracts import BackboneFactory, Fusion, FusionTraits, Outputs, Parameters, Task


def product_of_experts(logits: Tensor, mask: Tensor) -> Tensor:
    """softmax(mean_m z_m) = prod_m p_m^(1/n) / Z, over the n modalities that are there.

    Args:
        logits: [B, M, K].
        mask: [B, M] bool, some modality in every row.

    Returns:
        [B, K].

    Source: Hinton, Neural Computation 2002, eq. 1, with the exponent 1/n of a logarithmic opinion pool.
    """
    kept = torch.where(mask[..., None], logits, 0.0)
    return (kept.sum(1) / mask.sum(1, keepdim=True)).softmax(1)


class LateLogit(Fusion):
    """One network per modality; the softmax of their mean logit (normalised product of experts).

    p = softmax((1/M) sum_m W_m h_m(x_m)), over the modalities that a cell has. Trained on the sum of the
    heads' losses. Parameters: sum_m [P + S(C_m) + (D + 1) K]: M backbones.
    """

    name = "late_logit"
    source = "Hinton, Neural Computation 2002, eq. 1; logarithmic opinion pool"
    traits = FusionTraits(
        emits=("modality",), missing="native", offers=("own_embedding", "own_parameters"), own_backbones=True
    )

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        self.networks = Networks(task, backbone)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.networks(images, maps)
        return outputs

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        return product_of_experts(stacked_logits(outputs), seen(outputs, present, self.task.modalities))
