"""A board published, published again, checked, tampered with, struck from, compared with what it was."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from wbcbench.boards.formats.page import asset, content_policy, datatables_js, packed, page_script, plotly_js
from wbcbench.errors import ComparabilityError, UsageError
from wbcbench.publishing.board_files import PublishOptions, read_publish_options
from wbcbench.publishing.changes import changes, read_report
from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.publish import Checked, check, check_all, publish
from wbcbench.publishing.sources import unpacked
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial, taught

ASKED = PublishOptions(title="Cells", resamples=100)
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
        "README.md", "board.csv", "board.json", "index.html", "protocol.json", "records.txt", "records.zip",
    }  # fmt: skip
    assert "<h1>Cells</h1>" in (board / "index.html").read_text()
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


def test_another_release_of_a_library_is_no_other_board_and_is_told(board: Path) -> None:
    page = (board / "index.html").read_text()
    scripts = [datatables_js(), plotly_js(), page_script(asset("page.js"))]
    other = [datatables_js(), "another release", page_script(asset("page.js"))]
    stated, other_stated = (str(escape(content_policy(s))) for s in (scripts, other))
    newer = page.replace(packed(plotly_js()), packed(other[1])).replace(stated, other_stated)
    assert len(newer) < len(page) - 1_000_000
    assert check(board).notes == []
    (board / "index.html").write_text(newer)
    assert check(board).problems == []
    assert "other releases" in check(board).notes[0]
    (board / "extra.txt").write_text("x")
    assert check(board).problems == ["extra.txt does not belong to a published board"]


@pytest.mark.parametrize(
    "hostile",
    [
        lambda page: page.replace("<!-- /libraries -->", "<script>steal()</script>\n<!-- /libraries -->"),
        lambda page: page.replace(packed(plotly_js()), packed("steal()")),  # the policy would not let it run
        lambda page: page.replace(packed(plotly_js()), "no gzip"),
        lambda page: page.replace("default-src &#39;none&#39;", "default-src *"),
        lambda page: page.replace("<!-- policy -->", "<!-- policy --><base href=x>"),
    ],
)
def test_nothing_hides_where_the_libraries_are(board: Path, hostile: Callable[[str], str]) -> None:
    page = (board / "index.html").read_text()
    changed = hostile(page)
    assert changed != page
    (board / "index.html").write_text(changed)
    assert check(board).problems == ["index.html is not what records.zip gives"]


def test_what_was_published_stays_though_no_store_has_it(store: Store, board: Path) -> None:
    gone = fake_trial(1, fusion="gated").id
    shutil.rmtree(store.record_path(gone))
    before = content(board)
    done = publish(board, [store.root], ASKED)
    assert done.told == ["1 published records are in none of the given stores, and are kept."]
    assert content(board) == before
    shutil.rmtree(store.root)
    assert publish(board, [], ASKED).told == []
    assert content(board) == before


def test_sources_that_disagree_are_refused_until_one_is_struck_out(
    store: Store, board: Path, tmp_path: Path
) -> None:
    """Whether the store has it on a board, or as a teacher only."""
    trial = fake_trial(1, fusion="gated")
    first = store.load(trial.id).result.digest
    other = fake_record(Store(tmp_path / "other"), trial, 99)
    with pytest.raises(ComparabilityError, match=f"irreproducible:\n  {trial.id}"):
        publish(board, [store.root, tmp_path / "other"], ASKED)
    before = content(board)
    with pytest.raises(ComparabilityError, match=first[:12]):
        publish(board, [tmp_path / "other"], ASKED)
    assert content(board) == before
    strike(board, first)
    publish(board, [tmp_path / "other"], ASKED)
    assert check(board).problems == []
    (row,) = [r for r in read_report(board).boards[0].rows if r.fusion == "gated"]
    assert other.result.digest in {s.digest for s in row.sources}
    assert f"{trial.id}  {first}" in (board / "records.txt").read_text(), "the struck-out record keeps its line"
    assert f"`{first[:12]}`" in (board / "README.md").read_text()


def test_a_strangers_pack_joins_the_board(store: Store, board: Path, tmp_path: Path) -> None:
    strange = Store(tmp_path / "strange")
    record = fake_record(strange, fake_trial(0, fusion="mine"), 77)
    pack = tmp_path / "mine.zip"
    write_pack([record], pack)
    done = publish(board, [], ASKED, (pack,))
    (told,) = done.told
    assert "mine" in told
    assert "lacks seed 1 of board" in told
    assert done.sources == {"mine.zip": ["mine"]}
    assert record.trial.id in done.manifest.submitted
    assert check(board).problems == []
    assert {r.fusion for r in read_report(board).boards[0].rows} >= {"gated", "mine"}
    thief = fake_record(strange, fake_trial(0, fusion="thief"), predictions=dict(record.predictions))
    write_pack([thief], pack)
    before = content(board)
    with pytest.raises(ComparabilityError, match=r"reference\.duplicates"):
        publish(board, [], ASKED, (pack,))
    assert content(board) == before


def strangers(tmp_path: Path, seeds: range, *fusions: str) -> Path:
    """A pack of rows that have these seeds."""
    strange = Store(tmp_path / "strange")
    records = [
        fake_record(strange, fake_trial(seed, fusion=f), 10 * seed + len(f)) for f in fusions for seed in seeds
    ]
    write_pack(records, tmp_path / "mine.zip")
    return tmp_path / "mine.zip"


def test_a_board_keeps_the_seeds_that_it_was_published_with(board: Path, tmp_path: Path, invoke: Invoke) -> None:
    """A stranger with more seeds, or many strangers, leave nobody else unranked."""
    before = {r.fusion: (r.status, r.seeds) for r in read_report(board).boards[0].rows if r.status == "ranked"}
    pack = strangers(tmp_path, range(4), "mine", "second", "number three")
    code, out, _ = invoke("leaderboard", "verify", str(pack), "--against", str(board))
    assert code == 0
    assert out.count("has seeds 2, 3 too, which board") == 3
    to = ("--to", str(board.parent), "--name", "cells")
    code, _, err = invoke("leaderboard", "publish", *to, "--pack", str(pack))
    assert code == 0, err
    assert "Add --seeds 0,1,2,3 to count those" in err, "its keeper may want them"
    (made,) = read_report(board).boards
    assert made.seeds == (0, 1)
    ranked = {r.fusion: (r.status, r.seeds) for r in made.rows if r.status == "ranked"}
    assert ranked == before | dict.fromkeys(("mine", "second", "number three"), ("ranked", (0, 1)))
    assert check(board).problems == []
    publish(board, [], ASKED.model_copy(update={"seeds": (0, 1, 2, 3)}), (pack,))
    (asked,) = read_report(board).boards
    assert {r.fusion for r in asked.rows if r.status == "ranked"} == {"mine", "second", "number three"}
    assert check(board).problems == []


def test_a_board_of_an_older_release_keeps_its_seeds_too(board: Path, tmp_path: Path) -> None:
    protocol = json.loads((board / "protocol.json").read_text())
    assert list(protocol.pop("board_seeds").values()) == [[0, 1]]
    (board / "protocol.json").write_text(json.dumps(protocol))
    assert read_publish_options(board).board_seeds == {}
    pack = strangers(tmp_path, range(4), "mine", "second", "number three")
    publish(board, [], read_publish_options(board), (pack,))
    assert read_report(board).boards[0].seeds == (0, 1)


def test_a_store_says_what_would_become_of_its_boards_seeds(store: Store, tmp_path: Path, invoke: Invoke) -> None:
    pack = strangers(tmp_path, range(3), "mine", "second", "number three")
    _, out, _ = invoke("leaderboard", "verify", str(pack), "--against", str(store.root))
    assert "would count seeds 0, 1, 2 instead of seeds 0, 1, and 2 of its 2 rows would lack one" in out


def test_a_pack_is_judged_beside_the_store_that_it_comes_with(store: Store, tmp_path: Path) -> None:
    predictions = fake_predictions(5) | {"test_groups": np.zeros(30, dtype=np.int64)}
    record = fake_record(Store(tmp_path / "strange"), fake_trial(0, fusion="mine"), predictions=predictions)
    write_pack([record], tmp_path / "mine.zip")
    with pytest.raises(ComparabilityError, match=r"reference\.labels"):
        publish(tmp_path / "new" / "cells", [store.root], ASKED, (tmp_path / "mine.zip",))


def test_a_store_is_read_only_where_it_is_named(
    board: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who takes in a pack does not publish what lies in the default store."""
    monkeypatch.chdir(tmp_path)
    fake_record(Store(tmp_path / "wbcbench-store"), fake_trial(0, fusion="secret"), 60)
    pack = strangers(tmp_path, range(2), "mine")
    publishing = ("leaderboard", "publish", "--to", str(board.parent), "--resamples", "100", "--name")
    for name in ("cells", "new"):
        code, out, err = invoke(*publishing, name, "--pack", str(pack))
        assert code == 0, err
        assert "Not read: wbcbench-store" in err
        assert "New from mine.zip: mine\n" in out
        assert "secret" not in {r.fusion for r in read_report(board.parent / name).boards[0].rows}
    monkeypatch.setenv("WBCBENCH_STORE", "wbcbench-store")
    code, out, err = invoke(*publishing, "cells")
    assert (code, "Not read" in err, "New from" in out) == (0, True, False)
    assert "New from wbcbench-store: secret\n" in invoke(*publishing, "cells", "--store", "wbcbench-store")[1]
    assert "New from wbcbench-store: secret\n" in invoke(*publishing, "first")[1], "there is nothing else"


