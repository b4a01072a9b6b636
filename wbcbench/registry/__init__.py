"""Which components there are, what each declares, and the real class of each.

`load_plugins` finds plugins and returns a `Registry`. An index holds what each plugin offers, so that no
command has to import a plugin (and torch with it) only to list names:

- `provenance`: where source files are, their digests, and importing them;
- `declaration`: what a class declares, as JSON and back;
- `probe`: imports one plugin file in a separate process;
- `index`: caches what these imports found, validated by digests;
- `registry`: maps names to components;
- `loading`: puts all of this together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbcbench.registry.registry import (
    BUILTIN_PROVIDER,
    KINDS,
    Component,
    Missing,
    Registry,
    Resolved,
    clash_sentence,
    contract,
    kind_of,
    plural,
    qualified_name,
)

if TYPE_CHECKING:
    from wbcbench.registry.declaration import Declaration
    from wbcbench.registry.loading import LoadReport, Observers, PluginOptions, PluginStatus, load_plugins

_LAZY = {
    "Declaration": "declaration",
    "LoadReport": "loading",
    "Observers": "loading",
    "PluginOptions": "loading",
    "PluginStatus": "loading",
    "load_plugins": "loading",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


__all__ = [
    "BUILTIN_PROVIDER",
    "KINDS",
    "Component",
    "Declaration",
    "LoadReport",
    "Missing",
    "Observers",
    "PluginOptions",
    "PluginStatus",
    "Registry",
    "Resolved",
    "clash_sentence",
    "contract",
    "kind_of",
    "load_plugins",
    "plural",
    "qualified_name",
]
