import errno
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from wbcbench.errors import RecordError, UsageError, WbcbenchError
from wbcbench.files import atomic_write_bytes
from wbcbench.records import store as store_module
from wbcbench.records.schema import FILES, Result
from wbcbench.records.store import Store, predictions_bytes
from wbcbench.scheduling.source import all_cached
from wbcbench.testing.records import fake_outcome, fake_predictions, fake_record, fake_trial


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_round_trip(store):
    r = fake_record(store)
    assert store.has(r.trial.id)
    assert sorted(p.name for p in r.path.iterdir()) == sorted(FILES)
    again = store.load(r.trial.id, verify="full")
    assert again.trial == fake_trial(0)
    assert again.result == r.result
    assert again.predictions["test_route_dapi"].dtype == np.float32
    assert again.weights()["head.weight"].shape == (3, 4)
    assert [p.name for p in (store.root / "records").iterdir()] == [r.trial.id]


def test_identical_content_gives_identical_digest(tmp_path, monkeypatch):
    a = fake_record(Store(tmp_path / "a"), train_seconds=1.0)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    b = fake_record(Store(tmp_path / "b"), train_seconds=9.0)
    assert a.result.digest == b.result.digest
    assert a.result.checksum != b.result.checksum
    for name in ("predictions.npz", "model.safetensors", "spec.json"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes()
    c = fake_record(Store(tmp_path / "c"), predictions=fake_predictions(1, routes=("brightfield", "dapi")))
    assert c.result.digest != a.result.digest
    arrays = fake_predictions()
    assert predictions_bytes(arrays) == predictions_bytes(dict(reversed(arrays.items())))


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-3]),
    "flipped": _flip,
    "emptied": lambda p: p.write_bytes(b""),
    "missing": lambda p: p.unlink(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name(store, name, damage):
    fine, hurt = fake_record(store, seed=0), fake_record(store, seed=1)
    DAMAGE[damage](hurt.path / name)
    with pytest.raises(RecordError) as error:
        store.load(hurt.trial.id)
    assert name in str(error.value)
    assert str(hurt.path) in str(error.value)
    good, bad = store.scan()
    assert [r.trial.id for r in good] == [fine.trial.id]
    assert [p for p, _ in bad] == [hurt.path]
    assert store.has(hurt.trial.id) == (damage in ("truncated", "flipped"))


def _forge(record, **changes):
    """Rewrite result.json with valid digests, as someone who knows the code would."""
    document = json.loads((record.path / "result.json").read_text()) | changes
    document["files"] = {
        n: hashlib.sha256((record.path / n).read_bytes()).hexdigest() for n in FILES if n != "result.json"
    }
    if document["schema_version"] == 1:
        result = Result.model_validate_json(json.dumps(document))
        document["checksum"] = result.own_checksum()
    (record.path / "result.json").write_text(json.dumps(document))


def test_forgeries(store):
    r = fake_record(store)
    id_ = r.trial.id
    _forge(r, trial_id="0" * 16)
    with pytest.raises(RecordError, match=r"digest|is of trial"):
        store.load(id_)
    _forge(r, trial_id=id_, seed=5)
    with pytest.raises(RecordError, match="seed"):
        store.load(id_)
    _forge(r, seed=0, schema_version=2)
    with pytest.raises(RecordError, match="schema version 2"):
        store.load(id_)
    better = {**r.result.metrics["test"], "accuracy": 1.0}
    _forge(r, schema_version=1, metrics={**r.result.metrics, "test": better})
    with pytest.raises(RecordError, match="accuracy"):
        store.load(id_)
    better = {**r.result.metrics["test"], "macro_f1": 0.999}
    _forge(r, metrics={**r.result.metrics, "test": better})
    store.load(id_)
    with pytest.raises(RecordError, match="macro_f1"):
        store.load(id_, verify="full")
    _forge(r, metrics=r.result.metrics)
    store.load(id_, verify="full")


def test_record_under_another_name(store):
    r = fake_record(store)
    r.path.rename(r.path.with_name("0" * 16))
    with pytest.raises(RecordError, match="another name"):
        store.load("0" * 16)


@pytest.mark.parametrize("at", range(1, 7))
def test_nothing_is_left_when_writing_stops(store, monkeypatch, at):
    calls = []
    real = store_module.write_synced

    def stops(path, data):
        calls.append(path)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(store_module, "write_synced", stops)
    with pytest.raises(WbcbenchError, match="No space left"):
        fake_record(store)
    assert list((store.root / "records").iterdir()) == []
    monkeypatch.setattr(store_module, "write_synced", real)
    assert store.has(fake_record(store).trial.id)


def test_killed_writer_leaves_no_record(store):
    half = store.root / "records" / f".tmp-{fake_trial().id}-dead"
    half.mkdir(parents=True)
    (half / "spec.json").write_text("{")
    assert not store.has(fake_trial().id)
    assert store.scan() == ([], [])


def test_finished_trials_leave_nothing_behind(store):
    """A driver killed between a record and its tidying up leaves both for the next start."""
    done, other = fake_record(store).trial.id, fake_trial(1).id
    for name in (done, other):
        (store.work(name) / "checkpoint.safetensors").write_bytes(b"state")
        (store.root / "records" / f".tmp-{name}-01234567").mkdir()
        atomic_write_bytes(store.root / "references" / f".tmp-{name}.npz-01234567", b"part")
    plan = SimpleNamespace(trials=[SimpleNamespace(trial=fake_trial(0))])
    assert all_cached(plan, store)
    left = {p.relative_to(store.root).as_posix() for p in store.root.rglob("*") if p.name not in FILES}
    assert {p for p in left if done in p} == {f"records/{done}"}
    assert {p for p in left if other in p} == {
        f"work/{other}", f"work/{other}/checkpoint.safetensors", f"records/.tmp-{other}-01234567",
        f"references/.tmp-{other}.npz-01234567",
    }  # fmt: skip


def test_read_only_store(unprivileged):
    store = Store(unprivileged.folder / "store")

    def check() -> None:
        fake_record(store)
        for folder in (store.root / "records", store.root):
            folder.chmod(0o500)
        with pytest.raises(WbcbenchError, match="refused"):
            fake_record(store, seed=1)
        assert [r.trial for r in store.scan()[0]] == [fake_trial()]
        store.root.chmod(0o700)

    fake_record(Store(unprivileged.folder / "warm"))  # imports what it takes
    unprivileged.run(check)


def test_store_below_a_file(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(WbcbenchError, match="refused"):
        fake_record(Store(tmp_path / "f"))


def test_first_record_stays_and_broken_gives_way(store):
    a = fake_record(store, train_seconds=1.0)
    assert fake_record(store, train_seconds=2.0).result == a.result
    (a.path / "history.csv").unlink()
    assert fake_record(store, train_seconds=3.0).result.cost.train_seconds == 3.0
    assert len(list((store.root / "broken").iterdir())) == 1


def test_bad_parts_do_not_get_in(store):
    trial, p = fake_trial(), fake_predictions()
    outcome = fake_outcome(trial, p)
    p["test_probabilities"] = np.full_like(p["test_probabilities"], np.nan)
    with pytest.raises(RecordError, match="not probabilities"):
        store.write(trial, outcome, predictions=p, model=b"x", history=[], environment={})
    assert not store.has(trial.id)


def _write(root, barrier, queue):
    barrier.wait()
    queue.put(fake_record(Store(root), train_seconds=float(os.getpid())).result.cost.train_seconds)


def test_two_writers_one_record(store):
    spawn = multiprocessing.get_context("fork")
    barrier, queue = spawn.Barrier(2), spawn.Queue()
    writers = [spawn.Process(target=_write, args=(store.root, barrier, queue)) for _ in range(2)]
    for w in writers:
        w.start()
    seen = {queue.get(timeout=30) for _ in writers}
    for w in writers:
        w.join(30)
    assert [w.exitcode for w in writers] == [0, 0]
    assert len(seen) == 1
    assert len(list((store.root / "records").iterdir())) == 1


def test_lock_excludes_another_process(store):
    code = (
        "import sys; from wbcbench.records.store import Store\n"
        "with Store(sys.argv[1]).lock('abc'):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, store.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(WbcbenchError, match="another process"), store.lock("abc", timeout=0.1):
            pass
        other.kill()
    with store.lock("abc", timeout=5):
        pass


def test_failure_is_not_done(store):
    t = fake_trial()
    store.fail(t, "boom")
    path = store.root / "failures" / f"{t.id}.json"
    assert json.loads(path.read_text())["error"] == "boom"
    assert not store.has(t.id)
    fake_record(store)
    assert not path.exists()


def test_names_stay_inside(store):
    for name in ("../x", "/etc", "", ".hidden", "a/b"):
        with pytest.raises(UsageError):
            store.record_path(name)
    assert store.work("abc").is_dir()
    assert store.replay_dir("k-1").is_dir()


def test_key_diff():
    trial = fake_trial()
    key = fake_outcome(trial, fake_predictions()).key
    other = key.model_copy(update={"split": "other", "budget": key.budget.model_copy(update={"epochs": 3})})
    assert key.diff(key) == []
    assert key.diff(other) == [f"split: {'s' * 16} != other", "budget.epochs: 6 != 3"]
    assert key.digest != other.digest


def test_store_is_light():
    code = (
        "import sys, wbcbench.records.store, wbcbench.records.schema, wbcbench.cli.leaderboard;"
        "print({'torch', 'pandas', 'sklearn'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_store_is_known_by_its_mark(tmp_path):
    store = Store(tmp_path / "a")
    assert store.mark(make=False) == ""
    mark = store.mark()
    assert len(mark) == 16
    assert store.mark() == Store(tmp_path / "a").mark(make=False) == mark
    assert Store(tmp_path / "b").mark() != mark
