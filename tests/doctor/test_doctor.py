"""Each kind of trouble is found, named, and given a remedy; a sound place has none."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import wbcbench
from wbcbench import doctor
from wbcbench.doctor import examine
from wbcbench.records.store import Store
from wbcbench.registry.loading import PluginOptions
from wbcbench.testing.records import fake_record, fake_trial

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _plain_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("WBCBENCH_") and n != "WBCBENCH_CACHE"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(metadata, "requires", lambda name: ["click>=8", "onnx>=1; extra == 'export'"])
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "onnx" else "99")


def test_a_sound_place_has_no_problem(invoke: Invoke, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    fake_record(store, fake_trial(0))
    code, out, _ = invoke("doctor", "--store", str(store.root), "--json")
    document = json.loads(out)
    assert [f for f in document["findings"] if f["state"] == "problem"] == []
    assert code == 0
    about = {f["about"] for f in document["findings"]}
    assert about >= {
        "Python",
        "packages",
        "plugins",
        "variables",
        "processor",
        "GPU",
        "memory",
        "Ray",
        "store",
        "cache",
    }
    assert any("1 records" in f["text"] for f in document["findings"])
    code, out, _ = invoke("doctor", "--store", str(store.root))
    assert out.endswith("No problems.\n")


def test_every_problem_has_a_remedy(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    record = fake_record(store, fake_trial(0))
    (record.path / "result.json").write_text("{")
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "broken.py").write_text("from wbcbench import hookimpl\nraise RuntimeError('no')\n")
    monkeypatch.setenv("WBCBENCH_FUSON", "early")
    code, out, _ = invoke(
        "doctor", "--store", str(store.root), "--plugins-dir", str(tmp_path / "plugins"), "--json"
    )
    assert code == 1
    problems = [f for f in json.loads(out)["findings"] if f["state"] == "problem"]
    assert all(f["fix"] for f in problems)
    texts = {f["about"]: f["text"] for f in problems}
    assert "WBCBENCH_FUSION" in texts["variables"], "did you mean"
    assert record.trial.id in texts["store"]
    assert "broken" in texts["plugins"]


def test_a_flipped_bit_is_found_unless_it_is_to_be_quick(invoke: Invoke, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for seed, name in enumerate(("predictions.npz", "model.safetensors")):
        path = fake_record(store, fake_trial(seed)).path / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    code, out, _ = invoke("doctor", "--store", str(store.root))
    assert code == 1
    assert "predictions.npz" in out
    assert "model.safetensors" in out
    assert "digests checked in" in out
    (store.root / "references").mkdir()
    reference = store.root / "references" / f"{fake_record(store, fake_trial(2)).trial.id}.npz"
    reference.write_bytes(b"PK")
    _, out, _ = invoke("doctor", "--store", str(store.root), "--quick")
    assert f"delete {reference}" in " ".join(out.split())
    reference.unlink()
    code, out, _ = invoke("doctor", "--store", str(store.root), "--quick")
    assert code == 0
    assert "3 records" in out
    assert "digests not checked (--quick)" in out


def test_packages_that_are_missing_old_or_do_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"click": "7.0", "rich": None, "numpy": "2.0"}
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["click>=8", "rich>=13", "numpy>=1.26", "x; extra == 't'"]
    )
    monkeypatch.setattr(doctor, "version_of", lambda name: have.get(name, "1"))
    monkeypatch.setattr(doctor, "IMPORTED", ("no_such_module_of_torch",))
    found = [f for f in doctor.packages() if f.state == "problem"]
    assert [f.fix for f in found[:2]] == ["pip install 'click>=8'", "pip install 'rich>=13'"]
    assert "does not load" in found[2].text
    assert len(found) == 3

    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    monkeypatch.setattr(metadata, "distribution", absent)
    monkeypatch.chdir(Path(wbcbench.__file__).parents[1])
    (found_one,) = doctor.packages()
    assert found_one.fix == "pip install -e ."


def test_every_remedy_installs_wbcbench_from_where_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["click>=8", *(f"{name}>=1; extra == '{name}'" for name in ("bsccm", "export", "explain"))]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(doctor, "version_of", lambda name: "99" if name in ("click", "wbcbench") else None)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    for url, extras, whole in (
        ({"url": tmp_path.as_uri(), "dir_info": {"editable": True}},
         f"-e '{tmp_path}[bsccm,explain,export]'", f"-e {tmp_path}"),
        ({"url": tmp_path.as_uri(), "dir_info": {}}, f"'{tmp_path}[bsccm,explain,export]'", f"{tmp_path}"),
        ({}, "'wbcbench[bsccm,explain,export]'", "wbcbench"),
    ):  # fmt: skip
        given = SimpleNamespace(read_text=lambda name, url=url: json.dumps(url) if url else None)
        monkeypatch.setattr(metadata, "distribution", lambda name, given=given: given)
        (found,) = doctor.extras()
        assert found.fix == f"pip install {extras}", "all that are missing, not one of them"
        (found,) = doctor.python()
        assert found.fix == f"python3 -m venv .venv && .venv/bin/pip install {whole}"


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = doctor.gpu()
    assert "finds no GPU" in found.text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (found,) = doctor.gpu()
    assert found.fix == "unset CUDA_VISIBLE_DEVICES"


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 9, 2**20))
    found = list(doctor.stored_records(tmp_path / "store"))
    assert [f.state for f in found] == ["problem", "ok"]
    assert "1 MiB" in found[0].text
    assert any("shared memory" in f.text for f in doctor.ray_needs()) or not Path("/dev/shm").is_dir()


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    found = list(doctor.stored_records(tmp_path / "file" / "store"))
    assert found[0].state == "problem"
    assert "is a file" in found[0].text


def test_what_was_interrupted_or_failed_is_told(tmp_path: Path) -> None:
    root = tmp_path / "store"
    for name in ("work/0123456789abcdef", "failures"):
        (root / name).mkdir(parents=True)
    (root / "failures" / "0123456789abcdef.json").write_text("{}")
    found = [f for f in doctor.stored_records(root) if f.state == "note"]
    assert len(found) == 2
    assert all("again" in f.fix for f in found)


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(doctor, "memory", broken)
    found = examine(tmp_path / "store", PluginOptions())
    assert any(f.state == "problem" and "broken on purpose" in f.text for f in found)
