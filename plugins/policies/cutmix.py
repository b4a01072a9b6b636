"""CutMix of multimodal cells: a square of another cell, at one place for all modalities or one per modality."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from wbcbench_plugins.policies._mixing import beta, boxes, mixed_terms, plan

from wbcbench.contracts import Batch, Draw, Outputs, Parameters, Policy, PolicyTraits, Progress, param


class CutMix(Policy):
    """A square of area 1 - lambda comes from the partner; lambda is then the share of pixels actually left.

    With `shared`, square and partner are those of the whole cell, so that modalities stay registered. Without,
    each modality has its own; a joint route is then taught the mean over modalities (a variant of ours).
    """

    name = "cutmix"
    source = "Yun et al., ICCV 2019, arXiv 1905.04899; per modality: a variant"
    traits = PolicyTraits(acts_on="images", blends_cells=True, vectors=False)

    class Params(Parameters):
        alpha: float = param(
            1.0,
            "lambda ~ Beta(alpha, alpha); small: all or nothing.",
            ge=0.05,
            le=2,
            search=(0.2, 2.0),
            when="rate != 0",
        )
        rate: float = param(0.5, "Probability of mixing a row.", ge=0, le=1, search=(0.1, 1.0))
        shared: bool = param(
            True, "Whether all modalities of a row have the same partner and square.", when="rate != 0"
        )

    params: Params

    def images(self, batch: Batch, draw: Draw) -> Batch:
        p, mixed = self.params, {}
        mixes = plan(
            batch, self.fusion, p.shared, p.rate, lambda n, salt: beta(n, p.alpha, draw, salt), draw, self.name
        )
        for m, x in batch.images.items():
            salt = self.name if p.shared else f"{self.name}:{m}"
            centre = torch.stack([draw.uniform(len(x), f"{salt}:{axis}") for axis in "yx"], 1)
            box = boxes(x.shape[-1], mixes[m].share, centre)
            mixed[m] = torch.where(box[:, None], x[mixes[m].partner], x)
            mixes[m] = replace(mixes[m], share=1 - box.float().mean((1, 2)))
        batch.images, batch.extras[self.name] = mixed, mixes
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        return mixed_terms(terms, outputs, batch, batch.extras[self.name], self.fusion, progress)
