"""What a search had spent, wherever records go: other stores, published boards, packs of strangers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wbcbench.boards import Options, build
from wbcbench.publishing.board_files import PublishOptions
from wbcbench.publishing.changes import read_report
from wbcbench.publishing.merging import merge
from wbcbench.publishing.pack import allowed_size, write_pack
from wbcbench.publishing.publish import publish
from wbcbench.publishing.side_files import joined
from wbcbench.publishing.sources import unpacked
from wbcbench.publishing.verdict import Judge
from wbcbench.records.store import Record, Store
from wbcbench.testing.records import blamed, fake_predictions, fake_record, fake_trial, rezip, said, unzip

Verify = Callable[..., Judge]
FAST = Options(resamples=100, verify="files", index=False)
ASKED = PublishOptions(title="Cells", resamples=100)
WINNER = "searches/first/winner.json"


def winner(ids: list[str], trials: int = 20, **more: Any) -> dict[str, Any]:
    """An entry as `wbcbench search` writes it."""
    budget = {"study": "first", "trials": trials, "complete": trials - 2, "pruned": 1, "failed": 1,
              "train_seconds": 9.5, "objective": "macro_f1", "sampler": "tpe"} | more  # fmt: skip
    return {"number": 3, "proposal": "a" * 16, "params": {"lr": 0.1}, "values": [0.5], "seeds": [0],
            "trial_ids": ids, "budget": budget}  # fmt: skip


def searched(root: Path, *winners: dict[str, Any], study: str = "first") -> None:
    path = root / "searches" / study / "winner.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"winners": winners}))


def budgets(*stores: Path | Store) -> dict[str, int | None]:
    (board,) = build(stores, FAST)
    return {r.fusion: r.search.trials if r.search else None for r in board.rows}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Stores of two machines that ran one study each, under one name."""
    for name, trials in (("a", 10), ("b", 50)):
        record = fake_record(Store(tmp_path / name), fake_trial(0, fusion=name), ord(name))
        searched(tmp_path / name, winner([record.trial.id], trials))
    return tmp_path / "a", tmp_path / "b"


def test_merged_stores_keep_every_budget(two: tuple[Path, Path], tmp_path: Path) -> None:
    merge(list(two), tmp_path / "into")
    assert budgets(*two) == budgets(tmp_path / "into") == {"a": 10, "b": 50}
    before = (tmp_path / "into" / WINNER).read_bytes()
    merge(list(two), tmp_path / "into")
    assert (tmp_path / "into" / WINNER).read_bytes() == before


def test_a_board_of_two_stores_keeps_every_budget(two: tuple[Path, Path], tmp_path: Path) -> None:
    board = tmp_path / "boards" / "cells"
    for stores in ([two[0]], [two[1]], []):
        publish(board, stores, ASKED)
    assert {r.fusion: r.search and r.search.trials for r in read_report(board).boards[0].rows} == {
        "a": 10,
        "b": 50,
    }


def test_of_one_set_of_trials_the_longer_search_counts_and_rubbish_is_passed_over() -> None:
    def text(*winners: Any) -> bytes:
        return json.dumps({"winners": winners}).encode()

    short, long, other = winner(["0" * 16], 5), winner(["0" * 16], 9), winner(["1" * 16], 2)
    assert joined([text(short)]) == text(short)
    assert joined([text(short), text(short), b"rubbish", text(3)]) == text(short)
    assert json.loads(joined([b"rubbish", text(short, other), text(long)]))["winners"] == [long, other]
    assert joined([text(long), text(short)]) == text(long)


@pytest.fixture
def pack(tmp_path: Path) -> tuple[Path, Record]:
    """Of one record, of a study that chose another one too."""
    store = Store(tmp_path / "theirs")
    record = fake_record(store, fake_trial(0, fusion="mine"), 77)
    other = fake_record(store, fake_trial(0, fusion="kept back"), 78)
    searched(store.root, winner([record.trial.id, "f" * 16]), winner([other.trial.id], 30))
    searched(store.root, winner([other.trial.id], 5), study="elsewhere")
    write_pack([record], tmp_path / "mine.zip")
    return tmp_path / "mine.zip", record


def test_a_searched_row_shows_as_searched_on_the_board_that_takes_it(
    pack: tuple[Path, Record], tmp_path: Path, verify: Verify
) -> None:
    path, record = pack
    files = unzip(path)
    assert [n for n in files if n.startswith("searches")] == [WINNER]
    (told,) = json.loads(files[WINNER])["winners"]
    assert (told["trial_ids"], told["budget"]["trials"]) == ([record.trial.id], 20)
    judge = verify(path)
    assert blamed(judge) == set()
    assert any("chosen by search first of 20 trials, according to the pack" in note for note in judge.notes)
    fake_record(Store(tmp_path / "store"), fake_trial(0), 3)
    board = tmp_path / "boards" / "cells"
    publish(board, [tmp_path / "store"], ASKED, (path,))
    publish(board, [], ASKED)
    rows = {r.fusion: r.search for r in read_report(board).boards[0].rows}
    assert rows["independent"] is None
    assert rows["mine"] is not None
    assert (rows["mine"].study, rows["mine"].trials, rows["mine"].train_seconds) == ("first", 20, 9.5)
    with unpacked(path) as (store, _):
        assert budgets(store) == {"mine": 20}


