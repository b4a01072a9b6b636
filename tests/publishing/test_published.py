"""A board published, published again, checked, tampered with, struck from; stores merged; boards compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wbcbench.errors import ComparabilityError, UsageError
from wbcbench.publishing.changes import changes, read_report
from wbcbench.publishing.merging import merge
from wbcbench.publishing.published import Asked, check, publish
from wbcbench.records.store import Record, Store
from wbcbench.testing.packs import taught
from wbcbench.testing.records import fake_record, fake_trial

ASKED = Asked(title="Cells", resamples=100)
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of two methods on two seeds, and its published board."""
    root = tmp_path_factory.mktemp("published")
    store = Store(root / "store")
    for seed in (0, 1):
        taught(store, seed)
        fake_record(store, fake_trial(seed, fusion="gated"), 40 + seed)
    publish(root / "boards" / "cells", [store.root], ASKED)
    return root / "store", root / "boards"


@pytest.fixture
def store(whole: tuple[Path, Path], tmp_path: Path) -> Store:
    shutil.copytree(whole[0], tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def board(whole: tuple[Path, Path], tmp_path: Path) -> Path:
    shutil.copytree(whole[1], tmp_path / "boards")
    return tmp_path / "boards" / "cells"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_equal_records_give_equal_bytes_and_need_no_store(store: Store, board: Path, tmp_path: Path) -> None:
    assert set(content(board)) == {
        "README.md", "board.csv", "board.json", "index.html", "protocol.json", "records.zip",
    }  # fmt: skip
    publish(tmp_path / "again" / "cells", [store.root], ASKED)
    assert content(tmp_path / "again" / "cells") == content(board)
    shutil.rmtree(store.root)
    found = check(board)
    assert found.problems == []
    assert found.records == 5, "two methods on two seeds, and the teacher as a reference"


@pytest.mark.parametrize("file", ["README.md", "board.csv", "index.html", "protocol.json", "records.zip"])
def test_check_names_what_differs_and_what_vanished(board: Path, file: str) -> None:
    data = (board / file).read_bytes()
    changed = data.replace(b"gated", b"grated", 1) if file != "protocol.json" else data.replace(b"100", b"200")
    (board / file).write_bytes(changed)
    assert any(file in p or file == "protocol.json" for p in check(board).problems)
    if file != "protocol.json":
        (board / file).unlink()
        assert any(p.startswith(file) for p in check(board).problems)


def test_another_release_of_a_library_is_no_other_board(board: Path) -> None:
    page = (board / "index.html").read_text()
    before, rest = page.split("<!-- libraries -->")
    _, after = rest.rsplit("<!-- /libraries -->")
    (board / "index.html").write_text(f"{before}<!-- libraries -->other<!-- /libraries -->{after}")
    assert check(board).problems == []
    (board / "extra.txt").write_text("x")
    assert check(board).problems == ["extra.txt does not belong to a published board"]


def test_no_published_record_is_lost_without_a_reason(store: Store, board: Path) -> None:
    gone = fake_trial(1, fusion="gated").id
    shutil.rmtree(store.record_path(gone))
    before = content(board)
    with pytest.raises(ComparabilityError, match=gone):
        publish(board, [store.root], ASKED)
    assert content(board) == before
    (board.parent / "invalid.yaml").write_text(f"- record: '{gone}'\n  reason: the camera was out of focus\n")
    assert "README.md is not what records.zip gives" in check(board).problems
    publish(board, [store.root], ASKED)
    assert check(board).problems == []


def test_a_struck_out_record_stays_named(store: Store, board: Path) -> None:
    out = fake_trial(1, fusion="gated").id
    old = read_report(board)
    (board.parent / "invalid.yaml").write_text(f"- record: '{out}'\n  reason: the camera was out of focus\n")
    publish(board, [store.root], ASKED)
    new = read_report(board)
    for file in ("README.md", "index.html", "board.json"):
        assert "the camera was out of focus" in (board / file).read_text()
    moved = {c.row: c for c in changes(old, new)}
    assert "seed 1 is gone: Struck out" in moved["gated"].why[0]
    assert "rank" in moved["gated"].what
    assert changes(old, old) == []
    (board.parent / "invalid.yaml").write_text("- record: nonsense\n  reason: no\n")
    with pytest.raises(UsageError, match="16 or 64 hex digits"):
        publish(board, [store.root], ASKED)


def test_a_new_seed_and_a_new_row_are_told(store: Store, board: Path) -> None:
    old = read_report(board)
    fake_record(store, fake_trial(2, fusion="gated"), 50)
    fake_record(store, fake_trial(0, fusion="other"), 51)
    publish(board, [store.root], ASKED)
    moved = {c.row: c for c in changes(old, read_report(board))}
    assert "new seeds: 2" in moved["gated"].why
    assert moved["other"].what.startswith("is new")


def test_merging_keeps_equal_records_once_and_names_disagreement(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    same = fake_trial(0, fusion="gated")
    shutil.copytree(store.record_path(same.id), other.record_path(same.id))
    new = fake_record(other, fake_trial(5, fusion="gated"), 60)
    torn = fake_trial(1, fusion="gated")
    fake_record(other, torn, 61)  # other predictions than those of the first store
    (store.root / "evaluations").mkdir()
    (store.root / "evaluations" / f"{same.id}.json").write_text("{}")
    into = Store(tmp_path / "into")
    merged = merge([store.root, other.root], into.root)
    assert merged.same == [same.id]
    assert set(merged.irreproducible) == {torn.id}
    assert new.trial.id in merged.copied
    assert not into.has(torn.id)
    assert into.load(new.trial.id, verify="full").result == new.result
    teacher = taught(store).trial.method.teachers[0].id
    assert into.has(teacher)
    assert (into.root / "evaluations" / f"{same.id}.json").is_file()
    before = content(into.root / "records")
    again = merge([store.root, other.root], into.root)
    assert again.copied == []
    assert content(into.root / "records") == before


def test_a_damaged_record_is_not_copied(store: Store, student: Record, tmp_path: Path) -> None:
    bad = fake_trial(0, fusion="gated")
    path = store.record_path(bad.id) / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-40])
    merged = merge([store.root], tmp_path / "into")
    assert len(merged.refused) == 1
    assert not Store(tmp_path / "into").has(bad.id)
    assert merged.copied


def test_on_the_command_line(store: Store, tmp_path: Path, invoke: Invoke) -> None:
    to = ("--to", str(tmp_path / "lb"), "--name", "cells")
    code, out, err = invoke("leaderboard", "publish", *to, "--store", str(store.root), "--resamples", "100")
    assert code == 0, err
    assert "Check it:" in out
    assert invoke("leaderboard", "publish", *to, "--check")[0] == 0
    (tmp_path / "lb" / "cells" / "board.csv").write_text("")
    code, out, _ = invoke("leaderboard", "publish", *to, "--check")
    assert code == 1
    assert "board.csv is not what records.zip gives" in out
    code, _, err = invoke("leaderboard", "publish", "--name", "../x", "--store", str(store.root))
    assert code == 2
    assert "plain folder name" in err
    code, out, _ = invoke("leaderboard", "merge", str(store.root), "--into", str(tmp_path / "all"), "--json")
    assert code == 0
    assert len(json.loads(out)["copied"]) == 5
    board = str(tmp_path / "lb" / "cells")
    code, out, _ = invoke("leaderboard", "diff", board, board)
    assert (code, out.strip()) == (0, "Nothing moved.")
    code, out, _ = invoke(
        "leaderboard", "verify", str(tmp_path / "lb" / "cells" / "records.zip"), "--against", str(store.root)
    )
    assert code == 0
