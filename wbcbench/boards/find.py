"""Finds records by what a user typed: an id or the beginning of one, a folder, or a method's name."""

from __future__ import annotations

from pathlib import Path

from wbcbench.boards.text import clean
from wbcbench.errors import UsageError, did_you_mean
from wbcbench.records.schema import RESULT, Result
from wbcbench.records.store import Record, Store, Verify
from wbcbench.spec.trial import method_name

SHOWN = 12
"""Maximum number of records that an error lists."""


def find_record(text: str | Path, store: Store, verify: Verify = True) -> Record:
    """The one finished record that `text` names.

    Args:
        text: a trial's id, a unique beginning of one, the path of a record's folder, or a method's name as
            shown on leaderboards (`independent + logits`) or a unique beginning of one, which gives the seed with
            the best validation score.
        store: where ids and names are looked up.
        verify: how thoroughly the record is checked.

    Raises:
        UsageError: no record matches, or several methods do.
        RecordError: the record is damaged.
    """
    found = _trial(text, store, verify)
    if found is None:
        found = store.load(max(_by_name(str(text), store), key=_validation).trial_id, verify)
    return found


def find_records(text: str | Path, store: Store, verify: Verify = True) -> list[Record]:
    """The finished records that `text` names: one for a trial's id or folder, all seeds for a method's name.

    Arguments and errors are those of `find_record`.
    """
    found = _trial(text, store, verify)
    if found is not None:
        return [found]
    named = sorted(_by_name(str(text), store), key=lambda r: r.seed)
    return [store.load(r.trial_id, verify) for r in named]


def _trial(text: str | Path, store: Store, verify: Verify) -> Record | None:
    """The record of that folder or trial id; None if `text` may be a name."""
    path, text = Path(text), str(text)
    if text and (path / RESULT).is_file():
        return Store.load_folder(path.resolve(), verify)
    base = store.root / "records"
    known = sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
    found = [name for name in known if name.startswith(text)] if text else []
    if text in found or len(found) == 1:
        return store.load(text if text in found else found[0], verify)
    if len(found) > 1:
        raise UsageError(f"Expected the beginning of one record's id, but '{text}' matches {_listed(found)}.")
    return None


def _by_name(text: str, store: Store) -> list[Result]:
    """Every seed of the one method of that name."""
    results = [r.result for r in store.scan(verify=False)[0] if r.result.status == "done"]
    if not results:
        raise UsageError(
            f"Expected records in {store.shown}, but there are none. Name a store with --store, or a record by "
            "its folder or trial id."
        )
    called = [r for r in results if text in (r.title, _plain(r))]
    begun = [r for r in results if text and r.title.startswith(text)]
    named = [r for r in called if r.title == text] or called
    if not named and len({r.title for r in begun}) == 1:
        named = begun
    if len({r.method_id for r in named}) != 1:
        shown = _on_boards(text, store)
        named = [r for r in results if r.trial_id in shown] or named
    if not named:
        names = {r.title for r in begun or results}
        near = "" if begun else did_you_mean(text, names | {r.trial_id for r in results})
        raise UsageError(
            f"No record in {store.shown} is '{text}'.{near} Expected a trial id, a method's name, the beginning "
            f"of one of either, or a folder. {'Matches' if begun else 'Methods here'}: {_listed(sorted(names))}."
        )
    if len({r.method_id for r in named}) > 1:
        lines = [f"\n  {_told(r)}" for r in sorted(named, key=lambda r: (r.key.digest, r.method_id, r.seed))]
        more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise UsageError(
            f"Several methods or protocols are called '{text}'. Give a trial id:{''.join(lines[:SHOWN])}{more}"
        )
    return named


def _told(r: Result) -> str:
    """A record for a choice: its id, then what distinguishes it."""
    return clean(
        f"{r.trial_id} {r.title}, seed {r.seed}, backbone {r.backbone}; {r.dataset}: "
        f"{' + '.join(r.key.modalities)}, {r.key.image_size} px, {r.key.budget.epochs} epochs (key {r.key.digest})"
    )


def _plain(result: Result) -> str:
    """The method's name without its single modality: `early + logits`."""
    return method_name(result.fusion, result.kd, result.policies)


def _on_boards(text: str, store: Store) -> set[str]:
    """The trials of the rows with this name on boards, which may include a backbone or parameters."""
    from wbcbench.boards import Options, report

    found = report([store], Options(verify="quick", statistics=False, details=False, index=False))
    return {s.trial_id for board in found.boards for row in board.rows if row.name == text for s in row.sources}


def _validation(result: Result) -> float:
    metric = result.key.judged_by
    value = result.metrics["val"][metric] or 0.0
    return -value if metric == "nll" else value


def _listed(ids: list[str]) -> str:
    return ", ".join(sorted(ids)[:6]) + (" ..." if len(ids) > 6 else "")


__all__ = ["find_record", "find_records"]
