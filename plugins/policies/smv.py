"""Sample-level modality valuation: cells are shown again with a modality that contributed little (Wei et al.)."""

from __future__ import annotations

import torch
from torch import Tensor
from wbcbench_plugins.policies._modalities import labels_of, same_cell
from wbcbench_plugins.policies.agm import shapley

from wbcbench.contracts import (
    Batch,
    ForwardsAgain,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    over_rows,
    param,
)
from wbcbench.contracts.policy import Run
from wbcbench.errors import IncompatibleError


def contributions(right: dict[frozenset[int], Tensor], count: int) -> Tensor:
    """Shapley values of the game v(S) = |S| if the prediction from S is right, else 0.

    right: every non-empty subset of 0..M-1 -> [R] bool. Returns [M, R]; they add up to M or 0. For M = 2:
    (v(m) + v(both) - v(other)) / 2, in -0.5, 0, 0.5, 1, 1.5.

    Source: Wei et al., arXiv 2309.06255, section 3.
    """
    some = next(iter(right.values()))
    values = {s: (len(s) * r.float())[:, None] for s, r in right.items()}
    values[frozenset()] = torch.zeros_like(some, dtype=torch.float32)[:, None]
    return shapley(values, count)[..., 0]


def repeats(values: Tensor) -> Tensor:
    """How often a cell is shown again with one modality alone: 2 (1 - phi), at least 0; of the authors' table
    0.5 -> 1, 0 -> 2, -0.5 -> 3, the line through it."""
    return (2 * (1 - values)).relu()


class SMV(ForwardsAgain, Policy):
    """L + sum_m f_m L_m: L_m the fusion's own loss with modality m alone, f_m how often the cell needs it.

    Before each epoch the authors value every cell and add copies of it to the data, with all but one modality
    zero. Here each step values its cells by itself and adds what the copies would have added: the same gradient,
    in the same step, and no longer epochs. Costs 2^M - 1 forward passes in evaluation mode and M in training mode.
    """

    name = "smv"
    source = "Wei, Feng, Wang, Hu, CVPR 2024, arXiv 2309.06255: sample-level re-sampling, as weights"
    traits = PolicyTraits(arity=(2, 4), wants=("incomplete", "trained_logits"), waits="warmup", reads_labels=True)

    class Params(Parameters):
        warmup: int = param(5, "Epochs before anything is shown again.", ge=0, le=1000, search=[0, 2, 5])

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.modalities = fusion.task.modalities
        if not 2 <= len(self.modalities) <= 4 or fusion.traits.missing == "refuse":
            raise IncompatibleError(
                f"smv shows 2 to 4 modalities one by one, but '{fusion.name}' has {len(self.modalities)} or "
                "refuses incomplete cells. Choose another fusion or other modalities."
            )

    def after_forward(self, run: Run, outputs: Outputs, batch: Batch, progress: Progress) -> None:
        if progress.epoch < self.params.warmup:
            return
        first = next(iter(batch.images.values()))
        count = len(self.modalities)
        whole = torch.ones(len(first), count, dtype=torch.bool, device=first.device)
        present = whole if batch.present is None else batch.present
        usable = same_cell(outputs, tuple(outputs)) & present.all(1)
        labels = labels_of(next(iter(outputs.values())))

        def only(subset: frozenset[int]) -> tuple[Outputs, Tensor]:
            mask = present & torch.tensor([i in subset for i in range(count)], device=first.device)
            images = {
                m: torch.where(over_rows(mask[:, i], batch.images[m]), batch.images[m], 0.0)
                for i, m in enumerate(self.modalities)
            }
            return run(images, mask), mask

        training = self.fusion.training
        self.fusion.eval()
        with torch.no_grad():
            right = {}
            for bits in range(1, 2**count):
                subset = frozenset(i for i in range(count) if bits >> i & 1)
                found, mask = only(subset)
                right[subset] = self.fusion.predict(found, mask).argmax(1) == labels
            times = repeats(contributions(right, count)) * usable.float()
        self.fusion.train(training)
        batch.extras[self.name] = [(*only(frozenset({i})), times[i]) for i in range(count)]

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        if progress.epoch < self.params.warmup:
            return terms
        added = {}
        for m, (found, _, times) in zip(self.modalities, batch.extras[self.name], strict=True):
            own = self.fusion.task_terms(found, batch, progress)
            total = torch.zeros_like(times)
            for route, out in found.items():
                if route not in own or own[route].shape != times.shape:
                    continue
                loss = own[route] * batch.weights_of(labels_of(out))
                total = total + (loss if out.shown is None else torch.where(out.shown, loss, 0.0))
            added[f"{self.name}.{m}"] = times * total
        return terms | added
