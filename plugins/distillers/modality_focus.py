"""Modality focusing: only features of the teacher that the student's modality also decides by are taught.

After the modality focusing hypothesis (Xue et al. 2023): of a teacher on another modality, a student learns no
more than what is decisive in both. The authors measure it once, with a teacher and a student that are trained
together for it; here the running student and the frozen teacher are compared in every step, and averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError

MOMENTUM = 0.9
"""Share of the old saliencies that each step keeps."""


def saliency(student: Tensor, embedding: Tensor, teacher: Tensor, weight: Tensor, order: Tensor) -> Tensor:
    """How far teacher and student come apart if one feature of the teacher is permuted over the batch.

    Args:
        student: logits [B, K].
        embedding: the teacher's, h [B, D].
        teacher: its logits [B, K], linear in h.
        weight: of its classifier, W [K, D].
        order: a permutation of the batch, [B].

    Returns:
        [D]: mean over cells and classes of (z_s - z_t - W_d (h_pi(d) - h_d))^2, feature d alone permuted. Large
        for features that the student has too.

    Source: Xue et al., arXiv 2206.06487, algorithm 1.
    """
    moved = embedding[order] - embedding  # [B, D]
    apart = student - teacher
    # the square, multiplied out, so that no [B, D, K] is made
    cross = (moved * (apart @ weight)).mean(0)
    own = moved.square().mean(0) * weight.square().sum(0)
    return (apart.square().sum(1).mean() - 2 * cross + own) / student.shape[1]


def kept(saliencies: Tensor, ratio: float) -> Tensor:
    """[D] of 0 and 1: 1 for the D - floor(ratio D) features of the largest saliency."""
    count = len(saliencies) - int(ratio * len(saliencies))
    chosen = saliencies.topk(count).indices
    return torch.zeros_like(saliencies).scatter(0, chosen, 1.0)


class ModalityFocus(Distiller):
    """Hinton's loss from a teacher whose features are zero but for those that are decisive in both modalities.

    Saliencies are a moving average over steps, with one permutation of the batch a step.
    """

    name = "modality_focus"
    source = "Xue, Gao, Ren, Zhao, ICLR 2023, arXiv 2206.06487: algorithm 1 and modality-general distillation"
    needs = Needs(
        teacher=("logits", "embedding"),
        teacher_head=True,
        draws=True,
        min_batch=2,
        trainable=False,
        matches="logits",
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        temperature: float = param(1.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 8.0), log=True)
        ratio: float = param(
            0.75, "Share of the teacher's features that is taken out; 0: none.", ge=0, lt=1, search=(0.25, 0.9)
        )

    params: Params
    saliencies: Tensor
    known: Tensor

    def setup(self, pair: PairShapes) -> None:
        if pair.teacher_embedding is None:
            raise IncompatibleError("modality_focus selects features of the teacher, but this teacher has none.")
        self.key = pair.key
        self.register_buffer("saliencies", torch.zeros(pair.teacher_embedding))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        if teacher.head is None or teacher.embedding is None:
            raise IncompatibleError(
                "modality_focus calls the teacher's classifier, but this teacher has no single one."
            )
        h = teacher.embedding
        with torch.no_grad():
            base = teacher.head(h.new_zeros(1, h.shape[1]))
            weight = (teacher.head(torch.eye(h.shape[1], dtype=h.dtype, device=h.device)) - base).T
            order = progress.draw.permutation(len(h), f"modality_focus:{self.key}").to(h.device)
            now = saliency(student.logits.detach(), h, teacher.head(h), weight, order)
            moved = MOMENTUM * self.saliencies + (1 - MOMENTUM) * now
            self.saliencies.copy_(torch.where(self.known, moved, now.to(moved.dtype)))
            self.known.fill_(True)
            focused = teacher.head(h * kept(self.saliencies, self.params.ratio).to(h.dtype))
        return {"kl": kd_loss(student.logits, focused, self.params.temperature)}

    @property
    def temperature(self) -> float:
        return self.params.temperature
