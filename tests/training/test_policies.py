"""Every built-in policy in whole trials: trained, refused where it cannot act, resumed, order of hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wbcbench.testing.components import registry

Run = Callable[..., dict[str, Any]]

REFUSED = {
    ("contrastive", "independent"): "no other shares",
    ("mmpareto", "late"): "losses that meet",
    ("etmc", "independent"): "a joint route",
    ("etmc", "late"): "a joint route",
    **{(p, f): "a joint route" for p in ("arl", "dgl", "inforeg") for f in ("independent", "late")},
    **{(p, "independent"): "no other shares" for p in ("lckd", "pmr")},
    **{("sord", f): "the order of classes" for f in ("independent", "late")},
    ("opm", "independent"): "a joint route",
    ("opm", "late"): "a joint route",
    ("relearning", "independent"): "embeddings that only a head reads",
    ("funmatch", "independent"): "needs a teacher",
    ("funmatch", "late"): "needs a teacher",
}
"""While planning, and why."""


def policies() -> list[str]:
    return [c.name for c in registry().components("policy") if c.builtin]


@pytest.mark.parametrize("name", policies())
def test_with_one_network_and_with_several(train: Run, name: str) -> None:
    params = {"gradient_blending": ":every=1", "relearning": ":every=1", "smv": ":warmup=1"}.get(name, "")
    for fusion in ("independent", "late"):
        args = ("--fusion", fusion, "--policy", f"{name}{params}")
        if (name, fusion) in REFUSED:
            assert REFUSED[name, fusion] in train(*args, code=2)["stderr"]
            continue
        (record,) = train(*args)["records"]
        assert record["status"] == "done", record["error"]


def test_several_are_one_trial_in_any_order(train: Run) -> None:
    names = ["batch_repetition", "modality_dropout", "aux_heads", "mmpareto"]
    args = ("--fusion", "independent", "--epochs", "1", "--policy")
    (record,) = train(*args, ",".join(names))["records"]
    assert record["status"] == "done", record["error"]
    document = train(*args, ",".join(reversed(names)))
    (again,) = document["records"]
    assert (again["trial_id"], again["digest"]) == (record["trial_id"], record["digest"])
    assert any("fixed order" in note for note in document["notes"])


def test_with_a_teacher(train: Run) -> None:
    args = ("--fusion", "late", "--kd", "logits", "--policy", "modality_dropout,tmc", "--set", "teacher.epochs=1")
    document = train(*args, "--epochs", "1")
    assert {r["status"] for r in document["records"]} == {"done"}
    args = ("--fusion", "late", "--kd", "logits", "--set", "teacher.epochs=1", "--epochs", "1")
    for policy in ("cutmix", "funmatch"):
        student = train(*args, "--policy", policy)["records"][-1]
        assert (student["status"], student["cost"]["teacher_replayed"]) == ("done", False)


@pytest.mark.parametrize("name", ["gradient_blending", "qmf", "agm", "aux_heads", "ogm_ge", "qat"])
def test_resumes_exactly(train: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from wbcbench.training import loop

    every = ("--set", "policy.every=1") if name == "gradient_blending" else ()
    args = ("--fusion", "independent", "--policy", name, "--epochs", "3", *every)
    real = loop.judge

    def stop(job: Any, state: Any) -> Any:
        if state.epoch == 2:
            raise KeyboardInterrupt
        return real(job, state)

    (whole,) = train(*args, store="whole")["records"]
    monkeypatch.setattr(loop, "judge", stop)
    train(*args, store="broken", code=130)
    monkeypatch.setattr(loop, "judge", real)
    (resumed,) = train(*args, store="broken")["records"]
    assert resumed["digest"] == whole["digest"]
