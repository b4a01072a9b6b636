"""A published board: a folder that holds the tables, and the records from which anybody can make them again.

    README.md        the tables, the protocol, how they were made, how to check them
    board.csv  board.json  index.html
    protocol.json    what was asked for (metric, seeds, resamples) and the comparison keys that came of it
    records.txt      trial id and digest of every record that was ever published here, see `ledger`
    records.zip      the records and their teachers', without weights, as `wbcbench submit` packs them
    evaluations/  searches/    what stands beside the records: missing modalities, search budgets

The tables are always made from `records.zip`, never from a store, so that `proof.check` on a clean clone does
exactly what `publish` did. Without weights a record has about 90 kB, most of it predictions: 6 MB for the 67
records of the first board, a sixth of what they take in a store. The zip is stored, not compressed: two releases
of zlib deflate alike only by chance, bytes must be equal, and git compresses it anyway (to half).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wbcbench.boards.build import report
from wbcbench.boards.formats import FORMATS, View, render
from wbcbench.boards.model import Report
from wbcbench.errors import RecordError, UsageError
from wbcbench.files import atomic_write_bytes
from wbcbench.publishing.board_files import (
    LEDGER,
    PROTOCOL,
    Asked,
    Named,
    Protocol,
    invalid_beside,
    ledger_text,
    once_published,
    read_asked,
    read_ledger,
    readme,
    vanished,
)
from wbcbench.publishing.cross_checks import SolvedOnce
from wbcbench.publishing.pack import Manifest, with_teachers, write_records
from wbcbench.publishing.side_files import BESIDE, PACK, beside
from wbcbench.publishing.sources import Pool, opened
from wbcbench.publishing.unpack import Unpacked
from wbcbench.publishing.verify import Installed, outgrown
from wbcbench.records.store import Store


@dataclass(frozen=True)
class Published:
    """What `publish` wrote."""

    report: Report
    manifest: Manifest
    told: list[str]
    """What a person should know: records of the sources that were left out, findings about packs."""
    sources: dict[str, list[str]]
    """Store or pack that brought records which were not there -> names of the rows that they are in."""


def publish(
    folder: Path,
    stores: Sequence[Store | Path],
    asked: Asked,
    packs: tuple[Path, ...] = (),
    solved_once: SolvedOnce = lambda trial: False,
    installed: Installed | None = None,
) -> Published:
    """Write a board's folder from stores, packs of strangers, and what was published there before.

    Args:
        folder: of the board; made if missing.
        stores: whose records stand on the boards that are asked for. None: the files are made again.
        asked: what to show.
        packs: from `wbcbench submit`; judged against what was published before and what the stores have.
        solved_once: see `duplicates.SolvedOnce`.
        installed: see `checking.checked`.

    Raises:
        ComparabilityError: sources disagree about a trial, or a pack is refused.
        RecordError: a record, or a teacher's, is missing or bad.
        UsageError: no board is like that.
    """
    invalid = invalid_beside(folder)
    with tempfile.TemporaryDirectory(prefix="wbcbench-publish-") as name:
        new = Path(name) / "new"
        pool = Pool(Unpacked(Path(name) / "pool"), invalid)
        old = pool.add_board(folder / PACK) if (folder / PACK).is_file() else None
        published = dict(pool.digests)
        asked = _keeping(asked, pool)
        if stores:
            options = asked.options(statistics=False, details=False)
            given = [s if isinstance(s, Store) else Store(s) for s in stores]
            pool.add_stores(given, options, published, alone=not published and not packs)
            asked = _keeping(asked, pool)
        for pack in packs:
            pool.add_pack(pack, asked, solved_once, installed)
        pool.whole()
        shown = report([pool.store], asked.options(statistics=False, details=False))
        ids = {s.trial_id for b in shown.boards for r in b.rows for s in r.sources}
        ids |= set(old.submitted) if old is not None else set()
        if not ids:
            raise UsageError("No record is on such a board. `wbcbench leaderboard` shows which boards there are.")
        records = with_teachers([pool.store.load(i) for i in sorted(ids)], Unpacked)
        manifest = write_records(records, ids, new / PACK)
        if old is not None and old.model_copy(update={"wbcbench": manifest.wbcbench}) == manifest:
            manifest = old  # the same records, packed by an older wbcbench: no other file
            shutil.copyfile(folder / PACK, new / PACK)
        anew = asked.model_copy(update={"board_seeds": {}}).options(statistics=False, details=False)
        usual = report([pool.store, *stores], anew).boards
        for file, data in beside(records, pool.roots, folder).items():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).write_bytes(data)
        ledger = read_ledger(folder) | (set(old.records.items()) if old else set())
        made, found = files(new, folder.name, asked, invalid, ledger)
        made |= {p.relative_to(new).as_posix(): p.read_bytes() for p in new.rglob("*") if p.is_file()}
    for file, data in sorted(made.items()):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / file).is_file() or (folder / file).read_bytes() != data:
            atomic_write_bytes(folder / file, data)
    for stale in [p for b in BESIDE for p in (folder / b).rglob("*.json")]:
        if stale.relative_to(folder).as_posix() not in made:
            stale.unlink()
    return Published(
        found, manifest, [*pool.told, *outgrown(found.boards, usual)], _sources(found, pool, published)
    )


def _sources(found: Report, pool: Pool, published: Mapping[str, str]) -> dict[str, list[str]]:
    """Where records came from that were not here -> the rows of the boards that they are in."""
    new = {t: pool.origins[t] for t, digest in pool.digests.items() if published.get(t) != digest}
    sources: dict[str, list[str]] = {origin: [] for origin in new.values()}
    for row in (r for b in found.boards for r in b.rows):
        for origin in {new[s.trial_id] for s in row.sources if s.trial_id in new}:
            sources[origin].append(row.name)
    return {origin: list(dict.fromkeys(rows)) for origin, rows in sources.items()}


def _keeping(asked: Asked, pool: Pool) -> Asked:
    """What was asked, with the seeds of the boards that are there before anything else joins them."""
    if not pool.digests:
        return asked
    try:
        options = asked.options(statistics=False, details=False, invalid=pool.invalid)
        return asked.keeping(report([pool.store], options).boards)
    except UsageError:
        return asked  # the boards that are asked for come with a pack


def files(
    folder: Path, name: str, asked: Asked, invalid: Mapping[str, str], ledger: set[Named]
) -> tuple[dict[str, bytes], Report]:
    """File -> content, made from the pack in a folder; and the report that is in them.

    Args:
        folder: where the pack lies, and what stands beside the records.
        name: of the board.
        asked: what to show.
        invalid: trial id or digest -> why it is struck out.
        ledger: records that were published here before.

    Raises:
        RecordError: the pack is not what it says.
    """
    with opened(folder) as (store, manifest):
        found = report([store], asked.options(statistics=True, details=True, invalid=invalid))
        known = ledger | set(manifest.records.items())
        kept = asked.keeping(found.boards)
        protocol = Protocol(**kept.model_dump(), boards={b.digest: b.key for b in found.boards})
        made = {
            "board.csv": render(found, "csv"),
            "board.json": render(found, "json"),
            "README.md": readme(found, asked, name, store, manifest, known, invalid),
            PROTOCOL: (protocol.model_dump_json(indent=2) + "\n").encode(),
            LEDGER: ledger_text(known),
        }
        if "html" in FORMATS:
            made["index.html"] = render(found, "html", View(title=asked.title))
    return made, found


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
    from wbcbench.boards.formats.page import without_libraries

    return without_libraries(data.decode(errors="replace")).encode()


def _other_libraries(folder: Path) -> list[str]:
    page = folder / "index.html"
    if not page.is_file():
        return []
    from wbcbench.boards.formats.page import has_installed_libraries

    if has_installed_libraries(page.read_text(encoding="utf-8", errors="replace")):
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


__all__ = ["GIVES", "Checked", "Published", "check", "check_all", "files", "publish"]
