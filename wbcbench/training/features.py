"""Embeddings that policies change on their way from the network of each modality to what reads them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wbcbench.contracts import Backbone, Batch, ChangesFeatures, Features, Fusion, Outputs, Policy, Progress
from wbcbench.errors import IncompatibleError


def own_networks(fusion: Fusion) -> dict[str, Backbone]:
    """Modality -> its backbone in an `nn.ModuleDict` whose keys are the modalities; the last, if there are
    several."""
    modalities = set(fusion.task.modalities)
    dicts = [m for m in fusion.modules() if isinstance(m, nn.ModuleDict) and set(m) == modalities]
    return {m: net for d in dicts for m, net in d.items() if isinstance(net, Backbone)}


@torch.no_grad()
def check_features(fusion: Fusion) -> None:
    """Raise `IncompatibleError` unless a policy can change the embeddings of the fusion.

    Found by showing it two blank cells: each modality must have a network of its own, of which only the embedding
    is read.
    """
    networks, training = own_networks(fusion), fusion.training
    given: dict[str, Features] = {}
    device = next(fusion.parameters()).device
    fusion.eval()
    with _forwarding(networks, lambda m: _recorded(networks[m], m, given)):
        fusion(fusion.task.blank(2, device))
    fits = set(given) == set(fusion.task.modalities)
    if fits:
        changed = {m: Features(f.embedding + 1) for m, f in given.items()}
        with _forwarding(networks, lambda m: lambda x, maps=False: given[m]):
            before = fusion(fusion.task.blank(2, device))
        with _forwarding(networks, lambda m: lambda x, maps=False: changed[m]):
            after = fusion(fusion.task.blank(2, device))
        fits = not any(torch.equal(out.logits, after[r].logits) for r, out in before.items())
    fusion.train(training)
    if not fits:
        raise IncompatibleError(
            f"A policy changes embeddings between the network of each modality and the head, but fusion "
            f"'{fusion.name}' has no such place. Choose a fusion of embeddings, such as concat."
        )


def with_features(
    fusion: Fusion,
    policies: Sequence[Policy],
    run: Callable[[], Outputs],
    batch: Batch,
    progress: Progress,
) -> Outputs:
    """The outputs of a forward pass `run`, after policies have changed the embeddings.

    Each network runs once: what reads its embedding runs again, on the changed one.
    """
    changing = [p for p in policies if isinstance(p, ChangesFeatures)]
    if not changing:
        return run()
    networks, given = own_networks(fusion), dict[str, Features]()

    with _forwarding(networks, lambda m: _recorded(networks[m], m, given)):
        outputs = run()
    for policy in changing:
        changed = policy.features({m: given[m].embedding for m in networks}, outputs, batch, progress)
        given.update({m: replace(given[m], embedding=embedding) for m, embedding in changed.items()})
        with _forwarding(networks, lambda m: lambda x, maps=False: given[m]):
            outputs = run()
    return outputs


@contextmanager
def kept_features(fusion: Fusion) -> Iterator[dict[str, Tensor]]:
    """Within it the embeddings of the modalities' own networks are kept: after it, all of them, [n, D_m]
    float32."""
    networks, found = own_networks(fusion), dict[str, Tensor]()
    parts: dict[str, list[Tensor]] = {m: [] for m in networks}

    def kept(m: str) -> Callable[..., Features]:
        real = networks[m].forward

        def forward(x: Tensor, maps: bool = False) -> Features:
            features = real(x, maps)
            parts[m].append(features.embedding.float())
            return features

        return forward

    with _forwarding(networks, kept):
        yield found
    if parts and all(parts.values()):
        found.update({m: torch.cat(p) for m, p in parts.items()})


def _recorded(network: Backbone, modality: str, given: dict[str, Features]) -> Callable[..., Features]:
    """The network's forward pass, which also keeps its result."""
    real = network.forward

    def forward(x: Tensor, maps: bool = False) -> Features:
        given[modality] = real(x, maps)
        return given[modality]

    return forward


@contextmanager
def _forwarding(networks: Mapping[str, Backbone], to: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    """Within it the networks compute `to(modality)`."""
    instead = {m: to(m) for m in networks}
    for m, network in networks.items():
        network.__dict__["forward"] = instead[m]
    try:
        yield
    finally:
        for network in networks.values():
            del network.__dict__["forward"]
