"""What a routing promises: which teachers teach a route, and how several teachers are combined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbcbench.contracts.distiller import Distiller, PairShapes
from wbcbench.contracts.output import Output, Progress
from wbcbench.contracts.params import Parameters


class Routing(nn.Module):
    """Pairs student routes with teachers.

    `pairing` is read while planning:

    * `own`: a modality's route is taught by the teachers that read just that modality; a route
      without one, and the joint route, by all teachers (or by the one named in `Params.fallback`).
    * `all`: every route is taught by all teachers.

    One instance serves one pair of a route and a distiller; parameters and buffers are added to the
    optimiser and the checkpoint automatically.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    pairing: ClassVar[Literal["own", "all"]] = "own"
    chain: ClassVar[bool] = False
    """Whether teachers of one modality form a chain: the first listed teaches the student and is itself
    taught, by the same distillers, by the next; the last learns from labels alone."""
    min_teachers: ClassVar[int] = 1
    """How many teachers of a route it needs to have an effect: 2 for one that only combines several. With fewer it
    is refused, since it would be another name for `matched`."""
    trainable: ClassVar[bool] = False
    """Whether it has parameters of its own, and so needs shapes in `setup`."""
    student: ClassVar[tuple[Literal["logits", "embedding", "maps"], ...]] = ()
    """What `teach` itself reads of the student, besides what its distillers read and logits."""
    teacher: ClassVar[tuple[Literal["logits", "embedding", "maps"], ...]] = ()
    """What it reads of the teachers."""
    labels: ClassVar[bool | None] = None
    """Whether it reads the labels of cells, which blended images have not. None: it may."""

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    def __init__(self, params: Parameters) -> None:
        super().__init__()
        self.params = params

    def setup(self, pairs: Sequence[PairShapes]) -> None:
        """Build gates and buffers; `pairs` are the shapes of the route with each of its teachers."""

    def teach(
        self, distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
    ) -> dict[str, Tensor]:
        """One distiller's terms for one student route and its K >= 1 teachers.

        `distillers` holds the distiller once per teacher, so that each teacher has adapters of its own.
        Default: if only logits are read, the teachers are combined by `mean_teacher`; otherwise the terms
        are averaged over the teachers.
        """
        if set(distillers[0].needs.teacher) <= {"logits"}:
            return distillers[0].terms(student, mean_teacher(teachers, distillers[0].temperature), progress)
        return weighted(each_teacher(distillers, student, teachers, progress), None)


def each_teacher(
    distillers: Sequence[Distiller], student: Output, teachers: list[Output], progress: Progress
) -> list[dict[str, Tensor]]:
    """The terms of each teacher separately."""
    return [d.terms(student, t, progress) for d, t in zip(distillers, teachers, strict=True)]


def weighted(each: list[dict[str, Tensor]], weights: Tensor | None) -> dict[str, Tensor]:
    """sum_k w_k term_k for every term; `weights` [K] or per sample [K, B], None for 1 / K.

    A scalar term is weighted by the mean of its teacher's weights over the batch.
    """
    terms = {}
    for name in each[0]:
        stacked = torch.stack([t[name] for t in each])  # [K] or [K, B]
        if weights is None:
            terms[name] = stacked.mean(0)
            continue
        w = weights.to(stacked.dtype)
        if w.ndim > stacked.ndim:
            w = w.mean(1)
        elif w.ndim < stacked.ndim:
            w = w[:, None]
        terms[name] = (w * stacked).sum(0)
    return terms


def mean_teacher(teachers: list[Output], temperature: float) -> Output:
    """One teacher whose softened probabilities are the mean of the given teachers'.

    softmax(z / T) = mean_k softmax(z_k / T), so z = T log mean_k softmax(z_k / T). Logits [B, K] each.
    Embeddings are averaged where all have the same width, else left out; maps are left out.
    """
    if len(teachers) == 1:
        return teachers[0]
    log_p = torch.stack([t.logits / temperature for t in teachers]).log_softmax(-1)
    mean = torch.logsumexp(log_p, 0) - torch.log(torch.tensor(float(len(teachers))))
    widths = {None if t.embedding is None else t.embedding.shape[1] for t in teachers}
    embedding = None
    if len(widths) == 1 and None not in widths:
        embedding = torch.stack([t.embedding for t in teachers if t.embedding is not None]).mean(0)
    reads = frozenset().union(*(t.reads for t in teachers))
    return Output(logits=temperature * mean, embedding=embedding, reads=reads)
