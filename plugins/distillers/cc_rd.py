"""Correlation congruence in RepDistiller's form: products of successive samples' differences.

Peng et al. match kernel matrices (`cc_gaussian`). RepDistiller publishes the form below under the same name,
and the benchmark numbers of "CC" that papers quote come from it. Its value depends on the order of the batch.
RepDistiller projects both sides to 128 learned features, which a constant projection satisfies trivially; here
the student's alone is projected, to the teacher's width.
"""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, adapters, param


def successive_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_i sum_d |D_i,d| |D_i+1,d| over the B - 1 neighbours in the batch, D = f_s - f_t.

    Args:
        student: adapted embeddings [B, D], B >= 2.
        teacher: embeddings [B, D].

    Returns:
        A scalar >= 0, zero where student = teacher (and where every other row agrees).

    Source: RepDistiller (b84f547), distiller_zoo/CC.py.
    """
    gap = (student - teacher).abs()
    return (gap[:-1] * gap[1:]).sum(1).mean()


class CCRepDistiller(Distiller):
    """Products of the differences of successive samples; depends on the order of the batch."""

    name = "cc_rd"
    source = "RepDistiller's form of Peng et al., ICCV 2019, arXiv 1904.01802"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, matches="relational")

    class Params(DistillerParams):
        weight: float = param(0.02, "Factor on the loss; RepDistiller's.", ge=0, search=(0.0002, 2.0), log=True)

    params: Params
    adapter: nn.Module

    def setup(self, pair: PairShapes) -> None:
        self.adapter = adapters.linear(pair.student_embedding, pair.teacher_embedding)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert teacher.embedding is not None
        return {"successive": successive_loss(self.adapter(student.embedding), teacher.embedding)}
