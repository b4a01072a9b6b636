"""Logit standardisation (Sun et al. 2024): distillation on logits without their location and scale."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, Progress, TransformsLogits, param


def standardise(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """(z - mean z) / (eps + std z) per row, the standard deviation with K - 1.

    Args:
        logits: z [B, K], K >= 2; with two classes only their order remains.
        eps: keeps a constant row finite: it becomes zero.

    Returns:
        [B, K], unchanged by z -> a z + b with a > 0.

    Source: Sun et al., arXiv 2403.01427, algorithm 1.
    """
    return (logits - logits.mean(1, keepdim=True)) / (eps + logits.std(1, keepdim=True))


class LSKD(TransformsLogits, Distiller):
    """Hinton's loss on standardised logits: relations of logits, not their size."""

    name = "lskd"
    source = "Sun, Ren, Li, Wang, Cao, CVPR 2024, arXiv 2403.01427"
    needs = Needs(min_classes=3)

    class Params(DistillerParams):
        weight: float = param(9.0, "Factor on the loss; the paper's.", ge=0, search=(0.9, 90.0), log=True)
        temperature: float = param(
            2.0,
            "T, on standardised logits.",
            gt=0,
            le=100,
            search=(0.5, 10.0),
            log=True,
            when="adds_loss = true",
        )

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def transform(self, out: Output) -> Output:
        """The same output with standardised logits, for another distiller of logits to read."""
        return replace(out, logits=standardise(out.logits))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        s, t = self.transform(student), self.transform(teacher)
        return {"kl": kd_loss(s.logits, t.logits, self.params.temperature)}
