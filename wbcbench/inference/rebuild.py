"""From a record to a network that answers, with what is known of the images it wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from wbcbench.contracts import Fusion, Task
from wbcbench.errors import UsageError, WbcbenchError
from wbcbench.inference.data import HINT, workbench
from wbcbench.inference.network import Network
from wbcbench.inference.statistics import statistics_of
from wbcbench.records.schema import InputStatistics
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
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
    return Rebuilt(record, task, fusion, network, statistics, whence, bench, without)


__all__ = ["Rebuilt", "rebuilt"]
