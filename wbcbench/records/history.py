"""A record's `history.csv`: one row per epoch, numbers where they are numbers."""

from __future__ import annotations

import csv
from pathlib import Path


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of a record's folder, by epoch; values that are missing or no numbers are left out.

    Raises:
        OSError: there is no such file. (A verified record has one.)
    """
    with open(folder / "history.csv", encoding="utf-8", newline="") as file:
        return [_numbers(row) for row in csv.DictReader(file)]


def _numbers(row: dict[str, str]) -> dict[str, float]:
    found = {}
    for name, text in row.items():
        try:
            found[name] = float(text)
        except (TypeError, ValueError):
            continue
    return found
