"""What trials of one process share: decoded cells, splits, device tensors. Loaded once, keyed by content."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wbcbench.contracts import Cells, Dataset
from wbcbench.data.answers import AnswerFile, read_answers, rows_of
from wbcbench.data.splits import Split, make_split
from wbcbench.data.views import ResidentCells
from wbcbench.errors import DataError, UsageError
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.spec import SplitSpec, Trial
from wbcbench.spec.trial import Outside
from wbcbench.training.allocator import keep_freed_memory_if_ours

log = logging.getLogger("wbcbench")


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`; auto uses a GPU if there is one.

    Raises:
        UsageError: the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"Expected a device (auto, cpu, cuda, cuda:1, mps), but got '{name}'.") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise UsageError(f"Device '{name}' is not available here. --device auto uses what is available.")
    if device.type == "cuda":
        if device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        if device.index >= torch.cuda.device_count():
            raise UsageError(f"Device '{name}' was requested, but there are {torch.cuda.device_count()} GPUs.")
    return device


@dataclass(frozen=True, eq=False)
class Answers:
    """A teacher from outside, its file, and where the data set's cells are in it."""

    teacher: Outside
    file: AnswerFile
    rows: NDArray[np.int64]
    """[all cells] row of the file, or -1."""


class Workbench:
    """Store, registry, device and the data sets in use."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        device: torch.device,
        *,
        replay: bool = True,
        replay_maps_gb: float = 2.0,
        decoding: Callable[[int, int, str], None] | None = None,
    ) -> None:
        if device.type == "cpu":
            keep_freed_memory_if_ours()
        self.store = store
        self.registry = registry
        self.device = device
        self.replay = replay
        self.replay_maps_bytes = replay_maps_gb * 1e9
        """Limit on the stage maps that one trial's teachers may store; above it they run live."""
        self._decoding = decoding
        self._datasets: dict[str, Dataset] = {}
        self._cells: dict[tuple[str, int], Cells] = {}
        self._splits: dict[tuple[str, int, SplitSpec, int | None], Split] = {}
        self._resident: dict[tuple[str, int, SplitSpec, int | None, tuple[str, ...]], ResidentCells] = {}

    def add_dataset(self, fingerprint: str, dataset: Dataset) -> None:
        """Register the data set with this fingerprint: trials name content, not locations."""
        self._datasets[fingerprint] = dataset

    def cells(self, trial: Trial) -> Cells:
        """The trial's cells, checked. Raises `DataError` if they are not those of the plan."""
        protocol = trial.protocol
        key = (protocol.fingerprint, protocol.image_size)
        if key not in self._cells:
            dataset = self._datasets.get(protocol.fingerprint)
            if dataset is None:
                raise DataError(f"No data set with fingerprint {protocol.fingerprint[:12]} is available.")
            cells = dataset.load(protocol.image_size or None, self._decoding).check()
            if cells.fingerprint != protocol.fingerprint:
                raise DataError(
                    f"The cells of '{protocol.dataset.name}' changed between planning and loading "
                    f"({protocol.fingerprint[:12]} became {cells.fingerprint[:12]}). Run the command again."
                )
            for note in cells.notes:
                log.info("%s: %s", protocol.dataset.name, note)
            self._cells[key] = cells
        return self._cells[key]

    def split(self, trial: Trial) -> Split:
        """The trial's division into train, val and test."""
        protocol = trial.protocol
        key = (protocol.fingerprint, protocol.image_size, protocol.split, trial.fold)
        if key not in self._splits:
            cells = self.cells(trial)
            split = make_split(cells, protocol.split, trial.fold)
            for sentence in split.leaks.sentences(cells.ids, cells.group_names or None):
                log.warning("%s, and split.allow_leaks is set: %s", protocol.dataset.name, sentence)
            self._splits[key] = split
        return self._splits[key]

    def answers(self, trial: Trial) -> list[Answers]:
        """What the trial's teachers from outside answered, from the store.

        Raises:
            DataError: a file is missing or damaged, or lacks training cells.
        """
        cells, train = self.cells(trial), self.split(trial).train
        found = []
        for teacher in trial.method.outside:
            path = self.store.answers_path(teacher.digest)
            if not path.is_file():
                raise DataError(
                    f"{trial.title} was taught by answers from outside, '{teacher.name}' (SHA-256 "
                    f"{teacher.digest[:12]}), which are not in the store. Give the file: --teacher file:PATH"
                )
            file = read_answers(path, cells.classes)
            if file.digest != teacher.digest:
                raise DataError(f"{path} is damaged (its SHA-256 differs). Remove it and give the file again.")
            found.append(Answers(teacher, file, rows_of(file, cells.ids, len(cells), train)))
        return found

    def resident(self, trial: Trial, beside: ResidentCells | None = None) -> ResidentCells:
        """The images that the trial, and its teachers of the same image side, read, on the device.

        The last set used is kept, and with it the set `beside`, in use by the caller.
        """
        protocol = trial.protocol
        cells = self.cells(trial)
        alike = [t.reads for t in trial.method.teachers if t.protocol.image_size == protocol.image_size]
        wanted = set(trial.reads).union(*alike)
        key = (protocol.fingerprint, protocol.image_size, protocol.split, trial.fold)
        for (*known, have), resident in self._resident.items():
            if tuple(known) == key and wanted <= set(have):
                return resident
        # The whole set, if it fits easily: the next trial will need another subset.
        reads = tuple(cells.images) if _bytes(cells) < 2 << 30 else tuple(m for m in cells.images if m in wanted)
        self._resident = {k: r for k, r in self._resident.items() if r is beside}
        resident = ResidentCells(cells, reads, self.split(trial).train, self.device)
        self._resident[(*key, reads)] = resident
        return resident


def _bytes(cells: Cells) -> int:
    return sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in cells.images.values())
