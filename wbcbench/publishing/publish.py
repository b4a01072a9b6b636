"""A published board: a folder with tables, and with the records from which others can reproduce them.

    README.md        the tables, the protocol, how they were made, how to check them
    board.csv  board.json  index.html
    protocol.json    the options (metric, seeds, resamples) and the resulting comparison keys
    records.txt      trial id and digest of every record that was ever published here
    standing.json    which records others claim, and which of these were reproduced; only if packs were added
    records.zip      the records and their teachers', without weights, as packed by `wbcbench submit`
    evaluations/  deployed/  searches/    additional files of the records: missing modalities, exported files,
                                        search budgets

The tables are always made from `records.zip`, never from a store, so that `check` on a clean clone does
exactly what `publish` did. Without weights a record has about 90 kB, most of it predictions: 6 MB for the 67
records of the first board, a sixth of their size in a store. The zip is stored, not compressed: different releases
of zlib may give different bytes, bytes must be equal, and git compresses it anyway (to half).
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
    Named,
    ProtocolFile,
    PublishOptions,
    invalid_beside,
    ledger_text,
    once_published,
    read_ledger,
    read_publish_options,
    readme,
    vanished,
)
from wbcbench.publishing.copies import SolvedOnce
from wbcbench.publishing.pack import Manifest, with_teachers, write_records
from wbcbench.publishing.side_files import PACK, SIDE_FOLDERS, side_files
from wbcbench.publishing.sources import Pool, unpacked
from wbcbench.publishing.standing import STANDING, read_standing, standing_text, updated
from wbcbench.publishing.unpack import Unpacked
from wbcbench.publishing.verify import Installed, outgrown
from wbcbench.records.store import Store
from wbcbench.records.titles import TITLES


@dataclass(frozen=True)
class Published:
    """The result of `publish`."""

    report: Report
    manifest: Manifest
    told: list[str]
    """Notes for the user: records of the sources that were left out, findings about packs."""
    sources: dict[str, list[str]]
    """Store or pack with new records -> names of the rows with these records."""


def publish(
    folder: Path,
    stores: Sequence[Store | Path],
    asked: PublishOptions,
    packs: tuple[Path, ...] = (),
    solved_once: SolvedOnce = lambda trial: False,
    installed: Installed | None = None,
    reproduced: Mapping[str, str] | None = None,
) -> Published:
    """Write a board's folder from stores, untrusted packs, and what was published there before.

    Args:
        folder: of the board; created if missing.
        stores: their records on the requested boards are added. Empty: the files are only rebuilt.
        asked: the board's options.
        packs: from `wbcbench submit`; checked against what was published before and the stores' records.
        solved_once: see `copies.SolvedOnce`.
        installed: see `verify.checked`.
        reproduced: trial id -> digest of records that were trained again; see `standing.read_verdict`.

    Raises:
        ComparabilityError: sources disagree about a trial, or a pack is refused.
        RecordError: a record, or a teacher's, is missing or invalid.
        UsageError: no board matches.
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
            raise UsageError("No record is on a matching board. `wbcbench leaderboard` shows the existing boards.")
        records = with_teachers([pool.store.load(i) for i in sorted(ids)], Unpacked)
        manifest = write_records(records, ids, new / PACK)
        if old is not None and old.model_copy(update={"wbcbench": manifest.wbcbench}) == manifest:
            manifest = old  # the same records, packed by an older wbcbench: no other file
            shutil.copyfile(folder / PACK, new / PACK)
        seedless = asked.model_copy(update={"board_seeds": {}}).options(statistics=False, details=False)
        usual = report([pool.store, *stores], seedless).boards
        for file, data in side_files(records, pool.roots, folder).items():
            (new / file).parent.mkdir(parents=True, exist_ok=True)
            (new / file).write_bytes(data)
        claims = updated(read_standing(folder), dict(manifest.records), pool.submitted, reproduced or {})
        if claims is not None:
            (new / STANDING).write_bytes(standing_text(claims))
        pool.told += [
            f"{t} is no claimed record of the board with the reproduced digest: its standing is unchanged."
            for t, digest in (reproduced or {}).items()
            if (claim := (claims or {}).get(t)) is None or claim.digest != digest
        ]
        ledger = read_ledger(folder) | (set(old.records.items()) if old else set())
        made, found, _ = files(new, folder.name, asked, invalid, ledger)
        made |= {p.relative_to(new).as_posix(): p.read_bytes() for p in new.rglob("*") if p.is_file()}
    for file, data in sorted(made.items()):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / file).is_file() or (folder / file).read_bytes() != data:
            atomic_write_bytes(folder / file, data)
    for stale in [p for b in SIDE_FOLDERS for p in (folder / b).rglob("*.json")]:
        if stale.relative_to(folder).as_posix() not in made:
            stale.unlink()
    return Published(
        found, manifest, [*pool.told, *outgrown(found.boards, usual)], _sources(found, pool, published)
    )


