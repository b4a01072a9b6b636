"""Whole trials on tiny cells: identity, caching, replay, teachers, failures."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.errors import WbcbenchError
from wbcbench.records.store import Store
from wbcbench.registry.provenance import cached_helper_digest
from wbcbench.training.loop import Job

Train = Callable[..., dict[str, Any]]


def by_role(document: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [r for r in document["records"] if r["role"] == role]


def test_the_main_job_trains_one_teacher_a_modality_then_the_student(train: Train) -> None:
    document = train("--fusion", "independent", "--kd", "logits")
    teachers, (student,) = by_role(document, "teacher"), by_role(document, "student")
    assert [t["modalities"] for t in teachers] == [["u"], ["v"]]
    assert all(r["status"] == "done" and r["error"] is None for r in document["records"])
    names = {"accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "brier", "ece"}
    for record in document["records"]:
        assert set(record["metrics"]) == {"test", "val"}
        assert set(record["metrics"]["test"]) == names
        assert {"params", "macs", "train_seconds", "train_images_per_second", "teacher_replayed"} <= set(
            record["cost"]
        )
        assert Path(record["path"]).is_dir()
    assert (student["fusion"], student["kd"], student["seed"], student["dataset"]) == (
        "independent",
        "logits",
        0,
        "npz",
    )
    assert student["cost"]["teacher_replayed"] is True
    assert teachers[0]["cost"]["teacher_replayed"] is None


def test_slots_of_an_epoch_train_with_replayed_teachers(train: Train) -> None:
    document = train("--fusion", "independent:slots=epoch", "--kd", "logits")
    (student,) = by_role(document, "student")
    assert student["status"] == "done"
    assert student["cost"]["teacher_replayed"] is True


def test_the_same_command_again_does_nothing(train: Train) -> None:
    first = train("--kd", "logits")
    again = train("--kd", "logits")
    assert {r["status"] for r in again["records"]} == {"cached"}
    assert [r["digest"] for r in again["records"]] == [r["digest"] for r in first["records"]]


def test_two_identical_runs_give_identical_digests(train: Train) -> None:
    a = train("--kd", "logits", "--fusion", "independent,early", store="a")
    b = train("--kd", "logits", "--fusion", "independent,early", store="b")
    assert [r["trial_id"] for r in a["records"]] == [r["trial_id"] for r in b["records"]]
    assert [r["digest"] for r in a["records"]] == [r["digest"] for r in b["records"]]


def test_seeds_methods_and_parameters_are_trials_of_their_own(train: Train) -> None:
    document = train("--fusion", "early,independent:rho=0,independent:rho=1", "--seeds", "0,1", "--epochs", "1")
    students = by_role(document, "student")
    assert len({s["trial_id"] for s in students}) == len({s["digest"] for s in students}) == 6


def test_single_is_run_once_per_modality_and_shares_its_records_with_teachers(train: Train) -> None:
    document = train("--fusion", "single", "--backbone", "cellnet:width=6")
    assert [r["modalities"] for r in document["records"]] == [["u"], ["v"]]
    document = train("--fusion", "early", "--kd", "logits")
    assert [r["status"] for r in document["records"]] == ["cached", "cached", "done"]


def test_replay_gives_the_student_that_live_teachers_give(train: Train, tmp_path: Path) -> None:
    args = ("--kd", "logits", "--fusion", "independent,early,late")
    replayed = train(*args, store="replayed")
    live = train(*args, "--set", "replay=never", store="live")
    for a, b in zip(by_role(replayed, "student"), by_role(live, "student"), strict=True):
        assert a["trial_id"] == b["trial_id"]
        assert (a["cost"]["teacher_replayed"], b["cost"]["teacher_replayed"]) == (True, False)
        p, q = (np.load(Path(r["path"]) / "predictions.npz")["test_probabilities"] for r in (a, b))
        assert np.allclose(p, q, atol=2e-3)
    notes = Store(tmp_path / "live").load(by_role(live, "student")[0]["trial_id"]).result.notes
    assert any("live" in n for n in notes)


def test_stored_answers_serve_every_student_of_the_stream(train: Train, tmp_path: Path) -> None:
    train("--kd", "logits", "--fusion", "independent")
    files = sorted((tmp_path / "store" / "replay").rglob("*.npy"))
    assert len(files) == 2 * 2  # teachers x epochs
    stamps = [f.stat().st_mtime_ns for f in files]
    document = train("--kd", "logits", "--fusion", "early")
    assert [f.stat().st_mtime_ns for f in files] == stamps
    assert by_role(document, "student")[0]["cost"]["teacher_seconds"] == 0


def test_a_broken_replay_file_is_computed_again(train: Train, tmp_path: Path) -> None:
    first = by_role(train("--kd", "logits"), "student")[0]
    for file in (tmp_path / "store" / "replay").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:100])
    document = train("--kd", "logits", "--fusion", "independent:rho=0.25")
    assert by_role(document, "student")[0]["status"] == "done"
    assert first["digest"] != by_role(document, "student")[0]["digest"]


def test_teachers_are_bit_identical_after_a_student_was_trained(train: Train, tmp_path: Path) -> None:
    train("--fusion", "single", "--backbone", "cellnet:width=6")
    weights = sorted((tmp_path / "store" / "records").rglob("model.safetensors"))
    before = [hashlib.sha256(w.read_bytes()).hexdigest() for w in weights]
    train("--kd", "logits", "--set", "replay=never")
    assert [hashlib.sha256(w.read_bytes()).hexdigest() for w in weights] == before


def test_privileged_teachers_read_what_the_student_does_not(train: Train) -> None:
    document = train("--modalities", "u", "--teacher-modalities", "v", "--kd", "logits", "--fusion", "early")
    (teacher,), (student,) = by_role(document, "teacher"), by_role(document, "student")
    assert (teacher["modalities"], student["modalities"]) == (["v"], ["u"])
    assert set(np.load(Path(student["path"]) / "predictions.npz")) >= {"test_route_joint", "val_probabilities"}


def test_an_ensemble_of_teachers_per_modality(train: Train) -> None:
    document = train("--kd", "logits", "--set", "teacher.seeds=[0,1]", "--epochs", "1")
    assert [(t["modalities"], t["seed"]) for t in by_role(document, "teacher")] == [
        (["u"], 0), (["u"], 1), (["v"], 0), (["v"], 1),
    ]  # fmt: skip


def test_distillation_changes_the_student_and_its_terms_are_logged(train: Train) -> None:
    document = train("--kd", "none,logits,logits:weight=0")
    plain, taught, weightless = by_role(document, "student")
    p, q, r = (
        np.load(Path(s["path"]) / "predictions.npz")["test_probabilities"] for s in (plain, taught, weightless)
    )
    assert np.array_equal(p, r), "a distiller of weight 0 must leave the student as it is"
    assert not np.allclose(p, q, atol=1e-4)
    with (Path(taught["path"]) / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert {"loss", "task.u", "task.v", "logits.kl.u", "logits.kl.v", "lr", "val_macro_f1"} <= set(rows[0])


def test_a_loss_that_is_no_number_fails_that_trial_and_no_other(train: Train, tmp_path: Path) -> None:
    recipe = ("--set", "training.optimiser=sgd", "--set", "training.lr=10", "--set", "training.warmup_epochs=0")
    document = train("--fusion", "early", "--set", "training.weight_decay=10", *recipe, code=1)
    (record,) = document["records"]
    assert record["status"] == "failed"
    assert "finite" in record["error"]
    assert "learning rate" in record["error"]
    store = Store(tmp_path / "store")
    assert not store.has(record["trial_id"])
    assert (tmp_path / "store" / "failures" / f"{record['trial_id']}.json").is_file()


def test_options_of_the_recipe_have_an_effect(train: Train) -> None:
    base = by_role(train("--fusion", "early"), "student")[0]["digest"]
    seen = {base}
    for change in (
        "training.ema=0.5", "training.label_smoothing=0.1", "training.class_weighting=none", "training.clip=0.01",
        "training.optimiser=sgd", "training.lr=1e-4", "training.weight_decay=1", "training.warmup_epochs=0",
        "training.task_weight=0.5", "augmentation.cutout=0.3", "augmentation.flip=false", "selection.metric=last",
        "training.precision=bfloat16",
    ):  # fmt: skip
        if change == "training.class_weighting=none":
            continue  # these classes are balanced
        seen.add(by_role(train("--fusion", "early", "--set", change), "student")[0]["digest"])
    assert len(seen) >= 12


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("--fusion", "erly"), "Did you mean 'early'"),
        (("--backbone", "resnet81"), "resnet18"),
        (("--kd", "logit"), "Did you mean 'logits'"),
        (("--fusion", "early:rho=1"), "rho"),
        (("--set", "fusion.roh=0.1"), "roh"),
        (("--modalities", "w"), "u, v"),
        (("--set", "fusion.rho=2"), "rho"),
        (("--fusion", "independent:width=2", "--backbone", "resnet18"), "cannot be scaled"),
        (("--device", "cuda:99"), "not available"),
        (("--kd", "logits", "--set", "routing.fallback=w"), "fallback"),
        (("--set", "dataset.path=nowhere.npz"), "nowhere.npz"),
        (("--set", "dataset.pth=x"), "path"),
    ],
)
def test_what_cannot_work_is_refused_before_training(train: Train, args: tuple[str, ...], part: str) -> None:
    assert part in train(*args, code=2)["stderr"]


def test_a_timm_student(train: Train) -> None:
    document = train("--fusion", "early", "--backbone", "test_convnext", "--epochs", "1", "--image-size", "32")
    assert document["records"][0]["backbone"] == "test_convnext"


def test_a_plugin_changed_after_an_interruption_starts_over(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a training by one loss and half by another would be no result of either."""
    from wbcbench.training import loop

    plugin = tmp_path / "mine" / "half.py"
    plugin.parent.mkdir()
    plugin.write_text(
        "from wbcbench.contracts import Distiller, DistillerParams, Needs\n\n\n"
        "class Half(Distiller):\n"
        '    """Half the squared distance of the logits."""\n\n'
        '    name = "half"\n'
        '    needs = Needs(student=("logits",), teacher=("logits",))\n'
        "    Params = DistillerParams\n\n"
        "    def terms(self, student, teacher, progress):\n"
        '        return {"half": (student.logits - teacher.logits).pow(2).mean(1) * 0.5}\n'
    )
    real = loop.judge

    def stop(job: Any, state: Any) -> Any:
        if state.epoch == 1 and job.distillation is not None:
            raise KeyboardInterrupt
        return real(job, state)

    args = ("--kd", "half", "--epochs", "2", "--plugins-dir", str(plugin.parent))
    monkeypatch.setattr(loop, "judge", stop)
    train(*args, store="s", code=130)
    monkeypatch.setattr(loop, "judge", real)
    plugin.write_text(plugin.read_text().replace("* 0.5", "* 2.0"))
    (student,) = by_role(train(*args, store="s"), "student")
    (afresh,) = by_role(train(*args, store="fresh"), "student")
    assert student["digest"] == afresh["digest"]


