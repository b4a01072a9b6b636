"""`wbcbench.run`: plan, train what is missing, return the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcbench.api.records import Shown
from wbcbench.api.requests import (
    Choices,
    Evaluate,
    Executor,
    Names,
    Paths,
    Seeds,
    Settings,
    check_evaluate,
    load,
    plugin_options,
)
from wbcbench.isolation import guest

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.evaluation.levelling import Levelled
    from wbcbench.records.store import Record
    from wbcbench.registry import Registry
    from wbcbench.registry.loading import Observers
    from wbcbench.scheduling.plan import Plan
    from wbcbench.scheduling.source import Outcome
    from wbcbench.spec.request import Request

NAMED = 6
"""Methods named per verdict."""


@dataclass(frozen=True, kw_only=True)
class RunRequest(Choices):
    """The arguments of `wbcbench.run` and `wbcbench run`."""

    evaluate: Evaluate = "standard"
    corruption: str | Sequence[str] = ()

    def plan(self) -> PlannedRun:
        """Resolve every name and plan the trials. Imports torch only for `max_macs` and the like.

        Raises:
            UsageError: an unknown name, a value out of range, or an incompatible pair.
        """
        from wbcbench.scheduling.plan import make_plan

        request = self.request()
        registry, report = load(self.plugins)
        check_evaluate(self.evaluate, self.corruption, registry)
        return PlannedRun(self, request, make_plan(request, registry), registry, report.observers)


@dataclass(frozen=True)
class PlannedRun:
    """The trials of a request, ready to be run."""

    wanted: RunRequest
    request: Request
    plan: Plan
    registry: Registry
    observers: Observers

    def costs(self) -> list[dict[str, Any]]:
        """One mapping per trial: what it is, whether it is done, and the expected seconds, if known."""
        from wbcbench.records.store import Store
        from wbcbench.scheduling.resources import estimate

        return estimate(self.plan, Store(self.request.root))

    def longer(self) -> tuple[int, list[dict[str, Any]]]:
        """Twice the epochs, and what `costs` says of the same request with these."""
        epochs = 2 * self.request.budget.epochs
        return epochs, replace(self.wanted, epochs=epochs).plan().costs()

    def run(self, progress: bool = True) -> Run:
        """Train what is missing. Trials that fail do not stop the others."""
        from wbcbench.scheduling.executors import carry_out
        from wbcbench.scheduling.resources import train_cells
        from wbcbench.scheduling.source import keep_titles

        def screens(trials: int) -> Any:
            from wbcbench.progress import displays  # only if something is left to do

            return displays(progress, self.request.root, train_cells(self.plan), self.wanted.trackers)(trials)

        outcomes, examinations = carry_out(
            self.plan,
            self.request,
            self.registry,
            self.wanted.plugins,
            screens,
            self.observers,
            self.wanted.evaluate,
            check_evaluate(self.wanted.evaluate, self.wanted.corruption, self.registry),
        )
        keep_titles(self.request, outcomes)
        return Run(outcomes, self.request.root, list(self.plan.notes), examinations)


@dataclass(repr=False)
class Run(Shown):
    """The outcomes of a plan's trials, in the plan's order: teachers first."""

    outcomes: list[Outcome]
    store: Path
    planning: list[str] = field(default_factory=list)
    """Notes from planning: resolved aliases, for example."""
    examinations: list[dict[str, Any]] = field(default_factory=list)
    """With `evaluate="full"`, for each student: results without modalities and on corrupted images, reliance."""

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
        """Trials that failed; `error` has the reason."""
        return [o for o in self.outcomes if o.status == "failed"]

    def frame(self) -> pd.DataFrame:
        """One row per trial: what it is, `status`, metrics as `test_macro_f1`, costs as `cost_params`.

        Rows of failed trials have no metrics.
        """
        import pandas as pd

        return pd.DataFrame([outcome_row(o) for o in self.outcomes])

    def summary(self) -> pd.DataFrame:
        """Method (with its policies), distiller, seed, test macro-F1, parameters, state."""
        return outcome_summary(self.frame())

    def levelled(self) -> list[tuple[str, Levelled]]:
        """Each student method, and whether its training had levelled off: all its seeds here together."""
        from wbcbench.evaluation.levelling import levelled

        methods: dict[str, list[Record]] = {}
        for record in self.records:
            methods.setdefault(record.result.method_id, []).append(record)
        return [
            (own[0].result.title, levelled([r.curve() for r in own], own[0].result.key.judged_by))
            for own in methods.values()
        ]

    def levelling(self) -> str:
        """The same as one line; empty if no student has a record."""
        verdicts: dict[str, list[str]] = {}
        for title, found in self.levelled():
            size = "" if found.change is None else f" ({found.change:+.3f} ± {found.error:.3f})"
            verdicts.setdefault(found.verdict, []).append(title + size)
        told = [
            f"{verdict}: {', '.join(names[:NAMED])}"
            + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
            for verdict, names in verdicts.items()
        ]
        return f"Had training levelled off (gain of its last half)? {'; '.join(told)}." if told else ""

    def notes(self) -> list[str]:
        """Notes from planning, whether training had levelled off, and the last line of each failure."""
        return [*self.planning, *filter(None, [self.levelling()]), *(f"Failed: {reason(o)}" for o in self.failed)]


def outcome_row(outcome: Outcome) -> dict[str, Any]:
    """A trial with its metrics and costs, as a row of `Run.frame`."""
    from wbcbench.records.frames import flat

    row = {"role": outcome.planned.role, "status": outcome.status}
    if outcome.record is not None:
        return row | flat(outcome.record)
    trial = outcome.planned.trial
    return row | {
        "method": trial.label, "kd": trial.method.kd, "seed": trial.seed, "fold": trial.fold, "trial_id": trial.id,
        "policies": "+".join(p.name for p in trial.method.policies),
    }  # fmt: skip


def outcome_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """The main columns of a frame of outcomes; `part` is kept if there is one."""
    from wbcbench.spec.trial import method_name

    if frame.empty:
        return frame
    policies = [p.split("+") if p else () for p in frame["policies"]]
    frame["method"] = [method_name(m, "none", p) for m, p in zip(frame["method"], policies, strict=True)]
    columns = ["role", "method", "kd", "seed", "test_macro_f1", "cost_params", "status", "trial_id"]
    frame = frame.reindex(columns=["part", *columns] if "part" in frame else columns)
    return frame.rename(columns={"test_macro_f1": "macro-F1", "cost_params": "params", "status": "state"})


def reason(outcome: Outcome) -> str:
    """The last line of a failure's message."""
    return (outcome.error.strip().splitlines() or ["no reason given"])[-1]


