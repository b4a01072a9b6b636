"""Settings of a search: objectives, sampler, pruner; read from the `search:` section and from flags."""

from __future__ import annotations

import importlib
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from wbcbench.errors import UsageError, did_you_mean
from wbcbench.records.store import Record
from wbcbench.searches.space import Space
from wbcbench.spec import digest
from wbcbench.spec.load import read_yaml, validate
from wbcbench.spec.request import Seeds, split_list
from wbcbench.spec.trial import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


COSTS = {"params": False, "macs": False, "latency_ms": False, "throughput": True, "train_seconds": False}
"""Fields of a record's cost -> whether higher is better."""
_ALIASES = {"latency": "latency_ms", "flops": "macs", "f1": "macro_f1", "balanced_acc": "balanced_accuracy"}


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    from wbcbench.evaluation.metrics import METRICS

    if not names or not set(names) <= {*METRICS, *COSTS} or len(set(names)) < len(names):
        raise ValueError("expected one or more different metrics or costs")
    return names


class Objective(Frozen):
    """One or more quantities, each with its direction."""

    names: Annotated[tuple[str, ...], AfterValidator(_known)] = ("macro_f1",)

    @classmethod
    def parse(cls, text: str) -> Objective:
        """From `macro_f1` or `macro_f1,macs`. Raises `UsageError` for an unknown or repeated name."""
        from wbcbench.evaluation.metrics import METRICS

        names = tuple(_ALIASES.get(n.strip(), n.strip()) for n in text.split(",") if n.strip())
        known = [*METRICS, *COSTS]
        for name in names:
            if name not in known:
                raise UsageError(
                    f"--objective {name}: expected a validation metric or a cost.{did_you_mean(name, known)} "
                    f"There are: {', '.join(known)}."
                )
        if not names or len(set(names)) < len(names):
            raise UsageError(f"Expected --objective as one or more different names, but got '{text}'.")
        return cls(names=names)

    @property
    def several(self) -> bool:
        return len(self.names) > 1

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Optuna's direction of each name."""
        from wbcbench.evaluation.metrics import METRICS

        higher = {**{k: m.higher_is_better for k, m in METRICS.items()}, **COSTS}
        return ["maximize" if higher[n] else "minimize" for n in self.names]

    @property
    def per_epoch(self) -> bool:
        """Whether the objective is measured in every epoch, so that a pruner can use it."""
        return not self.several and self.names[0] not in COSTS

    def values(self, record: Record) -> list[float] | None:
        """The record's values, from validation cells and cost; None if one is undefined or not finite."""
        cost, val = record.result.cost, record.result.metrics["val"]
        found: list[float] = []
        for name in self.names:
            value = getattr(cost, name) if name in COSTS else val[name]
            if value is None or not math.isfinite(value):
                return None
            found.append(float(value))
        return found

    def at_epoch(self, row: Mapping[str, Any]) -> float | None:
        """The value in one row of the history; None if it is missing or not finite."""
        value = row.get(f"val_{self.names[0]}")
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


SamplerName = Literal["tpe", "nsga2", "gp", "random", "cmaes"]
PrunerName = Literal["asha", "hyperband", "median", "none"]
REMEMBERS = frozenset({"nsga2", "cmaes"})
"""Samplers that keep state in the study for every proposal, so that a replay must call them again."""
REDUCTION = 3
"""One of three trials at a rung continues."""


def check_strategy(space: Space, objective: Objective, sampler: SamplerName, pruner: PrunerName) -> None:
    """Raise `UsageError` for a sampler or pruner that does not support the space or objective."""
    if pruner != "none" and not objective.per_epoch:
        what = "several objectives" if objective.several else f"'{objective.names[0]}', not measured per epoch"
        raise UsageError(f"--pruner {pruner} does not support {what}. Use --pruner none.")
    if sampler == "cmaes":
        if objective.several:
            raise UsageError("--sampler cmaes takes one objective. Use nsga2, tpe or gp for several.")
        bad = [d.name for d in space.free if d.range.kind == "choice"]
        if bad:
            names = ",".join(bad[:3])
            raise UsageError(
                f"--sampler cmaes takes numbers only, but the space has choices: {', '.join(bad)}. Fix them "
                f"(--space {bad[0]}=VALUE) or use --sampler tpe."
                if any(d.parameter for d in space.free if d.name in bad)
                else f"--sampler cmaes cannot choose among methods ({names}). Use --sampler tpe, or --each."
            )
        if len(space.free) < 2:
            raise UsageError("--sampler cmaes needs at least two parameters to search. Use --sampler tpe.")


