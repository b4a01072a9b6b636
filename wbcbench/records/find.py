"""A record by what people call it."""

from __future__ import annotations

from pathlib import Path

from wbcbench.errors import UsageError
from wbcbench.records.store import Record, Store, Verify


def find_record(name: str | Path, store: Path, verify: Verify = True) -> Record:
    """A record by its folder, or by its trial id (or the beginning of one) in a store.

    Raises:
        UsageError: nothing, or more than one record, goes by that name.
        RecordError: it is not what it claims.
    """
    folder = Path(name)
    if folder.is_dir() and (folder / "result.json").exists():
        folder = folder.resolve()
        return Store(folder.parent.parent).load(folder.name, verify)
    base, start = store / "records", str(name)
    found = sorted(p.name for p in base.iterdir() if p.name.startswith(start)) if base.is_dir() and start else []
    if len(found) != 1:
        what = f"{len(found)} records begin so: {', '.join(found[:5])}" if found else "none does"
        raise UsageError(
            f"Expected a record's folder, or the beginning of one trial id in {store}, but got {start!r}; {what}. "
            "`wbcbench leaderboard --json` lists the ids; --store chooses another store."
        )
    return Store(store).load(found[0], verify)


__all__ = ["find_record"]
