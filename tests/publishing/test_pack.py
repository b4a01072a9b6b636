"""What is packed, and that an honest pack is accepted."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest

from wbcbench.errors import RecordError, UsageError
from wbcbench.publishing.pack import find_records, write_pack
from wbcbench.publishing.verdict import CHECKS
from wbcbench.records.store import Store
from wbcbench.testing.records import blamed, fake_record, fake_trial, rezip, taught, unzip


def test_equal_records_give_equal_bytes(student, tmp_path, monkeypatch):
    write_pack([student], tmp_path / "a.zip")
    monkeypatch.setattr("time.time", lambda: 2e9)
    for file in student.path.iterdir():
        file.touch()
    write_pack([student, student], tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_teachers_come_along_and_weights_only_if_asked_for(student, pack, tmp_path):
    teacher = student.trial.method.teachers[0].id
    files = unzip(pack)
    assert {n.split("/")[1] for n in files if n.startswith("records/")} == {student.trial.id, teacher}
    assert not any(n.endswith("safetensors") for n in files)
    manifest = json.loads(files["manifest.json"])
    assert manifest["submitted"] == [student.trial.id]
    assert manifest["records"][teacher] == Store(student.path.parent.parent).load(teacher).result.digest
    write_pack([student], tmp_path / "w.zip", weights=True)
    assert sum(n.endswith("safetensors") for n in unzip(tmp_path / "w.zip")) == 2
    assert not any(n.endswith((".pkl", ".pt", ".py")) for n in unzip(tmp_path / "w.zip"))


def test_no_pack_without_the_teacher(store, student, tmp_path):
    shutil.rmtree(store.record_path(student.trial.method.teachers[0].id))
    with pytest.raises(RecordError, match="teacher"):
        write_pack([student], tmp_path / "pack.zip")
    assert list(tmp_path.glob("*pack*")) == []


def test_a_record_is_found_by_folder_or_beginning(store, student):
    for name in (str(student.path), student.trial.id[:6]):
        assert [r.trial.id for r in find_records(name, store)] == [student.trial.id]
    for name in ("", "zz", "../store", student.trial.id + "0"):
        with pytest.raises(UsageError, match="trial id"):
            find_records(name, store)


def test_a_damaged_record_is_not_packed(store, student):
    (student.path / "history.csv").write_text("epoch\n")
    with pytest.raises(RecordError, match=r"history\.csv"):
        find_records(student.trial.id, store)


@pytest.mark.parametrize("weights", [False, True])
def test_an_honest_pack_is_accepted(store, student, tmp_path, verify, weights):
    write_pack([student], tmp_path / "pack.zip", weights=weights)
    judge = verify(tmp_path / "pack.zip", store)
    # The fake networks have fewer weights than parameters are claimed, which a person is told to look at.
    assert {f.check for f in judge.findings} == ({"record.weights"} if weights else set())
    assert judge.verdict == ("needs a look" if weights else "accept")
    assert judge.exit_code == 0
    assert {n for n in CHECKS if judge.state(n) == "not made"} == {
        "rerun",
        "hidden.cells",
        "pack.searches",
        "pack.components",
    } | (set() if weights else {"record.weights"})


def test_a_pack_that_somebody_zipped_again_is_accepted(store, pack, verify):
    rezip(pack, unzip(pack), honest=False, compression=zipfile.ZIP_DEFLATED)
    assert verify(pack, store).verdict == "accept"


def test_without_a_reference_somebody_has_to_look(pack, verify):
    judge = verify(pack)
    assert judge.verdict == "needs a look"
    assert blamed(judge, "look") == {"reference.labels"}
    assert judge.state("reference.jump") == "not made"
    assert judge.exit_code == 0


def test_a_teacher_may_lie_in_the_reference_store(store, student, pack, verify):
    files = unzip(pack)
    teacher = student.trial.method.teachers[0].id
    manifest = json.loads(files["manifest.json"])
    del manifest["records"][teacher]
    files = {n: d for n, d in files.items() if teacher not in n} | {"manifest.json": json.dumps(manifest).encode()}
    rezip(pack, files)
    assert verify(pack, store).verdict == "accept"
    assert blamed(verify(pack)) == {"pack.teachers"}


def test_the_verbs(invoke, store, tmp_path):
    student = taught(store)
    fake_record(store, fake_trial(1), 1)
    pack = str(tmp_path / "p.zip")
    code, out, _ = invoke("submit", student.trial.id[:8], "--store", str(store.root), "-o", pack, "--json")
    assert code == 0
    assert json.loads(out)["submitted"] == [student.trial.id]
    code, out, _ = invoke("leaderboard", "verify", pack, "--against", str(store.root))
    assert code == 0
    assert out.endswith(": needs a look\n")
    assert {line.split(",")[0] for line in out.splitlines() if line.startswith("look: ")} == {
        "look: pack.components"
    }, "fake records do not know the digests of wbcbench's files"
    assert all(name in out for name in CHECKS)
    rezip(tmp_path / "p.zip", {**unzip(tmp_path / "p.zip"), "evil.pkl": b"x"})
    code, out, _ = invoke("leaderboard", "verify", pack, "--json")
    assert code == 3
    document = json.loads(out)
    assert document["verdict"] == "refuse"
    assert document["checks"]["archive.names"] == "refuse"
    code, _, err = invoke("leaderboard", "verify", str(tmp_path / "none.zip"))
    assert code == 2
    assert "wbcbench submit" in err


def test_a_methods_name_means_all_its_seeds(invoke, store, tmp_path):
    for seed in (2, 0, 1):
        taught(store, seed)
    fake_record(store, fake_trial(0), 3)
    pack = tmp_path / "p.zip"
    words = ("submit", "--store", str(store.root), "-o", str(pack))
    code, out, err = invoke(*words, "independent + logits")
    assert code == 0, err
    assert "independent + logits: seeds 0, 1, 2\n" in out
    assert "3 records and 1 of their teachers" in out
    code, out, _ = invoke(*words, "independent + logits", fake_trial(0).id, "--json")
    assert len(json.loads(out)["submitted"]) == 4
    code, out, _ = invoke(*words, fake_trial(0).id)
    assert "independent: seed 0\n" in out
