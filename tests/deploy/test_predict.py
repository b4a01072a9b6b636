"""`wbcbench predict`: cells from files, with and without every modality, with and without labels."""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import torch
from PIL import Image

from wbcbench.deploy.explain import _GAP, _LINE, TILE, _key, _said, explain, own_layer
from wbcbench.training.report import outside, read_reference

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(invoke: Invoke, winners: Any, tmp_path: Path) -> Callable[..., tuple[pd.DataFrame, dict[str, Any]]]:
    """Predict to Parquet; returns the table and the document."""

    def call(fusion: str, *args: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        out = tmp_path / "out.parquet"
        code, said, err = invoke(
            "predict", winners.ids[fusion], "--store", str(winners.root), *args, "-o", str(out), "--json"
        )
        assert code == 0, err
        return pd.read_parquet(out), json.loads(said)

    return call


@pytest.fixture
def tree(winners: Any, tmp_path: Path) -> Path:
    """The tiny cells as files: `u/b/7.png`; cell 3 lacks `v`."""
    with np.load(winners.cells) as file:
        image, labels = file["image"], file["label"]
    for row in range(12):
        for channel, m in enumerate("uv"):
            if (row, m) != (3, "v"):
                path = tmp_path / "tree" / m / "abc"[labels[row]] / f"{row}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[row, :, :, channel]).save(path)
    return tmp_path / "tree"


def probabilities(frame: pd.DataFrame, prefix: str = "probability") -> np.ndarray:
    return frame[[f"{prefix}:{c}" for c in "abc"]].to_numpy()


@pytest.mark.parametrize("fusion", ["independent", "stacking", "handcrafted"])
def test_an_npz_gives_what_the_record_says(fusion: str, predict: Any, winners: Any) -> None:
    frame, document = predict(fusion, str(winners.cells), "--batch", "7")
    record = winners.record(fusion)
    cells = record.predictions["test_cells"]
    np.testing.assert_allclose(probabilities(frame)[cells], record.predictions["test_probabilities"], atol=1e-6)
    for route in record.result.routes:
        want = record.predictions[f"test_route_{route}"]
        np.testing.assert_allclose(probabilities(frame, route)[cells], want, atol=1e-6)
    assert document["cells"] == document["labelled"] == len(frame) == 96
    assert document["metrics"]["accuracy"] == pytest.approx((frame["label"] == frame["predicted"]).mean())
    assert document["unlike_training"]["statistics_from"] == "the record"


def test_folders_of_images_say_the_same_and_a_missing_one_is_left_out(
    predict: Any, winners: Any, tree: Path
) -> None:
    frame, document = predict("independent", str(tree))
    whole, _ = predict("independent", str(winners.cells))
    rows = frame["cell"].str.extract(r"(\d+)$")[0].astype(int).to_numpy()
    complete = rows != 3
    np.testing.assert_allclose(
        probabilities(frame)[complete], probabilities(whole)[rows[complete]], atol=1e-6
    )  # fmt: skip
    assert document["missing"] == 1
    lacking = frame[~complete].iloc[0]
    assert lacking["missing"] == "v"
    assert np.isnan(lacking["v:a"])
    assert lacking[[f"probability:{c}" for c in "abc"]].sum() == pytest.approx(1, abs=1e-6)
    assert document["labelled"] == 12


def test_a_manifest_needs_no_labels(predict: Any, tree: Path) -> None:
    with open(tree / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "u", "v", "weather"])
        writer.writerows(
            [f"=cell {i}", f"u/{'abc'[i]}/{i}.png", "" if i else f"v/a/{i}.png", "fair"] for i in range(3)
        )
    frame, document = predict("majority", str(tree))
    assert list(frame["cell"]) == ["=cell 0", "=cell 1", "=cell 2"]
    assert list(frame["missing"]) == ["", "v", "v"]
    assert "label" not in frame
    assert document["metrics"] is None


