"""The store: a folder of immutable records, and the working files of unfinished trials.

    <root>/records/<trial id>/   one complete record each; appears by one atomic rename
    <root>/failures/<id>.json    the last error of a trial, which does not count as done
    <root>/searches/<study>/     proposals, and which of them were pruned; see `wbcbench.searches.files`
    <root>/work/<id>/            checkpoints; may be deleted at any time
    <root>/answers/<digest>.npz  answers of teachers from outside, needed to train their students again
    <root>/replay/<key>/         teachers' stored outputs; may be deleted at any time
    <root>/locks/<id>.lock       held by the process that runs the trial
    <root>/locks/store.mark      a random identifier of this store
    <root>/broken/               incomplete record folders, moved here to make way for a new record

Imports no torch, pandas or scikit-learn, since a dry run checks which trials are done.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from wbcbench.errors import DataError, RecordError, UsageError
from wbcbench.files import (
    ARRAYS,
    TEMPORARY,
    atomic_folder,
    atomic_write_bytes,
    atomic_write_json,
    held,
    json_text,
    storing,
    write_synced,
)
from wbcbench.records import verify as checks
from wbcbench.records.schema import RESULT, Outcome, Result
from wbcbench.spec import Trial

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from wbcbench.evaluation.levelling import Curve

Verify = bool | Literal["full"]
"""False: parse only. True: digests, identity, shapes, ranges. full: recompute every metric too."""


@dataclass(frozen=True)
class Record:
    """One finished trial."""

    path: Path
    trial: Trial
    result: Result

    @cached_property
    def predictions(self) -> dict[str, NDArray[Any]]:
        """Arrays of `predictions.npz`, read on first use.

        `test_probabilities` [N, K] float32, `test_labels` and `test_cells` [N] int64, the same for
        `val_`, and `test_route_<name>` [N, K] per route. `test_groups` [N] int64 (donor, slide or plate) if
        the data set has groups.
        """
        return checks.read_predictions(self.path)

    def weights(self) -> dict[str, Tensor]:
        """The selected epoch's state, on the CPU. Raises `RecordError` if the file cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path / "model.safetensors")
        except (SafetensorError, *ARRAYS) as error:
            raise checks.refuse(self.path, "model.safetensors", f"cannot be read ({error})") from error

    def frame(self, side: Literal["test", "val"] = "test") -> pd.DataFrame:
        """Cells of a split with label, prediction and probabilities; see `frames.cells`."""
        from wbcbench.records.frames import cells

        return cells(self, side)

    def history(self) -> pd.DataFrame:
        """One row per epoch: learning rate, every loss term, metrics on validation cells."""
        from wbcbench.records.frames import history

        return history(self)

    def curve(self) -> Curve | None:
        """The history of the metric that selects epochs, summarised; None if it is too short to judge."""
        from wbcbench.records.frames import validation

        text = checks.read_bytes(self.path, "history.csv").decode(errors="replace")
        return validation(text, self.result.key.judged_by)

    def __repr__(self) -> str:
        from wbcbench.records.frames import summary_text

        return summary_text(self)

    def _repr_html_(self) -> str:
        from wbcbench.records.frames import summary_html

        return summary_html(self)


