"""A trial's identity covers what changes the result and nothing else."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wbcbench.spec import (
    Augmentation,
    Budget,
    ComponentSpec,
    Method,
    Protocol,
    SplitSpec,
    Trial,
    canonical_json,
    digest,
)


def trial(**changes: object) -> Trial:
    protocol = Protocol(
        dataset=ComponentSpec(name="synthetic", params={"cells": 100}),
        modalities=("a", "b"),
        image_size=32,
        fingerprint="abc",
    )
    method = Method(fusion=ComponentSpec(name="early"), backbone=ComponentSpec(name="cellnet"))
    return Trial(protocol=protocol, method=method).model_copy(update=changes)


def test_identity_is_fixed_for_ever() -> None:
    """If this changes on purpose, raise HASH_VERSION: every store would otherwise train again silently."""
    assert canonical_json({"b": [1.0, 2.5, None, True], "a": "ü"}) == '{"a":"\\u00fc","b":[1,2.5,null,true]}'
    assert digest({"a": 1}) == "af000fedefe17342"


def test_survives_json() -> None:
    t = trial()
    assert Trial.model_validate_json(t.model_dump_json()).id == t.id


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"protocol": trial().protocol.model_copy(update={"image_size": 40})},
        {"protocol": trial().protocol.model_copy(update={"fingerprint": "abd"})},
        {"protocol": trial().protocol.model_copy(update={"budget": Budget(epochs=3)})},
        {"protocol": trial().protocol.model_copy(update={"augmentation": Augmentation(noise=0)})},
        {"method": trial().method.model_copy(update={"fusion": ComponentSpec(name="late")})},
        {"method": trial().method.model_copy(update={"teachers": (trial(),)})},
    ],
)
def test_whatever_changes_the_result_changes_the_identity(change: dict[str, object]) -> None:
    assert trial(**change).id != trial().id


def test_an_integer_and_an_equal_float_are_one_identity() -> None:
    a = trial(method=trial().method.model_copy(update={"fusion": ComponentSpec(name="x", params={"w": 1})}))
    b = trial(method=trial().method.model_copy(update={"fusion": ComponentSpec(name="x", params={"w": 1.0})}))
    assert a.id == b.id


def test_the_method_id_leaves_out_the_seed_only() -> None:
    assert trial(seed=1).method_id() == trial().method_id()
    other = trial(method=trial().method.model_copy(update={"fusion": ComponentSpec(name="late")}))
    assert other.method_id() != trial().method_id()


def test_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        trial().seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Trial.model_validate({**trial().model_dump(), "device": "cuda"})
    with pytest.raises(ValidationError):
        SplitSpec(val=0.5, test=0.5)
    with pytest.raises(ValueError, match="finite"):
        canonical_json(float("nan"))


def test_intensity_may_differ_by_modality() -> None:
    a = Augmentation(intensity={"brightfield": 0.2})
    assert a.of("intensity", "brightfield") == 0.2
    assert a.of("intensity", "dapi") == 0
    assert Augmentation(intensity=0.1).of("intensity", "dapi") == 0.1
    with pytest.raises(ValidationError):
        Augmentation(intensity={"brightfield": 2})
