"""The page's figures of a whole board and of several, each a pure function of the model; None: nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from wbcbench.boards.columns import HEADERS, count, two_digits
from wbcbench.boards.formats.html.choices import Choice, Drawing
from wbcbench.boards.formats.html.looks import INK, SHADES, finish, label, short
from wbcbench.boards.formats.wording import nothing_could_show
from wbcbench.boards.model import Across, Board, Row
from wbcbench.boards.plots.costs import COSTS, Cost, frontier
from wbcbench.boards.plots.heat_map import heat_map
from wbcbench.boards.plots.palette import OKABE_ITO, styles

_GAP = 110
"""Pixels between the panels of a heat map: names of distillers, an axis title, the next panel's title."""
_SHORT = {"macs": "MACs", "params": "parameters", "latency": "latency"}


def pareto(board: Board) -> Drawing | None:
    """The board's metric against each cost, with 95 % intervals; a menu chooses the cost."""
    rows = _shown(board)
    costs = {n: (title, cost) for n, (title, cost) in COSTS.items() if sum(bool(cost(r)) for r in rows) > 1}
    if not costs:
        return None
    look = styles(sorted({r.kd for r in rows}, key=_none_first))
    figure = go.Figure()
    for name, (_, cost) in costs.items():
        first = name == next(iter(costs))
        # What costs nothing has no place on a logarithmic axis.
        priced = [r for r in rows if cost(r)]
        for kd, (colour, symbol) in look.items():
            mine = [r for r in priced if r.kd == kd]
            figure.add_scatter(
                x=[cost(r) for r in mine], y=[r.metrics[board.by].mean for r in mine],
                error_y=_errors(mine, board.by), mode="markers", meta=name, visible=first,
                name=label("no distillation" if kd == "none" else kd),
                text=[_hover(r, board) for r in mine], hovertemplate="%{text}<extra></extra>",
                marker={"color": colour, "symbol": symbol, "size": 10},
            )  # fmt: skip
        best = frontier(priced, cost, board.by, board.higher_is_better)
        figure.add_scatter(
            x=[cost(r) for r in best], y=[r.metrics[board.by].mean for r in best], mode="lines+markers+text",
            line={"shape": "hv", "dash": "dot", "color": INK, "width": 1.5}, name="not beaten at its cost",
            text=[f"\u2002{short(r.name)}\u2002" for r in best], textposition=_sides(best, cost),
            marker={"size": 10, "color": "rgba(0,0,0,0)"}, hoverinfo="skip", meta=name, visible=first,
            cliponaxis=False,
        )  # fmt: skip
    axes = {n: _axis(rows, n, title, cost) for n, (title, cost) in costs.items()}
    figure.update_xaxes(type="log", minor={"dtick": "D1", "ticks": "outside", "ticklen": 4, "tickcolor": INK})
    free = sum(r.params == 0 for r in rows)
    figure = finish(figure, "", HEADERS[board.by], 460)
    figure.update_layout({k.replace(".", "_"): v for k, v in next(iter(axes.values())).items()})
    return Drawing(
        figure,
        "What accuracy costs",
        f"{'Up' if board.higher_is_better else 'Down'} and left is better; bars are 95 % intervals. Point at or "
        "tap a mark for its name." + (f" Not drawn: {free} rows without parameters." if free else ""),
        wide=True,
        asks="Cost",
        choices=tuple(Choice(n, _SHORT[n], axis) for n, axis in axes.items()),
    )


def heatmap(board: Board) -> Drawing | None:
    """Fusion x distiller, one panel per arrangement of teachers; see `heat_map`."""
    found = heat_map(board)
    if found is None:
        return None
    titles = [label(p.title) for p in found.panels]
    height = 110 + 34 * len(found.fusions)
    figure = make_subplots(rows=len(titles), subplot_titles=titles, vertical_spacing=_GAP / (len(titles) * height))
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
    doc = f"{HEADERS[board.by]}: each cell is one row of the table, and deeper is better."
    figure = finish(figure, "distiller", "", len(titles) * height)
    if len(titles) > 1:
        figure.update_annotations(font_size=13)
        figure.update_layout(margin_t=34)
        doc += " One panel per arrangement of teachers; students without teachers stand in each."
    return Drawing(figure, "Fusion × distiller", f"{doc} {found.note}".strip())


