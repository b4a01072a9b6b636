"""`wbcbench.search`: propose, train, prune; retrain the best with fresh seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.api.records import Shown
from wbcbench.api.requests import (
    Choices,
    Executor,
    Names,
    Paths,
    Seeds,
    Settings,
    load,
    plugin_options,
)
from wbcbench.isolation import guest

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from wbcbench.records.store import Record
    from wbcbench.registry.loading import Observers
    from wbcbench.scheduling.source import Outcome
    from wbcbench.searches.search import Found, Search

SETTINGS = (
    "trials", "objective", "sampler", "pruner", "budget_seconds", "seed", "each", "winners", "winner_seeds",
    "name",
)  # fmt: skip
"""Fields of a `SearchRequest` that are keys of the section `search`."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest(Choices):
    """The arguments of `wbcbench.search` and `wbcbench search`. None: the config file's, else the default."""

    trials: int | None = None
    objective: str | Sequence[str] | None = None
    sampler: str | None = None
    pruner: str | None = None
    budget_seconds: float | None = None
    space: Mapping[str, Any] | Sequence[str] = ()
    """Parameter -> range, or `name=range` as text."""
    seed: int | None = None
    each: bool | None = None
    winners: int | None = None
    winner_seeds: Seeds = None
    retrain: bool = True
    name: str | None = None

    def plan(self) -> PlannedSearches:
        """Build the spaces, and plan every combination of methods. Does not import torch.

        Raises:
            UsageError: an unknown name or range, or a sampler or pruner that does not support this search.
        """
        from wbcbench.searches.search import prepare_searches
        from wbcbench.searches.settings import load_settings

        request = self.request()
        given = {name: getattr(self, name) for name in SETTINGS if getattr(self, name) is not None}
        settings, ranges = load_settings(self.config_path, given, self.space)
        registry, report = load(self.plugins)
        return PlannedSearches(self, prepare_searches(request, registry, settings, ranges), report.observers)


@dataclass(frozen=True)
class PlannedSearches:
    """One search, or with `each` one per method, ready to be run."""

    wanted: SearchRequest
    searches: list[Search]
    observers: Observers

    def run(self, progress: bool = True, say: Callable[[str], None] = lambda _: None) -> Searches:
        """Propose and train until the budgets are spent, then retrain the winners.

        Args:
            progress: show progress on stderr.
            say: if there are several searches, called with a line when one begins or fails.

        Raises:
            TrialFailedError: the only search failed. If one of several fails, the others continue.
        """
        from wbcbench.errors import TrialFailedError
        from wbcbench.progress import displays
        from wbcbench.scheduling.resources import train_cells
        from wbcbench.scheduling.source import keep_titles
        from wbcbench.searches.search import run_search

        done = Searches([])
        for one in self.searches:
            if len(self.searches) > 1:
                say(f"Search {one.folder.id}: {one.spec.title}")
            screens = displays(progress, one.store.root, train_cells(one.base), self.wanted.trackers)
            try:
                found = run_search(one, screens, self.observers, self.wanted.plugins, self.wanted.retrain)
            except TrialFailedError as error:
                if len(self.searches) == 1:
                    raise
                done.failures.append(f"{one.spec.title}: {error}")
                say(f"Failed: {done.failures[-1]}")
                continue
            keep_titles(one.request, found.retrained)
            done.found.append(found)
        return done


@dataclass(repr=False)
class Searches(Shown):
    """The result of one search, or with `each` of one per method."""

    found: list[Found]
    failures: list[str] = field(default_factory=list)
    """If there are several: searches that ended without a winner, and why."""

    @property
    def winners(self) -> list[Record]:
        """Records of the retrained winners, seed by seed."""
        return [o.record for f in self.found for o in f.retrained if o.record and o.planned.role == "student"]

    @property
    def failed(self) -> list[Outcome]:
        """Winners whose retraining failed; `error` has the reason."""
        return [o for f in self.found for o in f.retrained if o.status == "failed"]

    def frame(self) -> pd.DataFrame:
        """One row per finished proposal, best first: study, number, values, a column per parameter."""
        import pandas as pd

        from wbcbench.searches.search import proposal_of, ranking

        rows = []
        for one in self.found:
            names = one.study.spec.objective.names
            for trial in ranking(one.study):
                values = dict(zip(names, trial.values, strict=True))
                row = {"study": one.search.folder.id, "number": trial.number, **values, **trial.params}
                rows.append(row | {"trial_id": proposal_of(one.study, trial).trial_id})
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """The five best proposals."""
        return self.frame().drop(columns="trial_id", errors="ignore").head(5)

    def notes(self) -> list[str]:
        """The cost of the search, and the winners' test scores."""
        from wbcbench.searches.search import budget

        lines = [f"Failed: {failure}" for failure in self.failures]
        for one in self.found:
            spent = budget(one.study)
            lines.append(
                f"{one.study.spec.title}: {spent.trials} proposals, {spent.train_seconds:.0f} s of training."
            )
        scores = [f"{r.result.metrics['test']['macro_f1']:.3f}" for r in self.winners]
        return [*lines, f"Winners, test macro-F1: {', '.join(scores)}"] if scores else lines


