"""Sorted logits (Limantoro 2025): the teacher's logits are reassigned so that the label ranks first."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


def label_first(logits: Tensor, labels: Tensor) -> Tensor:
    """The same values in every row, of which the label gets the highest and the others keep their order.

    Args:
        logits: [B, K].
        labels: y [B] int64.

    Returns:
        [B, K]; unchanged where the label is first already. Classes that were above the label move down one rank
        each, those below it keep their logits.

    Source: Limantoro, arXiv 2508.16544, and the author's code (StephenEkaputra/SortKD).
    """
    values = logits.sort(1, descending=True).values
    ranked = logits.scatter(1, labels[:, None], float("inf")).argsort(dim=1, descending=True, stable=True)
    return logits.scatter(1, ranked, values)


class SortKD(Distiller):
    """Hinton's loss after the label was moved to the front of the teacher's ranking."""

    name = "sortkd"
    source = "Limantoro, IEEE Signal Processing Letters 2025, arXiv 2508.16544"
    needs = Needs(labels=True)

    class Params(DistillerParams):
        weight: float = param(0.9, "Factor on the loss; the author's.", ge=0, search=(0.1, 10.0), log=True)
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        corrected = label_first(teacher.logits, student.labels)
        return {"kl": kd_loss(student.logits, corrected, self.params.temperature)}
