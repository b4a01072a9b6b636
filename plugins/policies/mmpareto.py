"""MMPareto: gradients of the multimodal and the unimodal losses, reconciled where they disagree (Wei, Hu 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from wbcbench_plugins.policies._modalities import own_parameters

from wbcbench.contracts import DoesBackward, Fusion, Parameters, Policy, PolicyTraits, param
from wbcbench.contracts.adapters import min_norm
from wbcbench.errors import IncompatibleError

AUXILIARY = "aux_heads."


def reconcile(gram: Tensor, gamma: float) -> Tensor:
    """What to multiply each gradient by, given all inner products.

    Without conflict (no negative inner product) all weights are gamma: the plain sum, times gamma. Otherwise the
    min-norm direction, given the length of the plain sum, times gamma.

    Args:
        gram: [n, n], n >= 2.
        gamma: > 0.

    Returns:
        [n] >= 0.

    Source: arXiv 2405.17730, algorithm 1 (two gradients); any n here. The length is that of a whole
    block, in the authors' code that of each tensor.
    """
    pareto = min_norm(gram)
    plain = gram.sum().clamp(min=0).sqrt()
    length = (pareto @ gram @ pareto).clamp(min=1e-20).sqrt()
    return gamma * torch.where((gram < 0).any(), pareto * (plain / length), torch.ones_like(pareto))


def objectives(terms: dict[str, Tensor], fusion: Fusion) -> tuple[list[Tensor], list[Tensor]]:
    """(losses to reconcile, all other terms): the routes' losses and those of aux_heads, multimodal and unimodal.

    Penalties (the balance of moe, the sparsity of cen, what cml or contrastive add) are not objectives.
    """
    chosen = {n for n, t in terms.items() if (n in fusion.routes or n.startswith(AUXILIARY)) and t.requires_grad}
    return [terms[n] for n in terms if n in chosen], [t for n, t in terms.items() if n not in chosen]


class MMPareto(DoesBackward, Policy):
    """Parameters that several objectives reach get `reconcile`d gradients, block by block; the rest plain ones.

    Objectives are the losses of the routes and of aux_heads; whatever else is in the loss, distillation included,
    is added as it is. Blocks are each modality's own parameters and what is shared. With a joint route and
    aux_heads, that is the paper: multimodal against unimodal loss in each encoder. In one trunk with a head per
    modality the heads' losses are reconciled. Costs one backward pass per objective more.
    """

    name = "mmpareto"
    source = "Wei, Hu, ICML 2024, arXiv 2405.17730"
    traits = PolicyTraits(acts_on="gradients", arity=(2, None), wants=("meeting_losses", "trained_logits"))

    class Params(Parameters):
        gamma: float = param(1.5, "Factor on the length of reconciled gradients.", gt=0, le=10, search=(1.0, 2.0))

    params: Params

    def backward(self, terms: dict[str, Tensor], rest: Tensor, fusion: Fusion) -> bool:
        own = own_parameters(fusion)
        taken = {id(p) for ps in own.values() for p in ps}
        shared = [p for p in fusion.parameters() if p.requires_grad and id(p) not in taken]
        blocks = [*own.values(), shared]
        params = [p for block in blocks for p in block]
        losses, others = objectives(terms, fusion)
        found = [torch.autograd.grad(t, params, retain_graph=True, allow_unused=True) for t in losses]
        by_loss: list[dict[int, Tensor | None]] = [
            dict(zip(map(id, params), grads, strict=True)) for grads in found
        ]

        torch.stack([*losses, *others, rest]).sum().backward()  # type: ignore[no-untyped-call]
        acted = [self._block(block, by_loss) for block in blocks]
        if not any(acted):
            raise IncompatibleError(
                f"mmpareto reconciles losses that meet in some parameters, but in '{fusion.name}' none do. Add "
                "the policy aux_heads, or choose a fusion with a shared trunk, such as independent."
            )
        return True

    def _block(self, block: list[nn.Parameter], by_loss: list[dict[int, Tensor | None]]) -> bool:
        """Replace the sums in `.grad` of the parameters that the same two or more losses reach."""
        groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in block:
            reach = tuple(i for i, grads in enumerate(by_loss) if grads[id(p)] is not None)
            if len(reach) > 1:
                groups.setdefault(reach, []).append(p)
        for reach, params in groups.items():
            rows = [[by_loss[i][id(p)] for p in params] for i in reach]
            flat = torch.stack([torch.cat([g.float().flatten() for g in row if g is not None]) for row in rows])
            weights = reconcile(flat @ flat.T, self.params.gamma)
            change = (weights - 1) @ flat
            for p, part in zip(params, torch.split(change, [p.numel() for p in params]), strict=True):
                assert p.grad is not None
                p.grad.add_(part.view(p.shape))
        return bool(groups)
