"""The page: what goes into the template, and the libraries that it carries with it."""

from __future__ import annotations

import base64
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from wbcbench.evaluation.metrics import METRICS
from wbcbench.leaderboard.columns import COLUMNS, HEADERS, chosen
from wbcbench.leaderboard.formats import View, render
from wbcbench.leaderboard.formats.html import figures
from wbcbench.leaderboard.formats.wording import ALONE, across_lines, legend, tables, title
from wbcbench.leaderboard.model import METRIC_NAMES, Board, Report, Row
from wbcbench.leaderboard.text import clean

_FILTERS = ("fusion", "kd", "backbone")
_ALWAYS = ("rank", "method")

_FIGURES = (
    ("pareto", "What accuracy costs", "Up and left is better. Bars are 95 % intervals.", figures.pareto),
    ("heatmap", "Fusion × distiller", "The best row of each pair; empty where no trial was run.", figures.heatmap),
    ("classes", "Class by class", "Mean over seeds; bars are one standard deviation of F1.", figures.classes),
    ("confusion", "What is taken for what", "Cells of all seeds; each row sums to 100 %.", figures.confusion),
    ("missing", "With modalities missing", "Mean over seeds of the same trained networks.", figures.missing),
    ("calibration", "Is confidence deserved?", "The best eight rows. Below the line: overconfident.",
     figures.calibration),
)  # fmt: skip


def page(report: Report, view: View) -> str:
    """The whole page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clean"] = clean
    template = environment.from_string(_asset("page.html.j2"))
    downloads = [
        (name, file, _link(mime, render(report, name)))
        for name, file, mime in (
            ("csv", "leaderboard.csv", "text/csv"),
            ("latex", "leaderboard.tex", "text/x-tex"),
            ("json", "leaderboard.json", "application/json"),
        )
    ]
    shown, alone = tables(report.boards)
    return template.render(
        report=report,
        boards=[_board(b, i, view) for i, b in enumerate(shown)],
        alone=[ALONE, *alone] if alone else [],
        across=[(across_lines(a), _figure(figures.critical_difference(a), f"cd-{i}"))
                for i, a in enumerate(report.across)],
        metrics=[(HEADERS[m], METRICS[m]) for m in METRIC_NAMES],
        columns=[(c.header, c.doc) for n, c in COLUMNS.items() if n not in METRIC_NAMES and "interval" not in n],
        downloads=downloads,
        css=Markup(_asset("page.css")),
        datatables=Markup(_datatables()),
        plotly=Markup(_plotly()),
    )  # fmt: skip


def without_libraries(html: str) -> str:
    """A page but for the two libraries in it, whose releases are no part of a board."""
    before, _, rest = html.partition("<!-- libraries -->")
    return before + rest.rpartition("<!-- /libraries -->")[2]


def _board(board: Board, number: int, view: View) -> dict[str, Any]:
    shown = list(chosen(board, view.columns))
    rest = [*chosen(board, None, wide=True), *_FILTERS, "seeds", "policies", "routing", "components"]
    names = list(dict.fromkeys([*shown, *rest]))
    found = [(id_, heading, doc, draw(board)) for id_, heading, doc, draw in _FIGURES]
    return {
        "id": f"board-{number}",
        "board": board,
        "title": title(board),
        "legend": legend(board, shown),
        "columns": [(n, COLUMNS[n]) for n in names],
        "rows": [(r, [(n, COLUMNS[n].cell(r, board), _order(n, r)) for n in names]) for r in board.rows],
        # JSON in a script: `<` never stands there, so that no text can end it.
        "options": Markup(json.dumps(_options(names, shown, number)).replace("<", "\\u003c")),
        "figures": [(f"{id_}-{number}", heading, doc, _figure(f, f"{id_}-{number}"))
                    for id_, heading, doc, f in found if f is not None],
        "absent": [heading for _, heading, _, f in found if f is None],
    }  # fmt: skip


def _options(names: list[str], shown: list[str], number: int) -> dict[str, Any]:
    """Of DataTables."""
    return {
        "paging": False,
        "order": [],
        "scrollX": True,
        "autoWidth": False,
        "fixedColumns": {"start": 2},
        "stateSave": True,
        "columnDefs": [
            {"visible": False, "targets": [i for i, n in enumerate(names) if n not in shown]},
            {"searchPanes": {"show": True}, "targets": [names.index(n) for n in _FILTERS]},
            {"searchPanes": {"show": False}, "targets": [i for i, n in enumerate(names) if n not in _FILTERS]},
        ],
        "buttons": [
            {"extend": "searchPanes", "text": "Filter",
             "config": {"cascadePanes": True, "layout": "columns-3",
                        "columns": [names.index(n) for n in _FILTERS]}},
            {"extend": "colvis", "text": "Columns",
             "columns": [i for i, n in enumerate(names) if n not in _ALWAYS]},
            {"extend": "csvHtml5", "text": "CSV of what is shown", "filename": f"board-{number}",
             "exportOptions": {"columns": ":visible"}},
        ],
        "layout": {"topStart": "buttons", "topEnd": "search", "bottomStart": "info", "bottomEnd": None},
        "language": {"search": "Search", "info": "_TOTAL_ rows", "infoFiltered": "of _MAX_",
                     "searchPanes": {"collapse": {"0": "Filter", "_": "Filter (%d)"}}},
    }  # fmt: skip


def _order(name: str, row: Row) -> float | str | None:
    """What a column sorts by; None: by its text."""
    far = float("1e300")
    if name == "rank":
        return row.rank if row.rank is not None else far
    if name in METRIC_NAMES:
        return row.metrics[name].mean if row.metrics[name].mean is not None else far
    if name.endswith("_interval") and name.removesuffix("_interval") in METRIC_NAMES:
        low = row.metrics[name.removesuffix("_interval")].low
        return low if low is not None else far
    for start, difference in (("over_single", row.over_single), ("over_no_kd", row.over_no_kd)):
        if name.startswith(start):
            return difference.value if difference is not None else far
    numbers: dict[str, float | None] = {
        "params": row.params, "macs": row.macs, "latency": row.timing.latency_ms, "n": row.n,
        "throughput": row.timing.throughput, "search": row.search.trials if row.search else None,
        "teacher_cost": row.teaching.train_seconds if row.teaching else None,
        "worst_subset": row.missing_modalities.worst_macro_f1 if row.missing_modalities else None,
    }  # fmt: skip
    if name in numbers:
        value = numbers[name]
        return value if value is not None else far
    return None


def _figure(figure: go.Figure, id_: str) -> dict[str, Any]:
    """A figure's JSON, as safe inside a script as any text of a stranger can be."""
    text = figure.to_json(engine="json")
    assert text is not None
    return {"id": id_, "json": Markup(text.replace("<", "\\u003c")), "height": int(figure.layout.height)}


def _link(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _datatables() -> str:
    """DataTables with its extensions, as itables ships it for pages without a network."""
    import itables
    from itables.javascript import generate_init_offline_itables_html

    bundle = Path(itables.__file__).parent / "html" / "dt_bundle.js"
    html = generate_init_offline_itables_html(bundle)
    return str(html[: html.index("</script>")].removeprefix("<script>"))


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")


__all__ = ["page", "without_libraries"]
