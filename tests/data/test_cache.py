"""The cache: digests and arrays are made once, broken entries are made anew, no cache is no failure."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wbcbench.data import cache


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "file").write_text("a file where the cache's folder should be")
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path / "file" / "cache"))
    return tmp_path / "file" / "cache"


def counted(arrays: dict[str, np.ndarray]) -> tuple[Callable[[], dict[str, np.ndarray]], list[int]]:
    calls: list[int] = []

    def build() -> dict[str, np.ndarray]:
        calls.append(1)
        return arrays

    return build, calls


ARRAYS = {"bf": np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4), "wide": np.full((3, 2), 60000, np.uint16)}


def test_the_root_is_the_variable_or_the_users_cache_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_root() == root
    monkeypatch.delenv("WBCBENCH_CACHE")
    assert "wbcbench" in cache.cache_root().parts[-1]


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"one")
    first = cache.file_digest(file)
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    with monkeypatch.context() as patch:
        patch.setattr(cache.hashlib, "file_digest", lambda *_: pytest.fail("was read again"))
        assert cache.file_digest(file) == first
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert cache.file_digest(file) != first


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"x": 3}', b"\xff\xfe"])
def test_a_corrupt_index_is_an_empty_one(root: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(b"one")
    first = cache.file_digest(tmp_path / "a")
    (root / "digests.json").write_bytes(content)
    assert cache.file_digest(tmp_path / "a") == first
    assert first in json.loads((root / "digests.json").read_text())["entries"].values()


def test_a_changed_entry_of_the_index_is_not_believed(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").write_bytes(b"one")
    first = cache.file_digest(tmp_path / "a")
    path = root / "digests.json"
    path.write_text(path.read_text().replace(first, first[::-1]))
    assert cache.file_digest(tmp_path / "a") == first
    assert "is damaged" in caplog.text


def test_the_index_does_not_grow_for_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_INDEX_LIMIT", 3)
    for i in range(5):
        cache.remember("digests", str(i), i)
    assert [cache.recall("digests", str(i)) for i in range(5)] == [None, None, 2, 3, 4]


def test_arrays_are_built_once_and_then_mapped(root: Path) -> None:
    build, calls = counted(ARRAYS)
    for _ in range(2):
        arrays = cache.cached_arrays("k", build)
        assert list(arrays) == ["bf", "wide"]
        assert all(isinstance(a, np.memmap) and not a.flags.writeable for a in arrays.values())
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, ARRAYS[name])
            assert array.dtype == ARRAYS[name].dtype
    assert len(calls) == 1
    assert not list((root / "arrays").glob(".tmp-*"))


def test_an_array_without_elements_survives() -> None:
    build, calls = counted({"none": np.zeros((0, 3), np.uint8)})
    for _ in range(2):
        assert cache.cached_arrays("k", build)["none"].shape == (0, 3)
    assert len(calls) == 1


def _truncate(folder: Path) -> None:
    file = folder / "0.npy"
    file.write_bytes(file.read_bytes()[:-5])


def _grow(folder: Path) -> None:
    with (folder / "0.npy").open("ab") as file:
        file.write(b"x")


def _swap(folder: Path) -> None:
    file = folder / "0.npy"
    file.write_bytes(b"x" * file.stat().st_size)


def _flip(folder: Path) -> None:
    content = bytearray((folder / "0.npy").read_bytes())
    content[-1] ^= 1
    (folder / "0.npy").write_bytes(bytes(content))


def _no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _bad_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"arrays": [{"name": "bf"}]}')


def _lost(folder: Path) -> None:
    (folder / "1.npy").unlink()


@pytest.mark.parametrize("damage", [_truncate, _grow, _swap, _flip, _no_manifest, _bad_manifest, _lost])
def test_a_damaged_entry_is_built_anew(root: Path, damage: Callable[[Path], None]) -> None:
    build, calls = counted(ARRAYS)
    cache.cached_arrays("k", build)
    damage(root / "arrays" / "k")
    np.testing.assert_array_equal(cache.cached_arrays("k", build)["bf"], ARRAYS["bf"])
    cache.cached_arrays("k", build)
    assert len(calls) == 2


def test_a_failed_build_leaves_nothing_behind(root: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.cached_arrays("k", lambda: {"a": np.ones(1 // 0)})
    assert not (root / "arrays" / "k").exists()
    build, calls = counted(ARRAYS)
    cache.cached_arrays("k", build)
    assert len(calls) == 1


def test_without_a_writable_cache_arrays_stay_in_memory(
    unwritable: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build, calls = counted(ARRAYS)
    arrays = cache.cached_arrays("k", build)
    assert arrays["bf"] is ARRAYS["bf"]
    assert len(calls) == 1
    assert "stay in memory" in caplog.text
    (tmp_path / "a").write_bytes(b"one")
    assert len(cache.file_digest(tmp_path / "a")) == 64


def test_a_full_disk_while_writing_keeps_the_arrays_in_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    build, calls = counted(ARRAYS)
    np.testing.assert_array_equal(cache.cached_arrays("k", build)["bf"], ARRAYS["bf"])
    assert len(calls) == 1
    assert "No space left" in caplog.text
    assert not (root / "arrays" / "k").exists()


def test_two_at_once_build_once() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def build() -> dict[str, np.ndarray]:
        calls.append(1)
        gate.wait(0.2)
        return ARRAYS

    workers = [threading.Thread(target=cache.cached_arrays, args=("k", build)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 1
