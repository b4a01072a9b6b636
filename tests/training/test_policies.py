"""Every built-in policy in whole trials: trained, refused where it cannot act, resumed, order of hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wbcbench.testing.components import registry

Run = Callable[..., dict[str, Any]]

REFUSED = {
    ("contrastive", "independent"),  # one embedding for all modalities
    ("mmpareto", "late"),  # no parameter that two losses reach
}
NO_JOINT_ROUTE = {"etmc"}  # refused while planning


def policies() -> list[str]:
    return [c.name for c in registry().components("policy") if c.builtin]


@pytest.mark.parametrize("name", policies())
def test_with_one_network_and_with_several(train: Run, name: str) -> None:
    for fusion in ("independent", "late"):
        refused = (name, fusion) in REFUSED
        if name in NO_JOINT_ROUTE:
            document = train("--fusion", fusion, "--policy", name, code=2)
            assert "a joint route" in document["stderr"]
            continue
        args = ("--fusion", fusion, "--policy", name, "--epochs", "1")
        document = train(*args, code=2 if refused else 0)
        (record,) = document["records"]
        assert record["status"] == ("failed" if refused else "done"), record["error"]
        if refused:
            assert fusion in record["error"]


def test_several_in_the_order_given(train: Run) -> None:
    names = "batch_repetition,modality_dropout,aux_heads,mmpareto"
    (record,) = train("--fusion", "independent", "--policy", names, "--epochs", "1")["records"]
    assert record["status"] == "done", record["error"]


def test_with_a_teacher(train: Run) -> None:
    args = ("--fusion", "late", "--kd", "logits", "--policy", "modality_dropout,tmc", "--set", "teacher.epochs=1")
    document = train(*args, "--epochs", "1")
    assert {r["status"] for r in document["records"]} == {"done"}
    document = train(*args, "--policy", "cutmix", "--epochs", "1", code=2)
    assert "teachers know nothing" in document["stderr"]


@pytest.mark.parametrize("name", ["gradient_blending", "qmf", "agm", "aux_heads", "ogm_ge"])
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
