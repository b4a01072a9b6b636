"""Every file of a store spoiled in every way, one at a time: it is named, or not needed, and no other is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wbcbench import doctor
from wbcbench.api import load_records
from wbcbench.boards import Options, report
from wbcbench.boards.model import Report
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.records.evaluations import examination_path, write_examination
from wbcbench.records.schema import FILES
from wbcbench.records.store import Store
from wbcbench.searches.files import Proposal, SearchBudget, StudyFolder, StudySpec, Winner
from wbcbench.searches.report import overview
from wbcbench.searches.settings import Objective
from wbcbench.searches.space import Dimension, parse_range
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial, taught

FAST = Options(resamples=100, verify="files", statistics=False)
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Students, a teacher, a sealed proposal, its study, a failure, an examination, locks, caches, an index."""
    store = Store(tmp_path_factory.mktemp("whole") / "store")
    first, second = taught(store, 0), taught(store, 1)
    arrays = {n: a for n, a in fake_predictions(3).items() if n.startswith("val_")}
    sealed = fake_record(store, fake_trial(3).seal(), predictions=arrays)
    study, another = StudyFolder(store, "study"), StudyFolder(store, "another")
    lr = Dimension(name="training.lr", section="training", parameter="lr", range=parse_range("lr", "log(1,2)"))
    for seed, folder in enumerate((study, another)):
        folder.open(StudySpec(methods=("a" * 16,), dimensions=(lr,), objective=Objective.parse("macro_f1"),
                              sampler="random", pruner="none", seed=seed, epochs=1))  # fmt: skip
    study.propose(Proposal(number=0, params={"training.lr": 1.5}, trial_id=sealed.trial.id))
    study.prune("b" * 16, 1, [{"epoch": 0, "val_nll": 1.0}], 0.5)
    spent = SearchBudget(study="study", trials=1, complete=1, pruned=0, failed=0, train_seconds=1.0,
                         objective="macro_f1", sampler="random")  # fmt: skip
    study.add_winners([Winner(number=0, proposal=sealed.trial.id, params={}, values=(0.5,), seeds=(0,),
                              trial_ids=(first.trial.id,), budget=spent)])  # fmt: skip
    store.fail(fake_trial(9), "it raised")
    store.mark()
    with store.lock(first.trial.id):
        (store.replay_dir("c" * 24) / "logits_0000.npy").write_bytes(b"\x93NUMPY")
        (store.work(fake_trial(9).id) / "checkpoint.safetensors").write_bytes(b"\x08" + bytes(15))
    for record in (first, second):  # a row shows what was examined for all of its seeds
        found = {"digest": record.result.digest, "result": {"subsets": {"dapi": {"macro_f1": 0.5}}}}
        write_examination(examination_path(store.root, record.trial.id), {"version": EXAMINATION_VERSION, **found})
    report([store.root], FAST)
    return store


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)


def duplicated(path: Path) -> None:
    """As a file manager does it."""
    shutil.copyfile(path, path.with_name(f"{path.stem} (copy){path.suffix}"))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "truncated": truncated,
    "flipped": flipped,
    "emptied": lambda path: path.write_text("") and None,
    "duplicated": duplicated,
    "stripped": lambda path: path.chmod(0),
}


