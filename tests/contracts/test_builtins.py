"""Every built-in component against the contract of its kind; a new one is covered by being registered."""

from __future__ import annotations

import pytest

from wbcbench.contracts import Needs, Parameters, Policy, param
from wbcbench.testing import (
    BackboneContract,
    DistillerContract,
    FusionContract,
    PolicyContract,
    RoutingContract,
)
from wbcbench.testing.components import registry
from wbcbench.testing.promise import BrokenPromise


def builtin(kind: str) -> list[str]:
    return [c.name for c in registry().components(kind) if c.builtin]


@pytest.mark.parametrize("fusion", builtin("fusion"), scope="class")
class TestFusions(FusionContract):
    test_it_can_be_exported_to_onnx = None  # type: ignore[assignment]  # tests/deploy exports trained ones

    @pytest.fixture(autouse=True)
    def _choose(self, fusion: str) -> None:
        type(self).fusion = fusion


@pytest.mark.parametrize("distiller", builtin("distiller"), scope="class")
class TestDistillers(DistillerContract):
    @pytest.fixture(autouse=True)
    def _choose(self, distiller: str) -> None:
        type(self).distiller = distiller


@pytest.mark.parametrize("routing", builtin("routing"), scope="class")
class TestRoutings(RoutingContract):
    @pytest.fixture(autouse=True)
    def _choose(self, routing: str) -> None:
        type(self).routing = routing


class TestCellNet(BackboneContract):
    backbone = "cellnet"
    params = {"width": 8}


class TestTimmResNet(BackboneContract):
    backbone = "timm"
    params = {"model": "test_resnet"}


class TestTimmConvNeXt(BackboneContract):
    backbone = "timm"
    params = {"model": "test_convnext"}


class TestMLP(BackboneContract):
    backbone = "mlp"


class TestFTTransformer(BackboneContract):
    backbone = "ft_transformer"
    params = {"dim": 16, "heads": 2}


class HeadDropout(Policy):
    """A policy as a stranger would write it: drops the second route's loss half of the time."""

    name = "toy_head_dropout"

    class Params(Parameters):
        share: float = param(0.5, "Share of the second term that is kept.", ge=0, le=1)

    params: Params

    def task_terms(self, terms, outputs, batch, progress):  # type: ignore[no-untyped-def]
        return {k: v * (self.params.share if i else 1.0) for i, (k, v) in enumerate(terms.items())}


@pytest.mark.parametrize("policy", [*builtin("policy"), HeadDropout], scope="class")
class TestPolicies(PolicyContract):
    @pytest.fixture(autouse=True)
    def _choose(self, policy: str) -> None:
        type(self).policy = policy


class Impatient(HeadDropout):
    """Waits for the device in every step."""

    def task_terms(self, terms, outputs, batch, progress):  # type: ignore[no-untyped-def]
        return {k: v * v.mean().item() for k, v in terms.items()}


def test_a_policy_that_waits_for_the_device_is_found() -> None:
    contract = type("Contract", (PolicyContract,), {"policy": Impatient})()
    contract.test_steps_around_every_fusion(2)
    with pytest.raises(BrokenPromise, match=r"reads a value back .*\.item\(\)"):
        contract.test_reads_nothing_back_from_the_device()


def test_needs_decide_whether_a_teacher_can_be_replayed() -> None:
    assert Needs().replayable
    assert Needs(teacher=("logits", "embedding"), labels=True, trainable=True).replayable
    assert not Needs(teacher=("maps",)).replayable
    assert Needs(teacher_head=True).replayable, "a classifier is known without running the network"
    assert not Needs(taught_by="peers").replayable
