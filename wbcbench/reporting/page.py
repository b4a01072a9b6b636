"""The page: what goes into the template."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wbcbench.errors import RecordError
from wbcbench.evaluation.metrics import METRICS
from wbcbench.leaderboard.formats.html.choices import Drawing
from wbcbench.leaderboard.formats.html.libraries import asset as board_asset
from wbcbench.leaderboard.formats.html.libraries import plotly, policy
from wbcbench.leaderboard.text import clean
from wbcbench.records.spoilt import DOCUMENTS
from wbcbench.records.store import Record
from wbcbench.reporting import record_figures as figures
from wbcbench.reporting.intervals import metric_intervals
from wbcbench.reporting.mistakes import Mistake
from wbcbench.spec import Trial

Facts = list[tuple[str, str]]
_NOT_SHOWN = ("host",)
"""Of the environment: what is nobody's business."""


@dataclass(frozen=True)
class Material:
    """All that the page is a function of."""

    record: Record
    examination: dict[str, Any] | None = None
    """What `--evaluate full` found; None: nothing."""
    mistakes: tuple[Mistake, ...] | None = None
    without: str = ""
    """Why there are no pictures; empty where there are."""
    remark: str = ""
    """What has to be said of the examination: why it was refused, or that it cannot be checked."""

    @property
    def side(self) -> str:
        """`test`; `val` for a sealed record."""
        return "test" if "test_probabilities" in self.record.predictions else "val"


def page(material: Material) -> str:
    """The whole page as text; equal material gives equal bytes."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clean"] = lambda value: clean(str(value))
    record, result, examination = material.record, material.record.result, material.examination or {}
    history = read_history(record)
    details = figures.details_of(record, material.side)
    drawings = {
        "losses": figures.losses(history, result.selected_epoch),
        "validation": figures.validation(history, result.selected_epoch),
        **figures.close(record, details, material.side),
        "missing": figures.missing(examination),
        "corruptions": figures.corruptions(examination),
    }
    drawn = {name: _figure(d, name) for name, d in drawings.items() if d is not None}
    scripts = [("text/javascript", plotly()), ("module", _asset("page.js"))]
    return environment.from_string(_asset("page.html.j2")).render(
        result=result,
        side={"test": "test", "val": "validation"}[material.side],
        facts=_facts(record),
        intervals=[(name, i.text(), METRICS[name]) for name, i in metric_intervals(record).items()]
        or [(n, "undefined" if v is None else f"{v:.3f}", METRICS[n]) for n, v in result.metrics["val"].items()],
        curves=[drawn[n] for n in ("losses", "validation") if n in drawn],
        closely=[drawn[n] for n in ("confusion", "calibration", "classes") if n in drawn],
        per_class=list(details.per_class.items()),
        routes=[(name, [_number(s.get(m)) for m in METRICS]) for name, s in result.routes.items()],
        metric_names=list(METRICS),
        examined=[drawn[n] for n in ("missing", "corruptions") if n in drawn],
        subsets=_subsets(examination),
        imputes=examination.get("missing") == "impute",
        reliance=_reliance(examination),
        remark=material.remark,
        mistakes=material.mistakes,
        without=material.without,
        cost=_cost(record),
        environment=_environment(record),
        teachers=list(_teachers(record.trial, 0)),
        css=Markup(board_asset("page.css") + _asset("page.css")),
        libraries=[(kind, Markup(text)) for kind, text in scripts[:-1]],
        script=Markup(scripts[-1][1]),
        policy=policy(text for _, text in scripts),
    )


def read_history(record: Record) -> list[dict[str, float]]:
    """The rows of history.csv; empty fields left out. Raises `RecordError`."""
    try:
        rows = csv.DictReader(io.StringIO((record.path / "history.csv").read_text(encoding="utf-8")))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:  # TypeError: a row longer than the header
        raise RecordError(f"Record {record.path}: history.csv cannot be read ({error}).") from error


def _facts(record: Record) -> Facts:
    r, k = record.result, record.result.key
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
        ("images", f"{k.image_size} × {k.image_size} px"),
        ("training", f"{k.budget.epochs} epochs of batch {k.budget.batch_size}, seed {r.seed}"),
        ("kept", f"epoch {r.selected_epoch + 1}, by validation {k.selection}"),
    ]
    return [(name, text) for name, text in facts if text]


def _cost(record: Record) -> Facts:
    c = record.result.cost
    facts: list[tuple[str, Any, str]] = [
        ("parameters", c.params, "{:,}"),
        ("multiply-accumulates a cell", c.macs, "{:,}"),
        ("latency, one cell", c.latency_ms, "{:.2f} ms"),
        ("throughput, batch of 32", c.throughput, "{:,.0f} cells/s"),
        ("training", c.train_seconds, "{:.1f} s"),
        ("teachers' answers", c.teacher_seconds or None, "{:.1f} s"),
        ("training images", c.train_images_per_second, "{:,.0f} a second"),
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
        model = teacher.method.backbone
        yield {
            "id": teacher.id, "label": teacher.label, "depth": depth, "seed": teacher.seed,
            "backbone": str(model.params.get("model") or model.name),
            "modalities": " + ".join(teacher.reads), "kd": teacher.method.kd,
        }  # fmt: skip
        yield from _teachers(teacher, depth + 1)


def _reliance(examination: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Per modality: Shapley value of balanced accuracy, macro-F1 lost when it shows other cells."""
    shapley, drop = examination.get("shapley") or {}, examination.get("permutation_drop") or {}
    return [(m, _number(shapley.get(m)), _number(drop.get(m))) for m in dict.fromkeys((*shapley, *drop))]


def _subsets(examination: dict[str, Any]) -> list[tuple[str, ...]]:
    """Per subset of modalities: test cells that have it, macro-F1 on them, parameters and MACs deployed for it."""
    costs, scores = examination.get("subset_cost") or {}, examination.get("subsets") or {}
    counts = examination.get("subset_cells") or {}
    return [
        (
            name.replace("+", " + "),
            f"{counts.get(name, 0):,}",
            _number((scores.get(name) or {}).get("macro_f1")),
            *(f"{costs[name][what]:,}" for what in ("params", "macs")),
        )
        for name in sorted(costs, key=lambda s: (s.count("+"), s))
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _figure(drawing: Drawing, id_: str) -> dict[str, Any]:
    """What the template needs; no text in the figure's JSON can end the script that holds it."""
    text = drawing.figure.to_json(engine="json")
    assert text is not None
    return {
        "id": f"figure-{id_}",
        "heading": drawing.heading,
        "doc": drawing.doc,
        "asks": drawing.asks,
        "choices": [asdict(c) for c in drawing.choices],
        "json": Markup(text.replace("<", "\\u003c")),
        "height": int(drawing.figure.layout.height),
    }


def _asset(name: str) -> str:
    return resources.files("wbcbench.reporting").joinpath(name).read_text(encoding="utf-8")


__all__ = ["Material", "page", "read_history"]
