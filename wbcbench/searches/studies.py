"""A study of several parts: its file, finalists that pass between parts, and running one part after another."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from wbcbench.errors import IncompatibleError, TrialFailedError, UsageError, did_you_mean
from wbcbench.records.activity import announced
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import PluginOptions
from wbcbench.scheduling.executors import execute
from wbcbench.scheduling.plan import Plan, PlannedTrial, make_plan
from wbcbench.scheduling.resources import estimate, train_cells
from wbcbench.scheduling.source import Outcome, PlanSource, Screens, all_cached, in_order, keep_titles
from wbcbench.searches.search import Search, prepare_searches, run_search
from wbcbench.searches.settings import SearchSettings, settings_from
from wbcbench.spec import ComponentSpec, Trial
from wbcbench.spec.load import SEARCH_SECTIONS, Settings, merged, read_yaml, request_from, validate
from wbcbench.spec.request import Choice, Request

if TYPE_CHECKING:
    from wbcbench.registry.loading import Observers
    from wbcbench.spec.request import Request


class Finalists(BaseModel):
    """`finalists:` of a part, which selects its methods; its `fusion` and `kd` are ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field(description="an earlier part, which is a run")
    count: int = Field(4, ge=0, description="number of its best methods (fusion with distillation) to take")
    always: tuple[str, ...] = Field((), description="fusions whose best method is always taken")


def choose(plan: Plan, store: Store, wanted: Finalists) -> list[Trial] | int:
    """One trial of each finalist, best first; or the number of the plan's students without a record, if any.

    A method's score is its mean macro-F1 on validation cells over its seeds; the test split is not read. If scores
    are equal, the smaller method id comes first.
    """
    students = [p.trial for p in plan.trials if p.role == "student"]
    missing = sum(not store.has(t.id) for t in students)
    if missing:
        return missing
    scores: dict[str, list[float]] = defaultdict(list)
    for trial in students:
        scores[trial.method_id()].append(store.load(trial.id).result.metrics["val"]["macro_f1"] or 0.0)
    one = {t.method_id(): t for t in students}
    order = sorted(scores, key=lambda m: (-mean(scores[m]), m))
    kept = order[: wanted.count]
    for fusion in wanted.always:
        best = next((m for m in order if one[m].method.fusion.name == fusion), None)
        if best is not None and best not in kept:
            kept.append(best)
    return [one[m] for m in kept]


def plan_finalists(request: Request, finalists: Iterable[Trial], registry: Registry) -> Plan:
    """A plan of exactly these methods with the request's seeds, backbone, budget and data.

    Raises:
        IncompatibleError: a method is not compatible with these and the request has `incompatible: refuse`, or no
            method is.
    """
    whole: Plan | None = None
    refused: list[str] = []
    for trial in finalists:
        kd = tuple(map(_choice, trial.method.distillers)) or (Choice(name="none"),)
        own = request.model_copy(update={"fusion": (_choice(trial.method.fusion),), "kd": (kd,)})
        try:
            plan = make_plan(own, registry)
        except IncompatibleError as error:
            if request.incompatible == "refuse":
                raise
            refused.append(str(error))
            continue
        whole = plan if whole is None else _joined(whole, plan)
    if whole is None:
        raise IncompatibleError("Expected finalists to run, but none fits this part. " + " ".join(refused))
    whole.notes += refused
    return whole


def _joined(a: Plan, b: Plan) -> Plan:
    """Both plans as one: teachers first, each trial once."""
    both = {p.trial.id: p for p in b.trials} | {p.trial.id: p for p in a.trials}
    roles: dict[str, list[PlannedTrial]] = {"teacher": [], "student": []}
    for planned in (*a.trials, *b.trials):
        if (one := both.pop(planned.trial.id, None)) is not None:
            roles[one.role].append(one)
    return replace(a, trials=[*roles["teacher"], *roles["student"]], notes=list(dict.fromkeys(a.notes + b.notes)))


def _choice(component: ComponentSpec) -> Choice:
    return Choice(name=component.name, params=dict(component.params))


@dataclass(frozen=True)
class Part:
    """One run or one search, as by `wbcbench run` or `wbcbench search` with a config file of this content."""

    name: str
    request: Request
    settings: SearchSettings | None = None
    """Of a search; None: a run."""
    ranges: dict[str, Any] = field(default_factory=dict)
    """Of a search: parameter -> range."""
    finalists: Finalists | None = None
    """Its methods are the best of another part."""
    source: Part | None = None
    """Of finalists: the part that they are from."""


