"""Mixup of multimodal cells: the same partner in all modalities, or a partner for each."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.policies._mixing import beta, mix_images, mixed_terms, plan

from wbcbench.contracts import Batch, Draw, Outputs, Parameters, Policy, PolicyTraits, Progress, param


class CrossModalMixup(Policy):
    """x_m <- lambda x_m + (1 - lambda) x'_m; loss lambda CE(y) + (1 - lambda) CE(y'), per route.

    With `shared`, cell and partner mix as wholes (Zhang et al.). Without, each modality has its own partner and
    lambda, so that a row shows different mixtures in different modalities: a head of one modality is taught its
    own mixture, a joint one the mean over modalities (a variant of ours).
    """

    name = "cross_modal_mixup"
    aliases = ("mixup",)
    source = "Zhang et al., ICLR 2018, arXiv 1710.09412; per modality: a variant"
    traits = PolicyTraits(acts_on="images", blends_cells=True)

    class Params(Parameters):
        alpha: float = param(
            0.2,
            "lambda ~ Beta(alpha, alpha); small: mostly one cell.",
            ge=0.05,
            le=2,
            search=(0.1, 1.0),
            when="rate != 0",
        )
        rate: float = param(1.0, "Probability of mixing a row.", ge=0, le=1)
        shared: bool = param(
            True, "Whether all modalities of a row have the same partner and lambda.", when="rate != 0"
        )

    params: Params

    def images(self, batch: Batch, draw: Draw) -> Batch:
        p = self.params
        mixes = plan(
            batch, self.fusion, p.shared, p.rate, lambda n, salt: beta(n, p.alpha, draw, salt), draw, self.name
        )
        batch.extras[self.name] = mixes
        batch.images = {m: mix_images(x, mixes[m]) for m, x in batch.images.items()}
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        return mixed_terms(terms, outputs, batch, batch.extras[self.name], self.fusion, progress)
