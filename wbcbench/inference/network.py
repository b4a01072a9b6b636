"""A trained fusion with the preprocessing it was trained behind: images as stored in, probabilities out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wbcbench.contracts import Deployed, Fusion
from wbcbench.records.schema import InputStatistics

PROBABILITIES = "probabilities"
ROUTE = "route_"
"""What the outputs' names of routes begin with."""


class Normaliser(nn.Module):
    """Raw pixels to mean 0 and sd 1 over the training cells, as `data.resident` does it, bit for bit."""

    def __init__(self, statistics: Mapping[str, InputStatistics]) -> None:
        super().__init__()
        self.shifts = {m: 32768.0 if s.bits == 16 else 0.0 for m, s in statistics.items()}
        for m, s in statistics.items():
            scale = 1.0 / torch.tensor(s.std)
            self.register_buffer(f"scale_{m}", scale[:, None, None])
            self.register_buffer(f"offset_{m}", ((self.shifts[m] - torch.tensor(s.mean)) * scale)[:, None, None])

    def forward(self, modality: str, image: Tensor) -> Tensor:
        """[B, C, S, S] uint8 or uint16 -> float32."""
        x = image.to(torch.float32) - self.shifts[modality] if self.shifts[modality] else image.to(torch.float32)
        scale, offset = (getattr(self, f"{what}_{modality}") for what in ("scale", "offset"))
        return torch.addcmul(offset, x, scale)


class Network(nn.Module):
    """What somebody with cells and without wbcbench needs of a trial."""

    def __init__(self, body: nn.Module, statistics: Mapping[str, InputStatistics]) -> None:
        """`body`: a trained fusion, or what its `deploy` gave."""
        super().__init__()
        self.body = body
        self.normaliser = Normaliser(statistics)
        self.modalities = tuple(statistics)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None) -> dict[str, Tensor]:
        """`probabilities` [B, K], and `route_<name>` [B, K] of every route that the fusion has.

        Args:
            images: modality -> [B, C, S, S] uint8 or uint16, in any order.
            present: [B, M] bool in the order of `modalities`; an absent image may hold anything. None: all there.
        """
        seen = {m: self.normaliser(m, images[m]) for m in self.modalities}
        if present is not None:
            # The training mean, which is zero after normalisation, as training and evaluation have it.
            seen = {
                m: torch.where(present[:, i, None, None, None], x, 0.0) for i, (m, x) in enumerate(seen.items())
            }
        return self.answer(seen, present)

    def answer(self, seen: dict[str, Tensor], present: Tensor | None = None) -> dict[str, Tensor]:
        """The same from normalised images."""
        if not isinstance(self.body, Fusion):
            return {PROBABILITIES: self.body(seen)}
        outputs = {route: out.float() for route, out in self.body(seen, present).items()}
        routes = {f"{ROUTE}{route}": out.logits.softmax(1) for route, out in outputs.items()}
        return {PROBABILITIES: self.body.predict(outputs, present).float(), **routes}


def deployed(fusion: Fusion) -> nn.Module:
    """What inference runs of a fusion: the fusion, cut down to what it uses, where `deploy` keeps it one."""
    module = fusion.deploy()
    return module.fusion if isinstance(module, Deployed) else module


__all__ = ["PROBABILITIES", "ROUTE", "Network", "Normaliser", "deployed"]
