"""The store and the cache: writable, enough room, nothing damaged or left over."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from wbcbench.doctor.examination import Finding, Findings

if TYPE_CHECKING:
    from wbcbench.records.store import Store

GIB = 2**30
LEAST = GIB
"""Free bytes below which a sweep may not end."""


def store(root: Path, digests: bool = True) -> Findings:
    """Records that are there, damaged ones by name, what failed, and what was interrupted.

    Args:
        root: of the store.
        digests: read every file of every record; else only their results and specifications.
    """
    yield from _room("store", root)
    if not root.is_dir():
        yield Finding("store", "ok", f"{root} does not exist yet; the first run makes it")
        return
    from wbcbench.records.store import Store

    began = time.monotonic()
    good, bad = Store(root).scan(verify=digests)
    seconds = time.monotonic() - began
    for path, error in bad:
        fix = f"move {path} out of the store; the same command trains it again"
        yield Finding("store", "problem", str(error), fix)
    yield from _beside(Store(root), {r.trial.id: r.result.digest for r in good})
    failures = sorted((root / "failures").glob("*")) if (root / "failures").is_dir() else []
    if failures:
        yield Finding("store", "note", f"{len(failures)} trials failed; why is in {root / 'failures'}",
                      "run the same command again: failed trials are tried again")  # fmt: skip
    done = {r.trial.id for r in good}
    work = [p for p in (root / "work").iterdir() if p.name not in done] if (root / "work").is_dir() else []
    if work:
        yield Finding("store", "note", f"{len(work)} trials were interrupted, or are running now",
                      "run the same command again: they go on from their last epoch")  # fmt: skip
    checked = f"digests checked in {seconds:.1f} s" if digests else "digests not checked (--quick)"
    yield Finding("store", "ok", f"{root}: {len(good)} records, {_size(root) / GIB:.1f} GiB, {checked}")


def _beside(store: Store, digests: dict[str, str]) -> Findings:
    """Examinations and studies that cannot be trusted; `digests` are those of sound records."""
    from wbcbench.errors import RecordError
    from wbcbench.records.examinations import read_examination
    from wbcbench.search.files import studies

    for path in sorted((store.root / "evaluations").glob("*.json")):
        try:
            if path.stem in digests:
                read_examination(path, digests[path.stem])
        except RecordError as error:
            fix = f"delete {path}; the same command with --evaluate full makes it again"
            yield Finding("store", "problem", str(error), fix)
    for study in studies(store):
        try:
            study.check()
        except RecordError as error:
            fix = f"restore the file, or delete {study.path}; records stay"
            yield Finding("store", "problem", str(error), fix)


def cache() -> Findings:
    """Where decoded images are kept."""
    from wbcbench.paths import cache_root

    root = cache_root()
    yield from _room("cache", root)
    size = _size(root) / GIB if root.is_dir() else 0.0
    yield Finding("cache", "ok", f"{root}: {size:.1f} GiB; may be deleted at any time")


def _room(about: str, folder: Path) -> Findings:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        yield Finding(about, "problem", f"{folder} cannot be made: {there} is a file", f"move {there} away")
        return
    if not os.access(there, os.W_OK):
        fix = f"chmod u+w {there}" if about == "store" else "export WBCBENCH_CACHE=<a folder of yours>"
        yield Finding(about, "problem", f"{there} cannot be written to", fix)
    free = shutil.disk_usage(there).free
    if free < LEAST:
        text = f"only {free / 2**20:.0f} MiB are free on the disk of {folder}"
        fix = "--store on another disk" if about == "store" else f"rm -r {folder}"
        yield Finding(about, "problem", text, fix)


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue  # gone while we looked
    return total


__all__ = ["cache", "store"]
