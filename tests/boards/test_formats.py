"""Golden files for each format, and names that try to break out of their cell."""

import csv
import io
import json
import os
import re
from pathlib import Path

import jsonschema
import pytest

from wbcbench.boards import Options, report
from wbcbench.boards.columns import COLUMNS, HEADERS, count, two_digits
from wbcbench.boards.formats import FORMATS, View, render
from wbcbench.boards.formats.data import schema
from wbcbench.boards.formats.page import asset, without_libraries
from wbcbench.boards.formats.tables import notebook
from wbcbench.boards.model import METRIC_NAMES, Across, Report
from wbcbench.boards.text import clean, latex, markdown, spreadsheet
from wbcbench.cli.leaderboard import FORMATS as OFFERED
from wbcbench.errors import UsageError
from wbcbench.records.store import Store
from wbcbench.spec import ComponentSpec, Method, Trial
from wbcbench.testing.records import fake_record, fake_trial

GOLDEN = Path(__file__).parent / "golden"
SUFFIX = {"markdown": "md", "csv": "csv", "latex": "tex", "json": "json", "plain": "txt", "terminal": "term.txt"}


def masked(text):
    """Without identities, which change with the spec, and without a float's last digits."""
    text = re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda m: f"{float(m[0]):.4f}", text)
    return re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{16}\b|(?<=#)[0-9a-f]{6}\b", "ID", text)


def check_golden(file, text):
    path = GOLDEN / file
    if os.environ.get("WBCBENCH_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", SUFFIX)
def test_golden(shared_report, name):
    check_golden(f"board.{SUFFIX[name]}", masked(render(shared_report, name).decode()))


def test_golden_page(shared_report):
    """What stands on the page, without libraries, style and script, which are other files, and the downloads."""
    html = without_libraries(render(shared_report, "html", View(title="Cells")).decode())
    assert "application/gzip" not in html.replace(asset("libraries.js"), "")
    for name in ("page.css", "libraries.js", "page.js"):
        assert asset(name) in html
        html = html.replace(asset(name), name)
    html = re.sub(r"(?<=;base64,)[A-Za-z0-9+/=]+", "...", html)
    check_golden("board.html", masked(html).replace('{"', '\n{"'))


def test_golden_parquet(shared_report):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(pa.BufferReader(render(shared_report, "parquet")))
    document = {
        "columns": {f.name: str(f.type) for f in table.schema},
        "keys": json.loads(table.schema.metadata[b"wbcbench.keys"]),
        "rows": table.to_pylist(),
    }
    check_golden("board.parquet.json", masked(json.dumps(document, indent=1, ensure_ascii=False)) + "\n")


def test_a_notebook_shows_one_table_per_board_and_escapes_names(shared_report):
    board = shared_report.boards[0]
    row = board.rows[0].model_copy(update={"name": "<script>x</script>"})
    other = board.model_copy(update={"title": "A <b>part</b>", "digest": "0" * 16, "rows": (row, *board.rows[1:])})
    html = notebook(shared_report.model_copy(update={"boards": (board, other)}))
    assert html.count("<table>") == html.count("<h4>") == 2
    assert "A &lt;b&gt;part&lt;/b&gt;" in html
    assert "<script>" not in html


def test_every_format_has_a_golden_file():
    files = {p.name for p in GOLDEN.iterdir()}
    assert files == {f"board.{s}" for s in (*SUFFIX.values(), "html", "parquet.json")}
    assert set(FORMATS) == {*SUFFIX, "html", "parquet"} == set(OFFERED)


def test_json_follows_the_published_schema(shared_report):
    document = json.loads(render(shared_report, "json"))
    jsonschema.validate(document, schema())
    published = Path(__file__).parents[2] / "wbcbench" / "boards" / "schema.json"
    assert json.loads(published.read_text()) == schema(), "run `wbcbench leaderboard schema > " + str(published)


def test_parquet_has_the_csv(shared_report, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "board.parquet"
    path.write_bytes(render(shared_report, "parquet"))
    table = pq.read_table(path)
    rows = list(csv.DictReader(io.StringIO(render(shared_report, "csv").decode())))
    assert table.column_names == list(rows[0])
    assert table["macro_f1"].to_pylist() == [float(r["macro_f1"]) for r in rows]
    assert table["rank"].to_pylist()[-1] is None
    assert list(json.loads(table.schema.metadata[b"wbcbench.keys"])) == [shared_report.boards[0].digest]
    assert render(shared_report, "parquet") == render(shared_report, "parquet")


def test_csv_keeps_every_digit(shared_report):
    rows = list(csv.DictReader(io.StringIO(render(shared_report, "csv").decode())))
    for row, said in zip(shared_report.boards[0].rows, rows, strict=True):
        assert float(said["macro_f1"]) == row.metrics["macro_f1"].mean


def test_columns(shared_report):
    text = render(shared_report, "plain", View(columns=("method", "seeds", "auroc"))).decode()
    assert text.splitlines()[2].split() == ["method", "seeds", "AUROC"]
    with pytest.raises(UsageError, match="Did you mean 'auroc'"):
        render(shared_report, "plain", View(columns=("auc",)))
    wide = render(shared_report, "plain", View(wide=True)).decode().splitlines()[2]
    assert "teacher cost" in wide
    assert all(c.doc for c in COLUMNS.values())


@pytest.mark.parametrize(("width", "there", "gone"), [(160, "provider", None), (100, "vs no KD", "MACs"),
                                                      (60, "macro-F1", "vs single")])  # fmt: skip
def test_a_terminal_gets_the_columns_that_it_has_room_for(shared_report, width, there, gone):
    lines = render(shared_report, "terminal", View(width=width)).decode().splitlines()
    assert max(map(len, lines)) <= width
    assert there in lines[2 if width > 70 else 3]
    text = " ".join(lines)
    assert ("No room for" in text) == (gone is not None)
    assert gone is None or gone in text.split("No room for")[1]
    assert "independent + logits" in text


def test_what_was_asked_for_is_not_squeezed(shared_report):
    lines = render(shared_report, "terminal", View(width=60, wide=True)).decode().splitlines()
    assert "teacher cost" in next(line for line in lines if line.startswith("rank"))
    assert any("0.917 ± 0.070" in line and "stranger" in line for line in lines)


def test_colour(shared_report):
    coloured = render(shared_report, "terminal", View(width=160, colour=True)).decode()
    assert "\x1b[" in coloured


HOSTILE = (
    "<script>alert(1)</script>", "a|b\n| x | y |", "=HYPERLINK(\"http://x\")", "+1", "-2+3", "@SUM(A1)",
    "\\input{/etc/passwd}", "$x_1^2$ & % # ~ {}", "[red]not red[/red]", "\x1b[31mred\x1b[0m", "a\u202eb",
    "[x](javascript:alert(1))", "`code`", "![i](http://x/y.png)", "\t=1", "name\r\nSet-Cookie",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("hostile") / "store")
    for name in HOSTILE:
        fake_record(store, fake_trial(0, fusion=name, backbone=name), provider=name)
    return report([store], Options(resamples=100, verify="files")).boards[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(hostile, name):
    (row,) = (r for r in hostile.rows if r.fusion == name)
    found = Report(boards=(hostile.model_copy(update={"rows": (row,)}),))
    plain = clean(name)
    text = {f: render(found, f, View(wide=True)).decode() for f in SUFFIX}
    header, _, row = [x for x in text["markdown"].splitlines() if x.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", header))
    assert "<script" not in text["markdown"]
    assert re.search(r"(?<!\\)\]\((javascript|http)", text["markdown"]) is None
    assert "\x1b" not in text["terminal"] + text["plain"] + text["markdown"] + text["latex"] + text["csv"]
    assert "\u202e" not in "".join(text[f] for f in text if f != "json")
    # the name is there, brackets and all, not eaten as markup
    assert plain.split()[0][:8] in text["terminal"].replace("\n", "")
    (row,) = csv.DictReader(io.StringIO(text["csv"]))
    for value in row.values():
        assert re.match(r"^[=@]|^[+-](?!\d+\.?\d*(e-?\d+)?$)", value) is None, value
    assert "\\input" not in text["latex"]
    assert json.loads(text["json"])["boards"][0]["rows"][0]["fusion"] == name


def test_escapes():
    assert markdown("a|b<c>&`*") == "a\\|b&lt;c&gt;&amp;\\`\\*"
    assert markdown("single[dapi]") == "single[dapi]"
    assert markdown("@someone https://x") == "&#64;someone https&#58;//x"
    assert latex("50% of $x_1 & {y}\\") == r"50\% of \$x\_1 \& \{y\}\textbackslash{}"
    assert [spreadsheet(x) for x in ("=1", " +1", "-1", "@a", "a=b")] == ["'=1", "' +1", "'-1", "'@a", "a=b"]
    assert clean("a\x00b\x1b[0m\u202e\n c") == "ab[0m c"


def test_empty():
    for name in FORMATS:
        assert isinstance(render(Report(boards=()), name), bytes)
    with pytest.raises(UsageError, match="markdown"):
        render(Report(boards=()), "markdwn")


def test_boards_of_one_row_are_lines_beside_larger_ones(shared_report):
    (board,) = shared_report.boards
    lone = board.model_copy(update={"digest": "a" * 16, "rows": board.rows[:1]})
    for name in ("plain", "markdown", "terminal"):
        text = render(Report(boards=(board, lone)), name, View(width=300)).decode()
        assert text.count("bootstrap resamples") == 1, name
        assert "gated, macro-F1 0.917 ± 0.070, n 2" in text
        assert render(Report(boards=(lone,)), name).decode().count("bootstrap resamples") == 1


def test_what_all_rows_share_is_said_once(shared_report):
    (board,) = shared_report.boards
    same = board.model_copy(update={"rows": tuple(r for r in board.rows if r.backbone == "tiny")})
    text = render(Report(boards=(same,)), "plain").decode()
    # and gated is a stranger's
    assert "All rows: backbone tiny, validation at the end of training: too short to tell." in text
    assert "backbone" not in text.splitlines()[2]
    assert "backbone" in render(Report(boards=(board,)), "plain").decode().splitlines()[2]


@pytest.mark.parametrize("name", ["terminal", "plain", "markdown", "latex", "html"])
def test_what_a_mark_says_is_told_in_every_format(shared_report, name):
    text = " ".join(render(shared_report, name, View(width=100)).decode().split())
    assert "may be the best: 1 of 2 rows; with 95" in text
    assert "Resolution: behind the best by" in text


def test_backbones_of_other_sizes_are_not_said_to_be_shared(store):
    for fusion, width in (("early", 8), ("late", 8), ("gmu", 64)):
        method = Method(
            fusion=ComponentSpec(name=fusion), backbone=ComponentSpec(name="tiny", params={"width": width, "d": 1})
        )
        fake_record(store, Trial(protocol=fake_trial(0).protocol, method=method), 3)
    found = report([store], Options(resamples=100, verify="files"))
    assert {r.name: r.backbone_differs for r in found.boards[0].rows} == {
        "early": "width=8", "late": "width=8", "gmu": "width=64"
    }  # fmt: skip
    text = render(found, "plain").decode()
    assert "All rows: validation at the end of training: too short to tell, no component" in text
    assert text.count("tiny (width=8)") == 2
    assert text.count("tiny (width=64)") == 1
    assert "<dt>backbone</dt>" not in render(found, "html").decode()
    rows = list(csv.DictReader(io.StringIO(render(found, "csv").decode())))
    assert {(r["name"], r["backbone"], r["backbone_differs"]) for r in rows} >= {("gmu", "tiny", "width=64")}


def test_every_metric_has_its_interval_in_a_wide_table(shared_report):
    header, row = (render(shared_report, "plain", View(wide=True)).decode().splitlines()[i] for i in (2, 4))
    for metric in METRIC_NAMES:
        assert f"{HEADERS[metric]} 95%" in header
    e = shared_report.boards[0].rows[0].metrics["nll"]
    assert f"{e.low:.3f}..{e.high:.3f}" in row


def over(sets, methods, cd):
    names = tuple(f"m{i}" for i in range(methods))
    ranks = tuple(float(i + 1) for i in range(methods))
    return Across(
        methods=names, boards=tuple(map(str, range(sets))), by="macro_f1", mean_ranks=ranks, friedman_chi2=1.0,
        friedman_p=0.1, iman_davenport_p=0.1, critical_difference=cd, groups=(names,), improvement=(),
    )  # fmt: skip


@pytest.mark.parametrize(("cd", "hopeless"), [(2.34, True), (1.99, False), (2.0, False)])
def test_data_sets_that_are_too_few_to_show_anything(cd, hopeless):
    found = Report(boards=(), across=(over(2, 3, cd),))
    for name in ("plain", "terminal", "markdown", "html"):
        text = " ".join(render(found, name).decode().split())
        assert ("So few data sets could show nothing" in text) == hopeless, name
        assert ("these data sets cannot tell them apart" in text) == (name == "html" and not hopeless)


def test_a_page_has_the_title_of_its_board(shared_report):
    text = render(shared_report, "html", View(title="Cells & <dyes>")).decode()
    assert "<title>Cells &amp; &lt;dyes&gt;</title>" in text
    assert "<h1>Cells &amp; &lt;dyes&gt;</h1>" in text


def test_timings_have_two_digits():
    numbers = (0.0234, 0.975, 0.996, 1.25, 9.96, 9.94, 12.6, 99.6, 123.4, 4321)
    shown = ["0.023", "0.97", "1.0", "1.2", "10", "9.9", "13", "100", "120", "4300"]
    assert [two_digits(x) for x in numbers] == shown


def test_counts():
    numbers = (0, 7, 999, 999.6, 1000, 9996, 99_960, 154_730, 1_234_567, 9.4e9)
    assert [count(x) for x in numbers] == [
        "0", "7", "999", "1.00k", "1.00k", "10.0k", "100k", "155k", "1.23M", "9.40G"
    ]  # fmt: skip
