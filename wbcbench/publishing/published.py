"""A published board: a folder that holds the tables, and the records from which anybody can make them again.

    README.md        the tables, how they were made, how to check them
    board.csv  board.json  index.html
    protocol.json    what was asked for: boards, metric, seeds, resamples
    records.zip      the records and their teachers', without weights, as `wbcbench submit` packs them
    evaluations/  searches/    what stands beside the records: missing modalities, search budgets

The tables are always made from `records.zip`, never from the store, so that `check` on a clean clone does exactly
what `publish` did. Same records, same bytes.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from wbcbench.errors import ComparabilityError, RecordError, UsageError
from wbcbench.leaderboard.build import report
from wbcbench.leaderboard.formats import View, render
from wbcbench.leaderboard.formats.html.page import without_libraries
from wbcbench.leaderboard.invalid import read_invalid
from wbcbench.leaderboard.model import Report
from wbcbench.leaderboard.options import Options
from wbcbench.publishing.archive import Limits
from wbcbench.publishing.pack import Manifest, write_pack
from wbcbench.publishing.readme import readme
from wbcbench.publishing.record_checks import check_record
from wbcbench.publishing.unpack import unpack
from wbcbench.publishing.verdict import Judge
from wbcbench.records.atomic import atomic_write_bytes
from wbcbench.records.schema import Strict
from wbcbench.records.store import Record, Store

PACK, PROTOCOL, INVALID = "records.zip", "protocol.json", "invalid.yaml"
BESIDE = ("evaluations", "searches")


class Asked(Strict):
    """What a board was asked to show; `protocol.json`."""

    schema_version: Literal[1] = 1
    title: str = Field(min_length=1, max_length=200)
    by: str = "macro_f1"
    seeds: tuple[int, ...] | None = None
    keys: tuple[str, ...] = ()
    where: dict[str, str] = {}
    resamples: int = 10_000


@dataclass(frozen=True)
class Checked:
    """What `check` found; nothing if the folder is what its records give."""

    problems: list[str]
    records: int


def publish(folder: Path, stores: list[Path], asked: Asked) -> tuple[Report, Manifest]:
    """Pack the records of the boards that were asked for, and write the folder from that pack.

    Raises:
        ComparabilityError: a record that was published before is not there any more, and not struck out either.
        RecordError: a record, or a teacher's, is missing or bad.
        UsageError: no board is like that.
    """
    invalid = _invalid(folder)
    options = Options(keys=asked.keys, where=asked.where, seeds=asked.seeds, by=asked.by, statistics=False,
                      details=False, verify="full")  # fmt: skip
    chosen = report(stores, options)
    sources = {s.trial_id: s.path for b in chosen.boards for r in b.rows for s in r.sources if s.path is not None}
    if not sources:
        raise UsageError("No record is on a board like that. `wbcbench leaderboard` shows which boards there are.")
    records = [Store(path.parent.parent).load(name, verify="full") for name, path in sorted(sources.items())]
    with tempfile.TemporaryDirectory(prefix="wbcbench-publish-") as name:
        new = Path(name)
        manifest = write_pack(records, new / PACK)
        _nothing_lost(folder, manifest, invalid)
        _copy_beside(records, new)
        made = {**_files(new, asked, invalid), PACK: (new / PACK).read_bytes()}
        made |= {str(p.relative_to(new)): p.read_bytes() for b in BESIDE for p in (new / b).rglob("*.json")}
        found = Report.model_validate_json(made["board.json"])
    for old in BESIDE:
        shutil.rmtree(folder / old, ignore_errors=True)
    for file, data in sorted(made.items()):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(folder / file, data)
    return found, manifest


def check(folder: Path) -> Checked:
    """Make the folder's files again from its records, and name every file that is not what comes out.

    Of `index.html` all but the libraries in it is compared: another release of theirs is no other board.

    Raises:
        UsageError: this is no published board.
    """
    asked = read_asked(folder)
    try:
        made = _files(folder, asked, _invalid(folder))
    except RecordError as error:
        return Checked([f"{PACK}: {error}"], 0)
    problems = []
    for file, data in sorted(made.items()):
        path = folder / file
        if not path.is_file():
            problems.append(f"{file} is missing")
        elif _comparable(file, path.read_bytes()) != _comparable(file, data):
            problems.append(f"{file} is not what {PACK} gives")
    known = {*made, PACK}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in known and name.split("/")[0] not in BESIDE and name not in ("FINDINGS.md",):
            problems.append(f"{name} does not belong to a published board")
    report_ = Report.model_validate_json(made["board.json"])
    return Checked(problems, len({s.trial_id for b in report_.boards for r in b.rows for s in r.sources}))


def read_asked(folder: Path) -> Asked:
    """What a published board was asked to show. Raises `UsageError`."""
    try:
        return Asked.model_validate_json((folder / PROTOCOL).read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"Expected a published board in {folder}, but {PROTOCOL} cannot be read ({error}). "
            "`wbcbench leaderboard publish --name NAME --store STORE` makes one."
        ) from error


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    """The records of a published board as a store, each of them checked; gone after the block.

    Raises:
        RecordError: the pack or a record in it is not what it says.
    """
    if not (folder / PACK).is_file():
        raise RecordError("is missing")
    judge = Judge()
    with tempfile.TemporaryDirectory(prefix="wbcbench-board-") as name:
        into = Path(name)
        manifest = unpack(folder / PACK, into, judge, Limits())
        if manifest is not None:
            for trial in sorted(manifest.records):
                check_record(into / "records" / trial, manifest, judge, Limits())
        bad = [f for f in judge.findings if f.level == "refuse"]
        if manifest is None or bad:
            first = bad[0]
            raise RecordError(f"{first.check}, {first.where}: {first.text}")
        for beside in BESIDE:
            if (folder / beside).is_dir():
                shutil.copytree(folder / beside, into / beside)
        yield into, manifest


def _files(folder: Path, asked: Asked, invalid: dict[str, str]) -> dict[str, bytes]:
    """File -> content, made from the pack in a folder."""
    with opened(folder) as (store, manifest):
        options = Options(by=asked.by, seeds=asked.seeds, keys=asked.keys, where=asked.where, statistics=True,
                          details=True, resamples=asked.resamples, verify="full", packed=True,
                          invalid=invalid)  # fmt: skip
        found = report([store], options)
    return {
        "board.csv": render(found, "csv"),
        "board.json": render(found, "json"),
        "index.html": render(found, "html"),
        "README.md": readme(found, asked.title, manifest, render(found, "markdown", View()).decode()),
        PROTOCOL: (asked.model_dump_json(indent=2) + "\n").encode(),
    }


def _comparable(file: str, data: bytes) -> bytes:
    return without_libraries(data.decode(errors="replace")).encode() if file == "index.html" else data


def _nothing_lost(folder: Path, manifest: Manifest, invalid: dict[str, str]) -> None:
    if not (folder / PACK).is_file():
        return
    with opened(folder) as (_, old):
        gone = {t: d for t, d in old.records.items() if manifest.records.get(t) != d}
    lost = [t for t, d in gone.items() if t not in invalid and d not in invalid]
    if lost:
        raise ComparabilityError(
            f"{len(lost)} records that {folder} was made from are not in the given stores any more, or differ: "
            f"{', '.join(lost[:5])}. Give their store too (--store), or strike them out with a reason in "
            f"{folder.parent / INVALID}."
        )


def _invalid(folder: Path) -> dict[str, str]:
    path = folder.parent / INVALID
    return read_invalid(path) if path.is_file() else {}


def _copy_beside(records: list[Record], new: Path) -> None:
    roots = {r.path.parent.parent for r in records}
    ids = {r.trial.id for r in records}
    for record in records:
        source = record.path.parent.parent / "evaluations" / f"{record.trial.id}.json"
        if source.is_file():
            (new / "evaluations").mkdir(exist_ok=True)
            shutil.copyfile(source, new / "evaluations" / source.name)
    for root in sorted(roots):
        for source in sorted(root.glob("searches/*/winner.json")):
            if ids & set(re.findall(r"\b[0-9a-f]{16}\b", source.read_text(encoding="utf-8"))):
                target = new / "searches" / source.parent.name / source.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


__all__ = ["INVALID", "PACK", "Asked", "Checked", "check", "opened", "publish", "read_asked"]
