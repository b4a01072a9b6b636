"""The exported file of a finished network on the record's test cells. See `wbcbench.records.deployed`."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.deploy.export import export
from wbcbench.deploy.formats import Arrays, Runner, onnx_runner
from wbcbench.deploy.network import HINT, PROBABILITIES, Rebuilt
from wbcbench.deploy.quantize import BATCH, KINDS, complete, images_of, run
from wbcbench.errors import DataError
from wbcbench.evaluation.cost import alone, least_seconds
from wbcbench.evaluation.metrics import score
from wbcbench.records.deployed import Deployed
from wbcbench.records.evaluations import encoded

THREADS = 1
SECONDS = 0.5
"""Time for each of the two measurements of speed."""
PACKAGES = ("onnxruntime", "onnx", "torch")


def evaluate_deployed(rebuilt: Rebuilt, kind: str, seconds: float = SECONDS) -> Deployed:
    """Export the network, and run the file on the test cells with one thread.

    Args:
        rebuilt: the network, with its cells.
        kind: one of `records.deployed.KINDS`.
        seconds: see `SECONDS`.

    Raises:
        DataError: the cells are not available, or a test cell lacks a modality, which no exported file supports.
        NotExportable: the network cannot be exported in this way.
        Disagrees: the float file does not match the trained network.
    """
    record, result = rebuilt.record, rebuilt.record.result
    if rebuilt.bench is None:
        raise DataError(f"Expected the test cells of trial {record.trial.id}, but: {rebuilt.without} {HINT}")
    ids = record.predictions["test_cells"].astype(np.int64)
    labels = record.predictions["test_labels"].astype(np.int64)
    if lacking := len(ids) - len(complete(rebuilt, ids)):
        raise DataError(
            f"{lacking} of {len(ids)} test cells of trial {record.trial.id} lack a modality, and an exported file "
            "needs all of them. `wbcbench predict` runs the network itself."
        )
    how = kind.partition("-")[2] or None
    images = images_of(rebuilt, ids)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "taken"
        agreement = export(rebuilt, "onnx", place, quantise=how)
        stated = json.loads((place / "inputs.json").read_text(encoding="utf-8"))
        path = place / stated["model"]
        runner, size = onnx_runner(path, THREADS), path.stat().st_size
        p = run(runner, images, BATCH if how is None else KINDS[how].batch)[PROBABILITIES]
        with alone():
            one, many = (_seconds(runner, images, batch, seconds) for batch in (1, BATCH))
    return Deployed(
        kind=kind,  # type: ignore[arg-type]
        trial=record.trial.id, digest=result.digest, method=result.label, kd=result.kd,
        policies=list(result.policies), seed=result.seed, fold=record.trial.fold,
        classes=list(rebuilt.task.classes), sha256=stated["sha256"], size=size,
        calibration=agreement.quantised.calibration if agreement.quantised else 0,
        packages={name: version(name) for name in PACKAGES}, device="cpu", threads=THREADS,
        latency_ms=one * 1e3, batch_ms=many * 1e3, cells=ids.tolist(), labels=labels.tolist(),
        probabilities=encoded(p), metrics=score(p, labels, rebuilt.task.classes).summary,
        trained=dict(result.metrics["test"]),
    )  # fmt: skip


def _seconds(runner: Runner, images: Arrays, batch: int, seconds: float) -> float:
    """Time of one batch of test cells, repeated if there are too few."""
    rows = np.arange(batch) % len(next(iter(images.values())))
    given: dict[str, Any] = {m: np.ascontiguousarray(x[rows]) for m, x in images.items()}

    def once() -> None:
        runner(given)

    return least_seconds(once, seconds)


__all__ = ["evaluate_deployed"]
