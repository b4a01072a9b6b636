"""The space: its words, what components declare, what is pinned, what depends on the chosen method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from wbcbench.errors import UsageError
from wbcbench.registry import Registry
from wbcbench.scheduling.plan import make_plan
from wbcbench.searches.declared import build_space
from wbcbench.searches.search import each_method
from wbcbench.searches.settings import SearchSettings
from wbcbench.searches.space import Dimension, Range, parse_range
from wbcbench.spec.request import Request

Make = Callable[..., Request]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(1,20)", Range(kind="float", low=1, high=20, log=True)),
        ("uniform( 0 , 0.5 )", Range(kind="float", low=0, high=0.5)),
        ("log(1e-4,1e-2)", Range(kind="float", low=1e-4, high=1e-2, log=True)),
        ("int(1,8)", Range(kind="int", low=1, high=8)),
        ("logint(1,64)", Range(kind="int", low=1, high=64, log=True)),
        ("choice(a,b,2,true)", Range(kind="choice", choices=("a", "b", 2, True))),
        ("choice(a,a)", Range(kind="fixed", choices=("a",))),
        ("fixed(0.5)", Range(kind="fixed", choices=(0.5,))),
        ("0.5", Range(kind="fixed", choices=(0.5,))),
        ("sgd", Range(kind="fixed", choices=("sgd",))),
        (3, Range(kind="fixed", choices=(3,))),
        ([1, 2], Range(kind="choice", choices=(1, 2))),
    ],
)
def test_every_form_of_a_range(text: Any, expected: Range) -> None:
    assert parse_range("x", text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loog(1,2)", "Did you mean 'log'"),
        ("log(0,1)", "above 0"),
        ("uniform(2,1)", "from low to high"),
        ("uniform(1)", "two numbers"),
        ("uniform(a,b)", "two numbers"),
        ("uniform(true,2)", "two numbers"),
        ("int(0.5,2)", "whole numbers"),
        ("choice()", "at least one"),
        ("fixed(1,2)", "one value"),
        ("choice([1],[2])", "expected a number"),
        ("uniform(0,.inf)", "two numbers"),
        (f"uniform(0,{10**400})", "two numbers"),
        ({"low": 1}, "expected a number"),
    ],
)
def test_a_bad_range_is_refused_with_the_reason(text: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_range("x", text)


@given(st.text(alphabet="loguniformchoicet()[],.0123456789e-ax_ '\"{}:", max_size=30))
def test_no_text_does_more_than_name_a_range_or_be_refused(text: str) -> None:
    try:
        found = parse_range("x", text)
    except UsageError:
        return
    assert Range.model_validate(found.model_dump()) == found
    if found.kind != "fixed":
        Dimension(name="x", section="training", range=found).distribution()


def names(request: Request, registry: Registry, **space: Any) -> dict[str, str]:
    return {d.name: str(d.range) for d in build_space(request, registry, space).free}


def test_declared_ranges_of_components_and_trainer(request_of: Make, registry: Registry) -> None:
    found = names(request_of(fusion="independent", kd="dkd"), registry)
    assert found["training.lr"] == "log(0.0003, 0.02)"
    assert found["fusion.rho"] == "uniform(0, 1)"
    assert found["distiller.temperature"] == "log(1, 20)"
    assert found["distiller.weight"] == "log(0.01, 10)"
    assert not any(n.startswith(("kd", "routing", "teacher", "budget")) for n in found)


def test_what_is_pinned_is_not_searched_unless_space_says_so(request_of: Make, registry: Registry) -> None:
    request = request_of("training.lr=1e-3", "kd.beta=2", fusion="independent:rho=0.5", kd="dkd")
    found = names(request, registry)
    assert not {"training.lr", "distiller.beta", "fusion.rho"} & set(found)
    space = build_space(request, registry, {"fusion.rho": "uniform(0,1)", "distiller.alpha": "1.5"})
    assert {"fusion.rho", "distiller.temperature"} <= {d.name for d in space.free}
    proposed = space(FixedTrial({**{d.name: _low(d) for d in space.free}, "fusion.rho": 0.25}))
    assert proposed.fusion[0].params["rho"] == 0.25
    assert proposed.kd[0][0].params["beta"] == 2
    assert proposed.kd[0][0].params["alpha"] == 1.5
    assert proposed.training.lr == 1e-3


def _low(dimension: Dimension) -> Any:
    r = dimension.range
    return r.choices[0] if r.choices else int(r.low) if r.kind == "int" else r.low


def test_kd_and_distiller_are_the_same_word(request_of: Make, registry: Registry) -> None:
    request = request_of(fusion="early", kd="dkd")
    for name in ("kd.temperature", "distiller.temperature", "distiller.dkd.temperature", "kd.dkd.temperature"):
        assert build_space(request, registry, {name: "uniform(2,3)"}).distributions()[
            "distiller.temperature"
        ] == optuna.distributions.FloatDistribution(2, 3)


def test_several_distillers_are_told_apart_by_name(request_of: Make, registry: Registry) -> None:
    request = request_of(fusion="early", kd="dkd,logits")
    found = names(request, registry)
    assert found["kd"] == "choice(dkd, logits)"
    assert {"distiller.dkd.temperature", "distiller.logits.temperature", "distiller.dkd.beta"} <= set(found)
    both = build_space(request, registry, {"distiller.temperature": "uniform(2,3)"}).distributions()
    assert both["distiller.dkd.temperature"] == both["distiller.logits.temperature"]
    assert both["distiller.dkd.temperature"].low == 2  # type: ignore[attr-defined]


def test_parameters_exist_only_for_the_method_that_has_them(request_of: Make, registry: Registry) -> None:
    request = request_of(fusion="early,independent", kd="none,dkd+at")
    space = build_space(request, registry)
    when = {d.name: d.when for d in space.dimensions}
    assert when["fusion.rho" if "fusion.rho" in when else "fusion.independent.rho"] == {"fusion": ("independent",)}
    assert when["distiller.dkd.beta"] == {"kd": ("dkd+at",)}
    assert when["training.lr"] == {}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        proposed = space(trial)
        student = [p.trial for p in make_plan(proposed, registry).trials if p.role == "student"]
        assert len(student) == 1
        method = student[0].method
        seen.add((method.fusion.name, method.kd))
        assert ("fusion.independent.rho" in trial.params) == (method.fusion.name == "independent")
        assert ("distiller.dkd.beta" in trial.params) == (method.kd == "dkd+at")
        again = space(FixedTrial(trial.params, trial.number))
        assert again == proposed
        assert set(trial.params) <= set(space.distributions())
    assert len(seen) == 4


def test_each_modality_has_ranges_of_its_own(request_of: Make, registry: Registry) -> None:
    """Of backbones by modality; a range for `backbone.width` is that of all of them."""
    one = "u=cellnet,v=cellnet:width=8"
    request = request_of(fusion="late_prob", backbone=f"{one},u=resnet10t,v=cellnet")
    space = build_space(request, registry, {"backbone.width": "int(4,6)", "backbone.v.width": "int(10,12)"})
    found = {d.name: d for d in space.dimensions if d.section == "backbone" and d.parameter == "width"}
    assert {n: str(d.range) for n, d in found.items()} == {
        "backbone.u:cellnet.width": "int(4, 6)",
        "backbone.v:cellnet.width": "int(10, 12)",
    }
    assert found["backbone.u:cellnet.width"].when == {"backbone": (one,)}
    values = {d.name: _low(d) for d in space.free} | {"backbone.u:cellnet.width": 5}
    (student,) = (p.trial for p in make_plan(space.overlay(values), registry).trials if p.role == "student")
    assert {m: b.params["width"] for m, b in student.method.backbones.items()} == {"u": 5, "v": 10}


def test_teachers_stay_those_of_the_base_request(request_of: Make, registry: Registry) -> None:
    request = request_of(fusion="early", kd="logits")
    space = build_space(request, registry)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))

    def teachers(of: Request) -> list[str]:
        return [p.trial.id for p in make_plan(of, registry).trials if p.role == "teacher"]

    proposals = [space(study.ask()) for _ in range(4)]
    assert len({p.training.lr for p in proposals}) == 4
    for proposed in proposals:
        assert teachers(proposed) == teachers(request)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"distiller.temprature": "log(1,20)"}, "Did you mean 'distiller.temperature'"),
        ({"training.lrr": "log(1,20)"}, "training.lr"),
        ({"budget.epochs": "int(1,20)"}, "protocol"),
        ({"teacher.lr": "log(1,2)"}, "Teachers are shared"),
        ({"fusion": "choice(a,b)"}, "--fusion a,b"),
        ({"training.lr": "uniform(-1,1)"}, "greater than 0"),
        ({"training.lr": "choice(fast,slow)"}, "valid number"),
        ({"training.optimiser": "choice(adamw,adam)"}, "'adamw' or 'sgd'"),
    ],
)
def test_a_space_that_cannot_be_is_refused(
    request_of: Make, registry: Registry, space: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build_space(request_of(fusion="early", kd="logits"), registry, space)


def test_nothing_to_search_is_refused(request_of: Make, registry: Registry) -> None:
    fixed = {f"training.{k}": v for k, v in {"lr": 1e-3, "weight_decay": 0, "label_smoothing": 0}.items()}
    with pytest.raises(UsageError, match="at least one parameter to search"):
        build_space(request_of(fusion="early"), registry, {**fixed, "training.class_weighting": "sqrt"})


def test_each_gives_every_method_its_own_equal_search(request_of: Make, registry: Registry) -> None:
    request = request_of("fusion.rho=0.5", fusion="early,independent", kd="none,dkd")
    settings = SearchSettings(trials=7, seed=3, sampler="random")
    searches = each_method(request, registry, settings, {"distiller.beta": "uniform(1,2)"})
    assert len({s.folder.id for s in searches}) == len(searches) == 4
    assert {(s.settings.trials, s.spec.seed, s.spec.sampler) for s in searches} == {(7, 3, "random")}
    for search in searches:
        assert len(search.spec.methods) == 1
        assert not any(d.name in ("fusion", "kd") for d in search.space.dimensions)
    betas = [d for s in searches for d in s.space.free if d.parameter == "beta"]
    assert len(betas) == 2
    assert {str(d.range) for d in betas} == {"uniform(1, 2)"}
    with pytest.raises(UsageError, match="no parameter"):
        each_method(request, registry, settings, {"distiller.bta": "uniform(1,2)"})
