"""Looking up the component under test, for contract classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from wbcbench.errors import PluginError
from wbcbench.registry import Component, Registry
from wbcbench.registry.loading import load_plugins


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
    from wbcbench.registry.probe import class_components
    from wbcbench.registry.provenance import import_file

    skipped: list[str] = []
    try:
        found = [c for c in class_components(import_file(path), f"local.{path.stem}", skipped) if c.kind == kind]
    except Exception as error:
        raise PluginError(
            f"Expected a {kind} in {path}, but it cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if len(found) != 1:
        names = ", ".join(c.name for c in found) or "none"
        why = " ".join([f"found {names}.", *(f"{s}." for s in skipped)])
        raise PluginError(f"Expected one {kind} in {path}, but {why} Give the test the class itself.")
    return found[0]
