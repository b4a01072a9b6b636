"""A finished network on labelled cells of another data set. See `wbcbench.records.external`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wbcbench.contracts import Account, Cells, Dataset
from wbcbench.contracts.dataset import Progress
from wbcbench.data.reading import described
from wbcbench.deploy.cells import UNREAD, Wanted, loaded_cells
from wbcbench.deploy.network import Rebuilt
from wbcbench.deploy.predict import BATCH, Done, classify
from wbcbench.errors import DataError, UsageError
from wbcbench.evaluation.shift import USES
from wbcbench.isolation import contained
from wbcbench.records.evaluations import encoded
from wbcbench.records.external import CellSet, External, external_metrics
from wbcbench.registry import Registry
from wbcbench.registry.registry import qualified_name
from wbcbench.spec import ComponentSpec, Trial
from wbcbench.spec.load import merged, validate

WINDOW = "window"


@dataclass(frozen=True)
class Source:
    """The data set that a user named, before it is known which network reads it."""

    name: str
    params: dict[str, Any]
    title: str
    """For readers of a board."""

    @classmethod
    def of(cls, dataset: str, params: dict[str, Any], title: str | None = None) -> Source:
        """A data set's name and parameters; or a path: what `wbcbench data import` wrote, an .npz, or a manifest.

        Raises:
            UsageError: a path that is none of these.
            DataError: a config file that specifies no data set.
        """
        path = Path(dataset).expanduser()
        try:
            there = path.exists()
        except OSError:
            there = False
        if not there:
            return cls(dataset, params, title or dataset)
        said = described(path)
        stem = path.resolve().name if path.is_dir() else path.stem
        if said is not None:
            return cls(said.name, merged(said.params, params), title or path.resolve().parent.name)
        if path.suffix.lower() == ".npz":
            return cls("npz", merged({"path": str(path)}, params), title or stem)
        if path.suffix.lower() == ".csv" or (path / "manifest.csv").is_file():
            return cls("folder", merged({"path": str(path)}, params), title or stem)
        raise UsageError(
            f"Expected --dataset as a data set's name, a dataset.yaml, an .npz or a manifest (.csv), but got "
            f"{path}. `wbcbench data import` makes one of other folders."
        )


@dataclass(frozen=True)
class Opened:
    """The data set as one trial's network reads it."""

    dataset: Dataset
    spec: ComponentSpec
    cells: CellSet
    groups: bool


@contained()
def open_source(source: Source, trial: Trial, resolved: dict[str, Any], registry: Registry) -> Opened:
    """The data set, prepared as the trial's was: of the same kind, other parameters are those of training; of any
    kind, the window that keeps the scale of images is.

    Args:
        resolved: parameters that were derived from the training cells, see `Cells.resolved`.

    Raises:
        UsageError: no such data set or parameter, or another window than in training.
        DataError: the cells cannot be read, or are those that the trial is about.
    """
    found = registry.resolve("dataset", source.name)
    cls: Any = registry.load(found.component)
    name = qualified_name(found.component)
    trained = {**trial.protocol.dataset.params, **resolved}
    given = {**found.params, **source.params}
    if name == trial.protocol.dataset.name:
        given = {**{k: v for k, v in trained.items() if k not in cls.locations}, **given}
    window = int(trained.get(WINDOW, 0) or 0)
    if WINDOW in cls.Params.model_fields:
        if int(given.get(WINDOW, window) or 0) != window:
            raise UsageError(
                f"Expected dataset.window={window}, as in training, but got {given[WINDOW]}: cells would have "
                "another scale. Leave it out."
            )
        given = {**given, WINDOW: window}
    elif window:
        raise DataError(
            f"Expected images in windows of {window} pixels, as in training, but the data set {name} has no "
            "parameter dataset.window. Import its images into a manifest."
        )
    dataset: Dataset = cls(validate(cls.Params, given, f"dataset {source.name}"))
    said = dataset.describe()
    if said.fingerprint == trial.protocol.fingerprint:
        raise DataError(
            f"Expected cells of another data set, but {source.title} has the cells that trial {trial.id} was "
            "trained and tested on. Its record and boards have the results."
        )
    spec = ComponentSpec(name=name, params=dataset.public_params())
    return Opened(dataset, spec, CellSet.of(spec, said.fingerprint, source.title), said.groups)


