"""Files that a board publishes in addition to its records: search winners (`searches/<study>/winner.json`) and
evaluations, on the test split, on other data sets and of exported files."""

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
from wbcbench.records.titles import TITLES, read_titles

STUDY = r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}"
"""A study's id, which is the name of its folder."""


class Spent(Strict):
    """The budget of a search in a pack; a subset of the study's own file."""

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
    """`winner.json` in a pack."""

    winners: tuple[Winner, ...] = Field(min_length=1, max_length=1000)


def joined(files: Iterable[bytes]) -> bytes:
    """The winners of several files of one study as one file; the first file if the others add nothing.

    If several files have the same set of trials, the entry of the longest search is kept. Invalid files are
    skipped.
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
    """A study's `winner.json` for a pack of these trials; None if the study chose none of them."""
    winners = []
    for winner in _read(data):
        own = tuple(t for t in winner["trial_ids"] if t in ids)
        spent = {name: winner["budget"].get(name) for name in Spent.model_fields}
        if own:
            with suppress(ValidationError):  # the file does not fit a pack's schema
                winners.append(Winner(trial_ids=own, budget=Spent(**spent)))
    if not winners:
        return None
    return (Winners(winners=tuple(winners)).model_dump_json(indent=2) + "\n").encode()


def retrained(root: Path, proposal: str) -> tuple[str, ...]:
    """Trials of a store that retrained a search's proposal because it won; empty if it did not win."""
    for path in sorted(root.glob("searches/*/winner.json")):
        for winner in _read(path.read_bytes()):
            if winner.get("proposal") == proposal:
                return tuple(winner["trial_ids"])
    return ()


def check_winners(files: Mapping[str, Any], trials: Set[str]) -> Iterator[Problem]:
    """Problems of a pack's `winner.json` files (study -> JSON document); `trials`: ids of the pack's trials."""
    for study, document in files.items():
        try:
            # in strict mode a list is not accepted as a tuple, except from JSON text
            found = Winners.model_validate_json(json.dumps(document))
        except ValidationError as error:
            first = error.errors()[0]
            yield "refuse", f"search {study}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            continue
        for winner in found.winners:
            spent = winner.budget
            if spent.study != study:
                yield "refuse", f"search {study} has the budget of search {shown(spent.study)}"
            if strange := sorted(set(winner.trial_ids) - trials):
                yield "refuse", f"search {study} chose trial {shown(strange[0])}, which is not in the pack"
            if (spent.complete or 0) + (spent.pruned or 0) + (spent.failed or 0) > spent.trials:
                yield "refuse", f"search {study} has more finished proposals than its {spent.trials} trials"


def told_of_winners(data: bytes) -> Iterator[str]:
    """A pack's statements about a search, as text; they cannot be recomputed."""
    for winner in _read(data):
        ids, budget = ", ".join(winner["trial_ids"]), winner["budget"]
        yield f"{ids}: chosen by search {budget.get('study')} of {budget['trials']} trials, according to the pack."


def _read(data: bytes) -> list[dict[str, Any]]:
    """Entries with trials and a budget. Others are skipped: a file may be of a newer release, or damaged."""
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
SIDE_FOLDERS = ("deployed", "evaluations", "searches")


def side_files(records: Sequence[Record], stores: Sequence[Path], folder: Path) -> dict[str, bytes]:
    """File of the board's folder -> content. Evaluations and deployed files: from the stores, else as
    published; searches: from all.

    Args:
        records: of the board.
        stores: roots of the stores.
        folder: of the board, as published before.
    """
    ids = {r.trial.id for r in records}
    found: dict[str, bytes] = {}
    winners: dict[str, list[bytes]] = {}
    for root in (*stores, folder):
        beside = ("evaluations/*.json", "evaluations/*/*.json", "deployed/*/*.json")
        for path in sorted(p for pattern in beside for p in root.glob(pattern)):
            if path.stem in ids:
                found.setdefault(path.relative_to(root).as_posix(), path.read_bytes())
        for path in sorted(root.glob("searches/*/winner.json")):
            data = path.read_bytes()
            if ids & set(re.findall(r"\b[0-9a-f]{16}\b", data.decode(errors="replace"))):
                winners.setdefault(f"searches/{path.parent.name}/{path.name}", []).append(data)
    named = {k for r in records for k in (r.result.key.fingerprint, r.result.key.digest)}
    titles: dict[str, str] = {}
    for root in (folder, *reversed(stores)):
        titles |= {key: title for key, title in read_titles(root).items() if key in named}
    if titles:
        found[TITLES] = json_text(titles).encode()
    return found | {name: joined(files) for name, files in winners.items()}


__all__ = [
    "PACK",
    "SIDE_FOLDERS",
    "STUDY",
    "Winners",
    "check_winners",
    "joined",
    "of_trials",
    "retrained",
    "side_files",
    "told_of_winners",
]
