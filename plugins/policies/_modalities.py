"""What belongs to a modality: parameters, embeddings, rows. Shared by several policies.

Convention: a module that a fusion keeps in an `nn.ModuleDict` whose keys are exactly the modalities belongs to
the modality of its key (backbones, encoders, heads), and so do the parameters that `OwnHeads` names for the
route of a modality. Everything else is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import JOINT, Backbone, Batch, Features, Fusion, Output, Outputs, OwnHeads, modality_logits
from wbcbench.contracts import masked_mean as masked_mean
from wbcbench.errors import IncompatibleError


def own_modules(fusion: Fusion) -> Iterator[tuple[str, nn.Module]]:
    """(modality, module) of every module that belongs to one modality."""
    for module in fusion.modules():
        if isinstance(module, nn.ModuleDict) and set(module) == set(fusion.task.modalities):
            yield from module.items()


def own_parameters(fusion: Fusion) -> dict[str, list[nn.Parameter]]:
    """Modality -> trainable parameters that belong to it, without repetition; empty where there are none."""
    found: dict[str, dict[int, nn.Parameter]] = {m: {} for m in fusion.task.modalities}
    for m, module in own_modules(fusion):
        found[m] |= {id(p): p for p in module.parameters()}
    heads_of = fusion.head_params() if isinstance(fusion, OwnHeads) else {}
    for m, heads in heads_of.items():
        if m in found:
            found[m] |= {id(p): p for p in heads}
    shared = {i for m in found for i in found[m] if sum(i in other for other in found.values()) > 1}
    return {m: [p for i, p in own.items() if i not in shared and p.requires_grad] for m, own in found.items()}


def require_parameters(fusion: Fusion, policy: str) -> dict[str, list[nn.Parameter]]:
    """`own_parameters`, for a policy that requires them.

    Raises:
        IncompatibleError: some modality has none.
    """
    own = own_parameters(fusion)
    if not all(own.values()):
        raise IncompatibleError(
            f"{policy} scales the gradients of each modality's own parameters, but '{fusion.name}' has none that "
            "belong to one modality. Choose a fusion with one network or one head per modality, such as late."
        )
    return own


def probe(fusion: Fusion) -> Outputs:
    """Outputs on two cells of zeros, in eval mode; changes nothing."""
    task, was_training = fusion.task, fusion.training
    device = next(fusion.parameters()).device
    fusion.eval()
    with torch.no_grad():
        outputs: Outputs = fusion(task.blank(2, device))
    fusion.train(was_training)
    return outputs


def modality_routes(fusion: Fusion, policy: str, least: int = 2) -> tuple[str, ...]:
    """The routes of single modalities, in canonical order.

    Raises:
        IncompatibleError: there are fewer than `least`.
    """
    routes = tuple(m for m in fusion.task.modalities if m in fusion.routes)
    if len(routes) < least:
        raise IncompatibleError(
            f"{policy} needs at least {least} routes of single modalities, but '{fusion.name}' has {len(routes)}. "
            "Choose a fusion with one head per modality, such as late or independent."
        )
    return routes


def require_logits(fusion: Fusion, policy: str) -> None:
    """Raises `IncompatibleError` unless every modality has logits: of its route, or its part of a joint head."""
    if set(modality_logits(fusion, probe(fusion))) != set(fusion.task.modalities):
        raise IncompatibleError(
            f"{policy} compares the logits of each modality, but in '{fusion.name}' they have none of their "
            "own. Choose a fusion with a head per modality such as late_prob, or concat:hidden=0."
        )


def own_logits(fusion: Fusion, outputs: Outputs, batch: Batch) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Modality -> its logits [R, K], the labels [R] of its rows, and [R] bool whether its image is there."""
    found = {}
    for m, logits in modality_logits(fusion, outputs).items():
        labels = labels_of(outputs[m if m in outputs else JOINT])
        found[m] = logits, labels, shown(batch, fusion.task.modalities, m, labels)
    return found


def unimodal_terms(
    policy: str, terms: dict[str, Tensor], outputs: Outputs, batch: Batch, fusion: Fusion
) -> dict[str, Tensor]:
    """The loss of each modality by itself: the term of its route, or, as `policy.modality`, the cross-entropy of
    its part of a joint head over the rows that have it."""
    found = {}
    for m, (logits, labels, there) in own_logits(fusion, outputs, batch).items():
        if m in terms:
            found[m] = terms[m]
            continue
        loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=fusion.label_smoothing)
        found[f"{policy}.{m}"] = masked_mean(loss * batch.weights_of(labels), there)
    return found


