"""The widest student within a budget of multiply-accumulates, parameters or time, of the network that is deployed.

Networks are built to count and time them, so torch is imported where a budget is given.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from wbcbench.contracts import Description
from wbcbench.contracts.params import sizing
from wbcbench.data.cache import recall, remember
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.registry import Registry
from wbcbench.scheduling.compatibility import declared
from wbcbench.spec import ComponentSpec, Method, Protocol, Recipe, Trial, canonical_json, digest
from wbcbench.spec.request import Request
from wbcbench.spec.trial import BackboneSpec, each_of

SECONDS = 1.0
"""Longest time for measuring one network, after its warm-up; small ones take less."""


class Cost(NamedTuple):
    """Of a deployed network, counted as for its record."""

    macs: int | None
    params: int
    why: str
    """Why multiply-accumulates cannot be counted; empty: they can."""
    latency_ms: float | None = None
    """Of one cell, measured here with one thread; None: not measured."""

    def text(self) -> str:
        """The numbers, for messages."""
        macs = "MACs unknown" if self.macs is None else f"{self.macs:,} MACs"
        if self.latency_ms is None:
            return f"{macs} and {self.params:,} parameters"
        return f"{macs}, {self.params:,} parameters and {self.latency_ms:.3g} ms"


class Sizer:
    """Chooses the width of every student of a request; equal students are built once."""

    def __init__(self, request: Request, registry: Registry, description: Description) -> None:
        """Raises `UsageError` if the request has a budget, and a width too."""
        self._registry, self._description = registry, description
        self._macs, self._params, self._latency = request.max_macs, request.max_params, request.max_latency_ms
        self._known: dict[str, tuple[ComponentSpec, str] | IncompatibleError] = {}
        self.notes: dict[str, None] = {}
        """What was chosen, and why."""
        if not self.limited:
            return
        for choice in (c for b in request.backbone for c in each_of(b)):
            found = sizing(registry.declared("backbone", choice.name).params)
            given = {**registry.resolve("backbone", choice.name).params, **choice.params}
            if found and found[0] in {**given, **request.overrides.get("backbone", {})}:
                raise UsageError(
                    f"Expected a budget ({self.budget}) or a {found[0]} of backbone '{choice.name}', but got "
                    "both. Leave one out."
                )

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return any(limit is not None for limit in (self._macs, self._params, self._latency))

    @property
    def budget(self) -> str:
        """The budget, for messages."""
        limits = ((self._macs, "MACs"), (self._params, "parameters"), (self._latency, "ms"))
        return " and ".join(f"at most {limit:,} {what}" for limit, what in limits if limit is not None)

    def fit(
        self,
        fusion: ComponentSpec,
        backbone: BackboneSpec,
        policies: tuple[ComponentSpec, ...],
        distillers: tuple[ComponentSpec, ...],
        protocol: Protocol,
    ) -> BackboneSpec:
        """The backbone as it is without a budget, else the widest within it.

        Args:
            fusion, backbone, policies: as in the trial, with every parameter.
            distillers: refused if they replace the student's classifier with a teacher's.
            protocol: of the trial.

        Raises:
            IncompatibleError: even the narrowest does not fit, or its size cannot be known.
        """
        if not self.limited:
            return backbone
        if not isinstance(backbone, ComponentSpec):
            raise IncompatibleError(
                f"Expected one backbone for all modalities, whose width is chosen for {self.budget}, but "
                f"{fusion.name} has one for each ({', '.join(f'{m}={b.model}' for m, b in backbone.items())}). "
                "Give their widths instead."
            )
        for d in distillers:
            if declared(self._registry, "distiller", d).replaces_head:
                raise IncompatibleError(
                    f"Distiller '{d.name}' replaces the student's classifier with the teacher's, so whether a "
                    f"student has {self.budget} is not known while planning. Give its width instead."
                )
        own = declared(self._registry, "fusion", fusion)
        if own.solved_once and own.fusion_traits.builds_backbone:
            raise IncompatibleError(
                f"Fusion '{fusion.name}' may hold the training cells, so whether a student has {self.budget} is "
                "not known while planning. Leave the budget out."
            )
        parts = [fusion, backbone, *policies]
        key = canonical_json([*(p.model_dump(mode="json") for p in parts), list(protocol.modalities)])
        if key not in self._known:
            try:
                self._known[key] = self._fit(fusion, backbone, policies, protocol)
            except IncompatibleError as error:
                self._known[key] = error
        known = self._known[key]
        if isinstance(known, IncompatibleError):
            raise known
        chosen, note = known
        self.notes[note] = None
        return chosen

    def _fit(
        self,
        fusion: ComponentSpec,
        backbone: ComponentSpec,
        policies: tuple[ComponentSpec, ...],
        protocol: Protocol,
    ) -> tuple[ComponentSpec, str]:
        costs: dict[int, Cost] = {}

        def widened(width: int) -> ComponentSpec:
            return backbone.model_copy(update={"params": {**backbone.params, name: width}})

        def cost(width: int) -> Cost:
            if width not in costs:
                costs[width] = self._cost(fusion, widened(width) if name else backbone, policies, protocol)
            return costs[width]

        what = f"{fusion.name}[{'+'.join(protocol.modalities)}]"
        found = sizing(declared(self._registry, "backbone", backbone).params)
        builds = declared(self._registry, "fusion", fusion).fusion_traits.builds_backbone
        name, low, high = found if found and builds else ("", 0, 0)
        best = widest(lambda width: self._fits(cost(width)), low, high)
        if best is None:
            model = backbone.params.get("model", backbone.name)
            narrowest = f"its narrowest, with {name} {low}," if name else f"with backbone '{model}' it"
            raise IncompatibleError(
                f"Expected a student {what} of {self.budget}, but {narrowest} has {cost(low).text()}. Allow more, "
                "or choose another backbone or fusion."
            )
        if not name or (best == high and cost(best) == cost(low)):  # nothing depends on a width
            return backbone, f"Budget: {what} has {cost(best).text()}, {self.budget} allowed."
        more = f"; {name} {best + 1} would have {cost(best + 1).text()}" if best < high else ""
        measured = (
            ""
            if self._latency is None
            else f" Measured here, in PyTorch, with one thread and one cell; backbone.{name}={best} is the same "
            "student on any machine."
        )
        return widened(best), (
            f"Budget: {what} gets {backbone.name} of {name} {best}, the widest with {self.budget}: it has "
            f"{cost(best).text()}{more}.{measured}"
        )

    def _fits(self, cost: Cost) -> bool:
        if self._macs is not None and cost.macs is None:
            raise IncompatibleError(f"--max-macs cannot be kept: {cost.why}. Use --max-params.")
        limits = ((self._macs, cost.macs), (self._params, cost.params), (self._latency, cost.latency_ms))
        return all(limit is None or found is None or found <= limit for limit, found in limits)

    def _cost(
        self,
        fusion: ComponentSpec,
        backbone: ComponentSpec,
        policies: tuple[ComponentSpec, ...],
        protocol: Protocol,
    ) -> Cost:
        """Of the network that the trial will deploy, whatever its seed."""
        import torch

        from wbcbench.contracts import Task
        from wbcbench.evaluation.cost import macs_or_why, parameters
        from wbcbench.training.build import build_fusion, build_policies

        trial = Trial(
            protocol=protocol,
            method=Method(fusion=fusion, backbone=backbone, recipe=Recipe(), policies=policies),
            seed=0,
        )
        channels = {m: self._description.modalities[m] for m in protocol.modalities}
        side = protocol.image_size
        made = build_fusion(trial, Task(channels, self._description.classes, side), self._registry)
        build_policies(trial, made, self._registry)
        deployed = made.deploy().eval()
        images = {m: torch.zeros(1, c, side, side) for m, c in channels.items()}
        macs, why = macs_or_why(deployed, images)
        if self._latency is None:
            return Cost(macs, parameters(deployed), why)
        parts = [fusion, backbone, *policies]
        network = [*(p.model_dump(mode="json") for p in parts), channels, side, len(self._description.classes)]
        return Cost(macs, parameters(deployed), why, milliseconds(deployed, images, network))


def milliseconds(deployed: Any, images: dict[str, Any], network: Any) -> float:
    """Latency of one cell on this machine's processor, with one thread; measured once and then kept in the cache.

    So the same command chooses the same width again here, and resumes its trials.

    Args:
        deployed: as from `Fusion.deploy`.
        images: of one cell.
        network: JSON-able, what the latency depends on besides the machine.
    """
    import torch

    from wbcbench.evaluation.cost import alone, least_seconds

    key = digest([network, platform.node(), platform.processor(), torch.__version__], length=32)
    found = recall("latency", key)
    if isinstance(found, float):
        return found
    with _one_thread(), alone(), torch.no_grad():
        value = least_seconds(lambda: deployed(images), SECONDS) * 1e3
    remember("latency", key, value)
    return value


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def widest(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest number from `low` to `high` that fits, if whatever is smaller than one that fits does, too.

    None: `low` does not fit.
    """
    if not fits(low):
        return None
    best, beyond = low, high + 1
    while beyond - best > 1:
        # doubling until one is too large, so that none much larger than the answer is tried
        trying = min(high, 2 * max(best, 1)) if beyond > high else (best + beyond) // 2
        if fits(trying):
            best = trying
        else:
            beyond = trying
    return best


__all__ = ["Cost", "Sizer", "milliseconds", "widest"]
