"""Interactive figures of web pages, drawn with plotly: hover over marks, switch the axis, hide curves.

A second renderer in addition to `paper`, because matplotlib's figures are static. Every function is pure; None
means that there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from wbcbench.boards.columns import count, header, two_digits
from wbcbench.boards.figures import data
from wbcbench.boards.figures import heat_map as heat_maps
from wbcbench.boards.figures.data import COSTS, OKABE_ITO, Mark, Pareto, Point
from wbcbench.boards.model import Across, Board, Details
from wbcbench.boards.text import clean

GRID = "rgba(128,128,128,.22)"
INK = "#808080"
"""For lines, on light and dark backgrounds. The page's stylesheet sets the colour of text."""
SHADES = [[0, "rgba(0,114,178,0.04)"], [1, "rgba(0,114,178,0.72)"]]
"""From transparent to blue, light enough that text on it is readable on light and dark backgrounds."""
_VISIBLE = 8
"""Number of curves that are visible at first."""
_PANEL_GAP = 110
"""Pixels between the panels of a heat map: names of distillers, an axis title, the next panel's title."""


@dataclass(frozen=True)
class Choice:
    """One option of a figure's menu: shows the traces whose `meta` is `value`."""

    value: str
    label: str
    layout: dict[str, Any] = field(default_factory=dict)
    """Attributes of plotly's layout that change with the option, dotted."""


@dataclass(frozen=True)
class Drawing:
    """A figure with its heading, text and menu. The first choice is shown at first."""

    figure: go.Figure
    heading: str
    doc: str
    wide: bool = False
    """Use the full width of the page."""
    menu: str = ""
    """The menu's label; empty: no menu."""
    choices: tuple[Choice, ...] = ()


def label(text: str) -> str:
    """Escape text from a record for plotly, which interprets some HTML in labels."""
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(text: str, most: int = 30) -> str:
    """A label that fits next to a point."""
    text = clean(text)
    return label(text if len(text) <= most else text[: most - 1] + "…")


def finish(figure: go.Figure, x: str, y: str, height: int) -> go.Figure:
    """Set axis titles, height in pixels and the common style; the legend is above the axes, clear of titles."""
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": INK, "automargin": True, "ticks": ""}
    figure.update_xaxes(title={"text": x, "font": {"size": 13}, "standoff": 10}, **axis)
    figure.update_yaxes(title={"text": y, "font": {"size": 13}, "standoff": 10}, **axis)
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 12, "r": 14, "t": 14, "b": 12},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12.5, "color": INK},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
    )
    return figure


# Of a board


def pareto(board: Board) -> Drawing | None:
    """The board's metric against each cost that at least two rows have, with 95 % intervals; a menu selects the
    cost."""
    drawn = [found for cost in COSTS if (found := data.pareto(board, cost)) and len(found.points) > 1]
    if not drawn:
        return None
    figure = go.Figure()
    for found in drawn:
        shared = {"meta": found.cost, "visible": found is drawn[0]}
        for series in found.series:
            figure.add_scatter(
                x=[p.cost for p in series.points], y=[p.value for p in series.points],
                error_y=_errors(series.points), mode="markers", name=label(series.label),
                text=[_hover(p, board) for p in series.points], hovertemplate="%{text}<extra></extra>",
                marker={"color": series.colour, "symbol": series.symbol, "size": 10}, **shared,
            )  # fmt: skip
        best = found.frontier
        figure.add_scatter(
            x=[p.cost for p in best], y=[p.value for p in best], mode="lines+markers+text",
            line={"shape": "hv", "dash": "dot", "color": INK, "width": 1.5}, name="not beaten at its cost",
            text=[f"\u2002{short(p.row.name)}\u2002" for p in best], textposition=_sides(best),
            marker={"size": 10, "color": "rgba(0,0,0,0)"}, hoverinfo="skip", cliponaxis=False, **shared,
        )  # fmt: skip
    figure.update_xaxes(type="log", minor={"dtick": "D1", "ticks": "outside", "ticklen": 4, "tickcolor": INK})
    figure = finish(figure, "", header(board.by), 460)
    figure.update_layout({name.replace(".", "_"): value for name, value in _cost_axis(drawn[0]).items()})
    free = sum(m.row.params == 0 for m in data.complete(board))
    return Drawing(
        figure,
        "What accuracy costs",
        f"{'Up' if board.higher_is_better else 'Down'} and left is better; bars are 95 % intervals. Point at or "
        "tap a mark for its name." + (f" Not drawn: {free} rows without parameters." if free else ""),
        wide=True,
        menu="Cost",
        choices=tuple(Choice(found.cost, COSTS[found.cost].name, _cost_axis(found)) for found in drawn),
    )


