"""What the functions of `wbcbench.api` share: from arguments to a request, plugins and displays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbcbench.registry import Registry
    from wbcbench.registry.loading import LoadReport, PluginOptions
    from wbcbench.scheduling.source import Screens
    from wbcbench.spec.request import Request

Names = str | Sequence[Any] | Mapping[str, Any] | None
"""`"a,b"`, `["a", "b"]`, or one component with parameters as a mapping."""
Seeds = int | str | Sequence[int] | None


def request_of(arguments: Mapping[str, Any]) -> Request:
    """The request that keyword arguments make. Those that are None are left to the variables that stand in for
    flags (`WBCBENCH_EPOCHS`), then to the config file, then to defaults.

    Raises:
        UsageError: an unknown name or a value out of range.
    """
    from wbcbench.cli.choices import FLAGS
    from wbcbench.spec.load import load_request

    flags = {}
    for name, key in FLAGS.items():
        variable = os.environ.get(f"WBCBENCH_{name.upper()}")
        if arguments.get(name) is not None:
            flags[key] = arguments[name]
        elif variable:
            flags[key] = variable
    flags = {key: str(value) if isinstance(value, Path) else value for key, value in flags.items()}
    config = arguments.get("config")
    return load_request(None if config is None else Path(config), flags, values=arguments.get("set"))


def plugins(folders: str | Path | Sequence[str | Path]) -> tuple[PluginOptions, Registry, LoadReport]:
    """Load plugins; those that fail are said in one line each on stderr, as the command does."""
    from wbcbench.cli.options import load
    from wbcbench.registry.loading import PluginOptions

    several = [folders] if isinstance(folders, str | Path) else folders
    options = PluginOptions.from_environment([Path(f) for f in several])
    return options, *load(options)


def displays(track: str | Sequence[str] | None, progress: bool, store: str, cells: int | None) -> Screens:
    """Number of trials -> a display for them, with trackers."""
    from rich.console import Console

    from wbcbench.cli.screens import screens

    return screens(track, Path(store), cells, Console(stderr=True, quiet=not progress))


def check_stores(stores: Sequence[str | Path]) -> None:
    """Raise `UsageError` for a store that is not there."""
    from wbcbench.errors import UsageError

    for one in stores:
        if not Path(one).is_dir():
            raise UsageError(f"Expected a store, but there is no folder {one}. `wbcbench.run(...)` makes one.")


__all__ = ["Names", "Seeds", "check_stores", "displays", "plugins", "request_of"]
