"""Figures for papers: every kind, vector, equal bytes, and nothing read into a stranger's name."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.text import Text

from wbcbench.boards import Options, report
from wbcbench.boards.figures import data, page, paper
from wbcbench.boards.figures.data import COSTS, Point, frontier
from wbcbench.boards.figures.paper import KINDS, Look, save
from wbcbench.boards.model import Across, Board, DeployedScore, MissingModalities, Report
from wbcbench.boards.text import spreadsheet
from wbcbench.cli.leaderboard import FIGURES
from wbcbench.errors import UsageError
from wbcbench.records import deployed
from wbcbench.records.store import Store
from wbcbench.spec import ComponentSpec
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial

NAMED = "a$^{2$_%&<b>"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    store = Store(tmp_path_factory.mktemp("plots") / "store")
    for i, (fusion, kd) in enumerate([("early", "none"), ("early", "dkd"), (NAMED, "none"), (NAMED, "dkd")]):
        p = fake_predictions(0, skill=1.0 + i, cells=40)
        fake_record(store, fake_trial(0, fusion=fusion, kd=kd), predictions=p)
    return report([store], Options(resamples=200, verify="files"))


@pytest.mark.parametrize("kind", ["pareto", "bars", "heatmap"])
@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_every_kind_in_every_format(found: Report, kind: str, suffix: str, tmp_path: Path) -> None:
    one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
    save(found, kind, one)
    save(found, kind, two)
    assert one.read_bytes() == two.read_bytes()
    data = one.read_bytes()
    assert data.startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix])
    if suffix == "pdf":
        assert b"/Type3" not in data
    if suffix == "svg" and kind != "pareto":
        assert "a$^{2$_%&amp;&lt;b&gt;" in data.decode()


def test_what_cannot_be_drawn_says_why(found: Report, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--store A --store B"):
        save(found, "cd", tmp_path / "x.svg")
    with pytest.raises(UsageError, match="--evaluate full"):
        save(found, "missing", tmp_path / "x.svg")
    with pytest.raises(UsageError, match=r"\.pdf, \.svg, \.png"):
        save(found, "bars", tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())
    assert FIGURES == KINDS == ("pareto", "cd", "heatmap", "bars", "missing")


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_ticks_of_a_logarithmic_axis_are_words_not_formulas(found: Report, cost: str, tmp_path: Path) -> None:
    save(found, "pareto", tmp_path / "x.svg", Look(cost))
    text = (tmp_path / "x.svg").read_text()
    assert "mathdefault" not in text
    assert ">1k<" in text or ">2k<" in text


def test_critical_difference_diagram(tmp_path: Path) -> None:
    across = Across(
        methods=(NAMED, "b", "c"), boards=("1", "2"), by="macro_f1", mean_ranks=(1.0, 2.5, 2.5),
        friedman_chi2=1.0, friedman_p=0.1, iman_davenport_p=0.1, critical_difference=2.34,
        groups=((NAMED, "b", "c"),), improvement=(),
    )  # fmt: skip
    report = Report(boards=(), across=(across,))
    for name in ("one.svg", "two.svg"):
        save(report, "cd", tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    for shown in ("a$^{2$_%&amp;&lt;b&gt;  1.00", "2.50  c", "CD 2.34", "over 2 data sets"):
        assert shown in text


def test_a_diagram_that_could_show_nothing_says_so(tmp_path: Path) -> None:
    across = Across(
        methods=("a", "b", "c"), boards=("1", "2"), by="macro_f1", mean_ranks=(1.0, 2.0, 3.0), friedman_chi2=1.0,
        friedman_p=0.1, iman_davenport_p=0.1, critical_difference=2.34, groups=(("a", "b", "c"),), improvement=(),
    )  # fmt: skip
    for cd, said in ((2.34, True), (1.5, False)):
        one = across.model_copy(update={"critical_difference": cd})
        save(Report(boards=(), across=(one,)), "cd", tmp_path / "x.svg")
        assert ("nothing could show: 3 mean ranks differ by 2 at most" in (tmp_path / "x.svg").read_text()) == said


def test_frontier_keeps_what_no_cheaper_row_beats(found: Report) -> None:
    rows = list(found.boards[0].rows)
    price = {r.method_id: p for r, p in zip(rows, (30, 10, 20, 20), strict=True)}
    value = {r.method_id: r.metrics["macro_f1"].mean or 0 for r in rows}
    points = [Point(r, value[r.method_id], 0.0, 0.0, price[r.method_id]) for r in rows]
    kept = [p.row for p in frontier(points, higher_is_better=True)]
    for row in rows:
        beaten = [
            o for o in rows
            if o is not row and price[o.method_id] <= price[row.method_id]
            and value[o.method_id] >= value[row.method_id]
        ]  # fmt: skip
        assert (row in kept) == (not beaten)
    assert frontier([], True) == ()


def timed(board: Board, *kds: str) -> Board:
    """The latency of these distillers' students is known, and that of their deployed files."""
    rows = []
    for i, r in enumerate(board.rows):
        timing = r.timing.model_copy(update={"latency_ms": 1.5 + i})
        value = r.metrics[board.by]
        files = tuple(
            DeployedScore(kind=kind, n=1, value=value, change=0, ece=None, size=9 + i, timing=timing)
            for kind in deployed.KINDS
        )
        rows.append(r.model_copy(update={"timing": timing, "deployed": files}) if r.kd in kds else r)
    return board.model_copy(update={"rows": tuple(rows)})