def _cost_axis(found: Pareto) -> dict[str, Any]:
    """Ticks of the logarithmic axis, depending on its range."""
    costs = [p.cost for p in found.points]
    span = max(costs) / min(costs)
    return {
        "xaxis.title.text": COSTS[found.cost].title,
        "xaxis.tickformat": "~g" if found.cost.endswith("latency") else "~s",
        "xaxis.dtick": "D1" if span < 3 else "D2" if span < 50 else 1,
    }


def _sides(points: Sequence[Point]) -> list[str]:
    """Position of names: on the left for the costlier half, where there is room."""
    middle = (points[0].cost * points[-1].cost) ** 0.5
    return ["top right" if p.cost <= middle else "top left" for p in points]


def _hover(mark: Mark, board: Board) -> str:
    row, e = mark.row, mark.row.metrics[board.by]
    interval = "" if e.low is None or e.high is None else f" ({e.low:.3f}..{e.high:.3f})"
    latency = "" if row.timing.latency_ms is None else f", {two_digits(row.timing.latency_ms)} ms"
    return (
        f"<b>{label(row.name)}</b><br>{header(board.by)} {mark.value:.3f}{interval}<br>"
        f"{count(row.macs) or '?'} MACs, {count(row.params)} parameters{latency}"
    )


def _errors(marks: Sequence[Mark]) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "array": [m.above for m in marks],
        "arrayminus": [m.below for m in marks], "thickness": 1, "width": 3,
    }  # fmt: skip


