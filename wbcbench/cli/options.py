"""Options that several verbs share, and the loading of plugins on their behalf."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from wbcbench.plugins import LoadReport, PluginOptions
    from wbcbench.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])


def plugin_options(function: F) -> F:
    """Add `--plugins-dir` and `--no-plugins[=NAME]`; the handler gets one argument `plugins`."""

    @click.option(
        "--plugins-dir",
        multiple=True,
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        help="Folder of plugin files; repeatable (also WBCBENCH_PLUGIN_PATH).",
    )
    @click.option(
        "--no-plugins",
        multiple=True,
        metavar="[=NAME]",
        help="Leave out all third-party plugins, or the one named; repeatable "
        "(also WBCBENCH_DISABLE_PLUGINS=a,b).",
    )
    @functools.wraps(function)
    def wrapper(*args: Any, plugins_dir: tuple[Path, ...], no_plugins: tuple[str, ...], **kwargs: Any) -> Any:
        from wbcbench.plugins import PluginOptions

        options = PluginOptions.from_environment(
            plugins_dir, block_all="*" in no_plugins, blocked=[n for n in no_plugins if n != "*"]
        )
        return function(*args, plugins=options, **kwargs)

    return wrapper  # type: ignore[return-value]


def json_option(function: F) -> F:
    """Add `--json`; the handler gets `as_json`."""
    option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    return option(function)


def load(plugins: PluginOptions) -> tuple[Registry, LoadReport]:
    """Load the plugins, and say in one line on stderr which ones could not be."""
    from wbcbench.plugins import load_plugins

    registry, report = load_plugins(plugins)
    for plugin in report.failed:
        click.echo(
            f"Warning: plugin '{plugin.provider}' was not loaded: {plugin.reason} "
            "(`wbcbench plugins --verbose` shows the traceback)",
            err=True,
        )
    return registry, report
