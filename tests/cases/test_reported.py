"""Inputs that were misread without a word, as users of other programs reported; each with the right outcome."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cases.conftest import TINY, Screen, picture, pictures, table
from wbcbench.records.store import Store


def test_valid_is_the_validation_side_of_a_run_too(screen: Screen, tmp_path: Path) -> None:
    """huggingface/datasets#4839: one set says val, another valid, validation or dev."""
    pictures(tmp_path, ["bf"], 60)
    sides = ["train"] * 30 + ["valid"] * 15 + ["test"] * 14 + ["discard"]
    table(
        tmp_path / "valid.csv", "bf,label,split", [f"bf/c{i}.png,{'ab'[i % 2]},{s}" for i, s in enumerate(sides)]
    )
    audit = screen("data", "audit", "valid.csv")
    assert "train 30, val 15, test 14" in audit
    inspect = screen("data", "inspect", "valid.csv")
    said = screen.train(inspect)
    for text in (audit, inspect, said):
        assert "60 rows: 59 used, 1 of split 'discard'" in text
    (record,) = (tmp_path / "store" / "records").iterdir()
    result = Store(tmp_path / "store").load(record.name).result
    (rows, *_) = result.accounts
    assert (rows.seen, rows.used, rows.left_out) == (60, 59, {"of split 'discard'": 1})
    assert rows.examples == {"of split 'discard'": ["line 61"]}
    assert "Split 'valid' means val (15 cells)." in result.notes
    assert len(np.load(record / "predictions.npz")["val_cells"]) == 15


def test_sides_of_a_split_are_never_modalities(screen: Screen, tmp_path: Path) -> None:
    """The layout of the Kaggle blood-cell set: images/TRAIN, TEST and TEST_SIMPLE with the same file names."""
    pictures(tmp_path / "kg", [f"{s}/{c}" for s in ("TRAIN", "TEST", "TEST_SIMPLE") for c in ("EOS", "LYM")], 8)
    for verb in (["inspect"], ["import", "-o", "o"], ["audit"]):
        said = screen("data", verb[0], "kg", *verb[1:], code=2)
        assert "--levels split/class    TEST_SIMPLE left out" in said
        assert "--levels split/class --side TEST_SIMPLE=test    TEST_SIMPLE is test" in said
    assert not (tmp_path / "o").exists()
    by_name = screen("data", "inspect", "kg", "--levels", "split/class")
    assert "48 files: 32 used, 16 in TEST_SIMPLE, which is not train, val or test" in by_name
    assert "3 splits: 2 used, 1 without usable cells (TEST_SIMPLE)" in by_name
    both = screen("data", "inspect", "kg", "--levels", "split/class", "--side", "TEST_SIMPLE=test")
    assert "split: train 16, val 0, test 32" in both
    assert "'TEST' is a side of a split" in screen("data", "inspect", "kg", "--levels", "modality/class", code=2)
    for text, test in ((by_name, 16), (both, 32)):
        split = screen.obey(text)
        assert len(split.test) == test
        assert split.scheme == "official", "test images are not trained on"


def test_files_of_other_suffixes_are_counted_and_empty_classes_named(screen: Screen, tmp_path: Path) -> None:
    """pytorch/vision#4925 and others: class folders without a readable image, files passed over."""
    pictures(tmp_path / "mix", ["a", "b"], 4)
    for folder in ("a", "b"):
        for i in range(4):
            for name in (f"w{i}.gif", f"j{i}.heic", f"n{i}"):
                (tmp_path / "mix" / folder / name).write_bytes(b"x")
    line = "32 files: 8 used, 8 .heic not readable, 8 without a suffix, 8 .gif not readable"
    assert line in screen("data", "inspect", "mix")
    assert line in screen("data", "import", "mix", "-o", "o")
    (files, *_) = json.loads((tmp_path / "o" / "import.json").read_text())["accounts"]
    assert (files["seen"], files["used"]) == (32, 8)
    assert files["left_out"][".gif not readable"]["count"] == 8
    assert files["left_out"][".gif not readable"]["examples"][0] == "a/w0.gif"
    pictures(tmp_path / "gone", ["a", "b"], 4)
    (tmp_path / "gone" / "c").mkdir()
    (tmp_path / "gone" / "c" / "w.gif").write_bytes(b"x")
    assert "3 classes: 2 used, 1 without usable cells (c)" in screen("data", "inspect", "gone")