class Store:
    """Records under one root folder. Creating a `Store` does not access the disk."""

    packed: ClassVar[bool] = False
    """Whether its records were checked when they were unpacked, and may lack their weights."""

    def __init__(self, root: Path | str, shown: Path | str | None = None) -> None:
        """`shown`: the folder as given by the user, for messages; None: `root`."""
        self.root = Path(root)
        self.shown = str(root if shown is None else shown)
        self.struck_out: Mapping[str, str] = {}
        """Trial id or digest -> why it does not count, for the records of a published board."""
        self.standing: Mapping[str, str] | None = None
        """Trial id -> `ours`, `claimed` or `reproduced`, of a published board with a statement."""

    @classmethod
    def fixed(cls, shown: Path | str) -> Store:
        """A store with an absolute root, so that it stays valid if a plugin changes the working directory."""
        return cls(Path(shown).absolute(), shown)

    def record_path(self, trial_id: str) -> Path:
        """The path of the trial's record; it need not exist."""
        return self.root / "records" / _safe(trial_id)

    def has(self, trial_id: str) -> bool:
        """Whether there is a complete record. Fast: checks names and sizes only."""
        return checks.complete(self.record_path(trial_id))

    def load(self, trial_id: str, verify: Verify = True) -> Record:
        """Read a record.

        Raises:
            RecordError: it is missing, incomplete, of another schema, or inconsistent.
        """
        return self._load(self.record_path(trial_id), verify)

    @staticmethod
    def load_folder(folder: Path, verify: Verify = True) -> Record:
        """Read the record in any folder; see `load`."""
        return Store._load(folder, verify)

    def write(
        self,
        trial: Trial,
        outcome: Outcome,
        *,
        predictions: Mapping[str, NDArray[Any]],
        model: Mapping[str, Tensor] | bytes,
        history: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any],
        first: Callable[[Result], object] | None = None,
    ) -> Record:
        """Store a finished trial atomically. An existing record is kept.

        Args:
            trial: the trial that ran.
            outcome: its result.
            predictions: arrays as in `Record.predictions`; probabilities become float32, the rest int64.
            model: state dict, or the bytes of a safetensors file.
            history: one row per epoch; columns are the union of the rows' keys.
            environment: from `wbcbench.records.environment.capture`.
            first: called just before the record appears. It writes what belongs beside the record: written
                afterwards, it would be missing for good if the process were killed in between.

        Raises:
            RecordError: the parts are inconsistent; nothing is stored.
            WbcbenchError: the file system refuses; nothing is stored.
        """
        path = self.record_path(trial.id)
        if self.has(trial.id):
            return self._load(path, verify=True)
        payload = {
            "spec.json": (trial.model_dump_json(indent=2) + "\n").encode(),
            "predictions.npz": predictions_bytes(predictions),
            "model.safetensors": model if isinstance(model, bytes) else _safetensors(model),
            "history.csv": _csv(history).encode(),
            "env.json": json_text(dict(environment)).encode(),
        }
        files = {name: hashlib.sha256(data).hexdigest() for name, data in payload.items()}
        result = Result.build(trial, outcome, files)
        # Never store a record that would be refused on reading: the trial would count as done forever.
        arrays = _typed(predictions)
        checks.check_identity(path, trial, result)
        checks.check_ranges(path, result)
        checks.check_predictions(path, arrays, result)
        self._set_broken_aside(path)
        with atomic_folder(path) as folder:
            for name, data in payload.items():
                write_synced(folder / name, data)
            write_synced(folder / RESULT, (result.model_dump_json(indent=2) + "\n").encode())
            if first is not None:
                first(result)
        self.clear_failure(trial.id)
        return self._load(path, verify=True)

    def folders(self) -> list[Path]:
        """Every folder that may be a record, sorted by name."""
        base = self.root / "records"
        if not base.is_dir():
            return []
        with os.scandir(base) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(TEMPORARY) and e.is_dir())
        return [base / name for name in names]

    def scan(self, verify: Verify = True) -> tuple[list[Record], list[tuple[Path, RecordError]]]:
        """All valid records, by id, and all folders that are not valid records, with the reason."""
        good: list[Record] = []
        bad: list[tuple[Path, RecordError]] = []
        for folder in self.folders():
            try:
                good.append(self._load(folder, verify))
            except RecordError as error:
                bad.append((folder, error))
        return good, bad

    @contextmanager
    def lock(self, trial_id: str, timeout: float = -1, what: str = "") -> Iterator[None]:
        """Lock the trial for this process; released if the process dies. See `wbcbench.files.held`.

        Args:
            trial_id: the trial, or `search-` and the id of a study.
            timeout: seconds to wait for another process; negative: no limit.
            what: for the error: what is locked; default: the trial.

        Raises:
            WbcbenchError: another process still holds the lock after `timeout`.
        """
        with held(self.root / "locks" / f"{_safe(trial_id)}.lock", what or f"trial {trial_id}", timeout):
            yield

    def mark(self, make: bool = True) -> str:
        """A random identifier of this store, by which two machines can tell that they share it.

        Args:
            make: create it if missing; else a missing one gives an empty string.

        Raises:
            WbcbenchError: the file system refuses.
        """
        path = self.root / "locks" / "store.mark"
        if make and not path.is_file():
            atomic_write_bytes(path, secrets.token_hex(8).encode())
        return path.read_text() if path.is_file() else ""

    def work(self, trial_id: str) -> Path:
        """The trial's folder for checkpoints; created if missing."""
        return _made(self.root / "work" / _safe(trial_id))

    def tidy(self, *trial_ids: str) -> None:
        """Remove leftovers of finished trials: checkpoints, and partial files whose writer was killed."""
        for trial_id in trial_ids:
            shutil.rmtree(self.root / "work" / _safe(trial_id), ignore_errors=True)
        ended = set(trial_ids)
        for folder in ("records", "references"):
            for part in (self.root / folder).glob(f"{TEMPORARY}*"):
                if part.name.removeprefix(TEMPORARY).rpartition("-")[0].removesuffix(".npz") in ended:
                    part.unlink(missing_ok=True) if part.is_file() else shutil.rmtree(part, ignore_errors=True)

    def replay_dir(self, key: str) -> Path:
        """The folder for one teacher's stored outputs; created if missing."""
        return _made(self.root / "replay" / _safe(key))

    def answers_path(self, digest: str) -> Path:
        """The path of a teacher's answers from outside, by the SHA-256 of the file; it need not exist."""
        return self.root / "answers" / f"{_safe(digest)}.npz"

    def keep_answers(self, source: Path, digest: str) -> None:
        """Copy a teacher's answers into the store.

        Raises:
            DataError: the file is not the one with this SHA-256 any more.
            WbcbenchError: the file system refuses.
        """
        target = self.answers_path(digest)
        if target.is_file() and target.stat().st_size == source.stat().st_size:
            return
        content = source.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise DataError(f"{source} changed after the run was planned. Run the command again.")
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(target, content)

    def fail(self, trial: Trial, error_text: str) -> None:
        """Store why a trial failed. The trial does not count as done."""
        atomic_write_json(
            self._failure(trial.id),
            {
                "trial_id": trial.id,
                "label": trial.label,
                "seed": trial.seed,
                "fold": trial.fold,
                "error": error_text,
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "spec": trial.model_dump(mode="json"),
            },
        )

    def has_failed(self, trial_id: str) -> bool:
        """Whether the trial's last attempt failed."""
        return self._failure(trial_id).is_file()

    def clear_failure(self, trial_id: str) -> None:
        """Remove a stored failure, if there is one."""
        path = self._failure(trial_id)
        with storing(path):
            path.unlink(missing_ok=True)

    def _failure(self, trial_id: str) -> Path:
        return self.root / "failures" / f"{_safe(trial_id)}.json"

    def _set_broken_aside(self, path: Path) -> None:
        if not path.exists() or checks.complete(path):
            return
        with storing(path):
            aside = _made(self.root / "broken") / f"{path.name}-{secrets.token_hex(4)}"
            os.rename(path, aside)

    @staticmethod
    def _load(folder: Path, verify: Verify) -> Record:
        if not folder.is_dir():
            raise RecordError(f"Expected a record in {folder}, but there is none. Run the trial first.")
        result = checks.read_result(folder)
        if not verify:
            return Record(folder, checks.read_trial(folder), result)
        checks.check_files(folder, result)
        record = Record(folder, checks.read_trial(folder), result)
        checks.check_identity(folder, record.trial, result)
        checks.check_ranges(folder, result)
        checks.check_predictions(folder, checks.read_predictions(folder), result)
        if verify == "full":
            checks.check_metrics(folder, record.predictions, result)
        return record


def predictions_bytes(predictions: Mapping[str, NDArray[Any]]) -> bytes:
    """The `.npz` file of these arrays: equal arrays give equal bytes, whatever their order and the time."""
    import numpy as np

    buffer = io.BytesIO()
    # NumPy dates every member 1980-01-01, so only the order must be fixed.
    arrays: dict[str, Any] = dict(sorted(_typed(predictions).items()))
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _typed(predictions: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    import numpy as np

    def kind(name: str) -> Any:
        return np.int64 if name.endswith(("_labels", "_cells", "_groups")) else np.float32

    return {name: np.ascontiguousarray(a, dtype=kind(name)) for name, a in predictions.items()}


def _safetensors(state: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    # Cloned, because safetensors refuses tensors that share memory.
    return save({name: t.detach().cpu().contiguous().clone() for name, t in state.items()})


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["epoch"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _safe(name: str) -> str:
    # Names may come from the command line: none may point outside the store.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name):
        raise UsageError(f"Expected an id of letters, digits, '_', '-' and '.', but got {name!r}.")
    return name


def _made(path: Path) -> Path:
    with storing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


__all__ = ["Record", "Store", "Verify", "predictions_bytes"]
