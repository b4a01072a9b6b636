"""The leaderboard as one self-contained web page with every table, figure and source.

DataTables (from itables) and plotly are written into the page once, compressed: 2.2 MB instead of 6. The Python
package of plotly ships no smaller bundle.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from html import unescape
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from wbcbench.boards.columns import (
    COLUMNS,
    DEPLOYED,
    EXTERNAL,
    HEADERS,
    SHARED,
    Column,
    available,
    chosen,
    count,
    deployed_number,
    header,
    shared,
)
from wbcbench.boards.figures import data as figure_data
from wbcbench.boards.figures import page as figures
from wbcbench.boards.formats import View
from wbcbench.boards.formats.data import render_csv, render_json
from wbcbench.boards.formats.tables import SINGLE_ROW, across_lines, legend, render_latex, split
from wbcbench.boards.model import METRIC_NAMES, Board, Report, Row
from wbcbench.boards.text import clean
from wbcbench.evaluation.metrics import METRICS, Metric

_OF_BOARD = {"pareto": figures.pareto, "heatmap": figures.heat_map, "missing": figures.missing}
_OF_METHOD = {"classes": figures.per_class, "confusion": figures.confusion, "calibration": figures.calibration}
_NOT_DRAWN = {
    "pareto": "No plot of accuracy against cost: it needs two rows that say what they cost.",
    "heatmap": "No heat map: it needs two fusions and two distillers on one backbone.",
    "missing": "No curves with modalities missing: `wbcbench run ... --evaluate full` examines records for them.",
}


def render_html(report: Report, view: View) -> bytes:
    """The page, UTF-8. Equal reports give equal bytes."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clean": clean, "prose": _prose}
    template = environment.from_string(asset("page.html.j2"))
    default = View()
    downloads = [
        ("csv", "leaderboard.csv", _link("text/csv", render_csv(report, default))),
        ("latex", "leaderboard.tex", _link("text/x-tex", render_latex(report, default))),
        ("json", "leaderboard.json", _link("application/json", render_json(report, default))),
    ]
    libraries, script = [datatables_js(), plotly_js()], page_script(asset("page.js"))
    boards, single = split(report.boards)
    titles = _titles(boards)
    return template.render(
        report=report,
        boards=[_board(b, titles[b.digest], view) for b in boards],
        single=[SINGLE_ROW, *single] if single else [],
        title=view.title or "wbcbench leaderboard",
        heading=view.title or "Which fusion, which distillation?",
        across=[([across_lines(a)[0], *a.notes], _figure(figures.critical_difference(a), f"cd-{i}", "across"))
                for i, a in enumerate(report.across)],
        metrics=[*((HEADERS[m], METRICS[m]) for m in METRIC_NAMES), *_further(report.boards)],
        columns=[
            (c.header, c.doc)
            for n, c in COLUMNS.items()
            if n not in (*METRIC_NAMES, "ids") and "interval" not in n
        ],
        downloads=downloads,
        css=Markup(asset("page.css")),
        libraries=[packed(text) for text in libraries],
        script=Markup(script),
        policy=content_policy([*libraries, script]),
    ).encode()  # fmt: skip


def _further(boards: Sequence[Board]) -> list[tuple[str, Metric]]:
    """The metrics that records do not state, by name."""
    every = {m.name: m for b in boards for m in b.more_metrics}
    found = []
    for m in every.values():
        low, high = (-math.inf if m.low is None else m.low), (math.inf if m.high is None else m.high)
        found.append((m.name, Metric(m.higher_is_better, (low, high), m.doc)))
    return found


