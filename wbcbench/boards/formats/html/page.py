"""The page: what goes into the template."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from html import unescape
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from wbcbench.boards.columns import COLUMNS, HEADERS, SHARED, chosen, shared
from wbcbench.boards.formats import View, render
from wbcbench.boards.formats.html import closely, figures
from wbcbench.boards.formats.html.choices import Drawing
from wbcbench.boards.formats.html.libraries import asset, plotly, policy, tables
from wbcbench.boards.formats.html.order import order
from wbcbench.boards.formats.html.widgets import FILTERS, options
from wbcbench.boards.formats.wording import ALONE, across_lines, legend
from wbcbench.boards.formats.wording import tables as tables_and_rest
from wbcbench.boards.model import METRIC_NAMES, Board, Report, Row
from wbcbench.boards.text import clean
from wbcbench.evaluation.metrics import METRICS

_OVERVIEW = {"pareto": figures.pareto, "heatmap": figures.heatmap, "missing": figures.missing}
_CLOSELY = {"classes": closely.classes, "confusion": closely.confusion, "calibration": closely.calibration}
_ABSENT = {
    "pareto": "No plot of accuracy against cost: it needs two rows that say what they cost.",
    "heatmap": "No heat map: it needs two fusions and two distillers on one backbone.",
    "missing": "No curves with modalities missing: `wbcbench run ... --evaluate full` examines records for them.",
}


def page(report: Report, view: View) -> str:
    """The whole page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clean": clean, "prose": _prose}
    template = environment.from_string(asset("page.html.j2"))
    downloads = [
        (name, file, _link(mime, render(report, name)))
        for name, file, mime in (
            ("csv", "leaderboard.csv", "text/csv"),
            ("latex", "leaderboard.tex", "text/x-tex"),
            ("json", "leaderboard.json", "application/json"),
        )
    ]
    scripts = [("text/javascript", tables()), ("text/javascript", plotly()), ("module", asset("page.js"))]
    large, alone = tables_and_rest(report.boards)
    titles = _titles(large)
    return template.render(
        report=report,
        boards=[_board(b, titles[b.digest], view) for b in large],
        alone=[ALONE, *alone] if alone else [],
        title=view.title or "wbcbench leaderboard",
        heading=view.title or "Which fusion, which distillation?",
        across=[([across_lines(a)[0], *a.notes], _figure(figures.critical_difference(a), f"cd-{i}", "across"))
                for i, a in enumerate(report.across)],
        metrics=[(HEADERS[m], METRICS[m]) for m in METRIC_NAMES],
        columns=[(c.header, c.doc) for n, c in COLUMNS.items() if n not in METRIC_NAMES and "interval" not in n],
        downloads=downloads,
        css=Markup(asset("page.css")),
        libraries=[(kind, Markup(text)) for kind, text in scripts[:-1]],
        script=Markup(scripts[-1][1]),
        policy=policy(text for _, text in scripts),
    )  # fmt: skip


_LIBRARIES = re.compile(
    "<!-- libraries -->\n" + '<script type="text/javascript">(.*?)</script>\n' * 2 + "<!-- /libraries -->",
    re.DOTALL,
)
_POLICY = re.compile(
    '<!-- policy --><meta http-equiv="Content-Security-Policy" content="([^"]*)"><!-- /policy -->'
)


def without_libraries(html: str) -> str:
    """A page but for the two libraries in it and their digests, whose releases are no part of a board.

    What stands in their places is taken out only if it is two scripts and the policy that lets just these and the
    page's own script run. Anything else stays, so that the page differs from one that is made again.
    """
    libraries, stated = _LIBRARIES.search(html), _POLICY.search(html)
    if (
        libraries is None
        or stated is None
        or unescape(stated[1]) != policy([*libraries.groups(), asset("page.js")])
    ):
        return html
    return _LIBRARIES.sub("", _POLICY.sub("", html, count=1), count=1)


def has_our_libraries(html: str) -> bool:
    """Whether a page carries the releases of the two libraries that are installed here."""
    libraries = _LIBRARIES.search(html)
    return libraries is not None and libraries.groups() == (tables(), plotly())