def test_csv_holds_no_formula(invoke: Invoke, winners: Any, tree: Path, tmp_path: Path) -> None:
    (tree / "manifest.csv").write_text("id,u,v,label\n=1+1,u/a/0.png,v/a/0.png,=2+2\n")
    out = tmp_path / "out.csv"
    args = ("predict", winners.ids["early"], "--store", str(winners.root), str(tree), "-o", str(out))
    code, said, err = invoke(*args)
    assert code == 0, err
    (row,) = csv.DictReader(out.open())
    assert row["cell"] == "'=1+1"
    assert "=2+2" in err
    assert float(row["probability:a"]) <= 1
    assert "1 cells" in said


def test_a_fusion_that_cannot_do_without_refuses(winners: Any, tree: Path, monkeypatch: Any) -> None:
    from wbcbench.deploy.cell_files import open_cells
    from wbcbench.deploy.cells import Wanted
    from wbcbench.deploy.predict import classify
    from wbcbench.errors import IncompatibleError

    found = winners.rebuilt("early")
    monkeypatch.setattr(type(found.fusion), "traits", replace(found.fusion.traits, missing="refuse"))
    with pytest.raises(IncompatibleError, match=r"1 cells of .* lack v"):
        classify(found, open_cells(tree, Wanted.of(found)), torch.device("cpu"))


def test_an_absent_image_may_hold_anything(winners: Any) -> None:
    network = winners.rebuilt("independent").network
    rng = np.random.default_rng(0)
    images = {m: torch.from_numpy(rng.integers(0, 255, (4, 1, 16, 16), dtype=np.uint8)) for m in "uv"}
    present = torch.tensor([[True, False]] * 4)
    with torch.no_grad():
        a = network(images, present)["probabilities"]
        b = network({**images, "v": 255 - images["v"]}, present)["probabilities"]
        c = network(images)["probabilities"]
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.allclose(a, c)


def test_images_unlike_the_training_cells_are_named(predict: Any, tree: Path) -> None:
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(tree / "u" / "a" / "0.png")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 2, (16, 16), dtype=np.uint8) * 255).save(tree / "v" / "b" / "1.png")
    Image.fromarray(rng.integers(0, 60, (40, 20), dtype=np.uint8)).save(tree / "v" / "c" / "2.png")
    frame, document = predict("early", str(tree))
    odd = frame.set_index("cell")["unlike_training"]
    assert "u constant" in odd["a/0"]
    assert "v contrasty" in odd["b/1"]
    assert odd["c/5"] == ""
    assert document["unlike_training"]["kinds"]["u constant"] == 1
    assert any("1 images were not 16 x 16" in note for note in document["notes"])


def changed(winners: Any, folder: Path, rows: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> str:
    """Some of the tiny cells without labels, as another camera would show them."""
    with np.load(winners.cells) as file:
        image = change(file["image"][rows].astype(np.float32))
    np.savez(folder / "new.npz", image=np.clip(image, 0, 255).astype(np.uint8))
    return str(folder / "new.npz")


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.ndimage.gaussian_filter(image, (0, 1, 1, 0)))


