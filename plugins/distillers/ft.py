"""Factor transfer: both networks' last maps encoded in a common, smaller code (Kim, Park, Kwak).

The paper trains the paraphraser first and freezes it; here both are trained at once, the paraphraser by its
reconstruction alone. Of two published forms of the distance, `full` compares whole factors (the paper),
`spatial` their energy per position (RepDistiller).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers.at import attention_map

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_chw |n(F_s) - n(F_t)| per sample, n a unit vector over channels and positions together.

    Args:
        student: factors [B, M, H, W].
        teacher: factors [B, M, H, W].

    Returns:
        [B], in [0, 2 / sqrt(M H W)], zero where student = teacher. Invariant to a positive factor on a sample.

    Source: Kim et al., NeurIPS 2018, arXiv 1802.04977, equation 4 with p = 1.
    """
    s, t = (F.normalize(x.flatten(1), dim=1, eps=1e-6) for x in (student, teacher))
    return (s - t).abs().mean(1)


def spatial_factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_hw |a_s - a_t| per sample, a the unit vector of mean_c F^2; [B, M, H, W] twice -> [B].

    Source: RepDistiller, FT.py, with p1 = 2, p2 = 1.
    """
    return (attention_map(student) - attention_map(teacher)).abs().mean(1)


def _coder(widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for given, wanted in pairwise(widths):
        layers += [nn.Conv2d(given, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class FactorTransfer(Distiller):
    """Factor transfer: distance of normalised factors, a translator's from a paraphraser's.

    The paraphraser, an autoencoder of the teacher's last map, learns from `reconstruction` alone; the
    translator and the student from `factor` alone.
    """

    name = "ft"
    source = "Kim, Park, Kwak, NeurIPS 2018, arXiv 1802.04977"
    needs = Needs(student=("maps",), teacher=("maps",), trainable=True, min_batch=2)

    class Params(DistillerParams):
        weight: float = param(
            200.0, "Factor on the loss; that of RepDistiller.", ge=0, search=(2.0, 2000.0), log=True
        )
        rate: float = param(
            0.5, "Channels of a factor, as a share of the teacher's.", gt=0, le=2, search=[0.25, 0.5, 0.75]
        )
        form: Literal["full", "spatial"] = param(
            "full", "Compare whole factors, or their energy per position.", search=["full", "spatial"]
        )
        reconstruction: float = param(
            0.005, "Weight of the paraphraser's reconstruction error relative to the distance of factors.", gt=0
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        self.stages = Stages(pair, adapter=None, which="last")
        given, wanted = pair.student_maps[-1][0], pair.teacher_maps[-1][0]
        factors = max(1, round(self.params.rate * wanted))
        self.translator = _coder((given, factors, factors))
        self.paraphraser = _coder((wanted, factors, factors))
        self.restored = nn.Conv2d(factors, wanted, 3, padding=1)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        ((s, t),) = self.stages(student.maps, teacher.maps)
        factor = self.paraphraser(t)
        error = (self.restored(factor) - t).pow(2).flatten(1).mean(1)
        distance = factor_loss if self.params.form == "full" else spatial_factor_loss
        return {
            "factor": distance(self.translator(s), factor.detach()),
            "reconstruction": self.params.reconstruction * error,
        }
