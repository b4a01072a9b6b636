"""Dirichlet evidence: the losses and the combination that tmc and etmc share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies._modalities import index_of, labels_of, masked_mean, shown

from wbcbench.contracts import Batch, Fusion, Outputs


def evidence(logits: Tensor, how: str) -> Tensor:
    """[..., K] logits -> evidence >= 0: softplus, relu, or exp (up to exp(30))."""
    if how == "exp":
        return logits.clamp(max=30).exp()
    return F.softplus(logits) if how == "softplus" else logits.relu()


def dirichlet_loss(e: Tensor, labels: Tensor, annealing: float) -> Tensor:
    """psi(S) - psi(alpha_y) + annealing * KL(Dir(alpha~) || Dir(1)), alpha = e + 1, S = sum_k alpha_k.

    alpha~ is alpha with the true class's entry set to 1: only misleading evidence is penalised.

    Args:
        e: [R, K], >= 0.
        labels: [R].
        annealing: in [0, 1].

    Returns:
        [R], >= 0. Without evidence: psi(K) - psi(1).

    Source: Han et al., TMC, ICLR 2021, arXiv 2102.02051, section 3.
    """
    alpha = e + 1
    own = alpha.gather(1, labels[:, None])[:, 0]
    fit = torch.digamma(alpha.sum(1)) - torch.digamma(own)
    wrong = alpha.scatter(1, labels[:, None], 1.0)
    total = wrong.sum(1)
    kl = torch.lgamma(total) - math.lgamma(e.shape[1]) - torch.lgamma(wrong).sum(1)
    kl = kl + ((wrong - 1) * (torch.digamma(wrong) - torch.digamma(total)[:, None])).sum(1)
    return fit + annealing * kl


def combine(e: Tensor) -> Tensor:
    """Dempster's rule (reduced) on subjective opinions b = e / S, u = K / S, in closed form.

    e_k = K (prod_m (1 + e_mk / K) - 1), which is b_k ~ prod (b_mk + u_m) - prod u_m, u ~ prod u_m in evidence.
    The order of views changes nothing; a view without evidence changes nothing.

    Args:
        e: [V, R, K], >= 0.

    Returns:
        [R, K], >= 0, at most K exp(60).

    Source: arXiv 2102.02051, Dempster's rule of two views, applied V - 1 times.
    """
    k = e.shape[-1]
    return k * torch.expm1(torch.log1p(e / k).sum(0).clamp(max=60))


def trusted_terms(
    terms: dict[str, Tensor],
    outputs: Outputs,
    batch: Batch,
    fusion: Fusion,
    views: tuple[str, ...],
    name: str,
    how: str,
    annealing: float,
) -> dict[str, Tensor]:
    """The views' losses instead of their cross-entropies, and the combination's as `name.combined`.

    A view without an image has no evidence and no loss; the combination counts where all views that are there
    show the same cell.
    """
    found, opinions, masks = dict(terms), [], []
    for view in views:
        out = outputs[view]
        labels = labels_of(out)
        if view in fusion.task.modalities:
            there = shown(batch, fusion.task.modalities, view, labels)
        else:
            there = torch.ones_like(labels, dtype=torch.bool) if batch.present is None else batch.present.any(1)
        e = evidence(out.logits, how)
        found[view] = masked_mean(dirichlet_loss(e, labels, annealing), there)
        opinions.append(torch.where(there[:, None], e, 0.0))
        masks.append(there)
    seen = torch.stack(masks)
    index = torch.stack([index_of(outputs[v]) for v in views])
    low = torch.where(seen, index, torch.iinfo(index.dtype).max).amin(0)
    same = (torch.where(seen, index, low) == low).all(0) & seen.any(0)
    first = seen.to(torch.int8).argmax(0, keepdim=True)
    labels = torch.stack([labels_of(outputs[v]) for v in views]).gather(0, first)[0]
    loss = dirichlet_loss(combine(torch.stack(opinions)), labels, annealing) * batch.weights_of(labels)
    return found | {f"{name}.combined": masked_mean(loss, same)}
