"""Is a published board what its records give, and is every record there that was ever published?"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wbcbench.errors import RecordError
from wbcbench.publishing.asked import PROTOCOL, invalid_beside, read_asked
from wbcbench.publishing.beside import BESIDE, PACK
from wbcbench.publishing.ledger import LEDGER, Named, once_published, read_ledger, vanished
from wbcbench.publishing.opened import opened
from wbcbench.publishing.published import files

GIVES = f"is not what {PACK} gives"
"""How a problem ends that making the files again would mend."""
_OWN = frozenset({"FINDINGS.md", "figures", "data"})
"""What people write, and draw, beside a board."""


@dataclass(frozen=True)
class Checked:
    """What `check` found; no problems if the folder is what its records give and nothing has vanished."""

    problems: list[str] = field(default_factory=list)
    records: int = 0
    notes: list[str] = field(default_factory=list)
    """What could not be compared."""


def check(folder: Path) -> Checked:
    """Make the folder's files again from its records, and name every file that is not what comes out, and every
    record that was published once and is neither there nor struck out.

    Of `index.html` all but the text of the two libraries in it is compared: another release of theirs is no other
    board. Where they are not the installed releases, a note says so.

    Raises:
        UsageError: this is no published board.
    """
    asked = read_asked(folder)
    invalid = invalid_beside(folder)
    try:
        ledger = read_ledger(folder)
        made, found = files(folder, folder.name, asked, invalid, ledger)
        with opened(folder / PACK) as (_, manifest):
            there = set(manifest.records.items())
    except RecordError as error:
        return Checked([str(error)])
    problems = []
    for file, data in sorted(made.items()):
        path = folder / file
        if not path.is_file():
            problems.append(f"{file} is missing")
        elif _comparable(file, path.read_bytes()) != _comparable(file, data):
            problems.append(f"{file} {GIVES}")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        file = path.relative_to(folder).as_posix()
        if file not in {*made, PACK} and file.split("/")[0] not in {*BESIDE, *_OWN}:
            problems.append(f"{file} does not belong to a published board")
    problems += [f"{LEDGER}: {_gone(r)} vanished from {PACK}" for r in vanished(ledger, there, invalid)]
    elsewhere = {r for other in folder.parent.glob(f"*/{LEDGER}") for r in _lines(other.parent)}
    once = once_published(folder)
    problems += [f"{LEDGER}: {_gone(r)} vanished from it" for r in vanished(once, elsewhere, invalid)]
    on_boards = len({s.trial_id for b in found.boards for r in b.rows for s in r.sources})
    return Checked(problems, on_boards, _other_libraries(folder))


def check_all(boards: Path) -> dict[str, Checked]:
    """`check` of every board in a folder, by name; the empty name: boards that vanished altogether."""
    names = sorted(p.parent.name for p in boards.glob(f"*/{PROTOCOL}"))
    found = {name: check(boards / name) for name in names}
    present = {r for name in names for r in _lines(boards / name)}
    lost = vanished(once_published(boards), present, invalid_beside(boards / "any"))
    told = {p for c in found.values() for p in c.problems}
    gone = [f"{_gone(r)} was published and vanished" for r in lost]
    if gone and not any("vanished from it" in p for p in told):
        found[""] = Checked(gone)
    return found


def _comparable(file: str, data: bytes) -> bytes:
    if file != "index.html":
        return data
    from wbcbench.leaderboard.formats.html.page import without_libraries

    return without_libraries(data.decode(errors="replace")).encode()


def _other_libraries(folder: Path) -> list[str]:
    page = folder / "index.html"
    if not page.is_file():
        return []
    from wbcbench.leaderboard.formats.html.page import has_our_libraries

    if has_our_libraries(page.read_text(encoding="utf-8", errors="replace")):
        return []
    return [
        "index.html carries other releases of itables or plotly than are installed here; their text was not "
        "compared. --rebuild puts the installed ones in."
    ]


def _lines(folder: Path) -> set[Named]:
    try:
        return read_ledger(folder)
    except RecordError:
        return set()  # the check of that board says so


def _gone(record: Named) -> str:
    return f"record {record[0]} (digest {record[1][:12]})"


__all__ = ["GIVES", "Checked", "check", "check_all"]
