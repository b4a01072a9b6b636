"""A trial's identity says what the trial is and nothing else: no order of keys, no way to write a number."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from wbcbench.errors import UsageError, WbcbenchError
from wbcbench.spec import ComponentSpec, Method, Protocol, Trial, digest
from wbcbench.spec.load import load_request, validate
from wbcbench.spec.request import Request
from wbcbench.spec.trial import Augmentation, Budget, Recipe, SplitSpec, canonical_json


def named(error: WbcbenchError, what: str) -> None:
    """A refusal says what it is about."""
    assert len(str(error)) > 10
    assert what in str(error)


NAMES = st.text("abcdefghijk_-.é", min_size=1, max_size=8)
NUMBERS = st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=8,
)
COMPONENTS = st.builds(ComponentSpec, name=NAMES, params=st.dictionaries(NAMES, VALUES, max_size=3))
SHARES = st.floats(0, 0.89)
PROTOCOLS = st.builds(
    Protocol,
    dataset=COMPONENTS,
    modalities=st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple),
    image_size=st.integers(8, 1024),
    fingerprint=st.text("0123456789abcdef", min_size=16, max_size=16),
    split=st.builds(
        SplitSpec,
        val=st.floats(0.05, 0.4),
        test=st.floats(0.05, 0.4),
        seed=st.integers(0, 9),
        allow_leaks=st.booleans(),
    ),
    budget=st.builds(Budget, epochs=st.integers(1, 99), batch_size=st.integers(2, 512)),
    augmentation=st.builds(
        Augmentation,
        rotate=st.floats(0, 180),
        intensity=st.one_of(SHARES, st.dictionaries(NAMES, SHARES, max_size=2)),
    ),
)
METHODS = st.builds(
    Method,
    fusion=COMPONENTS,
    backbone=COMPONENTS,
    recipe=st.builds(Recipe, lr=st.floats(1e-9, 10, exclude_min=True), ema=st.floats(0, 0.999)),
    distillers=st.lists(COMPONENTS, max_size=2).map(tuple),
    routing=st.one_of(st.none(), COMPONENTS),
)
TRIALS = st.builds(Trial, protocol=PROTOCOLS, method=METHODS, seed=st.integers(0, 2**31), sealed=st.booleans())


def shuffled(value: Any, draw: random.Random) -> Any:
    """The same, with keys in another order and whole numbers written as 3 or 3.0."""
    if isinstance(value, dict):
        keys = list(value)
        draw.shuffle(keys)
        return {k: shuffled(value[k], draw) for k in keys}
    if isinstance(value, list):
        return [shuffled(v, draw) for v in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 and draw.random() < 0.5:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 and draw.random() < 0.5:
        return float(value)
    return value


@given(TRIALS, st.randoms(use_true_random=False))
def test_a_trial_that_was_written_and_read_is_the_same(trial: Trial, draw: random.Random) -> None:
    document = json.loads(trial.model_dump_json())
    again = Trial.model_validate_json(json.dumps(shuffled(document, draw)))
    assert again.id == trial.id
    assert again.method_id() == trial.method_id()
    assert trial.seal().sealed
    assert (trial.seal().id == trial.id) == trial.sealed


@given(TRIALS)
def test_defaults_that_are_written_out_change_nothing(trial: Trial) -> None:
    assert Trial.model_validate(trial.model_dump(mode="json")).id == trial.id
    bare = trial.model_dump(mode="json", exclude_defaults=True)
    assert Trial.model_validate(bare).id == trial.id


@given(TRIALS, st.integers(0, 2**31), NAMES)
def test_what_differs_has_another_identity(trial: Trial, seed: int, name: str) -> None:
    other = Trial(protocol=trial.protocol, method=trial.method, seed=seed, sealed=trial.sealed)
    assert (other.id == trial.id) == (seed == trial.seed)
    assert other.method_id() == trial.method_id()
    renamed = trial.method.model_copy(
        update={"backbone": ComponentSpec(name=name, params=trial.method.backbone.params)}
    )
    changed = Trial(protocol=trial.protocol, method=renamed, seed=trial.seed, sealed=trial.sealed)
    assert (changed.id == trial.id) == (name == trial.method.backbone.name)


@given(VALUES, VALUES)
def test_equal_identities_are_of_equal_values(a: Any, b: Any) -> None:
    assert canonical_json(json.loads(canonical_json(a))) == canonical_json(a)
    assert (digest(a) == digest(b)) == (canonical_json(a) == canonical_json(b))


CHOICES = st.sampled_from(["early", "independent:rho=0.5", "gated", "attention:heads=2"])
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "fusion": st.lists(CHOICES, min_size=1, max_size=3),
        "kd": st.sampled_from(["none", "none,logits", "logits+at", "logits:weight=0.5,at:weight=10"]),
        "backbone": st.sampled_from(["cellnet", "cellnet:width=8"]),
        "seeds": st.one_of(st.just("0,1"), st.lists(st.integers(0, 9), min_size=1, max_size=3)),
        "modalities": st.one_of(st.none(), st.just("u,v"), st.just(["u"])),
        "training": st.fixed_dictionaries({"lr": st.sampled_from([0.001, "1e-3", 1e-3])}),
        "budget": st.fixed_dictionaries({"epochs": st.integers(1, 9)}),
        "dataset": st.one_of(st.just("npz"), st.just({"name": "npz", "path": "x.npz"})),
        "teacher": st.sampled_from(["cellnet", {"backbone": ["cellnet", "cellnet:width=9"], "seeds": [0, 1]}]),
        "exclude": st.just([{"fusion": "early", "kd": "logits"}]),
    },
)


@given(REQUESTS)
def test_a_request_survives_yaml_and_its_own_dump(tree: dict[str, Any]) -> None:
    request = validate(Request, tree, "test")
    assert validate(Request, request.model_dump(mode="json"), "dump") == request
    assert validate(Request, yaml.safe_load(yaml.safe_dump(tree)), "yaml") == request


@given(st.dictionaries(st.one_of(st.sampled_from(sorted(Request.model_fields)), NAMES), VALUES, max_size=3))
def test_any_tree_is_a_request_or_a_usage_error(tree: dict[str, Any]) -> None:
    try:
        validate(Request, tree, "test")
    except UsageError as error:
        named(error, "test: ")


@given(
    st.lists(
        st.tuples(st.one_of(st.sampled_from(["fusion.x", "training.lr", "seeds", "kd"]), NAMES), st.text()),
        max_size=3,
    )
)
def test_any_setting_is_taken_or_a_usage_error(pairs: list[tuple[str, str]]) -> None:
    with suppress(UsageError):
        load_request(settings=tuple(f"{k}={v}" for k, v in pairs))
