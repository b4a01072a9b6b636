"""A student's budget instead of its width: the widest that fits, whose trial is the one of that width."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wbcbench.contracts.params import Parameters, param, sizing
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.registry import Registry
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling import sizing as sizing_module
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.scheduling.sizing import widest
from wbcbench.spec import Trial
from wbcbench.spec.load import load_request

Invoke = Callable[..., tuple[int, str, str]]


@functools.cache
def registry() -> Registry:
    return load_plugins()[0]


def plan(settings: dict[str, Any] | None = None, **flags: Any) -> Plan:
    known = {"image_size": 16, "dataset": {"name": "synthetic", "cells": 60}, "fusion": "early"}
    return make_plan(load_request(None, known | flags, settings or {}), registry())


def students(found: Plan) -> list[Trial]:
    return [p.trial for p in found.trials if p.role == "student"]


@pytest.mark.parametrize(
    ("largest", "low", "high", "expected"),
    [(13, 4, 512, 13), (4, 4, 512, 4), (3, 4, 512, None), (900, 4, 512, 512), (8, 4, 8, 8), (5, 0, 100, 5)],
)
def test_the_widest_is_found_without_trying_much_wider_ones(
    largest: int, low: int, high: int, expected: int | None
) -> None:
    tried: list[int] = []
    assert widest(lambda width: tried.append(width) or width <= largest, low, high) == expected
    assert max(tried) <= max(low, 2 * largest)


@pytest.mark.parametrize(("text", "number"), [("5M", 5_000_000), ("1.5k", 1500), (7, 7), (None, None)])
def test_budgets_are_read(text: Any, number: int | None) -> None:
    assert load_request(None, {"max_macs": text}).max_macs == number


@pytest.mark.parametrize(
    "limit", [{"max_macs": "900k"}, {"max_params": "20k"}, {"max_macs": "2M", "max_params": "16k"}]
)
def test_the_widest_that_fits_is_chosen_for_each_fusion(limit: dict[str, Any]) -> None:
    found = plan(fusion="early,late_prob", kd="none,logits", **limit)
    notes = [n for n in found.notes if n.startswith("Budget: ")]
    assert len(notes) == 2, "one for each network, not for each distiller"
    widths = {t.method.fusion.name: t.method.backbone.params["width"] for t in students(found)}
    assert widths["early"] > widths["late_prob"]
    for note in notes:
        has, more = (
            re.findall(r"([\d,]+) (MACs|parameters)", part) for part in note.split("it has ")[1].split(";")
        )
        limits = {"MACs": found_limit(limit, "max_macs"), "parameters": found_limit(limit, "max_params")}
        assert all(int(n.replace(",", "")) <= limits[what] for n, what in has), note
        assert any(int(n.replace(",", "")) > limits[what] for n, what in more), note
    named = plan(fusion="early", backbone=f"cellnet:width={widths['early']}")
    assert students(named)[0].id in {t.id for t in students(found)}
    assert {t.method.backbone.params["width"] for p in found.trials if p.role == "teacher" for t in [p.trial]} == {
        32
    }


def found_limit(limit: dict[str, Any], name: str) -> float:
    found = load_request(None, limit)
    return getattr(found, name) or float("inf")


def test_the_widest_that_is_fast_enough_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial is the one of the width, whatever machine measured it."""

    def timed(deployed: torch.nn.Module, images: Any, network: Any) -> float:
        return float(network[1]["params"]["width"]) / 10

    monkeypatch.setattr(sizing_module, "milliseconds", timed)
    found = plan(max_latency_ms=1.25)
    assert students(found)[0].id == students(plan(backbone="cellnet:width=12"))[0].id
    (note,) = [n for n in found.notes if n.startswith("Budget: ")]
    assert "the widest with at most 1.25 ms" in note
    assert "and 1.2 ms; width 13 would have" in note
    with pytest.raises(IncompatibleError, match=r"its narrowest, with width 4, has .* and 0.4 ms"):
        plan(max_latency_ms=0.3)


