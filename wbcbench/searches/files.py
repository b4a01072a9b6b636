"""The files of a study in the store: proposals and pruned trials. Scores are in the records.

    <store>/searches/<study>/spec.json            space, objective, sampler, pruner, seed
    <store>/searches/<study>/proposals/00007.json parameters and the resulting trial
    <store>/searches/<study>/pruned/<trial>.json  a pruned trial: its last epoch, and its history until then
    <store>/searches/<study>/winner.json          retrained proposals, and the budget spent to find them

A pruned mark belongs to one study: another study may train the same trial to its end.
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
    """The identity of a study. Equal specs are the same study; the number of trials is not part of it."""

    methods: tuple[str, ...]
    """Ids of the sealed trials with default parameters, one per combination of methods. They depend on protocol,
    content of the data, teachers and all defaults."""
    dimensions: tuple[Dimension, ...]
    objective: Objective
    sampler: SamplerName
    pruner: PrunerName
    seed: int
    epochs: int
    title: str = ""
    """For display: `independent, kd dkd`."""
    request: dict[str, Any] = {}
    """The base request, for display."""
    versions: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """12 hex digits, not over the fields for display and the versions."""
        return digest(self.model_dump(mode="json", exclude={"title", "request", "versions"}), length=12)


class Proposal(Frozen):
    """Parameters from the sampler."""

    number: int
    params: dict[str, Any]
    """Dimension -> value, without fixed ones."""
    trial_id: str = Field("", pattern="^([0-9a-f]{16})?$")
    """Of the sealed trial; empty if the parameters are not compatible."""
    error: str = ""


class PrunedMark(Frozen):
    """A pruned trial. It has no record and no rank."""

    trial_id: str
    epoch: int
    """The last epoch that was trained, counted from 0."""
    history: tuple[dict[str, float], ...]
    seconds: float


class SearchBudget(Frozen):
    """The budget that was spent before a winner was chosen."""

    study: str
    trials: int
    complete: int
    pruned: int
    failed: int
    train_seconds: float
    objective: str
    sampler: str


class Winner(Frozen):
    """A proposal that was retrained with new seeds, unsealed."""

    number: int
    proposal: str
    """Id of the sealed trial."""
    params: dict[str, Any]
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    trial_ids: tuple[str, ...]
    budget: SearchBudget


class Winners(Frozen):
    """All winners of a study so far; a resumed study may find a better one."""

    winners: tuple[Winner, ...] = ()


ADVICE = "Restore the file, or delete the study's folder: its records are kept and reused."
M = TypeVar("M", bound=Frozen)


class StudyFolder:
    """Reads and writes one study's files. Creating one does not access the disk."""

    def __init__(self, store: Store, study_id: str) -> None:
        self.id = study_id
        self.path = store.root / "searches" / study_id

    def spec(self) -> StudySpec:
        """The study's spec. Raises `RecordError` if it is missing or damaged."""
        return _read(StudySpec, self.path / "spec.json")

    def open(self, spec: StudySpec) -> None:
        """Create the study, or resume it. Raises `UsageError` if the folder contains a different study."""
        if not (self.path / "spec.json").is_file():
            _write(self.path / "spec.json", spec)
            return
        there = self.spec()
        if there.digest != spec.digest:
            mine, theirs = spec.model_dump(mode="json"), there.model_dump(mode="json")
            parts = [k for k in mine if mine[k] != theirs[k] and k not in ("title", "request", "versions")]
            raise UsageError(
                f"Search '{self.id}' in this store differs in: {', '.join(parts)}. Choose another --name, "
                "or omit it."
            )

    def proposals(self) -> list[Proposal]:
        """All proposals, by number. Raises `RecordError` if one is missing or damaged."""
        paths = sorted(p for p in (self.path / "proposals").glob("*.json") if p.stem.isdecimal())
        found = [_read(Proposal, path) for path in paths]
        for expected, proposal in enumerate(found):
            if proposal.number != expected:
                raise RecordError(
                    f"Expected proposals 0 to {len(found) - 1} in {self.path / 'proposals'}, but number "
                    f"{expected} is missing. Delete those after it; their records are kept and reused."
                )
        return found

    def propose(self, proposal: Proposal) -> None:
        """Store a proposal, before it is trained."""
        _write(self.proposal_path(proposal.number), proposal)

    def proposal_path(self, number: int) -> Path:
        """The path of a proposal; the file need not exist."""
        return self.path / "proposals" / f"{number:05d}.json"

    def prune(self, trial_id: str, epoch: int, history: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Mark a trial as pruned."""
        rows = tuple({k: float(v) for k, v in row.items() if _finite(v)} for row in history)
        mark = PrunedMark(trial_id=trial_id, epoch=epoch, history=rows, seconds=seconds)
        _write(self.path / "pruned" / f"{trial_id}.json", mark)

    def pruned(self, trial_id: str) -> PrunedMark | None:
        """The mark of a trial if this study pruned it, else None."""
        path = self.path / "pruned" / f"{trial_id}.json"
        return _read(PrunedMark, path) if path.is_file() else None

    def check(self) -> None:
        """Read all files of the study. Raises `RecordError` for the first one that is missing or damaged."""
        self.spec()
        self.proposals()
        self.winners()
        for path in sorted((self.path / "pruned").glob("*.json")):
            _read(PrunedMark, path)

    def winners(self) -> tuple[Winner, ...]:
        """All winners so far, the latest last."""
        path = self.path / "winner.json"
        return _read(Winners, path).winners if path.is_file() else ()

    def add_winners(self, winners: Sequence[Winner]) -> None:
        """Store the winners of a search. Earlier ones, of a smaller budget, are kept with their budget."""
        added = {w.trial_ids for w in winners}
        kept = [w for w in self.winners() if w.trial_ids not in added]
        _write(self.path / "winner.json", Winners(winners=(*kept, *winners)))


def studies(store: Store) -> list[StudyFolder]:
    """All studies in the store, by id, including those whose `spec.json` is missing."""
    found = {p.parent.name for what in ("spec.json", "proposals") for p in store.root.glob(f"searches/*/{what}")}
    return [StudyFolder(store, name) for name in sorted(found)]


def find_study(store: Store, name: str | None) -> StudyFolder:
    """The study with this id; for None, the only study. Raises `UsageError`."""
    found = {s.id: s for s in studies(store)}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is None or name not in found:
        there = f"There are: {', '.join(found)}." if found else "There is none; `wbcbench search` creates one."
        what = "Expected the name of a study" if name is None else f"No study is called '{name}'."
        near = did_you_mean(name, found) if name else "."
        raise UsageError(f"{what}{near} {there}")
    return found[name]


def search_budgets(store: Store) -> dict[str, SearchBudget]:
    """Trial id of every retrained winner -> the budget of its search; the largest if several searches found it."""
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