def scores(fusion: Fusion, outputs: Outputs, batch: Batch) -> Tensor:
    """[M]: the sum, over the rows that have modality m, of the probability that it alone gives the label."""
    found = []
    for logits, labels, there in own_logits(fusion, outputs, batch).values():
        right = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        found.append(torch.where(there, right, 0.0).sum())
    return torch.stack(found)


class Embeddings:
    """The embedding of every modality: of its route where there is one, else of its own backbone.

    Backbones are read through forward hooks that do nothing at evaluation. They keep the first forward pass
    since `reset`, which the policy calls before each step: later passes of other policies do not count.
    """

    def __init__(self, fusion: Fusion, policy: str, distinct: bool = False) -> None:
        """`distinct`: refuse where modalities share one embedding, as in a network that reads all at once.

        Raises:
            IncompatibleError: some modality has no embedding.
        """
        self.caught: dict[str, Tensor] = {}
        self._probing = True
        trunks = [(m, module) for m, module in own_modules(fusion) if isinstance(module, Backbone)]
        hooks = [trunk.register_forward_hook(self._catcher(m)) for m, trunk in trunks]
        outputs = probe(fusion)
        self._probing = False
        routed = {m: outputs[m].embedding for m in fusion.task.modalities if m in outputs}
        self.routed = {m for m, e in routed.items() if e is not None}
        shared = len({id(e) for e in routed.values()}) < len(routed)
        if set(self.caught) == set(fusion.task.modalities) and shared:
            self.routed, shared = set(), False
        if self.routed == set(fusion.task.modalities):
            for hook in hooks:
                hook.remove()
        found = {m: e for m, e in {**self.caught, **routed}.items() if e is not None}
        if set(found) != set(fusion.task.modalities) or (distinct and shared):
            raise IncompatibleError(
                f"{policy} needs an embedding of each modality, but '{fusion.name}' has none. Choose a fusion "
                "with one network per modality, such as late."
            )
        self.widths = {m: int(found[m].shape[1]) for m in fusion.task.modalities}
        self.caught = {}

    def reset(self) -> None:
        """Forget the last step's embeddings."""
        self.caught.clear()

    def __call__(self, outputs: Outputs, batch: Batch) -> dict[str, Output]:
        """Modality -> output with embedding float32 [R, D_m] and the labels and cell ids of its rows."""
        found: dict[str, Output] = {}
        for m in self.widths:
            if m in self.routed:
                found[m] = outputs[m]
                continue
            rows = None if batch.rows is None else batch.rows[m]
            embedding = self.caught[m].float()
            labels, index = batch.labels_of(rows), batch.cells_of(rows)
            found[m] = Output(embedding, embedding, labels=labels, index=index, rows=rows)
        return found

    def _catcher(self, modality: str) -> Callable[[nn.Module, tuple[Tensor, ...], Features], None]:
        def catch(module: nn.Module, args: tuple[Tensor, ...], features: Features) -> None:
            if self._probing or (module.training and torch.is_grad_enabled()):
                self.caught.setdefault(modality, features.embedding)

        return catch


def same_cell(outputs: Outputs, routes: tuple[str, ...]) -> Tensor:
    """[R] bool: whether all the routes were shown one and the same cell in a row."""
    first = index_of(outputs[routes[0]])
    same = torch.ones_like(first, dtype=torch.bool)
    for route in routes[1:]:
        same = same & (index_of(outputs[route]) == first)
    return same


def shown(batch: Batch, modalities: tuple[str, ...], modality: str, like: Tensor) -> Tensor:
    """[R] bool: whether the modality's image is there."""
    if batch.present is None:
        return torch.ones(len(like), dtype=torch.bool, device=like.device)
    return batch.present[:, modalities.index(modality)]


def labels_of(out: Output) -> Tensor:
    """[R] labels, filled by the core."""
    assert out.labels is not None
    return out.labels


def index_of(out: Output) -> Tensor:
    """[R] stable cell ids, filled by the core."""
    assert out.index is not None
    return out.index
