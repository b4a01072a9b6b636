"""Distillation by the alpha-beta divergence (Wang et al. 2025), between forward and reverse KL.

Defaults are those of the authors' example on CIFAR-100 (ResNet56 to ResNet20). There is no T^2, which the weight
makes up for.
"""

from __future__ import annotations

from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Output, Progress, param


def alpha_beta_divergence(
    student: Tensor, teacher: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """-1/(a b) sum_c [p^a q^b - a/(a + b) p^(a + b) - b/(a + b) q^(a + b)], p of the teacher, q of the student.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].
        alpha: a > 0: smaller follows large errors more.
        beta: b > 0: larger follows classes of which the student is sure more.
        temperature: T > 0 in p = softmax(z / T); without T^2.

    Returns:
        [B], each >= 0, zero where student = teacher. KL(p || q) as a -> 1 and b -> 0, KL(q || p) the other way
        round, and half the squared Euclidean distance at a = b = 1.

    Source: Wang et al., arXiv 2505.04560, and the authors' code (ghwang-s/abkd, ABKL).
    """
    p, q = ((z / temperature).log_softmax(1) for z in (teacher, student))
    both = alpha + beta
    apart = alpha / both * (both * p).exp() + beta / both * (both * q).exp() - (alpha * p + beta * q).exp()
    return apart.sum(1) / (alpha * beta)


class ABKD(Distiller):
    """The alpha-beta divergence of softened probabilities: two numbers set how student and errors count."""

    name = "abkd"
    source = "Wang, Yang, Wang, Wang, Xu, Huang, ICML 2025, arXiv 2505.04560"

    class Params(DistillerParams):
        weight: float = param(64.0, "Factor on the loss; the authors'.", ge=0, search=(1.0, 1000.0), log=True)
        alpha: float = param(0.8, "alpha: smaller follows large errors more.", ge=0.05, le=2, search=(0.2, 1.5))
        beta: float = param(
            0.3, "beta: larger follows the student's confident classes more.", ge=0.05, le=2, search=(0.1, 1.5)
        )
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        p = self.params
        return {
            "divergence": alpha_beta_divergence(student.logits, teacher.logits, p.alpha, p.beta, p.temperature)
        }
