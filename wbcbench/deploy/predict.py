"""A network's predictions for all cells of a source, batch by batch."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wbcbench.boards.text import clean, spreadsheet
from wbcbench.deploy.cells import CellSource, refuse_if_all_broken
from wbcbench.deploy.network import PROBABILITIES, ROUTE, Rebuilt
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.evaluation.metrics import Scores, score
from wbcbench.evaluation.shift import USES, Evidence, Judged, Reference, measure, pixel_digests
from wbcbench.files import atomic_write_bytes
from wbcbench.isolation import contained
from wbcbench.training.report import unusual_images

BATCH = 64
Done = Callable[[int, int], None]
"""Called as `done(cells so far, total)`."""


@dataclass
class Answers:
    """A network's predictions for the N cells of one source."""

    source: CellSource
    probabilities: NDArray[np.float32]
    """[N, K]; NaN in the rows of `source.errors`."""
    routes: dict[str, NDArray[np.float32]]
    """Route -> [N, K]; NaN also in rows where its modality is missing."""
    odd: list[list[str]] = field(default_factory=list)
    """[N], differences from the training cells; see `unusual_images`."""
    shift: Judged | None = None
    """How far the cells are from the training cells; None without a reference."""
    used: NDArray[np.int64] | None = None
    """[N] index into `USES`; None without a reference."""

    @property
    def answered(self) -> NDArray[np.bool_]:
        """[N] bool, the cells that could be read and so have a prediction."""
        found = np.ones(len(self.source.names), dtype=np.bool_)
        found[list(self.source.errors)] = False
        return found


@contained()
def classify(
    rebuilt: Rebuilt,
    source: CellSource,
    device: torch.device,
    batch: int = BATCH,
    done: Done = lambda *_: None,
    reference: Reference | None = None,
) -> Answers:
    """Classify every cell. Cells that cannot be read get no prediction, see `Source.errors`.

    Args:
        reference: what the cells are compared with; see `Rebuilt.reference`.

    Raises:
        IncompatibleError: a cell lacks a modality that the fusion requires.
        DataError: no cell can be read.
    """
    network, modalities = rebuilt.network.to(device), rebuilt.network.modalities
    lacking: NDArray[np.bool_] = np.logical_not(source.present.all(1))
    lacking[list(source.errors)] = False
    if lacking.any() and rebuilt.fusion.traits.missing == "refuse":
        absent = [m for column, m in enumerate(modalities) if not source.present[:, column].all()]
        raise IncompatibleError(
            f"Fusion '{rebuilt.record.result.fusion}' needs every modality of every cell, but "
            f"{int(lacking.sum())} cells of {source.where} lack {' or '.join(absent)}. Add the images, leave "
            "those cells out, or use a network whose fusion supports missing modalities."
        )
    total, joined = len(source.names), dict[str, NDArray[Any]]()
    odd: list[list[str]] = [[] for _ in range(total)]
    found: list[tuple[NDArray[np.int64], Evidence, NDArray[np.uint64]]] = []
    for start in range(0, total, batch):
        stop = min(total, start + batch)
        images = source.read(start, stop)
        rows = np.array([row for row in range(start, stop) if row not in source.errors], dtype=np.int64)
        if len(rows):
            images = {m: np.ascontiguousarray(x[rows - start]) for m, x in images.items()}
            here = np.ascontiguousarray(source.present[rows])
            for row, kinds in zip(rows, unusual_images(images, here, rebuilt.statistics), strict=True):
                odd[row] = kinds
            tensors = {m: torch.from_numpy(x).to(device) for m, x in images.items()}
            present = torch.from_numpy(here).to(device) if lacking.any() else None
            with torch.no_grad():
                seen = network.normalised(tensors, present)
                answers, outputs = network.measured(rebuilt.fusion, seen, present)
            if reference is not None:
                evidence = measure(seen, outputs, answers[PROBABILITIES], present)
                found.append((rows, evidence, pixel_digests({m: images[m] for m in modalities})))
            for name, value in answers.items():
                whole = joined.setdefault(name, np.full((total, *value.shape[1:]), np.nan, np.float32))
                whole[rows] = value.cpu().numpy()
        done(stop, total)
    refuse_if_all_broken(source, modalities)
    routes = {n.removeprefix(ROUTE): p for n, p in joined.items() if n != PROBABILITIES}
    for column, m in enumerate(modalities):
        if m in routes:
            routes[m][~source.present[:, column]] = np.nan
    answered = Answers(source, joined[PROBABILITIES], routes, odd)
    if reference is not None:
        _compare(answered, reference, *zip(*found, strict=True))
    return answered


