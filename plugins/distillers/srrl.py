"""Softmax regression representation learning: features judged by the teacher's classifier (Yang et al. 2021)."""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, adapters, param


def mean_square(given: Tensor, wanted: Tensor) -> Tensor:
    """mean_d (a - b)^2 of two [B, D] tensors, per sample: [B].

    Source: Yang et al., ICLR 2021 (openreview ZzwDy_wiWv): of features, and of the logits they lead to.
    """
    return (given - wanted).pow(2).mean(1)


class SRRL(Distiller):
    """Adapted student features must equal the teacher's and give the same logits in the teacher's classifier.

    The adapter is linear, and absent where widths agree; the paper's adds batch norm and ReLU, which would
    forbid the negative features that some backbones have.
    """

    name = "srrl"
    source = "Yang et al., ICLR 2021 (softmax regression representation learning)"
    needs = Needs(student=("embedding",), teacher=("logits", "embedding"), teacher_head=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        feature: float = param(1.0, "Factor on the features' distance.", ge=0, search=(0.1, 10.0), log=True)
        classifier: float = param(
            1.0, "Factor on the distance of the teacher's logits.", ge=0, search=(0.1, 10.0), log=True
        )

    params: Params
    adapter: nn.Module

    def setup(self, pair: PairShapes) -> None:
        self.adapter = adapters.linear(pair.student_embedding, pair.teacher_embedding)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert teacher.embedding is not None
        assert teacher.head is not None
        f_s = self.adapter(student.embedding)
        return {
            "feature": self.params.feature * mean_square(f_s, teacher.embedding),
            "classifier": self.params.classifier * mean_square(teacher.head(f_s), teacher.logits),
        }
