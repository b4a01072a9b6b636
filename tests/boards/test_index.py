import json
import os
import shutil
import subprocess
import sys

import pytest

from wbcbench.boards import Options, report
from wbcbench.boards.index import contents, level_for, signed

FAST = Options(resamples=200, verify="files")


def reads(store, **more):
    return contents(store, **more).read


def test_only_new_and_changed_records_are_read(study, add):
    from wbcbench.testing.records import fake_trial

    assert reads(study) == 8
    assert reads(study) == 0
    record = add(study, fake_trial(5))
    assert reads(study) == 1
    os.utime(record.path / "history.csv")
    assert reads(study) == 1
    assert reads(study, verify="full") == 0
    shutil.rmtree(record.path)
    assert len(contents(study).entries) == 8
    assert record.trial.id not in json.loads((study.root / "index" / "records.json").read_text())["entries"]
    assert reads(study, use_index=False) == 8


def test_a_changed_record_is_noticed_though_its_time_and_size_are_not(study):
    found = contents(study)
    path = study.root / "records" / found.entries[0].trial_id / "predictions.npz"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = contents(study)
    assert [name for name, _ in again.refused] == [found.entries[0].trial_id]


def test_nothing_depends_on_what_was_asked_before(study):
    afresh = report([study], FAST)
    (study.root / "index" / "records.json").unlink()
    contents(study, verify="full")
    assert report([study], FAST).model_dump_json() == afresh.model_dump_json()
    assert reads(study, verify="full") == 0


def test_an_index_that_came_with_a_copied_store_is_not_believed(study, tmp_path):
    contents(study)
    copy = tmp_path / "copy"
    shutil.copytree(study.root, copy)
    index = copy / "index" / "records.json"
    document = json.loads(index.read_text())
    for entry in document["entries"].values():
        entry["test"][2] = 1.0
    index.write_text(json.dumps(document))
    assert report([copy], FAST).model_dump_json() == report([study], FAST).model_dump_json()


@pytest.mark.parametrize("damage", ["", "{}", "[1", '{"version": 99}', '{"version": 1, "entries": {"a": 3}}'])
def test_a_damaged_index_is_made_anew(study, damage):
    expected = report([study], FAST).model_dump_json()
    for path in (study.root / "index").rglob("*.json"):
        path.write_text(damage)
    assert report([study], FAST).model_dump_json() == expected


@pytest.mark.parametrize("honest", [False, True])
def test_numbers_forged_in_the_index_are_found_out_by_the_predictions(study, honest):
    """Whoever can write the index can write the records too, but not make the two agree. A number that changed by
    itself, on a bad disk, is seen by the index's own SHA-256: the record is read again and is not lost."""
    contents(study)
    index = study.root / "index" / "records.json"
    document = json.loads(index.read_text())
    name = next(iter(document["entries"]))
    document["entries"][name]["test"][2] = 1.0
    del document["sha256"]
    data = json.dumps(document).encode()
    index.write_bytes(signed(data) if honest else data)
    found = report([study], FAST)
    assert [r.record for r in found.refused] == ([name] if honest else [])


def test_every_flipped_bit_of_the_index_is_seen(study):
    expected = report([study], FAST).model_dump_json()
    index = study.root / "index" / "records.json"
    whole = index.read_bytes()
    for at in (0, 5, 20, 80, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        data = bytearray(whole)
        data[at] ^= 1
        index.write_bytes(data)
        assert contents(study, "files").read == len(json.loads(whole)["entries"])
        assert index.read_bytes() == whole, "it was written anew"
    assert report([study], FAST).model_dump_json() == expected


def test_how_closely_records_are_checked(study):
    assert [level_for(n) for n in (1, 200, 201, 5000, 5001)] == ["full", "full", "files", "files", "quick"]
    quick = report([study], Options(verify="quick", resamples=200))
    assert "--verify full" in quick.notes[0]
    assert {s.checked for r in quick.boards[0].rows for s in r.sources} == {"quick"}
    full = report([study], Options(verify="full", resamples=200))
    assert not full.notes
    assert {s.checked for r in full.boards[0].rows for s in r.sources} == {"full"}


def test_several_processes_read_for_a_script_without_a_main_guard(study, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from wbcbench.boards import index\n"
        "from wbcbench.records.store import Store\n"
        "print('script')\n"
        "index._PARALLEL = 1\n"
        "found = index.contents(Store(sys.argv[1]))\n"
        "print(found.read, len(found.entries), len(found.refused))\n"
    )
    one = contents(study, use_index=False)
    done = subprocess.run([sys.executable, str(script), str(study.root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["script", str(one.read), str(len(one.entries)), str(len(one.refused))]
