"""Export a trained network, and check that the exported file gives the same predictions."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wbcbench import __version__
from wbcbench.contracts import Preparation
from wbcbench.data.counter import derive_seed
from wbcbench.deploy.card import model_card
from wbcbench.deploy.formats import FORMATS, REFERENCE, Arrays, Runner, need, onnx_runner
from wbcbench.deploy.network import PROBABILITIES, ROUTE, Network, Rebuilt, deployed
from wbcbench.deploy.quantize import Comparison, check_kind, compare, complete, images_of, quantize
from wbcbench.errors import DataError, UsageError, WbcbenchError, did_you_mean
from wbcbench.files import atomic_folder, json_text, write_synced
from wbcbench.isolation import contained
from wbcbench.records.store import Store

if TYPE_CHECKING:
    from wbcbench.evaluation.predict import Predictions


TOLERANCE = 1e-4
"""Largest allowed difference of a probability between the trained network and the file."""
STORED = 0.02
"""Largest allowed difference between the rebuilt network and the predictions in its record, which may have been
made on a GPU in lower precision. A larger one means that code or cells have changed."""
CELLS = 512
MADE_UP = 32
_BATCHES = (1, 2, 7, 64)


class Disagrees(WbcbenchError):
    """The exported file does not match the trained network."""


@dataclass(frozen=True)
class Agreement:
    """The result of a passed check."""

    cells: int
    kind: str
    """`validation cells` or `made-up cells`."""
    largest: float
    """Largest difference of a probability between the trained network and the file."""
    stored: float | None
    """The same between the trained network and the record's own predictions; None without the cells."""
    tolerance: float
    quantised: Comparison | None = None
    """Of the quantised file with the float one, which the rest is about; None: it is not quantised."""

    def sentence(self) -> str:
        """The result as a sentence."""
        against = (
            "" if self.stored is None else f"; the network and its record differ by at most {self.stored:.1e}"
        )
        file = "file" if self.quantised is None else "float file"
        return (
            f"{self.cells} {self.kind}: {file} and trained network differ by at most {self.largest:.1e} "
            f"(allowed {self.tolerance:.0e}){against}."
        )

    def document(self) -> dict[str, Any]:
        """The fields by name; `quantised` where it applies."""
        return {name: value for name, value in asdict(self).items() if value is not None or name != "quantised"}


def check(rebuilt: Rebuilt, runner: Runner, outputs: Sequence[str], tolerance: float = TOLERANCE) -> Agreement:
    """Run both on the same cells, in batches of several sizes.

    If the training cells are available, the trained network is run as in evaluation, with the preprocessing of
    training.

    Raises:
        Disagrees: a probability differs by more than `tolerance`, or an output is missing or has a wrong shape.
    """
    images, expected, stored, kind = _cells(rebuilt)
    count = len(next(iter(images.values())))
    largest, start, sizes = 0.0, 0, iter(_BATCHES)
    while start < count:
        stop = min(count, start + next(sizes, _BATCHES[-1]))
        try:
            answers = runner({m: x[start:stop] for m, x in images.items()})
        except Exception as error:  # the runtime's error, if the graph only fits one number of cells
            raise Disagrees(
                f"The file does not run on {stop - start} cells: {error}. Nothing was written."
            ) from error
        for name in outputs:
            want = expected[name][start:stop]
            got = answers.get(name)
            if got is None or got.shape != want.shape:
                shape = "missing" if got is None else list(got.shape)
                raise Disagrees(
                    f"Expected output '{name}' {list(want.shape)}, but it is {shape}. Nothing was written."
                )
            difference = float(np.abs(got - want).max())
            largest = max(largest, difference if np.isfinite(difference) else float("inf"))
        start = stop
    if not largest <= tolerance:
        raise Disagrees(
            f"Expected the file to match the trained network to within {tolerance:g}, but on {count} "
            f"{kind} they differ by up to {largest:.3g}. Nothing was written. Try another --format."
        )
    if stored is not None and not stored <= STORED:
        raise Disagrees(
            f"The network rebuilt from record {rebuilt.record.trial.id} differs from the record's own predictions "
            f"by up to {stored:.3g}: a component's code has changed since the record was made. Nothing was "
            "written. Install the version of wbcbench that made it."
        )
    return Agreement(count, kind, largest, stored, tolerance)


