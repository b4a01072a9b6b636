"""Soft labels by distance in the order of classes: a neighbouring stage is less wrong than a far one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from wbcbench.contracts import (
    Batch,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    masked_mean,
    param,
)


def soft_labels(classes: int, alpha: float, power: float) -> Tensor:
    """[K, K], row t: softmax_i(-alpha |t - i|^power), the target of a cell of class t.

    Source: Diaz and Marathe, CVPR 2019, equation 1, with phi = alpha |r_t - r_i|^power.
    """
    places = torch.arange(classes, dtype=torch.float32)
    return (-alpha * (places[:, None] - places[None]).abs() ** power).softmax(1)


class SORD(Policy):
    """Every route learns soft labels, L = sum_i y_i CE(z, i) with y_i = softmax_i(-alpha |t - i|^power).

    t is the place of the true class in the order. CE(z, i) is the fusion's own loss if the label were i, so that
    factors that a fusion has on its losses stay. Soft labels take the place of label smoothing. With a large alpha
    they are hard; the closer it is to 0, the more alike all classes are.
    """

    name = "sord"
    aliases = ("soft_ordinal",)
    source = "Diaz and Marathe, CVPR 2019"
    traits = PolicyTraits(ordered=True, reads_labels=True, replaces_losses="all")

    class Params(Parameters):
        alpha: float = param(2.0, "How fast a class counts less by distance.", gt=0, search=(0.5, 8.0), log=True)
        power: float = param(2.0, "Of the distance: 1 absolute, 2 squared.", gt=0, le=4, search=[1.0, 2.0])

    params: Params
    targets: Tensor

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        table = soft_labels(fusion.task.n_classes, self.params.alpha, self.params.power)
        self.register_buffer("targets", table, persistent=False)

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        soft: dict[str, Tensor] = {}
        for i in range(self.fusion.task.n_classes):
            for route, term in self.fusion.task_terms(labelled(outputs, i), batch, progress).items():
                labels = outputs[route].labels if route in outputs else None
                if labels is not None and term.ndim:
                    soft[route] = soft.get(route, 0.0) + self.targets[labels, i] * term
        for route in soft:
            shown = outputs[route].shown
            soft[route] = soft[route] if shown is None else masked_mean(soft[route], shown)
        return {name: soft.get(name, term) for name, term in terms.items()}


def labelled(outputs: Outputs, label: int) -> Outputs:
    """The outputs as if every row were of one class."""
    found = {}
    for route, out in outputs.items():
        found[route] = copy.copy(out)
        found[route].labels = None if out.labels is None else torch.full_like(out.labels, label)
    return found