@guest()
def search(
    *,
    fusion: Names = None,
    kd: Names = None,
    dataset: str | Mapping[str, Any] | None = None,
    modalities: Names = None,
    teacher_modalities: Names = None,
    routing: str | None = None,
    policy: Names = None,
    backbone: Names = None,
    max_macs: int | str | None = None,
    max_params: int | str | None = None,
    max_latency_ms: float | None = None,
    teacher: Names = None,
    epochs: int | None = None,
    seeds: Seeds = None,
    folds: Seeds = None,
    image_size: int | None = None,
    device: str | None = None,
    store: str | Path | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    cpus_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
    ray_address: str | None = None,
    trials: int | None = None,
    objective: str | Sequence[str] | None = None,
    sampler: Literal["tpe", "nsga2", "gp", "random", "cmaes"] | None = None,
    pruner: Literal["none", "asha", "hyperband", "median"] | None = None,
    budget_seconds: float | None = None,
    space: Mapping[str, str] | Sequence[str] = (),
    seed: int | None = None,
    each: bool | None = None,
    winners: int | None = None,
    winner_seeds: Seeds = None,
    retrain: bool = True,
    name: str | None = None,
    config: str | Path | None = None,
    set: Settings = (),
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
    track: str | Sequence[str] | None = None,
    progress: bool = True,
    check: bool = True,
) -> Searches:
    """Search parameters and methods on validation cells, then retrain the winners with fresh seeds.

    Called again with the same arguments, it resumes: `trials` includes earlier proposals. The test split is used
    only for retrained winners.

    Args:
        fusion, kd, dataset, modalities, teacher_modalities, routing, policy, backbone, max_macs, max_params,
            max_latency_ms, teacher, epochs, image_size, device, store, executor, jobs, cpus_per_trial,
            gpus_per_trial, ray_address, config, set, plugins_dir, no_plugins, track: as in `wbcbench.run`.
            Several methods are searched too.
        seeds: the one seed that proposals are trained with; default: 1000.
        folds: the one fold that is searched, of a split with several divisions.
        trials: total number of proposals; default: 20.
        objective: validation metrics or costs; several give a Pareto set; default: macro_f1.
        sampler: default: tpe.
        pruner: what stops poor proposals early; default: none.
        budget_seconds: no new proposal after this many seconds of training.
        space: parameter -> range, `{"distiller.temperature": "log(1,20)"}`; default: what components declare.
        seed: seed of the sampler; default: 0.
        each: a separate, equal search for every method.
        winners: how many winners are retrained; default: 1.
        winner_seeds: fresh seeds for retraining; default: 0, 1, 2.
        retrain: False leaves the test split sealed.
        name: name of the study; default: a hash of the search's settings.
        progress: show progress on stderr.
        check: raise if one of several searches, or the training of a winner, failed; if False, `failures` and
            `failed` of the result have them.

    Returns:
        Proposals with their values, and the records of the winners.

    Raises:
        UsageError: an unknown name or range, or a sampler or pruner that does not support this search.
        TrialFailedError: a teacher failed, no proposal finished, or see `check`.
    """
    from wbcbench.errors import TrialFailedError

    wanted = SearchRequest(
        fusion=fusion, kd=kd, dataset=dataset, modalities=modalities, teacher_modalities=teacher_modalities,
        routing=routing, policy=policy, backbone=backbone, max_macs=max_macs, max_params=max_params,
        max_latency_ms=max_latency_ms, teacher=teacher, epochs=epochs, seeds=seeds,
        folds=folds, image_size=image_size, device=device, store=store, executor=executor, jobs=jobs,
        cpus_per_trial=cpus_per_trial, gpus_per_trial=gpus_per_trial, ray_address=ray_address, config=config,
        settings=set, plugins=plugin_options(plugins_dir, no_plugins), track=track, trials=trials,
        objective=objective, sampler=sampler, pruner=pruner, budget_seconds=budget_seconds, space=space, seed=seed,
        each=each, winners=winners, winner_seeds=winner_seeds, retrain=retrain, name=name,
    )  # fmt: skip
    done = wanted.plan().run(progress)
    if check and (done.failures or done.failed):
        first = done.failures[0] if done.failures else done.failed[0].error.rstrip()
        raise TrialFailedError(
            f"{len(done.failures)} searches and the training of {len(done.failed)} winners failed. The first:\n"
            f"{first}\nsearch(..., check=False) returns the others."
        )
    return done


__all__ = ["PlannedSearches", "SearchRequest", "Searches", "search"]
