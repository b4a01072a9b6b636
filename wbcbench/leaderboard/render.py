"""Boards -> text: markdown and plain for people, csv and JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from wbcbench.leaderboard.table import METRIC_COLUMNS, RANKED_BY, Board

_OPTIONAL = ("policies", "teachers", "routing", "provider")
"""Columns that are left out of a table for people when no row has anything to say there."""


def render_markdown(boards: Sequence[Board]) -> str:
    """GitHub tables, one section per board."""
    return "\n".join(f"## {title(b)}\n\n{_table(b, 'github')}\n\n{_legend(b)}\n" for b in boards)


def render_plain(boards: Sequence[Board]) -> str:
    """Aligned text for a terminal."""
    return "\n".join(f"{title(b)}\n\n{_table(b, 'simple')}\n\n{_legend(b)}\n" for b in boards)


def render_csv(boards: Sequence[Board]) -> str:
    """One csv with full precision; the first column is the board's key, missing numbers are empty."""
    frames = []
    for board in boards:
        frame = board.rows.copy()
        frame["seeds"] = frame["seeds"].map(lambda seeds: " ".join(map(str, seeds)))
        frame.insert(0, "board", board.key.digest)
        frames.append(frame)
    return "" if not frames else pd.concat(frames).to_csv(index=False, lineterminator="\n")


def as_json(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """`[{"key": {...}, "rows": [{column: value}]}]`; a missing number is null."""
    return [
        {
            "key": board.key.model_dump(mode="json") | {"digest": board.key.digest},
            "rows": [{str(k): _plain(v) for k, v in row.items()} for row in board.rows.to_dict(orient="records")],
        }
        for board in boards
    ]


def title(board: Board) -> str:
    """What the board's rows share, in one line."""
    k = board.key
    return (
        f"{k.dataset}: {' + '.join(k.modalities)}, {k.image_size} px, {len(k.classes)} classes, "
        f"{k.budget.epochs} epochs of batch {k.budget.batch_size} (key {k.digest})"
    )


def _table(board: Board, style: str) -> str:
    rows = board.rows
    shown = [c for c in _OPTIONAL if rows[c].astype(bool).any()]
    table = []
    names = ["method", "policies", "kd", "backbone", "teachers", "routing"]
    twins = rows.duplicated(subset=names, keep=False)
    for (_, row), twin in zip(rows.iterrows(), twins, strict=True):
        # Methods that differ only in parameters would look the same without their id.
        method = f"{row['method']} #{row['method_id'][:6]}" if twin else row["method"]
        cells: dict[str, Any] = {
            "rank": "" if pd.isna(row["rank"]) else str(row["rank"]),
            "method": method + (" (incomplete)" if row["status"] == "incomplete" else ""),
            **{c: row[c] for c in names[1:] if c not in _OPTIONAL or c in shown},
            "n": str(row["n"]),
            **{m: _mean_sd(row[m], row[f"{m}_sd"]) for m in METRIC_COLUMNS},
            "params": _count(row["params"]),
            "MACs": _count(row["macs"]),
        }
        if rows["pseudo_multimodal"].any():
            cells["pseudo-multimodal"] = "yes" if row["pseudo_multimodal"] else ""
        if "provider" in shown:
            cells["provider"] = row["provider"]
        table.append(cells)
    return tabulate(table, headers="keys", tablefmt=style, disable_numparse=True)


def _legend(board: Board) -> str:
    lines = [f"Mean ± standard deviation (ddof=1) over n seeds; ranked by mean {RANKED_BY}."]
    if (board.rows["status"] == "reference").any():
        lines.append("Rows `single[...]` without a rank read fewer modalities: a reference, not a competitor.")
    if (board.rows["status"] == "incomplete").any():
        lines.append("Incomplete: fewer seeds than the most complete method, so not ranked.")
    return " ".join(lines)


def _mean_sd(mean: float, sd: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def _count(value: Any) -> str:
    if value is None or pd.isna(value):
        return ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f}{unit}"
    return str(int(value))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return value
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


__all__ = ["as_json", "render_csv", "render_markdown", "render_plain", "title"]
