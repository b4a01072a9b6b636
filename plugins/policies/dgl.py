"""Disentangled gradient learning: encoders learn from their own losses, the fusion from the joint one."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.policies._modalities import (
    own_parameters,
    require_logits,
    require_parameters,
    unimodal_terms,
)

from wbcbench.contracts import (
    Batch,
    DoesBackward,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    param,
)


class DGL(DoesBackward, Policy):
    """alpha sum_m CE(z_m) trains what belongs to a modality, all other terms train what is shared.

    z_m are the logits of the modality's route, or its part of a joint head. The joint loss sends no gradient into
    the encoders, and the modalities' losses none into the fusion; what distillers add reaches both. A parameter
    that only one side reaches keeps that side. Costs two backward passes more.
    """

    name = "dgl"
    source = "Wei, Luo, Luo, ICCV 2025, arXiv 2507.10213, and the authors' code (main_dgl.py)"
    traits = PolicyTraits(
        acts_on="gradients",
        arity=(2, None),
        needs_routes="joint",
        wants=("own_parameters", "logits", "trained_logits"),
        reads_labels=True,
    )

    class Params(Parameters):
        alpha: float = param(
            4.0, "Factor on the modalities' own losses (authors: 2 to 5).", gt=0, search=(1.0, 5.0)
        )

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        require_parameters(fusion, self.name)
        require_logits(fusion, self.name)

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        own = unimodal_terms(self.name, terms, outputs, batch, self.fusion)
        return terms | {name: self.params.alpha * term for name, term in own.items()}

    def backward(self, terms: dict[str, Tensor], rest: Tensor, fusion: Fusion) -> bool:
        own = {n for n in terms if n in fusion.task.modalities or n.startswith(f"{self.name}.")}
        sides = [[t for n, t in terms.items() if (n in own) is mine and t.requires_grad] for mine in (True, False)]
        params = [p for p in fusion.parameters() if p.requires_grad]
        mine, theirs = (
            torch.autograd.grad(torch.stack(side).sum(), params, retain_graph=True, allow_unused=True)
            for side in sides
        )
        torch.stack([*terms.values(), rest]).sum().backward()  # type: ignore[no-untyped-call]
        belongs = {id(p) for parameters in own_parameters(fusion).values() for p in parameters}
        for p, uni, joint in zip(params, mine, theirs, strict=True):
            if uni is not None and joint is not None:
                assert p.grad is not None
                p.grad.sub_(joint if id(p) in belongs else uni)
        return True