@pytest.mark.parametrize("fusion", ["independent", "majority"])
@pytest.mark.parametrize(
    ("change", "unlike"),
    [
        (lambda x: x, False),
        (lambda x: x * np.array([0.5, 1.5], np.float32), True),
        (blurred, True),
    ],
    ids=["held out", "colour", "blur"],
)
def test_cells_of_another_source_are_named(
    change: Callable[[np.ndarray], np.ndarray],
    unlike: bool,
    fusion: str,
    invoke: Invoke,
    winners: Any,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.parquet"
    rows = winners.record(fusion).predictions["test_cells"]
    path = changed(winners, tmp_path, rows, change)
    args = ("predict", winners.ids[fusion], "--store", str(winners.root), path, "-o", str(out))
    code, said, err = invoke(*args, "--json")
    assert code == 0, err
    document = json.loads(said)
    ((source,), frame) = document["shift"]["sources"], pd.read_parquet(out)
    assert source["cells"] == len(frame) == len(rows)
    assert (source["alarm"], bool(source["unlike"])) == (unlike, unlike)
    assert source["score"] == max(source["scores"].values())
    assert (frame["distance"] > 1).sum() == source["far"]
    assert (source["far"] > len(rows) / 2) == unlike
    _, _, err = invoke(*args)
    assert ("Warning: The cells of" in err) == unlike
    assert ("1.00)" if unlike else f"score {source['score']:.2f}") in err


def test_cells_that_it_was_trained_on_are_named(invoke: Invoke, winners: Any, tmp_path: Path) -> None:
    predictions = winners.record("early").predictions
    path = changed(winners, tmp_path, np.arange(60), lambda x: x)
    args = ("predict", winners.ids["early"], "--store", str(winners.root), path, "-o", str(tmp_path / "o.parquet"))
    code, _, err = invoke(*args)
    assert code == 0
    sides = dict.fromkeys(range(60), "training") | dict.fromkeys(predictions["val_cells"], "validation")
    sides |= dict.fromkeys(predictions["test_cells"], "")
    want = [sides[row] for row in range(60)]
    a, b = want.count("training"), want.count("validation")
    assert min(a, b, want.count("")) > 0
    assert list(pd.read_parquet(tmp_path / "o.parquet")["used_for"]) == want
    assert f"{a + b} of 60 cells were used to make this network ({a} for training and {b} for validation" in err


def test_an_older_record_is_compared_where_its_cells_are(invoke: Invoke, winners: Any, tmp_path: Path) -> None:
    shutil.copytree(winners.root, tmp_path / "store")
    stored = tmp_path / "store" / "references" / f"{winners.ids['early']}.npz"
    before = stored.read_bytes()
    args = ("predict", winners.ids["early"], str(winners.cells), "--store", str(tmp_path / "store"))
    args += ("-o", str(tmp_path / "o.parquet"))
    for damage in (stored.unlink, lambda: stored.write_bytes(before[:-40])):
        damage()
        code, _, err = invoke(*args)
        assert code == 0
        assert "or among them, is unknown: The " in err
        assert "is unlike" not in err
        code, _, err = invoke(*args, "--set", f"dataset.path={winners.cells}")
        assert code == 0
        assert " of 96 cells were used to make this network" in err
        assert read_reference(stored, winners.record("early").result.digest).views


def test_outside_means_more_than_a_width_beyond() -> None:
    low, high = outside(np.array([[9.0], [11.0], [29.0], [31.0]]), ((15.0, 20.0),))
    assert low.tolist() == [True, False, False, False]
    assert high.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: Image.fromarray(np.zeros((16, 16), np.uint16)).save(t / "u/a/0.png"), "has 16 bits"),
        (lambda t: Image.new("RGB", (16, 16)).save(t / "u/a/0.png"), "in colour"),
        (lambda t: (t / "u/a/0.png").write_bytes(b"no image"), "is not a readable"),
        (lambda t: (t / "u/a/0.png").write_bytes((t / "u/a/0.png").read_bytes()[:80]), "cannot be decoded"),
        (lambda t: (t / "u/a/0.png").unlink() or (t / "u/a/0.png").mkdir(), ""),
    ],
)
def test_a_cell_that_cannot_be_read_costs_no_other(
    spoil: Callable[[Path], Any], says: str, invoke: Invoke, winners: Any, tree: Path, tmp_path: Path
) -> None:
    """Whether its header tells, or only its pixels; with batches of 5 the others of its batch are answered too."""
    args = ("predict", winners.ids["independent"], "--store", str(winners.root), str(tree), "--batch", "5", "-o")
    assert invoke(*args, str(tmp_path / "whole.parquet"))[0] == 0
    spoil(tree)
    code, out, err = invoke(*args, str(tmp_path / "out.parquet"), "--json")
    assert code == 0, err
    whole, frame = (pd.read_parquet(tmp_path / f"{name}.parquet").set_index("cell") for name in ("whole", "out"))
    if not says:  # no file is called so any more: the cell is one that lacks a modality
        assert frame.loc["a/0", "missing"] == "u"
        return
    assert says in frame.loc["a/0", "error"]
    assert "u/a/0.png" in frame.loc["a/0", "error"]
    assert frame.loc["a/0", "predicted"] == ""
    assert np.isnan(frame.loc["a/0", "confidence"])
    assert frame.loc["a/0", [f"{p}:{c}" for p in ("probability", "u", "v") for c in "abc"]].isna().all()
    others = frame.drop("a/0")
    assert (others["error"] == "").all()
    for prefix in ("probability", "v"):
        np.testing.assert_allclose(
            probabilities(others, prefix), probabilities(whole.drop("a/0"), prefix), atol=1e-6
        )
    document = json.loads(out)
    assert document["errors"]["cells"] == 1
    assert document["labelled"] == document["cells"] - 1 == sum(document["predicted"].values())
    code, out, err = invoke(*args, str(tmp_path / "out.csv"))
    assert code == 0
    assert "1 of 12 cells could not be read" in err
    assert says in err
    assert next(csv.DictReader((tmp_path / "out.csv").open()))["probability:a"] == ""