def missing(board: Board) -> Drawing | None:
    """Macro-F1 for every subset of modalities, where records were examined."""
    rows = [r for r in board.rows if r.missing_modalities is not None]
    if not rows:
        return None
    figure = go.Figure()
    subsets = sorted({s for r in rows if r.missing_modalities for s in r.missing_modalities.subsets}, key=_size)
    looks = styles(r.method_id for r in rows)
    for i, row in enumerate(rows):
        assert row.missing_modalities is not None
        colour, symbol = looks[row.method_id]
        values = row.missing_modalities.subsets
        figure.add_scatter(
            x=[label(s) for s in subsets], y=[values.get(s) for s in subsets], mode="lines+markers",
            name=short(row.name), marker={"symbol": symbol, "size": 9}, line={"color": colour},
            visible=True if i < 8 else "legendonly",
            hovertemplate="%{x}: %{y:.3f}<extra>" + short(row.name) + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(type="category")
    doc = "The same trained networks with only some modalities there, mean over seeds."
    if len(rows) > 8:
        doc += " The best eight are drawn; a press on a name in the legend draws others."
    height = 380 + 12 * len(rows)
    return Drawing(finish(figure, "modalities that are there", "macro-F1", height), "With modalities missing", doc)


def critical_difference(across: Across) -> Drawing:
    """Mean ranks over data sets; a bar joins methods that Nemenyi's test cannot tell apart."""
    figure = go.Figure()
    ranks = dict(zip(across.methods, across.mean_ranks, strict=True))
    step = 0.035 * (max(across.mean_ranks) - 1 or 1)
    for i, group in enumerate(across.groups):
        figure.add_scatter(
            x=[1 - step * (i + 1)] * len(group), y=[label(m) for m in group], mode="lines",
            line={"width": 5, "color": OKABE_ITO[1 + i % 7]}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    figure.add_scatter(
        x=list(ranks.values()), y=[label(m) for m in ranks], mode="markers",
        marker={"size": 11, "color": OKABE_ITO[0]},
        hovertemplate="%{y}: mean rank %{x:.2f}<extra></extra>", showlegend=False,
    )  # fmt: skip
    order = [label(m) for m in ranks]
    figure.update_xaxes(range=[1 - step * (len(across.groups) + 1), max(across.mean_ranks) + step])
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=order)
    return Drawing(
        finish(figure, f"mean rank by {HEADERS[across.by]} (1 is best)", "", 110 + 30 * len(ranks)),
        "Critical-difference diagram",
        nothing_could_show(across)
        if across.hopeless
        else f"A bar at the left joins methods whose mean ranks are nearer than {across.critical_difference:.2f}: "
        "these data sets cannot tell them apart.",
        wide=True,
    )


def _shown(board: Board) -> list[Row]:
    return [r for r in board.rows if r.status != "incomplete" and r.metrics[board.by].mean is not None]


def _axis(rows: Sequence[Row], name: str, title: str, cost: Cost) -> dict[str, Any]:
    """Of one cost: as many ticks on the logarithmic axis as its span has room for."""
    prices = [float(p) for r in rows if (p := cost(r))]
    span = max(prices) / min(prices)
    return {
        "xaxis.title.text": title,
        "xaxis.tickformat": "~g" if name == "latency" else "~s",
        "xaxis.dtick": "D1" if span < 3 else "D2" if span < 50 else 1,
    }


def _sides(rows: Sequence[Row], cost: Cost) -> list[str]:
    """Names stand on the side where there is room: on the left of the costliest half."""
    middle = (float(cost(rows[0]) or 1) * float(cost(rows[-1]) or 1)) ** 0.5 if rows else 0.0
    return ["top right" if float(cost(r) or 0) <= middle else "top left" for r in rows]


def _hover(row: Row, board: Board) -> str:
    e = row.metrics[board.by]
    interval = "" if e.low is None or e.high is None else f" ({e.low:.3f}..{e.high:.3f})"
    latency = "" if row.timing.latency_ms is None else f", {two_digits(row.timing.latency_ms)} ms"
    return (
        f"<b>{label(row.name)}</b><br>{HEADERS[board.by]} {e.mean:.3f}{interval}<br>"
        f"{count(row.macs) or '?'} MACs, {count(row.params)} parameters{latency}"
    )


def _errors(rows: Sequence[Row], by: str) -> dict[str, Any]:
    found = [row.metrics[by] for row in rows]
    above = [0.0 if e.high is None or e.mean is None else e.high - e.mean for e in found]
    below = [0.0 if e.low is None or e.mean is None else e.mean - e.low for e in found]
    return {
        "type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3,
    }  # fmt: skip


def _none_first(kd: str) -> tuple[bool, str]:
    return kd != "none", kd


def _size(subset: str) -> tuple[int, str]:
    return subset.count("+"), subset


__all__ = ["critical_difference", "heatmap", "missing", "pareto"]
