"""A pack or a published board as a store: unpacked into a temporary folder, every record checked by itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wbcbench.errors import RecordError
from wbcbench.publishing.archive import Limits
from wbcbench.publishing.asked import invalid_beside
from wbcbench.publishing.beside import BESIDE, PACK
from wbcbench.publishing.pack import Manifest
from wbcbench.publishing.record_checks import check_record
from wbcbench.publishing.unpack import Unpacked, unpack
from wbcbench.publishing.verdict import Judge
from wbcbench.records.store import Store


@contextmanager
def opened(path: Path) -> Iterator[tuple[Unpacked, Manifest]]:
    """The records of a pack, or of a published board's folder, as a store; gone after the block.

    A board comes with what stands beside its records (examinations, searches) and with what `invalid.yaml` strikes
    out, so that reading it gives what its tables say.

    Raises:
        RecordError: the pack, or a record in it, is missing or not what it says.
    """
    board = path if path.is_dir() else None
    pack = path if board is None else board / PACK
    if not pack.is_file():
        raise RecordError(f"{pack.name} is missing.")
    judge = Judge()
    with tempfile.TemporaryDirectory(prefix="wbcbench-opened-") as name:
        into = Path(name)
        manifest = unpack(pack, into, judge, Limits())
        if manifest is not None:
            for trial in sorted(manifest.records):
                check_record(into / "records" / trial, manifest, judge, Limits())
        bad = [f for f in judge.findings if f.level == "refuse"]
        if manifest is None or bad:
            first = bad[0]
            raise RecordError(f"{pack.name} is refused ({first.check}, {first.where}): {first.text}")
        for part in BESIDE if board is not None else ():
            if (path / part).is_dir():
                shutil.copytree(path / part, into / part, dirs_exist_ok=True)
        yield Unpacked(into, path, {} if board is None else invalid_beside(board)), manifest


@contextmanager
def store_at(path: Path) -> Iterator[Store]:
    """A store's folder, a published board's, or a pack, as a store; what was unpacked is gone after the block.

    Raises:
        RecordError: the pack is not what it says.
    """
    if path.is_file() or (not (path / "records").is_dir() and (path / PACK).is_file()):
        with opened(path) as (store, _):
            yield store
    else:
        yield Store(path)


@contextmanager
def stores_at(paths: Sequence[Path]) -> Iterator[list[Store]]:
    """`store_at` of each."""
    with ExitStack() as stack:
        yield [stack.enter_context(store_at(path)) for path in paths]


@contextmanager
def reference_at(path: Path) -> Iterator[Store]:
    """The records to compare with: `store_at`, where there must be some.

    Raises:
        RecordError: there are none, or the pack is not what it says.
    """
    if not (path.is_file() or (path / "records").is_dir() or (path / PACK).is_file()):
        raise RecordError(f"Expected a store with records, or a published board, in {path}, but there is none.")
    with store_at(path) as store:
        yield store


__all__ = ["opened", "reference_at", "store_at", "stores_at"]