def test_broken_rows_of_a_manifest_cost_their_cells(predict: Any, tree: Path) -> None:
    rows = ["id,u,v", "one,u/a/0.png,v/a/0.png", "two,,", "three,u/a/0.png", "four,x.png,", f"five,{os.devnull},"]
    (tree / "manifest.csv").write_text("\n".join(rows))
    frame, document = predict("independent", str(tree))
    assert list(frame["error"]) == [
        "", "has no image of u or v", "line 4 has 2 fields, but the header has 3", "x.png does not exist",
        f"{os.devnull} cannot be read (it is a device or a pipe, not a regular file)",
    ]  # fmt: skip
    assert document["errors"]["first"][1]["cell"] == "line 4"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("u,v\n,nan\n", "none of 1 can be read"),
        ("image,label\nx.png,a\n", "images of u, v in"),
        ("u,label\nx.png,a\n", "x.png does not exist\nIf the paths are relative to another folder"),
    ],
)
def test_what_has_no_cell_for_the_network_is_refused(
    content: str, says: str, invoke: Invoke, winners: Any, tree: Path, tmp_path: Path
) -> None:
    (tree / "manifest.csv").write_text(content)
    args = ("predict", winners.ids["early"], "--store", str(winners.root), str(tree))
    code, _, err = invoke(*args, "-o", str(tmp_path / "out.csv"))
    assert code == 2
    assert says in err
    assert not (tmp_path / "out.csv").exists()


def test_a_zip_and_a_manifest_that_starts_in_one_are_the_folder(predict: Any, tree: Path, tmp_path: Path) -> None:
    whole, _ = predict("independent", str(tree))
    for inside in ("", "cells/"):  # as many a zip has it
        path = tmp_path / f"zip{len(inside)}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(tree.rglob("*.png")):
                archive.write(file, f"{inside}{file.relative_to(tree)}")
        frame, document = predict("independent", str(path))
        pd.testing.assert_frame_equal(frame.drop(columns="source"), whole.drop(columns="source"))
        assert document["missing"] == 1
    (tmp_path / "list.csv").write_text("u,v\nu/a/0.png,v/a/0.png\n")
    frame, _ = predict("independent", str(tmp_path / "list.csv"), "--root", str(tmp_path / "zip0.zip"))
    np.testing.assert_allclose(probabilities(frame)[0], probabilities(whole[whole["cell"] == "a/0"])[0], atol=1e-6)


def test_who_answered_is_said(invoke: Invoke, winners: Any, tree: Path, tmp_path: Path) -> None:
    args = ("--store", str(winners.root), str(tree), "-o", str(tmp_path / "out.csv"))
    code, out, _ = invoke("predict", "independent", *args)
    assert code == 0
    assert out.startswith(f"Network: independent, seed 0 (record {winners.ids['independent']}).")
    document = json.loads(invoke("predict", "independent", *args, "--json")[1])
    assert document["seed"] == 0
    assert document["trial_id"] == winners.ids["independent"]


