"""The page's figures of one method that the reader chooses: its classes, its confusion, its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import plotly.graph_objects as go

from wbcbench.boards.formats.html.choices import Drawing
from wbcbench.boards.formats.html.looks import INK, SHADES, finish, label
from wbcbench.boards.model import Details
from wbcbench.boards.plots.palette import OKABE_ITO


class Identified(Protocol):
    """A row of a board, or the result of a record."""

    @property
    def method_id(self) -> str: ...


Detailed = Sequence[tuple[Identified, Details]]
"""Rows with their details; the first is drawn."""


def classes(rows: Detailed) -> Drawing:
    """F1, precision and recall of every class."""
    figure = go.Figure()
    for row, details in rows:
        names = [label(c) for c in details.per_class]
        scores = list(details.per_class.values())
        for j, what in enumerate(("f1", "precision", "recall")):
            spread = [s.f1_sd for s in scores] if what == "f1" and scores[0].f1_sd is not None else None
            figure.add_bar(
                x=names, y=[getattr(s, what) for s in scores], name="F1" if what == "f1" else what,
                marker_color=OKABE_ITO[j], meta=row.method_id, visible=row is rows[0][0],
                error_y={"array": spread, "thickness": 1, "width": 3, "color": INK} if spread else None,
                text=[f"{s.support} test cells" for s in scores], textposition="none",
                hovertemplate="%{x}: %{y:.3f}<br>%{text}<extra>" + what + "</extra>",
            )  # fmt: skip
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(range=[0, 1.001])
    doc = "Mean over seeds; the whisker is one standard deviation of F1."
    return Drawing(finish(figure, "class", "", 380), "Class by class", doc)


def confusion(rows: Detailed) -> Drawing:
    """Share of each true class's cells by predicted class, all seeds together."""
    figure = go.Figure()
    size = 0
    for row, details in rows:
        names = [label(c) for c in details.per_class]
        size = max(size, len(names))
        shares = [[n / max(1, sum(line)) for n in line] for line in details.confusion]
        figure.add_heatmap(
            z=shares, x=names, y=names, customdata=details.confusion, zmin=0, zmax=1, colorscale=SHADES,
            showscale=False, xgap=1, ygap=1, texttemplate="%{z:.0%}", meta=row.method_id,
            visible=row is rows[0][0],
            hovertemplate="true %{y}, predicted %{x}: %{customdata} cells (%{z:.1%})<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    doc = "Cells of all seeds; each row sums to 100 %."
    drawn = finish(figure, "predicted class", "true class", max(380, 120 + 30 * size))
    return Drawing(drawn, "What is taken for what", doc)


def calibration(rows: Detailed) -> Drawing:
    """Reliability diagram: how often a prediction of some confidence is right."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": INK}, hoverinfo="skip", showlegend=False
    )
    for row, details in rows:
        bins = [b for b in details.reliability if b.cells]
        most = max((b.cells for b in bins), default=1)
        figure.add_scatter(
            x=[b.confidence for b in bins], y=[b.accuracy for b in bins], mode="lines+markers", showlegend=False,
            line={"color": OKABE_ITO[0], "width": 1.5}, meta=row.method_id, visible=row is rows[0][0],
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


__all__ = ["Detailed", "Identified", "calibration", "classes", "confusion"]