def test_what_vanished_is_named(store: Store, board: Path, tmp_path: Path) -> None:
    """Even where somebody makes every file anew without it, as long as the line or git's history is there."""
    gone = fake_trial(1, fusion="gated").id
    shutil.rmtree(store.record_path(gone))
    commit(board.parent)
    forged = tmp_path / "forged" / "cells"
    publish(forged, [store.root], ASKED)
    lines = (board / "records.txt").read_bytes()
    for file in forged.iterdir():
        shutil.copyfile(file, board / file.name)
    assert check(forged).problems == [], "a repository of its own would not know"
    (problem,) = check(board).problems
    assert f"record {gone}" in problem
    assert "vanished from it" in problem, "the line is in an earlier commit"
    (board / "records.txt").write_bytes(lines)
    problems = check(board).problems
    assert any(f"record {gone}" in p and "vanished from records.zip" in p for p in problems)
    strike(board, gone)
    assert not any("vanished" in p for p in check(board).problems)
    (board.parent / "invalid.yaml").unlink()
    shutil.rmtree(board)
    assert any(gone in p for p in check_all(board.parent)[""].problems), "the whole board vanished"


def test_a_board_may_be_renamed(board: Path) -> None:
    commit(board.parent)
    board.rename(board.parent / "blood")
    subprocess.run(["git", "-C", str(board.parent), "add", "-A"], check=True)
    commit(board.parent)
    publish(board.parent / "blood", [], ASKED)
    assert check_all(board.parent) == {"blood": Checked([], 5)}