def test_other_arrays_are_refused(invoke: Invoke, winners: Any, tmp_path: Path) -> None:
    cells = {"u": np.zeros((2, 16, 16), np.uint8), "v": np.zeros((2, 16, 16), np.uint8)}
    for change, says in (
        ({"v": np.zeros((2, 16, 16), np.uint16)}, "as uint8, as in training"),
        ({"v": np.zeros((3, 16, 16), np.uint8)}, "equal numbers of images"),
        ({"v": np.zeros((2, 16, 16, 3), np.uint8)}, "with 1 channels"),
    ):
        np.savez(tmp_path / "x.npz", **(cells | change))
        args = ("predict", winners.ids["early"], "--store", str(winners.root), str(tmp_path / "x.npz"))
        code, _, err = invoke(*args, "-o", str(tmp_path / "out.csv"))
        assert code == 2
        assert says in err
    code, _, err = invoke(*args[:-1], str(tmp_path / "nothing"), "-o", str(tmp_path / "out.txt"))
    assert code == 2
    assert ".csv or .parquet" in err


def test_explained_cells_are_pictures(predict: Any, winners: Any, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    folder = tmp_path / "looks"
    predict("stacking", str(winners.cells), "--explain", "2", str(folder))
    rows = list(csv.DictReader((folder / "explained.csv").open()))
    assert [(r["cell"], r["u_by"]) for r in rows] == [("row 0", "grad-cam"), ("row 95", "grad-cam")]
    with Image.open(folder / rows[0]["file"]) as picture:
        assert picture.size[1] > 300
    assert len(list(folder.iterdir())) == 3


def test_a_picture_has_the_true_class_and_a_key(tmp_path: Path) -> None:
    source = SimpleNamespace(labels=("a", "b", "", "z"))
    answers: Any = SimpleNamespace(source=source, probabilities=np.tile([0.7, 0.3], (4, 1)))
    assert [_said(answers, row, ("a", "b")) for row in range(4)] == [
        "predicted a 0.70, correct", "predicted a 0.70, true b 0.30", "predicted a 0.70",
        "predicted a 0.70, true z (not one of its classes)",
    ]  # fmt: skip
    key = np.asarray(_key(0.2, {"occlusion", "grad-cam"}, 400))
    assert key.shape == (2 * _LINE, 400, 3)  # a line for each
    bar = key[_LINE // 2, _GAP + 12 : _GAP + 12 + TILE].astype(int)
    assert bar[0].tolist() == [128, 128, 128]  # nothing over the image
    assert bar[-1, 0] > 200 > bar[-1, 2]  # yellow


def test_maps_are_of_one_modality_and_follow_what_is_seen(winners: Any) -> None:
    pytest.importorskip("captum")
    images = {m: torch.full((1, 1, 16, 16), 30, dtype=torch.uint8) for m in "uv"}
    images["u"][:, :, :8, :8] = 220
    early = explain(winners.rebuilt("early").network, images, torch.tensor([2]))
    assert {e.how for e in early.values()} == {"occlusion"}
    assert early["u"].maps.shape == (1, 16, 16)
    # Hiding a bright corner changes the answer more than hiding a dark one.
    assert abs(early["u"].maps[0, :8, :8]).mean() > abs(early["u"].maps[0, 8:, 8:]).mean()
    stacking = winners.rebuilt("stacking").network
    seen = {m: stacking.normaliser(m, x) for m, x in images.items()}
    layers = {m: own_layer(stacking, seen, m) for m in "uv"}
    assert layers["u"] is stacking.body.networks.backbones["u"].stages[2]
    assert layers["v"] is stacking.body.networks.backbones["v"].stages[2]


def test_without_captum_explain_says_what_to_install(
    invoke: Invoke, winners: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "captum.attr", None)
    code, _, err = invoke(
        "predict", winners.ids["early"], "--store", str(winners.root), str(winners.cells),
        "-o", str(tmp_path / "out.csv"), "--explain", "1", str(tmp_path / "looks"),
    )  # fmt: skip
    assert code == 2
    assert "wbcbench[explain]" in err
    assert not (tmp_path / "looks").exists()
