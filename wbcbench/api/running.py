"""`wbcbench.run`: plan, train what is missing, give the records back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.api.choices import Names, Seeds, request_of
from wbcbench.api.showing import Shown

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.records.store import Record
    from wbcbench.scheduling.source import Outcome


@dataclass(repr=False)
class Run(Shown):
    """What became of a plan's trials, in the plan's order: teachers first."""

    outcomes: list[Outcome]
    store: Path
    planning: list[str] = field(default_factory=list)
    """What the planner had to say: aliases that were resolved, defaults that were taken."""
    examinations: list[dict[str, Any]] = field(default_factory=list)
    """With `evaluate="full"`, of each student: subsets of modalities, corruptions, reliance."""

    @property
    def records(self) -> list[Record]:
        """Records of the students."""
        return [o.record for o in self.outcomes if o.record is not None and o.planned.role == "student"]

    @property
    def teachers(self) -> list[Record]:
        """Records of the teachers."""
        return [o.record for o in self.outcomes if o.record is not None and o.planned.role == "teacher"]

    @property
    def failed(self) -> list[Outcome]:
        """Trials that failed; `error` says why."""
        return [o for o in self.outcomes if o.status == "failed"]

    def frame(self) -> pd.DataFrame:
        """One row per trial: what it is, `status`, metrics as `test_macro_f1`, costs as `cost_params`.

        Rows of failed trials have no metrics.
        """
        import pandas as pd

        from wbcbench.records.frames import flat

        rows = []
        for outcome in self.outcomes:
            row = {"role": outcome.planned.role, "status": outcome.status}
            trial = outcome.planned.trial
            told = {
                "method": trial.label, "kd": trial.method.kd, "seed": trial.seed, "trial_id": trial.id,
                "policies": "+".join(p.name for p in trial.method.policies),
            }  # fmt: skip
            rows.append(row | (told if outcome.record is None else flat(outcome.record)))
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """Method (with its policies), distiller, seed, test macro-F1, parameters, state."""
        from wbcbench.spec.trial import method_name

        frame = self.frame()
        pairs = zip(frame["method"], frame["policies"], strict=True)
        frame["method"] = [method_name(m, "none", p.split("+") if p else ()) for m, p in pairs]
        frame = frame.reindex(
            columns=["role", "method", "kd", "seed", "test_macro_f1", "cost_params", "status", "trial_id"]
        )
        return frame.rename(columns={"test_macro_f1": "macro-F1", "cost_params": "params", "status": "state"})

    def notes(self) -> list[str]:
        """What planning said, and the last line of each failure."""
        lines = [(o.error.strip().splitlines() or ["no reason given"])[-1] for o in self.failed]
        return [*self.planning, *(f"Failed: {line}" for line in lines)]


def run(
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
    config: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    plugins_dir: str | Path | Sequence[str | Path] = (),
    track: str | Sequence[str] | None = None,
    evaluate: Literal["standard", "full"] = "standard",
    progress: bool = True,
    check: bool = True,
) -> Run:
    """Train teachers once, then students, and record each; what is in the store already is not run again.

    Args:
        fusion, kd, dataset, modalities, teacher_modalities, routing, policy, backbone, teacher, epochs, seeds,
            image_size, device, store, executor, jobs, cpus_per_trial, gpus_per_trial, ray_address: as the flags
            of `wbcbench run`, as text or lists. A component with parameters is `"independent:rho=0.2"` or
            `{"name": "independent", "rho": 0.2}`.
        config: a YAML file; arguments win over it.
        set: any parameter by its dotted name, `{"training.lr": 1e-3}`; wins over all else.
        plugins_dir: folders of plugin files.
        track: trackers, as `--track` takes them: "tensorboard", "mlflow", "wandb".
        evaluate: "full": also every subset of modalities, corruptions and reliance; `examinations` has them.
        progress: show it on stderr.
        check: raise when a trial failed; without it, `failed` of the result has them.

    Raises:
        UsageError: an unknown name, a value out of range, a pair that does not go together.
        TrialFailedError: trials failed; the others ran, and are in the store.
    """
    from wbcbench.api.choices import displays, plugins
    from wbcbench.errors import TrialFailedError, UsageError
    from wbcbench.scheduling.estimate import train_cells
    from wbcbench.scheduling.execute import carry_out
    from wbcbench.scheduling.plan import make_plan

    request = request_of(locals())
    if evaluate not in ("standard", "full"):
        raise UsageError(f"Expected evaluate='standard' or 'full', but got {evaluate!r}.")
    options, registry, report = plugins(plugins_dir)
    plan = make_plan(request, registry)
    screens = displays(track, progress, request.store, train_cells(plan))
    outcomes, examinations = carry_out(plan, request, registry, options, screens, report.observers, evaluate)
    done = Run(outcomes, Path(request.store), list(plan.notes), examinations)
    if check and done.failed:
        raise TrialFailedError(
            f"{len(done.failed)} of {len(outcomes)} trials failed; the others are in {request.store}. The first, "
            f"{done.failed[0].planned.trial.label}:\n{done.failed[0].error.rstrip()}\n"
            "run(..., check=False) returns what there is."
        )
    return done


__all__ = ["Run", "run"]