def _compare(
    answers: Answers,
    reference: Reference,
    rows: tuple[NDArray[np.int64], ...],
    evidence: tuple[Evidence, ...],
    digests: tuple[NDArray[np.uint64], ...],
) -> None:
    """Fill `shift` and `used`, from the batches of cells that could be read."""
    total, places = len(answers.source.names), np.concatenate(rows)
    used = reference.used_for(np.concatenate(digests))
    judged = reference.judge(Evidence.joined(evidence), used)
    distances = np.full(total, np.nan, np.float32)
    distances[places] = judged.distances
    answers.shift = replace(judged, distances=distances)
    answers.used = np.zeros(total, np.int64)
    answers.used[places] = used


def scores_of(answers: list[Answers], classes: tuple[str, ...]) -> tuple[Scores | None, int, list[str]]:
    """Metrics over the cells whose label is one of the classes, their number, and the other labels."""
    probabilities, labels, strange = [], [], set()
    for a in answers:
        for text, p, answered in zip(a.source.labels or (), a.probabilities, a.answered, strict=False):
            if text in classes and answered:
                probabilities.append(p)
                labels.append(classes.index(text))
            elif text and text not in classes:
                strange.add(text)
    if not labels:
        return None, 0, sorted(strange)
    found = score(np.stack(probabilities), np.array(labels, dtype=np.int64), classes)
    return found, len(labels), sorted(strange)


SUFFIXES = (".csv", ".parquet")


def check_name(path: Path) -> None:
    """Raise `UsageError` for any other suffix."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"Expected a file that ends in .csv or .parquet, but got {path}.")


def table(answers: list[Answers], classes: tuple[str, ...], modalities: tuple[str, ...]) -> Any:
    """A pandas frame.

    Columns: `source`, `cell`, `label` (if any are known), `predicted`, `confidence`, `probability:<class>`,
    `<route>:<class>` for every route (empty where its modality is missing), `missing` and `unlike_training`, both
    separated by `; `, `distance` from the training cells (1: further than 99 % of validation cells; empty if
    unknown), `used_for` (`training` or `validation` of this very network), and `error`: why a cell could not be
    read and has no prediction.
    """
    import pandas as pd

    frames = []
    for a in answers:
        n = len(a.source.names)
        answered = a.answered
        best = a.probabilities.argmax(1)
        columns: dict[str, Any] = {"source": [a.source.where] * n, "cell": list(a.source.names)}
        if any(b.source.labels is not None for b in answers):
            columns["label"] = list(a.source.labels or [""] * n)
        columns["predicted"] = [classes[k] if ok else "" for k, ok in zip(best, answered, strict=True)]
        columns["confidence"] = a.probabilities[np.arange(n), best]
        for prefix, p in (("probability", a.probabilities), *a.routes.items()):
            columns |= {f"{prefix}:{clean(c)}": p[:, k] for k, c in enumerate(classes)}
        lacking = [[m for m, here in zip(modalities, row, strict=True) if not here] for row in a.source.present]
        columns["missing"] = ["; ".join(names) if ok else "" for names, ok in zip(lacking, answered, strict=True)]
        columns["unlike_training"] = ["; ".join(found) for found in a.odd]
        columns["distance"] = np.full(n, np.nan, np.float32) if a.shift is None else a.shift.distances
        columns["used_for"] = [""] * n if a.used is None else [USES[use] for use in a.used]
        columns["error"] = [a.source.errors.get(row, "") for row in range(n)]
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def write(frame: Any, path: Path) -> None:
    """Write the frame atomically. In CSV, text is escaped so that spreadsheets do not run it as a formula."""
    check_name(path)
    if path.suffix.lower() == ".parquet":
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        atomic_write_bytes(path, buffer.getvalue())
        return
    text = frame.copy()
    for name in ("source", "cell", "label", "predicted", "error"):
        if name in text:
            text[name] = [spreadsheet(str(v)) for v in text[name]]
    text.columns = [spreadsheet(str(c)) for c in text.columns]
    atomic_write_bytes(path, text.to_csv(index=False, lineterminator="\n").encode())


__all__ = ["BATCH", "SUFFIXES", "Answers", "Done", "check_name", "classify", "scores_of", "table", "write"]
