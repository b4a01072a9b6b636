"""The pack: records of a submission in one zip, without pickles and without code.

    manifest.json                 schema version, wbcbench version, SHA-256 of every file, digests of the records
    records/<trial id>/<file>     as in a store; `model.safetensors` only if requested
    searches/<study>/winner.json  the budget of the search that found some of the trials

Equal records give equal bytes: files are sorted by name, stored uncompressed (compressors differ between
machines), and without times.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Literal

from wbcbench import __version__
from wbcbench.boards.find import find_records as find
from wbcbench.errors import RecordError, UsageError
from wbcbench.files import TEMPORARY, storing
from wbcbench.publishing.side_files import STUDY, joined, of_trials, retrained
from wbcbench.records.schema import FILES, Strict
from wbcbench.records.store import Record, Store

PACK_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
WINNER = "winner.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)

_MEBI = 1 << 20
SIZES = {
    MANIFEST: 4 * _MEBI,
    "spec.json": 1 * _MEBI,
    "result.json": 4 * _MEBI,
    "history.csv": 8 * _MEBI,
    "env.json": 1 * _MEBI,
    "predictions.npz": 520 * _MEBI,
    WEIGHTS: 1024 * _MEBI,
    WINNER: 1 * _MEBI,
}
"""Largest size of each file in bytes, unpacked."""


class Manifest(Strict):
    """The content of `manifest.json`."""

    schema_version: Literal[1] = PACK_VERSION
    wbcbench: str
    """The version that made the pack."""
    submitted: list[str]
    """Ids of the submitted trials; the other records are their teachers'."""
    records: dict[str, str]
    """Trial id -> digest of the record."""
    files: dict[str, str]
    """Name in the pack -> SHA-256, of every file but the manifest."""


def allowed_size(name: str) -> int | None:
    """Largest size in bytes of a file with this name; None: not allowed in a pack."""
    if name == MANIFEST:
        return SIZES[MANIFEST]
    if re.fullmatch(f"searches/{STUDY}/{re.escape(WINNER)}", name):
        return SIZES[WINNER]
    match = re.fullmatch(r"records/[0-9a-f]{16}/([a-z.]+)", name)
    return SIZES.get(match[1]) if match and match[1] in FILES else None


def find_records(name: str, store: Store) -> list[Record]:
    """A record by its folder, or by its trial id (or a prefix of it) in a store; or all seeds of a method by its
    name. Every metric is recomputed.

    Raises:
        UsageError: no trial or method matches, or more than one does, or it is a search's sealed trial.
        RecordError: a record is invalid.
    """
    found = find(name, store, verify="full")
    for record in found:
        if record.result.status == "sealed":
            won = ", ".join(retrained(record.path.parent.parent, record.trial.id))
            raise UsageError(
                f"Expected a record with test results, but {record.trial.id} is sealed: a search's "
                "proposal. "
                + (f"It won, so submit its retrained trials: {won}." if won else "It did not win its search.")
            )
    return found


def with_teachers(records: Iterable[Record], store_of: Callable[[Path], Store] = Store) -> list[Record]:
    """The records and those of their teachers, recursively, from the store of each record; sorted by id.

    Args:
        records: of one or more stores.
        store_of: the store at a root.

    Raises:
        RecordError: a teacher's record is missing or invalid, so its students cannot be checked.
    """
    found: dict[str, Record] = {}
    queue = list(records)
    while queue:
        record = queue.pop()
        found.setdefault(record.trial.id, record)
        store = store_of(record.path.parent.parent)
        for teacher in record.trial.method.teachers:
            if teacher.id in found:
                continue
            try:
                queue.append(store.load(teacher.id, verify="full"))
            except RecordError as error:
                aside = store.root / "irreproducible" / teacher.id
                raise RecordError(
                    f"Expected the record of teacher {teacher.id} in the store of its student {record.trial.id}, "
                    f"but: {error}"
                    + (f" Two records of it disagree: resolve {aside} first." if aside.is_dir() else "")
                ) from error
    return [found[i] for i in sorted(found)]


def write_pack(
    records: Iterable[Record], path: Path, *, weights: bool = False, store_of: Callable[[Path], Store] = Store
) -> Manifest:
    """Pack records and their teachers' records; the file is written atomically.

    Args:
        records: the submitted records.
        path: of the pack.
        weights: whether to include weights.
        store_of: the store at a root.

    Raises:
        UsageError: weights are requested, but a record has none.
        RecordError: a record, or a teacher's, is missing or changed since it was read.
        WbcbenchError: the file system refuses.
    """
    asked = list(records)
    whole = with_teachers(asked, store_of)
    if weights and (bare := [r.trial.id for r in whole if not (r.path / WEIGHTS).is_file()]):
        raise UsageError(
            f"Expected records with {WEIGHTS}, but {bare[0]} has none: published boards keep no weights. Omit "
            "--weights, or use the store that the board was made from."
        )
    return write_records(whole, {r.trial.id for r in asked}, path, weights=weights, searches=_searches(whole))


def _searches(records: Sequence[Record]) -> dict[str, bytes]:
    """Study -> its `winner.json`, restricted to these records' trials, from the records' stores."""
    ids = {r.trial.id for r in records}
    found: dict[str, list[bytes]] = {}
    for root in dict.fromkeys(r.path.parent.parent for r in records):
        for path in sorted(root.glob("searches/*/winner.json")):
            own = of_trials(path.read_bytes(), ids)
            if own is not None and re.fullmatch(STUDY, path.parent.name):
                found.setdefault(path.parent.name, []).append(own)
    return {study: joined(files) for study, files in found.items()}


def write_records(
    records: Sequence[Record],
    submitted: Set[str],
    path: Path,
    *,
    weights: bool = False,
    searches: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Pack exactly these records, sorted by id. Raises as `write_pack`.

    `submitted`: ids of the submitted trials; `searches`: study -> `winner.json`.
    """
    everything = sorted(records, key=lambda r: r.trial.id)
    names = [n for n in FILES if weights or n != WEIGHTS]
    sources: dict[str, Path | bytes] = {f"records/{r.trial.id}/{n}": r.path / n for r in everything for n in names}
    sources |= {f"searches/{study}/{WINNER}": data for study, data in (searches or {}).items()}
    temporary = path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}"
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            manifest = Manifest(
                wbcbench=__version__,
                submitted=sorted(submitted),
                records={r.trial.id: r.result.digest for r in everything},
                files={name: _sha256(source) for name, source in sorted(sources.items())},
            )
            with zipfile.ZipFile(temporary, "x") as archive:
                archive.writestr(_info(MANIFEST), manifest.model_dump_json(indent=2) + "\n")
                for name, source in sorted(sources.items()):
                    with _opened(source) as data, archive.open(_info(name, source), "w") as member:
                        while piece := data.read(1 << 20):
                            member.write(piece)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return manifest


def _info(name: str, source: Path | bytes | None = None) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.create_system = 3  # the same on every machine, so that the bytes are equal
    info.external_attr = 0o100644 << 16
    info.file_size = source.stat().st_size if isinstance(source, Path) else len(source or b"")
    return info


def _sha256(source: Path | bytes) -> str:
    with _opened(source) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(source: Path | bytes) -> io.BufferedReader | io.BytesIO:
    return open(source, "rb") if isinstance(source, Path) else io.BytesIO(source)


__all__ = [
    "MANIFEST", "PACK_VERSION", "SIZES", "WEIGHTS", "WINNER", "Manifest", "allowed_size", "find_records",
    "with_teachers",
    "write_pack", "write_records",
]  # fmt: skip
