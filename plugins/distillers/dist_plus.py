"""DIST+ (Huang et al. 2025): DIST, and correlation of the last stage maps.

The relation between channels is 1 - rho here; torchdistill adds rho itself, which drives the maps apart. The
paper's adaptive teacher (its acclimation loss trains the teacher) is left out: teachers are frozen.
"""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.distillers.dist import inter_class, intra_class, pearson

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, adapters, param
from wbcbench.errors import IncompatibleError


def channel_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - rho over the channels at a place, averaged over places.

    Args:
        student: map [B, C, H, W].
        teacher: map [B, C, H, W].

    Returns:
        [B] in [0, 2].

    Source: Huang et al., TPAMI 2025 (DIST+), channel relation.
    """
    return (1 - pearson(student, teacher, 1)).flatten(1).mean(1)


def spatial_relation(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - rho over the samples of a batch, for each place of the maps summed over channels.

    Args:
        student: map [B, C, H, W], B >= 2.
        teacher: map [B, C', H, W].

    Returns:
        [H * W] in [0, 2].

    Source: Huang et al., TPAMI 2025 (DIST+), spatial relation.
    """
    s, t = (x.sum(1).flatten(1) for x in (student, teacher))
    return 1 - pearson(s, t, 0)


class DISTPlus(Distiller):
    """Correlation of probabilities as in DIST, and of the last stage maps by channel and by place."""

    name = "dist_plus"
    source = "Huang, You, Wang, Qian, Xu, TPAMI 2025 (DIST+)"
    needs = Needs(student=("logits", "maps"), teacher=("logits", "maps"), min_classes=3, min_batch=2)

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        beta: float = param(2.0, "Factor on the relation between classes.", ge=0, search=(0.0, 4.0))
        gamma: float = param(2.0, "Factor on the relation between samples.", ge=0, search=(0.0, 4.0))
        channel: float = param(1.0, "iota: factor on the maps by channel.", ge=0, search=(0.0, 4.0))
        spatial: float = param(1.0, "kappa: factor on the maps by place.", ge=0, search=(0.0, 4.0))
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 8.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def setup(self, pair: PairShapes) -> None:
        if not pair.student_maps or not pair.teacher_maps:
            raise IncompatibleError(
                "dist_plus reads stage maps; the student or the teacher gives none. dist reads logits alone."
            )
        self.adapter = adapters.conv1x1(pair.student_maps[-1][0], pair.teacher_maps[-1][0])

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p = self.params
        s, t = adapters.same_size(student.maps[-1], teacher.maps[-1])
        s = self.adapter(s)
        return {
            "inter": p.beta * inter_class(student.logits, teacher.logits, p.temperature),
            "intra": p.gamma * intra_class(student.logits, teacher.logits, p.temperature).mean(),
            "channel": p.channel * channel_relation(s, t),
            "spatial": p.spatial * spatial_relation(s, t).mean(),
        }