def heat_map(board: Board) -> Drawing | None:
    """Fusion x distiller, one panel per arrangement of teachers."""
    found = heat_maps.heat_map(board)
    if found is None:
        return None
    titles = [label(p.title) for p in found.panels]
    height = 110 + 34 * len(found.fusions)
    spacing = _PANEL_GAP / (len(titles) * height)
    figure = make_subplots(rows=len(titles), subplot_titles=titles, vertical_spacing=spacing)
    low, high = found.extent
    for i, panel in enumerate(found.panels, start=1):
        figure.add_heatmap(
            z=panel.values, x=[label(k) for k in panel.kds], y=[label(f) for f in found.fusions],
            text=[["" if r is None else label(r.name) for r in line] for line in panel.rows], zmin=low, zmax=high,
            colorscale=SHADES, reversescale=not board.higher_is_better, hoverongaps=False, showscale=False,
            xgap=2, ygap=2, texttemplate="%{z:.3f}", hovertemplate="%{text}: %{z:.4f}<extra></extra>",
            row=i, col=1,
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(type="category", showgrid=False)
    doc = f"{header(board.by)}: each cell is one row of the table, and deeper is better."
    figure = finish(figure, "distiller", "", len(titles) * height)
    if len(titles) > 1:
        figure.update_annotations(font_size=13)
        figure.update_layout(margin_t=34)
        doc += " One panel per arrangement of teachers; students without teachers stand in each."
    return Drawing(figure, "Fusion × distiller", f"{doc} {found.note}".strip())


def missing(board: Board) -> Drawing | None:
    """Macro-F1 for every subset of modalities, for rows whose records were evaluated in full."""
    found = data.subset_scores(board)
    if found is None:
        return None
    figure = go.Figure()
    for i, curve in enumerate(found.curves):
        name = short(curve.row.name)
        figure.add_scatter(
            x=[label(s) for s in found.subsets], y=curve.values, mode="lines+markers", name=name,
            marker={"symbol": curve.symbol, "size": 9}, line={"color": curve.colour},
            visible=True if i < _VISIBLE else "legendonly",
            hovertemplate="%{x}: %{y:.3f}<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(type="category")
    doc = "The same trained networks with only some modalities there, mean over seeds."
    if len(found.curves) > _VISIBLE:
        doc += " The best eight are drawn; a press on a name in the legend draws others."
    height = 380 + 12 * len(found.curves)
    return Drawing(finish(figure, "modalities that are there", "macro-F1", height), "With modalities missing", doc)


def critical_difference(across: Across) -> Drawing:
    """Mean ranks over data sets; a bar joins methods that Nemenyi's test cannot distinguish."""
    figure = go.Figure()
    names = [label(m) for m in across.methods]
    lowest = max(across.mean_ranks)
    step = 0.035 * (lowest - 1 or 1)
    for i, group in enumerate(across.groups):
        figure.add_scatter(
            x=[1 - step * (i + 1)] * len(group), y=[label(m) for m in group], mode="lines",
            line={"width": 5, "color": OKABE_ITO[1 + i % 7]}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.add_scatter(
        x=across.mean_ranks, y=names, mode="markers", marker={"size": 11, "color": OKABE_ITO[0]},
        hovertemplate="%{y}: mean rank %{x:.2f}<extra></extra>", showlegend=False,
    )  # fmt: skip
    figure.update_xaxes(range=[1 - step * (len(across.groups) + 1), lowest + step])
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=names)
    return Drawing(
        finish(figure, f"mean rank by {header(across.by)} (1 is best)", "", 110 + 30 * len(names)),
        "Critical-difference diagram",
        data.without_power(across)
        if across.hopeless
        else f"A bar at the left joins methods whose mean ranks are nearer than {across.critical_difference:.2f}: "
        "these data sets cannot tell them apart.",
        wide=True,
    )


# For one method that the reader selects, or for one record

Detailed = Sequence[tuple[str, Details]]
"""Methods with their details; the first is shown at first."""


def per_class(methods: Detailed) -> Drawing:
    """F1, precision and recall of every class."""
    figure = go.Figure()
    for i, (method, details) in enumerate(methods):
        names = [label(c) for c in details.per_class]
        scores = list(details.per_class.values())
        for j, what in enumerate(("f1", "precision", "recall")):
            spread = [s.f1_sd for s in scores] if what == "f1" and scores[0].f1_sd is not None else None
            figure.add_bar(
                x=names, y=[getattr(s, what) for s in scores], name="F1" if what == "f1" else what,
                marker_color=OKABE_ITO[j], meta=method, visible=i == 0,
                error_y={"array": spread, "thickness": 1, "width": 3, "color": INK} if spread else None,
                text=[f"{s.support} test cells" for s in scores], textposition="none",
                hovertemplate="%{x}: %{y:.3f}<br>%{text}<extra>" + what + "</extra>",
            )  # fmt: skip
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(range=[0, 1.001])
    doc = "Mean over seeds; the whisker is one standard deviation of F1."
    return Drawing(finish(figure, "class", "", 380), "Class by class", doc)


def confusion(methods: Detailed) -> Drawing:
    """Share of each true class's cells by predicted class, over all seeds."""
    figure = go.Figure()
    size = 0
    for i, (method, details) in enumerate(methods):
        names = [label(c) for c in details.per_class]
        size = max(size, len(names))
        shares = [[n / max(1, sum(line)) for n in line] for line in details.confusion]
        figure.add_heatmap(
            z=shares, x=names, y=names, customdata=details.confusion, zmin=0, zmax=1, colorscale=SHADES,
            showscale=False, xgap=1, ygap=1, texttemplate="%{z:.0%}", meta=method, visible=i == 0,
            hovertemplate="true %{y}, predicted %{x}: %{customdata} cells (%{z:.1%})<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    doc = "Cells of all seeds; each row sums to 100 %."
    drawn = finish(figure, "predicted class", "true class", max(380, 120 + 30 * size))
    return Drawing(drawn, "What is taken for what", doc)


def calibration(methods: Detailed) -> Drawing:
    """Reliability diagram: how often predictions of a given confidence are right."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": INK}, hoverinfo="skip", showlegend=False
    )
    for i, (method, details) in enumerate(methods):
        bins = [b for b in details.reliability if b.cells]
        most = max((b.cells for b in bins), default=1)
        figure.add_scatter(
            x=[b.confidence for b in bins], y=[b.accuracy for b in bins], mode="lines+markers", showlegend=False,
            line={"color": OKABE_ITO[0], "width": 1.5}, meta=method, visible=i == 0,
            # Area by number of cells, so that a bin of one cell does not look like evidence.
            marker={"size": [round(4 + 14 * (b.cells / most) ** 0.5, 1) for b in bins], "opacity": 1,
                    "line": {"width": 0}},
            text=[f"{b.cells} cells" for b in bins],
            hovertemplate="confidence %{x:.3f}, accuracy %{y:.3f}, %{text}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(range=[0, 1.03])
    figure.update_yaxes(range=[0, 1.05])
    doc = "A mark is a bin of predictions, its area the number of cells. Below the line: overconfident."
    drawn = finish(figure, "mean probability of the predicted class", "share that is right", 380)
    return Drawing(drawn, "Is confidence deserved?", doc)


__all__ = [
    "GRID", "INK", "SHADES", "Choice", "Detailed", "Drawing", "calibration", "confusion", "critical_difference",
    "finish", "heat_map", "label", "missing", "pareto", "per_class", "short",
]  # fmt: skip
