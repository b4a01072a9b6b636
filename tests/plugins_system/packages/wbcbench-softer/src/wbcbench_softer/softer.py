"""Mean squared distance of log-probabilities."""

from __future__ import annotations

from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, param


class Softer(Distiller):
    """Squared distance between the log-probabilities of student and teacher, softened by a temperature."""

    name = "softer"
    aliases = ("gentle",)
    needs = Needs(student=("logits",), teacher=("logits",))

    class Params(DistillerParams):
        temperature: float = param(4.0, "High: softens more.", gt=0)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        s, t = ((out.logits / self.params.temperature).log_softmax(1) for out in (student, teacher))
        return {"softer": (s - t).square().mean(1)}
