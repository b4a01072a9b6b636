"""Is a teacher worth it? What is said of each before its students begin, on validation cells only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from wbcbench.errors import RecordError
from wbcbench.files import DOCUMENTS
from wbcbench.records.schema import RESULT, ComparisonKey, OutsideTeacher
from wbcbench.records.store import Record, Store
from wbcbench.scheduling.plan import Plan
from wbcbench.scheduling.resources import ENOUGH
from wbcbench.scheduling.source import Outcome, PlanSource
from wbcbench.spec import Budget

Say = Callable[[str], None]


class TeacherReports(PlanSource):
    """A plan's trials; says of every teacher that has ended how it does against untaught students of the store."""

    def __init__(self, plan: Plan, store: Store, say: Say) -> None:
        super().__init__(plan.trials)
        self._store, self._say = store, say
        self._teachers = {p.trial.method_id() for p in plan.trials if p.role == "teacher"}
        self._budget = next((p.trial.protocol.budget for p in plan.trials if p.role == "student"), Budget())
        self._untaught: dict[str, Record] | None = None

    def ended(self, outcome: Outcome) -> None:
        """Trials that need this one may start."""
        super().ended(outcome)
        record = outcome.record
        if record is None or record.trial.sealed:
            return
        if outcome.planned.role == "teacher":
            self._say(self._sentence(record))
        elif self._untaught is not None and record.result.kd == "none":
            self._untaught[record.trial.id] = record

    def _sentence(self, record: Record) -> str:
        mine = record.result.metrics["val"]
        told = f"Teacher {_named(record)}: {_scores(mine)}. "
        rival = self._best(record)
        if rival is None:
            return told + (
                "The store has no untaught student of these cells that reads no more; --kd none trains one, to "
                "tell whether this teacher is worth it."
            )
        theirs = rival.result.metrics["val"]["macro_f1"] or 0.0
        told += f"Best untaught student that reads no more: {_named(rival)}: {theirs:.3f}"
        same = agreement(record, rival)
        told += f", which predicts the same for {same:.0%}." if same is not None else "."
        return told + ("" if (mine["macro_f1"] or 0.0) > theirs else " The teacher is not better.")

    def _best(self, teacher: Record) -> Record | None:
        """The untaught student with the best validation macro-F1; of the teacher's seed, if there is one."""
        if self._untaught is None:
            key = teacher.result.key.model_copy(update={"budget": self._budget})
            self._untaught = {r.trial.id: r for r in untaught(self._store, key)}
        found = [
            r
            for r in self._untaught.values()
            if set(r.trial.reads) <= set(teacher.trial.reads)
            and r.trial.fold == teacher.trial.fold
            and r.result.method_id not in self._teachers
        ]
        paired = [r for r in found if r.trial.seed == teacher.trial.seed]
        return max(paired or found, key=lambda r: r.result.metrics["val"]["macro_f1"] or 0.0, default=None)


def untaught(store: Store, key: ComparisonKey) -> list[Record]:
    """Records without distillation whose key differs from this one at most in the modalities; of a large store, a
    sample."""
    wanted = _without_modalities(key.model_dump(mode="json"))
    found = []
    for folder in islice(store.folders(), ENOUGH):
        try:
            document = json.loads((folder / RESULT).read_bytes())
            alone = document["kd"] == "none" and document["status"] == "done"
            if alone and _without_modalities(document["key"]) == wanted:
                found.append(store.load(folder.name, verify=False))
        except (OSError, RecordError, *DOCUMENTS, KeyError, TypeError, AttributeError):
            continue  # a damaged record is reported where it is read for a table
    return found


def _without_modalities(key: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in key.items() if k != "modalities"}


def agreement(one: Record, other: Record) -> float | None:
    """The share of validation cells for which both predict the same class; None: they have other cells."""
    a, b = one.predictions, other.predictions
    if a["val_cells"].tolist() != b["val_cells"].tolist():
        return None
    return float((a["val_probabilities"].argmax(1) == b["val_probabilities"].argmax(1)).mean())


def outside_sentence(teacher: OutsideTeacher) -> str:
    """The same of a teacher from outside."""
    scores = _scores(teacher.metrics["val"]) if "val" in teacher.metrics else "no answers for validation cells"
    seen = "not stated" if teacher.trained_on is None else f"{teacher.trained_on['val']}"
    return f"Teacher {teacher.name}, from outside: {scores}; validation cells that it was trained on: {seen}."


def _named(record: Record) -> str:
    trial = record.trial
    return f"{trial.title} ({trial.method.backbone_name}, {record.result.cost.params:,} parameters), {trial.draw}"


def _scores(summary: Mapping[str, float | None]) -> str:
    f1, error = summary["macro_f1"], summary["ece"]
    return f"validation macro-F1 {f1 or 0.0:.3f}, calibration error {error or 0.0:.3f}"


__all__ = ["Say", "TeacherReports", "agreement", "outside_sentence", "untaught"]