def _cells(rebuilt: Rebuilt) -> tuple[Arrays, Arrays, float | None, str]:
    """Raw images, the trained network's outputs for them, the largest difference from the record, and the kind of
    cells."""
    if rebuilt.bench is None:
        images = made_up(rebuilt, MADE_UP)
        with torch.no_grad():
            answers = rebuilt.network({m: torch.from_numpy(x) for m, x in images.items()})
        return images, {name: a.numpy() for name, a in answers.items()}, None, "made-up cells"
    from wbcbench.evaluation.predict import predict

    trial, bench = rebuilt.record.trial, rebuilt.bench
    ids = complete(rebuilt, bench.split(trial).val)[:CELLS]
    if not len(ids):
        return _cells(_without_cells(rebuilt))
    found = predict(rebuilt.fusion, bench.resident(trial), torch.as_tensor(ids), trial.reads)
    expected = {PROBABILITIES: found.probabilities} | {f"{ROUTE}{r}": p for r, p in found.routes.items()}
    stored = _from_record(rebuilt, found)
    answers = {name: np.asarray(p) for name, p in expected.items()}
    return images_of(rebuilt, ids), answers, stored, "validation cells"


def _from_record(rebuilt: Rebuilt, found: Predictions) -> float:
    """Largest difference of a probability between the record's validation predictions and the network's."""
    recorded = rebuilt.record.predictions

    def apart(now: Predictions) -> float:
        place = {int(cell): row for row, cell in enumerate(recorded["val_cells"])}
        rows = [place[int(i)] for i in now.cells]
        return float(np.abs(recorded["val_probabilities"][rows] - now.probabilities).max())

    from wbcbench.training.build import combiner_of

    if combiner_of(rebuilt.fusion) is None:
        return apart(found)
    from wbcbench.training.fitted import fit_combiner

    assert rebuilt.bench is not None
    trial, bench = rebuilt.record.trial, rebuilt.bench
    val = torch.as_tensor(bench.split(trial).val)
    # Recorded predictions are of combiners fitted on other cells; in older records, on the same cells.
    crossed = fit_combiner(copy.deepcopy(rebuilt.fusion), bench.resident(trial), val, trial.reads)
    return min(apart(found), apart(crossed))


def _without_cells(rebuilt: Rebuilt) -> Rebuilt:
    return replace(rebuilt, bench=None)


def made_up(rebuilt: Rebuilt, count: int) -> dict[str, NDArray[Any]]:
    """Noise with the mean and spread of the training cells, the same for the same trial. Some numbers are NaN."""
    rng = np.random.default_rng(derive_seed(rebuilt.record.trial.seed, "made-up cells"))
    side, images = rebuilt.task.image_size, {}
    for m, s in rebuilt.statistics.items():
        if s.vector:
            numbers = rng.standard_normal((count, len(s.mean))) * s.std + s.mean
            images[m] = np.where(rng.random(numbers.shape) < 0.1, np.nan, numbers).astype(np.float32)
            continue
        kind = np.uint16 if s.bits == 16 else np.uint8
        mean, std = (np.array(v)[None, :, None, None] for v in (s.mean, s.std))
        noise = rng.standard_normal((count, len(s.mean), side, side)) * std * rng.uniform(0.5, 2, (count, 1, 1, 1))
        images[m] = (noise + mean).clip(0, np.iinfo(kind).max).astype(kind)
    return images


VERSION = 1


