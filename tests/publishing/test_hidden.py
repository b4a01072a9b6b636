"""A hidden test: labels that the public file does not have, predictions scored on them, looks that are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wbcbench.contracts.dataset import Cells
from wbcbench.errors import UsageError
from wbcbench.publishing.hidden import LOOKS, PUBLIC, SEALED, Sealed, hide
from wbcbench.publishing.pack import write_pack
from wbcbench.records.store import Record, Store
from wbcbench.spec import SplitSpec
from wbcbench.testing.records import CLASSES, fake_predictions, fake_record, fake_trial

Invoke = Callable[..., tuple[int, str, str]]
HIDDEN = 60


def cells(**changes: object) -> Cells:
    """Half of them test cells, each of whose images is its number."""
    count = 2 * HIDDEN
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), dtype=np.uint8)
    given = {
        "images": {"dapi": images, "bf": images + 1},
        "labels": np.arange(count) // 4 % 3,
        "classes": CLASSES,
        "fingerprint": "f" * 16,
        "split": np.array(["train", "val", "test", "test"])[np.arange(count) % 4],
    }
    return Cells(**given | changes)  # type: ignore[arg-type]


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    assert hide(cells(), SplitSpec(), tmp_path / "hidden") == (2 * HIDDEN, HIDDEN)
    return tmp_path / "hidden"


def _sealed(folder: Path) -> Sealed:
    return Sealed.model_validate_json((folder / SEALED).read_bytes())


def _record(store: Store, folder: Path, right: float, fusion: str = "mine", **changes: object) -> Record:
    """Predictions made from the public file, of which this share is right on the hidden labels."""
    sealed = _sealed(folder)
    truth = np.array(sealed.labels)
    said = np.where(np.arange(HIDDEN) < right * HIDDEN, truth, (truth + 1) % 3)
    arrays = fake_predictions(3) | {
        "test_probabilities": np.eye(3, dtype=np.float32)[said] * np.float32(0.7) + np.float32(0.1),
        "test_labels": np.array(sealed.public, dtype=np.int64),
        "test_cells": np.array(sealed.cells, dtype=np.int64),
    }
    return fake_record(store, fake_trial(fusion=fusion), predictions=arrays | changes)


def test_the_public_file_has_every_cell_and_no_test_label(test_set: Path) -> None:
    sealed, original = _sealed(test_set), cells()
    with np.load(test_set / PUBLIC, allow_pickle=False) as file:
        public = {name: file[name] for name in file.files}
    assert set(public) == {"dapi", "bf", "label", "split", "classes"}
    order = public["dapi"][:, 0, 0, 0]  # the number of each cell
    assert sorted(order) == list(range(2 * HIDDEN))
    assert not np.array_equal(order, np.sort(order)), "rows are shuffled"
    test = np.flatnonzero(public["split"] == "test")
    assert tuple(test) == sealed.cells
    assert tuple(original.labels[order[test]]) == sealed.labels
    assert tuple(public["label"][test]) == sealed.public
    assert np.mean(np.array(sealed.public) == sealed.labels) < 0.8, "they are drawn, not copied"
    rest = public["split"] != "test"
    assert np.array_equal(public["label"][rest], original.labels[order[rest]])


@pytest.mark.parametrize(
    ("made", "split", "why"),
    [
        (cells(), SplitSpec(scheme="kfold"), "Expected one division"),
        (cells(present=np.arange(240).reshape(120, 2) > 0), SplitSpec(), "Expected cells with every modality"),
    ],
)
def test_what_cannot_be_hidden(tmp_path: Path, made: Cells, split: SplitSpec, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        hide(made, split, tmp_path / "hidden")
    (tmp_path / "hidden").mkdir()
    with pytest.raises(UsageError, match="Expected a new folder"):
        hide(cells(), SplitSpec(), tmp_path / "hidden")


def test_packs_are_scored_and_looks_are_counted(
    store: Store, test_set: Path, tmp_path: Path, invoke: Invoke
) -> None:
    def look(record: Record) -> tuple[int, dict[str, object], str]:
        pack = tmp_path / f"{record.result.fusion}.zip"
        write_pack([record], pack)
        sealed = ("--sealed", str(test_set / SEALED))
        code, out, err = invoke("leaderboard", "verify", str(pack), *sealed, "--json")
        return code, json.loads(out) if out else {}, err

    good, bad = (_record(store, test_set, share, fusion) for share, fusion in ((0.9, "good"), (0.1, "bad")))
    for record, accuracy, looks in ((good, 0.9, 1), (bad, 0.1, 2), (good, 0.9, 2)):
        code, document, err = look(record)
        assert code == 0, err
        assert document["hidden"][record.trial.id]["accuracy"] == pytest.approx(accuracy)  # type: ignore[index]
        assert record.result.metrics["test"]["accuracy"] != pytest.approx(accuracy), "on the random labels"
        assert f"{looks} packs have been scored" in str(document["notes"])
    assert len(json.loads((test_set / LOOKS).read_text())["looks"]) == 2

    public = np.array(_sealed(test_set).public, dtype=np.int64)
    other = _record(store, test_set, 0.9, "other", test_labels=np.roll(public, 1))
    code, document, _ = look(other)
    assert (code, document["hidden"]) == (3, {})
    assert "was not made from the public file" in str(document["findings"])
    assert len(json.loads((test_set / LOOKS).read_text())["looks"]) == 2, "it was not scored"
    (test_set / SEALED).write_text("{}")
    code, _, err = look(good)
    assert (code, "Expected sealed.json of a hidden test" in err) == (2, True)


def test_on_the_command_line(cells_file: Path, tmp_path: Path, invoke: Invoke) -> None:
    to = tmp_path / "hidden"
    data = ("--set", f"dataset.path={cells_file}", "--set", "dataset.modalities.u=[0]")
    code, out, err = invoke("leaderboard", "hide", "--dataset", "npz", *data, "--to", str(to))
    assert code == 0, err
    assert "the labels of 30 test cells" in out
    flags = ("--set", f"dataset.path={to / PUBLIC}", "--set", "dataset.modalities.u=u")
    code, out, err = invoke("run", "--dataset", "npz", *flags, "--fusion", "early", "--kd", "none", "--dry-run")
    assert code == 0, err
