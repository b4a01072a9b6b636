"""What moved between two boards, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from wbcbench.errors import UsageError
from wbcbench.leaderboard.columns import HEADERS
from wbcbench.leaderboard.model import Board, Report, Row


@dataclass
class Change:
    """One row that is not what it was."""

    board: str
    """Digest of its key."""
    row: str
    """Name."""
    what: str
    why: list[str] = field(default_factory=list)


def read_report(path: Path) -> Report:
    """A published folder's, or a `board.json`'s, report. Raises `UsageError`."""
    file = path / "board.json" if path.is_dir() else path
    try:
        return Report.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"Expected a published board's folder or a file of --format json, but got {path} ({error})."
        ) from error


def changes(old: Report, new: Report) -> list[Change]:
    """Boards that came and went, rows that came and went, ranks and scores that moved, with the reasons found."""
    found: list[Change] = []
    boards = {b.digest: b for b in old.boards}, {b.digest: b for b in new.boards}
    left_out = {r.record: r.reason for r in new.refused}
    for digest in sorted(set(boards[0]) | set(boards[1])):
        before, after = (side.get(digest) for side in boards)
        if before is None or after is None:
            there = after or before
            assert there is not None
            title = f"{there.key.dataset}, {' + '.join(there.key.modalities)}"
            what = f"the board came, with {len(there.rows)} rows" if before is None else "the board is gone"
            found.append(Change(digest, title, what, _key(there, [*old.boards, *new.boards])))
        else:
            found += _rows(before, after, left_out)
    return found


def _rows(before: Board, after: Board, left_out: dict[str, str]) -> list[Change]:
    found = []
    rows = {r.method_id: r for r in before.rows}, {r.method_id: r for r in after.rows}
    for method in sorted(set(rows[0]) | set(rows[1])):
        a, b = (side.get(method) for side in rows)
        if a is None and b is not None:
            found.append(Change(after.digest, b.name, f"is new, rank {b.rank or 'none'}"))
        elif b is None and a is not None:
            why = [f"{s.trial_id}: {left_out[s.trial_id]}" for s in a.sources if s.trial_id in left_out]
            found.append(Change(after.digest, a.name, "is gone", why or ["its records are not there"]))
        elif a is not None and b is not None and (change := _row(a, b, before, after, left_out)) is not None:
            found.append(change)
    return found


def _row(a: Row, b: Row, before: Board, after: Board, left_out: dict[str, str]) -> Change | None:
    was, now = a.metrics[before.by].mean, b.metrics[before.by].mean
    parts = []
    if a.rank != b.rank:
        parts.append(f"rank {a.rank or 'none'} -> {b.rank or 'none'}")
    if was != now and was is not None and now is not None:
        parts.append(f"{HEADERS[before.by]} {was:.4f} -> {now:.4f}")
    why = _why(a, b, left_out)
    if not parts and not why:
        return None
    if a.rank != b.rank and not why:
        why = ["its own records did not change; others on the board did"]
    return Change(after.digest, b.name, ", ".join(parts) or "same rank and score", why)


def _why(a: Row, b: Row, left_out: dict[str, str]) -> list[str]:
    why = []
    olds, news = {s.trial_id: s for s in a.sources}, {s.trial_id: s for s in b.sources}
    if came := sorted(s.seed for t, s in news.items() if t not in olds):
        why.append(f"new seeds: {', '.join(map(str, came))}")
    for trial in sorted(set(olds) - set(news)):
        why.append(f"seed {olds[trial].seed} is gone: {left_out.get(trial, 'its record is not there')}")
    for trial in sorted(set(olds) & set(news)):
        if olds[trial].digest != news[trial].digest:
            why.append(f"seed {olds[trial].seed} has another record (irreproducible, or made by other code)")
    shas = {(p.kind, p.name): p.sha256 for p in a.parts}, {(p.kind, p.name): p.sha256 for p in b.parts}
    why += [f"code of {k} {n} changed" for k, n in sorted(shas[0]) if shas[0][k, n] != shas[1].get((k, n))]
    return why


def _key(board: Board, others: list[Board]) -> list[str]:
    """In what a board's key differs from the likest other board of the same cells."""
    mine = board.key.model_dump(mode="json")
    best: list[str] | None = None
    for other in others:
        if other.digest == board.digest or other.key.fingerprint != board.key.fingerprint:
            continue
        theirs = other.key.model_dump(mode="json")
        fields = [f"{k}: {theirs[k]} there, {mine[k]} here" for k in mine if mine[k] != theirs[k]]
        if best is None or len(fields) < len(best):
            best = [f"differs from board {other.digest} in {f}" for f in fields]
    return best or []


__all__ = ["Change", "changes", "read_report"]