def commit(folder: Path) -> None:
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(folder), *identity, *words], check=True)


def strike(board: Path, record: str) -> None:
    (board.parent / "invalid.yaml").write_text(f"- record: '{record}'\n  reason: the camera was out of focus\n")


def test_a_struck_out_record_stays_named(store: Store, board: Path) -> None:
    out = fake_trial(1, fusion="gated").id
    old = read_report(board)
    strike(board, out)
    assert "README.md is not what records.zip gives" in check(board).problems
    shutil.rmtree(store.root)
    publish(board, [], ASKED)
    assert check(board).problems == []
    new = read_report(board)
    for file in ("README.md", "index.html", "board.json"):
        assert "the camera was out of focus" in (board / file).read_text()
    assert "| ~~gated~~ | 1 | " in (board / "README.md").read_text()
    with unpacked(board / "records.zip") as (kept, _):
        assert kept.has(out)
    moved = {c.row: c for c in changes(old, new)}
    assert "seed 1 is gone: Struck out" in moved["gated"].why[0]
    assert "rank" in moved["gated"].what
    assert changes(old, old) == []
    (gated,) = [r for r in new.boards[0].rows if r.fusion == "gated"]
    assert (gated.rank, gated.status) == (None, "incomplete")
    (board.parent / "invalid.yaml").write_text("- record: nonsense\n  reason: no\n")
    with pytest.raises(UsageError, match="16 or 64 hex digits"):
        publish(board, [], ASKED)


def test_a_new_seed_and_a_new_row_are_told(store: Store, board: Path) -> None:
    old = read_report(board)
    fake_record(store, fake_trial(2, fusion="gated"), 50)
    fake_record(store, fake_trial(0, fusion="other"), 51)
    publish(board, [store.root], ASKED.model_copy(update={"seeds": (0, 1, 2)}))
    moved = {c.row: c for c in changes(old, read_report(board))}
    assert "new seeds: 2" in moved["gated"].why
    assert moved["other"].what.startswith("is new")