@contained()
def export(
    rebuilt: Rebuilt,
    format_name: str,
    folder: Path,
    *,
    quantise: str | None = None,
    store: Store | None = None,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Write `model.*`, `inputs.json` and `model_card.md` to a new folder, atomically, after checking the model.

    Adds `reference.npz`, what other cells are compared with, if it is stored or can be made.

    Args:
        rebuilt: the network.
        format_name: a key of `FORMATS`.
        folder: must be missing or empty.
        quantise: a key of `quantize.KINDS`, for ONNX: the float file is checked, then replaced with this.
        store: where to look for other seeds of the same method, for the card.
        tolerance: largest allowed difference of a probability.

    Raises:
        UsageError: an unknown format, a missing package, a folder that is not empty, or missing training cells.
        NotExportable: the format cannot represent the network. Nothing is written.
        Disagrees: the exported file does not match the trained network. Nothing is written.
    """
    if format_name not in FORMATS:
        raise UsageError(
            f"No format is called '{format_name}'.{did_you_mean(format_name, FORMATS)} "
            f"There are: {', '.join(FORMATS)}."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"Expected a new folder, but {folder} exists already. Choose another one with -o.")
    if quantise is not None:
        if format_name != "onnx":
            raise UsageError(f"Expected --format onnx for --quantize, but got {format_name}.")
        check_kind(quantise, rebuilt)
    if format_name == "onnx":
        need("onnx", "onnxscript", "onnxruntime")
    form = FORMATS[format_name]
    # Weights are exported for the whole network; a graph only has the part that inference runs.
    body = rebuilt.fusion if format_name == "safetensors" else deployed(rebuilt.fusion)
    network = Network(body, rebuilt.statistics).eval()
    outputs = _outputs(rebuilt, network)
    reference, _ = rebuilt.reference()
    with atomic_folder(folder) as place:
        form.write(rebuilt, network, outputs, place / form.file)
        agreement = check(rebuilt, form.read(rebuilt, place / form.file), outputs, tolerance)
        if quantise is not None:
            agreement = replace(agreement, quantised=quantised(rebuilt, quantise, place / form.file))
        _sync(place / form.file)
        inputs = document(rebuilt, format_name, outputs, agreement, _sha256(place / form.file))
        if reference is not None:
            write_synced(place / REFERENCE, reference.to_bytes())
            inputs["reference"] = {"file": REFERENCE, "sha256": _sha256(place / REFERENCE)}
        write_synced(place / "inputs.json", json_text(inputs).encode())
        write_synced(place / "model_card.md", model_card(rebuilt, inputs, store).encode())
        if format_name == "safetensors":
            write_synced(place / "spec.json", (rebuilt.record.path / "spec.json").read_bytes())
    return agreement


def quantised(rebuilt: Rebuilt, how: str, path: Path) -> Comparison:
    """Replace an exported graph with a quantised one, and compare the two. Raises `NotExportable`."""
    target = path.with_name("quantised.onnx")
    calibration = quantize(rebuilt, how, path, target)
    before, after, size = onnx_runner(path), onnx_runner(target), (path.stat().st_size, target.stat().st_size)
    made = made_up(rebuilt, MADE_UP)
    found = compare(rebuilt, how, before, after, made, size, calibration)
    target.replace(path)
    return found


def document(
    rebuilt: Rebuilt, format_name: str, outputs: tuple[str, ...], agreement: Agreement, sha256: str
) -> dict[str, Any]:
    """`inputs.json`: everything a program needs to prepare the model's inputs and to read its outputs."""
    result = rebuilt.record.result
    classes = list(rebuilt.task.classes)
    inputs = [
        {
            "name": m,
            "shape": ["batch", *rebuilt.task.shape(m)],
            **(
                {"dtype": "float32", "missing": "NaN", "features": list(s.features), "median": list(s.median)}
                if s.vector
                else {"dtype": f"uint{s.bits}", "range": [0, 2**s.bits - 1]}
            ),
            "mean": list(s.mean),
            "std": list(s.std),
            "brightness": [list(v) for v in s.brightness],
            "contrast": [list(v) for v in s.contrast],
        }
        for m, s in rebuilt.statistics.items()
    ]
    return {
        "version": VERSION,
        "wbcbench": __version__,
        "format": format_name,
        "model": FORMATS[format_name].file,
        "sha256": sha256,
        "trial_id": result.trial_id,
        "record_digest": result.digest,
        "method": result.title,
        "inputs": inputs,
        **_prepared(rebuilt),
        "outputs": [{"name": name, "shape": ["batch", len(classes)]} for name in outputs],
        "classes": classes,
        "missing_modalities": "every input is required; `wbcbench predict` handles missing ones",
        "check": {
            "cells": agreement.cells,
            "kind": agreement.kind,
            "largest_difference": agreement.largest,
            "against_record": agreement.stored,
            "tolerance": agreement.tolerance,
            "statistics_from": rebuilt.statistics_from,
        },
        **({} if agreement.quantised is None else {"quantised": asdict(agreement.quantised)}),
    }


def _prepared(rebuilt: Rebuilt) -> dict[str, Any]:
    """How images are converted to inputs, as declared by the training data set."""
    side = rebuilt.task.image_size
    try:
        found = rebuilt.preparation()
        words = found.words
    except DataError as error:  # the network works without it, and an older record may not have it
        found, words = Preparation(rebuilt.task.channels), f"How images were prepared is not known here: {error}"
    numbers = "Numbers as measured, NaN where one is missing. " if rebuilt.task.vectors else ""
    pixels = f"Pixels as stored, {side} x {side}. {words} " if side else ""
    document: dict[str, Any] = {"resize": f"{pixels}{numbers}Normalisation is part of the model."}
    if found.derive is not None:
        document["derived_from"] = {
            m: {name: found.raw[name] for name in found.parts(m)} for m in rebuilt.statistics
        }
    return document


def _outputs(rebuilt: Rebuilt, network: Network) -> tuple[str, ...]:
    with torch.no_grad():
        return tuple(network({m: torch.from_numpy(x) for m, x in made_up(rebuilt, 2).items()}))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


__all__ = [
    "CELLS",
    "STORED",
    "TOLERANCE",
    "VERSION",
    "Agreement",
    "Disagrees",
    "check",
    "document",
    "export",
    "made_up",
]
