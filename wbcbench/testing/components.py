"""Looking up the component under test, for contract classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from wbcbench.errors import PluginError
from wbcbench.plugins import load_plugins
from wbcbench.registry import Component, Registry


@cache
def registry() -> Registry:
    """All components that are installed, loaded once per process."""
    return load_plugins()[0]


def component_class(kind: str, which: Any) -> Any:
    """The class under test.

    Args:
        kind: `fusion`, `distiller` and so on.
        which: the class itself, a registered name, or the `Path` of a plugin file that holds one of the kind.

    Raises:
        PluginError: the file cannot be imported, or holds none of the kind, or several.
    """
    if isinstance(which, str):
        return registry().load(registry().resolve(kind, which).component)
    if isinstance(which, Path):
        return Registry().load(_component_in(which, kind))
    return which


def _component_in(path: Path, kind: str) -> Component:
    from wbcbench.collecting import scanned_components

    try:
        found = [c for c in scanned_components(path, f"local.{path.stem}") if c.kind == kind]
    except (OSError, SyntaxError, ValueError) as error:
        raise PluginError(f"Expected a {kind} in {path}, but it cannot be read: {error}.") from error
    if len(found) != 1:
        names = ", ".join(c.name for c in found) or "none"
        raise PluginError(f"Expected one {kind} in {path}, but found {names}. Give the test the class itself.")
    return found[0]
