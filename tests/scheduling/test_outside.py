"""Teachers from outside: what a file of answers must be, what it teaches, and how its students are marked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wbcbench
from wbcbench.data.answers import FLOOR, read_answers, rows_of
from wbcbench.errors import DataError, RecordError, UsageError
from wbcbench.publishing.pack import write_pack
from wbcbench.records.schema import OutsideTeacher, Result
from wbcbench.records.verify import check_identity, check_ranges
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.spec import Trial
from wbcbench.spec.load import load_request
from wbcbench.spec.trial import Outside
from wbcbench.testing.records import fake_outcome, fake_predictions, fake_trial, write_cells
from wbcbench.training.teachers import FileTeacher
from wbcbench.training.workbench import Answers

REGISTRY, _ = load_plugins()
CLASSES = ("a", "b", "c")
CELLS = 60


def answers(path: Path, **changes: Any) -> Path:
    """Sure and right answers for `write_cells`, of which `changes` replaces or (None) removes arrays."""
    p = np.full((CELLS, 3), 0.05)
    p[np.arange(CELLS), np.arange(CELLS) % 3] = 0.9
    arrays = {"ids": np.arange(CELLS), "classes": np.array(CLASSES), "probabilities": p, **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def planned(teacher: Any, *settings: str, **flags: Any) -> Plan:
    given = {"fusion": "early", "modalities": "brightfield,nucleus", "kd": "logits", "teacher": teacher, **flags}
    return make_plan(load_request(None, given, ("dataset.cells=60", "dataset.image_size=16", *settings)), REGISTRY)


def synthetic(path: Path, **changes: Any) -> str:
    """A file of answers for the classes of the data set `synthetic`, as `--teacher` takes it."""
    classes = np.array(["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"])
    given = {
        "ids": np.arange(60),
        "classes": classes,
        "probabilities": None,
        "logits": np.zeros((60, 5)),
        **changes,
    }
    return f"file:{answers(path, **given)}"


HALF = np.full((CELLS, 3), 0.5)
NAN = np.where(np.eye(CELLS, 3) > 0, np.nan, 1.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ids": None}, r"expected the array 'ids'"),
        ({"classes": np.array(["a", "b", "B"])}, r"classes of the data set \(a, b, c\).*lacks c and has B"),
        ({"classes": np.array(["a", "b", "b"])}, r"each of classes once, but 'b' is there twice"),
        ({"ids": np.zeros(CELLS, int)}, r"each of ids once, but '0'"),
        ({"ids": np.arange(CELLS) / 2}, r"text or whole numbers, but got float64"),
        ({"probabilities": HALF}, r"sum to 1, but those of '0' are \[0\.5 0\.5 0\.5\]"),
        ({"probabilities": HALF - 1 / 6 - np.array([1, -1, 0])}, r"not negative"),
        ({"probabilities": NAN}, r"finite probabilities, but row 0"),
        ({"probabilities": HALF[:-1]}, r"N = 60, as ids have, but got float64\[59, 3\]"),
        ({"probabilities": HALF[:, :2]}, r"of 3 classes, but got 2"),
        ({"probabilities": None}, r"logits or probabilities, but got neither"),
        ({"logits": HALF}, r"but got logits and probabilities"),
        ({"probabilities": None, "logits": HALF * 1e300}, r"finite logits"),
        ({"embedings": HALF}, r"called 'embedings'\. Did you mean 'embeddings'"),
        ({"embeddings": np.ones((CELLS, 2, 4))}, r"embeddings of 1 views"),
        ({"name": "<b>"}, r"expected `name`"),
        ({"split": np.array(["train"])}, r"expected split as train, val or test for each of the 60"),
        ({"ids": np.array([object()] * CELLS)}, r"never unpickled"),
    ],
)
def test_a_file_that_cannot_teach_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        read_answers(answers(tmp_path / "a.npz", **changes), CLASSES)


def test_no_file_and_no_npz(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not a zip")
    for name, says in (("a.npz", "cannot be read"), ("b.npz", "is not a file"), ("", "is not a file")):
        with pytest.raises(DataError, match=says):
            read_answers(tmp_path / name, CLASSES)


def test_classes_are_ordered_by_name_and_views_take_turns(tmp_path: Path) -> None:
    logits = np.arange(CELLS * 2 * 3, dtype=np.float64).reshape(CELLS, 2, 3)
    ids = np.arange(CELLS)[::-1]
    order = np.array(["c", "a", "b"])
    path = answers(
        tmp_path / "a.npz", classes=order, probabilities=None, logits=logits, ids=ids, embeddings=logits[:, 0]
    )
    file = read_answers(path, CLASSES)
    train = np.array([3, 7])
    (trial,) = [p.trial for p in planned(synthetic(tmp_path / "s.npz")).trials]
    teacher = FileTeacher(
        Answers(trial.method.outside[0], file, rows_of(file, None, CELLS, train)), torch.from_numpy(train)
    )
    for epoch in (0, 1, 2):
        out = teacher.epoch(epoch)
        for i, cell in enumerate(train):
            row = logits[CELLS - 1 - cell]
            assert out.logits[i].tolist() == row[(epoch + cell) % 2][[1, 2, 0]].tolist()
            assert out.embedding is not None
            assert out.embedding[i].tolist() == row[0].tolist()


def test_zero_is_not_an_infinite_logit(tmp_path: Path) -> None:
    hard = np.eye(3)[np.arange(CELLS) % 3]
    assert read_answers(answers(tmp_path / "a.npz", probabilities=hard), CLASSES).logits.min() == pytest.approx(
        np.log(FLOOR)
    )


def test_the_trial_holds_the_content_and_no_path(tmp_path: Path) -> None:
    first, copy = synthetic(tmp_path / "one.npz", name="forest"), synthetic(tmp_path / "two.npz", name="forest")
    other = synthetic(tmp_path / "three.npz", logits=np.ones((60, 5)))
    one, two, three = ([p.trial for p in planned(f).trials] for f in (first, copy, other))
    assert [len(t) for t in (one, two, three)] == [1, 1, 1]
    assert one[0].id == two[0].id != three[0].id
    text = one[0].model_dump_json()
    assert "one.npz" not in text
    assert Trial.model_validate_json(text).id == one[0].id
    method = one[0].method
    assert (method.teachers, method.outside[0].name, method.outside[0].reads) == (
        (),
        "forest",
        ("brightfield", "nucleus"),
    )


def test_one_modality_may_be_taught_from_outside(tmp_path: Path) -> None:
    file = synthetic(tmp_path / "a.npz")
    (teacher, student) = (
        p.trial for p in planned(f"brightfield={file},nucleus=cellnet:width=6", fusion="late_prob").trials
    )
    assert teacher.reads == ("nucleus",)
    assert student.method.taught_for == [("nucleus",), ("brightfield",)]


@pytest.mark.parametrize(
    ("flags", "settings", "says"),
    [
        ({"kd": "at"}, (), "needs the teacher's stage maps"),
        ({"kd": "simkd"}, (), "needs the teacher's (classifier|stage maps)"),
        ({"kd": "rkd"}, (), "needs the teacher's embeddings.*Add the array embeddings"),
        ({"kd": "logits", "routing": "assistant"}, (), "A chain is of teachers that are trained"),
        ({}, ("teacher.epochs=3",), "teacher.epochs has no effect"),
        ({"backbone": "file:x.npz"}, (), "names a teacher's answers. Give it with --teacher"),
        (
            {"teacher": "brightfield=FILE,nucleus=cellnet"},
            ("teacher.fusion=early",),
            "cannot replace the backbone",
        ),
    ],
)
def test_refused_while_planning(
    flags: dict[str, Any], settings: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    file = synthetic(tmp_path / "a.npz")
    teacher = flags.pop("teacher", "FILE").replace("FILE", file)
    with pytest.raises(UsageError, match=says):
        planned(teacher, *settings, **flags)


def test_embeddings_teach_distillers_of_embeddings(tmp_path: Path) -> None:
    file = synthetic(tmp_path / "a.npz", embeddings=np.ones((60, 8)))
    (trial,) = [p.trial for p in planned(file, kd="rkd").trials]
    assert trial.method.outside[0].embedding == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"digest": "0" * 64}, "not those of spec.json"),
        ({"trained_on": {}}, "on other sides than"),
        ({"answered": {"train": 1}}, "on other sides than"),
        ({"metrics": {"test": {"macro_f1": 1.0}}}, "has metrics"),
    ],
)
def test_a_record_that_states_another_teacher_is_refused(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    base, arrays = fake_trial(kd="logits"), fake_predictions()
    teacher = Outside(name="forest", digest="1" * 64, reads=base.reads)
    method = base.method.model_copy(update={"outside": (teacher,)})
    trial = Trial(protocol=base.protocol, method=method, seed=0)
    sides = dict.fromkeys(("train", "val", "test"), 1)
    stated = {"name": "forest", "digest": "1" * 64, "answered": sides, "trained_on": None, "metrics": {}}

    def checked(more: dict[str, Any]) -> None:
        told = OutsideTeacher.model_validate({**stated, **more})
        outcome = fake_outcome(trial, arrays).model_copy(update={"outside": [told]})
        files = dict.fromkeys(("predictions.npz", "model.safetensors"), "")
        result = Result.build(trial, outcome, files)
        folder = tmp_path / trial.id
        check_identity(folder, trial, result)
        check_ranges(folder, result)

    checked({})
    with pytest.raises(RecordError, match=says):
        checked(change)


def test_taught_marked_published_and_not_trained_again_without_the_file(
    tmp_path: Path, invoke: Callable[..., tuple[int, str, str]]
) -> None:
    cells, store = write_cells(tmp_path / "cells.npz", cells=CELLS), tmp_path / "store"
    where = {"dataset.path": str(cells), "dataset.modalities.u": [0], "dataset.modalities.v": [1], "threads": 1}
    common: dict[str, Any] = {
        "fusion": "early", "dataset": "npz", "backbone": "cellnet:width=4", "epochs": 2, "device": "cpu",
        "store": store, "set": where, "progress": False,
    }  # fmt: skip
    short = answers(tmp_path / "short.npz", ids=np.arange(CELLS) + 20)
    with pytest.raises(DataError, match=r"answers for all \d+ training cells, but \d+ have none"):
        wbcbench.run(kd="logits", teacher=f"file:{short}", **common)
    path = answers(tmp_path / "forest.npz", name="forest", embeddings=np.ones((CELLS, 4)))
    (untaught,) = wbcbench.run(kd="none", **common).records
    silent, relational = wbcbench.run(kd="logits,rkd", teacher=f"file:{path}", **common).records
    test = silent.predictions["test_cells"]
    honest = answers(tmp_path / "honest.npz", name="honest", train_ids=np.setdiff1d(np.arange(CELLS), test))
    seen = answers(tmp_path / "seen.npz", name="seen", train_ids=test[:2])
    for file in (honest, seen):
        wbcbench.run(kd="logits", teacher=f"file:{file}", **common)
    (told,) = silent.result.outside
    assert (told.name, told.trained_on, told.answered["test"]) == ("forest", None, len(test))
    assert told.metrics["test"]["accuracy"] == 1.0
    assert silent.result.pulls["logits"].weight != 0
    assert not np.array_equal(silent.predictions["test_probabilities"], untaught.predictions["test_probabilities"])
    assert relational.result.cost.teacher_replayed

    board = wbcbench.leaderboard(store=store).boards[0]
    assert {r.name for r in board.rows} >= {"early + logits < forest", "early + logits < honest", "early"}
    notes = " ".join(board.notes)
    (unknown,) = [n for n in board.notes if "does not state its training cells" in n]
    assert "early + logits < forest" in unknown
    assert "honest" not in unknown
    assert "saw no test cell: early + logits < honest" in notes
    assert "early + logits < seen (seen: 2 cells)" in notes

    pack = tmp_path / "pack.zip"
    write_pack([silent], pack)
    verify = ("leaderboard", "verify", str(pack))
    code, out, err = invoke(*verify, "--json")
    (found,) = [f for f in json.loads(out)["findings"] if f["check"] == "pack.teachers"]
    assert "nothing here can check how its answers were made" in found["text"], err
    again = (*verify, "--rerun", "--device", "cpu", "--set", f"dataset.path={cells}")
    code, out, err = invoke(*again)
    assert code == 2, out
    assert "which no pack contains" in err
    code, out, err = invoke(*again, "--set", f"teacher=file:{path}")
    assert "bitwise equal predictions" in out, err
