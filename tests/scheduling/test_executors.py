"""Which executor a run gets, what a trial is given, and what is left out of a study. No Ray is started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wbcbench.errors import UsageError
from wbcbench.records.store import Store
from wbcbench.registry.loading import load_plugins
from wbcbench.registry.provenance import helper_digest
from wbcbench.scheduling import executors
from wbcbench.scheduling.executors import RAY_START, for_one_process, worth_ray
from wbcbench.scheduling.plan import make_plan
from wbcbench.scheduling.ray_source import reason_of
from wbcbench.scheduling.ray_worker import EndMessage, EpochMessage, gpu_is_full, kind_of_error, pack, unpack
from wbcbench.scheduling.resources import GUESSED_SPEED, Share, check_feasible, share_of, slots
from wbcbench.spec.load import load_request
from wbcbench.spec.request import Request


def request(**keys: Any) -> Request:
    return Request.model_validate(keys)


def test_ray_is_worth_its_start_only_where_it_saves_twice_as_much() -> None:
    long, short = 2 * RAY_START, RAY_START / 10
    assert worth_ray(2, [(long, 0), (long, 0)])
    assert not worth_ray(1, [(long, 0), (long, 0)]), "one at a time saves nothing"
    assert not worth_ray(8, [(100 * long, 0)]), "one trial cannot be divided"
    assert not worth_ray(8, [(short, 0)] * 4)
    assert worth_ray(8, [(short, 0)] * 40)
    assert not worth_ray(8, [])


def test_unknown_speed_is_judged_by_cell_views() -> None:
    views = int(GUESSED_SPEED * 2 * RAY_START)
    assert worth_ray(2, [(None, views), (None, views)])
    assert not worth_ray(2, [(None, views // 10), (None, views // 10)])
    assert not worth_ray(2, [(1.0, views), (1.0, views)]), "a measured time beats the guess"


def test_how_many_threads_a_trial_has_does_not_depend_on_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that Ray began and a few trials end inline: one thread in both, or the bits differ."""
    monkeypatch.setattr(executors, "machine", lambda: (4, 0))
    registry = load_plugins()[0]
    few, many = request(seeds=(0,), budget={"epochs": 1}), request(seeds=tuple(range(40)), budget={"epochs": 30})
    assert executors.threads_of(few, make_plan(few, registry)) is None
    plan = make_plan(many, registry)
    assert executors.threads_of(many, plan) == 1
    store = Store(tmp_path)
    assert executors.choose(many, plan, store) == "ray"
    monkeypatch.setattr(Store, "has", lambda self, trial_id: trial_id != plan.trials[-1].trial.id)
    assert executors.choose(many, plan, store) == "inline", "one is left"
    assert executors.threads_of(many, plan) == 1
    for given in ({"cpus_per_trial": 3}, {"threads": 3}, {"executor": "inline", "threads": 3}):
        asked = many.model_copy(update=given)
        assert executors.threads_of(asked, plan) == 3
    assert executors.threads_of(many.model_copy(update={"executor": "inline"}), plan) is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_how_pytorch_says_that_a_gpu_is_full(error: Exception, full: bool) -> None:
    assert gpu_is_full(error) == full


def test_a_helper_beside_a_plugin_belongs_to_its_code(tmp_path: Path) -> None:
    from wbcbench.registry import Component

    (tmp_path / "mine.py").write_text("")
    (tmp_path / "_shared.py").write_text("A = 1")
    component = Component("fusion", "mine", f"{tmp_path / 'mine.py'}::Mine")
    before = helper_digest(component)
    assert before
    (tmp_path / "other.py").write_text("of another plugin")
    assert helper_digest(component) == before
    (tmp_path / "_shared.py").write_text("A = 2")
    assert helper_digest(component) != before
    assert helper_digest(Component("fusion", "mine", "no.such.module:Mine")) == ""
    folder = tmp_path / "whole"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    whole = Component("fusion", "whole", f"{folder / '__init__.py'}::Whole")
    assert helper_digest(whole) == ""
    (folder / "deep" / "part.py").write_text("B = 1")
    assert helper_digest(whole)


