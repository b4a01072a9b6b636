"""A pack as a store: unpacked into a temporary folder, every record in it checked by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wbcbench.errors import RecordError
from wbcbench.publishing.archive import Limits
from wbcbench.publishing.pack import Manifest
from wbcbench.publishing.record_checks import check_record
from wbcbench.publishing.unpack import Unpacked, unpack
from wbcbench.publishing.verdict import Judge
from wbcbench.records.store import Store


@contextmanager
def opened(pack: Path) -> Iterator[tuple[Unpacked, Manifest]]:
    """The pack's records as a store, gone after the block.

    Raises:
        RecordError: the pack, or a record in it, is missing or not what it says.
    """
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
        yield Unpacked(into), manifest


@contextmanager
def reference_at(path: Path) -> Iterator[Store]:
    """The records to compare with: a store's, a published board's, or a pack's.

    Raises:
        RecordError: there are none, or the pack is not what it says.
    """
    pack = path / "records.zip" if path.is_dir() else path
    if (path / "records").is_dir():
        yield Store(path)
    elif pack.is_file():
        with opened(pack) as (store, _):
            yield store
    else:
        raise RecordError(f"Expected a store with records, or a published board, in {path}, but there is none.")


__all__ = ["opened", "reference_at"]