def _sources(found: Report, pool: Pool, published: Mapping[str, str]) -> dict[str, list[str]]:
    """Source of new records -> names of the rows with these records."""
    new = {t: pool.origins[t] for t, digest in pool.digests.items() if published.get(t) != digest}
    sources: dict[str, list[str]] = {origin: [] for origin in new.values()}
    for row in (r for b in found.boards for r in b.rows):
        for origin in {new[s.trial_id] for s in row.sources if s.trial_id in new}:
            sources[origin].append(row.name)
    return {origin: list(dict.fromkeys(rows)) for origin, rows in sources.items()}


def _keeping(asked: PublishOptions, pool: Pool) -> PublishOptions:
    """The options, with the seeds of the existing boards fixed before other records are added."""
    if not pool.digests:
        return asked
    try:
        options = asked.options(statistics=False, details=False, invalid=pool.invalid)
        return asked.keeping(report([pool.store], options).boards)
    except UsageError:
        return asked  # the requested boards come with a pack


def files(
    folder: Path, name: str, asked: PublishOptions, invalid: Mapping[str, str], ledger: set[Named]
) -> tuple[dict[str, bytes], Report, Manifest]:
    """File -> content, made from the pack in a folder; the report that they show; and the pack's manifest.

    Args:
        folder: of the pack, evaluations and searches.
        name: of the board.
        asked: its options.
        invalid: trial id or digest -> why it is struck out.
        ledger: records that were published here before.

    Raises:
        RecordError: the pack is invalid.
    """
    with unpacked(folder) as (store, manifest):
        found = report([store], asked.options(statistics=True, details=True, invalid=invalid))
        known = ledger | set(manifest.records.items())
        kept = asked.keeping(found.boards)
        protocol = ProtocolFile(**kept.model_dump(), boards={b.digest: b.key for b in found.boards})
        made = {
            "board.csv": render(found, "csv"),
            "board.json": render(found, "json"),
            "README.md": readme(found, asked, name, store, manifest, known, invalid),
            PROTOCOL: (protocol.model_dump_json(indent=2) + "\n").encode(),
            LEDGER: ledger_text(known),
        }
        if "html" in FORMATS:
            made["index.html"] = render(found, "html", View(title=asked.title))
    return made, found, manifest


GIVES = f"is not what {PACK} gives"
"""The end of a problem's text, if rebuilding the files fixes it."""
_OWN = frozenset({"FINDINGS.md", "figures", "data"})
"""Files and folders that authors may add to a board."""


@dataclass(frozen=True)
class Checked:
    """The result of `check`. No problems: the files match their records, and no record is missing."""

    problems: list[str] = field(default_factory=list)
    records: int = 0
    notes: list[str] = field(default_factory=list)
    """Parts that could not be compared."""


def check(folder: Path) -> Checked:
    """Rebuild the folder's files from its records; report all files that differ, and all records that were once
    published but are neither present nor struck out.

    `index.html` is compared without the text of its two libraries, whose release does not matter. If they are not
    the installed releases, a note states it.

    Raises:
        UsageError: this is not a published board.
    """
    asked = read_publish_options(folder)
    invalid = invalid_beside(folder)
    try:
        ledger = read_ledger(folder)
        made, found, manifest = files(folder, folder.name, asked, invalid, ledger)
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
        if file not in {*made, PACK, STANDING, TITLES} and file.split("/")[0] not in {*SIDE_FOLDERS, *_OWN}:
            problems.append(f"{file} does not belong to a published board")
    there = set(manifest.records.items())
    problems += [f"{LEDGER}: {_gone(r)} vanished from {PACK}" for r in vanished(ledger, there, invalid)]
    elsewhere = {r for other in folder.parent.glob(f"*/{LEDGER}") for r in _lines(other.parent)}
    once = once_published(folder)
    problems += [f"{LEDGER}: {_gone(r)} vanished from it" for r in vanished(once, elsewhere, invalid)]
    on_boards = len({s.trial_id for b in found.boards for r in b.rows for s in r.sources})
    return Checked(problems, on_boards, _other_libraries(folder))


def check_all(boards: Path) -> dict[str, Checked]:
    """`check` of every board in a folder, by name. The empty name: records of boards that were removed."""
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
        "index.html contains other releases of itables or plotly than are installed here; their text was not "
        "compared. --rebuild inserts the installed ones."
    ]


def _lines(folder: Path) -> set[Named]:
    try:
        return read_ledger(folder)
    except RecordError:
        return set()  # reported by the check of that board


def _gone(record: Named) -> str:
    return f"record {record[0]} (digest {record[1][:12]})"


__all__ = ["GIVES", "Checked", "Published", "check", "check_all", "files", "publish"]
