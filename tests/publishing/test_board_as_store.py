"""A published board that is read as a store gives its tables: searches, examinations, strike-outs and all."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import wbcbench
from wbcbench.boards import report
from wbcbench.boards.columns import COLUMNS
from wbcbench.boards.figures.heat_map import HeatMap, heat_map
from wbcbench.boards.figures.paper import save
from wbcbench.boards.model import Board, Report, Row
from wbcbench.publishing import publish as publishing
from wbcbench.publishing.board_files import PROTOCOL, PublishOptions, read_publish_options
from wbcbench.publishing.publish import Checked, files, publish
from wbcbench.publishing.sources import store_at, unpacked
from wbcbench.records.evaluations import examination_path, write_examination
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial

BOARDS = Path(__file__).parents[2] / "leaderboards"
NAMES = sorted(p.parent.name for p in BOARDS.glob(f"*/{PROTOCOL}"))
Invoke = Callable[..., tuple[int, str, str]]

# Boards of this repository


class Read(NamedTuple):
    """A board of this repository, and what its records give: checked once, for all that is asked of it here."""

    folder: Path
    checked: Checked
    report: Report

    @property
    def maps(self) -> list[tuple[Board, HeatMap]]:
        """The boards that have a heat map."""
        return [(b, found) for b in self.report.boards if (found := heat_map(b)) is not None]


@pytest.fixture(scope="module", params=NAMES)
def read(request: pytest.FixtureRequest) -> Iterator[Read]:
    """A heat map reads the records, which stay until the tests of the board are through."""
    reports: list[Report] = []

    def seen(*args: Any) -> Any:
        made = files(*args)
        reports.append(made[1])
        return made

    with ExitStack() as kept, pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def keeping(path: Path) -> Iterator[Any]:
            yield kept.enter_context(unpacked(path))

        patch.setattr(publishing, "files", seen)
        patch.setattr(publishing, "unpacked", keeping)
        checked = publishing.check(BOARDS / request.param)
        (found,) = reports
        yield Read(BOARDS / request.param, checked, found)


@pytest.mark.slow
def test_it_is_what_its_records_give(read: Read) -> None:
    """`board.csv`, the page and all other files."""
    assert read.checked.problems == []
    assert read.checked.records > 0


@pytest.mark.slow
def test_a_cell_of_the_heat_map_is_a_row_of_the_table(read: Read) -> None:
    """As it comes, of one backbone, and of the panel's teachers: `board.csv` says the same of it."""
    text = (read.folder / "board.csv").read_text(encoding="utf-8")
    table = {r["method_id"]: r for r in csv.DictReader(io.StringIO(text))}
    for board, found in read.maps:
        backbones = set()
        for panel in found.panels:
            for fusion, rows, values in zip(found.fusions, panel.rows, panel.values, strict=True):
                for kd, row, value in zip(panel.kds, rows, values, strict=True):
                    if row is None:
                        continue
                    line = table[row.method_id]
                    backbones.add((line["backbone"], line["backbone_differs"]))
                    assert (line["board"], line["status"], line["search_study"]) == (board.digest, "ranked", "")
                    assert fusion.startswith(line["fusion"])
                    assert kd.split(" (")[0] == line["kd"]
                    assert repr(value) == line[board.by]
                    assert COLUMNS[board.by].cell(row, board).startswith(f"{value:.3f}")
                    if panel.title and "teachers=" in row.name:
                        assert panel.title in row.name
        assert len(backbones) == 1


@pytest.mark.slow
def test_the_published_page_draws_these_numbers(read: Read) -> None:
    page = (read.folder / "index.html").read_text(encoding="utf-8")
    for board, found in read.maps:
        drawn = figure_of(page, f"heatmap-{board.digest}")
        for panel, trace in zip(found.panels, drawn["data"], strict=True):
            assert trace["z"] == [list(values) for values in panel.values]
            assert (trace["x"], trace["y"]) == (list(panel.kds), list(found.fusions))
            assert trace["text"] == [["" if r is None else r.name for r in line] for line in panel.rows]


