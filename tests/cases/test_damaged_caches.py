"""Bytes that changed on the disk change no result: a cache is verified when it is loaded, and made again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from wbcbench.contracts import Output
from wbcbench.registry import index
from wbcbench.training.teachers import Replay

CELLS = torch.arange(6)


class Taught:
    """A teacher that counts how often it is asked."""

    reads = ("a",)

    def __init__(self) -> None:
        self.asked = 0

    def source(self, views: Any, maps: bool) -> Any:
        return views

    def answer(self, views: Any, cells: Tensor, present: Tensor | None, maps: bool) -> Output:
        self.asked += 1
        x = cells[:, None].float()
        return Output(
            x + torch.arange(3), x.expand(-1, 4), (x[..., None, None].expand(-1, 2, 2, 2),) if maps else ()
        )


def replay(folder: Path, teacher: Taught) -> Replay:
    views: Any = SimpleNamespace(epoch=lambda _: None, cells=SimpleNamespace(present=lambda *_: None))
    return Replay(folder, teacher, views, CELLS, embedding=True, maps=1)  # type: ignore[arg-type]


def flip(at: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[at] ^= 1
        return bytes(changed)

    return change


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "the first byte of the payload": flip(128),
    "the last byte of the payload": flip(-10),
    "the checksum": flip(-1),
    "the header": flip(20),
    "cut": lambda content: content[:-30],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"x",
    "without a checksum": lambda content: content[:-9],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["logits", "embedding", "map0"])
def test_a_damaged_answer_of_a_teacher_is_computed_again(
    damage: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = Taught()
    whole = replay(tmp_path, teacher).epoch(0).float()  # a copy: maps stay mapped to the file that is damaged
    assert torch.equal(replay(tmp_path, teacher).epoch(0).logits, whole.logits)
    assert (teacher.asked, caplog.records) == (1, [])
    path = tmp_path / f"{kind}_0000.npy"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    again = replay(tmp_path, teacher).epoch(0)
    assert teacher.asked == 2
    assert f"{path} fail their checksum" in caplog.text
    assert torch.equal(again.logits, whole.logits)
    assert again.embedding is not None
    assert whole.embedding is not None
    assert torch.equal(again.embedding, whole.embedding)
    assert torch.equal(again.maps[0], whole.maps[0])


def test_a_changed_index_of_components_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = index.SHIPPED.read_text()
    assert '"scalable": false' in shipped
    monkeypatch.setattr(index, "SHIPPED", tmp_path / "builtin.json")
    for text, known in ((shipped, True), (shipped.replace('"scalable": false', '"scalable": true '), False)):
        index.SHIPPED.write_text(text)
        index.shipped.cache_clear()
        assert bool(index.shipped()) is known
    index.shipped.cache_clear()
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "is damaged" in caplog.text