def read_study(
    path: Path, flags: dict[str, Any] | None = None, settings: Settings = (), only: Sequence[str] = ()
) -> list[Part]:
    """The parts of a study file, in order.

    Its keys are `common`, with the keys of any config file, and `parts`, name -> the same keys: mappings are
    merged with those of `common`, other values replace them. A part with `search:` (and `space:`) is a search; one
    with `finalists:` takes its methods from an earlier part.

    Args:
        path: the file.
        flags: key of the request -> value, for every part; takes precedence over the file.
        settings: any key, for every part; takes precedence over both.
        only: names of the requested parts; empty: all.

    Raises:
        UsageError: an unknown key or part; the message names it and its place.
    """
    document = read_yaml(path)
    if unknown := sorted(set(map(str, document)) - {"common", "parts"}):
        raise UsageError(
            f"{path}: '{unknown[0]}' is not a key of a study file.{did_you_mean(unknown[0], ('common', 'parts'))} "
            "Expected: common, parts. A single run is `wbcbench run --config`."
        )
    common, parts = document.get("common") or {}, document.get("parts") or {}
    own_words = parts.items() if isinstance(parts, dict) else ()
    for key, section in (("common", common), ("parts", parts), *((f"parts.{n}", p or {}) for n, p in own_words)):
        if not isinstance(section, dict):
            raise UsageError(f"{path}: expected key: value pairs in '{key}', but got {section!r}.")
    if not parts:
        raise UsageError(f"{path}: expected `parts`, a mapping of names to settings, but there is none.")
    if missing := [name for name in only if name not in parts]:
        raise UsageError(
            f"{path} has no part '{missing[0]}'.{did_you_mean(missing[0], parts)} It has: {', '.join(parts)}."
        )
    found: dict[str, Part] = {}
    for name, own in parts.items():
        tree = _over(common, own or {})
        found[str(name)] = _part(str(name), tree, flags or {}, settings, f"{path}: {name}", found)
    return [part for name, part in found.items() if not only or name in only]


