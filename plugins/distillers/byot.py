"""Be your own teacher: exits on the shallower stages learn from the network's own prediction (Zhang et al.)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError


class Exit(nn.Module):
    """A small network on a shallow stage that ends as the whole one does: an embedding and logits.

    Args:
        shape: (C, H, W) of the stage.
        halvings: 3x3 convolutions of stride 2, which double the channels; one per stage that is skipped.
        embedding: D, that of the whole network.
        classes: K.
    """

    def __init__(self, shape: tuple[int, int, int], halvings: int, embedding: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        given = shape[0]
        for _ in range(halvings):
            wanted = max(given, min(2 * given, embedding))
            layers += [nn.Conv2d(given, wanted, 3, 2, 1, bias=False), nn.BatchNorm2d(wanted), nn.ReLU()]
            given = wanted
        self.body = nn.Sequential(*layers)
        self.embed = nn.Linear(given, embedding)
        self.classify = nn.Linear(embedding, classes)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(embedding [B, D], logits [B, K])."""
        embedding = self.embed(self.body(maps).mean((2, 3)))
        return embedding, self.classify(embedding)


def exit_loss(
    logits: Tensor,
    embedding: Tensor,
    deep_logits: Tensor,
    deep_embedding: Tensor,
    labels: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One exit's cross-entropy, T^2 KL(deepest || exit) and ||e - e_deepest||_2^2, per sample.

    Args:
        logits, embedding: of the exit, [B, K] and [B, D].
        deep_logits, deep_embedding: of the deepest exit, detached.
        labels: [B].
        temperature: T > 0.

    Returns:
        Three of [B], each >= 0; the last two are zero where the exit equals the deepest one.

    Source: Zhang et al., ICCV 2019, arXiv 1905.08094, equations 3 to 5.
    """
    hard = F.cross_entropy(logits, labels, reduction="none")
    soft = kd_loss(logits, deep_logits, temperature)
    return hard, soft, (embedding - deep_embedding).pow(2).sum(1)


class SelfExits(Distiller):
    """Be your own teacher: labels, and the deepest exit's logits and embedding, teach every shallower stage.

    `teacher` is the student's own output, detached. The exits belong to the distiller and are not deployed;
    their gradient runs into the student's stages. Terms are summed over exits and carry the shares below.
    """

    name = "byot"
    source = "Zhang et al., ICCV 2019, arXiv 1905.08094, eq. 3-6"
    needs = Needs(
        student=("logits", "embedding", "maps"),
        teacher=("logits", "embedding"),
        labels=True,
        taught_by="self",
        trainable=True,
        min_batch=2,
        matches="online",
    )

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss of all exits.", ge=0, search=(0.1, 10.0), log=True)
        soft: float = param(
            0.3, "Share of the soft loss; the rest is cross-entropy.", ge=0, le=1, search=(0.0, 1.0)
        )
        hint: float = param(0.03, "Factor on the distance of embeddings.", ge=0, search=(1e-4, 0.3), log=True)
        temperature: float = param(
            3.0, "T: higher softens more.", gt=0, le=100, search=(1.0, 20.0), log=True, when="soft != 0"
        )

    params: Params

    @property
    def temperature(self) -> float:
        return self.params.temperature

    def setup(self, pair: PairShapes) -> None:
        if len(pair.student_maps) < 2 or pair.student_embedding is None:
            raise IncompatibleError(
                f"byot adds exits to the stages before the last, but the student has {len(pair.student_maps)} "
                "stages. Choose another distiller, or a backbone with stage maps (wbcbench list backbones)."
            )
        *shallow, _ = pair.student_maps
        self.exits = nn.ModuleList(
            Exit(shape, len(shallow) - i, pair.student_embedding, pair.n_classes)
            for i, shape in enumerate(shallow)
        )

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert teacher.embedding is not None
        assert student.labels is not None
        hard = soft = hint = teacher.logits.new_zeros(len(teacher.logits))
        for network, maps in zip(self.exits, student.maps[:-1], strict=True):
            embedding, logits = network(maps)
            parts = exit_loss(
                logits, embedding, teacher.logits, teacher.embedding, student.labels, self.params.temperature
            )
            hard, soft, hint = hard + parts[0], soft + parts[1], hint + parts[2]
        share = self.params.soft
        return {"ce": (1 - share) * hard, "kl": share * soft, "hint": self.params.hint * hint}
