"""`records.txt`: one line for every record that a board was ever made from. Lines are added, never taken away.

A record whose line is there must be in `records.zip`, or be struck out in `invalid.yaml`. Where the boards lie in
a git repository, its history is asked too, so that nobody loses a record by editing both files.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from wbcbench.errors import RecordError

LEDGER = "records.txt"
_HEAD = "# trial id, digest of its predictions and weights: every record that this board was made from\n"
_LINE = re.compile(r"([0-9a-f]{16})  ([0-9a-f]{64})")

Named = tuple[str, str]
"""Trial id and digest."""


def ledger_text(records: Iterable[Named]) -> bytes:
    """The file with these records."""
    return (_HEAD + "".join(f"{trial}  {digest}\n" for trial, digest in sorted(set(records)))).encode()


def read_ledger(folder: Path) -> set[Named]:
    """The lines of a board's ledger; none where it has no ledger yet. Raises `RecordError` for any other line."""
    path = folder / LEDGER
    if not path.is_file():
        return set()
    found = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            match = _LINE.fullmatch(line)
            if match is None:
                raise RecordError(f"{LEDGER} has a line that is no trial id and digest: {line[:80]!r}.")
            found.add((match[1], match[2]))
    return found


def once_published(folder: Path) -> set[Named]:
    """Lines that the ledgers in or under a folder ever had, by the history of the repository around it.

    Empty where there is no git, no repository, or (in a shallow clone) no history.
    """
    command = ["git", "-C", str(folder), "log", "-m", "-p", "--format=", "--unified=0", "--no-ext-diff",
               "--no-textconv", "--no-color", "--", f":(glob)**/{LEDGER}"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return set()
    found = (_LINE.fullmatch(line[1:]) for line in done.stdout.splitlines() if line[:1] in ("+", "-"))
    return {(m[1], m[2]) for m in found if m is not None}


def vanished(ledger: Iterable[Named], there: Iterable[Named], invalid: Mapping[str, str]) -> list[Named]:
    """Records that were published, are not there, and are not struck out either."""
    known = set(there)
    return sorted(r for r in set(ledger) - known if r[0] not in invalid and r[1] not in invalid)


__all__ = ["LEDGER", "Named", "ledger_text", "once_published", "read_ledger", "vanished"]
