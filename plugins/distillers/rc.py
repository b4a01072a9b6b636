"""The rectified part of RC: the student's own logits, with the label's raised, teach it.

RC in full is this plus Hinton's loss. The correction adds the row's largest logit to the label's, so it is not
invariant to a constant added to a row; where all logits are negative it lowers the label, as in the source.
"""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def rectified(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit plus the row's largest: z_y <- z_y + max_c z_c, constant for the gradient.

    Args:
        logits: student's [B, K].
        labels: y [B] int64.

    Returns:
        [B, K], y largest wherever z_y >= 0.

    Source: the baseline `RC` of Sun et al., arXiv 2408.07703.
    """
    fixed = logits.detach()
    return fixed.scatter_add(1, labels[:, None], fixed.amax(1, keepdim=True))


class RC(Distiller):
    """Softened KL towards the student's own logits with the label's raised; no teacher."""

    name = "rc"
    source = "the baseline RC of Sun et al. 2024, arXiv 2408.07703"
    needs = Needs(teacher=(), labels=True, taught_by="self")

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        return {"kl": kd_loss(student.logits, rectified(student.logits, student.labels), self.params.temperature)}
