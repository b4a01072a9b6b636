"""Finished networks on labelled cells of another data set: stored once, accounted for, shown on boards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.deploy.conftest import Winners
from wbcbench.api.evaluating import Evaluations, evaluate
from wbcbench.boards import Options, report
from wbcbench.boards.formats import render
from wbcbench.boards.model import Board
from wbcbench.deploy.external import class_of
from wbcbench.errors import DataError, RecordError, UsageError
from wbcbench.evaluation.metrics import score
from wbcbench.publishing.side_files import side_files
from wbcbench.records.evaluations import checksummed
from wbcbench.records.external import external_path, read_external
from wbcbench.records.store import Store
from wbcbench.testing.records import write_cells

Invoke = Callable[..., tuple[int, str, str]]


def other(path: Path, training: Path, side: int = 20, **change: Any) -> Path:
    """60 cells: of the classes A and b and a foreign one, of 4 groups; the first 6 are training cells."""
    fresh, known = np.load(write_cells(path, cells=60, seed=9)), np.load(training)
    image = fresh["image"].copy()
    image[:6] = known["image"][:6]
    label = np.array(["A", "b", "zz"])[np.arange(60) % 3]
    label[:6] = (
        np.array(["a", "b", "c"])[known["label"][:6]] if known["label"].dtype.kind == "i" else known["label"][:6]
    )
    arrays = {
        "image": image,
        "label": label,
        "group": np.array([f"site{i // 3 % 4}" for i in range(60)]),
        **change,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture
def store(winners: Winners, tmp_path: Path) -> Store:
    shutil.copytree(winners.root, tmp_path / "store")
    return Store(tmp_path / "store")


def run(store: Store, path: Path, *records: str, **more: Any) -> Evaluations:
    return evaluate(list(records), dataset=str(path), store=store.root, device="cpu", progress=False, **more)


def test_every_cell_is_evaluated_or_accounted_for(winners: Winners, store: Store, tmp_path: Path) -> None:
    path = other(tmp_path / "other lab.npz", winners.cells)
    done = run(store, path, winners.ids["early"])
    (document,) = done.documents
    account = document.accounts[-1]
    assert (document.set.name, account["seen"]) == ("other lab", 60)
    reasons = {why: part["count"] for why, part in account["left_out"].items()}
    used = sum(n for why, n in reasons.items() if why.endswith("used"))
    assert reasons["of class zz, which the network does not know"] >= 18
    assert 0 < used <= 6
    assert account["used"] == len(document.cells) == 60 - sum(reasons.values())
    found = read_external(external_path(store.root, document.set.id, document.trial), document.digest)
    predicted = winners.rebuilt("early")
    assert predicted.task.classes == ("a", "b", "c")
    whole = score(found.probabilities, found.labels, ("a", "b", "c"))
    assert document.metrics["accuracy"] == whole.summary["accuracy"]
    assert document.metrics["macro_f1"] == pytest.approx(
        np.mean([c["f1"] for c in whole.per_class.values() if c["support"]])
    )
    assert sorted(document.group_names) == [f"site{i}" for i in range(4)]


def test_predictions_are_those_of_predict(winners: Winners, store: Store, tmp_path: Path, invoke: Invoke) -> None:
    path = other(tmp_path / "o.npz", winners.cells)
    (document,) = run(store, path, winners.ids["early"]).documents
    found = read_external(external_path(store.root, document.set.id, document.trial))
    where = ("--store", str(store.root), "-o", str(tmp_path / "p.csv"), "--device", "cpu")
    code, _, err = invoke("predict", document.trial, str(path), *where)
    assert code == 0, err
    import pandas as pd

    frame = pd.read_csv(tmp_path / "p.csv").iloc[found.cells.tolist()]
    columns = frame[[f"probability:{c}" for c in "abc"]].to_numpy()
    np.testing.assert_allclose(found.probabilities, columns, atol=1e-6)


def test_work_is_not_repeated_unless_it_is_damaged(winners: Winners, store: Store, tmp_path: Path) -> None:
    path = other(tmp_path / "o.npz", winners.cells)
    first = run(store, path)
    files = {p: p.stat().st_mtime_ns for p in store.root.glob("evaluations/*/*.json")}
    assert len(files) == len(first.new) > 1
    damaged = min(files)
    damaged.write_bytes(damaged.read_bytes()[:-40])
    again = run(store, path)
    assert again.new == {damaged.stem}
    assert any(f"{damaged.name} is damaged" in line for line in again.notes())
    assert {p for p, at in files.items() if p.stat().st_mtime_ns != at} == {damaged}
    renamed = run(store, path, name="hospital B")
    assert not renamed.new
    assert {d.set.name for d in renamed.documents} == {"hospital B"}


def test_a_board_shows_them_and_ranks_as_before(winners: Winners, store: Store, tmp_path: Path) -> None:
    def board() -> Board:
        boards = report([store], Options(resamples=200)).boards
        return max(boards, key=lambda b: len(b.rows))

    before = board()
    done = run(store, other(tmp_path / "o.npz", winners.cells), name="hospital B")
    after = board()
    assert [(r.method_id, r.rank, r.metrics) for r in after.rows] == [
        (r.method_id, r.rank, r.metrics) for r in before.rows
    ]
    assert "external" not in before.model_dump() | before.rows[0].model_dump()
    (cells,) = after.external
    assert (cells.name, cells.groups, cells.unchecked) == ("hospital B", 4, 0)
    by_trial = {d.trial: d for d in done.documents}
    for row in after.rows:
        (found,) = row.external
        values = [by_trial[s.trial_id].metrics["macro_f1"] for s in row.sources]
        assert found.macro_f1.mean == pytest.approx(np.mean(values))  # type: ignore[arg-type]
        assert found.macro_f1.low - 1e-8 <= found.macro_f1.mean <= found.macro_f1.high + 1e-8  # type: ignore[operator]
        assert (found.n, found.groups) == (len(row.sources), 4)
    shown = report([store], Options(resamples=200))
    for style in ("plain", "markdown", "csv", "json", "html"):
        assert b"hospital B" in render(shown, style), style
    part = external_path(store.root, cells.id, after.rows[0].sources[0].trial_id)
    part.unlink()
    assert not board().rows[0].external
    files = side_files([store.load(s.trial_id) for r in after.rows for s in r.sources], [store.root], tmp_path)
    assert {name for name in files if "/" in name.removeprefix("evaluations/")} == {
        p.relative_to(store.root).as_posix() for p in store.root.glob("evaluations/*/*.json")
        if p.stem in {s.trial_id for r in after.rows for s in r.sources}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": "AAAA"}, "probabilities for"),
        ({"labels": [0]}, "damaged"),
        ({"metrics": {"macro_f1": 1.0}}, "but its predictions give"),
        ({"trial": "0" * 16}, "it was renamed"),
        ({"digest": "f" * 64}, "of another record"),
        ({"version": 7}, "has version 7"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_documents_are_not_believed(
    winners: Winners, store: Store, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (document,) = run(store, other(tmp_path / "o.npz", winners.cells), winners.ids["early"]).documents
    path = external_path(store.root, document.set.id, document.trial)
    path.write_text(json.dumps(checksummed(document.model_dump(mode="json") | change)))
    with pytest.raises(RecordError, match=message):
        read_external(path, document.digest)
    notes = [n for b in report([store], Options(statistics=False)).boards for n in b.notes]
    assert any(message in note for note in notes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": np.array(["x", "y"] * 30)}, DataError, "none is left: 60 cells: 0 used, 30 of class x"),
        ({"image": np.zeros((60, 20, 20, 2), np.uint16)}, DataError, "as .*uint8.*, as in training"),
        ({"image": np.zeros((60, 20, 20, 1), np.uint8)}, DataError, r"channels of 0\.\.0"),
    ],
)
def test_cells_that_cannot_be_evaluated(
    winners: Winners, store: Store, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(store, other(tmp_path / "o.npz", winners.cells, **change), winners.ids["early"])


def test_wrong_requests_are_messages(winners: Winners, store: Store, tmp_path: Path, invoke: Invoke) -> None:
    with pytest.raises(DataError, match=r"has the cells that trial .* was trained and tested on"):
        run(store, winners.cells, winners.ids["early"])
    path = other(tmp_path / "o.npz", winners.cells)
    with pytest.raises(UsageError, match=r"dataset\.window=0, as in training, but got 40"):
        run(store, path, winners.ids["early"], set={"dataset.window": 40})
    with pytest.raises(UsageError, match="got both"):
        run(store, path, winners.ids["early"], key="abc")
    for args, message in (
        (("--dataset", str(tmp_path / "store")), "data import"),
        (("--dataset", str(path), "--set", "epochs=3"), "dataset.* only"),
        (("no such method", "--dataset", str(path)), "No record in"),
    ):
        code, _, err = invoke("evaluate", *args, "--store", str(store.root))
        assert (code, message in err) == (2, True), err


@pytest.mark.parametrize(("name", "index"), [("Band", 1), ("band", 0), ("BAND", -1), ("LYMPH", 2), ("mono", -1)])
def test_classes_are_matched_by_name(name: str, index: int) -> None:
    assert class_of(name, ("band", "Band", "lymph")) == index


def test_cells_without_a_modality(winners: Winners, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    np.savez(path, u=np.load(winners.cells)["image"][:30, ..., 0] // 2, label=np.array(["a", "b", "c"] * 10))
    (document,) = run(store, path, winners.ids["independent"], set={"dataset.modalities.u": "u"}).documents
    assert (len(document.cells), document.groups) == (30, None)