def _over(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A part's document. A different data set or backbone does not inherit the parameters of the common one."""
    both = merged(deepcopy(common), deepcopy(own))
    for path in (("dataset",), ("backbone",), ("teacher", "backbone")):
        shared, mine = _at(common, path), _at(own, path)
        if mine is not None:
            first, second = (c if isinstance(c, dict) else {"name": c} for c in (shared, mine))
            same = second.get("name") in (None, first.get("name"))
            _at(both, path[:-1])[path[-1]] = deepcopy(merged(first, second) if same else mine)
    return both


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _part(
    name: str,
    tree: dict[str, Any],
    flags: dict[str, Any],
    settings: Settings,
    where: str,
    before: dict[str, Part],
) -> Part:
    search: SearchSettings | None = None
    ranges: dict[str, Any] = {}
    finalists = source = None
    if (words := tree.pop("finalists", None)) is not None:
        if not isinstance(words, dict):
            raise UsageError(f"{where}: expected key: value pairs in 'finalists', but got {words!r}.")
        finalists = validate(Finalists, words, f"{where}: finalists")
        runs = [n for n, p in before.items() if p.settings is None and p.finalists is None]
        if finalists.of not in runs or tree.get("search") is not None:
            raise UsageError(
                f"{where}: expected `finalists` with an earlier run in `of`, and no `search`; got "
                f"'{finalists.of}'.{did_you_mean(finalists.of, runs)} There are: {', '.join(runs) or 'none'}."
            )
        source = before[finalists.of]
    if tree.get("search") is not None:
        search, ranges = settings_from(tree, {}, (), where)
    elif tree.get("space") is not None:
        raise UsageError(f"{where}: expected `search:` together with `space:`. Add it, or remove `space:`.")
    return Part(name, request_from(tree, flags, settings, where=where), search, ranges, finalists, source)


log = logging.getLogger("wbcbench")


@dataclass(frozen=True)
class Planned:
    """A part with its trials, or with its searches."""

    part: Part
    plan: Plan | None
    searches: tuple[Search, ...] = ()
    waits: int = 0
    """Of finalists: the number of missing trials in the part that they are from."""


@dataclass(frozen=True)
class Costs:
    """The cost of a part. Trials shared by several parts are counted in each."""

    trials: int
    done: int
    seconds: float | None
    """Of the remaining training, estimated from earlier runs in the store; None if there are none."""
    unknown: int
    """Number of trials to run without an estimate."""
    waits: int = 0
    """See `Planned`. Until these are done, the part's trials are unknown."""


@dataclass
class Done:
    """The result of a part."""

    part: Part
    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Why searches ended early or finalists could not be chosen."""
    examinations: list[dict[str, Any]] = field(default_factory=list)
    """Results of the full evaluation of the networks, if requested."""

    @property
    def failed(self) -> list[Outcome]:
        """Trials that failed."""
        return [o for o in self.outcomes if o.status == "failed"]


def plan_part(part: Part, registry: Registry) -> Planned:
    """Resolve a part. Raises as `make_plan` and `prepare_searches` do."""
    if part.finalists is not None:
        assert part.source is not None
        chosen = choose(make_plan(part.source.request, registry), Store(part.source.request.root), part.finalists)
        if isinstance(chosen, int):
            return Planned(part, None, waits=chosen)
        return Planned(part, plan_finalists(part.request, chosen, registry))
    if part.settings is None:
        return Planned(part, make_plan(part.request, registry))
    return Planned(part, None, tuple(prepare_searches(part.request, registry, part.settings, part.ranges)))


def costs(planned: Planned) -> Costs:
    """Number of trials and of finished ones, and the estimated time for the rest; of a search, its proposals."""
    store = Store(planned.part.request.root)
    if planned.waits:
        rows, proposals, asked = [], 0, 0
    elif planned.plan is None:
        rows = [row for s in planned.searches for row in estimate(s.base, store) if row["role"] == "teacher"]
        assert planned.part.settings is not None
        proposals = planned.part.settings.trials * len(planned.searches)
        asked = sum(min(len(s.folder.proposals()), s.settings.trials) for s in planned.searches)
    else:
        rows, proposals, asked = estimate(planned.plan, store), 0, 0
    left = [row["estimated_seconds"] for row in rows if not row["done"]]
    known = [s for s in left if s is not None]
    return Costs(
        trials=len(rows) + proposals,
        done=len(rows) - len(left) + asked,
        seconds=sum(known) if known else None,
        unknown=len(left) - len(known) + proposals - asked,
        waits=planned.waits,
    )


def run_part(
    planned: Planned,
    registry: Registry,
    plugins: PluginOptions,
    observers: Observers,
    screens: Callable[[int | None], Screens],
    full: bool = False,
    corruptions: Sequence[str] = (),
) -> Done:
    """Run the missing trials of a part. A trial that fails does not stop the others.

    Args:
        planned: from `plan_part`.
        registry: the one used for planning.
        plugins: options it was made with.
        observers: are notified of trials.
        screens: number of training cells -> displays.
        full: also run the full evaluation of the students; for a search, of the retrained ones.
        corruptions: of the full evaluation, beyond the standard ones.
    """
    part = planned.part
    if planned.waits:  # the part that it waited for has run by now
        planned = plan_part(part, registry)
    done = Done(part)
    if planned.waits:
        assert part.source is not None
        done.failures.append(
            f"{planned.waits} trials of '{part.source.name}', which it takes its methods from, are missing"
        )
    if planned.plan is not None:
        plan, request = planned.plan, part.request
        outcomes = all_cached(plan, Store(request.root))
        if outcomes is None:
            with screens(train_cells(plan))(len(plan.trials)) as display:
                source = PlanSource(plan.trials)
                with announced(Store(request.root), [p.trial.id for p in plan.trials]):
                    ended = execute(request, plan, registry, plugins, source, display, observers)
                outcomes = in_order(plan, ended)
        done.outcomes = outcomes
        if full:
            _examine(done, outcomes, plan, request, registry, corruptions)
    for search in planned.searches:
        try:
            found = run_search(search, screens(train_cells(search.base)), observers, plugins)
        except TrialFailedError as error:  # the searches of the other methods must still run
            done.failures.append(f"{search.spec.title}: {error}")
            continue
        done.outcomes += found.retrained
        if full:
            _examine(done, found.retrained, search.base, search.request, registry, corruptions)
    keep_titles(part.request, done.outcomes)
    return done


def _examine(
    done: Done,
    outcomes: list[Outcome],
    plan: Plan,
    request: Request,
    registry: Registry,
    corruptions: Sequence[str],
) -> None:
    from wbcbench.scheduling.executors import examine_students

    try:
        done.examinations += examine_students(outcomes, plan, request, registry, corruptions=corruptions)
    except Exception as error:  # trained networks are kept, and the other parts must still be trained
        log.debug("full evaluation of part %s failed", done.part.name, exc_info=True)
        done.failures.append(f"The full evaluation of its networks failed: {error}")


__all__ = [
    "SEARCH_SECTIONS",
    "Costs",
    "Done",
    "Finalists",
    "Part",
    "Planned",
    "choose",
    "costs",
    "plan_finalists",
    "plan_part",
    "read_study",
    "run_part",
]
