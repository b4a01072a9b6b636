"""The cells that a record was made from, where they are at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wbcbench.contracts import Dataset
from wbcbench.errors import DataError, UsageError
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
from wbcbench.spec import Trial, canonical_json
from wbcbench.spec.load import load_request, merged, validate
from wbcbench.training.workbench import Workbench, pick_device

HINT = "Say where the cells lie, as in --set dataset.path=cells.npz."


def workbench(
    record: Record,
    store: Store,
    registry: Registry,
    sets: Sequence[str],
    device: str = "cpu",
    decoding: Callable[[int, int, str], None] | None = None,
) -> Workbench:
    """A workbench that has the record's cells.

    Args:
        sets: `dataset.path=...` and the like: records do not say where files lie.

    Raises:
        UsageError: the cells are not at hand, or are others than the record's.
    """
    dataset = dataset_of(record.trial, registry, sets)
    bench = Workbench(store, registry, pick_device(device), decoding=decoding)
    bench.add_dataset(record.trial.protocol.fingerprint, dataset)
    return bench


def dataset_of(trial: Trial, registry: Registry, sets: Sequence[str]) -> Dataset:
    """The trial's data set, with the cells that it was trained on. Raises as `workbench` does."""
    for setting in sets:
        if not setting.startswith("dataset."):
            raise UsageError(f"Expected --set with dataset.* only, but got '{setting}': the record says the rest.")
    overrides = load_request(None, {}, tuple(sets)).overrides
    spec = trial.protocol.dataset
    cls: Any = registry.load(registry.resolve("dataset", spec.name).component)
    places = overrides.get("dataset", {})
    dataset: Dataset = cls(validate(cls.Params, merged(spec.params, places), f"dataset {spec.name}"))
    public = dataset.public_params()
    if canonical_json(public) != canonical_json(spec.params):
        # by their effect, not by name: a place may lie within another data set's parameters, as those of stains do
        if changed := [name for name in places if public.get(name) != spec.params.get(name)]:
            raise UsageError(
                f"--set dataset.{changed[0]}: the record says everything of its cells but where they lie, "
                "as in dataset.path."
            )
        raise DataError(f"The record's data set '{spec.name}' has other parameters in this version of wbcbench.")
    fingerprint = dataset.describe().fingerprint
    if fingerprint != trial.protocol.fingerprint:
        raise DataError(
            f"Expected the cells that the record was made from (fingerprint {trial.protocol.fingerprint[:12]}), "
            f"but those at hand have {fingerprint[:12]}. {HINT}"
        )
    return dataset


__all__ = ["HINT", "dataset_of", "workbench"]
