"""Stores of several machines joined: equal records once, disagreement set aside, nothing overwritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wbcbench.boards import Options, report
from wbcbench.errors import UsageError
from wbcbench.publishing.merging import merge
from wbcbench.records.store import Record, Store
from wbcbench.testing.records import fake_record, fake_trial, taught

Invoke = Callable[..., tuple[int, str, str]]
SAME, TORN = fake_trial(0, fusion="gated"), fake_trial(1, fusion="gated")


@pytest.fixture
def other(student: Record, store: Store, tmp_path: Path) -> Store:
    """`store` has SAME and TORN beside the student and its teacher; this one has SAME, and another TORN."""
    fake_record(store, SAME, 40)
    fake_record(store, TORN, 41)
    other = Store(tmp_path / "other")
    shutil.copytree(store.record_path(SAME.id), other.record_path(SAME.id))
    fake_record(other, TORN, 61)
    fake_record(other, fake_trial(5, fusion="gated"), 60)
    return other


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_equal_records_are_one_and_disagreement_is_kept_aside(
    store: Store, student: Record, other: Store, tmp_path: Path
) -> None:
    for folder, suffix in (("evaluations", "json"), ("references", "npz")):
        (store.root / folder).mkdir()
        (store.root / folder / f"{SAME.id}.{suffix}").write_text("{}")
        (store.root / folder / f"{TORN.id}.{suffix}").write_text("{}")
    sources = content(store.root / "records"), content(other.root / "records")
    into = Store(tmp_path / "into")
    merged = merge([store.root, other.root], into.root)
    assert merged.same == [SAME.id]
    assert set(merged.irreproducible) == {TORN.id}
    assert not merged.fine
    assert not into.has(TORN.id)
    aside = into.root / "irreproducible" / TORN.id
    digests = {s.load(TORN.id).result.digest: s.record_path(TORN.id) for s in (store, other)}
    assert {p.name: content(p) for p in aside.iterdir()} == {d: content(p) for d, p in digests.items()}
    assert into.has(student.trial.id)
    assert into.has(student.trial.method.teachers[0].id), "teachers come along"
    assert into.load(fake_trial(5, fusion="gated").id, verify="full")
    assert {p.name for p in (into.root / "evaluations").iterdir()} == {f"{SAME.id}.json"}
    assert {p.name for p in (into.root / "references").iterdir()} == {f"{SAME.id}.npz"}
    assert (content(store.root / "records"), content(other.root / "records")) == sources
    before = content(into.root)
    again = merge([store.root, other.root], into.root)
    assert again.copied == []
    assert set(again.irreproducible) == {TORN.id}
    assert content(into.root) == before


def test_disagreement_with_the_filled_store_is_set_aside_too_and_stays_so(
    store: Store, other: Store, tmp_path: Path
) -> None:
    into = Store(tmp_path / "into")
    assert merge([store.root], into.root).fine
    assert into.has(TORN.id)
    merge([other.root], into.root)
    assert not into.has(TORN.id)
    assert len(list((into.root / "irreproducible" / TORN.id).iterdir())) == 2
    merged = merge([store.root], into.root)
    assert set(merged.irreproducible) == {TORN.id}, "one side alone does not settle it"
    assert not into.has(TORN.id)
    trials = {s.trial_id for b in report([into], Options(resamples=100)).boards for r in b.rows for s in r.sources}
    assert TORN.id not in trials
    assert SAME.id in trials


def test_a_settled_trial_counts_again(store: Store, other: Store, tmp_path: Path) -> None:
    """As the help says: move one back, delete the rest."""
    into = Store(tmp_path / "into")
    merge([store.root, other.root], into.root)
    aside = into.root / "irreproducible" / TORN.id
    (aside / store.load(TORN.id).result.digest).rename(into.record_path(TORN.id))
    shutil.rmtree(aside)
    assert merge([store.root], into.root).fine
    assert into.load(TORN.id, verify="full").result == store.load(TORN.id).result


def test_a_damaged_record_is_not_copied(store: Store, student: Record, tmp_path: Path) -> None:
    fake_record(store, SAME, 40)
    path = store.record_path(SAME.id) / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-40])
    merged = merge([store.root], tmp_path / "into")
    assert len(merged.refused) == 1
    assert not Store(tmp_path / "into").has(SAME.id)
    assert student.trial.id in merged.copied


def test_a_student_without_its_teacher_is_told(store: Store, tmp_path: Path) -> None:
    student = taught(store)
    teacher = student.trial.method.teachers[0].id
    shutil.rmtree(store.record_path(teacher))
    assert merge([store.root], tmp_path / "into").without_teacher == {student.trial.id: [teacher]}


def test_no_store_is_read_and_filled_at_once(store: Store, student: Record, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="other than the target of --into"):
        merge([store.root], store.root)
    with pytest.raises(UsageError, match="there is none"):
        merge([tmp_path / "nothing"], tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_on_the_command_line(store: Store, other: Store, tmp_path: Path, invoke: Invoke) -> None:
    into = str(tmp_path / "into")
    code, out, _ = invoke("leaderboard", "merge", str(store.root), "--into", into, "--json")
    assert code == 0
    assert len(json.loads(out)["copied"]) == 4
    code, out, _ = invoke("leaderboard", "merge", str(other.root), "--into", into)
    assert code == 1
    assert f"irreproducible: {TORN.id} (gated, kd none, seed 1; " in out
    assert "1 records copied, 1 were in several stores and agree, 1 irreproducible" in out
