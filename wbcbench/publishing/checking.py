"""`wbcbench leaderboard verify`: every check of a pack, in order, from the outermost in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wbcbench.errors import UnknownNameError, UsageError, WbcbenchError
from wbcbench.publishing.archive import Limits
from wbcbench.publishing.asked import Asked
from wbcbench.publishing.duplicates import SolvedOnce
from wbcbench.publishing.own_code import Installed, strange_code
from wbcbench.publishing.record_checks import check_record
from wbcbench.publishing.reference_checks import check_against, check_among
from wbcbench.publishing.seeds import told_of_seeds
from wbcbench.publishing.unpack import PACK, unpack
from wbcbench.publishing.verdict import Judge
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
from wbcbench.scheduling.fit import declared
from wbcbench.spec import Trial

NO_REFERENCE = "no reference store was given (--against DIR): labels, split, copies and jumps were not compared"


@contextmanager
def checked(
    path: Path,
    reference: Store | None,
    solved_once: SolvedOnce,
    limits: Limits | None = None,
    asked: Asked | None = None,
    installed: Installed | None = None,
) -> Iterator[tuple[Judge, list[Record], tuple[str, ...]]]:
    """Judge a pack. While the block runs, its records lie in a temporary folder.

    Args:
        path: the pack.
        reference: a store that is trusted, to compare with.
        solved_once: see `duplicates.SolvedOnce`.
        limits: of sizes; by default those of `Limits`.
        asked: what the reference was published for, if it is a published board.
        installed: wbcbench's own components here, to compare with what the pack says of its; None: not compared.

    Yields:
        The judge, the records that were not refused by themselves, and the trial ids that were submitted.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"Expected a pack, but {path} is no file. `wbcbench submit RECORD...` makes one.")
    judge = Judge()
    with tempfile.TemporaryDirectory(prefix="wbcbench-pack-") as folder:
        limits = limits or Limits()
        manifest = unpack(path, Path(folder), judge, limits)
        records: list[Record] = []
        if manifest is not None:
            for trial_id in sorted(manifest.records):
                record = check_record(Path(folder) / "records" / trial_id, manifest, judge, limits)
                records += [] if record is None else [record]
            check_among(records, reference, judge, solved_once, PACK)
            if installed is not None:
                judge.run("pack.components", PACK, lambda: strange_code(records, installed))
            if reference is not None:
                related = check_against(records, reference, judge, solved_once, PACK)
                submitted = () if manifest is None else manifest.submitted
                judge.consequences += told_of_seeds(records, submitted, related, asked)
            else:
                # Labels that a stranger made up agree with themselves: without a reference nobody can tell.
                judge.run("reference.labels", PACK, lambda: [("look", NO_REFERENCE)])
            if not any(f"records/{i}/model.safetensors" in manifest.files for i in manifest.records):
                judge.notes.append("Weights were not packed; --rerun would train again.")
        yield judge, records, tuple(manifest.submitted) if manifest is not None else ()


def solved_once_by(registry: Registry) -> SolvedOnce:
    """Ask the components that are installed here; of unknown ones, no."""

    def answer(trial: Trial) -> bool:
        try:
            return declared(registry, "fusion", trial.method.fusion).trained == "once"
        except (UnknownNameError, WbcbenchError):
            return False

    return answer


__all__ = ["checked", "solved_once_by"]
