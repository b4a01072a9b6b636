"""SimKD: the student learns the teacher's features and then uses the teacher's classifier (Chen et al. 2022).

The paper's projector is a bottleneck of 1x1, 3x3 and 1x1 convolutions on the last stage's map. Here it acts on
the pooled embedding, where convolutions are linear layers: linear, batch norm, ReLU, linear. The paper's closing
batch norm and ReLU are left out, since a teacher's features may be negative. With a task weight of 0 the
features are all that is learned, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from wbcbench.contracts import (
    Distiller,
    DistillerParams,
    Needs,
    Output,
    PairShapes,
    Progress,
    ReplacesHead,
    param,
)
from wbcbench.errors import IncompatibleError


def projector(given: int, wanted: int, factor: int) -> nn.Sequential:
    """[B, given] -> [B, wanted] through a bottleneck of wanted / factor features."""
    width = max(1, wanted // factor)
    return nn.Sequential(
        nn.Linear(given, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, wanted)
    )


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_d (g(f_s) - f_t)^2 per sample.

    Args:
        student: projected embeddings [B, D].
        teacher: embeddings [B, D].

    Returns:
        [B], each >= 0, zero exactly where student = teacher.

    Source: Chen et al., arXiv 2203.14001.
    """
    return (student - teacher).pow(2).mean(1)


class SimKD(ReplacesHead, Distiller):
    """Squared distance to the teacher's features; the route then predicts with the teacher's classifier."""

    name = "simkd"
    source = "Chen et al., CVPR 2022, arXiv 2203.14001, on the embedding"
    needs = Needs(
        student=("embedding",),
        teacher=("embedding",),
        teacher_head=True,
        min_batch=2,
        trainable=True,
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss; the paper's.", ge=0, search=(0.01, 100.0), log=True)
        factor: int = param(2, "The bottleneck has 1/factor of the teacher's features.", ge=1, search=[1, 2, 4])

    params: Params

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None:
            raise IncompatibleError(f"{self.name} reads embeddings; the student or the teacher has none.")
        self.projector = projector(pair.student_embedding, pair.teacher_embedding, self.params.factor)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert teacher.embedding is not None
        return {"feature": feature_loss(self.projector(student.embedding), teacher.embedding)}

    def replaced_head(self, student: Output, teacher_head: Callable[[Tensor], Tensor]) -> Tensor:
        """The route's logits [B, K]: the teacher's classifier on the projected embedding."""
        return teacher_head(self.projector(student.embedding))
