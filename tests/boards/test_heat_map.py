"""The heat map: what stands in a cell, what is left out, and that both drawings show the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from wbcbench.boards import Options, report
from wbcbench.boards.figures import page, paper
from wbcbench.boards.figures.heat_map import MOST, TUNED, HeatMap, heat_map
from wbcbench.boards.model import Board, Report, Search
from wbcbench.records.store import Store
from wbcbench.spec import ComponentSpec, Recipe, Trial
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial

Cells = dict[tuple[str, str, str], str]
"""Panel, fusion, distiller -> what stands there."""
Add = Callable[..., Trial]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def add(store: Store) -> Add:
    """Store a student; keywords replace parts of its method, `protocol` parts of its protocol."""

    numbers = itertools.count()

    def call(
        fusion: str = "early", kd: str | None = None, skill: float = 1.0, modalities: Iterable[str] = (),
        policies: tuple[str, ...] = (), teachers: tuple[Trial, ...] = (), protocol: Any = None,
        fusion_component: ComponentSpec | None = None, **method: Any,
    ) -> Trial:  # fmt: skip
        base = fake_trial(
            fusion=fusion, kd=kd, modalities=tuple(modalities) or ("brightfield", "dapi"), policies=policies,
            teachers=teachers, **(protocol or {}),
        )  # fmt: skip
        method |= {"fusion": fusion_component} if fusion_component else {}
        trial = Trial(protocol=base.protocol, method=base.method.model_copy(update=method))
        fake_record(store, trial, predictions=fake_predictions(next(numbers), skill=skill, cells=40))
        return trial

    return call


def boards(store: Store, **more: Any) -> Report:
    return report([store], Options(statistics=False, details=False, verify="files", index=False, **more))


def shown(found: HeatMap | None) -> Cells:
    """What the data say, as three decimals."""
    assert found is not None
    return {
        (p.title, f, k): f"{v:.3f}"
        for p in found.panels
        for f, line in zip(found.fusions, p.values, strict=True)
        for k, v in zip(p.kds, line, strict=True)
        if v is not None
    }


def in_file(found: Report) -> Cells:
    """What matplotlib draws, from the texts and their places."""
    cells = {}
    panels = [axes for axes in paper.draw(found, "heatmap").axes if axes.images]  # and the colour bar
    fusions = [t.get_text() for t in panels[0].get_yticklabels()]
    for axes in panels:
        kds = [t.get_text() for t in axes.get_xticklabels()]
        for text in axes.texts:
            j, i = text.get_position()
            cells[axes.get_title().replace("\n", " "), fusions[int(i)], kds[int(j)]] = text.get_text()
    return cells


def on_page(board: Board) -> Cells:
    """What plotly draws."""
    drawing = page.heat_map(board)
    assert drawing is not None
    titles = [a.text for a in drawing.figure.layout.annotations] or [""]
    return {
        (title, f, k): f"{v:.3f}"
        for title, trace in zip(titles, drawing.figure.data, strict=True)
        for f, line in zip(trace.y, trace.z, strict=True)
        for k, v in zip(trace.x, line, strict=True)
        if v is not None
    }


def the_same(found: Report) -> HeatMap:
    """The heat map of the only board, after a look at both drawings: every cell is a row of the board."""
    (board,) = found.boards
    data = heat_map(board)
    assert data is not None
    assert shown(data) == in_file(found) == on_page(board)
    rows = {r.method_id: r for r in board.rows}
    for panel in data.panels:
        for line, values in zip(panel.rows, panel.values, strict=True):
            assert [r and rows[r.method_id].metrics[board.by].mean for r in line] == list(values)
    drawing = page.heat_map(board)
    assert drawing is not None
    assert drawing.doc.endswith(data.note)
    said = paper.draw(found, "heatmap").get_supxlabel().replace("\n", " ")
    assert said == data.note
    return data


def test_students_of_one_backbone_stand_side_by_side(store: Store, add: Add) -> None:
    """A larger network that is better, and a reference that is better still, are left out."""
    small, large = (
        ComponentSpec(name="tiny", params={"width": 8}),
        ComponentSpec(name="tiny", params={"width": 64}),
    )
    for fusion, skill in (("early", 1.0), ("late", 1.5)):
        for kd in (None, "dkd"):
            add(fusion, kd, skill, backbone=small)
    add("early", None, 4.0, backbone=large)
    add("single", None, 5.0, ("dapi",), backbone=small)
    found = the_same(boards(store))
    assert found.note == "Left out: 1 reference row, 1 row of another backbone than tiny (width=8)."
    assert {(r.fusion, r.kd, r.backbone_differs) for p in found.panels for line in p.rows for r in line if r} == {
        (f, k, "width=8") for f in ("early", "late") for k in ("none", "dkd")
    }
    assert [p.title for p in found.panels] == [""], "there is one arrangement: nobody teaches"


@pytest.fixture
def grid(add: Add) -> None:
    for fusion in ("early", "late"):
        for kd in (None, "dkd"):
            add(fusion, kd)


@pytest.mark.usefixtures("grid")
def test_the_winner_of_a_search_is_not_set_beside_methods_as_they_come(store: Store) -> None:
    (board,) = boards(store).boards
    found = heat_map(board)
    assert found is not None
    assert found.note == ""
    search = Search(study="s", trials=8)
    searched = [r.model_copy(update={"search": search}) for r in board.rows]
    mixed = heat_map(board.model_copy(update={"rows": (searched[0], *board.rows[1:])}))
    assert mixed is not None
    assert mixed.note == "Empty: no such row. Left out: 1 winner of a search."
    assert len(shown(mixed)) == 3
    alike = heat_map(board.model_copy(update={"rows": tuple(searched)}))
    assert shown(alike) == shown(found)


def test_winners_alone_stand_with_the_parameters_that_their_searches_chose(store: Store, add: Add) -> None:
    for i, (fusion, kd) in enumerate([("early", None), ("early", "dkd"), ("late", None), ("late", "dkd")]):
        add(fusion, kd, recipe=Recipe(lr=0.001 * (i + 1)))
    (board,) = boards(store).boards
    assert heat_map(board) is None, "as they come, no two of them were trained alike"
    searched = [r.model_copy(update={"search": Search(study="s", trials=8)}) for r in board.rows]
    alike = board.model_copy(update={"rows": tuple(searched)})
    assert len(shown(heat_map(alike))) == 4
    add("late", "dkd", recipe=Recipe(lr=0.02))
    (board,) = boards(store).boards
    searched = [r.model_copy(update={"search": Search(study="s", trials=8)}) for r in board.rows]
    twice = heat_map(board.model_copy(update={"rows": tuple(searched)}))
    assert twice is not None
    assert ("", "late", "dkd") not in shown(twice)
    assert twice.remarks == f"{TUNED} Left out: 2 rows that would share a cell."


def teacher(*modalities: str, width: int = 64) -> Trial:
    base = fake_trial(fusion="single", modalities=modalities)
    backbone = ComponentSpec(name="big", params={"width": width})
    return Trial(protocol=base.protocol, method=base.method.model_copy(update={"backbone": backbone}))


def test_every_arrangement_of_teachers_has_a_panel_and_what_has_none_is_in_each(store: Store, add: Add) -> None:
    own = (teacher("brightfield"), teacher("dapi"))
    for fusion in ("early", "late", "gmu"):
        add(fusion)
        add(fusion, "logits", teachers=own[1:])
        add(fusion, "dkd", teachers=own[1:])
    for fusion in ("early", "late"):
        add(fusion, "logits", 3.0, teachers=own)
    add("early", "self")
    found = the_same(boards(store))
    assert [(p.title, p.kds) for p in found.panels] == [
        ("teachers=dapi", ("none", "dkd", "logits", "self")),
        ("teachers=brightfield+dapi", ("none", "logits", "self")),
    ]
    cells = shown(found)
    for fusion in ("early", "late", "gmu"):
        assert cells["teachers=dapi", fusion, "none"] == cells["teachers=brightfield+dapi", fusion, "none"]
    assert cells["teachers=dapi", "early", "logits"] != cells["teachers=brightfield+dapi", "early", "logits"]
    assert ("teachers=brightfield+dapi", "gmu", "logits") not in cells
    assert len(cells) == (3 + 6 + 1) + (3 + 2 + 1)
    assert found.note == "Empty: no such row."
    add("early", "dkd", 4.0)
    assert the_same(boards(store)).panels[0].kds == ("none", "dkd", "dkd (teachers=none)", "logits", "self")


def test_panels_whose_teachers_read_the_same_say_in_what_they_differ(store: Store, add: Add) -> None:
    for width in (64, 128):
        for fusion in ("early", "late"):
            add(fusion, "logits", teachers=(teacher("dapi", width=width),))
    add("early", "logits", teachers=(teacher("dapi"),), routing=ComponentSpec(name="mean"))
    add("early")
    titles = {p.title for p in the_same(boards(store)).panels}
    assert len(titles) == 3
    assert any("width=128" in t for t in titles)


def test_the_panels_of_few_rows_are_left_out_where_there_are_many(store: Store, add: Add) -> None:
    for fusion in ("early", "late"):
        add(fusion)
        add(fusion, "logits", teachers=(teacher("dapi"),))
    for width in range(1, MOST + 2):
        add("early", "logits", teachers=(teacher("dapi", width=width),))
    found = the_same(boards(store))
    assert len(found.panels) == MOST
    assert found.remarks == "Left out: 2 rows of other teachers."


@pytest.mark.usefixtures("grid")
def test_settings_have_lines_and_columns_of_their_own(store: Store, add: Add) -> None:
    add("late", None, 5.0, policies=("modality_dropout",))
    add("early", "dkd", 5.0, policies=("modality_dropout",))
    for rho in (0.5, 1.0):
        add("independent", None, 5.0, fusion_component=ComponentSpec(name="independent", params={"rho": rho}))
    for weight in (1.0, 2.0):
        add("early", "logits", 5.0, distillers=(ComponentSpec(name="logits", params={"weight": weight}),))
    found = the_same(boards(store))
    dropout = {"early + modality_dropout", "late + modality_dropout"}
    assert set(found.fusions) == {"early", "late", "independent (rho=0.5)", "independent (rho=1)"} | dropout
    assert found.panels[0].kds == ("none", "dkd", "logits (weight=1)", "logits (weight=2)")
    assert found.remarks == ""


@pytest.mark.usefixtures("grid")
def test_another_recipe_is_left_out_and_the_usual_one_named(store: Store, add: Add) -> None:
    before = shown(heat_map(boards(store).boards[0]))
    add("early", None, 5.0, recipe=Recipe(lr=0.02))
    found = the_same(boards(store))
    assert shown(found) == before
    assert found.note == "Left out: 1 row of another recipe than the usual (lr=0.002)."


@pytest.mark.usefixtures("grid")
def test_rows_that_nothing_shown_tells_apart_are_left_out_both(store: Store, add: Add) -> None:
    """Never the better one."""
    before = shown(heat_map(boards(store).boards[0]))
    add("early", None, 5.0, protocol={"dataset": ComponentSpec(name="fake", params={"path": "elsewhere"})})
    found = the_same(boards(store))
    assert before.keys() - shown(found).keys() == {("", "early", "none")}
    assert found.note == "Empty: no such row. Left out: 2 rows that would share a cell."


@pytest.mark.usefixtures("grid")
def test_rows_whose_specification_is_gone_are_left_out(store: Store) -> None:
    (board,) = boards(store).boards
    path = board.rows[0].sources[0].path
    assert path is not None
    (path / "spec.json").write_text("{}")
    found = heat_map(board)
    assert found is not None
    assert found.remarks == "Left out: 1 row whose specification cannot be read."
    assert len(shown(found)) == 3


@pytest.mark.usefixtures("grid")
def test_a_metric_of_which_less_is_better(store: Store) -> None:
    found = the_same(boards(store, by="nll"))
    low, high = found.extent
    assert 0 < low < high


def test_an_incomplete_row_is_counted_among_what_is_left_out(store: Store, add: Add) -> None:
    for fusion in ("early", "late"):
        for kd in (None, "dkd"):
            trial = add(fusion, kd)
            other = Trial(protocol=trial.protocol, method=trial.method, seed=1)
            fake_record(store, other, predictions=fake_predictions(30, cells=40))
    add("gmu")
    assert the_same(boards(store)).note == "Left out: 1 incomplete row."
