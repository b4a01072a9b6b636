"""FitNet's hint on pooled features: embeddings matched through a linear adapter (Romero et al. 2015)."""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, adapters, param


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over the features, per sample: mean_d (f_s - f_t)^2.

    Args:
        student: adapted embeddings [B, D].
        teacher: embeddings [B, D].

    Returns:
        [B], each >= 0, zero exactly where student = teacher.

    Source: Romero et al., arXiv 1412.6550, with the mean over elements of RepDistiller (b84f547).
    """
    return (student - teacher).pow(2).mean(1)


class FitNetPooled(Distiller):
    """Squared distance of pooled features, the student's through a linear adapter where widths differ.

    The paper matches stage maps in a first stage of its own; here the hint is the embedding, together
    with the task loss from the first step.
    """

    name = "fitnet_pooled"
    source = "Romero et al., ICLR 2015, arXiv 1412.6550, on the embedding"
    needs = Needs(student=("embedding",), teacher=("embedding",))

    class Params(DistillerParams):
        weight: float = param(100.0, "Factor on the loss; RepDistiller's.", ge=0, search=(1.0, 1000.0), log=True)

    params: Params
    adapter: nn.Module

    def setup(self, pair: PairShapes) -> None:
        self.adapter = adapters.linear(pair.student_embedding, pair.teacher_embedding)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert teacher.embedding is not None
        return {"hint": hint_loss(self.adapter(student.embedding), teacher.embedding)}
