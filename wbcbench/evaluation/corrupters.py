"""Corruptions of the registry, ready to be applied. Imports torch only to apply one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from wbcbench.contracts.params import Parameters
from wbcbench.errors import PluginError, UsageError
from wbcbench.registry import Registry, qualified_name
from wbcbench.spec.load import validate
from wbcbench.spec.request import Choice

if TYPE_CHECKING:
    from torch import Tensor

    from wbcbench.contracts.corruption import Corruption

STANDARD = (
    "noise", "blur", "defocus", "illumination", "stain_shift", "misregistration", "drop", "miscalibration",
)  # fmt: skip
"""The corruptions of every full evaluation, in the order of its results."""


@dataclass(frozen=True)
class Corrupter:
    """A corruption with its parameters."""

    name: str
    """What results call it: `blur`, `local.mine/gamma:power=2`."""
    corruption: Corruption
    code: str
    """SHA-256 of its file."""

    def fits(self, vector: bool) -> bool:
        """Whether it changes modalities of this kind: vectors, or images."""
        return self.corruption.reads in ("both", "vectors" if vector else "images")

    def __call__(
        self, x: Tensor, cells: Tensor, strength: float, seed: int, imputed: Tensor | None = None
    ) -> Tensor:
        """The corrupted copy of images [B, C, S, S] or vectors [B, F] of cells [B].

        Args:
            x: normalised.
            cells: ids.
            strength: one of the corruption's `strengths`.
            seed: of all random numbers.
            imputed: [F], what a missing number is replaced with.

        Raises:
            PluginError: its code raised, or returned something else.
        """
        from wbcbench.contracts.corruption import CellDraws
        from wbcbench.data.counter import uniform

        draws = CellDraws(lambda purpose, counters: uniform(seed, purpose, counters), cells, imputed)
        try:
            found = self.corruption.corrupt(x, strength, draws)
        except Exception as error:
            raise PluginError(f"Corruption '{self.name}' failed: {type(error).__name__}: {error}.") from error
        if getattr(found, "shape", None) != x.shape or found.dtype != x.dtype:
            got = f"{list(found.shape)} {found.dtype}" if hasattr(found, "shape") else repr(type(found))
            raise PluginError(
                f"Expected {list(x.shape)} {x.dtype} of corruption '{self.name}', but got {got}. "
                f"`wbcbench check {self.corruption.name}` checks it."
            )
        return found


def choose_corruptions(registry: Registry, texts: Iterable[str]) -> list[tuple[Choice, Parameters]]:
    """Corruptions by `name` or `name:key=value`, with their parameters; imports none of them.

    Raises:
        UsageError: no corruption has that name, it has no such parameter, or it is of every full evaluation.
    """
    found = []
    for text in texts:
        try:
            choice = Choice.parse(text)
        except ValueError as error:
            raise UsageError(f"Corruption: {error}.") from error
        resolved = registry.resolve("corruption", choice.name)
        declared = registry.declaration(resolved.component)
        params = validate(declared.params, {**resolved.params, **choice.params}, f"corruption {choice.name}")
        if resolved.component.builtin and resolved.component.name in STANDARD and not choice.params:
            raise UsageError(f"Corruption '{choice.name}' is a part of every full evaluation. Leave it out.")
        found.append((choice, params))
    return found


def corrupters(registry: Registry, texts: Iterable[str]) -> list[Corrupter]:
    """The corruptions of `choose_corruptions`; raises what that raises."""
    made = []
    for choice, params in choose_corruptions(registry, texts):
        component = registry.get("corruption", choice.name)
        cls: Any = registry.load(component)
        given = params.model_dump(mode="json", exclude_defaults=True)
        name = ":".join([qualified_name(component), *(f"{k}={v}" for k, v in given.items())])
        made.append(Corrupter(name, cls(cls.Params(**params.model_dump(exclude_unset=True))), component.sha256))
    return made


@cache
def standard() -> tuple[Corrupter, ...]:
    """The corruptions of every full evaluation."""
    from wbcbench.registry.loading import PluginOptions, load_plugins

    registry, _ = load_plugins(PluginOptions(block_all=True))
    found = [registry.get("corruption", name) for name in STANDARD]
    return tuple(Corrupter(c.name, registry.load(c)(), c.sha256) for c in found)


__all__ = ["STANDARD", "Corrupter", "choose_corruptions", "corrupters", "standard"]
