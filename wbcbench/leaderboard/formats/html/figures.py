"""The page's figures as plotly figures, each a pure function of a board."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from wbcbench.leaderboard.columns import HEADERS, count
from wbcbench.leaderboard.model import Across, Board, Row
from wbcbench.leaderboard.plots.costs import COSTS, frontier
from wbcbench.leaderboard.plots.palette import OKABE_ITO, styles
from wbcbench.leaderboard.text import clean

_GRID = "rgba(128,128,128,.25)"
_INK = "#808080"
"""Between black and white: the page's stylesheet gives text the reader's own."""


def label(text: str) -> str:
    """Text of a stranger for plotly, which reads a little HTML in its labels."""
    return clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def pareto(board: Board) -> go.Figure | None:
    """The board's metric against each cost, with 95 % intervals; a menu chooses the cost."""
    rows = [r for r in board.rows if r.status != "incomplete" and r.metrics[board.by].mean is not None]
    if len(rows) < 2:
        return None
    look = styles(r.kd for r in sorted(rows, key=lambda r: (r.kd != "none", r.kd)))
    figure = go.Figure()
    shown: list[str] = []
    for name, (_, cost) in COSTS.items():
        for kd, (colour, symbol) in look.items():
            mine = [r for r in rows if r.kd == kd]
            figure.add_scatter(
                x=[cost(r) for r in mine],
                y=[r.metrics[board.by].mean for r in mine],
                error_y=_errors(mine, board.by),
                mode="markers",
                name=label("no distillation" if kd == "none" else kd),
                text=[_hover(r, board) for r in mine],
                hovertemplate="%{text}<extra></extra>",
                marker={"color": colour, "symbol": symbol, "size": 10, "line": {"width": 1, "color": "white"}},
                visible=name == "macs",
            )
            shown.append(name)
        best = frontier(rows, cost, board.by, board.higher_is_better)
        figure.add_scatter(
            x=[cost(r) for r in best],
            y=[r.metrics[board.by].mean for r in best],
            mode="lines",
            line={"shape": "hv", "dash": "dot", "color": _INK},
            name="not beaten at its cost",
            hoverinfo="skip",
            visible=name == "macs",
        )
        shown.append(name)
    buttons = [
        {
            "label": {"macs": "MACs", "params": "parameters"}.get(name, name),
            "method": "update",
            "args": [{"visible": [s == name for s in shown]}, {"xaxis.title.text": title}],
        }
        for name, (title, _) in COSTS.items()
    ]
    _menu(figure, buttons, "buttons")
    return _finish(figure, COSTS["macs"][0], HEADERS[board.by], 460)


