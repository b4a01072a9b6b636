"""Looking up the component under test, for contract classes."""

from __future__ import annotations

from functools import cache
from typing import Any

from wbcbench.plugins import load_plugins
from wbcbench.registry import Registry


@cache
def registry() -> Registry:
    """All components that are installed, loaded once per process."""
    return load_plugins()[0]


def component_class(kind: str, name_or_class: Any) -> Any:
    """The class itself, or the one registered under a name."""
    if isinstance(name_or_class, str):
        return registry().load(registry().resolve(kind, name_or_class).component)
    return name_or_class
