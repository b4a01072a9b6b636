"""CentralNet: a central trunk reads its own map and those of all modality trunks, with learned scalar weights.

The central trunk has no first stage: its first map is the weighted sum of the modalities' first maps. Weights
start at one over the number of terms, the mean of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import availability, build_trunks, keep_stages, masked, pool, with_blanks

from wbcbench.contracts import (
    BackboneFactory,
    Batch,
    Deployed,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    OwnHeads,
    Parameters,
    PerModality,
    Progress,
    Task,
    param,
    without,
)


def weighted_sum(maps: Sequence[Tensor], weights: Tensor, seen: Tensor) -> Tensor:
    """u = (T / n) sum_t s_t a_t f_t, over the n = sum_t s_t terms that are there, of T.

    Vielzeuf et al., arXiv 1808.07275 (where n = T). maps: T of [B, C, H, W]; weights a: [T];
    seen s: [B, T] of zeros and ones.
    """
    share = weights * seen * (len(maps) / seen.sum(1, keepdim=True).clamp(min=1))
    return torch.einsum("bt,tbchw->bchw", share, torch.stack(list(maps)))


class CentralNet(OwnHeads, Fusion):
    """Central trunk over all modality trunks, joined after every stage by learned scalars; M + 1 heads.

    Trained on the sum of the M + 1 losses, the modalities' weighted by `unimodal`; predicts with the central
    head. Parameters: sum_m [P + S(C_m)] + P(stages > 1) + M + (n - 1)(M + 1) + (M + 1)(D + 1) K, n stages.
    """

    name = "centralnet"
    source = "Vielzeuf et al., arXiv 1808.07275"
    traits = FusionTraits(
        emits=("joint", "modality"),
        missing="native",
        offers=("own_embedding", "own_parameters", "meeting_losses"),
        solves=("redundant", "unique", "xor"),
    )

    class Params(Parameters):
        unimodal: float = param(1.0, "Weight of each modality's own loss.", ge=0, le=10, search=(0.0, 2.0))

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        self.backbones, shapes = build_trunks(task, backbone)
        self.stages, count = len(shapes), len(task.modalities)
        self.central = keep_stages(backbone(min(task.channels.values())), range(1, self.stages), shapes[0])
        terms = [count] + [count + 1] * (self.stages - 1)
        self.scalars = nn.ParameterList(nn.Parameter(torch.full((t,), 1 / t)) for t in terms)
        self.head = nn.Linear(shapes[-1][0], task.n_classes)
        self.heads = PerModality({m: nn.Linear(shapes[-1][0], task.n_classes) for m in task.modalities})

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        names = self.task.modalities
        flow = {m: masked(images[m], present, i) for i, m in enumerate(names)}
        own: dict[str, list[Tensor]] = {m: [] for m in names}
        central: list[Tensor] = []
        for number in range(self.stages):
            flow = self.backbones.step(number, flow)
            terms = with_blanks(flow, names)
            seen = availability(present, terms[0], len(names))
            if central:
                terms.append(self.central.stage(number, central[-1]))
                seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
            central.append(weighted_sum(terms, self.scalars[number], seen))
            for m, x in flow.items():
                own[m].append(x)
        outputs = {"joint": self._output(self.head, central, frozenset(names), maps)}
        for m, head in self.heads.items():
            outputs[m] = self._output(head, own[m], frozenset({m}), maps)
        return outputs

    def _output(self, head: nn.Module, flow: list[Tensor], reads: frozenset[str], maps: bool) -> Output:
        embedding = pool(flow[-1])
        return Output(head(embedding), embedding, tuple(flow) if maps else (), reads, head=head)

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        terms = super().task_terms(outputs, batch, progress)
        return {r: t if r == "joint" else t * self.params.unimodal for r, t in terms.items()}

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        return outputs["joint"].logits.float().softmax(1)

    def deploy(self, present: tuple[str, ...] | None = None) -> nn.Module:
        module = super().deploy(present)
        assert isinstance(module, Deployed)
        twin = without(module.fusion, frozenset())  # a copy: the fusion keeps the heads that it is trained with
        twin.heads = PerModality({})
        return Deployed(twin, module.present)

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        own = {m: list(self.heads[m].parameters()) for m in self.task.modalities}
        return {"joint": [*self.central.parameters(), *self.scalars, *self.head.parameters()], **own}
