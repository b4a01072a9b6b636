"""Function matching: teacher and student see one mixed image, and labels do not count (Beyer et al. 2022)."""

from __future__ import annotations

from torch import Tensor
from wbcbench_plugins.policies._mixing import mix_images, mixed_terms, plan

from wbcbench.contracts import Batch, Draw, Outputs, Parameters, Policy, PolicyTraits, Progress, param


class FunMatch(Policy):
    """Every row is mixed with another by lambda ~ U(0, 1), and teachers answer for the mixture.

    L = KL(p_t(x) || p_s(x)) on mixed images x alone, for many epochs: the student learns the teacher's function,
    not labels. Combine it with `--kd logits:temperature=1:weight=1`, which is the paper's loss. A cell and its
    partner mix as wholes, by the same lambda in all modalities. `labels` adds the loss of the mixed labels.
    """

    name = "funmatch"
    source = "Beyer et al., CVPR 2022, arXiv 2106.05237; the authors' big_vision: mixup p=1, KL at t=1, no labels"
    traits = PolicyTraits(acts_on="images", blends_cells=True, wants=("teacher",))

    class Params(Parameters):
        labels: float = param(
            0.0, "Factor on the loss of the mixed labels; 0: the paper's, none.", ge=0, le=10, search=(0.0, 1.0)
        )

    params: Params

    def images(self, batch: Batch, draw: Draw) -> Batch:
        mixes = plan(batch, self.fusion, True, 1.0, draw.uniform, draw, self.name)
        batch.extras[self.name] = mixes
        batch.images = {m: mix_images(x, mixes[m]) for m, x in batch.images.items()}
        return batch

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        mixed = mixed_terms(terms, outputs, batch, batch.extras[self.name], self.fusion, progress)
        return {name: term * self.params.labels for name, term in mixed.items()}
