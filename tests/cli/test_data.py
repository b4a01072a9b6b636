"""`wbcbench data`: inspect says what is there, import makes it loadable, audit and run refuse the same leaks."""

from __future__ import annotations

import csv
import json
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wbcbench_plugins.datasets.folder import Folder
from wbcbench_plugins.datasets.npz import Npz

from wbcbench.data.csv_table import ColumnChoices
from wbcbench.data.intake import audit
from wbcbench.data.reading import survey_path
from wbcbench.data.splits import make_split
from wbcbench.records.store import Store
from wbcbench.spec import SplitSpec
from wbcbench.testing.records import write_cells

Invoke = Callable[..., tuple[int, str, str]]
TINY = ("--backbone", "cellnet:width=4", "--device", "cpu", "--set", "threads=1", "--epochs", "1",
        "--set", "batch_size=16")  # fmt: skip


def picture(path: Path, seed: int, side: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60, (side, side), dtype=np.uint8)
    Image.fromarray(pixels + np.uint8(90 * (seed % 2))).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """40 cells of two classes; one copy within a class, one image in both, one broken file."""
    root = tmp_path / "my cells"
    for i in range(40):
        picture(root / "ab"[i % 2] / f"{i}.png", i)
    (root / "a" / "copy of 0.png").write_bytes((root / "a" / "0.png").read_bytes())
    Image.open(root / "a" / "2.png").save(root / "b" / "again.bmp")  # other bytes, the same pixels
    (root / "b" / "broken.png").write_bytes((root / "b" / "1.png").read_bytes()[:60])
    return root


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """48 cells of 8 donors in a CSV whose split keeps donors whole; one image is missing."""
    rows = ["bf,fl,label,donor,split"]
    for i in range(48):
        picture(tmp_path / "img" / f"{i}_bf.png", i)
        picture(tmp_path / "img" / f"{i}_fl.png", 1000 + i)
        donor = i // 2 % 8
        side = "train" if donor < 4 else "val" if donor < 6 else "test"
        rows.append(f"img/{i}_bf.png,{'' if i == 5 else f'img/{i}_fl.png'},{'xy'[i % 2]},d{donor},{side}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "list.csv"


def document(invoke: Invoke, *args: str, code: int = 0) -> dict[str, Any]:
    got, out, err = invoke("data", *args, "--json")
    assert got == code, err
    return json.loads(out)  # type: ignore[no-any-return]


def rewrite(path: Path, change: Callable[[list[list[str]]], None]) -> None:
    rows = list(csv.reader(path.open()))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_inspect_a_tree(invoke: Invoke, tree: Path, tmp_path: Path) -> None:
    d = document(invoke, "inspect", str(tree), "--sheet", str(tmp_path / "s.png"))
    assert d["kind"] == "tree"
    assert d["classes"] == [{"name": "a", "cells": 21, "share": 0.5}, {"name": "b", "cells": 21, "share": 0.5}]
    (image,) = d["modalities"]
    assert image == {
        "name": "image",
        "channels": 1,
        "dtype": "uint8",
        "side": [16, 16],
        "not_square": 0,
        "missing": 0,
    }
    assert d["copies"]["images"] == 2
    assert d["copies"]["of_two_labels"] == 1
    assert [u["what"] for u in d["unusable"]] == ["b/broken.png"]
    assert d["groups"] is d["split"] is None
    assert Image.open(tmp_path / "s.png").size[0] > 96
    assert shlex.split(d["commands"][0]) == ["wbcbench", "data", "import", str(tree), "-o", "my_cells"]
    code, text, _ = invoke("data", "inspect", str(tree))
    assert code == 0
    assert "a/2.png = b/again.bmp" in text
    assert "b/broken.png: cannot be decoded" in text
    assert text.rstrip().endswith("wbcbench run --config my_cells/dataset.yaml")


def test_inspect_a_csv_ends_with_a_command_that_runs(invoke: Invoke, listed: Path, tmp_path: Path) -> None:
    d = document(invoke, "inspect", str(listed))
    assert {t["what"]: t["for"] for t in d["taken"]} == {
        "bf": "images of modality bf", "fl": "images of modality fl", "label": "label", "donor": "group",
        "split": "split",
    }  # fmt: skip
    assert d["groups"] == {"count": 8, "smallest": 6, "median": 6.0, "largest": 6}
    assert d["split"] == {"train": 24, "val": 12, "test": 12}
    assert d["modalities"][1]["missing"] == 1
    (command,) = d["commands"]
    code, out, err = invoke(*shlex.split(command)[1:], "--fusion", "early", "--dry-run", "--json",
                            "--store", str(tmp_path / "s"))  # fmt: skip
    assert code == 0, err
    assert out


def test_inspect_an_npz_and_a_data_set_by_name(invoke: Invoke, tmp_path: Path) -> None:
    path = write_cells(tmp_path / "cells.npz")
    one = document(invoke, "inspect", str(path), "--modality", "u=0", "--modality", "v=1")
    assert [m["name"] for m in one["modalities"]] == ["u", "v"]
    assert one["copies"]["images"] == 0
    other = document(invoke, "inspect", str(path), "--dataset", "npz", "--set", "modalities.u=[0]", "--set",
                     "dataset.modalities.v=[1]")  # fmt: skip
    assert other["modalities"] == one["modalities"]
    assert other["classes"] == one["classes"]
    code, *_ = invoke(*shlex.split(one["commands"][0])[1:], "--dry-run", "--store", str(tmp_path / "s"))
    assert code == 0


def test_copies_of_one_modality_are_told_apart_from_copies_of_cells(invoke: Invoke, listed: Path) -> None:
    rewrite(listed, lambda rows: rows[2].__setitem__(0, rows[1][0]))
    d = document(invoke, "inspect", str(listed))
    assert d["copies"]["images"] == 0
    assert d["copies"]["of_one_modality_only"] == {"bf": 2}


@pytest.mark.parametrize("copy", [False, True])
def test_import_a_tree_and_train(invoke: Invoke, tree: Path, tmp_path: Path, copy: bool) -> None:
    dest = tmp_path / "in"
    d = document(invoke, "import", str(tree), "-o", str(dest), *(["--copy"] if copy else []))
    assert d["cells"] == 39
    assert {x["what"]: x["why"].split(" (")[0] for x in d["dropped"]} == {
        "b/broken.png": "cannot be decoded", "a/copy of 0.png": "copy of a/0.png",
        "a/2.png": "the same image has several labels", "b/again.bmp": "the same image has several labels",
    }  # fmt: skip
    assert json.loads((dest / "import.json").read_text())["dropped"] == d["dropped"]
    assert (dest / "images").is_dir() == copy
    if copy:
        tree.rename(tree.with_name("gone"))
    (command,) = d["commands"]
    code, out, err = invoke(*shlex.split(command)[1:], "--fusion", "single", *TINY, "--json",
                            "--store", str(tmp_path / "s"))  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["records"][0]["status"] == "done"
    assert document(invoke, "audit", str(dest))["leaks"] is False


def test_import_keeps_the_official_test_cells_of_copies(invoke: Invoke, listed: Path, tmp_path: Path) -> None:
    def copy_first_train_cell_over_a_test_cell(rows: list[list[str]]) -> None:
        test = next(r for r in rows if r[4] == "test" and r[2] == rows[1][2])
        test[:2] = rows[1][:2]

    rewrite(listed, copy_first_train_cell_over_a_test_cell)
    dest = tmp_path / "in"
    d = document(invoke, "import", str(listed), "-o", str(dest))
    assert d["cells"] == 47
    rows = list(csv.DictReader((dest / "manifest.csv").open()))
    assert sum(r["split"] == "test" for r in rows) == 12
    assert all(Path(r["bf"]).is_absolute() and Path(r["bf"]).is_file() for r in rows)
    assert sum(r["fl"] == "" for r in rows) == 1
    kept = document(invoke, "import", str(listed), "-o", str(tmp_path / "all"), "--copies", "keep")
    assert kept["cells"] == 48


def test_import_translates_sides_and_drops_unusable_rows(invoke: Invoke, listed: Path, tmp_path: Path) -> None:
    def write_as_others_do(rows: list[list[str]]) -> None:
        for row in rows[1:]:
            row[4] = {"train": "Training", "val": "valid", "test": "TEST"}[row[4]]
        rows[3][2] = ""
        rows[4][0] = "img/none.png"

    rewrite(listed, write_as_others_do)
    assert document(invoke, "inspect", str(listed))["commands"][0].startswith("wbcbench data import")
    d = document(invoke, "import", str(listed), "-o", str(tmp_path / "in"))
    assert d["cells"] == 46
    assert [x["why"] for x in d["dropped"]] == ["has no label (column 'label' is '')", "does not exist"]
    assert "Split 'Training' means train (24 cells)." in d["notes"]
    assert document(invoke, "inspect", str(tmp_path / "in"))["split"]["val"] == 12


def test_import_an_npz(invoke: Invoke, tmp_path: Path) -> None:
    path = write_cells(tmp_path / "cells.npz")
    plain = document(invoke, "import", str(path), "-o", str(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "cells.npz").exists(), "nothing was dropped, so the file itself will do"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["image"][7] = arrays["image"][4]  # one class, both in training
    np.savez(path, **arrays)
    dropped = document(invoke, "import", str(path), "-o", str(tmp_path / "less"))
    assert (plain["cells"], dropped["cells"]) == (96, 95)
    assert dropped["dropped"] == [{"what": "row 7", "why": "copy of row 4"}]
    d = document(invoke, "inspect", str(tmp_path / "less" / "cells.npz"), "--modality", "channel0=channel0",
                 "--modality", "channel1=channel1")  # fmt: skip
    assert [c["name"] for c in d["classes"]] == ["a", "b", "c"]
    for folder in ("plain", "less"):
        code, _, err = invoke("run", "--config", str(tmp_path / folder / "dataset.yaml"), "--dry-run",
                              "--store", str(tmp_path / "s"))  # fmt: skip
        assert code == 0, err


def test_import_refuses_and_leaves_nothing_behind(invoke: Invoke, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    code, _, err = invoke("data", "import", str(tree), "-o", str(tmp_path / "in"))
    assert code == 2
    assert "exists" in err
    for file in (tree / "b").iterdir():
        file.unlink()
    code, _, err = invoke("data", "import", str(tree), "-o", str(tmp_path / "new"))
    assert code == 2
    assert "two classes" in err
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".tmp-*"))


def test_audit_names_donors_and_images_on_two_sides(invoke: Invoke, listed: Path) -> None:
    assert document(invoke, "audit", str(listed))["leaks"] is False

    def leak(rows: list[list[str]]) -> None:
        rows[1][4] = "test"  # donor d0 is in training otherwise
        rows[4][:2] = rows[2][:2]  # one label, both in training: no leak
        train = next(r for r in rows[6:] if r[4] == "train" and r[2] == "x")
        test = next(r for r in rows[6:] if r[4] == "test" and r[2] == "y")
        test[:2] = train[:2]

    rewrite(listed, leak)
    d = document(invoke, "audit", str(listed), code=3)
    assert d["groups_on_two_sides"] == [{"group": "d0", "train": 5, "val": 0, "test": 1}]
    assert len(d["images_on_two_sides"]) == len(d["images_of_two_labels"]) == 1
    assert {c["side"] for c in d["images_on_two_sides"][0]} == {"train", "test"}
    assert {c["label"] for c in d["images_of_two_labels"][0]} == {"x", "y"}
    assert document(invoke, "audit", str(listed), "--allow-leaks")["leaks"] is True
    ungrouped = document(invoke, "audit", str(listed), "--group", "-", code=3)
    assert ungrouped["groups_on_two_sides"] == []
    made = document(invoke, "audit", str(listed), "--scheme", "stratified", code=3)
    assert made["groups_on_two_sides"] == [], "a split that is made keeps donors whole"
    code, text, _ = invoke("data", "audit", str(listed))
    assert code == 3
    assert "d0: train 5, test 1" in text


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_audit_divides_as_a_run_does(invoke: Invoke, listed: Path, tmp_path: Path, kind: str) -> None:
    """Donors 0 .. 11: as text 10 comes before 2, and the folds depend on the order."""
    sets: tuple[str, ...] = ()
    if kind == "csv":
        rewrite(listed, lambda rows: [row.__setitem__(3, "donor" if i == 0 else str(i // 2 % 12))
                                      for i, row in enumerate(rows)] and None)  # fmt: skip
        path, name, params = listed, "folder", Folder.Params(path=str(listed), group="donor")
    else:
        path = write_cells(tmp_path / "cells.npz")
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **arrays, group=np.arange(96) // 3 % 12)
        name, params = "npz", Npz.Params(path=str(path))
        sets = ("--modality", "u=0", "--modality", "v=1")
    cells = {"folder": Folder, "npz": Npz}[name](params).load(16)
    split = make_split(cells, SplitSpec(scheme="stratified", test=0.3, seed=3, unit="group"))
    d = document(invoke, "audit", str(path), "--scheme", "stratified", "--set", "split.test=0.3", "--set",
                 "split.seed=3", *sets)  # fmt: skip
    assert d["groups"] == 12
    survey = survey_path(path, ColumnChoices(), lambda _, settings: Npz(Npz.Params(**settings)))
    side = audit(survey, SplitSpec(scheme="stratified", test=0.3, seed=3)).side
    np.testing.assert_array_equal(np.flatnonzero(side == "test"), split.test)
    np.testing.assert_array_equal(np.flatnonzero(side == "val"), split.val)


def test_run_refuses_what_audit_refuses_and_the_key_carries_the_override(
    invoke: Invoke, tmp_path: Path, cells_file: Path
) -> None:
    with np.load(cells_file) as file:
        arrays = dict(file)
    test = int(np.flatnonzero((arrays["split"] == "test") & (arrays["label"] == 0))[0])
    arrays["image"][test] = arrays["image"][0]
    np.savez(cells_file, **arrays)
    run = ("run", "--dataset", "npz", "--set", f"dataset.path={cells_file}", "--fusion", "early", *TINY, "--store",
           str(tmp_path / "s"), "--json")  # fmt: skip
    assert document(invoke, "audit", str(cells_file), code=3)["images_on_two_sides"]
    code, _, err = invoke(*run)
    assert code == 3
    assert f"row 0 = row {test}" in err
    assert "split.allow_leaks=true" in err
    code, out, err = invoke(*run, "--set", "split.allow_leaks=true")
    assert code == 0, err
    (row,) = json.loads(out)["records"]
    key = Store(tmp_path / "s").load(row["trial_id"]).result.key
    assert key.leaks_allowed
    assert key.model_dump()["leaks_allowed"] is True
    honest = key.model_copy(update={"leaks_allowed": False})
    assert "leaks_allowed" not in honest.model_dump(), "without leaks a key is what it always was"
    assert key.digest != honest.digest
    assert key.diff(honest) == ["leaks_allowed: True != False"]
    code, out, _ = invoke("leaderboard", "--store", str(tmp_path / "s"), "--format", "plain", "--no-index")
    assert code == 0
    assert "leaks between the sides of the split allowed" in out


@pytest.mark.parametrize(("groups", "code"), [(2, 2), (3, 0), (5, 0)])
def test_a_dry_run_refuses_too_few_groups_as_audit_does(
    groups: int, code: int, invoke: Invoke, tmp_path: Path
) -> None:
    path = write_cells(tmp_path / "cells.npz")
    with np.load(path) as file:
        arrays = dict(file)
    arrays.pop("split")
    np.savez(path, **arrays, group=np.arange(96) // 3 % groups)
    run = ("run", "--dataset", "npz", "--set", f"dataset.path={path}", "--fusion", "early", "--dry-run", "--store",
           str(tmp_path / "s"))  # fmt: skip
    for args in (("data", "audit", str(path)), run):
        found, _, err = invoke(*args)
        assert found == code
        assert ("at least 3 groups" in err) == (code == 2)


def test_a_folder_without_images_says_what_in_it_to_give(invoke: Invoke, tmp_path: Path) -> None:
    write_cells(tmp_path / "data.npz")
    code, _, err = invoke("data", "inspect", str(tmp_path))
    assert code == 2
    assert f"has none. Give what is in it: {tmp_path / 'data.npz'}." in err
    (tmp_path / "data.npz").unlink()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i in range(40):
            archive.write(picture(tmp_path / "gone.png", i), f"{i}.png")
    (tmp_path / "gone.png").unlink()
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(40)))
    code, _, err = invoke("data", "inspect", str(tmp_path))
    assert code == 2
    hint = f"{tmp_path / 'labels.csv'} --root {tmp_path / 'images.zip'}"
    assert f"Give what is in it: {hint}." in err
    assert document(invoke, "inspect", *shlex.split(hint))["cells"] == 40
    (tmp_path / "images.zip").unlink()
    picture(tmp_path / "0.png", 0)
    code, _, err = invoke("data", "inspect", str(tmp_path))
    assert code == 2
    assert f"Or give what is in it: {tmp_path / 'labels.csv'}." in err, "its images are in no folder of a class"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("inspect", "nowhere"), "nothing at nowhere"),
        (("inspcet", "x"), "Did you mean 'inspect'"),
        (("inspect", ".", "--modality", "bf"), "--modality NAME=VALUE"),
        (("inspect", ".", "--dataset", "nzp"), "Did you mean 'npz'"),
        (("import", "."), "--output"),
    ],
)
def test_wrong_words_are_messages(invoke: Invoke, args: tuple[str, ...], message: str) -> None:
    code, _, err = invoke("data", *args)
    assert code == 2
    assert message in err
