"""What the requests of several commands share. A function and its command make the same request, so that a flag
and an argument cannot mean different things."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.api.defaults import STORE

if TYPE_CHECKING:
    from wbcbench.registry import Registry
    from wbcbench.registry.loading import LoadReport, PluginOptions
    from wbcbench.spec.request import Request

Names = str | Sequence[Any] | Mapping[str, Any] | None
"""`"a,b"`, `["a", "b"]`, or one component with parameters as a mapping."""
Seeds = int | str | Sequence[int] | None
Settings = Mapping[str, Any] | Sequence[str]
"""`{"training.lr": 1e-3}`, or `["training.lr=1e-3"]` as for `--set`."""
Paths = str | Path | Sequence[str | Path]
Executor = Literal["auto", "inline", "ray"]
Evaluate = Literal["standard", "full"]


def plugin_options(plugins_dir: Paths = (), no_plugins: bool | str | Sequence[str] = False) -> PluginOptions:
    """Which plugins to look for, in addition to `WBCBENCH_PLUGIN_PATH` and `WBCBENCH_DISABLE_PLUGINS`.

    Args:
        plugins_dir: folders of plugin files.
        no_plugins: True leaves out all third-party plugins; a name or several leave out those.
    """
    from wbcbench.registry.loading import PluginOptions

    blocked = [no_plugins] if isinstance(no_plugins, str) else [] if isinstance(no_plugins, bool) else no_plugins
    return PluginOptions.from_environment(
        [Path(p) for p in several(plugins_dir)], block_all=no_plugins is True, blocked=blocked
    )


def load(options: PluginOptions) -> tuple[Registry, LoadReport]:
    """Load the plugins, and say in one line each on stderr which are left out or should be rewritten."""
    from wbcbench.registry.loading import load_plugins

    registry, report = load_plugins(options)
    for plugin in report.failed:
        print(
            f"Warning: plugin '{plugin.provider}' was not loaded: {plugin.reason} "
            "(`wbcbench plugins --verbose` shows the traceback)",
            file=sys.stderr,
        )
    for note in (n for p in report.plugins for n in (*p.skipped, *p.outdated)):
        print(f"Warning: {note}.", file=sys.stderr)
    return registry, report


def stores_of(store: Paths | None) -> list[Path]:
    """Where records are read from; None: `WBCBENCH_STORE` if set, else `STORE`."""
    if store is None:
        store = os.environ.get("WBCBENCH_STORE", "").split(os.pathsep)
    return [Path(s) for s in several(store) if str(s)] or [Path(STORE)]


def several(paths: Paths) -> list[str | Path]:
    """A list of paths; a single path becomes a list of one."""
    return [paths] if isinstance(paths, str | Path) else list(paths)


def check_stores(stores: Sequence[Path]) -> None:
    """Raise `UsageError` for a store that does not exist."""
    from wbcbench.errors import UsageError

    for store in stores:
        if not store.is_dir():
            raise UsageError(
                f"Expected a store, but there is no folder {store}. Name another one (--store), or make one with "
                "`wbcbench run`."
            )


def check_evaluate(evaluate: str, corruption: str | Sequence[str], registry: Registry) -> tuple[str, ...]:
    """The corruptions beyond the standard ones.

    Raises `UsageError` for any other value of `evaluate` than `standard` and `full`, and for a corruption that
    does not exist or would not be applied.
    """
    from wbcbench.errors import UsageError
    from wbcbench.evaluation.corrupters import choose_corruptions

    texts = (corruption,) if isinstance(corruption, str) else tuple(corruption)
    if evaluate not in ("standard", "full"):
        raise UsageError(f"Expected evaluate='standard' or 'full', but got {evaluate!r}.")
    if texts and evaluate != "full":
        raise UsageError(f"Corruption '{texts[0]}' is for a full evaluation. Add --evaluate full.")
    choose_corruptions(registry, texts)
    return texts


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where to compute and to store. None: not given, so that a `WBCBENCH_*` variable, the config file or the
    default decides."""

    device: str | None = None
    store: str | Path | None = None
    executor: Executor | None = None
    jobs: int | None = None
    cpus_per_trial: int | None = None
    gpus_per_trial: float | None = None
    ray_address: str | None = None
    settings: Settings = ()
    """Any key of the request; overrides everything else."""
    plugins: PluginOptions = field(default_factory=plugin_options)


@dataclass(frozen=True, kw_only=True)
class Choices(Compute):
    """Data and methods as well: the arguments that `run` and `search` share."""

    fusion: Names = None
    kd: Names = None
    dataset: str | Mapping[str, Any] | None = None
    modalities: Names = None
    teacher_modalities: Names = None
    routing: str | None = None
    policy: Names = None
    backbone: Names = None
    max_macs: int | str | None = None
    max_params: int | str | None = None
    max_latency_ms: float | None = None
    teacher: Names = None
    epochs: int | None = None
    seeds: Seeds = None
    folds: Seeds = None
    image_size: int | None = None
    config: str | Path | None = None
    """A YAML file; the fields above override it."""
    track: str | Sequence[str] | None = None

    def request(self) -> Request:
        """The request, with variables, config file and defaults filled in.

        Raises:
            UsageError: an unknown key, or a value out of range.
        """
        from wbcbench.spec.load import keys_of, load_request

        return load_request(self.config_path, keys_of(vars(self)), self.settings)

    @property
    def trackers(self) -> str | Sequence[str] | None:
        """Names of trackers, from the argument or its variable."""
        from wbcbench.spec.load import variable

        return self.track or os.environ.get(variable("track")) or None

    @property
    def config_path(self) -> Path | None:
        return None if self.config is None else Path(self.config)


__all__ = [
    "Choices",
    "Compute",
    "Evaluate",
    "Executor",
    "Names",
    "Paths",
    "Seeds",
    "Settings",
    "check_evaluate",
    "load",
    "plugin_options",
    "several",
    "stores_of",
]
