"""Distillation from a teacher corrected by exchanging its highest logit with the label's."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def swapped(logits: Tensor, labels: Tensor) -> Tensor:
    """The highest logit of a row exchanged with the label's: right rows stay, wrong rows become right.

    Args:
        logits: teacher's [B, K].
        labels: y [B] int64.

    Returns:
        [B, K], each row a permutation of the given one, largest at y.

    Source: the baseline `SWAP` of Sun et al., arXiv 2408.07703, after Wen et al., arXiv 1911.07471.
    """
    column = labels[:, None]
    highest, first = logits.max(1, keepdim=True)
    return logits.scatter(1, first, logits.gather(1, column)).scatter(1, column, highest)


class Swap(Distiller):
    """Hinton's loss after the teacher's highest logit is exchanged with the label's."""

    name = "swap"
    source = "Wen, Lai, Qian 2019, arXiv 1911.07471, as in Sun et al. 2024, arXiv 2408.07703"
    needs = Needs(labels=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        corrected = swapped(teacher.logits, student.labels)
        return {"kl": kd_loss(student.logits, corrected, self.params.temperature)}
