"""Sources of a board's records: stores, published boards and packs. Each record is checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wbcbench.boards.build import report
from wbcbench.boards.options import Options
from wbcbench.errors import ComparabilityError, RecordError, UsageError
from wbcbench.files import atomic_write_bytes
from wbcbench.publishing.archive import OWN
from wbcbench.publishing.board_files import PublishOptions, invalid_beside
from wbcbench.publishing.copies import SolvedOnce
from wbcbench.publishing.pack import WEIGHTS, WINNER, Manifest, with_teachers
from wbcbench.publishing.record_checks import check_record
from wbcbench.publishing.side_files import PACK, SIDE_FOLDERS, joined, of_trials
from wbcbench.publishing.standing import read_standing
from wbcbench.publishing.unpack import Unpacked, unpack
from wbcbench.publishing.verdict import Judge
from wbcbench.publishing.verify import Installed, checked
from wbcbench.records.schema import FILES
from wbcbench.records.store import Record, Store
from wbcbench.records.titles import TITLES


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Unpacked, Manifest]]:
    """The records of a pack, or of a published board's folder, as a temporary store, removed after the block.

    For a board, it includes the evaluations and searches, and the records struck out by `invalid.yaml`, so that
    it gives the same tables.

    Raises:
        RecordError: the pack, or a record in it, is missing or invalid.
    """
    board = path if path.is_dir() else None
    pack = path if board is None else board / PACK
    if not pack.is_file():
        raise RecordError(f"{pack.name} is missing.")
    judge = Judge()
    with tempfile.TemporaryDirectory(prefix="wbcbench-opened-") as name:
        into = Path(name)
        manifest = unpack(pack, into, judge, OWN)
        if manifest is not None:
            for trial in sorted(manifest.records):
                check_record(into / "records" / trial, manifest, judge, OWN)
        bad = [f for f in judge.findings if f.level == "refuse"]
        if manifest is None or bad:
            first = bad[0]
            raise RecordError(f"{pack.name} is refused ({first.check}, {first.where}): {first.text}")
        for part in SIDE_FOLDERS if board is not None else ():
            if (path / part).is_dir():
                shutil.copytree(path / part, into / part, dirs_exist_ok=True)
        if board is not None and (board / TITLES).is_file():
            shutil.copyfile(board / TITLES, into / TITLES)
        store = Unpacked(into, path, {} if board is None else invalid_beside(board))
        claims = None if board is None else read_standing(board)
        if claims is not None:
            words = {t: c.standing for t, c in claims.items() if manifest.records.get(t) == c.digest}
            store.standing = {t: words.get(t, "ours") for t in manifest.records}
        yield store, manifest


@contextmanager
def store_at(path: Path) -> Iterator[Store]:
    """A store's folder, a published board's, or a pack, as a store; unpacked files are removed after the block.

    Raises:
        RecordError: the pack is invalid.
    """
    if path.is_file() or (not (path / "records").is_dir() and (path / PACK).is_file()):
        with unpacked(path) as (store, _):
            yield store
    else:
        yield Store(path)


@contextmanager
def stores_at(paths: Sequence[Path]) -> Iterator[list[Store]]:
    """`store_at` for each path."""
    with ExitStack() as stack:
        yield [stack.enter_context(store_at(path)) for path in paths]


@contextmanager
def reference_at(path: Path) -> Iterator[Store]:
    """The records to compare with: as `store_at`, but there must be some.

    Raises:
        RecordError: there are none, or the pack is invalid.
    """
    if not (path.is_file() or (path / "records").is_dir() or (path / PACK).is_file()):
        raise RecordError(f"Expected a store with records, or a published board, in {path}, but there is none.")
    with store_at(path) as store:
        yield store


@dataclass
class Pool:
    """The records of a board that is to be published."""

    store: Unpacked
    invalid: Mapping[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """Trial id -> digest of its record here."""
    roots: list[Path] = field(default_factory=list)
    """Stores of the records, which also have their evaluations and searches."""
    told: list[str] = field(default_factory=list)
    """Notes for the user: records that were left out, findings about packs."""
    torn: dict[str, str] = field(default_factory=dict)
    """Trial id -> which sources disagree."""
    origins: dict[str, str] = field(default_factory=dict)
    """Trial id -> its store or pack, or `the published board`."""
    submitted: set[str] = field(default_factory=set)
    """Trial ids that packs added."""

    def add(self, record: Record, origin: str) -> None:
        """Add a record. A record struck out by its digest is replaced by another one of the same trial."""
        trial, digest = record.trial.id, record.result.digest
        there = self.digests.get(trial)
        if there == digest or (there is not None and not self.invalid.keys().isdisjoint((trial, digest))):
            return
        if there is not None and there not in self.invalid:
            self.torn[trial] = (
                f"{trial} ({record.trial.label}, kd {record.result.kd}, seed {record.trial.seed}): "
                f"{self.origins[trial]} has {there[:12]}, {origin} has {digest[:12]}"
            )
            return
        target = self.store.record_path(trial)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in FILES:
            if name != WEIGHTS:
                shutil.copyfile(record.path / name, target / name)
        self.digests[trial], self.origins[trial] = digest, origin

    def add_board(self, pack: Path) -> Manifest:
        """Add all records of a published board. Raises `RecordError` if the board's pack is invalid."""
        with unpacked(pack) as (store, manifest):
            for trial in sorted(manifest.records):
                self.add(store.load(trial), "the published board")
        return manifest

    def add_pack(
        self, pack: Path, asked: PublishOptions, solved_once: SolvedOnce, installed: Installed | None = None
    ) -> None:
        """Add the records of an untrusted pack, if no check refuses it, compared with the records here.

        Raises:
            ComparabilityError: it is refused.
            UsageError: there is no such file.
        """
        reference = Unpacked(self.store.root) if self.digests else None
        with checked(pack, reference, solved_once, asked=asked, installed=installed) as (judge, records, _):
            bad = [f for f in judge.findings if f.level == "refuse"]
            if bad:
                raise ComparabilityError(
                    f"Expected a pack that can be accepted, but {pack} is refused: {bad[0].check}: {bad[0].text}. "
                    "`wbcbench leaderboard verify` lists all reasons."
                )
            self.told += [f"{pack.name}: look: {f.check}, {f.where}: {f.text}" for f in judge.findings]
            self.told += [f"{pack.name}: {line}" for line in judge.consequences]
            new = {r.trial.id for r in records} - set(self.digests)
            self.submitted |= new
            for record in records:
                self.add(record, pack.name)
            for root in {r.path.parent.parent for r in records}:
                self._add_searches(root, new)

    def _add_searches(self, root: Path, new: set[str]) -> None:
        """Add a pack's search budgets, only for the trials that it added: it must not change those of others."""
        for path in sorted(root.glob(f"searches/*/{WINNER}")):
            own = of_trials(path.read_bytes(), new)
            place = self.store.root / path.relative_to(root)
            if own is not None:
                atomic_write_bytes(place, joined([own, *([place.read_bytes()] if place.is_file() else [])]))
                self.roots = list(dict.fromkeys([*self.roots, self.store.root]))

    def add_stores(
        self, stores: Sequence[Store], options: Options, published: Mapping[str, str], alone: bool
    ) -> None:
        """Add the records of the requested boards, with their teachers, evaluations and searches.

        A published trial of which a store has another record is a conflict, even if it is no longer requested.

        Raises:
            UsageError: no board matches, and there is no other source of records (`alone`).
        """
        if not stores:
            return
        try:
            found = report(stores, options)
        except UsageError:
            if alone:
                raise
            return  # the requested boards are in packs or were published; the stores have others
        self.told += [r.reason for r in found.refused]
        rows = [row for board in found.boards for row in board.rows]
        sources = {s.trial_id: s.path for row in rows for s in row.sources if s.path is not None}
        at = {store.root: store for store in stores}
        records = [at[path.parent.parent].load(name, verify="full") for name, path in sorted(sources.items())]
        for record in with_teachers(records, at.__getitem__):
            self.add(record, at[record.path.parent.parent].shown)
        for store in stores:
            for trial in published:
                if trial not in sources and store.has(trial):
                    try:
                        self.add(store.load(trial, verify="full"), store.shown)
                    except RecordError as error:
                        self.told.append(str(error))
        stay = [t for t in published if t not in sources and not any(s.has(t) for s in stores)]
        if stay:
            self.told.append(f"{len(stay)} published records are in none of the given stores, and are kept.")
        self.roots += at

    def whole(self) -> None:
        """Raise `ComparabilityError` if sources disagree about a trial."""
        if self.torn:
            lines = "\n  ".join(self.torn.values())
            raise ComparabilityError(
                f"Expected one record of each trial, but sources disagree about {len(self.torn)}, which are "
                f"irreproducible:\n  {lines}\nLeave out a source, or strike out the wrong digest in invalid.yaml "
                "next to the board's folder, with the reason."
            )


__all__ = ["Pool", "reference_at", "store_at", "stores_at", "unpacked"]