def _prose(text: str) -> Markup:
    """A sentence that may name `code`."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(clean(text)))))


def _titles(boards: Sequence[Board]) -> dict[str, str]:
    """Data set and modalities; where several boards share them, with the key."""
    names = {b.digest: f"{b.key.dataset}: {' + '.join(b.key.modalities)}" for b in boards}
    often = Counter(names.values())
    return {digest: name if often[name] == 1 else f"{name} ({digest})" for digest, name in names.items()}


def _board(board: Board, title: str, view: View) -> dict[str, Any]:
    id_ = f"board-{board.digest}"
    shown = list(chosen(board, view.columns))
    rest = [*chosen(board, None, wide=True), *FILTERS, *SHARED, "seeds", "policies", "routing", "components"]
    names = list(dict.fromkeys([*shown, *rest]))
    overview = {name: draw(board) for name, draw in _OVERVIEW.items()}
    detailed = [(r, r.details) for r in board.rows if r.details is not None]
    # In a script `<` never stands, so that no text can end it.
    widgets = {"options": options(names, shown, board.digest), "names": names, "shown": shown, "filters": FILTERS}
    return {
        "id": id_,
        "title": title,
        "facts": _facts(board),
        "legend": legend(board, shown),
        "columns": [(n, COLUMNS[n]) for n in names],
        "rows": [(r, [(n, _cell(n, r, board), order(n, r)) for n in names]) for r in board.rows],
        "options": Markup(json.dumps(widgets).replace("<", "\\u003c")),
        "overview": [_figure(d, f"{name}-{board.digest}", id_) for name, d in overview.items() if d is not None],
        "methods": [{"value": r.method_id, "label": r.name, "layout": None} for r, _ in detailed],
        "closely": [_figure(draw(detailed), f"{name}-{board.digest}", id_) for name, draw in _CLOSELY.items()]
        if detailed
        else [],
        "absent": [_ABSENT[name] for name, d in overview.items() if d is None],
    }


def _cell(column: str, row: Row, board: Board) -> str:
    """A cell's text. SearchPanes writes a filter's values into an attribute between quotes and escapes none."""
    text = COLUMNS[column].cell(row, board)
    return text.replace('"', "”") if column in FILTERS else text


def _facts(board: Board) -> list[tuple[str, str]]:
    """What is compared, and on which cells."""
    k = board.key
    cells = "" if board.test_cells is None else f"{board.test_cells} to test"
    if board.grouped and board.clusters is not None:
        cells += f", of {board.clusters} donors or groups"
    facts = [
        ("cells", cells),
        ("modalities", "pseudo: computed from one image" if all(r.pseudo_multimodal for r in board.rows) else ""),
        ("classes", f"{len(k.classes)}: {', '.join(k.classes)}"),
        ("split", "leaks allowed: a donor or an image may be on two sides" if k.leaks_allowed else ""),
        ("images", f"{k.image_size} × {k.image_size} px"),
        ("training", f"{k.budget.epochs} epochs of batch {k.budget.batch_size}"),
        ("seeds", ", ".join(map(str, board.seeds))),
        ("backbone", shared(board).get("backbone", "")),
        ("data", k.fingerprint[:16]),
        ("key", board.digest),
    ]
    return [(name, text) for name, text in facts if text]


def _figure(drawing: Drawing, id_: str, section: str) -> dict[str, Any]:
    """What the template needs; the figure's JSON is as safe in a script as any text of a stranger can be."""
    text = drawing.figure.to_json(engine="json")
    assert text is not None
    return {
        "id": id_,
        "heading": drawing.heading,
        "doc": drawing.doc,
        "wide": drawing.wide,
        "asks": drawing.asks,
        "asked": f"{section}.{drawing.asks.lower()}",
        "choices": [asdict(c) for c in drawing.choices],
        "json": Markup(text.replace("<", "\\u003c")),
        "height": int(drawing.figure.layout.height),
    }


def _link(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


__all__ = ["has_our_libraries", "page", "without_libraries"]