def test_gpus_by_number_belong_to_one_process() -> None:
    assert for_one_process("cuda:1")
    assert for_one_process("mps")
    assert not for_one_process("cuda")


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "fit"),
    [
        (8, 0, Share(1, 0), 8), (8, 0, Share(3, 0), 2), (8, 1, Share(1, 0.25), 4), (2, 1, Share(1, 0.25), 2),
        (8, 2, Share(1, 0.3), 6), (8, 2, Share(1, 1), 2), (8, 3, Share(1, 2), 1), (8, 0, Share(1, 0.5), 0),
        (8, 1, Share(1, 0.1), 8), (16, 1, Share(1, 0.1), 10), (1, 4, Share(2, 1), 0),
    ],
)  # fmt: skip
def test_how_many_trials_fit(cpus: int, gpus: int, share: Share, fit: int) -> None:
    assert slots(cpus, gpus, share) == fit


def test_a_share_must_fit_on_one_node_not_on_all_together() -> None:
    assert check_feasible(Share(2, 0), [(2, 0), (2, 0)]) == 2
    with pytest.raises(UsageError, match="the largest node has 2 CPUs"):
        check_feasible(Share(4, 0), [(2, 0), (2, 0)])
    with pytest.raises(UsageError, match="0 GPUs"):
        check_feasible(Share(1, 0.5), [(64, 0)])


def test_a_trial_s_share_by_default() -> None:
    assert share_of(request(), 0) == Share(1, 0)
    assert share_of(request(), 2) == Share(1, 1.0)
    assert share_of(request(device="cpu"), 2) == Share(1, 0)
    assert share_of(request(device="cpu", gpus_per_trial=0.5), 2) == Share(1, 0)
    assert share_of(request(gpus_per_trial=0.25, cpus_per_trial=2), 1) == Share(2, 0.25)
    assert share_of(request(threads=3), 0) == Share(3, 0)
    with pytest.raises(UsageError, match="--gpus-per-trial 1"):
        share_of(request(device="cuda", gpus_per_trial=0), 1)


def test_shares_of_several_gpus_are_whole() -> None:
    assert load_request(None, {"gpus_per_trial": 2}).gpus_per_trial == 2
    with pytest.raises(UsageError, match="gpus_per_trial"):
        load_request(None, {"gpus_per_trial": 1.5})


def test_none_of_it_is_part_of_a_trial_s_identity() -> None:
    registry = load_plugins()[0]
    plain = make_plan(request(), registry)
    other = make_plan(
        request(executor="ray", jobs=3, gpus_per_trial=0.25, cpus_per_trial=2, ray_address="h:1"), registry
    )
    assert [p.trial.id for p in plain.trials] == [p.trial.id for p in other.trials]


def test_a_request_crosses_to_a_worker_unchanged() -> None:
    configs = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
    for asked in [load_request(c) for c in configs] + [
        load_request(None, {"kd": "lskd+dkd,none", "fusion": "early,independent:rho=0.2"}, ("fusion.rho=1",))
    ]:
        assert Request.model_validate_json(asked.model_dump_json()) == asked


def test_messages_read_back() -> None:
    epoch = EpochMessage(2, 5, {"loss": 0.25, "val_auroc": None})
    assert unpack(pack(epoch) | {"training_iteration": 1}) == epoch
    end = EndMessage("failed", "no such thing", "usage")
    assert unpack(pack(end)) == end
    error = end.exception()
    assert isinstance(error, UsageError)
    assert kind_of_error(error) == "usage"
    assert EndMessage("failed", "Traceback ...").exception() is None
    assert unpack(None) is None
    assert unpack({"done": True}) is None


def test_why_a_worker_is_gone() -> None:
    text = "Failure # 1 (occurred at noon)\nTask was killed due to the node running low on memory.\n"
    assert "ran out of memory" in reason_of(text)
    assert "The actor died" in reason_of("Failure # 1 (occurred at noon)\nThe actor died unexpectedly.\n")
    assert reason_of("") == "its worker process ended unexpectedly (killed)"


# --- exclude ---------------------------------------------------------------------------------------


