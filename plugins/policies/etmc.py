"""Enhanced trusted multi-view classification: the joint route is one more view (Han et al. 2022)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from wbcbench_plugins.policies._evidence import trusted_terms
from wbcbench_plugins.policies._modalities import modality_routes

from wbcbench.contracts import (
    JOINT,
    Batch,
    Fusion,
    Outputs,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    param,
)
from wbcbench.errors import IncompatibleError


class ETMC(Policy):
    """L = sum_m L_dir(e_m) + L_dir(e_joint) + L_dir(combination of all of them): tmc with a pseudo-view.

    The pseudo-view is the fusion's joint route, whose evidence is computed from its logits like that of any other;
    the paper's is a classifier on the concatenated embeddings. Otherwise as tmc.
    """

    name = "etmc"
    source = "Han et al., TPAMI 2022, arXiv 2204.11423"
    traits = PolicyTraits(needs_routes="both", wants=("trained_logits",), reads_labels=True, replaces_losses="all")

    class Params(Parameters):
        annealing: int = param(50, "Epochs until the KL part counts in full; 0: from the start.", ge=0, le=10000)
        evidence: Literal["softplus", "relu", "exp"] = param(
            "softplus", "How logits become evidence.", search=["softplus", "relu", "exp"]
        )

    params: Params

    def setup(self, fusion: Fusion) -> None:
        super().setup(fusion)
        self.views = (*modality_routes(fusion, self.name), JOINT)
        if JOINT not in fusion.routes:
            raise IncompatibleError(
                f"etmc needs a joint route as well as those of the modalities, but '{fusion.name}' has none. "
                "Choose a fusion that emits both, or the policy tmc."
            )

    def task_terms(
        self, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        p = self.params
        annealing = min(1.0, progress.epoch / p.annealing) if p.annealing else 1.0
        return trusted_terms(terms, outputs, batch, self.fusion, self.views, self.name, p.evidence, annealing)