def test_on_the_command_line(store: Store, tmp_path: Path, invoke: Invoke) -> None:
    to = ("--to", str(tmp_path / "lb"), "--name", "cells")
    code, out, err = invoke("leaderboard", "publish", *to, "--store", str(store.root), "--resamples", "100")
    assert code == 0, err
    assert "Check it:" in out
    assert invoke("leaderboard", "publish", *to, "--check")[0] == 0
    assert invoke("leaderboard", "publish", *to[:2], "--check")[0] == 0
    (tmp_path / "lb" / "cells" / "board.csv").write_text("")
    code, out, _ = invoke("leaderboard", "publish", *to, "--check")
    assert code == 1
    assert "board.csv is not what records.zip gives" in out
    assert "--rebuild" in out
    assert invoke("leaderboard", "publish", *to, "--rebuild")[0] == 0
    assert invoke("leaderboard", "publish", *to, "--check")[0] == 0, "100 resamples were not forgotten"
    code, _, err = invoke("leaderboard", "publish", "--name", "../x", "--store", str(store.root))
    assert code == 2
    assert "plain folder name" in err
    board = str(tmp_path / "lb" / "cells")
    code, out, _ = invoke("leaderboard", "diff", board, board)
    assert (code, out.strip()) == (0, "Nothing changed.")
    pack = str(tmp_path / "lb" / "cells" / "records.zip")
    for reference in (str(store.root), board):
        code, out, _ = invoke("leaderboard", "verify", pack, "--against", reference)
        assert code == 0
        assert out.splitlines()[-1] == f"{pack}: needs a look"
        assert "fusion gated is stated to be wbcbench's" in out
        assert out.count("\nlook: ") == out.count("\nlook: pack.components, ")


def test_rows_state_whose_word_they_are(board: Path, tmp_path: Path, invoke: Invoke) -> None:
    """Nothing is stated until a pack is added; then maintainers' rows are theirs, and the others are claimed."""

    def standings(*flags: str) -> dict[str, str]:
        code, out, err = invoke("leaderboard", "--store", str(board), "--json", "--resamples", "100", *flags)
        assert code == 0, err
        return {r["fusion"]: r.get("standing", "") for r in json.loads(out)["boards"][0]["rows"]}

    def publish_again(*flags: str) -> str:
        to = ("--to", str(board.parent), "--name", board.name)
        code, _, err = invoke("leaderboard", "publish", *to, *flags)
        assert code == 0, err
        assert check(board).problems == []
        return err

    assert set(standings().values()) == {""}
    assert set(standings("--reproduced")) == {"gated", "independent", "single"}
    pack = strangers(tmp_path, range(2), "mine", "another")
    publish_again("--pack", str(pack))
    assert standings() == dict.fromkeys(("gated", "independent", "single"), "ours") | dict.fromkeys(
        ("mine", "another"), "claimed"
    )
    assert set(standings("--reproduced")) == {"gated", "independent", "single"}
    assert "| claimed" in (board / "README.md").read_text()
    assert "can only be told by training again" in (board / "index.html").read_text()
    with unpacked(pack) as (_, manifest):
        trials = {t: d for t, d in manifest.records.items() if t == fake_trial(1, fusion="mine").id}
    verdict = tmp_path / "verdict.json"
    for reproduced in (trials, dict.fromkeys(trials, "0" * 64), {"0" * 16: "0" * 64}):
        verdict.write_text(json.dumps({"verdict": "accept", "reproduced": reproduced}))
        told = publish_again("--rebuild", "--verdict", str(verdict))
        assert ("its standing is unchanged" in told) == (reproduced is not trials)
        assert standings()["mine"] == "reproduced (1), claimed (0)"
    assert set(standings("--reproduced")) == {"gated", "independent", "single", "mine"}
    assert "standing" in (board / "board.csv").read_text().splitlines()[0]
    verdict.write_text('{"reproduced": [1]}')
    code, _, err = invoke(
        "leaderboard",
        "publish",
        "--to",
        str(board.parent),
        "--name",
        board.name,
        "--rebuild",
        "--verdict",
        str(verdict),
    )
    assert (code, "Expected the output of" in err) == (2, True)
    (board / "standing.json").write_text('{"schema_version": 1, "records": {"x": {}}}')
    assert "standing.json cannot be read" in check(board).problems[0]
