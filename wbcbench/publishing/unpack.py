"""Unpack an untrusted zip to a folder with known file names and limited sizes: the first half of `verify`."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from wbcbench.publishing import archive as zips
from wbcbench.publishing.archive import Limits
from wbcbench.publishing.pack import MANIFEST, PACK_VERSION, WEIGHTS, WINNER, Manifest, allowed_size
from wbcbench.publishing.side_files import check_winners, told_of_winners
from wbcbench.publishing.verdict import Judge, Problem, shown
from wbcbench.records.schema import FILES, RESULT
from wbcbench.records.store import Record, Store, Verify
from wbcbench.records.verify import read_result, read_trial

PACK = "the pack"


def unpack(path: Path, into: Path, judge: Judge, limits: Limits) -> Manifest | None:
    """Unpack a pack if it is safe. None: it was refused, and `judge` has the reasons.

    Nothing is written before the archive's whole directory has been checked. Only files named in `FILES` are
    written, in folders with trial ids as names.
    """
    opened: list[zipfile.ZipFile] = []

    def directory() -> Iterator[Problem]:
        archive, problems = zips.open_archive(path, limits)
        yield from problems
        if archive is not None:
            opened.append(archive)
            yield from zips.overlaps(archive)

    fine = judge.run("archive.directory", PACK, directory)
    if not opened:
        return None
    with opened[0] as archive:
        # All of them are run, so that the report lists all problems of the directory.
        fine &= judge.run("archive.names", PACK, lambda: zips.names(archive, allowed_size))
        fine &= judge.run("archive.kinds", PACK, lambda: zips.kinds(archive))
        fine &= judge.run("archive.sizes", PACK, lambda: zips.sizes(archive, allowed_size, limits))
        digests: dict[str, str] = {}
        manifest: list[Manifest] = []
        if not fine:
            return None
        # Before the rest is unpacked: creating and removing files is slow.
        if MANIFEST in archive.namelist():
            only = [archive.getinfo(MANIFEST)]
            if not judge.run("archive.content", PACK, lambda: _content(archive, only, into, digests)):
                return None
        if not judge.run("manifest.schema", MANIFEST, lambda: _manifest(archive, into, manifest)):
            return None
        rest = [info for info in archive.infolist() if info.filename != MANIFEST]
        if not judge.run("archive.content", PACK, lambda: _content(archive, rest, into, digests)):
            return None
    judge.run("manifest.digests", MANIFEST, lambda: _digests(manifest[0], digests))
    searches = sorted(into.glob(f"searches/*/{WINNER}"))
    if searches and judge.run("pack.searches", PACK, lambda: _searches(searches, set(manifest[0].records))):
        judge.notes += [line for path in searches for line in told_of_winners(path.read_bytes())]
    return manifest[0]


class Unpacked(Store):
    """A store of records that were checked when they were unpacked, and that may lack their weights."""

    packed: ClassVar[bool] = True

    def __init__(
        self, root: Path | str, origin: Path | None = None, struck_out: Mapping[str, str] | None = None
    ) -> None:
        """Args: the folder it was unpacked to; the pack or board it came from; see `Store.struck_out`."""
        super().__init__(root, origin)
        self.struck_out = {} if struck_out is None else struck_out

    def has(self, trial_id: str) -> bool:
        """Whether the record exists."""
        return (self.record_path(trial_id) / RESULT).is_file()

    @staticmethod
    def _load(folder: Path, verify: Verify) -> Record:
        return Record(folder, read_trial(folder), read_result(folder))


def _content(
    archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], into: Path, digests: dict[str, str]
) -> Iterator[Problem]:
    """Write files in pieces, and store the SHA-256 of each in `digests`."""
    for info in members:
        target = into / info.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with archive.open(info) as member, open(target, "xb") as file:
                for piece in zips.pieces(member, info.file_size):
                    digest.update(piece)
                    file.write(piece)
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, zlib.error) as error:
            yield "refuse", f"{info.filename} cannot be read ({error})"
            return
        if target.stat().st_size != info.file_size:
            yield "refuse", f"{info.filename} does not have the size that the archive states"
        digests[info.filename] = digest.hexdigest()


def _manifest(archive: zipfile.ZipFile, into: Path, found: list[Manifest]) -> Iterator[Problem]:
    there = set(archive.namelist())
    if MANIFEST not in there:
        yield "refuse", f"there is no {MANIFEST}; `wbcbench submit` creates packs"
        return
    document = strict_json((into / MANIFEST).read_bytes())
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != PACK_VERSION:
        yield "refuse", f"has schema version {version!r}; this wbcbench reads version {PACK_VERSION}"
        return
    try:
        manifest = Manifest.model_validate_json((into / MANIFEST).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        yield "refuse", f"does not follow the schema ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        return
    there -= {MANIFEST}
    for what, names in (("lists", set(manifest.files) - there), ("does not list", there - set(manifest.files))):
        for name in sorted(names):
            yield "refuse", f"{what} {name}, which is {'not ' if what == 'lists' else ''}in the pack"
    folders = {name.split("/")[1] for name in there if name.startswith("records/")}
    if folders != set(manifest.records):
        yield "refuse", f"lists the records {sorted(manifest.records)}, but the pack has {sorted(folders)}"
    for folder in sorted(folders):
        for file in FILES:
            if f"records/{folder}/{file}" not in there and file != WEIGHTS:
                yield "refuse", f"record {folder} has no {file}"
    if not manifest.submitted or not set(manifest.submitted) <= folders:
        yield "refuse", "lists submitted records that are missing, or none"
    found.append(manifest)


def _digests(manifest: Manifest, digests: dict[str, str]) -> Iterator[Problem]:
    for name, stated in manifest.files.items():
        if digests.get(name) != stated:
            yield "refuse", f"{name} has SHA-256 {digests.get(name)}, but the manifest has {shown(stated, 64)}"


def _searches(paths: list[Path], trials: set[str]) -> Iterator[Problem]:
    yield from check_winners({p.parent.name: strict_json(p.read_bytes()) for p in paths}, trials)


DEEPEST = 100
"""Largest depth of a JSON document. A teacher in a specification is three levels deeper than its student."""
_LARGEST_INTEGER = 2**64


def strict_json(data: bytes) -> Any:
    """Parse UTF-8 JSON without duplicate keys, NaN and infinity, of limited depth and size of numbers.

    Other readers of the file then get the same document: encodings are not guessed, and no limit of theirs is met.

    Raises:
        ValueError: it is not valid.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise ValueError("an object has a duplicate key, which parsers may read differently")
        return keys

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    def real(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text[:20])

    def whole(text: str) -> int:
        if len(text) > len(str(_LARGEST_INTEGER)) or abs(int(text)) >= _LARGEST_INTEGER:
            raise ValueError(f"{text[:20]}... is an integer of more than 64 bits")
        return int(text)

    text = data.decode("utf-8")  # json.loads would also accept UTF-16, UTF-32 and a byte order mark
    try:
        document = json.loads(
            text, object_pairs_hook=once, parse_constant=refuse, parse_float=real, parse_int=whole
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    level, depth = [document], 0
    while level := [inner for value in level for inner in _inner(value)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"is nested too deeply: more than {DEEPEST} levels")
    return document


def _inner(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


__all__ = ["PACK", "Unpacked", "strict_json", "unpack"]
