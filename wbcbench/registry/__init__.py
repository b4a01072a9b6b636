"""Which components there are, what each declares, and the real class of each.

`load_plugins` finds plugins and gives a `Registry`. What a plugin offers is told by an index, so that no
command has to import a plugin (and torch with it) only to name what is there:

- `provenance`: where code is written, its digests, and importing it;
- `declaration`: what a class declares, as JSON and back;
- `probe`: one import of a plugin file, in a process of its own;
- `index`: what these imports found, kept and checked by digests;
- `registry`: names to components;
- `loading`: all of it together.
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
