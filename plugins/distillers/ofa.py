"""One for all (Hao et al. 2023): the label's probability is raised, also at classifier exits on stage maps.

An exit leads a stage to the last one's size by depthwise-separable convolutions of stride 2, one block for each
stage that follows, then pools and classifies, as the authors do for convolutional students (Hao840/OFAKD). One
exponent serves all exits; the authors tune one for each.
"""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError


def ofa_loss(student: Tensor, teacher: Tensor, labels: Tensor, exponent: float, temperature: float) -> Tensor:
    """-sum_c [(p_t,c + 1_c=y)^e - 1_c=y] log p_s,c, p = softmax(z / T), without T^2.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        labels: y [B] int64.
        exponent: e > 0; 1 gives the soft cross-entropy, more raises the label and lowers the others.
        temperature: T > 0.

    Returns:
        [B], each >= 0; not zero at student = teacher.

    Source: Hao et al., arXiv 2310.19444.
    """
    one_hot = nn.functional.one_hot(labels, student.shape[1]).to(student.dtype)
    wanted = ((teacher / temperature).softmax(1) + one_hot).pow(exponent) - one_hot
    return -(wanted * (student / temperature).log_softmax(1)).sum(1)


def halving(given: int, wanted: int) -> list[nn.Module]:
    """Layers [B, given, H, W] -> [B, wanted, H / 2, W / 2]: two separable convolutions, each normalised."""

    def separable(channels: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(given, given, 3, stride=stride, padding=1, groups=given, bias=False)
        pointwise = nn.Conv2d(given, channels, 1, bias=False)
        return [depthwise, pointwise, nn.BatchNorm2d(channels), nn.ReLU()]

    return [*separable(given, 2), *separable(wanted, 1)]


def exit_of(given: int, following: int, width: int, n_classes: int) -> nn.Sequential:
    """A classifier [B, given, H, W] -> [B, K] of a stage that `following` stages follow.

    Channels double at each block but the last, which has `width`; the last stage has a 1x1 convolution instead.
    """
    layers: list[nn.Module] = [] if following else [nn.Conv2d(given, width, 1)]
    for left in range(following, 0, -1):
        wanted = width if left == 1 else 2 * given
        layers += halving(given, wanted)
        given = wanted
    found = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, n_classes))
    for layer in found:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return found


class OFA(Distiller):
    """Cross-entropy with the label's probability raised, at the logits and at exits on the stage maps."""

    name = "ofa"
    source = "Hao et al., NeurIPS 2023, arXiv 2310.19444"
    needs = Needs(student=("logits", "maps"), labels=True, min_batch=2, trainable=True, matches="logits")

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        exponent: float = param(1.0, "e: above 1 raises the label.", gt=0, le=4, search=(1.0, 2.0))
        temperature: float = param(1.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 8.0), log=True)
        exits: bool = param(True, "Also teach classifiers on the student's stage maps.", search=[True, False])

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def setup(self, pair: PairShapes) -> None:
        channels = [shape[0] for shape in pair.student_maps] if self.params.exits else []
        if self.params.exits and not channels:
            raise IncompatibleError(
                "ofa puts exits on stage maps, but the student's backbone gives none. Set exits=false, or choose "
                "another backbone (wbcbench list backbones)."
            )
        width = max(pair.student_embedding or 0, pair.teacher_embedding or 0, *channels[-1:])
        self.exits = nn.ModuleList(
            exit_of(c, len(channels) - 1 - i, width, pair.n_classes) for i, c in enumerate(channels)
        )

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        y, e, temperature = student.labels, self.params.exponent, self.params.temperature
        terms = {"logits": ofa_loss(student.logits, teacher.logits, y, e, temperature)}
        for i, leave in enumerate(self.exits):
            terms[f"exit{i}"] = ofa_loss(leave(student.maps[i]), teacher.logits, y, e, temperature)
        return terms