@guest()
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
    config: str | Path | None = None,
    set: Settings = (),
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
    track: str | Sequence[str] | None = None,
    evaluate: Evaluate = "standard",
    corruption: str | Sequence[str] = (),
    progress: bool = True,
    check: bool = True,
) -> Run:
    """Train teachers once, then students, and record each; what is already in the store is not run again.

    Several fusions, distillers, backbones and seeds make the cross product. Each is text (`"early,independent"`)
    or a list; a component with parameters is `"independent:rho=0.2"` or `{"name": "independent", "rho": 0.2}`.
    None: the value from `config` or a `WBCBENCH_*` variable, else the default.

    Args:
        fusion: fusion schemes; default: independent.
        kd: distillers (`"lskd+dkd"` combines two), or none, the default.
        dataset: default: synthetic.
        modalities: what the student reads; default: all of the data set.
        teacher_modalities: what teachers read; may be more than the student reads.
        routing: who teaches whom; default: matched.
        policy: training policies, all applied together.
        backbone: of the students: cellnet, the default, or any timm model; a mapping has one for each modality.
        max_macs, max_params: what a deployed student may have, `"5M"` or a number: its backbone is the widest that
            fits.
        max_latency_ms: the same for the time of one cell, measured here with one thread.
        teacher: backbone of the teachers; default: cellnet:width=32. `file:answers.npz`: a teacher from outside.
        epochs: passes over the training cells.
        seeds: one trial per seed; default: 0.
        folds: of a split with several divisions (`set={"split.scheme": "kfold"}`), those to run; default: all.
        image_size: side in pixels; default: the data set's own.
        device: auto, the default, cpu, cuda, cuda:1 or mps.
        store: folder of the records; default: wbcbench-store.
        executor: inline runs one trial after another in this process, ray several at a time; auto, the default,
            chooses whichever is faster.
        jobs: maximum number of concurrent trials.
        cpus_per_trial: cores of a trial, and its threads. Without it (and `threads`, see `set`), a trial in this
            process uses `torch.get_num_threads()` threads.
        gpus_per_trial: share of a GPU per trial: 0.25 runs four on one GPU.
        ray_address: `host:port` of a running Ray cluster, or auto.
        config: a YAML file; arguments override it.
        set: any parameter by its dotted name, `{"training.lr": 1e-3}`; overrides everything else.
        plugins_dir: folders of plugin files.
        no_plugins: True leaves out all third-party plugins; one or several names leave out those.
        track: trackers to log to as well: tensorboard, mlflow, wandb.
        evaluate: "full": also every subset of modalities, corruptions and reliance, in `examinations`.
        corruption: corruptions of the full evaluation beyond the standard ones, `"glare"` or `"glare:size=3"`.
        progress: show progress on stderr.
        check: raise if a trial failed; if False, failed trials are in `failed` of the result.

    Returns:
        The outcome of every trial, teachers first.

    Raises:
        UsageError: an unknown name, a value out of range, or an incompatible pair.
        TrialFailedError: trials failed; the others ran, and are in the store.
    """
    from wbcbench.errors import TrialFailedError

    wanted = RunRequest(
        fusion=fusion, kd=kd, dataset=dataset, modalities=modalities, teacher_modalities=teacher_modalities,
        routing=routing, policy=policy, backbone=backbone, max_macs=max_macs, max_params=max_params,
        max_latency_ms=max_latency_ms, teacher=teacher, epochs=epochs, seeds=seeds,
        folds=folds, image_size=image_size, device=device, store=store, executor=executor, jobs=jobs,
        cpus_per_trial=cpus_per_trial, gpus_per_trial=gpus_per_trial, ray_address=ray_address, config=config,
        settings=set, plugins=plugin_options(plugins_dir, no_plugins), track=track, evaluate=evaluate,
        corruption=corruption,
    )  # fmt: skip
    done = wanted.plan().run(progress)
    if check and done.failed:
        raise TrialFailedError(
            f"{len(done.failed)} of {len(done.outcomes)} trials failed; the others are in {done.store}. "
            f"The first, {done.failed[0].planned.trial.label}:\n{done.failed[0].error.rstrip()}\n"
            "run(..., check=False) returns the others."
        )
    return done


__all__ = ["PlannedRun", "Run", "RunRequest", "run"]
