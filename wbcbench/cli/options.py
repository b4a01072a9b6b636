"""Options that several verbs share, and the loading of plugins on their behalf."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from wbcbench.registry import Registry
    from wbcbench.registry.loading import LoadReport, PluginOptions

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
        from wbcbench.registry.loading import PluginOptions

        options = PluginOptions.from_environment(
            plugins_dir, block_all="*" in no_plugins, blocked=[n for n in no_plugins if n != "*"]
        )
        return function(*args, plugins=options, **kwargs)

    return wrapper  # type: ignore[return-value]


def executor_options(function: F) -> F:
    """Add `--executor`, `--jobs`, `--cpus-per-trial`, `--gpus-per-trial` and `--ray-address`."""
    options = [
        click.option(
            "--executor",
            envvar="WBCBENCH_EXECUTOR",
            type=click.Choice(["auto", "inline", "ray"]),
            help="One trial after another (inline), several at once (ray), or whichever is quicker (auto).",
        ),
        click.option("--jobs", envvar="WBCBENCH_JOBS", type=click.IntRange(1), help="At most N trials at once."),
        click.option(
            "--cpus-per-trial",
            envvar="WBCBENCH_CPUS_PER_TRIAL",
            type=click.IntRange(1),
            help="Cores of a trial, and its threads under either executor.",
        ),
        click.option(
            "--gpus-per-trial",
            envvar="WBCBENCH_GPUS_PER_TRIAL",
            type=click.FloatRange(0),
            help="Share of a GPU that a trial is given: 0.25 puts four on one.",
        ),
        click.option(
            "--ray-address",
            envvar="WBCBENCH_RAY_ADDRESS",
            metavar="HOST:PORT",
            help="A running Ray cluster (or auto); the store must be on a path that its nodes share.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def evaluate_option(function: F) -> F:
    """Add `--evaluate`."""
    option = click.option(
        "--evaluate",
        type=click.Choice(["standard", "full"]),
        default="standard",
        help="full: also every subset of modalities, corruptions, reliance, diversity (evaluations/ID.json).",
    )
    return option(function)


def json_option(function: F) -> F:
    """Add `--json`; the handler gets `as_json`."""
    option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    return option(function)


def store_option(help: str) -> Callable[[F], F]:
    """Add `--store`, for verbs that only read it."""
    return click.option(
        "--store",
        default="wbcbench-store",
        envvar="WBCBENCH_STORE",
        show_default=True,
        type=click.Path(path_type=Path),
        help=help,
    )


def load(plugins: PluginOptions) -> tuple[Registry, LoadReport]:
    """Load the plugins, and say in one line each on stderr which ones, or which classes of them, are left out."""
    from wbcbench.registry.loading import load_plugins

    registry, report = load_plugins(plugins)
    for plugin in report.failed:
        click.echo(
            f"Warning: plugin '{plugin.provider}' was not loaded: {plugin.reason} "
            "(`wbcbench plugins --verbose` shows the traceback)",
            err=True,
        )
    for plugin in report.plugins:
        for skipped in plugin.skipped:
            click.echo(f"Warning: {skipped}.", err=True)
    return registry, report