def cells_of(**keys: Any) -> set[tuple[str, str, str, int]]:
    plan = make_plan(request(**keys), load_plugins()[0])
    students = [p.trial for p in plan.trials if p.role == "student"]
    return {(t.method.fusion.name, t.method.kd, t.method.backbone.name, t.seed) for t in students}


GRID = {"fusion": "early,late,independent", "kd": "none,logits,lskd+dkd", "seeds": [0, 1]}


def test_an_exclude_leaves_out_what_agrees_with_all_it_names() -> None:
    whole = cells_of(**GRID)
    assert len(whole) == 18
    assert whole - cells_of(**GRID, exclude=[{"fusion": "early", "kd": "logits"}]) == {
        ("early", "logits", "cellnet", s) for s in (0, 1)
    }
    assert whole - cells_of(**GRID, exclude=[{"kd": ["logits", "dkd+lskd"], "seeds": 1}]) == {
        (f, kd, "cellnet", 1) for f in ("early", "late_prob", "independent") for kd in ("logits", "lskd+dkd")
    }
    two = [{"fusion": ["early", "late"]}, {"kd": "none"}]
    assert {(f, kd) for f, kd, _, _ in cells_of(**GRID, exclude=two)} == {
        ("independent", "logits"),
        ("independent", "lskd+dkd"),
    }


def test_an_exclude_can_tell_parameters_apart() -> None:
    grid = {"fusion": ["independent:rho=0", "independent:rho=1"], "seeds": [0]}
    left = make_plan(request(**grid, exclude=[{"fusion": "independent:rho=0"}]), load_plugins()[0])
    assert [p.trial.method.fusion.params["rho"] for p in left.trials] == [1.0]


def test_teachers_of_excluded_students_are_not_trained() -> None:
    plan = make_plan(request(fusion="early", kd="none,logits", exclude=[{"kd": "logits"}]), load_plugins()[0])
    assert [p.role for p in plan.trials] == ["student"]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"fusion": "erly"}, "Did you mean 'early'"),
        ({"fusion": "gmu"}, "expected a fusion of this study, but got 'gmu'"),
        ({"kd": "dkd"}, "Did you mean 'lskd\\+dkd'"),
        ({"seeds": 7}, "expected a seeds of this study, but got '7'"),
        ({"fusion": "early:width=7"}, "no cell of this study"),
        ({}, "at least one of fusion"),
        ({"fusoin": "early"}, "not a known key"),
    ],
)
def test_an_exclude_that_matches_nothing_is_refused(rule: dict[str, Any], text: str) -> None:
    asked = {"fusion": "early,late", "kd": "none,logits,lskd+dkd", "exclude": [rule]}
    with pytest.raises(UsageError, match=text):
        make_plan(load_request(None, asked), load_plugins()[0])


def test_excluding_everything_is_refused() -> None:
    with pytest.raises(UsageError, match="leaves none"):
        make_plan(request(fusion="early", exclude=[{"fusion": "early"}]), load_plugins()[0])


# --- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--cpus-per-trial", "9999"], "were requested, and the largest node has"),
        (["--device", "cpu", "--jobs", "0"], "not in the range"),
        (["--ray-address", "nowhere"], "as host:port"),
        (["--ray-address", "ray://a:1"], "as host:port"),
    ],
)
def test_what_cannot_be_met_is_refused_before_ray_starts(
    flags: list[str], text: str, invoke: Callable[..., tuple[int, str, str]], tmp_path: Path, cells_file: Path
) -> None:
    code, _, err = invoke(
        "run", "--dataset", "npz", "--set", f"dataset.path={cells_file}", "--set", "dataset.modalities.u=[0]",
        "--fusion", "early", "--modalities", "u", "--store", str(tmp_path / "s"), "--executor", "ray", *flags,
    )  # fmt: skip
    assert code == 2
    assert text in err


def test_cpus_per_trial_sets_threads_inline(train: Callable[..., dict[str, Any]]) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        document = train("--fusion", "early", "--set", "threads=null", "--cpus-per-trial", "3")
        assert document["records"][0]["cost"]["threads"] == 3
    finally:
        torch.set_num_threads(before)
