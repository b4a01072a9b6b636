"""A trained network, rebuilt from its record. It maps images as stored to probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wbcbench.contracts import Dataset, Deployed, Fusion, Outputs, Preparation, Task, over_rows
from wbcbench.data.views import standardised
from wbcbench.errors import DataError, UsageError, WbcbenchError
from wbcbench.evaluation.shift import Reference
from wbcbench.isolation import contained
from wbcbench.records.schema import InputStatistics
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
from wbcbench.spec import Trial, canonical_json
from wbcbench.spec.load import Settings, load_request, merged, pairs, validate
from wbcbench.training.build import stored_fusion
from wbcbench.training.report import reference_for, statistics_of
from wbcbench.training.workbench import Workbench, pick_device

PROBABILITIES = "probabilities"
ROUTE = "route_"
"""Prefix of the names of the routes' outputs."""


class Normaliser(nn.Module):
    """Normalises raw pixels and numbers to mean 0 and sd 1 over the training cells; bitwise equal to `data.views`.

    Missing numbers (NaN) become the median of the training cells.
    """

    def __init__(self, statistics: Mapping[str, InputStatistics]) -> None:
        super().__init__()
        self.shifts = {m: 32768.0 if s.bits == 16 else 0.0 for m, s in statistics.items()}
        self.vectors = frozenset(m for m, s in statistics.items() if s.vector)
        for m, s in statistics.items():
            if s.vector:
                for what in ("mean", "std", "median"):
                    self.register_buffer(f"{what}_{m}", torch.tensor(getattr(s, what)))
                continue
            scale = 1.0 / torch.tensor(s.std)
            self.register_buffer(f"scale_{m}", scale[:, None, None])
            self.register_buffer(f"offset_{m}", ((self.shifts[m] - torch.tensor(s.mean)) * scale)[:, None, None])

    def forward(self, modality: str, image: Tensor) -> Tensor:
        """[B, C, S, S] uint8 or uint16, or [B, F] float32 -> float32."""
        if modality in self.vectors:
            mean, std, median = (getattr(self, f"{what}_{modality}") for what in ("mean", "std", "median"))
            return standardised(torch.where(image.isnan(), median, image), mean, std)
        x = image.to(torch.float32) - self.shifts[modality] if self.shifts[modality] else image.to(torch.float32)
        scale, offset = (getattr(self, f"{what}_{modality}") for what in ("scale", "offset"))
        return torch.addcmul(offset, x, scale)


class Network(nn.Module):
    """The deployable network of a trial, with its normalisation."""

    def __init__(self, body: nn.Module, statistics: Mapping[str, InputStatistics]) -> None:
        """`body`: a trained fusion, or the result of its `deploy`."""
        super().__init__()
        self.body = body
        self.normaliser = Normaliser(statistics)
        self.modalities = tuple(statistics)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None) -> dict[str, Tensor]:
        """`probabilities` [B, K], and `route_<name>` [B, K] of every route that the fusion has.

        Args:
            images: modality -> [B, C, S, S] uint8 or uint16, or numbers [B, F] float32, in any order.
            present: [B, M] bool in the order of `modalities`; missing images may have any values. None: none are
                missing.
        """
        return self.answer(self.normalised(images, present), present)

    def normalised(self, images: dict[str, Tensor], present: Tensor | None = None) -> dict[str, Tensor]:
        """Modality -> [B, C, S, S] or [B, F] float32, for images as in `forward`."""
        seen = {m: self.normaliser(m, images[m]) for m in self.modalities}
        if present is None:
            return seen
        # The training mean, which is zero after normalisation, as in training and evaluation.
        here = {m: present[:, i] for i, m in enumerate(seen)}
        return {m: torch.where(over_rows(here[m], x), x, 0.0) for m, x in seen.items()}

    def answer(self, seen: dict[str, Tensor], present: Tensor | None = None) -> dict[str, Tensor]:
        """As `forward`, for normalised images."""
        if not isinstance(self.body, Fusion):
            return {PROBABILITIES: self.body(seen)}
        return self.measured(self.body, seen, present)[0]

    @staticmethod
    def measured(
        fusion: Fusion, seen: dict[str, Tensor], present: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Outputs]:
        """As `answer`, and the outputs of the routes, with their embeddings."""
        outputs = {route: out.float() for route, out in fusion(seen, present).items()}
        routes = {f"{ROUTE}{route}": out.logits.softmax(1) for route, out in outputs.items()}
        return {PROBABILITIES: fusion.predict(outputs, present).float(), **routes}, outputs


def task_from(statistics: Mapping[str, InputStatistics], classes: tuple[str, ...], image_size: int) -> Task:
    """The task of a network whose inputs have these statistics."""
    vectors = frozenset(m for m, s in statistics.items() if s.vector)
    return Task({m: len(s.mean) for m, s in statistics.items()}, classes, image_size, vectors)


