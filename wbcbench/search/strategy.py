"""Samplers and pruners by name, and which of them cannot work together.

A sampler is made anew for every proposal, seeded by (study seed, proposal number): a search that was stopped
and started again then proposes what an unbroken one would have.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from wbcbench.errors import UsageError
from wbcbench.search.objective import Objective
from wbcbench.search.space import Space
from wbcbench.spec import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

SamplerName = Literal["tpe", "nsga2", "gp", "random", "cmaes"]
PrunerName = Literal["asha", "hyperband", "median", "none"]
REMEMBERS = frozenset({"nsga2", "cmaes"})
"""Samplers that note something in the study with every proposal, so that a replay must ask them again."""
REDUCTION = 3
"""Of three trials at a rung, one goes on."""


def check_strategy(space: Space, objective: Objective, sampler: SamplerName, pruner: PrunerName) -> None:
    """Raises `UsageError` for a sampler or pruner that cannot do what is asked."""
    if pruner != "none" and not objective.per_epoch:
        what = "several objectives" if objective.several else f"'{objective.names[0]}', which no epoch measures"
        raise UsageError(f"--pruner {pruner} cannot judge {what}. Use --pruner none.")
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
    """The sampler that makes proposal `number`, its whole state a function of (seed, number) and the study."""
    from optuna import samplers

    own = int(digest(["sampler", seed, number], length=8), 16) % 2**31
    with quiet():
        if name == "tpe":
            # In groups, so that parameters which only some methods have are still modelled together.
            return samplers.TPESampler(seed=own, multivariate=True, group=True, constant_liar=True)
        if name == "nsga2":
            return samplers.NSGAIISampler(seed=own, population_size=16)
        if name == "gp":
            return samplers.GPSampler(seed=own)
        if name == "cmaes":
            return samplers.CmaEsSampler(seed=own)
        return samplers.RandomSampler(seed=own)


def make_pruner(name: PrunerName, epochs: int) -> BasePruner:
    """The pruner for trials of so many epochs; nothing is pruned before a ninth of them (a quarter: median)."""
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
    """Optuna without its notices: one line per trial, and warnings of experimental arguments."""
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
