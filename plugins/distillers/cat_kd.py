"""Class attention transfer (Guo et al. 2023): where in the image each class is seen, as class activation maps.

The authors turn the classifier into a 1x1 convolution before pooling; here the network's own classifier is applied
at every position, without its bias, which is the same for a linear one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.distillers._parts import classified, require_pooled_heads

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param


def activation_maps(out: Output) -> Tensor:
    """Logits at each position of the last stage map, without the classifier's bias: [B, K, H, W]."""
    features = out.maps[-1].movedim(1, -1)
    bias = classified(out, torch.zeros_like(features[:1, 0, 0]))
    return (classified(out, features) - bias).movedim(-1, 1)


def attention_transfer(student: Tensor, teacher: Tensor, resolution: int) -> Tensor:
    """mean_k,xy (n(A_s) - n(A_t))^2, A pooled to resolution x resolution, n of length 1 over the positions.

    Args:
        student: activation maps [B, K, H, W].
        teacher: activation maps [B, K, H', W'].
        resolution: of the pooled maps, >= 2.

    Returns:
        [B] in [0, 4 / resolution^2], zero where student = teacher. Invariant to a positive factor on a class.

    Source: Guo et al., arXiv 2304.12777, and the authors' code (GzyAftermath/CAT-KD, CAT_loss).
    """
    s, t = (
        F.normalize(F.adaptive_avg_pool2d(x, resolution).flatten(2), dim=2, eps=1e-6) for x in (student, teacher)
    )
    return (s - t).square().mean((1, 2))


class CATKD(Distiller):
    """Squared distance of normalised class activation maps."""

    name = "cat_kd"
    source = "Guo, Yan, Li, Lin, CVPR 2023, arXiv 2304.12777"
    needs = Needs(student=("maps", "embedding"), teacher=("maps", "embedding"), teacher_head=True)

    class Params(DistillerParams):
        weight: float = param(400.0, "Factor on the loss; the authors'.", ge=0, search=(4.0, 4000.0), log=True)
        resolution: int = param(2, "Side of the pooled activation maps.", ge=2, le=16, search=[2, 3, 4])

    params: Params

    def setup(self, pair: PairShapes) -> None:
        require_pooled_heads(self.name, pair)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        s, t = activation_maps(student), activation_maps(teacher)
        return {"attention": attention_transfer(s, t, self.params.resolution)}
