"""Train some seeds of a pack again, with their teachers, on local cells, and compare.

The spec is untrusted: all parameters are validated by the components' own types first, the data set opens only
what the user specifies, and the pack's weights are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from wbcbench.contracts import Dataset, Description
from wbcbench.contracts.params import DIGEST_KEY, identity
from wbcbench.data.answers import read_answers
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.publishing.copies import named
from wbcbench.publishing.cross_checks import predictions_digest, unlike_teachers
from wbcbench.publishing.reproduction import TOLERANCE, Run, by_method, compare
from wbcbench.publishing.verdict import Judge, Problem
from wbcbench.records.store import Record, Store
from wbcbench.records.verify import read_predictions, read_result
from wbcbench.registry import Registry
from wbcbench.registry.loading import Observers
from wbcbench.scheduling.compatibility import (
    check_arity,
    check_fit,
    check_live,
    check_policies,
    check_routing_reads,
    declared,
    in_order,
)
from wbcbench.scheduling.plan import Plan, PlannedTrial
from wbcbench.scheduling.source import Display, PlanSource
from wbcbench.spec import ComponentSpec, Trial, canonical_json
from wbcbench.spec.load import load_request, merged, validate
from wbcbench.spec.request import FILE, Request
from wbcbench.spec.trial import IMPUTE, chosen_imputer, each_of
from wbcbench.spec.weights import BALANCED

_METRIC = "macro_f1"


def choose(
    records: Sequence[Record],
    submitted: Sequence[str],
    wanted: Sequence[str] = (),
    every: bool = False,
    random: Random | None = None,
) -> list[Record]:
    """The submitted records to train again: those whose ids begin with `wanted`, or all, or one seed of each
    method, drawn after the submission.

    Args:
        records: of the pack.
        submitted: ids of the submitted trials.
        wanted: beginnings of ids.
        every: all of them.
        random: by default the system's, which no author of a pack can predict.

    Raises:
        UsageError: none, or more than one, begins with an item of `wanted`.
    """
    own = sorted((r for r in records if r.trial.id in submitted), key=lambda r: r.trial.id)
    chosen: dict[str, Record] = {}
    for start in wanted:
        found = [r for r in own if r.trial.id.startswith(start)]
        if len(found) != 1:
            raise UsageError(
                f"Expected --trial as the start of one submitted trial's id, but got {start!r}. "
                f"Submitted: {', '.join(submitted)}."
            )
        chosen[found[0].trial.id] = found[0]
    if wanted or every:
        return list(chosen.values()) or own
    drawn = random or SystemRandom()
    return [drawn.choice(seeds) for seeds in by_method(own).values()]


def chain(trial: Trial) -> list[PlannedTrial]:
    """The trial and its teachers, recursively; each once, teachers first."""
    ordered: dict[str, PlannedTrial] = {}

    def add(one: Trial) -> None:
        for teacher in one.method.teachers:
            add(teacher)
        ordered.setdefault(one.id, PlannedTrial(one, "student" if one is trial else "teacher"))

    add(trial)
    return list(ordered.values())


def rerun(
    chosen: Sequence[Record],
    pack: Sequence[Record],
    judge: Judge,
    registry: Registry,
    display: Display,
    *,
    store: Path,
    board: Sequence[Record] = (),
    by: str = _METRIC,
    sets: tuple[str, ...] = (),
    tolerance: float = TOLERANCE,
    device: str = "auto",
) -> None:
    """Train the chosen records' trials again in an empty store, and check the difference.

    Args:
        chosen: records of the pack, already checked.
        pack: all submitted records of the pack, whose seeds show how much scores vary.
        judge: gets the check `rerun`, and what was reproduced.
        registry: provides the components.
        display: of progress.
        store: an empty folder for the records of the rerun.
        board: trusted records: the next row of a board limits the tolerance.
        by: the metric that ranks.
        sets: the path of the data, as in `--set dataset.path=cells.npz`.
        tolerance: the largest one; see `allowed`.
        device: as in `wbcbench run --device`.

    Raises:
        UsageError: the data or a component are not available here, which is not a fault of the pack.
    """
    for method, records in by_method(chosen).items():
        runs: list[Run] = []
        for record in records:
            if (run := _again(record, judge, registry, display, store, sets, device)) is not None:
                runs.append(run)
        seeds = by_method(pack)[method]
        others = [r for r in board if r.result.key == seeds[0].result.key and r.result.method_id != method]
        where = runs[0].name if runs else method
        judge.run("rerun", where, partial(compare, runs, seeds, others, by, tolerance, judge))


def _again(
    record: Record,
    judge: Judge,
    registry: Registry,
    display: Display,
    store: Path,
    sets: tuple[str, ...],
    device: str,
) -> Run | None:
    """Train one trial again. None: its specification was refused."""
    trial = record.trial
    request = load_request(None, {"store": str(store), "device": device}, sets)
    dataset, description, problems = dataset_of(trial, request, registry)
    if not problems and description is not None:
        problems = [("refuse", fault) for fault in unlike_teachers(trial)]
        problems += [p for planned in chain(trial) for p in misfits(planned.trial, description, registry)]
    if problems or dataset is None or description is None:
        judge.run("rerun", named(record), lambda: problems)
        return None
    answers = _answers(trial, request, description)
    plan = Plan(chain(trial), dataset, description, answers=answers)
    again, error = _train(plan, request, registry, display, record)
    for teacher in chain(trial)[:-1]:
        _note_teacher(record.path.parent / teacher.trial.id, Store(request.root), judge)
    return Run(record, again, error)


def _note_teacher(folder: Path, store: Store, judge: Judge) -> None:
    """A teacher of the pack was reproduced too, if its predictions are equal; if not, its student shows it."""
    if folder.is_dir() and store.has(folder.name):
        digests = {predictions_digest(read_predictions(f)) for f in (folder, store.record_path(folder.name))}
        if len(digests) == 1:
            judge.reproduced[folder.name] = read_result(folder).digest


def _answers(trial: Trial, request: Request, description: Description) -> dict[str, Path]:
    """The files of the teachers from outside, by digest, among those that the user gave.

    Raises:
        UsageError: one is not there; a pack never contains them.
    """
    choices = [c for b in request.teacher.backbone for c in each_of(b) if c.name == FILE]
    files = [read_answers(Path(str(c.params.get("path", ""))), description.classes) for c in choices]
    there = {file.digest: file.path for file in files}
    wanted = {t.digest: t for planned in chain(trial) for t in planned.trial.method.outside}
    for digest, teacher in wanted.items():
        if digest not in there:
            raise UsageError(
                f"{trial.title} was taught by answers from outside, '{teacher.name}', which no pack contains: "
                f"expected the file of SHA-256 {digest[:12]}. Ask its author for it, and give it with "
                f"--set teacher={FILE}:PATH"
            )
    return {digest: there[digest] for digest in wanted}


def dataset_of(
    trial: Trial, request: Request, registry: Registry
) -> tuple[Dataset | None, Description | None, list[Problem]]:
    """The trial's data set at the user's path, its description, and problems of its spec."""
    spec = trial.protocol.dataset
    extra = set(request.overrides) - {"dataset"}
    if extra:
        raise UsageError(
            f"Expected --set with dataset.* only, since --rerun trains the pack's trial, but got {min(extra)}.*."
        )
    cls: Any = registry.load(registry.resolve("dataset", spec.name).component)
    given = merged(spec.params, request.overrides.get("dataset", {}))
    dataset: Dataset = cls(validate(cls.Params, given, f"dataset {spec.name}"))
    if canonical_json(dataset.public_params()) != canonical_json(spec.params):
        public = canonical_json(dataset.public_params())
        if canonical_json(merged(spec.params, dataset.public_params())) != public:
            return None, None, [("refuse", "spec.json contains a path of the data, which trials never do")]
        raise UsageError("--set would change the trial: for --rerun, set only paths of the data.")
    description = dataset.describe()
    if description.fingerprint != trial.protocol.fingerprint:
        raise UsageError(
            f"Expected the cells that the pack was made from (fingerprint {trial.protocol.fingerprint[:12]}), "
            f"but got cells with {description.fingerprint[:12]}. Give their path with --set dataset.path=..."
        )
    return dataset, description, []


def misfits(trial: Trial, description: Description, registry: Registry) -> Iterator[Problem]:
    """Problems for which the planner would have refused the trial."""
    m, protocol = trial.method, trial.protocol
    parts = [("fusion", m.fusion), *(("backbone", b) for b in m.backbones.values())]
    parts += [("policy", p) for p in m.policies] + [("distiller", d) for d in m.distillers]
    parts += [("routing", m.routing)] if m.routing else []
    for kind, spec in parts:
        yield from _component(kind, spec, registry)
    unknown = set(protocol.modalities) - set(description.modalities)
    if unknown:
        yield "refuse", f"reads {', '.join(sorted(unknown))}, which the data set does not have"
    try:
        check_arity(registry, m.fusion, protocol.modalities)
        check_fit(registry, m.fusion, m.backbone, m.distillers, description, protocol, m.recipe)
        check_policies(registry, m.fusion, m.policies, m.distillers, protocol, description)
        check_live(registry, trial)
        check_routing_reads(registry, trial)
    except IncompatibleError as error:
        yield "refuse", f"cannot have been planned: {error}"
    if in_order(registry, m.policies) != m.policies:
        yield "refuse", "has its policies in an order that the planner does not produce"


def _component(kind: str, spec: ComponentSpec, registry: Registry) -> Iterator[Problem]:
    component = declared(registry, kind, spec)
    given, words = dict(spec.params), dict[str, str]()
    try:
        if kind == "fusion" and IMPUTE not in component.params.model_fields:
            words = chosen_imputer(given, spec.name, component.fusion_traits.missing)
        if kind == "distiller" and given.get("weight") == BALANCED:
            words = {"weight": given.pop("weight")}
        params = validate(component.params, given, f"{kind} {spec.name}")
    except UsageError as error:
        yield "refuse", str(error)
        return
    # As written by the planner: a parameter that was added later is omitted while it has its default.
    if canonical_json(identity(params) | words) != canonical_json(spec.params):
        yield "refuse", f"{kind} {spec.name} has parameters that are not in the form that wbcbench writes"
    for name, field in component.params.model_fields.items():
        extra = field.json_schema_extra
        source = extra.get(DIGEST_KEY) if isinstance(extra, dict) else None
        # Either is refused: a path without a digest would open any file at that path on this machine.
        if source and (getattr(params, name) or getattr(params, str(source))):
            yield "refuse", f"{kind} {spec.name} reads a file of the original machine: it cannot be trained again"


def _train(
    plan: Plan, request: Request, registry: Registry, display: Display, record: Record
) -> tuple[Record | None, str]:
    from wbcbench.scheduling.inline import InlineExecutor, prepare

    # The same number of threads as originally, since sums over threads depend on it bitwise.
    request = request.model_copy(update={"threads": record.result.cost.threads or request.threads})
    bench = prepare(plan, request, registry)
    outcomes = InlineExecutor(bench).run(PlanSource(plan.trials), display, Observers())
    failed = [o.error for o in outcomes if o.status == "failed"]
    return (None, failed[0]) if failed else (outcomes[-1].record, "")


__all__ = ["chain", "choose", "dataset_of", "misfits", "rerun"]
