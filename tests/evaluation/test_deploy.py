"""What is deployed for some modalities: smaller where a network of its own is left out, and counted as such."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wbcbench.contracts import Fusion, FusionTraits, Outputs, PerModality, SolvedOnce, without
from wbcbench.errors import IncompatibleError
from wbcbench.evaluation.cost import macs, parameters
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.toys import build_toy, toy_batch, toy_task
from wbcbench.training.build import ReplacedHeads, impute

ONE_TRUNK = {"independent", "mixmo", "marker_excite", "mimonets"}
"""Native, but a single trunk reads every slot: an absent one is filled with zeros and costs what it costs."""
NAMES = [c.name for c in registry().components("fusion") if c.builtin]


def fusion_of(name: str, modalities: int = 3) -> Fusion:
    cls = component_class("fusion", name)
    count = min(modalities, cls.traits.arity[1] or modalities)
    return build_toy(cls, toy_task(count)).eval()


def cost(fusion: Fusion, given: tuple[str, ...] | None = None) -> tuple[int, int]:
    """Parameters and MACs of one cell."""
    images = {m: x[:1] for m, x in toy_batch(fusion.task).images.items() if given is None or m in given}
    module = fusion.deploy(given)
    return parameters(module), macs(module, images)


@pytest.mark.parametrize("name", [n for n in NAMES if component_class("fusion", n).traits.missing == "native"])
def test_native_fusions_cost_less_with_fewer_modalities(name: str) -> None:
    fusion = fusion_of(name)
    if isinstance(fusion, SolvedOnce):
        return
    whole, two, one = cost(fusion), cost(fusion, ("u", "w")), cost(fusion, ("w",))
    if name in ONE_TRUNK:
        assert whole[1] >= two[1] >= one[1] >= 0.95 * whole[1]
        return
    if name != "shared_trunk":  # which has one trunk for all
        assert whole[0] > two[0] > one[0]
    assert whole[1] > two[1] > one[1]
    late = fusion_of("late_prob")
    two_networks = cost(late)[1] - cost(late, ("w",))[1]
    assert whole[1] - one[1] > min(0.5 * whole[1], 0.95 * two_networks), "two of three networks are left out"


def test_late_fusion_costs_its_networks() -> None:
    fusion = fusion_of("late_prob")
    networks: Any = fusion.networks

    def of(m: str) -> int:
        return parameters(networks.backbones[m]) + parameters(networks.heads[m])

    assert cost(fusion)[0] == of("u") + of("v") + of("w")
    assert cost(fusion, ("v",))[0] == of("v")
    assert cost(fusion, ("w", "v"))[0] == of("v") + of("w")


@pytest.mark.parametrize("name", ["early", "concat", "stacking", "mmtm"])
def test_fusions_that_impute_cost_the_same_and_read_what_is_filled_in(name: str) -> None:
    fusion = fusion_of(name)
    assert cost(fusion, ("u",)) == cost(fusion)
    images = toy_batch(fusion.task).images
    filled = impute(fusion_of("early"), "zero").eval()
    with torch.no_grad():
        filled.imputer.fill("v").fill_(-2.0)  # type: ignore[union-attr, operator]
    given = {m: images[m] for m in "uw"}
    black = {**given, "v": torch.full_like(images["v"], -2.0)}
    assert torch.allclose(filled.deploy(("u", "w"))(given), filled.predict(filled(black)), atol=1e-6)


def test_centralnet_deploys_without_the_heads_it_does_not_predict_with() -> None:
    fusion = fusion_of("centralnet")
    heads: Any = fusion.heads
    assert cost(fusion)[0] == parameters(fusion) - sum(parameters(h) for h in heads.values())
    assert set(fusion(toy_batch(fusion.task).images)) == {"joint", "u", "v", "w"}, "the fusion keeps its heads"


def test_the_stacker_is_counted() -> None:
    fusion, k = fusion_of("stacking"), 3
    networks: Any = fusion.networks
    assert cost(fusion)[0] == parameters(networks) + (3 * k + 1) * k


def test_what_is_left_out_stays_where_it_was_and_what_is_kept_is_shared() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = PerModality({"a>": nn.Linear(2, 2), "b>": nn.Linear(2, 2)}, {"a>": "a", "b>": "b"})
            self.rest = nn.Linear(2, 2)

    holder = Holder()
    twin = without(holder, frozenset({"b"}))
    assert list(twin.each) == ["a>"]
    assert list(holder.each) == ["a>", "b>"]
    assert twin.each["a>"].weight is holder.each["a>"].weight
    assert twin.rest is holder.rest


def test_a_fusion_that_refuses_refuses() -> None:
    class Strict(component_class("fusion", "early")):  # type: ignore[misc]
        traits = FusionTraits(missing="refuse")

    fusion = build_toy(Strict, toy_task(2)).eval()
    assert parameters(fusion.deploy(("u", "v"))) == parameters(fusion)
    with pytest.raises(IncompatibleError, match="needs all of u, v"):
        fusion.deploy(("u",))
    for given in ((), ("u", "nucleus")):
        with pytest.raises(ValueError, match="Expected some of"):
            fusion_of("late_prob").deploy(given)


def test_a_stranger_s_native_fusion_needs_no_deploy() -> None:
    """Without `PerModality` nothing is left out, and absent images are filled in all the same."""

    class Stranger(component_class("fusion", "late_prob")):  # type: ignore[misc]
        def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
            assert set(images) == set(self.task.modalities)
            found: Outputs = super().forward(images, present, maps)
            return found

    fusion = build_toy(Stranger, toy_task(2)).eval()
    fusion.networks.backbones = nn.ModuleDict(fusion.networks.backbones)  # type: ignore[union-attr, arg-type]
    fusion.networks.heads = nn.ModuleDict(fusion.networks.heads)  # type: ignore[union-attr, arg-type]
    images = toy_batch(fusion.task).images
    assert torch.allclose(fusion.deploy(("v",))({"v": images["v"]}), fusion(images)["v"].logits.softmax(1))
    assert cost(fusion, ("v",)) == cost(fusion)


def test_heads_that_a_distiller_replaced_are_left_out_too() -> None:
    inner = fusion_of("late_prob", 2)
    simkd = component_class("distiller", "simkd")
    from wbcbench.contracts import PairShapes

    projectors = {}
    for m in "uv":
        projectors[m] = simkd(simkd.Params())
        projectors[m].setup(PairShapes(n_classes=3, n_cells=4, max_index=3, student_embedding=8,
                            teacher_embedding=8, student_maps=((8, 8, 8), (8, 4, 4)),
                            teacher_maps=((8, 8, 8), (8, 4, 4))))  # fmt: skip
    fusion = ReplacedHeads(inner, projectors, {m: nn.Linear(8, 3) for m in "uv"}).eval()
    images = toy_batch(inner.task).images
    present = torch.tensor([[False, True]]).expand(8, -1)
    with torch.no_grad():
        expected = fusion.predict(fusion(images, present), present)
        assert torch.allclose(fusion.deploy(("v",))({"v": images["v"]}), expected, atol=1e-6)
    assert cost(fusion, ("v",))[0] < cost(fusion)[0]