def _prose(text: str) -> Markup:
    """A sentence that may contain `code`."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(clean(text)))))


def _link(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _titles(boards: Sequence[Board]) -> dict[str, str]:
    """Data set and modalities; with the key if several boards share them."""
    names = {b.digest: b.name for b in boards}
    often = Counter(names.values())
    return {digest: name if often[name] == 1 else f"{name} ({digest})" for digest, name in names.items()}


# A board


def _board(board: Board, title: str, view: View) -> dict[str, Any]:
    id_ = f"board-{board.digest}"
    shown = list(chosen(board, view.columns))
    rest = [*chosen(board, None, wide=True), *_FILTERS, *SHARED, "seeds", "policies", "routing", "components"]
    names, every = list(dict.fromkeys([*shown, *rest])), available(board)
    of_board = {name: draw(board) for name, draw in _OF_BOARD.items()}
    detailed = [(r, r.details) for r in board.rows if r.details is not None]
    details = [(r.method_id, d) for r, d in detailed]
    of_method = {name: draw(details) for name, draw in _OF_METHOD.items()} if details else {}
    options = {"options": _datatables_options(names, shown, board.digest), "names": names, "shown": shown,
               "filters": _FILTERS}  # fmt: skip
    return {
        "id": id_,
        "title": title,
        "by": board.by,
        "facts": _facts(board),
        "summary": _summary(board),
        "legend": legend(board, shown),
        "columns": [(n, every[n]) for n in names],
        "rows": [
            (r, [(n, _cell(n, every[n], r, board), _sort_value(n, r, board)) for n in names]) for r in board.rows
        ],
        "options": _script_json(json.dumps(options)),
        "of_board": [_figure(d, f"{name}-{board.digest}", id_) for name, d in of_board.items() if d is not None],
        "methods": [{"value": r.method_id, "label": r.name, "layout": None} for r, _ in detailed],
        "of_method": [_figure(d, f"{name}-{board.digest}", id_) for name, d in of_method.items()],
        "per_group": _per_group(board),
        "not_drawn": [_NOT_DRAWN[name] for name, d in of_board.items() if d is None],
    }


_MANY = 6
"""Maximum number of lines of one part of a summary."""


def _summary(board: Board) -> list[tuple[str, list[str]]]:
    """What a reader wants first: the best, per fusion and at each cost, what distillation brought, warnings."""
    ranked = [r for r in board.rows if r.status == "ranked" and r.metrics[board.by].mean is not None]
    fusions: dict[str, Row] = {}
    for r in ranked:
        fusions.setdefault(r.fusion, r)
    front = figure_data.pareto(board, "macs")
    parts = [
        ("May be the best (95 % confidence)", [_scored(r, board) for r in ranked if r.among_best]),
        ("Best of each fusion", [_scored(r, board) for r in fusions.values()] if len(fusions) > 1 else []),
        (
            "Not beaten at its cost",
            [f"{_scored(p.row, board)} at {count(p.row.macs)} MACs" for p in front.frontier] if front else [],
        ),
        ("What distillation brought", _distillation(board)),
        ("Caution", _cautions(ranked)),
    ]
    return [
        (name, lines if len(lines) <= _MANY else [*lines[: _MANY - 1], f"and {len(lines) - _MANY + 1} more"])
        for name, lines in parts
        if lines
    ]


def _scored(row: Row, board: Board) -> str:
    return f"{row.name}: {row.metrics[board.by].mean:.3f}"


def _distillation(board: Board) -> list[str]:
    found = [d for r in board.rows if (d := r.over_no_kd) is not None]
    if not found:
        return []
    better, worse = (sum(d.beyond_noise and sign * d.value > 0 for d in found) for sign in (1, -1))
    middle = median(d.value for d in found)
    beyond = f"{better} of {len(found)} students gained beyond noise, {worse} lost"
    return [f"{beyond}; median {middle:+.3f} {header(board.by)}"]


def _cautions(ranked: Sequence[Row]) -> list[str]:
    """Counts of the rows whose numbers say less than they seem to."""
    short = sum(r.levelled is not None and r.levelled.verdict == "still improving" for r in ranked)
    once = sum(len(r.seeds) == 1 for r in ranked)
    taught = [r.teaching for r in ranked if r.teaching is not None]
    weak = sum(any(s.worse_than_student for s in t.scores) for t in taught)
    found = (
        (short, "still improved when training ended"),
        (once, "of a single seed"),
        (weak, "with a teacher worse than its student"),
    )
    return [f"{n} of {len(ranked)} rows {what}" for n, what in found if n]


def _per_group(board: Board) -> dict[str, Any] | None:
    """The board's metric by donor: names of rows, and for each donor its cells and values, the worst marked."""
    t = board.per_group
    if t is None:
        return None
    few = board.by == "macro_f1" and any(s.classes < len(t.classes) for s in t.shares)
    return {
        "metric": header(t.by),
        "methods": [r.name for r in t.rows],
        "shares": [
            (s.name, s.cells, [("" if v is None else f"{v:.3f}", r.worst == s.name) for r in t.rows
                               for v in [r.values[i]]])
            for i, s in enumerate(t.shares)
        ],
        "note": " Macro-F1 is over the classes that a donor has." if few else "",
    }  # fmt: skip


