"""Plugins that were written before traits and optional base classes, which still load for one release.

What such a class declares is converted to the new form. Loading the plugin reports what to write (`notes_of`), and
importing it gives a `DeprecationWarning`. To be deleted as a whole, with its callers.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from wbcbench.contracts.needs import FusionTraits, PolicyTraits, differences

_NOTES: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_ADOPTED: WeakKeyDictionary[type, dict[str, Any]] = WeakKeyDictionary()
_METHODS = {
    "fusion": {"fit_combiner": "Combiner", "head_params": "OwnHeads", "modality_logits": "AddsLogits"},
    "policy": {
        "after_forward": "ForwardsAgain", "after_backward": "ChangesGradients", "backward": "DoesBackward",
        "setup_cells": "PerCell",
    },
}  # fmt: skip
"""Kind -> method of the old contract -> base class that has it now."""


def adopt(cls: type) -> None:
    """Convert what a class declares in the old form to the new form. Does nothing for a class in the new form."""
    kind, contract = _contract(cls)
    given = {n: v for n, v in vars(cls).items() if not isinstance(v, property)}
    stated = {n: given[n] for n in _attributes(kind) if not isinstance(given.get(n, adopt), FunctionType)}
    wanted = _bases(kind, given, stated)
    bases = [b for b in dict.fromkeys(wanted.values()) if not issubclass(cls, getattr(contract, b))]
    if not bases and _ADOPTED.get(cls, {}) == stated:
        return
    lines = _restate(cls, kind, stated)
    if bases:
        cls.__bases__ = (*cls.__bases__, *(getattr(contract, b) for b in bases))
        named = dict.fromkeys((*bases, *(b.__name__ for b in cls.__bases__)))
        lines.insert(0, f"class {cls.__name__}({', '.join(named)}):")
    _ADOPTED[cls] = stated
    old = ", ".join(f"`{n}`" for n in dict.fromkeys((*stated, *(n for n, b in wanted.items() if b in bases))))
    advice = f"write `{'` and `'.join(lines)}` (from wbcbench.contracts), because of" if lines else "leave out"
    module = sys.modules.get(cls.__module__)
    _NOTES[cls] = (
        f"{kind} class {cls.__name__} ({getattr(module, '__file__', None) or cls.__module__}) is in a form that "
        f"only this release still reads; {advice} {old}"
    )
    warnings.warn(_NOTES[cls], DeprecationWarning, stacklevel=3)


def notes_of(cls: type) -> list[str]:
    """What to rewrite in a class and in those that it inherits from."""
    return [_NOTES[b] for b in cls.__mro__ if b in _NOTES]


def keep_readable(contract: type) -> None:
    """Let code in the old form read, from any class of this contract, what used to be attributes and methods."""
    kind, module = _contract(contract)
    for name in _attributes(kind):
        setattr(contract, name, _Read(name))
    if kind == "fusion":
        contract.head_params = lambda fusion: {}  # type: ignore[attr-defined]
        contract.modality_logits = module.modality_logits  # type: ignore[attr-defined]


class _Read:
    """A class attribute that is looked up in the traits; modules and tensors of the same name come first."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, cls: type) -> Any:
        for place in ("_parameters", "_buffers", "_modules"):
            if owner is not None and self.name in owner.__dict__.get(place, {}):
                return owner.__dict__[place][self.name]
        return _VALUES.get(self.name, lambda c: getattr(c.traits, self.name))(cls if owner is None else owner)


def _is(name: str) -> Callable[[Any], bool]:
    """Whether a class, or that of an instance, has a base class of this name."""
    return lambda of: any(b.__name__ == name for b in (of if isinstance(of, type) else type(of)).__mro__)


_VALUES: dict[str, Callable[[Any], Any]] = {
    "trained": lambda of: "once" if _is("SolvedOnce")(of) else "gradient",
    "combines": _is("Combiner"),
    "gradients": lambda of: (
        "combines" if _is("DoesBackward")(of) else "changes" if _is("ChangesGradients")(of) else "none"
    ),
    "reads_validation": lambda of: False,
    "matches": lambda of: of.needs.matched,
    "role": lambda of: (
        "transform" if _is("TransformsLogits")(of) else "optimiser" if _is("TakesStep")(of) else "loss"
    ),
}


def _contract(cls: type) -> tuple[str, Any]:
    """The kind of component that a class is, and the module of its contract."""
    for kind in ("fusion", "policy", "distiller"):
        module = f"wbcbench.contracts.{kind}"
        if any(b.__module__ == module and b.__name__ == kind.title() for b in cls.__mro__):
            return kind, sys.modules[module]
    raise TypeError(f"{cls} is neither a fusion nor a policy nor a distiller")


def _attributes(kind: str) -> list[str]:
    """The class attributes that the old contract had and the new one does not have."""
    if kind == "distiller":
        return ["matches", "role"]
    if kind == "policy":
        return [*(f.name for f in fields(PolicyTraits)), "gradients", "reads_validation"]
    return [*(f.name for f in fields(FusionTraits)), "trained"]


def _bases(kind: str, given: dict[str, Any], stated: dict[str, Any]) -> dict[str, str]:
    """Attribute or method of the old form -> the base class that replaces it."""
    if kind == "distiller":
        roles = {"transform": "TransformsLogits", "optimiser": "TakesStep"}
        found = {"role": roles[stated["role"]]} if stated.get("role") in roles else {}
        return found | ({"head": "ReplacesHead"} if getattr(given.get("needs"), "_head", False) else {})
    found = {method: base for method, base in _METHODS[kind].items() if method in given}
    return found | ({"trained": "SolvedOnce"} if stated.get("trained") == "once" else {})


def _restate(cls: Any, kind: str, stated: dict[str, Any]) -> list[str]:
    """Set the object that planning reads; returns the line that does it, if one is needed."""
    where = "needs" if kind == "distiller" else "traits"
    before = getattr(cls, where)
    known = {f.name for f in fields(before)}
    new = {n: v for n, v in stated.items() if n in known}
    after = replace(before, **new)
    if kind == "distiller" and after.matched == before.matched:
        after = before
    if after == before:
        return []
    setattr(cls, where, after)
    parent = next(b for b in cls.__mro__[1:] if hasattr(b, where))
    if before is getattr(parent, where) and differences(before):
        said = ", ".join(f"{n}={getattr(after, n)!r}" for n in new)
        return [f"{where} = dataclasses.replace({parent.__name__}.{where}, {said})"]
    said = ", ".join(f"{n}={v!r}" for n, v in differences(after).items())
    return [f"{where} = {type(after).__name__}({said})"]
