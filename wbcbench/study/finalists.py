"""Methods that go on to another part of a study, with more seeds, say: the best of a part by validation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from statistics import mean

from pydantic import BaseModel, ConfigDict, Field

from wbcbench.errors import IncompatibleError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.scheduling.plan import Plan, PlannedTrial, make_plan
from wbcbench.spec import Component, Trial
from wbcbench.spec.request import Choice, Request


class Finalists(BaseModel):
    """`finalists:` of a part, which says which methods it takes; its own `fusion` and `kd` are not read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field(description="a part before this one, a run")
    count: int = Field(4, ge=0, description="the best so many methods of it: fusion with distillation")
    always: tuple[str, ...] = Field((), description="fusions whose best method goes on whatever its place")


def choose(plan: Plan, store: Store, wanted: Finalists) -> list[Trial] | int:
    """One trial of each finalist, best first; or, while some of the plan's students lack a record, how many do.

    A method's score is its mean macro-F1 on validation cells over its seeds: the test split is not read. Of equal
    scores the one with the smaller method id comes first.
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
    """A plan of exactly these methods with the request's own seeds, backbone, budget and data.

    Raises:
        IncompatibleError: with `incompatible: refuse`, a method that does not go with them; else, none does.
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
        raise IncompatibleError("Expected finalists to run, but none goes with this part. " + " ".join(refused))
    whole.notes += refused
    return whole


def _joined(a: Plan, b: Plan) -> Plan:
    """Teachers first, every trial once."""
    both = {p.trial.id: p for p in b.trials} | {p.trial.id: p for p in a.trials}
    roles: dict[str, list[PlannedTrial]] = {"teacher": [], "student": []}
    for planned in (*a.trials, *b.trials):
        if (one := both.pop(planned.trial.id, None)) is not None:
            roles[one.role].append(one)
    return replace(a, trials=[*roles["teacher"], *roles["student"]], notes=list(dict.fromkeys(a.notes + b.notes)))


def _choice(component: Component) -> Choice:
    return Choice(name=component.name, params=dict(component.params))


__all__ = ["Finalists", "choose", "plan_finalists"]
