"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from wbcbench.api.defaults import STORE
from wbcbench.cli.completion import components, records, trackers

F = TypeVar("F", bound=Callable[..., Any])


def added(options: Iterable[Callable[[Any], Any]]) -> Callable[[F], F]:
    """Combine several options into one decorator, in the order in which `--help` shows them."""

    def decorate(function: F) -> F:
        for option in reversed(list(options)):
            function = option(function)
        return function

    return decorate


def plugins_options(function: F) -> F:
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
        from wbcbench.api.requests import plugin_options

        return function(*args, plugins=plugin_options(plugins_dir, "*" in no_plugins or no_plugins), **kwargs)

    return wrapper  # type: ignore[return-value]


executor_options = added([
    click.option(
        "--executor", type=click.Choice(["auto", "inline", "ray"]),
        help="One trial after another (inline), several at a time (ray), or whichever is faster (auto).",
    ),
    click.option("--jobs", type=click.IntRange(1), help="At most N trials at a time."),
    click.option(
        "--cpus-per-trial", type=click.IntRange(1), help="Cores of a trial, and its threads under either executor."
    ),
    click.option(
        "--gpus-per-trial", type=click.FloatRange(0),
        help="Share of a GPU per trial: 0.25 runs four on one GPU.",
    ),
    click.option(
        "--ray-address", metavar="HOST:PORT",
        help="A running Ray cluster (or auto); all its nodes must share the store's path.",
    ),
])  # fmt: skip
"""`--executor`, `--jobs`, `--cpus-per-trial`, `--gpus-per-trial` and `--ray-address`."""


def choice_options(seeds: str) -> Callable[[F], F]:
    """Add the options for data and methods, `--config`, `--set` (`settings`), `--track`, and `executor_options`.

    Their names are the fields of `api.requests.Choices`. The variables `WBCBENCH_<NAME>`, which replace missing
    flags, are read where a request is made, so that they also apply to `wbcbench.run`.

    Args:
        seeds: help of `--seeds`, which has another meaning in a search.
    """
    return added([
        click.option("--dataset", metavar="NAME", shell_complete=components("dataset"),
                     help="Data set: synthetic (default), folder, npz, stains, ..."),
        click.option("--modalities", metavar="A,B", help="What the student reads; default: all."),
        click.option("--teacher-modalities", metavar="A,B",
                     help="What teachers read; may be more than the student does."),
        click.option("--fusion", metavar="NAME[,NAME]", shell_complete=components("fusion"),
                     help="Fusion schemes; default: independent."),
        click.option("--kd", metavar="NAME[,NAME]", shell_complete=components("distiller"),
                     help="Distillers, or none (default)."),
        click.option("--routing", metavar="NAME", shell_complete=components("routing"),
                     help="Who teaches whom; default: matched."),
        click.option("--policy", metavar="NAME[,NAME]", shell_complete=components("policy"),
                     help="Training policies, applied together in a fixed order."),
        click.option("--backbone", metavar="NAME[,NAME]", shell_complete=components("backbone"),
                     help="Student backbones: cellnet (default) or any timm model; or MODALITY=NAME for each."),
        click.option("--teacher", metavar="NAME", shell_complete=components("backbone"),
                     help="Teacher backbone, as for --backbone, or file:ANSWERS.npz; default: cellnet:width=32."),
        click.option("--max-macs", metavar="5M", help="The widest student of at most so many MACs per cell."),
        click.option("--max-params", metavar="100k", help="The widest student of at most so many parameters."),
        click.option("--max-latency-ms", type=float, metavar="2.5",
                     help="The widest student of at most so many ms per cell, measured here with one thread."),
        click.option("--epochs", type=click.IntRange(1), help="Passes over the training cells."),
        click.option("--seeds", metavar="0,1,2", help=seeds),
        click.option("--folds", metavar="0,2", help="Of a split with folds, those to run; default: all."),
        click.option("--image-size", type=click.IntRange(8, 1024),
                     help="Side in pixels; default: the data set's own."),
        click.option("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps."),
        click.option("--store", metavar="DIR", help=f"Where records are kept; default: {STORE}."),
        click.option("--track", metavar="NAME[,NAME]", shell_complete=trackers,
                     help="Log to trackers as well: tensorboard, mlflow, wandb."),
        click.option("--config", type=click.Path(path_type=Path, dir_okay=False),
                     help="YAML file; flags override it."),
        set_option("Any parameter: --set training.lr=1e-3"),
        executor_options,
    ])  # fmt: skip


def set_option(help: str) -> Callable[[F], F]:
    """Add `--set`, repeatable; the handler gets `settings`."""
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=help)


def record_options(function: F) -> F:
    """Add the argument RECORD, `--store` and `--set`; the handler gets `record`, `store` and `settings`."""
    return added([
        click.argument("record", metavar="RECORD", shell_complete=records),
        click.option(
            "--store", envvar="WBCBENCH_STORE", type=click.Path(path_type=Path, file_okay=False),
            default=Path(STORE), metavar="DIR", help=f"Where records are kept; default: {STORE}.",
        ),
        set_option("Where the record's cells are: --set dataset.path=cells.npz"),
    ])(function)  # fmt: skip


def evaluate_option(function: F) -> F:
    """Add `--evaluate` and `--corruption`."""
    return added([
        click.option(
            "--evaluate", type=click.Choice(["standard", "full"]), default="standard",
            help="full: also every subset of modalities, corruptions, reliance, diversity (evaluations/ID.json).",
        ),
        click.option(
            "--corruption", multiple=True, metavar="NAME[:KEY=VALUE]", shell_complete=components("corruption"),
            help="A corruption of the full evaluation beyond the standard ones; repeatable.",
        ),
    ])(function)  # fmt: skip


def json_option(function: F) -> F:
    """Add `--json`; the handler gets `as_json`."""
    option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
    return option(function)


def store_option(help: str) -> Callable[[F], F]:
    """Add `--store`, for commands that only read it."""
    return click.option(
        "--store",
        default=STORE,
        envvar="WBCBENCH_STORE",
        show_default=True,
        type=click.Path(path_type=Path),
        help=help,
    )


__all__ = [
    "F",
    "added",
    "choice_options",
    "evaluate_option",
    "executor_options",
    "json_option",
    "plugins_options",
    "record_options",
    "set_option",
    "store_option",
]