def _facts(board: Board) -> list[tuple[str, str]]:
    """What is compared, and on which cells."""
    k = board.key
    cells = "" if board.test_cells is None else f"{board.test_cells} to test"
    if board.grouped and board.clusters is not None:
        cells += f", of {board.clusters} donors or groups"
    facts = [
        ("cells", cells),
        ("modalities", "pseudo: computed from one image" if all(r.pseudo_multimodal for r in board.rows) else ""),
        ("classes", f"{len(k.classes)}{', in this order' * k.ordered}: {', '.join(k.classes)}"),
        ("split", "leaks allowed: a donor or an image may be on two sides" if k.leaks_allowed else ""),
        ("images", f"{k.image_size} × {k.image_size} px" if k.image_size else "none"),
        ("training", f"{k.budget.epochs} epochs of batch {k.budget.batch_size}"),
        ("seeds", ", ".join(map(str, board.seeds))),
        ("backbone", shared(board).get("backbone", "")),
        ("data", k.fingerprint[:16]),
        ("key", board.digest),
    ]
    return [(name, text) for name, text in facts if text]


def _figure(drawing: figures.Drawing, id_: str, section: str) -> dict[str, Any]:
    """A figure as input of the template; the name of its menu is its key in the page's URL fragment."""
    return figure_fields(drawing, id_) | {
        "wide": drawing.wide,
        "menu_key": f"{section}.{drawing.menu.lower()}",
    }


def figure_fields(drawing: figures.Drawing, id_: str) -> dict[str, Any]:
    """A figure as input of templates."""
    text = drawing.figure.to_json(engine="json")
    assert text is not None
    return {
        "id": id_,
        "heading": drawing.heading,
        "doc": drawing.doc,
        "menu": drawing.menu,
        "choices": [asdict(c) for c in drawing.choices],
        "json": _script_json(text),
        "height": int(drawing.figure.layout.height),
    }


def _script_json(text: str) -> Markup:
    """JSON for a script element, with `<` escaped so that no text in it can end the element."""
    return Markup(text.replace("<", "\\u003c"))


# The table's cells and widgets

_FILTERS = ("fusion", "kd", "backbone")
_ALWAYS = ("rank", "method")
_LAST = float("1e300")
"""Sort value of an empty cell: after all others in ascending order."""


def _cell(name: str, column: Column, row: Row, board: Board) -> str:
    """A cell's text. SearchPanes writes a filter's values into a quoted attribute without escaping them."""
    text = column.cell(row, board)
    return text.replace('"', "”") if name in _FILTERS else text


def _sort_value(column: str, row: Row, board: Board) -> float | None:
    """The number that a column is sorted by; None: it is sorted by text."""

    def known(value: float | None) -> float:
        return _LAST if value is None else value

    if column == "rank":
        return known(row.rank)
    if column in row.metrics:
        return known(row.metrics[column].mean)
    if column.endswith("_interval") and column.removesuffix("_interval") in row.metrics:
        return known(row.metrics[column.removesuffix("_interval")].low)
    if column.startswith(EXTERNAL):
        cells = next(s.id for s in board.external if column == f"{EXTERNAL}{s.name}")
        return known(next((e.macro_f1.mean for e in row.external if e.set == cells), None))
    if column.startswith(DEPLOYED):
        return known(deployed_number(column, row))
    for start, difference in (("over_single", row.over_single), ("over_no_kd", row.over_no_kd)):
        if column.startswith(start):
            return known(difference.value if difference is not None else None)
    numbers: dict[str, float | None] = {
        "params": row.params, "macs": row.macs, "latency": row.timing.latency_ms, "n": row.n,
        "throughput": row.timing.throughput, "search": row.search.trials if row.search else None,
        "teacher_cost": row.teaching.train_seconds if row.teaching else None,
        "worst_subset": row.missing_modalities.worst_macro_f1 if row.missing_modalities else None,
    }  # fmt: skip
    return known(numbers[column]) if column in numbers else None