MINE = (
    '"""Early."""\nfrom wbcbench_plugins.fusions.early import Early\n\nfrom wbcbench.contracts import Fusion\n\n\n'
    'class Mine(Early, Fusion):\n    """Early."""\n\n    name = "mine"\n'
)


def test_two_plugins_of_one_name_train_under_their_providers(train: Train, tmp_path: Path) -> None:
    for file in ("one", "two"):
        (tmp_path / f"{file}.py").write_text(f"{MINE}\n# {file}\n")
    more = ("--plugins-dir", str(tmp_path), "--fusion", "local.one/mine,local.two/mine", "--epochs", "1")
    one, two = by_role(train(*more), "student")
    assert one["trial_id"] != two["trial_id"]
    assert [r["method"] for r in (one, two)] == ["local.one/mine", "local.two/mine"]


def test_a_checkpoint_is_of_the_code_and_of_the_code_beside_it(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = []

    def stop(job: Job, done: object = None) -> None:
        stamps.append(job.stamp)
        raise WbcbenchError("stopped")

    monkeypatch.setattr("wbcbench.training.trial.fit", stop)
    for plugin, helper in ((MINE, "A = 1"), (MINE, "A = 1"), (MINE, "A = 2"), (f"{MINE}# changed\n", "A = 2")):
        cached_helper_digest.cache_clear()
        (tmp_path / "mine.py").write_text(plugin)
        (tmp_path / "_beside.py").write_text(helper)
        train("--plugins-dir", str(tmp_path), "--fusion", "mine", code=1)
    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 3
