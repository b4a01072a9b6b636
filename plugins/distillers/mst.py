"""Masked teachers: a learned gate on the teacher's embedding adapts it to the student.

The second stage of MST-Distill (specialised teachers); its last, a choice among teachers per cell, is
`--routing recruit`. Mask and student are trained at once, not one after the other.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError


class MaskNet(nn.Module):
    """e -> e * 2 sigmoid(W2 relu(W1 e)), [B, D] -> [B, D]; the identity at the start (W2 = 0).

    Parameters: 2 D H + H + D with H = max(8, D / 4).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(8, width // 4)
        self.squeeze, self.excite = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, embedding: Tensor) -> Tensor:
        gate: Tensor = self.excite(F.relu(self.squeeze(embedding))).sigmoid()
        return 2 * gate * embedding


class MaskedTeacher(Distiller):
    """Distillation from a teacher behind a learned mask that brings it closer to what the student can follow.

    The student learns T^2 KL(masked teacher || student); the mask, from its own losses alone, to keep the
    label (cross-entropy) and to approach the student (KL). Combine with `--routing recruit`.
    """

    name = "mst"
    source = "Li et al., MST-Distill, ACM MM 2025: mask networks, trained jointly"
    needs = Needs(
        teacher=("logits", "embedding"),
        labels=True,
        teacher_head=True,
        trainable=True,
        matches="online",
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.1, 10.0), log=True)
        temperature: float = param(4.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True)
        towards: float = param(
            0.1, "Weight of the KL to the student in the mask's loss.", ge=0, search=(0.01, 1.0), log=True
        )

    params: Params

    def setup(self, pair: PairShapes) -> None:
        if pair.teacher_embedding is None:
            raise IncompatibleError("mst masks the teacher's embedding, but this teacher has none.")
        self.mask = MaskNet(pair.teacher_embedding)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        if teacher.head is None:
            raise IncompatibleError("mst calls the teacher's classifier, but this teacher has no single one.")
        masked = teacher.head(self.mask(teacher.embedding))
        keep = F.cross_entropy(masked, student.labels, reduction="none")
        towards = kd_loss(masked, student.logits.detach(), self.params.temperature)
        return {
            "kl": kd_loss(student.logits, masked.detach(), self.params.temperature),
            "mask": keep + self.params.towards * towards,
        }
