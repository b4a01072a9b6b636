"""Checks of a single record of a pack: consistency and plausibility."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.publishing.archive import Limits, check_arrays
from wbcbench.publishing.pack import WEIGHTS, Manifest
from wbcbench.publishing.unpack import strict_json
from wbcbench.publishing.verdict import Judge, Problem, bad_names
from wbcbench.records import verify as checks
from wbcbench.records.environment import PACKAGES
from wbcbench.records.schema import PAYLOAD, Result, content_digest
from wbcbench.records.store import Record
from wbcbench.registry import BUILTIN_PROVIDER

OWN = BUILTIN_PROVIDER


def check_record(folder: Path, manifest: Manifest, judge: Judge, limits: Limits) -> Record | None:
    """Run every check that needs only this record. None: it was refused."""
    where = folder.name
    documents: dict[str, Any] = {}
    read: list[Record] = []

    def parse() -> Iterator[Problem]:
        for name in ("spec.json", "result.json", "env.json"):
            documents[name] = strict_json((folder / name).read_bytes())
            if not isinstance(documents[name], dict):
                yield "refuse", f"{name} is not an object"

    def schema() -> Iterator[Problem]:
        record = Record(folder, checks.read_trial(folder), checks.read_result(folder))
        # What pydantic corrects while reading ("1" for 1, missing keys) may be read differently by other programs.
        for name, model in (("spec.json", record.trial), ("result.json", record.result)):
            if model.model_dump(mode="json") != documents[name]:
                yield "refuse", f"{name} is not in the form that wbcbench writes"
        if record.result.status == "sealed":
            yield "refuse", "is a search's sealed trial, which has no test results and cannot be on a board"
        for name, stated in record.result.files.items():
            if not re.fullmatch(r"[0-9a-f]{64}", stated):
                yield "refuse", f"result.json has no SHA-256 of {name}, but {stated!r}"
        read.append(record)

    if not judge.run("record.json", where, parse) or not judge.run("record.schema", where, schema):
        return None
    (record,) = read
    result = record.result
    fine = judge.run("record.digests", where, lambda: _digests(record, manifest))
    fine &= judge.run("record.identity", where, lambda: checks.check_identity(folder, record.trial, result))
    fine &= judge.run("record.names", where, lambda: bad_names(documents))
    fine &= judge.run("record.ranges", where, lambda: checks.check_ranges(folder, result))
    fine &= judge.run("record.cost", where, lambda: _cost(record))
    fine &= judge.run("record.history", where, lambda: _history(record))
    fine &= judge.run("record.environment", where, lambda: _environment(documents["env.json"]))
    judge.run("record.origin", where, lambda: _origin(result))
    judge.run("record.perfect", where, lambda: _perfect(result))
    if (folder / WEIGHTS).exists():
        fine &= judge.run("record.weights", where, lambda: _weights(record))
    if not judge.run("record.arrays", where, lambda: check_arrays(folder / "predictions.npz", limits)):
        return None
    if not judge.run("record.values", where, lambda: checks.check_predictions(folder, record.predictions, result)):
        return None
    fine &= judge.run("record.cells", where, lambda: _cells(record.predictions))
    fine &= judge.run("record.metrics", where, lambda: checks.check_metrics(folder, record.predictions, result))
    return record if fine else None


def _digests(record: Record, manifest: Manifest) -> Iterator[Problem]:
    """As `checks.check_files`, but weights may be missing. Then only a rerun can check their SHA-256."""
    result = record.result
    if set(result.files) != set(PAYLOAD):
        yield "refuse", f"result.json lists the files {sorted(result.files)}, not {sorted(PAYLOAD)}"
        return
    for name in PAYLOAD:
        stated = manifest.files.get(f"records/{record.path.name}/{name}")
        if (stated is not None or name != WEIGHTS) and stated != result.files[name]:
            yield "refuse", f"{name} is not the file of result.json (its SHA-256 differs)"
    if content_digest(result.trial_id, result.files) != result.digest:
        yield "refuse", "result.json has a digest that does not match its files"
    if manifest.records.get(record.path.name) != result.digest:
        yield "refuse", "the manifest has another digest of this record"


def _cost(record: Record) -> Iterator[Problem]:
    result, cost = record.result, record.result.cost
    epochs = record.trial.protocol.budget.epochs
    for name in ("latency_ms", "throughput", "train_images_per_second"):
        value = getattr(cost, name)
        if value is not None and value <= 0:
            yield "refuse", f"{name} is {value:g}"
    for name in ("params", "macs", "train_seconds", "teacher_seconds"):
        value = getattr(cost, name)
        if value is not None and value < 0:
            yield "refuse", f"{name} is {value:g}"
    if cost.threads is not None and cost.threads < 1:
        yield "refuse", f"threads is {cost.threads}"
    if cost.params > 0 and cost.macs == 0:
        yield "refuse", f"0 MACs with {cost.params:,} parameters: none would be used"
    if not 1 <= cost.epochs_run <= epochs:
        yield "refuse", f"{cost.epochs_run} epochs were run; the budget is {epochs}"
    if not 0 <= result.selected_epoch < cost.epochs_run:
        yield "refuse", f"epoch {result.selected_epoch} of {cost.epochs_run} was selected (counted from 0)"
    try:
        started, ended = datetime.fromisoformat(result.started), datetime.fromisoformat(result.ended)
        if ended < started:
            yield "refuse", f"ended ({result.ended}) before it started ({result.started})"
    except (ValueError, TypeError):
        yield "refuse", "started or ended is not a time (ISO 8601, with a time zone)"


def _history(record: Record) -> Iterator[Problem]:
    text = (record.path / "history.csv").read_bytes().decode("utf-8")
    rows = list(csv.DictReader(text.splitlines(), strict=True))
    if any(None in row or None in row.values() for row in rows):
        yield "refuse", "history.csv has rows of different lengths"
        return
    for row in rows:
        for name, value in row.items():
            if not name.isprintable() or not name.isascii():
                yield "refuse", f"history.csv has a column {name!r}"
                return
            if value and not math.isfinite(float(value)):
                yield "refuse", f"history.csv has {name} = {value}"
                return
    epochs = record.result.cost.epochs_run
    if len(rows) != epochs:
        yield "look", f"history.csv has {len(rows)} rows for {epochs} epochs"
        return
    metric = record.trial.protocol.selection.metric
    scores = [float(row[f"val_{metric}"]) for row in rows if row.get(f"val_{metric}")] if metric != "last" else []
    best = (min if metric == "nll" else max)(scores, default=0.0)
    selected = record.result.selected_epoch
    if len(scores) == epochs and 0 <= selected < epochs and abs(scores[selected] - best) > 1e-9:
        yield (
            "look",
            f"epoch {selected} was selected with validation {metric} {scores[selected]:.4f}, "
            f"but the best of the history is {best:.4f}",
        )


def _environment(document: Any) -> Iterator[Problem]:
    packages = document.get("packages", {})
    if not isinstance(packages, dict) or not all(isinstance(v, str) for v in packages.values()):
        yield "refuse", "its packages are not names and versions"
    elif not set(packages) <= set(PACKAGES):
        yield "look", f"lists unusual packages: {', '.join(sorted(set(packages) - set(PACKAGES)))}"


def _origin(result: Result) -> Iterator[Problem]:
    if not result.components:
        yield "look", "does not list its components"
    for part in result.components:
        if part.provider != OWN:
            digest = f", SHA-256 {part.sha256}" if part.sha256 else ""
            yield "look", f"{part.kind} {part.name} is code of {part.provider}{digest}: request it"


def _perfect(result: Result) -> Iterator[Problem]:
    for where, summary in {"test": result.metrics["test"], **result.routes}.items():
        if summary.get("macro_f1") == 1.0:
            yield "look", f"macro-F1 is 1 ({where}): every cell is correct"


def _cells(arrays: dict[str, NDArray[Any]]) -> Iterator[Problem]:
    test, val = arrays["test_cells"], arrays["val_cells"]
    for side, cells in (("test", test), ("validation", val)):
        if len(np.unique(cells)) != len(cells):
            yield "refuse", f"a {side} cell occurs twice"
        if (cells < 0).any():
            yield "refuse", f"a {side} cell has a negative id"
    if both := np.intersect1d(test, val).size:
        yield "refuse", f"{both} cells are both test and validation cells"


def _weights(record: Record) -> Iterator[Problem]:
    weights = record.weights()
    if any(bool((~w.isfinite()).any()) for w in weights.values() if w.is_floating_point()):
        yield "refuse", f"{WEIGHTS} has NaN or infinite weights"
    numbers = sum(w.numel() for w in weights.values())
    if numbers < record.result.cost.params:
        yield "look", f"{WEIGHTS} has {numbers:,} numbers; {record.result.cost.params:,} parameters are stated"


__all__ = ["check_record"]