BOARDS_READ = ("evaluations/*.json", "searches/*/winner.json")
"""Beside the records."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_file_is_named_or_not_needed_and_nothing_else_is_lost(
    whole: Store, damage: str, tmp_path: Path, invoke: Invoke, unprivileged: Any
) -> None:
    if damage == "stripped":  # root reads what nobody may read
        source = Store(unprivileged.copy(whole.root))
        survey(source, "truncated", unprivileged.folder / "warm", some=3)  # imports what it takes
        unprivileged.run(lambda: survey(source, damage, unprivileged.folder / "spoilt"))
    else:
        survey(whole, damage, tmp_path)
    code, _, err = invoke("leaderboard", "--store", str(whole.root), "--no-index", "--no-statistics")
    assert code == 0, err


def survey(whole: Store, damage: str, folder: Path, some: int | None = None) -> None:
    """Spoil one file after another (or only some) in copies of the store below the folder, and look around."""
    records = whole.scan(verify=False)[0]
    ids = {r.path.name for r in records}
    sealed = next(r.path.name for r in records if r.trial.sealed)
    student = next(r.path.name for r in records if r.trial.method.teachers)
    every = sorted(p.relative_to(whole.root) for p in whole.root.rglob("*") if p.is_file())
    files = [f for f in every if f.parts[0] != "records" or f.parts[1] in (student, sealed)]
    assert len(files) >= 2 * len(FILES) + 8
    boards = report([whole.root], FAST)
    for number, file in enumerate(files[:some]):
        root = folder / str(number)
        shutil.copytree(whole.root, root)
        DAMAGE[damage](root / file)
        hurt = file.parts[1] if file.parts[0] == "records" and damage != "duplicated" else None
        see_records(root, file, ids, hurt)
        see_boards(root, file, boards, hurt, hurt == sealed, damage)
        see_searches(root, file, sealed, damage)
        told = [f.text for f in doctor.stored_records(root) if f.state == "problem"]
        needed = file.parts[0] in ("records", "evaluations", "searches") and damage != "duplicated"
        assert [file.name in text for text in told] == [True] * needed, f"doctor: {file} {damage} {told}"
        shutil.rmtree(root)


def see_records(root: Path, file: Path, ids: set[str], hurt: str | None) -> None:
    records = load_records(root)
    assert {r.trial.id for r in records.records} == ids - {hurt}, file
    assert all(file.name in why for why in records.damaged.values())
    assert {Path(path).name for path in records.damaged} == ({hurt} if hurt else set()), file


def see_boards(root: Path, file: Path, boards: Report, hurt: str | None, is_sealed: bool, damage: str) -> None:
    found = report([root], FAST)
    named = {r.record for r in found.refused}
    if is_sealed and file.name != "result.json":
        assert not named, "what a search left is on no board, and is not read for one"
    else:
        assert named == ({hurt} if hurt else set()), file
        assert all(file.name in r.reason for r in found.refused)
    shown = {s.trial_id for b in found.boards for r in b.rows for s in r.sources}
    assert shown == {s.trial_id for b in boards.boards for r in b.rows for s in r.sources} - {hurt}
    if damage != "duplicated" and any(file.match(pattern) for pattern in BOARDS_READ):
        notes = [*found.notes, *(note for b in found.boards for note in b.notes)]
        assert [file.as_posix() in note for note in notes].count(True) == 1, file
        assert without_beside(found) == without_beside(boards), file
    elif hurt is None:
        assert found.model_dump_json() == boards.model_dump_json(), file


def without_beside(found: Report) -> Any:
    """The boards without what is read from beside the records."""
    left = {"search": None, "missing_modalities": None}
    return [(b.key, b.comparisons, [r.model_copy(update=left).model_dump() for r in b.rows]) for b in found.boards]


def see_searches(root: Path, file: Path, sealed: str, damage: str) -> None:
    """The spoilt study is named, the other one listed."""
    rows, damaged = overview(Store(root))
    spoilt: set[str] = set()
    if damage != "duplicated" and file.parts[0] == "searches" and file.parts[-2] != "pruned":
        spoilt = {file.parts[1]}  # what was pruned is no proposal here, and is not read
    if damage not in ("duplicated", "emptied") and file.parts[:2] == ("records", sealed):
        spoilt = {"study"}  # with an empty file the record is none, and the proposal is to be trained
    assert {r["study"] for r in rows} == {"study", "another"} - spoilt, file
    assert set(damaged) == spoilt, file
    assert all(file.name in why for why in damaged.values()), damaged


def test_a_copied_record_is_named_and_counts_once(whole: Store, tmp_path: Path) -> None:
    """A folder that was copied by hand, and one that was renamed."""
    store = Store(tmp_path / "store")
    shutil.copytree(whole.root, store.root)
    before = report([store.root], FAST)
    record = next(r for r in store.scan()[0] if r.trial.method.teachers)
    copy = record.path.with_name(f"{record.path.name}-copy")
    shutil.copytree(record.path, copy)
    found = report([store.root], FAST)
    assert [r.record for r in found.refused] == [copy.name]
    assert found.boards == before.boards
    assert [p.name for p, _ in store.scan()[1]] == [copy.name]
    assert {r.trial.id for r in load_records(store.root).records} == {r.trial.id for r in whole.scan()[0]}


def test_a_result_whose_metrics_lost_the_word_test_is_not_taken_for_sealed(whole: Store, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    shutil.copytree(whole.root, store.root)
    record = next(r for r in store.scan()[0] if r.trial.method.teachers)
    path = record.path / "result.json"
    path.write_text(path.read_text().replace('"test": {', '"tesu": {', 1))
    found = report([store.root], FAST)
    assert [r.record for r in found.refused] == [record.trial.id]
    assert "result.json" in found.refused[0].reason
