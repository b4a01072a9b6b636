"""Answers as a table: CSV or Parquet, one row a cell."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.errors import UsageError
from wbcbench.inference.classify import Answers
from wbcbench.leaderboard.text import clean, spreadsheet
from wbcbench.records.atomic import atomic_write_bytes

SUFFIXES = (".csv", ".parquet")


def check_name(path: Path) -> None:
    """Raise `UsageError` for a file that is neither."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"Expected a file that ends in .csv or .parquet, but got {path}.")


def table(answers: list[Answers], classes: tuple[str, ...], modalities: tuple[str, ...]) -> Any:
    """A pandas frame.

    Columns: `source`, `cell`, `label` (where one is known), `predicted`, `confidence`, `probability:<class>`,
    `<route>:<class>` for every route (empty where its modality is absent), `missing` and `unlike_training`, both
    separated by `; `, and `error`: why a cell could not be read and has no answer.
    """
    import pandas as pd

    frames = []
    for a in answers:
        n = len(a.source.names)
        answered = a.answered
        best = a.probabilities.argmax(1)
        columns: dict[str, Any] = {"source": [a.source.where] * n, "cell": list(a.source.names)}
        if any(b.source.labels is not None for b in answers):
            columns["label"] = list(a.source.labels or [""] * n)
        columns["predicted"] = [classes[k] if ok else "" for k, ok in zip(best, answered, strict=True)]
        columns["confidence"] = a.probabilities[np.arange(n), best]
        for prefix, p in (("probability", a.probabilities), *a.routes.items()):
            columns |= {f"{prefix}:{clean(c)}": p[:, k] for k, c in enumerate(classes)}
        lacking = [[m for m, here in zip(modalities, row, strict=True) if not here] for row in a.source.present]
        columns["missing"] = ["; ".join(names) if ok else "" for names, ok in zip(lacking, answered, strict=True)]
        columns["unlike_training"] = ["; ".join(found) for found in a.odd]
        columns["error"] = [a.source.errors.get(row, "") for row in range(n)]
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def write(frame: Any, path: Path) -> None:
    """Write the frame, whole or not at all; in CSV no text is a formula to a spreadsheet."""
    check_name(path)
    if path.suffix.lower() == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        atomic_write_bytes(path, buffer.getvalue())
        return
    text = frame.copy()
    for name in ("source", "cell", "label", "predicted", "error"):
        if name in text:
            text[name] = [spreadsheet(str(v)) for v in text[name]]
    text.columns = [spreadsheet(str(c)) for c in text.columns]
    atomic_write_bytes(path, text.to_csv(index=False, lineterminator="\n").encode())


__all__ = ["SUFFIXES", "check_name", "table", "write"]
