"""Regression of logits (Ba and Caruana 2014)."""

from __future__ import annotations

from torch import Tensor

from wbcbench.contracts import Distiller, DistillerParams, Output, Progress, param


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over classes of (z_s - z_t)^2.

    Args:
        student: logits [B, K].
        teacher: logits [B, K].

    Returns:
        [B], each >= 0, zero where student = teacher. Unlike losses on probabilities it changes when a constant
        is added to a row of logits.

    Source: Ba and Caruana, arXiv 1312.6184, eq. 1, divided by the number of classes.
    """
    return (student - teacher).square().mean(1)


class LogitMSE(Distiller):
    """Squared distance of logits, as regression."""

    name = "logit_mse"
    source = "Ba, Caruana, NeurIPS 2014, arXiv 1312.6184"

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)

    params: Params

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {"mse": logit_mse(student.logits, teacher.logits)}
