"""`wbcbench.search`: propose, train, prune; retrain the best with fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.api.choices import Names, Seeds, request_of
from wbcbench.api.showing import Shown

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.records.store import Record
    from wbcbench.searches.execute import Found


@dataclass(repr=False)
class Searches(Shown):
    """What one search came to, or with `each` one per method."""

    found: list[Found]

    @property
    def winners(self) -> list[Record]:
        """Records of the retrained winners, seed by seed."""
        return [o.record for f in self.found for o in f.retrained if o.record and o.planned.role == "student"]

    def frame(self) -> pd.DataFrame:
        """One row per finished proposal, best first: study, number, values, a column per parameter."""
        import pandas as pd

        from wbcbench.searches.execute import proposal_of, ranking

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
        """What was spent, and what the winners score on the test cells."""
        from wbcbench.searches.execute import budget

        lines = []
        for one in self.found:
            spent = budget(one.study)
            lines.append(
                f"{one.study.spec.title}: {spent.trials} proposals, {spent.train_seconds:.0f} s of training."
            )
        scores = [f"{r.result.metrics['test']['macro_f1']:.3f}" for r in self.winners]
        return [*lines, f"Winners, test macro-F1: {', '.join(scores)}"] if scores else lines


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
    teacher: Names = None,
    epochs: int | None = None,
    seeds: Seeds = None,
    image_size: int | None = None,
    device: str | None = None,
    store: str | Path | None = None,
    executor: Literal["auto", "inline", "ray"] | None = None,
    jobs: int | None = None,
    cpus_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
    ray_address: str | None = None,
    trials: int | None = None,
    objective: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    budget_seconds: float | None = None,
    space: Mapping[str, str] | None = None,
    seed: int | None = None,
    each: bool = False,
    winners: int | None = None,
    winner_seeds: Seeds = None,
    retrain: bool = True,
    name: str | None = None,
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    plugins_dir: str | Path | Sequence[str | Path] = (),
    track: str | Sequence[str] | None = None,
    progress: bool = True,
) -> Searches:
    """Search on validation cells, then retrain the winners with fresh seeds. Call it again: it goes on.

    Args:
        fusion ... ray_address, config, set, plugins_dir, track, progress: as in `wbcbench.run`; `seeds` is the one
            seed that proposals are trained with.
        trials, objective, sampler, pruner, budget_seconds, seed, winners, winner_seeds, name: as the flags of
            `wbcbench search`.
        space: parameter -> range, `{"distiller.temperature": "log(1,20)"}`.
        each: an equal search for every method.
        retrain: False leaves the test split sealed.

    Raises:
        UsageError: an unknown name or range.
        TrialFailedError: a teacher failed, or no proposal finished.
    """
    from wbcbench.api.choices import displays, plugins
    from wbcbench.scheduling.estimate import train_cells
    from wbcbench.searches.execute import run_search
    from wbcbench.searches.search import prepare_searches
    from wbcbench.searches.settings import load_settings

    given = locals()
    request = request_of(given)
    names = ("trials", "objective", "sampler", "pruner", "budget_seconds", "seed", "winners", "name")
    flags = {n: given[n] for n in names if given[n] is not None} | ({"each": True} if each else {})
    if winner_seeds is not None:
        several = [winner_seeds] if isinstance(winner_seeds, int) else winner_seeds
        flags["winner_seeds"] = several if isinstance(several, str) else ",".join(map(str, several))
    ranges = tuple(f"{k}={v}" for k, v in (space or {}).items())
    settings, found_ranges = load_settings(None if config is None else Path(config), flags, ranges)
    options, registry, report = plugins(plugins_dir)
    found = []
    for one in prepare_searches(request, registry, settings, found_ranges):
        screens = displays(track, progress, request.store, train_cells(one.base))
        found.append(run_search(one, screens, report.observers, options, retrain))
    return Searches(found)


__all__ = ["Searches", "search"]