def make_sampler(name: SamplerName, seed: int, number: int) -> BaseSampler:
    """The sampler for proposal `number`. Its state is a function of (seed, number) and the study only."""
    from optuna import samplers

    own = int(digest(["sampler", seed, number], length=8), 16) % 2**31
    with quiet():
        if name == "tpe":
            # In groups, so that parameters of some methods only are also modelled jointly.
            return samplers.TPESampler(seed=own, multivariate=True, group=True, constant_liar=True)
        if name == "nsga2":
            return samplers.NSGAIISampler(seed=own, population_size=16)
        if name == "gp":
            return samplers.GPSampler(seed=own)
        if name == "cmaes":
            importlib.import_module("cmaes")  # Optuna's own error would not name the extra that installs it
            return samplers.CmaEsSampler(seed=own)
        return samplers.RandomSampler(seed=own)


def make_pruner(name: PrunerName, epochs: int) -> BasePruner:
    """The pruner for trials of `epochs` epochs. It does not prune in their first ninth (median: first quarter)."""
    from optuna import pruners

    first = max(1, epochs // REDUCTION**2)
    if name == "asha":
        return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=REDUCTION)
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 4))
    return pruners.NopPruner()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log lines per trial, and its warnings on experimental arguments."""
    from optuna import logging as optuna_logging

    before = optuna_logging.get_verbosity()
    optuna_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            from optuna.exceptions import ExperimentalWarning

            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna_logging.set_verbosity(before)


Objectives = Annotated[str, BeforeValidator(lambda v: ",".join(split_list(v)))]


class SearchSettings(Frozen):
    """Settings of a search. Only objective, sampler, pruner and seed are part of a study's identity."""

    trials: int = Field(20, ge=1, description="total number of proposals, including those of earlier starts")
    objective: Objectives = "macro_f1"
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "none"
    budget_seconds: float | None = Field(None, gt=0, description="stop proposing after this much training")
    seed: int = Field(0, ge=0, description="of the sampler; `seeds` is for training")
    each: bool = Field(False, description="one search per method, with equal budgets")
    winners: int = Field(1, ge=1, description="number to retrain; with several objectives, from the Pareto set")
    winner_seeds: Seeds = (0, 1, 2)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


def load_settings(
    config: Path | None, flags: dict[str, Any], spaces: Mapping[str, Any] | Sequence[str]
) -> tuple[SearchSettings, dict[str, Any]]:
    """Settings, and ranges by name, from the file's `search` and `space`; flags and `--space name=range` take
    precedence.

    Raises:
        UsageError: an unknown key, an invalid value, or a `--space` without `=`.
    """
    return settings_from(read_yaml(config) if config is not None else {}, flags, spaces, config)


def settings_from(
    tree: dict[str, Any],
    flags: dict[str, Any],
    spaces: Mapping[str, Any] | Sequence[str] = (),
    config: Path | str | None = None,
) -> tuple[SearchSettings, dict[str, Any]]:
    """As `load_settings`, for a document that was already read from the file `config`. Raises as it does."""
    search, space = (tree.get(key) or {} for key in ("search", "space"))
    for key, section in (("search", search), ("space", space)):
        if not isinstance(section, dict):
            raise UsageError(f"{config}: expected key: value pairs in '{key}', but got {section!r}.")
    ranges = {str(k): v for k, v in space.items()}
    if isinstance(spaces, Mapping):
        ranges |= spaces
        spaces = ()
    for item in spaces:
        name, found, text = item.partition("=")
        if not found or not name.strip():
            raise UsageError(
                f"Expected --space name=range, but got '{item}'. Example: --space 'training.lr=log(1e-4,1e-2)'"
            )
        ranges[name.strip()] = text
    where = f"{config}: search" if config is not None and not flags else "search"
    return validate(SearchSettings, {**search, **flags}, where), ranges
