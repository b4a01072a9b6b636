"""From a record to a network that answers, with what is known of the images it wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wbcbench.contracts import Dataset, Fusion, Preparation, Task
from wbcbench.errors import DataError, UsageError, WbcbenchError
from wbcbench.inference.data import HINT, workbench
from wbcbench.inference.network import Network
from wbcbench.inference.statistics import statistics_of
from wbcbench.records.schema import InputStatistics
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
from wbcbench.spec.load import validate
from wbcbench.training.trial import stored_fusion
from wbcbench.training.workbench import Workbench


@dataclass(frozen=True)
class Rebuilt:
    """A record's network on the CPU, in eval mode."""

    record: Record
    task: Task
    fusion: Fusion
    network: Network
    statistics: Mapping[str, InputStatistics]
    statistics_from: str
    """`the record` or `the training cells`."""
    bench: Workbench | None
    """None where the cells that it was trained on are not at hand."""
    without: str
    """Why they are not; empty where they are."""
    registry: Registry

    def dataset(self) -> Dataset | None:
        """The data set that it was trained on, without its files; None where its plugin is not at hand.

        Parameters that its cells decided are filled in. Raises `DataError` where nobody knows them any more.
        """
        spec, resolved = self.record.trial.protocol.dataset, self.record.result.resolved
        try:
            found = self.open_dataset(spec.name, {**spec.params, **resolved})
        except WbcbenchError:
            return None
        try:
            found.preparation(self.task.channels)
        except DataError:
            if self.bench is None:
                raise
            decided = self.bench.cells(self.record.trial).resolved
            return self.open_dataset(spec.name, {**spec.params, **decided})
        return found

    def preparation(self) -> Preparation:
        """How images of new cells become what the network reads. Raises `DataError` as `dataset` does."""
        dataset = self.dataset()
        return Preparation(self.task.channels) if dataset is None else dataset.preparation(self.task.channels)

    def open_dataset(self, name: str, params: dict[str, Any]) -> Dataset:
        """Make a data set. Raises `UsageError` or `PluginError`."""
        resolved = self.registry.resolve("dataset", name)
        cls: Any = self.registry.load(resolved.component)
        made: Dataset = cls(validate(cls.Params, {**resolved.params, **params}, f"dataset {name}"))
        return made


def rebuilt(record: Record, store: Store, registry: Registry, sets: Sequence[str] = ()) -> Rebuilt:
    """Build the network of a record and load its weights.

    Args:
        sets: where the cells lie, as in `dataset.path=cells.npz`.

    Raises:
        UsageError: neither the record nor cells at hand say how its images were normalised.
    """
    bench, without = None, ""
    try:
        bench = workbench(record, store, registry, sets)
    except WbcbenchError as error:
        if sets:
            raise  # the user named them
        without = str(error)
    trial = record.trial
    statistics, whence = dict(record.result.inputs), "the record"
    if bench is not None and not statistics:
        cells = bench.resident(trial)
        train = torch.as_tensor(bench.split(trial).train)
        statistics, whence = statistics_of(cells, train, trial.reads), "the training cells"
    if not statistics:
        raise UsageError(
            f"Record {trial.id} is older than records that say how their images were normalised, so the cells it "
            f"was trained on are needed, but: {without} {HINT}"
        )
    statistics = {m: statistics[m] for m in trial.reads}
    channels = {m: len(s.mean) for m, s in statistics.items()}
    task = Task(channels, record.result.key.classes, trial.protocol.image_size)
    fusion = stored_fusion(record, task, registry).eval().requires_grad_(False)
    network = Network(fusion, statistics).eval()
    return Rebuilt(record, task, fusion, network, statistics, whence, bench, without, registry)


__all__ = ["Rebuilt", "rebuilt"]