@dataclass
class Evaluator:
    """Evaluates networks on one source; decoded cells are kept as long as networks read them alike."""

    source: Source
    device: torch.device
    batch: int = BATCH
    decoding: Progress | None = None
    _kept: dict[tuple[str, int], Cells] = field(default_factory=dict)

    def evaluate(
        self, rebuilt: Rebuilt, opened: Opened, done: Callable[[str, int], Done] = lambda *_: lambda *_: None
    ) -> External:
        """The network's predictions for the cells whose class it has and that it was not trained on.

        Raises:
            IncompatibleError: a cell lacks a modality that the fusion requires.
            DataError: images have other channels or bit depths, or no cell is left.
        """
        trial, classes = rebuilt.record.trial, rebuilt.task.classes
        key = (opened.cells.id, rebuilt.task.image_size)
        if key not in self._kept:
            self._kept.clear()
            with contained():
                self._kept[key] = opened.dataset.load(rebuilt.task.image_size, self.decoding).check()
        cells = self._kept[key]
        source = loaded_cells(opened.cells.name, cells, Wanted.of(rebuilt).orders[0])
        reference, without = rebuilt.reference()
        total = len(cells)
        answers = classify(rebuilt, source, self.device, self.batch, done(opened.cells.name, total), reference)
        codes = np.array([class_of(name, classes) for name in cells.classes], dtype=np.int64)[cells.labels]
        ids = cells.ids or tuple(f"row {i}" for i in range(total))
        gone: dict[int, str] = dict.fromkeys(source.errors, UNREAD)
        for row in np.flatnonzero(codes < 0):
            gone.setdefault(
                int(row), f"of class {cells.classes[cells.labels[row]]}, which the network does not know"
            )
        for row in np.flatnonzero(answers.used if answers.used is not None else np.zeros(total)):
            gone.setdefault(int(row), f"that the network's {USES[answers.used[row]]} used")  # type: ignore[index]
        keep = np.array([row for row in range(total) if row not in gone], dtype=np.int64)
        account = Account.of("cells", total, len(keep), [(why, ids[row]) for row, why in sorted(gone.items())])
        if not len(keep):
            raise DataError(f"Expected cells to evaluate trial {trial.id} on, but of {opened.cells.name} none is "
                            f"left: {account.sentence()}. Its classes are {', '.join(classes)}.")  # fmt: skip
        p, labels = answers.probabilities[keep], codes[keep]
        groups = None if cells.groups is None else np.unique(cells.groups[keep], return_inverse=True)
        names = [] if groups is None else [
            cells.group_names[g] if cells.group_names else str(g) for g in groups[0].tolist()
        ]  # fmt: skip
        result = rebuilt.record.result
        return External(
            set=opened.cells, trial=trial.id, digest=result.digest, method=result.label, kd=result.kd,
            policies=list(result.policies), seed=result.seed, fold=trial.fold, image_size=rebuilt.task.image_size,
            classes=list(classes), accounts=[_plain(a) for a in (*cells.accounts, account)], unchecked=without,
            cells=keep.tolist(), labels=labels.tolist(),
            groups=None if groups is None else groups[1].reshape(-1).tolist(), group_names=names,
            probabilities=encoded(p), metrics=external_metrics(p, labels, classes),
        )  # fmt: skip


def class_of(name: str, classes: tuple[str, ...]) -> int:
    """The class with this name, else with this name but for case; -1 if there is none or several."""
    if name in classes:
        return classes.index(name)
    alike = [i for i, known in enumerate(classes) if known.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else -1


def _plain(account: Account) -> dict[str, Any]:
    found = asdict(account)
    for part in found["left_out"].values():
        part["examples"] = list(part["examples"])
    return found


__all__ = ["Evaluator", "Opened", "Source", "class_of", "open_source"]