@pytest.mark.parametrize("case", ["six donors", "no test side", "class of one cell"])
def test_what_inspect_and_import_suggest_runs(screen: Screen, tmp_path: Path, case: str) -> None:
    """scikit-learn/scikit-learn#33176 (more folds than groups), sets with train and val only."""
    if case == "no test side":
        pictures(tmp_path / "in", ["train/a", "train/b", "val/a", "val/b"], 8)
    else:
        pictures(tmp_path, ["bf"], 41)
        rows = [f"bf/c{i}.png,{'ab'[i % 2]},d{i // 2 % 6}" for i in range(40)]
        if case == "class of one cell":
            rows = [row.rpartition(",")[0] for row in (*rows, "bf/c40.png,c,d0")]
        table(tmp_path / "in", "bf,label,group" if case == "six donors" else "bf,label", rows)
    why, flags = {
        "six donors": ("40 cells, 2 classes", "wbcbench run --dataset folder --set dataset.path=in\n"),
        "no test side": ("test got none of 32", "--set split.scheme=stratified"),
        "class of one cell": ("but c has 1", "--leave-out label=c"),
    }[case]
    said = screen("data", "inspect", "in")
    assert why in said
    assert flags in said
    assert "1 trained" in screen.train(said)
    (record,) = (tmp_path / "store" / "records").iterdir()
    names = [f"d{i}" for i in range(6)] if case == "six donors" else []
    assert Store(tmp_path / "store").load(record.name).result.group_names == names
    screen.obey(screen("data", "import", "in", "-o", "brought"))


def test_macro_f1_that_cannot_reach_1_says_so_everywhere(screen: Screen, tmp_path: Path) -> None:
    """Lightning-AI/torchmetrics#1494: a class without test cells counts as F1 = 0."""
    images = np.concatenate([np.full((20, 12, 12), 20 + 100 * k, np.uint8) for k in range(3)])
    images[:, 0, 0] = np.arange(60)
    side = np.array((["train"] * 10 + ["val"] * 4 + ["test"] * 6) * 2 + ["train"] * 12 + ["val"] * 8)
    np.savez(tmp_path / "nt.npz", image=images, label=np.repeat(list("abc"), 20), split=side)
    note = "No test cells of c: macro-F1 is the mean over all 3 classes, so on test cells it cannot exceed 0.667."
    assert note in screen("data", "audit", "nt.npz")
    run = screen.train(screen("data", "inspect", "nt.npz"))
    assert note in run
    board = ["leaderboard", "--store", "store"]
    assert note in screen(*board, "--format", "markdown")
    (record,) = (tmp_path / "store" / "records").iterdir()
    assert any(n.startswith(note) for n in Store(tmp_path / "store").load(record.name).result.notes)
    screen("report", record.name, "--store", "store", "-o", "page.html")
    assert note in (tmp_path / "page.html").read_text()


def test_one_small_image_does_not_decide_the_size(screen: Screen, tmp_path: Path) -> None:
    pictures(tmp_path / "t", ["a", "b"], 10, side=40)
    picture(tmp_path / "t" / "a" / "tiny.png", 99, side=9)
    said = screen("data", "import", "t", "-o", "o")
    assert "Longer sides of 21 images: 9 to 40 px" in said
    assert "placed in windows of 40 px without rescaling" in said
    config = (tmp_path / "o" / "dataset.yaml").read_text()
    assert "window: 40" in config
    assert "image_size: 40" in config
    main, other = screen.suggested(said)
    assert other[-2:] == ["--image-size", "40"]
    assert "dataset.window=0" in other
    for words in (main, other):
        screen(*words, *TINY, "--store", "store")
    trials = [Store(tmp_path / "store").load(r.name) for r in (tmp_path / "store" / "records").iterdir()]
    assert sorted("window" in t.trial.protocol.dataset.params for t in trials) == [False, True]
    assert sum("placed in windows of 40" in " ".join(t.result.notes) for t in trials) == 1
    windowed = next(t for t in trials if "window" in t.trial.protocol.dataset.params)
    predicted = screen("predict", windowed.trial.id, "t", "--store", "store", "-o", "p.csv")
    assert "t: 21 files: all used" in predicted
