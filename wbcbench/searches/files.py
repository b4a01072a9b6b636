"""What a study keeps in the store: what was proposed and what was stopped early. Scores are in the records.

    <store>/searches/<study>/spec.json            what is searched, how, from which seed
    <store>/searches/<study>/proposals/00007.json parameters and the trial that they make
    <store>/searches/<study>/pruned/<trial>.json  stopped early: up to which epoch, and its history until then
    <store>/searches/<study>/winner.json          which proposals were retrained, and after what budget

A mark of pruning belongs to its study: another study may well train the same trial to its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from wbcbench.errors import RecordError, UsageError, did_you_mean
from wbcbench.files import DOCUMENTS, atomic_write_json
from wbcbench.records.evaluations import checksummed, read_checksummed
from wbcbench.records.store import Store
from wbcbench.searches.settings import Objective, PrunerName, SamplerName
from wbcbench.searches.space import Dimension
from wbcbench.spec import digest
from wbcbench.spec.trial import Frozen


class StudySpec(Frozen):
    """What a study is. Equal ones are the same study; how many trials it gets is no part of it."""

    methods: tuple[str, ...]
    """Ids of the sealed trials with nothing but defaults, one per combination of methods: protocol, content
    of the data, teachers and every default are in there."""
    dimensions: tuple[Dimension, ...]
    objective: Objective
    sampler: SamplerName
    pruner: PrunerName
    seed: int
    epochs: int
    title: str = ""
    """For people: `independent, kd dkd`."""
    request: dict[str, Any] = {}
    """The base request, for people."""
    versions: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """12 hex digits; no part of them is what is there for people only."""
        return digest(self.model_dump(mode="json", exclude={"title", "request", "versions"}), length=12)


class Proposal(Frozen):
    """Parameters that the sampler asked for."""

    number: int
    params: dict[str, Any]
    """Dimension -> value, without fixed ones."""
    trial_id: str = Field("", pattern="^([0-9a-f]{16})?$")
    """Of the sealed trial; empty if these parameters cannot be planned."""
    error: str = ""


class PrunedMark(Frozen):
    """A trial that the study stopped early. It has no record and no rank."""

    trial_id: str
    epoch: int
    """The last epoch that was trained, from 0."""
    history: tuple[dict[str, float], ...]
    seconds: float


class SearchBudget(Frozen):
    """What was spent before a winner was chosen."""

    study: str
    trials: int
    complete: int
    pruned: int
    failed: int
    train_seconds: float
    objective: str
    sampler: str


class Winner(Frozen):
    """A proposal that was retrained with fresh seeds, unsealed."""

    number: int
    proposal: str
    """Id of the sealed trial."""
    params: dict[str, Any]
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    trial_ids: tuple[str, ...]
    budget: SearchBudget


class Winners(Frozen):
    """Every winner that a study has had; a study that goes on may find a better one."""

    winners: tuple[Winner, ...] = ()


ADVICE = "Restore the file, or delete the study's folder: records stay and are used again."
M = TypeVar("M", bound=Frozen)


class StudyFolder:
    """Reads and writes one study's files. Making one touches nothing on disk."""

    def __init__(self, store: Store, study_id: str) -> None:
        self.id = study_id
        self.path = store.root / "searches" / study_id

    def spec(self) -> StudySpec:
        """Raises `RecordError` if it is missing or damaged."""
        return _read(StudySpec, self.path / "spec.json")

    def open(self, spec: StudySpec) -> None:
        """Begin the study, or go on with it. Raises `UsageError` if the folder holds another study."""
        if not (self.path / "spec.json").is_file():
            _write(self.path / "spec.json", spec)
            return
        there = self.spec()
        if there.digest != spec.digest:
            mine, theirs = spec.model_dump(mode="json"), there.model_dump(mode="json")
            parts = [k for k in mine if mine[k] != theirs[k] and k not in ("title", "request", "versions")]
            raise UsageError(
                f"Search '{self.id}' in this store differs in: {', '.join(parts)}. Give this one another --name, "
                "or none."
            )

    def proposals(self) -> list[Proposal]:
        """All of them, by number. Raises `RecordError` if one is missing or damaged."""
        paths = sorted(p for p in (self.path / "proposals").glob("*.json") if p.stem.isdecimal())
        found = [_read(Proposal, path) for path in paths]
        for expected, proposal in enumerate(found):
            if proposal.number != expected:
                raise RecordError(
                    f"Expected proposals 0 to {len(found) - 1} in {self.path / 'proposals'}, but number "
                    f"{expected} is missing. Delete those after it; their records are kept and will be used again."
                )
        return found

    def propose(self, proposal: Proposal) -> None:
        """Keep a proposal, before anything is spent on it."""
        _write(self.proposal_path(proposal.number), proposal)

    def proposal_path(self, number: int) -> Path:
        """Where a proposal is, or would be."""
        return self.path / "proposals" / f"{number:05d}.json"

    def prune(self, trial_id: str, epoch: int, history: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Mark a trial as stopped early."""
        rows = tuple({k: float(v) for k, v in row.items() if _finite(v)} for row in history)
        mark = PrunedMark(trial_id=trial_id, epoch=epoch, history=rows, seconds=seconds)
        _write(self.path / "pruned" / f"{trial_id}.json", mark)

    def pruned(self, trial_id: str) -> PrunedMark | None:
        """The mark of a trial, if this study stopped it."""
        path = self.path / "pruned" / f"{trial_id}.json"
        return _read(PrunedMark, path) if path.is_file() else None

    def check(self) -> None:
        """Read every file of the study. Raises `RecordError` for the first that is missing or damaged."""
        self.spec()
        self.proposals()
        self.winners()
        for path in sorted((self.path / "pruned").glob("*.json")):
            _read(PrunedMark, path)

    def winners(self) -> tuple[Winner, ...]:
        """Every winner so far, the latest last."""
        path = self.path / "winner.json"
        return _read(Winners, path).winners if path.is_file() else ()

    def add_winners(self, winners: Sequence[Winner]) -> None:
        """Keep the winners of a search; those of a shorter one stay, with the budget that found them."""
        added = {w.trial_ids for w in winners}
        kept = [w for w in self.winners() if w.trial_ids not in added]
        _write(self.path / "winner.json", Winners(winners=(*kept, *winners)))


def studies(store: Store) -> list[StudyFolder]:
    """Every study in the store, by id; also one that has lost its `spec.json`."""
    found = {p.parent.name for what in ("spec.json", "proposals") for p in store.root.glob(f"searches/*/{what}")}
    return [StudyFolder(store, name) for name in sorted(found)]


def find_study(store: Store, name: str | None) -> StudyFolder:
    """The study of that id, or the only one. Raises `UsageError`."""
    found = {s.id: s for s in studies(store)}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is None or name not in found:
        there = f"There are: {', '.join(found)}." if found else "There is none; `wbcbench search` makes one."
        what = "Expected the name of a study" if name is None else f"No study is called '{name}'."
        near = did_you_mean(name, found) if name else "."
        raise UsageError(f"{what}{near} {there}")
    return found[name]


def search_budgets(store: Store) -> dict[str, SearchBudget]:
    """Trial id of every retrained winner -> what its search had spent; the costliest, if several found it."""
    budgets: dict[str, SearchBudget] = {}
    for study in studies(store):
        for winner in study.winners():
            for trial_id in winner.trial_ids:
                known = budgets.get(trial_id)
                if known is None or known.trials < winner.budget.trials:
                    budgets[trial_id] = winner.budget
    return budgets


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _read(model: type[M], path: Path) -> M:
    try:
        return model.model_validate(read_checksummed(path).content)
    except RecordError as error:
        raise RecordError(f"{error} {ADVICE}") from error
    except DOCUMENTS as error:
        reason = str(error).splitlines()[0]
        raise RecordError(
            f"Expected a {model.__name__} in {path}, but it is damaged ({reason}). {ADVICE}"
        ) from error


def _write(path: Path, model: Frozen) -> None:
    atomic_write_json(path, checksummed(model.model_dump(mode="json")))


__all__ = [
    "ADVICE", "Proposal", "PrunedMark", "SearchBudget", "StudyFolder", "StudySpec", "Winner", "find_study",
    "search_budgets", "studies",
]  # fmt: skip