@pytest.mark.slow
def test_the_published_picture_is_what_is_drawn_now(read: Read, tmp_path: Path) -> None:
    """Its texts: where they stand depends on the release of the library and on fonts."""
    picture = read.folder / "figures" / "heatmap.svg"
    if not picture.is_file():
        return
    (key,) = re.findall(r"--kind heatmap --key ([0-9a-f]{16}) ", (read.folder / "FINDINGS.md").read_text())
    (board,) = [b for b in read.report.boards if b.digest == key]
    save(read.report.model_copy(update={"boards": (board,)}), "heatmap", tmp_path / "x.svg")
    assert texts(picture) == texts(tmp_path / "x.svg")
    found = heat_map(board)
    assert found is not None
    numbers = [f"{v:.3f}" for p in found.panels for line in p.values for v in line if v is not None]
    assert [t for t in texts(picture) if re.fullmatch(r"0\.\d{3}", t)] == numbers


def figure_of(page: str, id_: str) -> dict[str, Any]:
    """What the page gives plotly."""
    found = re.search(rf'<script[^>]* data-plot="{id_}"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None, id_
    drawn: dict[str, Any] = json.loads(found[1])
    return drawn


def texts(svg: Path) -> list[str]:
    return [unescape(t) for t in re.findall(r"<text [^>]*>(.*?)</text>", svg.read_text(encoding="utf-8"))]


@pytest.mark.slow
def test_late_fusion_without_distillation_is_as_it_comes_in_picture_page_and_table() -> None:
    """It was shown as its search's winner once."""
    folder, key = BOARDS / "subnetworks", "b7248cdb5ce1e0d6"
    lines = list(csv.DictReader(io.StringIO((folder / "board.csv").read_text(encoding="utf-8"))))
    (line,) = [r for r in lines if (r["board"], r["name"]) == (key, "late_prob (width=16, lr=0.002)")]
    assert (f"{float(line['macro_f1']):.3f}", line["search_study"]) == ("0.715", "")
    drawn = figure_of((folder / "index.html").read_text(encoding="utf-8"), f"heatmap-{key}")
    for trace in drawn["data"]:
        assert trace["z"][trace["y"].index("late_prob")][trace["x"].index("none")] == float(line["macro_f1"])
    assert re.search(r"\| late_prob \(width=16, lr=0\.002\) +\|.*\| 0\.715 ± ", (folder / "README.md").read_text())
    shown = texts(folder / "figures" / "heatmap.svg")
    assert "0.715" in shown
    assert "0.739" not in shown, "the winner of its search"


# Every reader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of two fusions, distilled and not, one of them searched, one examined; and its published board."""
    root = tmp_path_factory.mktemp("as-store")
    store = Store(root / "store")
    records = {}
    for i, (fusion, kd) in enumerate([("early", None), ("early", "dkd"), ("late", None), ("late", "dkd")]):
        trial = fake_trial(0, fusion=fusion, kd=kd)
        predictions = fake_predictions(i, cells=40, skill=1.0 + i)
        records[fusion, kd] = fake_record(store, trial, predictions=predictions)
    budget = {"study": "first", "trials": 20, "complete": 20, "pruned": 0, "failed": 0, "train_seconds": 9.5}
    winner = {"trial_ids": [records["late", None].trial.id], "budget": budget}
    path = store.root / "searches" / "first" / "winner.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"winners": [winner]}))
    early = records["early", None]
    subsets = {"brightfield": {"macro_f1": 0.5}, "brightfield+dapi": {"macro_f1": 0.75}}
    entry = {"method": "early", "kd": "none", "policies": [], "seed": 0, "digest": early.result.digest,
             "result": {"subsets": subsets, "shapley": {}}}  # fmt: skip
    write_examination(examination_path(store.root, early.trial.id), entry)
    publish(root / "boards" / "cells", [store], PublishOptions(title="Cells", resamples=300))
    return store.root, root / "boards" / "cells"


OPTIONS = ("--resamples", "300", "--no-index", "--verify", "full")


def row(rows: tuple[Row, ...], fusion: str, kd: str = "none") -> Row:
    (found,) = [r for r in rows if (r.fusion, r.kd) == (fusion, kd)]
    return found


@pytest.mark.parametrize(
    "words",
    [
        (), ("--format", "csv"), ("--format", "html"), ("--json",),
        ("effects", "--of", "fusion"), ("compare", "late", "early", "--json"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_verb_prints_of_the_board_what_it_prints_of_the_store(
    made: tuple[Path, Path], words: tuple[str, ...], invoke: Invoke
) -> None:
    of_store, of_board = (invoke("leaderboard", *words, "--store", str(place), *OPTIONS) for place in made)
    assert of_store == of_board
    assert of_store[0] == 0
    if not words:
        assert "20 trials" in of_board[1]
        assert "0.500 with brightfield" in of_board[1]
    if words[:1] == ("effects",):
        assert "a search chose their parameters: late" in of_board[1], "named, not dropped"


@pytest.mark.parametrize("kind", ["heatmap", "missing", "bars"])
def test_every_figure_of_the_board_is_that_of_the_store(
    made: tuple[Path, Path], kind: str, tmp_path: Path, invoke: Invoke
) -> None:
    drawn = []
    for i, place in enumerate(made):
        path = tmp_path / f"{i}.svg"
        words = ("plot", "--kind", kind, "--store", str(place), "--save", str(path))
        code, _, err = invoke("leaderboard", *words, *OPTIONS)
        assert code == 0, err
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]
    if kind == "heatmap":
        assert "Left out: 1 winner of a search." in " ".join(texts(tmp_path / "1.svg"))


def test_the_api_reads_a_board_and_can_still_make_its_page(made: tuple[Path, Path]) -> None:
    of_store, of_board = (wbcbench.leaderboard(place, resamples=300) for place in made)
    for boards in (of_store, of_board):
        late, early = (row(boards.boards[0].rows, fusion) for fusion in ("late", "early"))
        assert late.search is not None
        assert late.search.trials == 20
        assert early.missing_modalities is not None
    assert of_store.render("csv") == of_board.render("csv")
    assert of_store.render("html") == of_board.render("html")
    assert "heatmap-" in of_board.render("html").decode()
    path = of_board.boards[0].rows[0].sources[0].path
    assert path is not None
    del of_board, boards, late, early
    assert not path.exists(), "what was unpacked goes with the boards"


def test_the_records_of_a_board_are_those_of_the_store(made: tuple[Path, Path]) -> None:
    of_store, of_board = (wbcbench.load_records(place) for place in made)
    assert of_store.frame().drop(columns="path").equals(of_board.frame().drop(columns="path"))
    record = of_board[0]
    del of_board
    assert record.predictions["test_cells"].shape == (40,), "read after the sequence is gone"
    one = wbcbench.load_record(record.trial.id, made[1])
    path = one.path
    assert path != record.path
    del one
    assert not path.exists(), "what was unpacked goes with the record"


def test_a_board_is_made_from_another_with_what_stands_beside_it(
    made: tuple[Path, Path], tmp_path: Path, invoke: Invoke
) -> None:
    words = ("leaderboard", "publish", "--name", "cells", "--title", "Cells", "--resamples", "300")
    code, out, err = invoke(*words, "--to", str(tmp_path / "boards"), "--store", str(made[1]))
    assert code == 0, err
    assert f"New from {made[1]}: " in out
    again = tmp_path / "boards" / "cells"

    def content(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert content(again) == content(made[1])


def test_a_pack_of_a_boards_records_says_what_their_search_had_spent(
    made: tuple[Path, Path], tmp_path: Path, invoke: Invoke
) -> None:
    words = ("submit", "late", "--store", str(made[1]), "-o", str(tmp_path / "p.zip"))
    code, out, err = invoke(*words)
    assert code == 0, err
    assert "Search budgets included: first" in out
    with store_at(tmp_path / "p.zip") as store:
        (board,) = report([store]).boards
        assert row(board.rows, "late").search is not None
    code, _, err = invoke(*words, "--weights")
    assert (code, "published boards keep no weights" in " ".join(err.split())) == (2, True), err
    code, _, err = invoke("submit", "nothing", "--store", str(made[1]))
    assert (code, str(made[1]) in err) == (2, True), err


def test_what_is_struck_out_beside_a_board_does_not_count_where_it_is_read(
    made: tuple[Path, Path], tmp_path: Path, invoke: Invoke
) -> None:
    shutil.copytree(made[1].parent, tmp_path / "boards")
    board = tmp_path / "boards" / "cells"
    late = fake_trial(0, fusion="late").id
    (board.parent / "invalid.yaml").write_text(f"- {{record: '{late}', reason: wrong labels}}\n")
    publish(board, [], read_publish_options(board))
    code, out, err = invoke("leaderboard", "--store", str(board), "--format", "csv", *OPTIONS)
    assert code == 0, err
    assert out.encode() == (board / "board.csv").read_bytes()
    assert "wrong labels" in err
    assert late not in out
