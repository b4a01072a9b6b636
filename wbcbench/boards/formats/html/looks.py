"""How the page's figures look, on light paper and on dark: no colour of their own but the data's."""

from __future__ import annotations

import plotly.graph_objects as go

from wbcbench.boards.text import clean

GRID = "rgba(128,128,128,.22)"
INK = "#808080"
"""For lines. The page's stylesheet gives text the reader's own colour."""
SHADES = [[0, "rgba(0,114,178,0.04)"], [1, "rgba(0,114,178,0.72)"]]
"""From the paper to blue, and never so deep that text on it cannot be read in either scheme."""


def label(text: str) -> str:
    """Text of a stranger for plotly, which reads a little HTML in its labels."""
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def short(text: str, most: int = 30) -> str:
    """A label that fits beside a point."""
    text = clean(text)
    return label(text if len(text) <= most else text[: most - 1] + "…")


def finish(figure: go.Figure, x: str, y: str, height: int) -> go.Figure:
    """Axis titles, height in pixels, legend above the axes so that it can never lie on their titles."""
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


__all__ = ["GRID", "INK", "SHADES", "finish", "label", "short"]
