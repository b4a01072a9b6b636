"""Policies as they were written before contracts had traits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wbcbench.contracts import Batch, Fusion, Outputs, Parameters, Policy, Progress, param


class OldBackward(Policy):
    """Does the backward itself, and counts how often each cell was shown."""

    name = "old_backward"
    acts_on = "gradients"
    arity = (2, None)
    wants = ("own_parameters",)
    gradients = "combines"

    class Params(Parameters):
        scale: float = param(1.0, "Factor on the task's gradient.", gt=0)

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.heads = {m: len(ps) for m, ps in fusion.head_params().items()}

    def setup_cells(self, size: int) -> None:
        super().setup_cells(size)
        self.register_buffer("shown", torch.zeros(size))

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        self.shown.index_add_(0, batch.cells, torch.ones(len(batch.cells), device=batch.cells.device))
        assert set(self.fusion.modality_logits(outputs)) <= set(self.fusion.task.modalities)
        return terms

    def backward(self, terms: dict[str, Tensor], rest: Tensor, fusion: Fusion) -> bool:
        (self.params.scale * torch.stack(list(terms.values())).sum() + rest).backward()
        return True


class OldAfter(Policy):
    """Clips each parameter's gradient."""

    name = "old_after"
    acts_on = "gradients"
    gradients = "changes"

    def after_backward(self, fusion: Fusion, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        for p in fusion.parameters():
            if isinstance(p, nn.Parameter) and p.grad is not None:
                p.grad.clamp_(-1, 1)
