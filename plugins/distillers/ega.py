"""Embedding graph alignment: Pearson correlations between samples, within and across networks (Ma et al. 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, adapters, param


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlations over features between the rows of `a` [B, D] and `b` [B, D]: [B, B] in [-1, 1].

    A row of equal features correlates 0 with everything.
    """
    a, b = (F.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (a, b))
    return a @ b.T


def node_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||P_ts - I||_F: each sample correlates with itself in the other network, and with no other sample.

    Args:
        student, teacher: embeddings [B, D].

    Returns:
        A scalar >= 0. Invariant to shift and positive scale of a row.

    Source: Ma et al., BMVC 2022, arXiv 2211.13264 (nodes), in the form of giakoumoglou/distillers.
    """
    identity = torch.eye(len(student), dtype=student.dtype, device=student.device)
    distance: Tensor = torch.linalg.vector_norm(pearson(teacher, student) - identity)
    return distance


def edge_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||P_tt - P_ss||_F: samples correlate with each other as they do in the teacher.

    Args:
        student, teacher: embeddings [B, *]; the widths may differ.

    Returns:
        A scalar >= 0, zero where student = teacher.

    Source: Ma et al., arXiv 2211.13264 (edges), in the form of giakoumoglou/distillers.
    """
    distance: Tensor = torch.linalg.vector_norm(pearson(teacher, teacher) - pearson(student, student))
    return distance


class EGA(Distiller):
    """Correlations between samples, across the two networks (nodes) and within each (edges)."""

    name = "ega"
    source = "Ma et al., BMVC 2022 (embedding graph alignment), arXiv 2211.13264"
    needs = Needs(student=("embedding",), teacher=("embedding",), min_batch=2, matches="relational")

    class Params(DistillerParams):
        weight: float = param(1.0, "Factor on the loss.", ge=0, search=(0.01, 10.0), log=True)
        node: float = param(1.0, "Factor on the nodes.", ge=0, search=(0.1, 10.0), log=True)
        edge: float = param(0.3, "Factor on the edges.", ge=0, search=(0.03, 3.0), log=True)

    params: Params
    adapter: nn.Module

    def setup(self, pair: PairShapes) -> None:
        self.adapter = adapters.linear(pair.student_embedding, pair.teacher_embedding)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert teacher.embedding is not None
        f_s = self.adapter(student.embedding)
        return {
            "node": self.params.node * node_loss(f_s, teacher.embedding),
            "edge": self.params.edge * edge_loss(f_s, teacher.embedding),
        }