def test_a_latency_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """So that the same command gives the same trials; with one thread."""
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path))
    threads: list[int] = []
    before = torch.get_num_threads()

    def run(images: Any) -> None:
        threads.append(torch.get_num_threads())

    first = sizing_module.milliseconds(run, {}, ["a"])
    count = len(threads)
    assert sizing_module.milliseconds(run, {}, ["a"]) == first
    assert len(threads) == count
    sizing_module.milliseconds(run, {}, ["b"])
    assert len(threads) > count
    assert set(threads) == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("flags", "settings", "error", "message"),
    [
        ({"max_macs": "5x"}, {}, UsageError, "expected a number such as 5M"),
        ({"max_params": 0}, {}, UsageError, "max_params"),
        ({"max_latency_ms": -1}, {}, UsageError, "max_latency_ms"),
        ({"max_macs": "5M", "backbone": "cellnet:width=8"}, {}, UsageError, "but got both"),
        ({"max_macs": "5M"}, {"backbone.width": 8}, UsageError, "but got both"),
        ({"max_params": 900}, {}, IncompatibleError, "its narrowest, with width 4, has"),
        (
            {"max_params": 900, "backbone": "test_resnet"},
            {},
            IncompatibleError,
            "with backbone 'test_resnet' it has",
        ),
        (
            {"max_params": "1G", "fusion": "knn", "backbone": "test_resnet:pretrained=true"},
            {},
            IncompatibleError,
            "may hold the training cells",
        ),
        (
            {"max_params": "1M", "kd": "simkd", "fusion": "independent"},
            {},
            IncompatibleError,
            "Give its width instead",
        ),
    ],
)
def test_budgets_that_cannot_be_kept(
    flags: dict[str, Any], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan(settings, **flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"backbone": "brightfield=cellnet,nucleus=resnet10t,granule=cellnet"},
        {"dataset": {"name": "synthetic", "cells": 60, "markers": 3}},
    ],
    ids=["given", "numbers"],
)
def test_a_budget_is_never_without_effect(flags: dict[str, Any]) -> None:
    """Where modalities have backbones of their own, which of them to widen is not for us to say."""
    with pytest.raises(IncompatibleError, match="Expected one backbone for all modalities, whose width"):
        plan(fusion="late_prob", kd="none", max_macs="900k", **flags)


def test_a_fusion_without_a_backbone_is_only_checked() -> None:
    (limited,), (free,) = (students(plan(fusion="handcrafted", **b)) for b in ({"max_params": "1M"}, {}))
    assert limited.id == free.id


def test_any_parameter_may_be_the_one_that_sizes() -> None:
    class Params(Parameters):
        depth: int = param(1, "Blocks.", ge=1, le=9)
        channels: int = param(8, "Of every layer.", ge=2, le=64, sizes=True)

    assert sizing(Params) == ("channels", 2, 64)
    assert sizing(Parameters) is None
    with pytest.raises(ValueError, match="`ge` and `le`"):
        param(8, "Of every layer.", ge=2, sizes=True)


def test_the_record_costs_what_planning_said(invoke: Invoke, tmp_path: Any) -> None:
    import json

    args = (
        "run", "--fusion", "independent", "--max-params", "9k", "--epochs", "1", "--image-size", "16",
        "--set", "dataset.cells=60", "--set", "threads=1", "--device", "cpu", "--executor", "inline",
        "--store", str(tmp_path / "store"),
    )  # fmt: skip
    code, _, err = invoke(*args, "--dry-run")
    assert code == 0, err
    found = re.search(r"it has ([\d,]+) MACs and ([\d,]+)", err)
    assert found is not None
    macs, params = (int(n.replace(",", "")) for n in found.groups())
    code, out, err = invoke(*args, "--json")
    assert code == 0, err
    (record,) = json.loads(out)["records"]
    assert (record["cost"]["macs"], record["cost"]["params"]) == (macs, params)