@pytest.mark.parametrize("cost", COSTS)
def test_both_renderers_draw_the_same_costs_and_intervals(found: Report, cost: str) -> None:
    board = timed(found.boards[0], "none", "dkd")
    figures = data.pareto(board, cost)
    assert figures is not None
    assert len(figures.points) == len(board.rows) == 4
    axes = paper.draw(Report(boards=(board,)), "pareto", Look(cost)).axes[0]
    drawing = page.pareto(board)
    assert drawing is not None
    traces = [t for t in drawing.figure.data if t.meta == cost]
    for series, drawn, trace in zip(figures.series, axes.containers, traces, strict=False):
        xy = [(p.cost, p.value) for p in series.points]
        assert [tuple(x) for x in drawn.lines[0].get_xydata()] == xy == list(zip(trace.x, trace.y, strict=True))
        ends = [tuple(s[:, 1]) for s in drawn.lines[2][0].get_segments()]
        shown = zip(trace.y, trace.error_y.arrayminus, trace.error_y.array, strict=True)
        assert ends == [(y - below, y + above) for y, below, above in shown]
        assert ends == [pytest.approx((e.low, e.high)) for p in series.points if (e := p.row.metrics[board.by])]
    best = [(p.cost, p.value) for p in figures.frontier]
    step = axes.lines[-1]
    assert [tuple(x) for x in step.get_xydata()] == best == list(zip(traces[-1].x, traces[-1].y, strict=True))


def examined(board: Board) -> Board:
    """Every second row was examined, one of them not with every subset."""
    scores = [{"a": 0.5, "b": 0.4, "a+b": 0.7}, {"a+b": 0.6, "b": 0.3}]
    rows = list(board.rows)
    for i, subsets in enumerate(scores):
        found = MissingModalities(worst=("b",), worst_macro_f1=subsets["b"], subsets=subsets)
        rows[2 * i] = rows[2 * i].model_copy(update={"missing_modalities": found})
    return board.model_copy(update={"rows": tuple(rows)})


def test_both_renderers_draw_the_same_curves_with_modalities_missing(found: Report) -> None:
    board = examined(found.boards[0])
    scores = data.subset_scores(board)
    assert scores is not None
    assert scores.subsets == ("a", "b", "a+b")
    assert [c.values for c in scores.curves] == [(0.5, 0.4, 0.7), (None, 0.3, 0.6)]
    lines = paper.draw(Report(boards=(board,)), "missing").axes[0].lines
    drawing = page.missing(board)
    assert drawing is not None
    for curve, line, trace in zip(scores.curves, lines, drawing.figure.data, strict=True):
        assert list(line.get_ydata()) == pytest.approx([float("nan") if v is None else v for v in curve.values],
                                                       nan_ok=True)  # fmt: skip
        assert trace.y == curve.values
        assert (line.get_color(), trace.line.color) == (curve.colour, curve.colour)
    assert data.subset_scores(found.boards[0]) is None
    assert page.missing(found.boards[0]) is None


