"""The changes between two published boards, with their reasons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wbcbench.boards.columns import header
from wbcbench.boards.model import BOARD_SCHEMA_VERSION, METRIC_NAMES, Board, Report, Row
from wbcbench.errors import UsageError


@dataclass
class Change:
    """One row or board that changed."""

    board: str
    """Digest of its key."""
    row: str
    """Name."""
    what: str
    why: list[str] = field(default_factory=list)


def read_report(path: Path) -> Report:
    """The report of a published folder or a `board.json`. Raises `UsageError`."""
    file = path / "board.json" if path.is_dir() else path
    try:
        text = file.read_bytes()
        document = json.loads(text)
        version = document.get("schema_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version != BOARD_SCHEMA_VERSION:
            raise ValueError(
                f"it has schema version {version}, this release reads {BOARD_SCHEMA_VERSION}: make it again, or "
                "`wbcbench leaderboard publish --rebuild`"
            )
        report = Report.model_validate_json(text)
        for board in report.boards:
            for row in board.rows:
                if lacks := {board.by, *METRIC_NAMES} - (set(row.metrics) & set(METRIC_NAMES)):
                    raise ValueError(f"row {row.name!r} lacks the metric {min(lacks)!r}")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"Expected a published board's folder or a file of --format json, but got {path} ({error})."
        ) from error
    return report


def changes(old: Report, new: Report) -> list[Change]:
    """Added and removed boards and rows, and changed ranks and scores, with reasons if known."""
    found: list[Change] = []
    boards = {b.digest: b for b in old.boards}, {b.digest: b for b in new.boards}
    left_out = {r.record: r.reason for r in new.refused}
    for digest in sorted(set(boards[0]) | set(boards[1])):
        before, after = (side.get(digest) for side in boards)
        if before is None or after is None:
            there = after or before
            assert there is not None
            what = f"the board is new, with {len(there.rows)} rows" if before is None else "the board is gone"
            why = _key(there, old.boards, came=True) if before is None else _key(there, new.boards, came=False)
            found.append(Change(digest, title_of(there), what, why))
        else:
            found += _board(before, after)
            found += _rows(before, after, left_out)
    known = {r.record for r in old.refused}
    told = "\n".join(why for change in found for why in change.why)
    for record, reason in left_out.items():
        if record not in known and reason not in told:
            found.append(Change("", record, "is left out now", [reason]))
    return found


def _board(before: Board, after: Board) -> list[Change]:
    """Changes of the board's options."""
    parts = []
    if before.by != after.by:
        parts.append(f"ranked by {header(after.by)}, before by {header(before.by)}")
    if before.seeds != after.seeds:
        parts.append(f"rows need seeds {_numbers(after.seeds)}, before {_numbers(before.seeds)}")
    if before.resamples != after.resamples:
        parts.append(f"{after.resamples or 'no'} resamples, before {before.resamples or 'none'}")
    return [Change(after.digest, title_of(after), "; ".join(parts))] if parts else []


def _numbers(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


def title_of(board: Board) -> str:
    """A short title: data set and modalities."""
    return board.title or f"{board.key.dataset}, {' + '.join(board.key.modalities)}"


def _rows(before: Board, after: Board, left_out: dict[str, str]) -> list[Change]:
    found = []
    rows = {r.method_id: r for r in before.rows}, {r.method_id: r for r in after.rows}
    for method in dict.fromkeys(r.method_id for r in (*after.rows, *before.rows)):
        a, b = (side.get(method) for side in rows)
        if a is None and b is not None:
            found.append(Change(after.digest, b.name, f"is new, rank {b.rank or 'none'}"))
        elif b is None and a is not None:
            why = [f"{s.trial_id}: {left_out[s.trial_id]}" for s in a.sources if s.trial_id in left_out]
            found.append(Change(after.digest, a.name, "is gone", why or ["its records are missing"]))
        elif a is not None and b is not None and (change := _row(a, b, before, after, left_out)) is not None:
            found.append(change)
    return found


def _row(a: Row, b: Row, before: Board, after: Board, left_out: dict[str, str]) -> Change | None:
    was, now = a.metrics[before.by].mean, b.metrics[before.by].mean
    parts = []
    if a.rank != b.rank:
        parts.append(f"rank {a.rank or 'none'} -> {b.rank or 'none'}")
    if was != now and was is not None and now is not None:
        parts.append(f"{header(before.by)} {was:.4f} -> {now:.4f}")
    why = _why(a, b, left_out)
    if not parts and not why:
        return None
    if a.rank != b.rank and not why:
        same = before.by == after.by and before.seeds == after.seeds
        why = [
            "its own records did not change, others on the board did" if same else "the board has other options"
        ]
    return Change(after.digest, b.name, ", ".join(parts) or "same rank and score", why)


def _why(a: Row, b: Row, left_out: dict[str, str]) -> list[str]:
    why = []
    olds, news = {s.trial_id: s for s in a.sources}, {s.trial_id: s for s in b.sources}
    if came := sorted(s.seed for t, s in news.items() if t not in olds):
        why.append(f"new seeds: {', '.join(map(str, came))}")
    for trial in sorted(set(olds) - set(news)):
        why.append(f"seed {olds[trial].seed} is gone: {left_out.get(trial, 'its record is missing')}")
    for trial in sorted(set(olds) & set(news)):
        if olds[trial].digest != news[trial].digest:
            why.append(f"seed {olds[trial].seed} has another record (irreproducible, or from different code)")
    shas = {(p.kind, p.name): p.sha256 for p in a.parts}, {(p.kind, p.name): p.sha256 for p in b.parts}
    why += [f"code of {k} {n} changed" for k, n in sorted(shas[0]) if shas[0][k, n] != shas[1].get((k, n))]
    return why


def _key(board: Board, others: Sequence[Board], came: bool) -> list[str]:
    """How a board's key differs from the most similar board of the same data set on the other side."""
    best: list[str] | None = None
    for other in others:
        if other.digest == board.digest or other.key.dataset != board.key.dataset:
            continue
        old, new = (other, board) if came else (board, other)
        fields = old.key.diff(new.key)
        if best is None or len(fields) < len(best):
            best = [f"key {old.digest} -> {new.digest}: {f.replace(' != ', ' -> ')}" for f in fields]
    return best or []


__all__ = ["Change", "changes", "read_report", "title_of"]
