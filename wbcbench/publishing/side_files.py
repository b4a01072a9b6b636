"""What a board publishes beside its records: search winners (`searches/<study>/winner.json`) and evaluations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from wbcbench.files import DOCUMENTS, json_text
from wbcbench.publishing.verdict import Problem, shown
from wbcbench.records.schema import Strict
from wbcbench.records.store import Record

STUDY = r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}"
"""A study's id, which names its folder."""


class Spent(Strict):
    """What a pack says of a search; a study's own file says more."""

    study: str = Field(pattern=f"^{STUDY}$")
    trials: int = Field(ge=1, le=10_000_000)
    complete: int | None = Field(None, ge=0)
    pruned: int | None = Field(None, ge=0)
    failed: int | None = Field(None, ge=0)
    train_seconds: float | None = Field(None, ge=0)


class Winner(Strict):
    """Trials that a search chose."""

    trial_ids: tuple[str, ...] = Field(min_length=1, max_length=1000)
    budget: Spent


class Winners(Strict):
    """The file in a pack."""

    winners: tuple[Winner, ...] = Field(min_length=1, max_length=1000)


def joined(files: Iterable[bytes]) -> bytes:
    """The winners of several files of one study as one file; the first file where the others add nothing.

    Of one set of trials that several have, the entry of the longer search counts. A file that is none is passed
    over.
    """
    every = list(dict.fromkeys(files))
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    first: dict[tuple[str, ...], dict[str, Any]] | None = None
    for data in every:
        for winner in _read(data):
            ids = tuple(winner["trial_ids"])
            if ids not in found or _trials(found[ids]) < _trials(winner):
                found[ids] = winner
        first = dict(found) if first is None else first
    return every[0] if found == first else json_text({"winners": list(found.values())}).encode()


def of_trials(data: bytes, ids: Set[str]) -> bytes | None:
    """What a pack of some trials says of a study; None: it chose none of them."""
    winners = []
    for winner in _read(data):
        own = tuple(t for t in winner["trial_ids"] if t in ids)
        spent = {name: winner["budget"].get(name) for name in Spent.model_fields}
        if own:
            with suppress(ValidationError):  # of a file that no pack could have
                winners.append(Winner(trial_ids=own, budget=Spent(**spent)))
    if not winners:
        return None
    return (Winners(winners=tuple(winners)).model_dump_json(indent=2) + "\n").encode()


def retrained(root: Path, proposal: str) -> tuple[str, ...]:
    """Trials of a store in which a search's proposal was trained again, because it won; empty if it did not."""
    for path in sorted(root.glob("searches/*/winner.json")):
        for winner in _read(path.read_bytes()):
            if winner.get("proposal") == proposal:
                return tuple(winner["trial_ids"])
    return ()


def check_winners(files: Mapping[str, Any], trials: Set[str]) -> Iterator[Problem]:
    """What is wrong with the files of a pack: study -> its JSON document; `trials` are those of the pack."""
    for study, document in files.items():
        try:
            # strict types know no tuple in parsed JSON
            found = Winners.model_validate_json(json.dumps(document))
        except ValidationError as error:
            first = error.errors()[0]
            yield "refuse", f"search {study}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            continue
        for winner in found.winners:
            spent = winner.budget
            if spent.study != study:
                yield "refuse", f"search {study} speaks of search {shown(spent.study)}"
            if strange := sorted(set(winner.trial_ids) - trials):
                yield "refuse", f"search {study} chose trial {shown(strange[0])}, which is not in the pack"
            if (spent.complete or 0) + (spent.pruned or 0) + (spent.failed or 0) > spent.trials:
                yield "refuse", f"search {study} has more finished proposals than its {spent.trials} trials"


def told_of_winners(data: bytes) -> Iterator[str]:
    """What a pack says of a search, in words; nobody can recompute it."""
    for winner in _read(data):
        ids, budget = ", ".join(winner["trial_ids"]), winner["budget"]
        yield f"{ids}: chosen by search {budget.get('study')} of {budget['trials']} trials, as the pack says."


def _read(data: bytes) -> list[dict[str, Any]]:
    """Entries that name trials and a budget; a file may be a newer release's, or damaged."""
    try:
        winners = json.loads(data)["winners"]
        return [w for w in winners if _names_trials(w)]
    except (*DOCUMENTS, KeyError, TypeError):
        return []


def _names_trials(winner: Any) -> bool:
    ids = winner.get("trial_ids") if isinstance(winner, dict) else None
    budget = winner.get("budget") if isinstance(winner, dict) else None
    return (
        isinstance(ids, list)
        and all(isinstance(t, str) and re.fullmatch("[0-9a-f]{16}", t) for t in ids)
        and isinstance(budget, dict)
        and isinstance(budget.get("trials"), int)
    )


def _trials(winner: dict[str, Any]) -> int:
    return int(winner["budget"]["trials"])


PACK = "records.zip"
"""A published board's records."""
BESIDE = ("evaluations", "searches")


def beside(records: Sequence[Record], stores: Sequence[Path], folder: Path) -> dict[str, bytes]:
    """File of the board's folder -> content: from the stores, else as it was published; searches from all.

    Args:
        records: of the board.
        stores: where to look.
        folder: of the board, as it was published.
    """
    ids = {r.trial.id for r in records}
    found: dict[str, bytes] = {}
    winners: dict[str, list[bytes]] = {}
    for root in (*stores, folder):
        for path in sorted(root.glob("evaluations/*.json")):
            if path.stem in ids:
                found.setdefault(f"evaluations/{path.name}", path.read_bytes())
        for path in sorted(root.glob("searches/*/winner.json")):
            data = path.read_bytes()
            if ids & set(re.findall(r"\b[0-9a-f]{16}\b", data.decode(errors="replace"))):
                winners.setdefault(f"searches/{path.parent.name}/{path.name}", []).append(data)
    return found | {name: joined(files) for name, files in winners.items()}


__all__ = [
    "BESIDE",
    "PACK",
    "STUDY",
    "Winners",
    "beside",
    "check_winners",
    "joined",
    "of_trials",
    "retrained",
    "told_of_winners",
]