def heatmap(board: Board) -> go.Figure | None:
    """Fusion x distiller; a cell holds the best row of that pair."""
    rows = [r for r in board.rows if r.status != "incomplete" and r.metrics[board.by].mean is not None]
    fusions, kds = list(dict.fromkeys(r.method for r in rows)), sorted({r.kd for r in rows}, key=_none_first)
    if len(fusions) < 2 or len(kds) < 2:
        return None
    pick = max if board.higher_is_better else min
    table: list[list[float | None]] = []
    for f in fusions:
        cells = [[r.metrics[board.by].mean or 0.0 for r in rows if (r.method, r.kd) == (f, k)] for k in kds]
        table.append([pick(c) if c else None for c in cells])
    figure = go.Figure(
        go.Heatmap(
            z=table, x=[label(k) for k in kds], y=[label(f) for f in fusions], colorscale="Cividis",
            reversescale=not board.higher_is_better, hoverongaps=False, colorbar={"title": HEADERS[board.by]},
            texttemplate="%{z:.3f}", hovertemplate="%{y} + %{x}: %{z:.4f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _finish(figure, "distiller", "", 140 + 34 * len(fusions))


def classes(board: Board) -> go.Figure | None:
    """F1, precision and recall of every class; a menu chooses the row."""
    rows = [r for r in board.rows if r.details is not None]
    if not rows:
        return None
    figure = go.Figure()
    for i, row in enumerate(rows):
        assert row.details is not None
        names = [label(c) for c in row.details.per_class]
        for j, what in enumerate(("f1", "precision", "recall")):
            scores = list(row.details.per_class.values())
            spread = [s.f1_sd for s in scores] if what == "f1" and scores[0].f1_sd is not None else None
            figure.add_bar(
                x=names, y=[getattr(s, what) for s in scores], name="F1" if what == "f1" else what,
                marker_color=OKABE_ITO[j], visible=i == 0, error_y={"array": spread} if spread else None,
                hovertemplate="%{x}: %{y:.3f}<extra>" + what + "</extra>",
            )  # fmt: skip
    _menu(figure, _choices(rows, 3))
    figure.update_layout(barmode="group")
    figure.update_yaxes(range=[0, 1])
    return _finish(figure, "class", "", 400)


def confusion(board: Board) -> go.Figure | None:
    """Share of each true class's cells by predicted class, all seeds together; a menu chooses the row."""
    rows = [r for r in board.rows if r.details is not None]
    if not rows:
        return None
    figure = go.Figure()
    for i, row in enumerate(rows):
        assert row.details is not None
        names = [label(c) for c in row.details.per_class]
        counts = row.details.confusion
        shares = [[n / max(1, sum(line)) for n in line] for line in counts]
        figure.add_heatmap(
            z=shares, x=names, y=names, customdata=counts, zmin=0, zmax=1, colorscale="Cividis", visible=i == 0,
            texttemplate="%{z:.0%}", colorbar={"tickformat": ".0%"},
            hovertemplate="true %{y}, predicted %{x}: %{customdata} cells (%{z:.1%})<extra></extra>",
        )  # fmt: skip
    _menu(figure, _choices(rows, 1))
    figure.update_yaxes(autorange="reversed", title="true class", automargin=True)
    return _finish(figure, "predicted class", "true class", 420)


def calibration(board: Board) -> go.Figure | None:
    """Reliability diagrams of the best rows."""
    rows = [r for r in board.rows if r.details is not None][:8]
    if not rows:
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="perfect", line={"dash": "dot", "color": _INK}, hoverinfo="skip"
    )
    for row, (colour, symbol) in zip(rows, styles(r.method_id for r in rows).values(), strict=True):
        assert row.details is not None
        bins = [b for b in row.details.reliability if b.cells]
        figure.add_scatter(
            x=[b.confidence for b in bins], y=[b.accuracy for b in bins], mode="lines+markers",
            name=label(row.name), marker={"symbol": symbol}, line={"color": colour},
            text=[f"{b.cells} cells" for b in bins],
            hovertemplate="confidence %{x:.3f}, accuracy %{y:.3f}, %{text}<extra></extra>",
        )  # fmt: skip
    return _finish(figure, "mean probability of the predicted class", "share that is right", 440)


def missing(board: Board) -> go.Figure | None:
    """Macro-F1 for every subset of modalities, where records were examined."""
    rows = [r for r in board.rows if r.missing_modalities is not None]
    if not rows:
        return None
    figure = go.Figure()
    subsets = sorted({s for r in rows if r.missing_modalities for s in r.missing_modalities.subsets}, key=_size)
    for row, (colour, symbol) in zip(rows, styles(r.method_id for r in rows).values(), strict=True):
        assert row.missing_modalities is not None
        values = row.missing_modalities.subsets
        figure.add_scatter(
            x=[label(s) for s in subsets], y=[values.get(s) for s in subsets], mode="lines+markers",
            name=label(row.name), marker={"symbol": symbol, "size": 9}, line={"color": colour},
        )  # fmt: skip
    return _finish(figure, "modalities that are there", "macro-F1", 440)


def critical_difference(across: Across) -> go.Figure:
    """Mean ranks over data sets; a bar joins methods that Nemenyi's test cannot tell apart."""
    figure = go.Figure()
    ranks = dict(zip(across.methods, across.mean_ranks, strict=True))
    figure.add_scatter(
        x=list(ranks.values()), y=[label(m) for m in ranks], mode="markers",
        marker={"size": 11, "color": OKABE_ITO[0]},
        hovertemplate="%{y}: mean rank %{x:.2f}<extra></extra>", showlegend=False,
    )  # fmt: skip
    for i, group in enumerate(across.groups):
        best = min(ranks[m] for m in group)
        figure.add_scatter(
            x=[best + i * 0.02] * len(group), y=[label(m) for m in group], mode="lines",
            line={"width": 6, "color": OKABE_ITO[1 + i % 7]}, opacity=0.6, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _finish(figure, "mean rank (1 is best)", "", 140 + 30 * len(ranks))


def _hover(row: Row, board: Board) -> str:
    e = row.metrics[board.by]
    interval = "" if e.low is None or e.high is None else f" ({e.low:.3f}..{e.high:.3f})"
    latency = "" if row.timing.latency_ms is None else f", {row.timing.latency_ms:.3g} ms"
    return (
        f"<b>{label(row.name)}</b><br>{HEADERS[board.by]} {e.mean:.3f}{interval}<br>"
        f"{count(row.macs) or '?'} MACs, {count(row.params)} parameters{latency}"
    )


def _errors(rows: list[Row], by: str) -> dict[str, Any]:
    found = [row.metrics[by] for row in rows]
    above = [0.0 if e.high is None or e.mean is None else e.high - e.mean for e in found]
    below = [0.0 if e.low is None or e.mean is None else e.mean - e.low for e in found]
    return {
        "type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3,
    }  # fmt: skip


def _choices(rows: list[Row], each: int) -> list[dict[str, Any]]:
    return [
        {
            "label": label(row.name),
            "method": "restyle",
            "args": ["visible", [i == k for k in range(len(rows)) for _ in range(each)]],
        }
        for i, row in enumerate(rows)
    ]


def _menu(figure: go.Figure, buttons: list[dict[str, Any]], kind: str = "dropdown") -> None:
    figure.update_layout(
        updatemenus=[
            {
                "buttons": buttons, "type": kind, "direction": "right" if kind == "buttons" else "down", "x": 0,
                "xanchor": "left", "y": 1.02, "yanchor": "bottom", "bgcolor": "#f4f4f2", "bordercolor": "#b8b8b4",
                "font": {"color": "#1c1c1a"}, "pad": {"b": 6},
            }
        ]
    )  # fmt: skip


def _finish(figure: go.Figure, x: str, y: str, height: int) -> go.Figure:
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "linecolor": _INK, "automargin": True}
    figure.update_xaxes(title=x, **axis)
    figure.update_yaxes(**axis) if not y else figure.update_yaxes(title=y, **axis)
    figure.update_layout(
        template="none",  # plotly's own changes with its releases
        height=height,
        margin={"l": 60, "r": 16, "t": 56, "b": 56},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": _INK},
        legend={"orientation": "h", "y": -0.22, "yanchor": "top"},
        hoverlabel={"align": "left"},
    )
    return figure


def _none_first(kd: str) -> tuple[bool, str]:
    return kd != "none", kd


def _size(subset: str) -> tuple[int, str]:
    return subset.count("+"), subset
