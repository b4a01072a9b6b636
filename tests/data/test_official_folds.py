"""Folds that come with the cells: read from a column, columns of sides or lists, and used as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wbcbench_plugins.datasets.folder import Folder
from wbcbench_plugins.datasets.npz import Npz

from wbcbench.contracts.dataset import Cells
from wbcbench.data.official_folds import Lists, fold_notes, read_folds
from wbcbench.data.splits import fold_numbers, make_split, resolved
from wbcbench.errors import DataError, LeakError
from wbcbench.spec.trial import SplitSpec

Invoke = Callable[..., tuple[int, str, str]]
TRAIN, VAL, TEST = "train", "val", "test"


@pytest.mark.parametrize(
    ("columns", "folds", "notes"),
    [
        ({"fold": ["1", "2", "1", "2"]}, {1: "T.T.", 2: ".T.T"}, []),
        ({"fold": ["0.0", "1.0", "nan", "-1"]}, {0: "T. .", 1: ".T ."}, []),
        ({"fold": ["fold_3", "fold_0", "train", ""]}, {0: ".T. ", 3: "T.. "}, []),
        ({"fold": ["B", "A", "A", "B"]}, {0: ".TT.", 1: "T..T"}, ["Folds are numbered: 0 is 'A', 1 is 'B'."]),
        (
            {"fold0": ["train", "valid", "test", ""], "fold7": ["test", "train", "train", "train"]},
            {0: ".VT ", 7: "T..."},
            [],
        ),
    ],
)
def test_columns(columns: dict[str, list[str]], folds: dict[int, str], notes: list[str]) -> None:
    read = read_folds(columns, "m.csv")
    letters = {"": " ", TRAIN: ".", VAL: "V", TEST: "T"}
    assert {k: "".join(letters[str(s)] for s in side) for k, side in read.sides.items()} == folds
    assert read.notes == notes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"fold": ["train", "test", "val"]}, r"dataset\.split=fold and dataset\.fold=''"),
        ({"fold": ["1", "1", ""]}, "two or more folds"),
        ({"fold0": ["train", "test"], "fold1": ["train", "out"]}, "but got out"),
        ({"fold0": ["train", "test"], "fold1": ["test", "test"]}, "fold 1 of m.csv, but train has none"),
    ],
)
def test_columns_that_are_no_folds_are_refused(columns: dict[str, list[str]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_folds(columns, "m.csv")


def lists(folder: Path, **files: str) -> Lists:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text.replace(" ", "\n") + "\n")
    return Lists.below(folder)


KEYS = [["a", "img/a.png"], ["b", "img/b.png"], ["c", "img/c.png"], ["d", "img/d.png"]]


def test_lists_name_cells_by_id_path_or_file(tmp_path: Path) -> None:
    read, account = lists(
        tmp_path / "l", fold0_train="id a", fold0_val="id img/b.png", fold0_test="c.png ghost", test_1="a b"
    ).read(KEYS)
    assert {k: list(side) for k, side in read.sides.items()} == {
        0: [TRAIN, VAL, TEST, ""], 1: [TEST, TEST, TRAIN, TRAIN],
    }  # fmt: skip
    assert account.sentence().endswith(
        "6 names in lists of folds: 5 used, 1 that are of no cell (ghost of fold0_test.csv)"
    )
    assert fold_notes(read.sides, list("xyxy")) == [
        "1 cells are tested by no fold.", "Some cells are in other folds only: 1 of fold 0.",
        "Fold 0 tests no y; metrics are of all folds' cells together.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes": "a"}, "a number and one of train, val, test"),
        ({"fold0_train": "a b", "fold0_test": "b c", "fold1_test": "a"}, "'b' is listed for train and test"),
        ({"fold0_train": "a b", "fold1_test": "a"}, "list of test cells for fold 0"),
        ({"fold0_test": "x1 x2", "fold1_test": "x3"}, "none of 3 is one, such as x1"),
        ({"fold0_test": "a", "test_0": "b"}, "one list for test of fold 0"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        lists(tmp_path / "l", **files).read(KEYS)


def cells(folds: dict[int, Any], **more: Any) -> Cells:
    n = len(next(iter(folds.values())))
    images = np.random.default_rng(0).integers(0, 255, (n, 1, 8, 8), np.uint8)
    sides = {k: np.asarray(side, dtype="<U5") for k, side in folds.items()}
    return Cells({"bf": images}, np.arange(n) % 2, ("x", "y"), "f", folds=sides, **more).check()


def spec(of: Cells, **fields: Any) -> SplitSpec:
    sizes = {k: {s: int((side == s).sum()) for s in (TRAIN, VAL, TEST)} for k, side in (of.folds or {}).items()}
    return resolved(SplitSpec(**fields), of.groups is not None, None, sizes)


def test_folds_are_used_as_they_are_and_validation_is_drawn_from_training() -> None:
    of = np.arange(40) // 2 % 4
    folds = {k: np.where(of == k, TEST, TRAIN) for k in (1, 2, 3)}
    folds[3][:4] = ["", "", TRAIN, TRAIN]
    drawn = cells(folds, groups=of)
    own = spec(drawn)
    assert (own.scheme, own.unit, fold_numbers(own, 4, drawn.folds)) == ("official_folds", "group", (1, 2, 3))
    splits = {k: make_split(drawn, own, k) for k in folds}
    for k, split in splits.items():
        np.testing.assert_array_equal(split.test, np.flatnonzero(folds[k] == TEST))
        np.testing.assert_array_equal(np.sort([*split.train, *split.val]), np.flatnonzero(folds[k] == TRAIN))
        assert not set(of[split.val]) & set(of[split.train])
    assert len({s.family for s in splits.values()}) == 1 < len({s.hash for s in splits.values()})
    given = cells({k: np.where(side == TEST, TEST, np.where(of == 0, VAL, TRAIN)) for k, side in folds.items()})
    np.testing.assert_array_equal(make_split(given, spec(given), 1).val, np.flatnonzero(of == 0))
    assert "unit" not in spec(given).model_dump()


@pytest.mark.parametrize(
    ("side", "groups", "fold", "message"),
    [
        ([TEST, TRAIN, TRAIN, TRAIN] * 5, np.arange(20) // 4, 1, "Fold 1: .*5 of 5 stand on"),
        ([TRAIN, TEST] * 10, None, 1, "Fold 1: .*every class.*y has none"),
        ([TRAIN, TEST] * 10, None, 5, "Fold 5: .*it has folds 0, 1"),
    ],
)
def test_a_bad_fold_is_named(side: list[str], groups: Any, fold: int, message: str) -> None:
    good = np.repeat([TRAIN, TEST], [14, 6])
    bad = cells({0: good, 1: side}, groups=groups)
    with pytest.raises((LeakError, DataError), match=message):
        make_split(bad, spec(bad, val=0.3), fold)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """30 cells of 5 donors, each tested in the fold of its donor."""
    rows = ["bf,label,group,fold"]
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 60, (8, 8), dtype=np.uint8) + np.uint8(90 * (i % 2))
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'xy'[i % 2]},d{i // 2 % 5},{i // 2 % 5 + 1}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "manifest.csv"


def test_a_manifest_is_planned_with_its_folds(invoke: Invoke, manifest: Path, tmp_path: Path) -> None:
    wanted = ("run", "--dataset", "folder", "--set", f"dataset.path={manifest}", "--fusion", "single", "--kd",
              "logits", "--teacher", "cellnet", "--store", str(tmp_path / "s"), "--dry-run", "--json")  # fmt: skip
    code, out, err = invoke(*wanted, "--folds", "2,5")
    assert code == 0, err
    plan = json.loads(out)
    trials = {t["trial_id"]: t for t in plan["trials"]}
    assert sorted((t["role"], t["fold"]) for t in trials.values()) == [
        ("student", 2), ("student", 5), ("teacher", 2), ("teacher", 5),
    ]  # fmt: skip
    assert all(trials[n]["fold"] == t["fold"] for t in trials.values() for n in t["needs"])
    code, _, err = invoke(*wanted, "--folds", "0")
    assert code == 2
    assert "--folds of 1, 2, 3, 4, 5, but got 0" in err
    code, _, err = invoke(*wanted, "--set", "split.test=0.3")
    assert code == 2
    assert "split.test = 0.3 has no effect" in err


def test_import_joins_lists_and_inspect_and_audit_show_them(
    invoke: Invoke, manifest: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "lists"

    def names(*donors: int, suffix: str = "") -> str:
        return " ".join(f"{i}{suffix}" for i in range(20) if i // 2 % 5 in donors)

    for k in range(2):
        lists(folder, **{f"fold{k}_test": names(k, suffix=".png"), f"fold{k}_val": names(4),
                         f"fold{k}_train": names(1 - k, 2, 3)})  # fmt: skip
    out = tmp_path / "imported"
    code, said, err = invoke(
        "data", "import", str(manifest), "--fold-lists", str(folder), "-o", str(out), "--json"
    )
    assert code == 0, err
    assert json.loads(said)["accounts"][0]["sentence"] == "30 rows: 20 used, 10 of no fold"
    loaded = Folder(Folder.Params(path=str(out), modalities={"bf": "bf"})).load()
    assert loaded.folds is not None
    assert [int((loaded.folds[k] == s).sum()) for k in (0, 1) for s in (TRAIN, VAL, TEST)] == [12, 4, 4] * 2
    code, said, _ = invoke("data", "inspect", str(out), "--json")
    assert json.loads(said)["folds"] == [{"fold": k, "train": 12, "val": 4, "test": 4} for k in (0, 1)]
    code, said, _ = invoke("data", "audit", str(out), "--json")
    assert (code, [f["leaks"] for f in json.loads(said)["folds"]]) == (0, [False, False])
    text = manifest.read_text().replace("\n0.png,x,d0,1", "\n0.png,x,d0,2")
    manifest.write_text(text)
    code, said, _ = invoke("data", "audit", str(manifest), "--json")
    assert (code, [f["leaks"] for f in json.loads(said)["folds"]]) == (3, [True, True, False, False, False])
    assert json.loads(said)["groups_on_two_sides"] == [{"group": "d0", "train": 1, "val": 0, "test": 5}]


def test_an_npz_and_the_identity_of_files_without_folds(tmp_path: Path) -> None:
    arrays = {"image": np.random.default_rng(0).integers(0, 255, (20, 8, 8), np.uint8), "label": np.arange(20) % 2}
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez(tmp_path / "folds.npz", fold=np.where(np.arange(20) < 2, np.nan, np.arange(20) // 2 % 3), **arrays)
    without = Npz(Npz.Params(path=str(tmp_path / "plain.npz")))
    assert "fold" not in without.public_params()
    assert without.describe().fold_sizes is None
    npz = Npz(Npz.Params(path=str(tmp_path / "folds.npz")))
    said, loaded = npz.describe(), npz.load()
    assert said.fold_sizes == {k: {TRAIN: 12, VAL: 0, TEST: 6} for k in range(3)}
    assert (said.cells, said.accounts[0].sentence()) == (18, "20 rows: 18 used, 2 of no fold")
    assert (loaded.fingerprint, len(loaded)) == (said.fingerprint, 18)
    ignoring = Npz(Npz.Params(path=str(tmp_path / "folds.npz"), fold=""))
    assert ignoring.describe().fold_sizes is None
    assert ignoring.describe().fingerprint != said.fingerprint