def deployed(fusion: Fusion) -> nn.Module:
    """The part of a fusion that inference runs; a reduced fusion if `deploy` returns one."""
    module = fusion.deploy()
    return module.fusion if isinstance(module, Deployed) else module


HINT = "Give the path of the training cells with --set dataset.path=cells.npz or the like."


def workbench(
    record: Record,
    store: Store,
    registry: Registry,
    settings: Settings,
    device: str = "cpu",
    decoding: Callable[[int, int, str], None] | None = None,
) -> Workbench:
    """A workbench that has the record's cells.

    Args:
        settings: `dataset.path=...` and the like, since records contain no paths.

    Raises:
        UsageError: the cells are not available, or are not those of the record.
    """
    dataset = dataset_of(record.trial, registry, settings)
    bench = Workbench(store, registry, pick_device(device), decoding=decoding)
    bench.add_dataset(record.trial.protocol.fingerprint, dataset)
    return bench


def dataset_of(trial: Trial, registry: Registry, settings: Settings) -> Dataset:
    """The trial's data set, with the cells that it was trained on. Raises as `workbench` does."""
    for key, _ in pairs(settings):
        if not key.startswith("dataset."):
            raise UsageError(f"Expected --set with dataset.* only, but got '{key}': the record fixes the rest.")
    overrides = load_request(None, {}, settings).overrides
    spec = trial.protocol.dataset
    cls: Any = registry.load(registry.resolve("dataset", spec.name).component)
    places = overrides.get("dataset", {})
    dataset: Dataset = cls(validate(cls.Params, merged(spec.params, places), f"dataset {spec.name}"))
    public = dataset.public_params()
    if canonical_json(public) != canonical_json(spec.params):
        # compared by effect, not by name: a path may be within another data set's parameters, as for stains
        if changed := [name for name in places if public.get(name) != spec.params.get(name)]:
            raise UsageError(
                f"--set dataset.{changed[0]}: the record fixes all parameters of its data set. Only paths may be "
                "set, such as dataset.path."
            )
        raise DataError(f"The record's data set '{spec.name}' has other parameters in this version of wbcbench.")
    fingerprint = dataset.describe().fingerprint
    if fingerprint != trial.protocol.fingerprint:
        raise DataError(
            f"Expected the cells that the record was made from (fingerprint {trial.protocol.fingerprint[:12]}), "
            f"but got cells with {fingerprint[:12]}. {HINT}"
        )
    return dataset


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
    """None if the cells that it was trained on are not available."""
    without: str
    """Why they are not available; empty if they are."""
    registry: Registry
    store: Store

    def reference(self) -> tuple[Reference | None, str]:
        """What other cells are compared with, stored or made from the training cells; or None, and why not."""
        return reference_for(self.record, self.store, self.fusion, self.bench)

    def dataset(self) -> Dataset | None:
        """The data set that it was trained on, without its files; None if its plugin is not available.

        Includes parameters that were inferred from its cells. Raises `DataError` if these are unknown.
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
        """How images of new cells are prepared for the network. Raises `DataError` as `dataset` does."""
        dataset = self.dataset()
        return Preparation(self.task.channels) if dataset is None else dataset.preparation(self.task.channels)

    def open_dataset(self, name: str, params: dict[str, Any]) -> Dataset:
        """Create a data set. Raises `UsageError` or `PluginError`."""
        resolved = self.registry.resolve("dataset", name)
        cls: Any = self.registry.load(resolved.component)
        made: Dataset = cls(validate(cls.Params, {**resolved.params, **params}, f"dataset {name}"))
        return made


@contained()
def rebuilt(record: Record, store: Store, registry: Registry, settings: Settings = ()) -> Rebuilt:
    """Build the network of a record and load its weights.

    Args:
        settings: where the cells are, as in `dataset.path=cells.npz`.

    Raises:
        UsageError: the normalisation of its images is neither in the record nor can be computed from the cells.
    """
    bench, without = None, ""
    try:
        bench = workbench(record, store, registry, settings)
    except WbcbenchError as error:
        if settings:
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
            f"Record {trial.id} is from an older version, which did not store the normalisation of images, so the "
            f"cells it was trained on are needed, but: {without} {HINT}"
        )
    statistics = {m: statistics[m] for m in trial.reads}
    task = task_from(statistics, record.result.key.classes, trial.protocol.image_size)
    fusion = stored_fusion(record, task, registry).eval().requires_grad_(False)
    network = Network(fusion, statistics).eval()
    return Rebuilt(record, task, fusion, network, statistics, whence, bench, without, registry, store)


__all__ = [
    "HINT",
    "PROBABILITIES",
    "ROUTE",
    "Network",
    "Normaliser",
    "Rebuilt",
    "dataset_of",
    "deployed",
    "rebuilt",
    "task_from",
    "workbench",
]
