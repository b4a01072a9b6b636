"""A distiller that needs more than stored outputs: stage maps, trainable adapters, a live teacher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from wbcbench.boards.build import build
from wbcbench.records.store import Store

NUDGE = '''"""Mean squared distance of the last stage maps, through a trained 1x1 convolution."""
import torch.nn.functional as F
from torch import nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, param


class Nudge(Distiller):
    """Match the teacher's last map."""

    name = "nudge"
    needs = Needs(student=("maps",), teacher=("maps",), trainable=True)

    class Params(DistillerParams):
        power: float = param(2.0, "Exponent of the distance.", gt=0)

    def setup(self, pair):
        self.adapter = nn.Conv2d(pair.student_maps[-1][0], pair.teacher_maps[-1][0], 1)
        assert pair.teacher_maps[-1][1:] == (4, 4), pair.teacher_maps

    def terms(self, student, teacher, progress):
        mine = F.adaptive_avg_pool2d(self.adapter(student.maps[-1]), teacher.maps[-1].shape[-2:])
        return {"nudge": (mine - teacher.maps[-1]).abs().pow(self.params.power).flatten(1).mean(1)}
'''

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "nudge.py").write_text(NUDGE)
    return str(folder)


def test_stage_maps_come_from_a_live_teacher_and_the_record_says_so(
    train: Train, plugins: str, tmp_path: Path
) -> None:
    live = ("--set", "replay_maps_gb=0")
    document = train("--plugins-dir", plugins, "--kd", "none,nudge", "--fusion", "independent,early,late", *live)
    students = [r for r in document["records"] if r["role"] == "student"]
    assert all(s["status"] == "done" for s in students)
    taught = [s for s in students if s["kd"] != "none"]
    assert [s["cost"]["teacher_replayed"] for s in taught] == [False] * 3
    for student in taught:
        record = Store(tmp_path / "store").load(student["trial_id"])
        assert any("live" in note and "nudge" in note for note in record.result.notes)
        used = {c.name: c for c in record.result.components}
        assert used["nudge"].provider == "local.nudge"
        assert used["nudge"].sha256
        with safe_open(Path(student["path"]) / "model.safetensors", framework="np") as file:
            assert not [k for k in file.keys() if "adapter" in k], "adapters are no part of the student"  # noqa: SIM118
    plain = {s["fusion"]: s for s in students if s["kd"] == "none"}
    for student in taught:
        assert student["cost"]["params"] == plain[student["fusion"]]["cost"]["params"]
        assert student["digest"] != plain[student["fusion"]]["digest"]


def test_stage_maps_that_fit_are_stored_once_and_give_the_same_student(
    train: Train, plugins: str, tmp_path: Path
) -> None:
    args = ("--plugins-dir", plugins, "--kd", "nudge", "--fusion", "independent,early")
    stored = train(*args, store="stored")
    live = train(*args, "--set", "replay_maps_gb=0", store="live")
    for a, b in zip(stored["records"], live["records"], strict=True):
        if a["role"] == "student":
            assert (a["cost"]["teacher_replayed"], b["cost"]["teacher_replayed"]) == (True, False)
            p, q = (np.load(Path(r["path"]) / "predictions.npz")["test_probabilities"] for r in (a, b))
            assert np.allclose(p, q, atol=5e-3), "half precision of stored maps"
    files = sorted((tmp_path / "stored" / "replay").rglob("map*.npy"))
    assert len(files) == 2 * 2 * 3  # teachers x epochs x stages
    stamps = [f.stat().st_mtime_ns for f in files]
    train(*args, "--seeds", "0", "--set", "kd.power=1", store="stored")
    assert [f.stat().st_mtime_ns for f in files] == stamps, "another student of the stream reads them back"
    files[0].write_bytes(files[0].read_bytes()[:-8])
    again = train(*args, "--set", "kd.power=1.5", store="stored")
    assert {r["status"] for r in again["records"] if r["role"] == "student"} == {"done"}, "a broken one is fixed"


def test_a_teacher_with_an_image_side_of_its_own(train: Train, tmp_path: Path) -> None:
    """Its answers, stored or live, are for what the student sees, and its student stays on the student's board."""
    args = ("--fusion", "independent", "--kd", "logits", "--epochs", "2", "--set", "teacher.image_size=24")
    stored, live = train(*args, store="stored"), train(*args, "--set", "replay=never", store="live")
    for a, b in zip(stored["records"], live["records"], strict=True):
        p, q = (np.load(Path(r["path"]) / "predictions.npz")["test_probabilities"] for r in (a, b))
        assert np.allclose(p, q, atol=1e-4)
    train("--fusion", "independent", "--kd", "logits", "--epochs", "2", store="stored")
    records = [Store(tmp_path / "stored").load(p.name) for p in (tmp_path / "stored" / "records").iterdir()]
    sides = sorted((bool(r.result.teachers), r.result.key.image_size) for r in records)
    assert sides == [(False, 16)] * 2 + [(False, 24)] * 2 + [(True, 16)] * 2
    students = [r for r in records if r.result.teachers]
    assert len({r.result.key.digest for r in students}) == 1
    assert len({r.result.method_id for r in students}) == 2
    board = next(b for b in build([tmp_path / "stored"]) if len(b.rows) > 1)
    names = {row.name for row in board.rows if row.kd == "logits"}
    assert names == {f"independent + logits (rho=0.5, teacher image_size={side})" for side in (16, 24)}
    assert len(list((tmp_path / "stored" / "replay").iterdir())) == 4, "two teachers at each of two sides"


def test_the_same_run_twice_trains_the_same_adapters(train: Train, plugins: str) -> None:
    args = ("--plugins-dir", plugins, "--kd", "nudge", "--fusion", "early")
    a, b = (train(*args, store=s)["records"][-1]["digest"] for s in ("a", "b"))
    assert a == b


def test_a_plugin_that_raises_fails_its_trial_only(train: Train, plugins: str, tmp_path: Path) -> None:
    (Path(plugins) / "bad.py").write_text(
        NUDGE.replace("nudge", "bad").replace("return {", "1 / 0\n        return {")
    )
    document = train("--plugins-dir", plugins, "--kd", "bad,logits", "--fusion", "early", code=1)
    status = {r["kd"]: r for r in document["records"] if r["role"] == "student"}
    assert status["logits"]["status"] == "done"
    (bad,) = [r for kd, r in status.items() if kd.endswith("bad")]
    assert bad["status"] == "failed"
    assert "ZeroDivisionError" in bad["error"]
    noted = json.loads((tmp_path / "store" / "failures" / f"{bad['trial_id']}.json").read_text())
    assert "ZeroDivisionError" in noted["error"]


def test_a_damaged_teacher_is_named_and_fails_its_students_only(train: Train, tmp_path: Path) -> None:
    first = train("--fusion", "single", "--backbone", "cellnet:width=6")
    weights = Path(first["records"][0]["path"]) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    document = train("--fusion", "early", "--kd", "none,logits", code=1)
    status = {(r["role"], r["kd"]): r for r in document["records"]}
    assert status["student", "none"]["status"] == "done"
    assert status["student", "logits"]["status"] == "failed"
    failed = [r for r in document["records"] if r["role"] == "teacher" and r["status"] == "failed"]
    assert "model.safetensors" in failed[0]["error"]
    assert "Traceback" not in failed[0]["error"]


def test_weights_from_a_local_file_and_never_from_the_net(train: Train, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    net = timm.create_model("test_convnext", in_chans=2, num_classes=0)
    save_file(net.state_dict(), str(tmp_path / "w.safetensors"))
    base = ("--fusion", "early", "--epochs", "1", "--image-size", "32", "--set", "training.lr=1e-9")
    backbone = f"test_convnext:checkpoint={tmp_path / 'w.safetensors'}"
    document = train(*base, "--backbone", f"test_convnext,{backbone}")
    assert document["records"][0]["digest"] != document["records"][1]["digest"]
    record = Store(tmp_path / "store").load(document["records"][1]["trial_id"])
    mine, original = record.weights(), net.state_dict()
    key = next(k for k in original if k.endswith("weight") and original[k].ndim == 4)
    assert (mine[f"backbone.net.{key}"] - original[key]).abs().max() < 1e-4
    save_file({k: v + 0 * v for k, v in net.state_dict().items()}, str(tmp_path / "w.safetensors"))
    assert train(*base, "--backbone", backbone)["records"][0]["status"] == "cached", "the same bytes"
    save_file({k: v * 2 for k, v in net.state_dict().items()}, str(tmp_path / "w.safetensors"))
    assert train(*base, "--backbone", backbone)["records"][0]["status"] == "done", "other content, other trial"
    missing = train(*base, "--backbone", "test_convnext:checkpoint=nowhere.safetensors", code=2)
    assert "nowhere.safetensors" in missing["stderr"]
    document = train(*base, "--backbone", "resnet18:pretrained=true", code=2)
    assert "not in timm's cache" in document["stderr"]