def test_nobody_says_what_others_have_spent(pack: tuple[Path, Record], tmp_path: Path) -> None:
    """A pack that also holds a record of the board speaks for its own trials only."""
    path, record = pack
    ours = fake_record(Store(tmp_path / "store"), fake_trial(0), predictions=fake_predictions(3))
    board = tmp_path / "boards" / "cells"
    publish(board, [tmp_path / "store"], ASKED)
    theirs = Store(tmp_path / "theirs")
    copy = theirs.record_path(ours.trial.id)
    copy.mkdir()
    for file in ours.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    searched(theirs.root, winner([record.trial.id]), winner([ours.trial.id], 9999))
    write_pack([record, theirs.load(ours.trial.id)], path)
    publish(board, [], ASKED, (path,))
    rows = {r.fusion: r.search and r.search.trials for r in read_report(board).boards[0].rows}
    assert rows == {"independent": None, "mine": 20}


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another trial": (lambda d: d["winners"][0].update(trial_ids=["0" * 16]), "not in the pack"),
    "no trial": (lambda d: d["winners"][0].update(trial_ids=[]), "trial_ids"),
    "no winner": (lambda d: d.update(winners=[]), "winners"),
    "another study": (
        lambda d: d["winners"][0]["budget"].update(study="second"),
        "budget of search second",
    ),
    "a study that leads out": (lambda d: d["winners"][0]["budget"].update(study="../x"), "study"),
    "no trials": (lambda d: d["winners"][0]["budget"].update(trials=0), "trials"),
    "text": (lambda d: d["winners"][0]["budget"].update(trials="20"), "trials"),
    "less than nothing": (lambda d: d["winners"][0]["budget"].update(train_seconds=-1.0), "train_seconds"),
    "more than all": (lambda d: d["winners"][0]["budget"].update(complete=21), "more finished"),
    "another field": (lambda d: d["winners"][0].update(code="x"), "code"),
    "a list": (lambda d: [d], "search first"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_searches(pack: tuple[Path, Record], verify: Verify, case: str) -> None:
    path, _ = pack
    change, part = HOSTILE[case]
    files = unzip(path)
    document = json.loads(files[WINNER])
    files[WINNER] = json.dumps(change(document) or document).encode()
    judge = verify(rezip(path, files))
    assert blamed(judge) == {"pack.searches"}
    assert part in said(judge, "pack.searches")


@pytest.mark.parametrize("data", [b'{"winners": NaN}', b"{" * 100_000, b"\xff", b'{"winners": [], "winners": []}'])
def test_searches_that_are_no_documents(pack: tuple[Path, Record], verify: Verify, data: bytes) -> None:
    path, _ = pack
    assert blamed(verify(rezip(path, {**unzip(path), WINNER: data}))) == {"pack.searches"}


def test_only_winners_of_plain_studies_are_in_a_pack(pack: tuple[Path, Record], verify: Verify) -> None:
    path, _ = pack
    for name in ("searches/first/spec.json", "searches/../winner.json", "searches/a b/winner.json",
                 "searches/" + "x" * 90 + "/winner.json", "searches/winner.json"):  # fmt: skip
        assert allowed_size(name) is None
        assert "archive.names" in blamed(verify(rezip(path, {**unzip(path), name: b"{}"}, honest=False)))
    large = b'{"winners": [' + b" " * (1 << 20) + b"]}"
    assert "archive.sizes" in blamed(verify(rezip(path, {**unzip(path), WINNER: large})))


def test_a_sealed_proposal_says_what_to_submit_instead(tmp_path: Path, invoke: Any) -> None:
    store = Store(tmp_path / "store")
    seen = {n: a for n, a in fake_predictions(3).items() if n.startswith("val_")}
    sealed = [fake_record(store, fake_trial(seed).seal(), predictions=seen) for seed in (3, 4)]
    won = winner(["b" * 16, "c" * 16]) | {"proposal": sealed[0].trial.id}
    searched(store.root, won)
    for record, part in ((sealed[0], f"{'b' * 16}, {'c' * 16}"), (sealed[1], "did not win")):
        code, _, err = invoke("submit", record.trial.id, "--store", str(store.root), "-o", str(tmp_path / "s.zip"))
        assert code == 2
        assert part in err