def _datatables_options(names: Sequence[str], shown: Sequence[str], file: str) -> dict[str, Any]:
    """DataTables' options of one table: search, sort, filter, choice of columns, CSV of the visible rows.

    Args:
        names: all columns, in their order.
        shown: those that are visible at first.
        file: name of the CSV, without suffix.
    """
    filters = [names.index(n) for n in _FILTERS]
    return {
        "paging": False,
        "order": [],
        "scrollX": True,
        "autoWidth": False,
        "fixedColumns": {"start": 2},
        "stateSave": True,
        "columnDefs": [
            {"visible": False, "targets": [i for i, n in enumerate(names) if n not in shown]},
            {"searchPanes": {"show": True}, "targets": filters},
            {"searchPanes": {"show": False}, "targets": [i for i in range(len(names)) if i not in filters]},
        ],
        "buttons": [
            {"extend": "searchPanes", "text": "Filter",
             "config": {"cascadePanes": True, "layout": "columns-3", "columns": filters}},
            {"extend": "colvis", "text": "Columns",
             "columns": [i for i, n in enumerate(names) if n not in _ALWAYS]},
            # A name from a record must not be interpreted as a formula by a spreadsheet.
            {"extend": "csvHtml5", "text": "CSV of what is shown", "filename": f"board-{file}",
             "exportOptions": {"columns": ":visible", "escapeExcelFormula": True}},
        ],
        "layout": {"topStart": "buttons", "topEnd": "search", "bottomStart": "info", "bottomEnd": None},
        "language": {"search": "Search", "info": "_TOTAL_ of _MAX_ rows", "infoFiltered": "",
                     "infoEmpty": "0 of _MAX_ rows", "zeroRecords": "No row is like that.",
                     "searchPanes": {"collapse": {"0": "Filter", "_": "Filter (%d)"}}},
    }  # fmt: skip


# The JavaScript in the page, and the policy that lets nothing else run


def asset(name: str) -> str:
    """The text of a file in this folder."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def datatables_js() -> str:
    """DataTables with its extensions, as itables ships it for offline pages (1 MB)."""
    import itables
    from itables.javascript import generate_init_offline_itables_html

    bundle = Path(itables.__file__).parent / "html" / "dt_bundle.js"
    html = generate_init_offline_itables_html(bundle)
    return str(html[: html.index("</script>")].removeprefix("<script>"))


@cache
def plotly_js() -> str:
    """The only bundle that plotly's Python package ships (5 MB)."""
    from plotly.offline import get_plotlyjs

    # An HTML parser drops carriage returns, so the policy's digest would not match.
    return str(get_plotlyjs()).replace("</script", "<\\/script").replace("\r\n", "\n").replace("\r", "\n")


def packed(script: str) -> str:
    """A library as `libraries.js` reads it: base64 of gzip."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()


_LARGEST = 50_000_000
"""Bytes of a library in a page that is checked; what is larger is none."""


def _unpacked(text: str) -> str | None:
    """The library in a page, or None if there is none."""
    try:
        reader = zlib.decompressobj(wbits=31)
        return reader.decompress(base64.b64decode(text, validate=True), _LARGEST).decode() if text else None
    except (ValueError, zlib.error):
        return None


def page_script(own: str) -> str:
    """A page's own script, after what unpacks its libraries."""
    return asset("libraries.js") + own


def content_policy(scripts: Iterable[str]) -> str:
    """Content-Security-Policy: no network, and no scripts except these, by their digests.

    An event handler or script injected by a record would not run. itables loads its module as a `blob:`; inline
    styles are allowed because both libraries write them.
    """
    found = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    digests = " ".join(f"'sha256-{d}'" for d in found)
    return (
        f"default-src 'none'; script-src {digests} blob:; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )


_LIBRARIES = re.compile(
    "<!-- libraries -->\n" + '<script type="application/gzip">([^<]*)</script>\n' * 2 + "<!-- /libraries -->"
)
_POLICY = re.compile(
    '<!-- policy --><meta http-equiv="Content-Security-Policy" content="([^"]*)"><!-- /policy -->'
)


def without_libraries(html: str) -> str:
    """A page without its two libraries and their digests: their releases are not part of a board.

    They are removed only if they are two scripts and the policy allows only these and the page's own script.
    Otherwise nothing is removed, so that the page differs from one that is rendered again.
    """
    libraries, stated = _libraries(html), _POLICY.search(html)
    if (
        not libraries
        or stated is None
        or unescape(stated[1]) != content_policy([*libraries, page_script(asset("page.js"))])
    ):
        return html
    return _LIBRARIES.sub("", _POLICY.sub("", html, count=1), count=1)


def has_installed_libraries(html: str) -> bool:
    """Whether a page contains the installed releases of the two libraries."""
    return _libraries(html) == [datatables_js(), plotly_js()]


def _libraries(html: str) -> list[str]:
    """The two libraries of a page; empty if they are not two and readable."""
    found = _LIBRARIES.search(html)
    texts = [_unpacked(text) for text in found.groups()] if found is not None else []
    return [text for text in texts if text is not None] if None not in texts else []


__all__ = [
    "asset", "content_policy", "datatables_js", "figure_fields", "has_installed_libraries", "packed",
    "page_script", "plotly_js", "render_html", "without_libraries",
]  # fmt: skip
