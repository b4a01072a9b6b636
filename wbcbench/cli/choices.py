"""The options that choose data, methods and where to compute: flags, their `WBCBENCH_*` variables, their keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from wbcbench.cli.complete import components, trackers
from wbcbench.cli.options import executor_options

F = TypeVar("F", bound=Callable[..., Any])

FLAGS = {
    "dataset": "dataset", "modalities": "modalities", "teacher_modalities": "teacher_modalities",
    "fusion": "fusion", "kd": "kd", "routing": "routing", "policy": "policy", "backbone": "backbone",
    "teacher": "teacher.backbone", "epochs": "epochs", "seeds": "seeds", "image_size": "image_size",
    "device": "device", "store": "store",
    "executor": "executor", "jobs": "jobs", "cpus_per_trial": "cpus_per_trial",
    "gpus_per_trial": "gpus_per_trial", "ray_address": "ray_address",
}  # fmt: skip
"""Handler's argument -> key of the request; the flag wins over the config file, `--set` wins over both."""


_COMPLETED = {
    "--dataset": components("dataset"), "--fusion": components("fusion"), "--kd": components("distiller"),
    "--routing": components("routing"), "--policy": components("policy"), "--backbone": components("backbone"),
    "--teacher": components("backbone"), "--track": trackers,
}  # fmt: skip


def option(name: str, **kwargs: Any) -> Callable[[F], F]:
    """A flag that `WBCBENCH_<NAME>` can stand in for, and whose names a shell completes."""
    variable = "WBCBENCH_" + name.lstrip("-").upper().replace("-", "_")
    kwargs.setdefault("shell_complete", _COMPLETED.get(name))
    return click.option(name, envvar=variable, show_envvar=False, **kwargs)


def choice_options(seeds: str) -> Callable[[F], F]:
    """Add what chooses data and methods, `--config`, `--set`, and `options.executor_options`.

    Args:
        seeds: help of `--seeds`, which means something else in a search.
    """
    options: list[Callable[[Any], Any]] = [
        option("--dataset", metavar="NAME", help="Data set: synthetic (default), folder, npz, stains, ..."),
        option("--modalities", metavar="A,B", help="What the student reads; default: all."),
        option(
            "--teacher-modalities", metavar="A,B", help="What teachers read; may be more than the student does."
        ),
        option("--fusion", metavar="NAME[,NAME]", help="Fusion schemes; default: independent."),
        option("--kd", metavar="NAME[,NAME]", help="Distillers, or none (default)."),
        option("--routing", metavar="NAME", help="Who teaches whom; default: matched."),
        option("--policy", metavar="NAME[,NAME]", help="Training policies, applied together in a fixed order."),
        option(
            "--backbone", metavar="NAME[,NAME]", help="Student backbones: cellnet (default) or any timm model."
        ),
        option("--teacher", metavar="NAME", help="Teacher backbone; default: cellnet:width=32."),
        option("--epochs", type=click.IntRange(1), help="Passes over the training cells."),
        option("--seeds", metavar="0,1,2", help=seeds),
        option("--image-size", type=click.IntRange(8, 1024), help="Side in pixels; default: the data set's own."),
        option("--device", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps."),
        option("--store", metavar="DIR", help="Where records are kept; default: wbcbench-store."),
        option("--track", metavar="NAME[,NAME]", help="Tell trackers too: tensorboard, mlflow, wandb."),
        click.option(
            "--config", type=click.Path(path_type=Path, dir_okay=False), help="YAML file; flags win over it."
        ),
        click.option(
            "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any parameter: --set training.lr=1e-3"
        ),
    ]

    def decorate(function: F) -> F:
        function = executor_options(function)
        for one in reversed(options):
            function = one(function)
        return function

    return decorate


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Keys of the request for the flags that were given."""
    return {key: options[name] for name, key in FLAGS.items() if options.get(name) is not None}
