"""What distillers share: one class apart from the others, schedules, classifiers on maps, optimal transport."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wbcbench.contracts import Output, PairShapes, Progress
from wbcbench.contracts.adapters import pair_stages
from wbcbench.errors import IncompatibleError


def others(values: Tensor, classes: Tensor) -> Tensor:
    """Every row without one of its columns: [B, K] and [B] int64 -> [B, K - 1], the order kept."""
    columns = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, columns + (columns >= classes[:, None]).long())


def one_against_rest(logits: Tensor, classes: Tensor) -> Tensor:
    """[B, K] and [B] int64 -> [B, 2]: log p_c and log(1 - p_c), finite where p_c rounds to 1."""
    log_p = logits.log_softmax(1)
    return torch.cat([log_p.gather(1, classes[:, None]), others(log_p, classes).logsumexp(1, keepdim=True)], 1)


def ramp(progress: Progress, share: float) -> float:
    """0 at the first step, 1 from `share` of training on; always 1 where `share` is 0."""
    return 1.0 if share <= 0 else min(1.0, progress.fraction / share)


def cosine_decay(progress: Progress, start: float) -> float:
    """1 until `start`, a share of training, and from there down to 0 at its end as half a cosine."""
    late = 0.0 if start >= 1 else max(0.0, (progress.fraction - start) / (1 - start))
    return (1 + math.cos(math.pi * late)) / 2


def require_pooled_heads(name: str, pair: PairShapes) -> None:
    """Raise `IncompatibleError` unless each classifier reads as many features as its last map has channels."""
    pair_stages(len(pair.student_maps), len(pair.teacher_maps))
    for who, maps, width in (
        ("student", pair.student_maps, pair.student_embedding),
        ("teacher", pair.teacher_maps, pair.teacher_embedding),
    ):
        if width is not None and width != maps[-1][0]:
            raise IncompatibleError(
                f"{name} applies the {who}'s classifier to its last stage map, which has {maps[-1][0]} channels, "
                f"but the classifier reads {width} features. Choose a backbone that pools its last map, such as "
                "cellnet."
            )


def classified(out: Output, vectors: Tensor) -> Tensor:
    """[..., D] -> [..., K] by a network's own classifier.

    Raises:
        IncompatibleError: the network has no single classifier.
    """
    if out.head is None:
        raise IncompatibleError(
            "A distiller calls a classifier that reads one embedding, but a route or a teacher has no single one. "
            "Choose a fusion with one head per route, such as single or independent."
        )
    return out.head(vectors)


def transport_plan(log_a: Tensor, log_b: Tensor, cost: Tensor, regularisation: float, iterations: int) -> Tensor:
    """The entropic transport plan from a to b after so many steps of Sinkhorn, in logarithms.

    Args:
        log_a: log of the masses that are sent, [..., n].
        log_b: log of the masses that arrive, [..., m]; the sums of both masses agree.
        cost: [..., n, m].
        regularisation: epsilon > 0 of exp(-cost / epsilon); smaller is nearer to the exact plan and slower.
        iterations: each sets the column sums, and then the row sums, which are exact at the end.

    Returns:
        [..., n, m], >= 0. Source: Cuturi, NeurIPS 2013, arXiv 1306.0895, algorithm 1.
    """
    kernel = -cost / regularisation
    log_u = torch.zeros_like(log_a)
    log_v = torch.zeros_like(log_b)
    for _ in range(iterations):
        log_v = log_b - (kernel + log_u[..., None]).logsumexp(-2)
        log_u = log_a - (kernel + log_v[..., None, :]).logsumexp(-1)
    return (log_u[..., None] + kernel + log_v[..., None, :]).exp()
