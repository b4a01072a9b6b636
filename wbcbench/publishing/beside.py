"""What stands beside the records of a board: examinations of their networks, and the searches that led to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from wbcbench.publishing.winners import joined
from wbcbench.records.store import Record

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


__all__ = ["BESIDE", "PACK", "beside"]