def test_a_distiller_keeps_its_colour_where_another_has_no_latency(found: Report) -> None:
    assert {r.timing.latency_ms for r in found.boards[0].rows} == {None}
    board = timed(found.boards[0], "dkd")
    latency, macs = data.pareto(board, "latency"), data.pareto(board, "macs")
    assert latency is not None
    assert macs is not None
    assert [len(s.points) for s in latency.series] == [0, 2]
    assert [len(s.points) for s in macs.series] == [2, 2]
    for one, other in zip(latency.series, macs.series, strict=True):
        assert (one.label, one.colour, one.symbol) == (other.label, other.colour, other.symbol)
    (axes,) = paper.draw(Report(boards=(board,)), "pareto", Look("latency")).axes
    assert {t.get_text() for t in axes.figure.legends[0].get_texts()} == {"not beaten at its cost", "dkd"}


def test_no_name_is_on_a_mark_an_axis_or_another_name(found: Report) -> None:
    (board,) = found.boards
    rows = [r.model_copy(update={"name": f"method {i} (some=parameter)", "macs": 1000 + 400 * (i // 9),
                                 "method_id": f"{i:016x}"})
            for i, r in enumerate(board.rows * 9)]  # fmt: skip
    crowded = Report(boards=(board.model_copy(update={"rows": tuple(rows)}),))
    for width in ("one", "two"):
        figure = paper.draw(crowded, "pareto", Look(width=width))
        figure.draw_without_rendering()
        (axes,) = figure.axes
        inside = axes.get_window_extent()
        texts = [(t.get_text(), Text.get_window_extent(t)) for t in axes.texts]  # without leaders
        key = figure.get_supxlabel().replace("\u00a0", " ")
        for i, (text, box) in enumerate(texts):
            assert inside.x0 <= box.x0 <= box.x1 <= inside.x1, text
            assert not any(box.overlaps(other) for _, other in texts[i + 1 :]), text
            marks = [axes.transData.transform((r.macs, r.metrics[board.by].mean)) for r in rows]
            assert not any(box.contains(*mark) for mark in marks), text
        numbers = [text for text, _ in texts if text.isdigit()]
        assert len(texts) - len(numbers) + key.count("method ") == len(rows), "each is named once"


@pytest.mark.parametrize("kind", ["pareto", "bars", "heatmap"])
def test_the_data_of_a_figure_is_beside_it(found: Report, kind: str, tmp_path: Path) -> None:
    beside = save(found, kind, tmp_path / "x.svg")
    rows = list(csv.DictReader(beside.open()))
    values = sorted(float(r["macro_f1"]) for r in rows)
    assert values == sorted(r.metrics["macro_f1"].mean or 0 for r in found.boards[0].rows)


def test_only_some_rows(found: Report, tmp_path: Path) -> None:
    names = [r.name for r in found.boards[0].rows]
    for look, shown in ((Look(top=2), names[:2]), (Look(only=(names[3],)), names[3:])):
        beside = save(found, "bars", tmp_path / "x.svg", look)
        assert [r["method"] for r in csv.DictReader(beside.open())] == [spreadsheet(n) for n in shown]
    with pytest.raises(UsageError, match="No row is called 'nothing'"):
        save(found, "bars", tmp_path / "x.svg", Look(only=("nothing",)))


def test_on_the_command_line(invoke: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for dataset, skill in (("a", 1.0), ("b", 2.0)):
        trial = fake_trial(0, dataset=ComponentSpec(name=dataset))
        fake_record(store, trial, predictions=fake_predictions(0, skill=skill, cells=30))
    where = ("--store", str(store.root))
    code, _, err = invoke("leaderboard", "plot", *where, "--kind", "bars", "--save", str(tmp_path / "x.svg"))
    assert code == 2
    assert err.count("--key ") == 2
    code, out, err = invoke(
        "leaderboard", "plot", *where, "--where", "dataset=a", "--kind", "bars", "--save", str(tmp_path / "x.svg")
    )
    assert code == 0, err
    assert out.strip() == str(tmp_path / "x.svg")
