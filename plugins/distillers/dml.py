"""Deep mutual learning: the heads of one student teach each other (Zhang et al. 2018)."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


class Dml(Distiller):
    """Mutual learning between the routes of one student: KL(peer || self), averaged over peers.

    Every route learns from every other one that was shown the same cell. The paper's peers are networks
    of their own; here they are the modality heads of one network, updated together.
    """

    name = "dml"
    source = "Zhang, Xiang, Hospedales, Lu, CVPR 2018, arXiv 1706.00384, eq. 4-6"
    needs = Needs(taught_by="peers", matches="online")

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss; the paper's.", ge=0, search=(0.1, 10.0), log=True)
        temperature: float = param(1.0, "T of both; 1 in the paper.", gt=0, le=100, search=(1.0, 8.0), log=True)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {"kl": kd_loss(student.logits, teacher.logits, self.params.temperature)}
