"""`wbcbench.study`: every part of a study file, into one store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcbench.api.records import Shown
from wbcbench.api.requests import (
    Compute,
    Evaluate,
    Executor,
    Paths,
    Settings,
    check_evaluate,
    load,
    plugin_options,
)
from wbcbench.api.running import outcome_row, outcome_summary, reason
from wbcbench.isolation import guest

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.records.store import Record
    from wbcbench.registry import Registry
    from wbcbench.registry.loading import Observers
    from wbcbench.scheduling.source import Outcome
    from wbcbench.searches.studies import Costs, Done, Planned


@dataclass(frozen=True, kw_only=True)
class StudyRequest(Compute):
    """The arguments of `wbcbench.study` and `wbcbench study`; these values apply to every part."""

    file: str | Path
    only: str | Sequence[str] = ()
    evaluate: Evaluate = "standard"
    corruption: str | Sequence[str] = ()

    def plan(self) -> PlannedStudy:
        """Read the file and plan every part, before any training.

        Raises:
            UsageError: an unknown key, part or name, with its location.
        """
        from wbcbench.searches.studies import plan_part, read_study
        from wbcbench.spec.load import keys_of
        from wbcbench.spec.request import split_list

        parts = read_study(Path(self.file), keys_of(vars(self)), self.settings, split_list(self.only))
        registry, report = load(self.plugins)
        check_evaluate(self.evaluate, self.corruption, registry)
        return PlannedStudy(self, [plan_part(part, registry) for part in parts], registry, report.observers)


@dataclass(frozen=True)
class PlannedStudy:
    """A study's parts, ready to be run."""

    wanted: StudyRequest
    parts: list[Planned]
    registry: Registry
    observers: Observers

    @property
    def notes(self) -> dict[str, list[str]]:
        """Part -> notes from planning, for parts that have any."""
        return {p.part.name: p.plan.notes for p in self.parts if p.plan is not None and p.plan.notes}

    def costs(self) -> dict[str, Costs]:
        """Part -> number of trials, those done, and the approximate time for the rest."""
        from wbcbench.searches.studies import costs

        return {p.part.name: costs(p) for p in self.parts}

    def run(
        self,
        progress: bool = True,
        begins: Callable[[int, str], None] = lambda *_: None,
        ended: Callable[[Done], None] = lambda _: None,
    ) -> StudyRun:
        """Run what is missing, part by part. A part with failed trials does not stop the others.

        Args:
            progress: show progress on stderr.
            begins: called with the number (from 1) and name of each part.
            ended: called with the outcome of each part.
        """
        from wbcbench.progress import displays
        from wbcbench.searches.studies import run_part

        done = StudyRun([], self.parts[0].part.request.root, self.notes)
        for number, planned in enumerate(self.parts, 1):
            begins(number, planned.part.name)
            root = planned.part.request.root

            def screens(cells: int | None, root: Path = root) -> Any:
                return displays(progress, root, cells)

            wanted = self.wanted
            more = check_evaluate(wanted.evaluate, wanted.corruption, self.registry)
            full = wanted.evaluate == "full"
            part = run_part(planned, self.registry, wanted.plugins, self.observers, screens, full, more)
            done.parts.append(part)
            ended(part)
        return done


@dataclass(repr=False)
class StudyRun(Shown):
    """The outcomes of a study's parts, in the file's order."""

    parts: list[Done]
    store: Path
    planning: dict[str, list[str]] = field(default_factory=dict)
    """Part -> notes from planning."""

    @property
    def records(self) -> list[Record]:
        """Records of the students of all parts."""
        found = (o for p in self.parts for o in p.outcomes if o.planned.role == "student")
        return [o.record for o in found if o.record is not None]

    @property
    def failed(self) -> list[Outcome]:
        """Trials that failed; `error` has the reason."""
        return [o for part in self.parts for o in part.failed]

    @property
    def failures(self) -> list[str]:
        """Searches that ended early, finalists that could not be chosen, and why."""
        return [f"{part.part.name}: {failure}" for part in self.parts for failure in part.failures]

    def frame(self) -> pd.DataFrame:
        """One row per trial, as in `Run.frame`, with its `part`; for a search, its retrained winners."""
        import pandas as pd

        return pd.DataFrame([{"part": p.part.name, **outcome_row(o)} for p in self.parts for o in p.outcomes])

    def summary(self) -> pd.DataFrame:
        """Part, method (with its policies), distiller, seed, test macro-F1, parameters, state."""
        return outcome_summary(self.frame())

    def notes(self) -> list[str]:
        """Notes from planning, and failures."""
        said = [f"{part}: {note}" for part, notes in self.planning.items() for note in notes]
        return [*said, *(f"Failed: {f}" for f in (*self.failures, *map(reason, self.failed)))]


@guest()
def study(
    file: str | Path,
    *,
    only: str | Sequence[str] = (),
    store: str | Path | None = None,
    device: str | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    cpus_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
    ray_address: str | None = None,
    set: Settings = (),
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
    evaluate: Evaluate = "standard",
    corruption: str | Sequence[str] = (),
    progress: bool = True,
    check: bool = True,
) -> StudyRun:
    """Run every part of a study file, runs and searches, one after another into one store.

    Called again, it resumes: what is already in the store is not run again.

    Args:
        file: YAML with `common` and `parts`; see `wbcbench study --help`.
        only: names of some parts; default: all, in the file's order.
        store, device, executor, jobs, cpus_per_trial, gpus_per_trial, ray_address: as in `wbcbench.run`, for every
            part; None: as in the file.
        set: any parameter by its dotted name, for every part; overrides everything else.
        plugins_dir, no_plugins, progress: as in `wbcbench.run`.
        evaluate: "full": also every subset of modalities, corruptions and reliance; `examinations` of each part.
        corruption: as in `wbcbench.run`.
        check: raise if something failed; if False, `failed` and `failures` of the result list it.

    Returns:
        The outcome of every part.

    Raises:
        UsageError: an unknown key, part or name.
        TrialFailedError: trials or searches failed; the others ran, and are in the store.
    """
    from wbcbench.errors import TrialFailedError

    wanted = StudyRequest(
        file=file, only=only, store=store, device=device, executor=executor, jobs=jobs,
        cpus_per_trial=cpus_per_trial, gpus_per_trial=gpus_per_trial, ray_address=ray_address, settings=set,
        plugins=plugin_options(plugins_dir, no_plugins), evaluate=evaluate,
        corruption=corruption,
    )  # fmt: skip
    done = wanted.plan().run(progress)
    if check and (done.failed or done.failures):
        first = done.failures[0] if done.failures else done.failed[0].error.rstrip()
        raise TrialFailedError(
            f"{len(done.failed)} trials and {len(done.failures)} parts failed; the others are in {done.store}. "
            f"The first:\n{first}\nstudy(..., check=False) returns the others."
        )
    return done


__all__ = ["PlannedStudy", "StudyRequest", "StudyRun", "study"]
