"""Prime-aware distillation: squared distance with a learned, sample-dependent variance (Zhang et al. 2020)."""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, adapters, param
from wbcbench.errors import IncompatibleError

EPS = 1e-6


def pad_loss(student: Tensor, teacher: Tensor, log_variance: Tensor) -> Tensor:
    """mean_d (f_t - f_s)^2 / (eps + e^v) + v: uncertain features count less, and uncertainty costs.

    Args:
        student: adapted embeddings [B, D].
        teacher: embeddings [B, D].
        log_variance: v [B, D].

    Returns:
        [B], of either sign; smallest in v at e^v = (f_t - f_s)^2.

    Source: Zhang et al., ECCV 2020, with the epsilon of torchdistill (3e4373c).
    """
    return ((teacher - student).pow(2) / (EPS + log_variance.exp()) + log_variance).mean(1)


class PADL2(Distiller):
    """Squared distance of pooled features, divided by a variance predicted from the student's.

    The paper first trains without the variance; here both are trained together from the start.
    """

    name = "pad_l2"
    source = "Zhang et al., ECCV 2020 (prime-aware adaptive distillation), arXiv 2008.01458"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, trainable=True)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)

    params: Params
    adapter: nn.Module

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None:
            raise IncompatibleError(f"{self.name} reads embeddings; the student or the teacher has none.")
        width = pair.teacher_embedding
        self.adapter = adapters.linear(pair.student_embedding, width)
        self.log_variance = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert teacher.embedding is not None
        f_s = self.adapter(student.embedding)
        return {"distance": pad_loss(f_s, teacher.embedding, self.log_variance(f_s))}
