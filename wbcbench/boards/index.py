"""`<store>/index/records.json`: what was read from every record, so that only new and changed ones are read again.

Safe to delete: results are the same with and without it. A record whose files changed in any way is read again,
and the index of a copied store matches no file here, so only what this machine has checked itself is trusted. The
file contains its own SHA-256: otherwise one flipped bit could change a number on a board.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os import cpu_count
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from wbcbench.boards.entries import Entry, Read, Sealed, read, stamp
from wbcbench.boards.options import Checked
from wbcbench.errors import RecordError, WbcbenchError
from wbcbench.files import atomic_write_bytes
from wbcbench.records.schema import ComparisonKey, Used
from wbcbench.records.store import Store

INDEX_VERSION = 4
_LEVEL: dict[Checked, int] = {"quick": 0, "files": 1, "full": 2}
_SIGNATURE = b'{"sha256":"%s",'
_SIGNED = len(_SIGNATURE % bytes(64))
_PARALLEL = 3000
"""Number of records above which several processes read them."""
_CHUNK = 500
"""Records per chunk of one process."""


class IndexFile(BaseModel):
    """The document."""

    version: Annotated[int, Field(ge=INDEX_VERSION, le=INDEX_VERSION)] = INDEX_VERSION
    keys: dict[str, ComparisonKey] = {}
    components: dict[str, tuple[Used, ...]] = {}
    entries: dict[str, Entry] = {}
    sealed: dict[str, Sealed] = {}


@dataclass
class Contents:
    """The contents of a store."""

    entries: list[Entry] = field(default_factory=list)
    """By trial id."""
    keys: dict[str, ComparisonKey] = field(default_factory=dict)
    components: dict[str, tuple[Used, ...]] = field(default_factory=dict)
    sealed: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Folder name and reason."""
    read: int = 0
    """How many records were read; the others were in the index."""


def contents(
    store: Store, verify: Checked | None = None, use_index: bool = True, packed: bool = False
) -> Contents:
    """Everything in a store; new and changed records are read and checked, and the index is updated.

    Args:
        store: the store.
        verify: how thoroughly every record must have been checked; None: by their number, see `level_for`.
            Records that were checked more thoroughly before are reported at this level only, since results must
            not depend on earlier calls.
        use_index: False: read everything and write nothing.
        packed: records were checked already, and may lack their weights.
    """
    folders = store.folders()
    level = verify or level_for(len(folders))
    path = store.root / "index" / "records.json"
    old = _load(path) if use_index else IndexFile()
    found = Contents()
    known: dict[str, Entry] = {}
    sealed: dict[str, Sealed] = {}
    to_read: list[Path] = []
    for folder in folders:
        try:
            mark = stamp(folder, packed)
        except RecordError as error:
            found.refused.append((folder.name, str(error)))
            continue
        entry = old.entries.get(folder.name)
        if entry is not None and entry.stamp == mark and _LEVEL[entry.checked] >= _LEVEL[level]:
            known[folder.name] = entry
        elif folder.name in old.sealed and old.sealed[folder.name].stamp == mark:
            sealed[folder.name] = old.sealed[folder.name]
        else:
            to_read.append(folder)
    keys, components = dict(old.keys), dict(old.components)
    for name, got in _read_all(to_read, level, packed):
        if isinstance(got, Read):
            known[name] = got.entry
            keys.setdefault(got.entry.key, got.key)
            components.setdefault(got.entry.components, got.components)
        elif isinstance(got, Sealed):
            sealed[name] = got
        else:
            found.refused.append((name, got))
    every = [known[name] for name in sorted(known)]
    found.entries = [e if e.checked == level else replace(e, checked=level) for e in every]
    found.keys = {k: keys[k] for k in sorted({e.key for e in found.entries})}
    found.components = {c: components[c] for c in sorted({e.components for e in found.entries})}
    found.sealed, found.read = len(sealed), len(to_read)
    found.refused.sort()
    unchanged = not to_read and len(known) == len(old.entries) and len(sealed) == len(old.sealed)
    if use_index and not unchanged:
        entries = {e.trial_id: e for e in every}
        new = IndexFile.model_construct(
            version=INDEX_VERSION, keys=found.keys, components=found.components, entries=entries, sealed=sealed
        )
        _save(path, new)
    return found


def level_for(count: int) -> Checked:
    """How thoroughly this many records can be checked in about a minute."""
    return "full" if count <= 200 else "files" if count <= 5000 else "quick"


def _read_all(folders: list[Path], level: Checked, packed: bool) -> Iterable[tuple[str, Read | Sealed | str]]:
    workers = min(cpu_count() or 1, 8)
    if len(folders) < _PARALLEL or workers < 2:
        for folder in folders:
            yield folder.name, _read_one(folder, level, packed)
        return
    from joblib import Parallel, delayed

    # joblib's workers do not re-run the caller's script, which may have no `if __name__ == "__main__"`
    pool = Parallel(workers, backend="loky", return_as="generator", batch_size=1)
    chunks = (folders[i : i + _CHUNK] for i in range(0, len(folders), _CHUNK))
    for chunk in pool(delayed(_read_chunk)(chunk, level, packed) for chunk in chunks):
        yield from chunk


def _read_chunk(folders: list[Path], level: Checked, packed: bool) -> list[tuple[str, Read | Sealed | str]]:
    """Records with the same key share one object, so that it is sent to the caller's process once per chunk."""
    keys: dict[str, ComparisonKey] = {}
    components: dict[str, tuple[Used, ...]] = {}
    found: list[tuple[str, Read | Sealed | str]] = []
    for folder in folders:
        got = _read_one(folder, level, packed)
        if isinstance(got, Read):
            key = keys.setdefault(got.entry.key, got.key)
            got = Read(got.entry, key, components.setdefault(got.entry.components, got.components))
        found.append((folder.name, got))
    return found


def _read_one(folder: Path, level: Checked, packed: bool) -> Read | Sealed | str:
    try:
        return read(folder, level, packed)
    except (RecordError, OSError) as error:
        return str(error)


def signed(document: bytes) -> bytes:
    """A JSON object with the SHA-256 of the rest as its first key."""
    rest = document.lstrip()[1:]
    return _SIGNATURE % hashlib.sha256(rest).hexdigest().encode() + rest


def _load(path: Path) -> IndexFile:
    try:
        data = path.read_bytes()
        if signed(b"{" + data[_SIGNED:]) != data:
            return IndexFile()
        index = IndexFile.model_validate_json(data)
    except (OSError, ValidationError):
        return IndexFile()
    # An entry is only used with a key whose digest is the one that it names.
    keys = {name: key for name, key in index.keys.items() if key.digest == name}
    sound = {
        name: e
        for name, e in index.entries.items()
        if e.key in keys and e.components in index.components and e.trial_id == name
    }
    return index.model_copy(update={"keys": keys, "entries": sound})


def _save(path: Path, index: IndexFile) -> None:
    # A store that cannot be written can still be read; the next time takes as long.
    with suppress(WbcbenchError):
        atomic_write_bytes(path, signed(index.model_dump_json().encode()))


__all__ = ["INDEX_VERSION", "Contents", "IndexFile", "contents", "level_for", "signed"]
