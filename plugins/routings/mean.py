"""Mean of all teachers: every route learns from the average of the teachers' losses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from wbcbench.contracts import Distiller, Output, Progress, Routing, each_teacher, weighted


class Mean(Routing):
    """Every route is taught by all teachers, whatever they read: the mean of their losses.

    (1/K) sum_k L(student, teacher k). For `logits` the gradient is that of one teacher whose softened
    probabilities are the mean.
    """

    name = "mean"
    aliases = ("avg",)
    source = "You, Xu, Xu, Tao, KDD 2017 (averaged soft targets); AVG of Zhang et al., arXiv 2201.00007"
    pairing = "all"
    min_teachers = 2

    def teach(
        self, distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        return weighted(each_teacher(distillers, student, teachers, progress), None)
