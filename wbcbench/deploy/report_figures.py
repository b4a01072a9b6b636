"""The figures of a record's report, each a pure function of stored data; None: nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from wbcbench.boards.columns import HEADERS
from wbcbench.boards.figures import page
from wbcbench.boards.figures.data import OKABE_ITO, styles, subset_order
from wbcbench.boards.figures.page import INK, Choice, Drawing, finish, label
from wbcbench.boards.model import ClassScore, Details, ReliabilityBin
from wbcbench.evaluation.metrics import METRICS, reliability, score
from wbcbench.records.store import Record

Row = Mapping[str, float]
"""Column of history.csv -> value."""


def losses(history: Sequence[Row], selected: int) -> Drawing | None:
    """All terms of the training loss by epoch."""
    names = [n for n in _names(history) if n not in ("epoch", "lr") and not n.startswith("val_")]
    if not names:
        return None
    figure = go.Figure()
    for name, (colour, _) in styles(names).items():
        figure.add_scatter(
            x=_epochs(history), y=[row.get(name) for row in history], mode="lines+markers", name=label(name),
            line={"color": colour, "width": 3 if name == "loss" else 1.5}, marker={"size": 5},
        )  # fmt: skip
    _mark(figure, selected)
    doc = "The loss and its terms: means over the steps of an epoch. The dotted line is the selected epoch."
    return Drawing(finish(figure, "epoch", "training loss", 380), "Training", doc)


def validation(history: Sequence[Row], selected: int) -> Drawing | None:
    """One validation metric by epoch, selected in a menu."""
    names = [n for n in METRICS if f"val_{n}" in _names(history)]
    if not names:
        return None
    names.sort(key=lambda n: n != "macro_f1")
    figure = go.Figure()
    for name in names:
        figure.add_scatter(
            x=_epochs(history), y=[row.get(f"val_{name}") for row in history], mode="lines+markers", meta=name,
            visible=name == names[0], line={"color": OKABE_ITO[1]}, showlegend=False,
            hovertemplate="epoch %{x}: %{y:.4f}<extra></extra>",
        )  # fmt: skip
    _mark(figure, selected)
    choices = tuple(Choice(n, HEADERS[n], {"yaxis.title.text": HEADERS[n]}) for n in names)
    doc = "On validation cells, which determine the selected epoch."
    drawn = finish(figure, "epoch", HEADERS[names[0]], 380)
    return Drawing(drawn, "Validation", doc, menu="Metric", choices=choices)


def details_of(record: Record, side: str) -> Details:
    """Classes, confusion and reliability on the `test` or the `val` cells of one record."""
    arrays, classes = record.predictions, record.result.key.classes
    p, labels = arrays[f"{side}_probabilities"], arrays[f"{side}_labels"]
    found, bins = score(p, labels, classes), reliability(p, labels)
    return Details(
        per_class={
            name: ClassScore(precision=s["precision"], recall=s["recall"], f1=s["f1"], f1_sd=None,
                             support=int(s["support"]))
            for name, s in found.per_class.items()
        },
        confusion=tuple(tuple(line) for line in found.confusion),
        reliability=tuple(
            ReliabilityBin(cells=int(n), confidence=round(float(c), 9), accuracy=round(float(a), 9))
            for n, c, a in zip(bins.counts, bins.confidence, bins.accuracy, strict=True)
        ),
    )  # fmt: skip


def per_class(record: Record, details: Details, side: str) -> dict[str, Drawing]:
    """The figures of `details_of`, drawn as on a leaderboard's page."""
    methods = [(record.result.method_id, details)]
    cells = f"{'Test' if side == 'test' else 'Validation'} cells"
    docs = {
        "classes": f"{cells}. Hover over a bar to see the number of cells.",
        "confusion": f"{cells}; each row sums to 100 %.",
        "calibration": f"{cells}. Each marker is a bin of predictions; its area is the number of cells. Below the "
        "line: overconfident.",
    }
    draw = {"classes": page.per_class, "confusion": page.confusion, "calibration": page.calibration}
    return {name: replace(draw[name](methods), doc=doc) for name, doc in docs.items()}


def missing(examination: Mapping[str, Any]) -> Drawing | None:
    """Macro-F1 with only some modalities present."""
    subsets = examination.get("subsets")
    if not subsets:
        return None
    names = sorted(subsets, key=subset_order)
    figure = go.Figure(
        go.Bar(
            x=[label(n) for n in names], y=[subsets[n].get("macro_f1") for n in names], marker_color=OKABE_ITO[0],
            hovertemplate="%{x}: %{y:.3f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(range=[0, 1.001])
    doc = "The same network with only these modalities, on the test cells that have them."
    return Drawing(finish(figure, "available modalities", "macro-F1", 380), "With modalities missing", doc)


def corruptions(examination: Mapping[str, Any]) -> Drawing | None:
    """Macro-F1 by severity of each corruption; the modality is selected in a menu."""
    table = examination.get("corruptions")
    if not table:
        return None
    clean = (examination.get("clean") or {}).get("macro_f1")
    figure = go.Figure()
    first = next(iter(table))
    for modality, kinds in table.items():
        for kind, (colour, symbol) in styles(kinds).items():
            curve = kinds[kind]
            figure.add_scatter(
                x=list(range(len(curve) + 1)), y=[clean, *curve], mode="lines+markers", name=label(kind),
                meta=modality, visible=modality == first, line={"color": colour}, marker={"symbol": symbol},
            )  # fmt: skip
    figure.update_yaxes(range=[0, 1.001])
    doc = "The images of one modality are corrupted, the others are unchanged; severity 0 is clean."
    choices = tuple(Choice(m, m) for m in table)
    drawn = finish(figure, "severity", "macro-F1", 420)
    return Drawing(drawn, "With corrupted images", doc, menu="Modality", choices=choices)


def _names(history: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in history for name in row))


def _epochs(history: Sequence[Row]) -> list[int]:
    return [int(row["epoch"]) + 1 for row in history]


def _mark(figure: go.Figure, selected: int) -> None:
    figure.add_vline(x=selected + 1, line={"dash": "dot", "color": INK, "width": 1})


__all__ = ["corruptions", "details_of", "losses", "missing", "per_class", "validation"]
