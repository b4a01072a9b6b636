"""Consistency checks of records. Every error names the folder, the file and the reason."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from wbcbench.errors import RecordError
from wbcbench.files import ARRAYS, DOCUMENTS
from wbcbench.records.schema import FILES, PAYLOAD, RESULT, SCHEMA_VERSION, Result, Summary, content_digest
from wbcbench.spec import Trial
from wbcbench.spec.trial import digest_plain, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-6
"""Largest difference between a stored metric and the same metric recomputed."""


_PER_CLASS = {"precision", "recall", "f1", "support"}


def refuse(folder: Path, file: str, reason: str) -> RecordError:
    """The error for one invalid file of a record."""
    return RecordError(
        f"Record {folder}: {file} {reason}. It is not counted; delete the folder to run the trial again."
    )


def read_result(folder: Path) -> Result:
    """Parse `result.json` and check its schema version and its own checksum."""
    return read_document(folder)[0]


def read_document(folder: Path) -> tuple[Result, dict[str, Any]]:
    """As `read_result`, and the document from `wbcbench.spec.trial.plain`, without the checksum."""
    text = read_bytes(folder, RESULT)
    try:
        document: dict[str, Any] = plain(text)
        version = document["schema_version"]
    except (*DOCUMENTS, KeyError, TypeError) as error:
        raise refuse(folder, RESULT, f"is not a result ({type(error).__name__}: {error})") from error
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise RecordError(
            f"Record {folder}: {RESULT} has schema version {version}, but this wbcbench reads version "
            f"{SCHEMA_VERSION}. " + ("Upgrade wbcbench to read it." if newer else "It is not a known version.")
        )
    try:
        result = Result.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise refuse(folder, RESULT, f"does not follow the schema ({where}: {first['msg']})") from error
    document.pop("checksum", None)
    # The fast path checks the document as written. An equivalent but differently written one may still be valid.
    if digest_plain(document, length=64) != result.checksum and result.own_checksum() != result.checksum:
        raise refuse(folder, RESULT, "was changed after it was written (its checksum differs)")
    return result, document


def read_trial(folder: Path) -> Trial:
    """Parse `spec.json`."""
    try:
        trial = Trial.model_validate_json(read_bytes(folder, "spec.json"))
        trial.id  # noqa: B018  computing the identity raises an error for NaN
    except DOCUMENTS as error:
        raise refuse(folder, "spec.json", f"is not a trial ({str(error).splitlines()[0]})") from error
    return trial


def read_predictions(folder: Path) -> dict[str, NDArray[Any]]:
    """Load every array of `predictions.npz`; never unpickles."""
    import numpy as np

    data = read_bytes(folder, "predictions.npz")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ARRAYS as error:
        raise refuse(folder, "predictions.npz", f"cannot be read ({error})") from error
    if other := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise refuse(folder, "predictions.npz", f"has {other[0]!r}, which is not an array")
    return arrays


def check_files(folder: Path, result: Result) -> None:
    """Every file exists and has the SHA-256 stated in `result.json`."""
    if set(result.files) != set(PAYLOAD):
        raise refuse(folder, RESULT, f"lists the files {sorted(result.files)}, not {sorted(PAYLOAD)}")
    for name in PAYLOAD:
        if hashlib.sha256(read_bytes(folder, name)).hexdigest() != result.files[name]:
            raise refuse(folder, name, "is damaged or was changed (its SHA-256 differs)")
    if content_digest(result.trial_id, result.files) != result.digest:
        raise refuse(folder, RESULT, "has a digest that does not match its files")


def check_identity(folder: Path, trial: Trial, result: Result) -> None:
    """Folder, spec and result are of the same trial, and the key follows from its protocol."""
    if trial.id != result.trial_id:
        raise refuse(folder, RESULT, f"is of trial {result.trial_id}, but spec.json is of trial {trial.id}")
    if folder.name != trial.id:
        raise refuse(folder, "spec.json", f"is of trial {trial.id}, but the folder has another name")
    key = result.key
    told = {name: getattr(key, name) for name in ("fingerprint", "split", "classes", "ordered")}  # of the cells
    expected = type(key).of(trial, **told)
    if differences := expected.diff(key):
        raise refuse(folder, RESULT, "has a key that does not match its trial: " + "; ".join(differences))
    stated, named = ([(t.name, t.digest) for t in ts] for ts in (result.outside, trial.method.outside))
    if stated != named:
        raise refuse(folder, RESULT, "has teachers from outside that are not those of spec.json")
    rebuilt = Result.build(trial, result, result.files)
    for name in Result.model_fields:
        if getattr(rebuilt, name) != getattr(result, name):
            raise refuse(folder, RESULT, f"has a field {name} that does not follow from spec.json")


def sides_of(result: Result) -> tuple[Literal["test", "val"], ...]:
    """The splits that a record has."""
    return ("val",) if result.status == "sealed" else ("test", "val")


def check_predictions(folder: Path, predictions: Mapping[str, NDArray[Any]], result: Result) -> None:
    """Arrays have the expected shapes and values, and confusion and accuracy match them (uses numpy only)."""
    import numpy as np

    def bad(reason: str) -> RecordError:
        return refuse(folder, "predictions.npz", reason)

    k = len(result.key.classes)
    if result.status == "sealed" and (seen := sorted(n for n in predictions if not n.startswith("val_"))):
        raise bad(f"is of a sealed trial, which must have no test predictions, but has {seen}")
    for side in sides_of(result):
        for name in (f"{side}_probabilities", f"{side}_labels", f"{side}_cells"):
            if name not in predictions:
                raise bad(f"has no array {name}")
        labels, cells = predictions[f"{side}_labels"], predictions[f"{side}_cells"]
        if labels.shape != cells.shape or labels.ndim != 1 or not labels.size:
            raise bad(f"has {side} labels {list(labels.shape)} and cells {list(cells.shape)}, not [N] each")
        if labels.dtype != np.int64 or cells.dtype != np.int64:
            raise bad(f"has {side} labels or cells that are not int64")
        if labels.min() < 0 or labels.max() >= k:
            raise bad(f"has {side} labels outside 0..{k - 1}")
    for name, p in predictions.items():
        if not name.endswith("_probabilities") and not name.startswith("test_route_"):
            continue
        n = len(predictions[f"{name.split('_')[0]}_labels"])
        if p.shape != (n, k) or p.dtype != np.float32:
            raise bad(f"has {name} {p.dtype}{list(p.shape)}, not float32[{n}, {k}]")
        if not np.isfinite(p).all() or (p < 0).any() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
            raise bad(f"has {name} that are not probabilities (finite, non-negative, rows sum to 1)")
    groups = predictions.get("test_groups")
    if groups is not None and (groups.shape != predictions["test_labels"].shape or groups.dtype != np.int64):
        raise bad(f"has test_groups {groups.dtype}{list(groups.shape)}, not int64[N]")
    routes = {name.removeprefix("test_route_") for name in predictions if name.startswith("test_route_")}
    if routes != set(result.routes):
        raise bad(f"has routes {sorted(routes)}, but {RESULT} has {sorted(result.routes)}")

    side = sides_of(result)[0]
    labels, predicted = predictions[f"{side}_labels"], predictions[f"{side}_probabilities"].argmax(axis=1)
    confusion = np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)
    if result.confusion != ([] if result.status == "sealed" else confusion.tolist()):
        raise refuse(folder, RESULT, "has a confusion matrix that does not match predictions.npz")
    accuracy = result.metrics.get(side, {}).get("accuracy")
    if accuracy is None or abs(accuracy - np.trace(confusion) / len(labels)) > TOLERANCE:
        raise refuse(folder, RESULT, f"has accuracy {accuracy}, which does not match predictions.npz")


def check_ranges(folder: Path, result: Result) -> None:
    """Every stored metric is known and in its range."""
    from wbcbench.evaluation.metrics import METRICS

    summaries: dict[str, Summary] = {f"routes.{k}": v for k, v in result.routes.items()}
    for side, summary in result.metrics.items():
        summaries[side] = summary
    sides = sides_of(result)
    for t in result.outside:
        every: set[str] = {"train", *sides}
        stated = [t.answered] if t.trained_on is None else [t.answered, t.trained_on]
        if any(set(counts) != every for counts in stated) or not set(t.metrics) <= every:
            raise refuse(folder, RESULT, f"has a teacher from outside on other sides than {sorted(every)}")
        summaries |= {f"outside.{t.name}.{side}": summary for side, summary in t.metrics.items()}
    if set(result.metrics) != set(sides):
        raise refuse(folder, RESULT, f"has metrics of {sorted(result.metrics)}, not of {sorted(sides)}")
    classes = () if result.status == "sealed" else result.key.classes
    if set(result.per_class) != set(classes) or any(set(s) != _PER_CLASS for s in result.per_class.values()):
        raise refuse(folder, RESULT, f"does not have {', '.join(sorted(_PER_CLASS))} of each class in per_class")
    for where, summary in summaries.items():
        if set(summary) != set(METRICS):
            raise refuse(folder, RESULT, f"has metrics {sorted(summary)} in {where}, not {sorted(METRICS)}")
        for name, value in summary.items():
            low, high = METRICS[name].range
            if value is not None and not low - TOLERANCE <= value <= high + TOLERANCE:
                raise refuse(folder, RESULT, f"has {name} = {value} in {where}, outside {low}..{high}")


def check_metrics(folder: Path, predictions: Mapping[str, NDArray[Any]], result: Result) -> None:
    """Every metric, recomputed from the predictions, equals that in `result.json`."""
    from wbcbench.evaluation.metrics import evaluate

    again = evaluate(predictions, result.key.classes)
    for part in ("metrics", "per_class", "routes"):
        stored = getattr(result, part)
        if set(stored) != set(again[part]):
            raise refuse(folder, RESULT, f"has {part} for {sorted(stored)}, not {sorted(again[part])}")
        for where, summary in again[part].items():
            for name, value in summary.items():
                stated = stored[where].get(name)
                if (stated is None) != (value is None) or (
                    stated is not None and value is not None and abs(stated - value) > TOLERANCE
                ):
                    raise refuse(
                        folder, RESULT,
                        f"has {part}.{where}.{name} = {stated}, but its predictions give {value}",
                    )  # fmt: skip


def complete(folder: Path) -> bool:
    """Whether every file exists and is not empty; reads no content."""
    try:
        return all((folder / name).stat().st_size > 0 for name in FILES)
    except OSError:
        return False


def read_bytes(folder: Path, name: str) -> bytes:
    try:
        with open(f"{folder}{os.sep}{name}", "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise refuse(folder, name, "is missing") from None
    except OSError as error:
        raise refuse(folder, name, f"cannot be read ({error.strerror or error})") from error
    if not data:
        raise refuse(folder, name, "is empty")
    return data


__all__ = [
    "check_files", "check_identity", "check_metrics", "check_predictions", "check_ranges", "complete",
    "read_bytes", "read_document", "read_predictions", "read_result", "read_trial", "refuse", "sides_of",
]  # fmt: skip
