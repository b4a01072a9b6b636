"""Folds: pooled per method and seed, compared like one record, named where they are missing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from wbcbench.boards import Options, build
from wbcbench.boards.build import over_folds
from wbcbench.boards.compare import explain
from wbcbench.boards.model import Board
from wbcbench.boards.per import per
from wbcbench.boards.statistics import corrected_resampled_t
from wbcbench.deploy.report import Material, page
from wbcbench.errors import UsageError
from wbcbench.records.store import Store
from wbcbench.spec.trial import SplitSpec
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial

FAST = Options(resamples=200, verify="files")
KFOLD = SplitSpec(scheme="kfold", folds=3)
CELLS = 60


def part(p: dict[str, np.ndarray[Any, Any]], rows: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: a[rows] if name.startswith("test_") else a for name, a in p.items()}


def add(store: Store, fusion: str, seed: int, skill: float, folds: tuple[int, ...] = (0, 1, 2)) -> None:
    p = fake_predictions(seed, skill=skill, cells=CELLS)
    p["test_groups"] = np.arange(CELLS, dtype=np.int64) // 4
    for fold in folds:
        trial = fake_trial(seed, fusion=fusion, fold=fold, split=KFOLD)
        fake_record(store, trial, predictions=part(p, np.arange(CELLS) // 4 % 3 == fold))


@pytest.fixture
def folded(store: Store) -> Store:
    for seed in (0, 1):
        add(store, "gated", seed, 2.0)
        add(store, "independent", seed, 1.0)
    return store


def table(store: Store, **options: Any) -> Board:
    (board,) = build([store], Options(resamples=200, verify="files", **options))
    return board


def test_a_row_equals_one_record_of_all_test_cells(folded: Store, tmp_path: Any) -> None:
    board = table(folded)
    assert (board.folds, board.seeds, board.test_cells, board.clusters, board.grouped) == (
        (0, 1, 2), (0, 1), CELLS, 15, True)  # fmt: skip
    whole = Store(tmp_path / "whole")
    order = np.argsort(np.arange(CELLS) // 4 % 3, kind="stable")
    for seed in (0, 1):
        for fusion, skill in (("gated", 2.0), ("independent", 1.0)):
            p = fake_predictions(seed, skill=skill, cells=CELLS)
            p["test_groups"] = np.arange(CELLS, dtype=np.int64) // 4
            fake_record(whole, fake_trial(seed, fusion=fusion), predictions=part(p, order))
    for mine, other in zip(board.rows, table(whole).rows, strict=True):
        assert (mine.name, mine.rank, mine.status, mine.seeds) == (other.name, other.rank, "ranked", other.seeds)
        assert (mine.n, len(mine.sources), other.n) == (6, 6, 2)
        for metric, found in mine.metrics.items():
            assert found.model_dump() == pytest.approx(other.metrics[metric].model_dump(), abs=1e-6), metric
    assert "3 folds (0, 1, 2)" in " ".join(board.notes)


def test_a_row_without_a_fold_is_named_and_not_ranked(folded: Store) -> None:
    add(folded, "late", 0, 3.0)
    add(folded, "late", 1, 3.0, folds=(0, 2))
    board = table(folded)
    late = board.rows[-1]
    assert (late.name, late.status, late.missing_seeds, late.rank) == ("late", "incomplete", (1,), None)
    assert late.metrics["macro_f1"].low is None
    assert [r.status for r in board.rows] == ["ranked", "ranked", "incomplete"]
    assert any("late lacks folds 1 of seed 1" in n for n in board.notes)


def test_a_damaged_fold_takes_its_seed_along(folded: Store) -> None:
    trial = fake_trial(1, fusion="independent", fold=2, split=KFOLD)
    path = folded.root / "records" / trial.id / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-200])
    (board,) = build([folded], FAST)
    assert {r.name: (r.status, r.seeds) for r in board.rows}["gated"] == ("ranked", (0, 1))
    assert {r.name: r.status for r in board.rows}["independent"] == "incomplete"


def test_folds_that_only_one_row_has_are_not_needed(folded: Store) -> None:
    p = fake_predictions(0, cells=6)
    fake_record(folded, fake_trial(0, fusion="gated", fold=7, split=KFOLD), predictions=p)
    assert table(folded).folds == (0, 1, 2)


def test_comparison_over_folds(folded: Store) -> None:
    found = explain([folded], "gated", "independent", FAST)
    board = table(folded)
    assert found.lead == pytest.approx(board.comparisons[0].value, abs=1e-5)
    known = {(r.fusion, s.seed, s.fold): s.metrics["macro_f1"] for r in board.rows for s in r.sources}
    leads = [float(np.mean([known["gated", s, f] - known["independent", s, f] for s in (0, 1)])) for f in range(3)]
    u = corrected_resampled_t(leads, (1 / 3) / (1 - 1 / 3 - KFOLD.val))
    assert found.splits is not None
    assert f"Over 3 folds: lead {u.value:+.4f}" in found.splits
    assert f"p = {u.p:.3g}" in found.splits


def test_some_of_the_groups_are_not_the_whole_split(store: Store) -> None:
    """Two of ten donors were left out so far: each test set is a tenth of the cells, not a half."""
    spec = SplitSpec(scheme="leave_one_group_out")
    for fusion, skill in (("gated", 2.0), ("independent", 1.0)):
        p = fake_predictions(0, skill=skill, cells=CELLS)
        p["test_groups"] = np.arange(CELLS, dtype=np.int64) // 6
        for fold, donor in enumerate((4, 9)):
            trial = fake_trial(0, fusion=fusion, fold=fold, split=spec)
            fake_record(store, trial, predictions=part(p, p["test_groups"] == donor))
    fast = Options(resamples=200, verify="files", statistics=False)
    (board,) = build([store], fast)
    a, b = board.rows
    leads = [x.metrics["macro_f1"] - y.metrics["macro_f1"] for x, y in zip(a.sources, b.sources, strict=True)]
    u = corrected_resampled_t(leads, 0.1 / (1 - 0.1 - spec.val))
    assert f"p = {u.p:.3g}." in (over_folds(board, a, b, "macro_f1") or "")


def test_a_cell_tested_twice_is_resampled_once(store: Store) -> None:
    spec = SplitSpec(scheme="repeated", folds=2)
    for fusion in ("gated", "independent"):
        p = fake_predictions(0, skill=1.0 + (fusion == "gated"), cells=CELLS)
        for fold, rows in enumerate((np.arange(CELLS) < 40, np.arange(CELLS) >= 20)):
            fake_record(store, fake_trial(0, fusion=fusion, fold=fold, split=spec), predictions=part(p, rows))
    board = table(store)
    assert (board.test_cells, board.clusters) == (80, CELLS)


def test_students_of_two_folds_are_one_method() -> None:
    def student(fold: int) -> Any:
        teacher = fake_trial(0, fusion="single", backbone="big", modalities=("dapi",), fold=fold, split=KFOLD)
        return fake_trial(3, kd="logits", teachers=(teacher,), fold=fold, split=KFOLD)

    assert student(0).method_id() == student(1).method_id()
    assert student(0).id != student(1).id


def test_tables_by_group_fold_and_class(folded: Store) -> None:
    (board,) = build([folded], FAST)
    gated = board.rows[0]
    (by_fold,) = per([folded], "fold", Options(by="accuracy", verify="files"))
    values = [
        np.mean([s.metrics["accuracy"] for s in gated.sources if s.fold == f])  # type: ignore[misc]
        for f in range(3)
    ]
    assert by_fold.rows[0].values == pytest.approx(values)
    assert [s.name for s in by_fold.shares] == ["fold 0", "fold 1", "fold 2"]
    assert by_fold.rows[0].worst == f"fold {int(np.argmin(values))}"
    (by_group,) = per([folded], "group", FAST)
    assert [(s.name, s.cells) for s in by_group.shares] == [(str(g), 4) for g in range(15)]
    assert build([folded], Options(verify="files", statistics=False))[0].per_group == by_group
    assert build([folded], Options(verify="files", details=False))[0].per_group is None
    (by_class,) = per([folded], "class", FAST)
    f1 = gated.metrics["macro_f1"].mean
    assert np.mean(by_class.rows[0].values) == pytest.approx(f1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--per group"):
        per([fresh(folded)], "group", FAST)


def test_a_page_about_a_record_has_its_groups(folded: Store) -> None:
    record = folded.load(next(iter(sorted(p.name for p in folded.folders()))))
    text = page(Material(record))
    rows = re.findall(r'<th scope="row">(\d+)</th><td class="number">4</td>', text)
    assert rows == [str(g) for g in np.unique(record.predictions["test_groups"])]


def fresh(folded: Store) -> Store:
    """A store whose records know no groups."""
    store = Store(folded.root.parent / "no groups")
    fake_record(store, fake_trial(0), predictions=fake_predictions(0))
    return store
