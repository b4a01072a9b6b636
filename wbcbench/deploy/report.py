"""The HTML report of one record: metrics with intervals over test cells, worst mistakes, figures, provenance."""

from __future__ import annotations

import base64
import csv
import io
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wbcbench.boards.figures.data import subset_order
from wbcbench.boards.formats.page import asset as board_asset
from wbcbench.boards.formats.page import content_policy, figure_fields, packed, page_script, plotly_js
from wbcbench.boards.index import contents
from wbcbench.boards.shares import share_value
from wbcbench.boards.statistics.bootstrap import bootstrap, bootstrap_of, features
from wbcbench.boards.text import clean
from wbcbench.boards.values import of_order
from wbcbench.contracts import Cells
from wbcbench.deploy import report_figures as figures
from wbcbench.deploy.explain import tile
from wbcbench.deploy.network import HINT, workbench
from wbcbench.errors import RecordError, WbcbenchError
from wbcbench.evaluation.levelling import Curve, levelled
from wbcbench.evaluation.metrics import METRICS, Metric
from wbcbench.evaluation.scorers import value_of
from wbcbench.files import DOCUMENTS
from wbcbench.records.evaluations import examination_path, read_examination
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
from wbcbench.spec import Trial
from wbcbench.spec.load import Settings

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A metric of the test cells."""

    value: float | None
    """None: undefined."""
    low: float | None = None
    """2.5th percentile of the bootstrap; None if the value is undefined or there is one donor only."""
    high: float | None = None

    def text(self) -> str:
        """`0.753 (0.726 to 0.780)`."""
        if self.value is None:
            return "undefined"
        return f"{self.value:.3f}" + ("" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})")


@dataclass(frozen=True)
class Seeds:
    """The same method and protocol, over all seeds in a store."""

    seeds: tuple[int, ...]
    mean: float
    """Of test macro-F1."""
    sd: float | None
    """None with one seed."""


def metric_intervals(record: Record, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Metric -> value on the test cells with its 95 % interval; empty for a sealed record.

    Test cells are drawn with replacement, as whole groups (donors) if the record has them. The interval covers the
    choice of cells, not of the seed. Equal records give equal numbers.
    """
    arrays = record.predictions
    if "test_probabilities" not in arrays:
        return {}
    labels = arrays["test_labels"]
    groups = arrays.get("test_groups", np.arange(len(labels)))
    clusters = np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.intp)
    values = record.result.metrics["test"]
    if clusters.max() == 0:  # a single donor cannot be resampled
        return {name: Interval(values[name]) for name in METRICS}
    table = features(arrays["test_probabilities"], labels, clusters)
    drawn = bootstrap([table], list(METRICS), resamples)[0]
    found = {}
    for name, row in zip(METRICS, drawn, strict=True):
        if values[name] is None or not np.isfinite(row).all():
            found[name] = Interval(values[name])
            continue
        low, high = np.quantile(row, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        bound = METRICS[name].range
        found[name] = Interval(values[name], float(np.clip(low, *bound)), float(np.clip(high, *bound)))
    for s in of_order() if record.result.key.ordered else ():
        metric, p = s.of(record.result.key.classes, ordered=True), arrays["test_probabilities"]
        row = bootstrap_of(metric, p, labels, clusters, resamples)
        ends = np.quantile(row, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if np.isfinite(row).all() else ()
        found[s.name] = Interval(value_of(metric, p, labels), *map(float, ends))
    return found


def properties_of(name: str) -> Metric:
    """Of a metric in `metric_intervals`."""
    return METRICS.get(name) or next(s.properties for s in of_order() if s.name == name)


def other_seeds(record: Record, store: Store | None) -> Seeds | None:
    """The record and those of the same method's other seeds in the store; None if there are no others."""
    if store is None or record.result.status == "sealed":
        return None
    method = record.result.method_id
    records = [
        r for r in store.scan(verify=False)[0] if r.result.method_id == method and r.result.status == "done"
    ]
    scores = {r.result.seed: r.result.metrics["test"]["macro_f1"] or 0.0 for r in records}
    scores[record.result.seed] = record.result.metrics["test"]["macro_f1"] or 0.0
    if len(scores) < 2:
        return None
    return Seeds(tuple(sorted(scores)), statistics.fmean(scores.values()), statistics.stdev(scores.values()))


SHOWN = 24
_SIDE = 112


@dataclass(frozen=True)
class Mistake:
    """One cell."""

    name: str
    true: str
    predicted: str
    confidence: float
    """Of the predicted class."""
    given: float
    """The probability of the true class."""
    pictures: tuple[tuple[str, str], ...]
    """(modality, `data:` URL of a PNG), for the modalities that the cell has."""


def worst(record: Record, side: str, count: int = SHOWN) -> list[int]:
    """Rows of the wrong `test` or `val` predictions, by increasing probability of the true class."""
    p, labels = record.predictions[f"{side}_probabilities"], record.predictions[f"{side}_labels"]
    wrong = np.flatnonzero(p.argmax(1) != labels)
    truth = p[wrong, labels[wrong]]
    return [int(row) for row in wrong[np.lexsort((wrong, truth))][:count]]


def mistakes(record: Record, cells: Cells, side: str, count: int = SHOWN) -> list[Mistake]:
    """The worst mistakes with their images."""
    arrays, classes = record.predictions, record.result.key.classes
    columns = {m: i for i, m in enumerate(cells.images)}
    found = []
    for row in worst(record, side, count):
        cell, label = int(arrays[f"{side}_cells"][row]), int(arrays[f"{side}_labels"][row])
        p = arrays[f"{side}_probabilities"][row]
        reads = [m for m in record.trial.reads if m not in cells.features]
        here = [m for m in reads if cells.present is None or cells.present[cell, columns[m]]]
        found.append(
            Mistake(
                name=cells.ids[cell] if cells.ids else f"cell {cell}",
                true=classes[label],
                predicted=classes[int(p.argmax())],
                confidence=float(p.max()),
                given=float(p[label]),
                pictures=tuple((m, _png(cells, m, cell)) for m in here),
            )
        )
    return found


def _png(cells: Cells, modality: str, cell: int) -> str:
    buffer = io.BytesIO()
    tile(np.asarray(cells.images[modality][cell]), _SIDE).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def gather(
    record: Record,
    store: Store,
    registry: Registry,
    settings: Settings = (),
    decoding: Callable[[int, int, str], None] | None = None,
) -> Material:
    """All available material. Without the cells there are no pictures, and the page states why.

    Args:
        settings: where the cells are, as in `dataset.path=cells.npz`.

    Raises:
        UsageError: the cells of `settings` are not those of the record.
    """
    found, remark = examination(record)
    material = Material(record, found, None, remark=remark, others=_other_curves(record, store))
    try:
        cells = workbench(record, store, registry, settings, decoding=decoding).cells(record.trial)
    except WbcbenchError as error:
        if settings:
            raise  # the user named them
        return replace(material, without=f"{error} {HINT}")
    return replace(material, mistakes=tuple(mistakes(record, cells, material.side)))


def _other_curves(record: Record, store: Store) -> tuple[Curve | None, ...]:
    """Of the records that differ from this one in seed or fold only."""
    if record.result.status == "sealed":
        return ()
    key, method = record.result.key.digest, record.result.method_id
    entries = contents(store, "quick", not store.packed, store.packed).entries
    return tuple(
        e.curve for e in entries if (e.key, e.method_id) == (key, method) and e.trial_id != record.trial.id
    )


def examination(record: Record) -> tuple[dict[str, Any] | None, str]:
    """The results of `--evaluate full` for the record, if they are valid, and a remark on them."""
    path = examination_path(record.path.parent.parent, record.trial.id)
    if not path.is_file():
        return None, ""
    try:
        found = read_examination(path, record.result.digest)
    except RecordError as error:
        return None, f"The full evaluation cannot be used: {error}"
    return found.result, "" if found.checked else "The full evaluation has no checksum, so it was not checked."


Facts = list[tuple[str, str]]
_NOT_SHOWN = ("host",)
"""Private fields of the environment."""


@dataclass(frozen=True)
class Material:
    """Everything that the page is made from."""

    record: Record
    examination: dict[str, Any] | None = None
    """The results of `--evaluate full`; None: there are none."""
    mistakes: tuple[Mistake, ...] | None = None
    without: str = ""
    """Why there are no pictures; empty if there are."""
    remark: str = ""
    """A remark on the full evaluation: why it was refused, or that it could not be checked."""
    others: tuple[Curve | None, ...] = ()
    """Validation curves of the method's other seeds in the store."""

    @property
    def side(self) -> str:
        """`test`; `val` for a sealed record."""
        return "test" if "test_probabilities" in self.record.predictions else "val"


def page(material: Material) -> str:
    """The page as HTML; equal material gives equal bytes."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clean"] = lambda value: clean(str(value))
    record, result, examination = material.record, material.record.result, material.examination or {}
    history = read_history(record)
    details = figures.details_of(record, material.side)
    drawings = {
        "losses": figures.losses(history, result.selected_epoch),
        "validation": figures.validation(history, result.selected_epoch),
        **figures.per_class(record, details, material.side),
        "missing": figures.missing(examination),
        "corruptions": figures.corruptions(examination),
    }
    drawn = {name: figure_fields(d, f"figure-{name}") for name, d in drawings.items() if d is not None}
    library, script = plotly_js(), page_script(_asset("report.js"))
    return environment.from_string(_asset("report.html.j2")).render(
        result=result,
        side={"test": "test", "val": "validation"}[material.side],
        facts=_facts(material),
        intervals=[(name, i.text(), properties_of(name)) for name, i in metric_intervals(record).items()]
        or [(n, "undefined" if v is None else f"{v:.3f}", METRICS[n]) for n, v in result.metrics["val"].items()],
        curves=[drawn[n] for n in ("losses", "validation") if n in drawn],
        class_figures=[drawn[n] for n in ("confusion", "calibration", "classes") if n in drawn],
        per_class=list(details.per_class.items()),
        groups=_groups(record, material.side),
        routes=[(name, [_number(s.get(m)) for m in METRICS]) for name, s in result.routes.items()],
        metric_names=list(METRICS),
        examined=[drawn[n] for n in ("missing", "corruptions") if n in drawn],
        subsets=_subsets(examination),
        imputes=examination.get("missing") == "impute",
        reliance=_reliance(examination),
        remark=material.remark,
        ceilings=result.ceilings(),
        mistakes=material.mistakes,
        without=material.without,
        cost=_cost(record),
        environment=_environment(record),
        teachers=list(_teachers(record.trial, 0)),
        css=Markup(board_asset("page.css") + _asset("report.css")),
        libraries=[packed(library)],
        script=Markup(script),
        policy=content_policy([library, script]),
    )


def read_history(record: Record) -> list[dict[str, float]]:
    """The rows of history.csv, without empty fields. Raises `RecordError`."""
    try:
        rows = csv.DictReader(io.StringIO((record.path / "history.csv").read_text(encoding="utf-8")))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:  # TypeError: a row longer than the header
        raise RecordError(f"Record {record.path}: history.csv cannot be read ({error}).") from error


def _facts(material: Material) -> Facts:
    r, k = material.record.result, material.record.result.key
    runs = [material.record.curve(), *material.others]
    pooled = f", {len(runs)} seeds together" if len(runs) > 1 else ""
    facts = [
        ("method", r.title),
        ("backbone", r.backbone),
        ("policies", ", ".join(r.policies)),
        ("routing", r.routing or ""),
        (
            "data",
            f"{k.dataset}: {' + '.join(k.modalities)}" + (", pseudo-modalities" if r.pseudo_multimodal else ""),
        ),
        ("classes", f"{len(k.classes)}: {', '.join(k.classes)}"),
        ("images", f"{k.image_size} × {k.image_size} px" if k.image_size else ""),
        ("found", "; ".join(a.sentence() for i, a in enumerate(r.accounts) if i == 0 or a.left_out)),
        ("training", f"{k.budget.epochs} epochs of batch {k.budget.batch_size}, seed {r.seed}"),
        ("kept", f"epoch {r.selected_epoch + 1}, {k.kept}"),
        ("levelled off", f"{levelled(runs, k.judged_by)}{pooled}"),
    ]
    return [(name, text) for name, text in facts if text]


def _cost(record: Record) -> Facts:
    c = record.result.cost
    facts: list[tuple[str, Any, str]] = [
        ("parameters", c.params, "{:,}"),
        ("multiply-accumulates per cell", c.macs, "{:,}"),
        ("latency, one cell", c.latency_ms, "{:.2f} ms"),
        ("throughput, batch of 32", c.throughput, "{:,.0f} cells/s"),
        ("training", c.train_seconds, "{:.1f} s"),
        ("teacher outputs", c.teacher_seconds or None, "{:.1f} s"),
        ("training speed", c.train_images_per_second, "{:,.0f} images/s"),
        ("epochs", c.epochs_run, "{}"),
        ("device", c.device, "{}"),
        ("threads", c.threads, "{}"),
    ]
    return [(name, form.format(value)) for name, value, form in facts if value is not None]


def _environment(record: Record) -> Facts:
    try:
        document = json.loads((record.path / "env.json").read_text(encoding="utf-8"))
        return list(_flat("", {k: v for k, v in document.items() if k not in _NOT_SHOWN}))
    except (OSError, *DOCUMENTS, AttributeError) as error:
        raise RecordError(f"Record {record.path}: env.json cannot be read ({error}).") from error


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}" if path else str(name), inner)
    elif value is not None:
        yield path, str(value)


def _teachers(trial: Trial, depth: int) -> Iterator[dict[str, Any]]:
    for teacher in trial.method.teachers:
        yield {
            "id": teacher.id, "label": teacher.label, "depth": depth, "seed": teacher.seed,
            "backbone": teacher.method.backbone_name,
            "modalities": " + ".join(teacher.reads), "kd": teacher.method.kd,
        }  # fmt: skip
        yield from _teachers(teacher, depth + 1)
    for outside in trial.method.outside:
        yield {
            "id": outside.digest[:16], "label": f"{outside.name}, from outside", "depth": depth, "seed": "",
            "backbone": "a file of answers", "modalities": " + ".join(outside.reads), "kd": "",
        }  # fmt: skip


def _groups(record: Record, side: str) -> list[tuple[str, int, int, str, str]]:
    """Per donor, slide or plate: cells, classes, macro-F1 over these, accuracy; empty if there are none known."""
    groups = record.predictions.get(f"{side}_groups")
    if groups is None:
        return []
    p, labels = (record.predictions[f"{side}_{what}"] for what in ("probabilities", "labels"))
    classes, names = record.result.key.classes, record.result.group_names
    found = []
    for g in map(int, np.unique(groups)):
        rows = groups == g
        f1, accuracy = (share_value(p[rows], labels[rows], classes, by) for by in ("macro_f1", "accuracy"))
        kinds = len(np.unique(labels[rows]))
        found.append((names[g] if names else str(g), int(rows.sum()), kinds, _number(f1), _number(accuracy)))
    return found


def _reliance(examination: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Per modality: Shapley value of balanced accuracy, macro-F1 lost if it shows other cells."""
    shapley, drop = examination.get("shapley") or {}, examination.get("permutation_drop") or {}
    return [(m, _number(shapley.get(m)), _number(drop.get(m))) for m in dict.fromkeys((*shapley, *drop))]


def _subsets(examination: dict[str, Any]) -> list[tuple[str, ...]]:
    """Per subset of modalities: test cells that have it, macro-F1 on these, deployed parameters and MACs."""
    costs, scores = examination.get("subset_cost") or {}, examination.get("subsets") or {}
    counts = examination.get("subset_cells") or {}
    return [
        (
            name.replace("+", " + "),
            f"{counts.get(name, 0):,}",
            _number((scores.get(name) or {}).get("macro_f1")),
            *("" if (n := costs[name][what]) is None else f"{n:,}" for what in ("params", "macs")),
        )
        for name in sorted(costs, key=subset_order)
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


__all__ = [
    "LEVEL",
    "RESAMPLES",
    "SHOWN",
    "Interval",
    "Material",
    "Mistake",
    "Seeds",
    "examination",
    "gather",
    "metric_intervals",
    "mistakes",
    "other_seeds",
    "page",
    "read_history",
    "worst",
]
