"""Contrastive representation distillation with a memory of all training cells (Tian, Krishnan, Isola 2020).

The similarities to the whole memory are one matrix product, from which the drawn columns are gathered: the
value of gathering every negative's vector, at a fraction of the memory. Negatives are drawn with replacement.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.errors import IncompatibleError

EPS = 1e-7


def similarities(f: Tensor, memory: Tensor, picked: Tensor, temperature: float) -> Tensor:
    """<f_i, memory_j> / tau at the picked rows j.

    Args:
        f: unit embeddings [B, D].
        memory: unit vectors [N, D], constant.
        picked: [B, 1 + K] int64 rows of the memory, the positive first.
        temperature: tau > 0.

    Returns:
        [B, 1 + K].
    """
    return (f @ memory.T / temperature).gather(1, picked)


def log_constant(logits: Tensor, cells: int) -> Tensor:
    """log Z of a batch, Z = N mean exp(logits) with N = `cells`; a scalar without gradient."""
    return logits.detach().flatten().logsumexp(0) + math.log(cells / max(1, logits.numel()))


def contrast_loss(logits: Tensor, cells: int) -> Tensor:
    """-log h(x_0) - sum_k log(1 - h(x_k)), h(x) = x / (x + K/N): which logits come from the same cell.

    Args:
        logits: log x = similarity / tau - log Z, [B, 1 + K], the positive first.
        cells: N, the number of cells that negatives represent.

    Returns:
        [B], each >= 0.

    Source: Tian et al., arXiv 1910.10699 and its code (epsilon 1e-7), in logarithms.
    """
    noise = (logits.shape[1] - 1) / cells
    both = torch.logaddexp(logits, torch.full_like(logits, math.log(noise + EPS)))
    return both.sum(1) - logits[:, 0] - (logits.shape[1] - 1) * math.log(max(noise, EPS))


def remembered(memory: Tensor, index: Tensor, f: Tensor, momentum: float) -> Tensor:
    """The memory with the rows of a batch's cells moved towards their new embeddings, and of length 1 again.

    Args:
        memory: [N, D].
        index: [B] int64; a cell that is shown twice moves once, to its first row, on every device.
        f: unit embeddings [B, D].
        momentum: share of the old row that is kept.

    Returns:
        [N, D], a new tensor.
    """
    position = torch.arange(len(index), device=index.device)
    first = torch.where(index[:, None] == index[None], position, len(index)).amin(1)
    rows = F.normalize(momentum * memory[index] + (1 - momentum) * f[first], dim=1)
    return memory.index_copy(0, index, rows)


def negatives(uniform: Tensor, labels: Tensor, order: Tensor, start: Tensor, count: Tensor) -> Tensor:
    """Cells of other classes, uniformly and with replacement.

    Args:
        uniform: [B, K] in [0, 1).
        labels: [B] int64.
        order: [n] cell ids, sorted by class.
        start, count: [classes] where each class begins in `order`, and its number of cells.

    Returns:
        [B, K] cell ids. Where there is no other class, arbitrary ones.
    """
    others = (len(order) - count[labels])[:, None]
    rank = (uniform * others).long().clamp(max=(others - 1).clamp(min=0))
    skip = rank >= start[labels][:, None]
    return order[(rank + skip * count[labels][:, None]).clamp(max=len(order) - 1)]


class CRD(Distiller):
    """Contrast of each cell with remembered cells of other classes, student against teacher and back."""

    name = "crd"
    source = "Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699"
    needs = Needs(
        student=("embedding",),
        teacher=("embedding",),
        labels=True,
        index=True,
        draws=True,
        trainable=True,
    )

    class Params(DistillerParams):
        weight: float = param(0.8, "Factor on the loss; the paper's.", ge=0, search=(0.01, 10.0), log=True)
        temperature: float = param(0.07, "tau: lower sharpens.", gt=0, le=10, search=(0.02, 0.5), log=True)
        dim: int = param(128, "Width of the projections and of the memory.", ge=1, search=[64, 128, 256])
        negatives: int = param(16384, "Negatives per cell; at most the number of other training cells.", ge=1)
        momentum: float = param(0.5, "Share of a remembered vector that is kept.", ge=0, lt=1, search=(0.0, 0.95))

    params: Params
    memory_s: Tensor
    memory_t: Tensor
    log_z_s: Tensor
    log_z_t: Tensor
    order: Tensor
    start: Tensor
    count: Tensor

    def setup(self, pair: PairShapes) -> None:
        if pair.student_embedding is None or pair.teacher_embedding is None or pair.cell_labels is None:
            raise IncompatibleError(f"{self.name} reads embeddings and the labels of all training cells.")
        self.cells, self.key = pair.n_cells, pair.key
        self.drawn = min(self.params.negatives, pair.n_cells - 1)
        self.embed_s = nn.Linear(pair.student_embedding, self.params.dim)
        self.embed_t = nn.Linear(pair.teacher_embedding, self.params.dim)
        for side in "st":
            memory = F.normalize(torch.randn(pair.max_index + 1, self.params.dim), dim=1)
            self.register_buffer(f"memory_{side}", memory)
            self.register_buffer(f"log_z_{side}", torch.tensor(math.inf))  # until the first batch
        labels = pair.cell_labels.cpu()
        order = torch.argsort(labels, stable=True)
        count = torch.bincount(labels[labels >= 0], minlength=pair.n_classes)
        self.register_buffer("order", order[len(order) - int(count.sum()) :])
        self.register_buffer("start", count.cumsum(0) - count)
        self.register_buffer("count", count)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.labels is not None
        assert student.index is not None
        f_s = F.normalize(self.embed_s(student.embedding), dim=1)
        f_t = F.normalize(self.embed_t(teacher.embedding), dim=1)
        index = student.index
        uniform = progress.draw.uniform(len(index) * self.drawn, f"{self.key}/crd").to(f_s)
        others = negatives(
            uniform.view(len(index), self.drawn), student.labels, self.order, self.start, self.count
        )
        picked = torch.cat([index[:, None], others], 1)
        known = self.count[student.labels] < len(self.order)  # otherwise there is nothing to contrast with
        terms = {}
        for side, f, memory, stored in (
            ("student", f_s, self.memory_t.clone(), self.log_z_s),
            ("teacher", f_t, self.memory_s.clone(), self.log_z_t),
        ):
            logits = similarities(f, memory, picked, self.params.temperature)
            log_z = torch.where(stored.isinf(), log_constant(logits, self.cells), stored)
            terms[side] = contrast_loss(logits - log_z, self.cells) * known
            if self.training:
                stored.copy_(log_z)
        if self.training:
            with torch.no_grad():
                for memory, f in ((self.memory_s, f_s), (self.memory_t, f_t)):
                    memory.copy_(remembered(memory, index, f, self.params.momentum))
        return terms
