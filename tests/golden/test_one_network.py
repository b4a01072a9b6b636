"""Early fusion, `independent` and single modalities: parameter counts, starting filters, private layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wbcbench.contracts import Backbone, Fusion
from wbcbench.contracts.params import identity
from wbcbench.data.views import EpochDraws
from wbcbench.errors import IncompatibleError
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import toy_batch, toy_draw, toy_task

K, DIM = 3, 16


def net(channels: int, *, width: float = 1.0, modality: str | None = None) -> Backbone:
    cls = component_class("backbone", "cellnet")
    made: Backbone = cls(channels, 16, cls.Params(width=4), width)
    return made


def build(name: str, modalities: int = 2, seed: int = 0, **params: Any) -> Fusion:
    cls = component_class("fusion", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fusion: Fusion = cls(toy_task(modalities), net, cls.Params(**params))
    return fusion


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("modalities", [1, 2, 3, 6])
def test_parameters_equal_their_closed_form(modalities: int) -> None:
    trunk = size(net(sum(toy_task(modalities).channels.values())))
    heads = modalities * (DIM + 1) * K
    assert size(build("early", modalities)) == trunk + (DIM + 1) * K
    assert size(build("independent", modalities)) == trunk + heads
    assert size(build("independent", modalities, unmix=True)) == trunk + heads + modalities * (DIM + 1) * DIM
    channels = sum(toy_task(modalities).channels.values())
    features = 14 * channels + channels * (channels - 1) // 2
    assert size(build("handcrafted", modalities)) == (features + 1) * K


def test_a_single_modality_is_one_backbone_and_one_head() -> None:
    assert size(build("single", 1)) == size(net(next(iter(toy_task(1).channels.values())))) + (DIM + 1) * K


def slots(fusion: Fusion) -> list[torch.Tensor]:
    weight = fusion.backbone.stem[0].weight  # type: ignore[index, union-attr]
    return list(weight.detach().split(list(fusion.task.channels.values()), 1))


def test_symmetric_slots_start_alike_and_asymmetric_ones_do_not() -> None:
    usual = slots(build("independent", 3))
    same = slots(build("independent", 3, stem="symmetric"))
    fresh = slots(build("independent", 3, stem="asymmetric"))
    assert torch.equal(same[0], usual[0])
    assert torch.equal(fresh[0], usual[0])
    for slot in same[1:]:
        count = slot.shape[1]
        assert torch.allclose(slot[:, 0], same[0][:, 0] * (same[0].shape[1] / count) ** 0.5)
    for slot, before in zip(fresh[1:], usual[1:], strict=True):
        assert not torch.allclose(slot, before)
        assert not torch.allclose(slot[:, 0], fresh[0][:, 0])
        assert float(slot.std()) == pytest.approx(float(fresh[0].std()), rel=0.3)


def test_symmetric_slots_make_two_equal_images_exchangeable() -> None:
    """Slots of one size that start alike: swapping the two images changes no feature."""
    cls = component_class("fusion", "independent")
    task = toy_task(2)
    task = type(task)(dict.fromkeys(task.channels, 2), task.classes, task.image_size)
    fusion: Fusion = cls(task, net, cls.Params(stem="symmetric")).eval()
    a, b = torch.randn(2, 4, 2, 16, 16)
    one, other = fusion({"u": a, "v": b}), fusion({"u": b, "v": a})
    assert torch.allclose(one["u"].logits, other["u"].logits, atol=1e-5)


def test_unmixing_gives_every_head_features_of_its_own() -> None:
    fusion = build("independent", 2, unmix=True).eval()
    images = toy_batch(fusion.task, 6).images
    outputs = fusion(images)
    h = fusion.backbone(torch.cat(list(images.values()), 1)).embedding  # type: ignore[operator]
    for m, out in outputs.items():
        layer = fusion.unmix[m]  # type: ignore[index]
        assert torch.allclose(out.embedding, F.relu(h @ layer.weight.T + layer.bias))
        assert torch.allclose(out.logits, fusion.heads[m](out.embedding))  # type: ignore[index]
        assert {id(p) for p in layer.parameters()} <= {id(p) for p in fusion.head_params()[m]}


def test_parameters_that_came_later_do_not_rename_what_was_there() -> None:
    params = component_class("fusion", "independent").Params
    assert identity(params()) == {"rho": 0.5, "repeats": 1, "width": 1.0}
    assert identity(params(unmix=True)) == {"rho": 0.5, "repeats": 1, "width": 1.0, "unmix": True}
    assert identity(params(stem="symmetric", rho=1)) == {
        "rho": 1.0, "repeats": 1, "width": 1.0, "stem": "symmetric",
    }  # fmt: skip


def test_packed_is_thin_ensemble_where_they_are_equally_wide() -> None:
    packed, thin = build("packed", width=0.7), build("thin_ensemble", width=0.7)
    images = toy_batch(packed.task, 6).images
    a, b = packed.eval()(images), thin.eval()(images)
    assert all(torch.equal(a[m].logits, b[m].logits) for m in a)


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_slots_of_an_epoch_show_every_cell_once(rho: float) -> None:
    fusion: Any = build("independent", 3, rho=rho, slots="epoch")
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tensor_split(7)
    draws = EpochDraws(0, 4, len(order), torch.device("cpu"))
    slots = fusion.slots(order, draws.epoch())
    again = fusion.slots(order, EpochDraws(0, 4, len(order), torch.device("cpu")).epoch())
    other = fusion.slots(order, EpochDraws(0, 5, len(order), torch.device("cpu")).epoch())
    a, b, c = (torch.cat(slots[m]) for m in fusion.task.modalities)
    for m, steps in slots.items():
        assert [len(s) for s in steps] == [len(s) for s in order]
        assert torch.equal(torch.cat(steps).sort().values, torch.arange(100))
        assert torch.equal(torch.cat(steps), torch.cat(again[m]))
    agree = ((a == b) & (b == c)).float().mean()
    assert agree == pytest.approx(rho, abs=0.04)
    assert torch.equal(torch.cat(other[fusion.task.modalities[0]]), a) == (rho == 1.0)
    # across the epoch, not within a batch: few of a step's new cells are of its own batch
    if rho == 0:
        second = slots[fusion.task.modalities[1]]
        own = torch.cat([torch.isin(new, ids) for new, ids in zip(second, order, strict=True)])
        assert own.float().mean() < 0.35


def test_slots_of_an_epoch_cannot_be_drawn_again() -> None:
    fusion: Any = build("independent", slots="epoch")
    with pytest.raises(IncompatibleError, match="batch_repetition"):
        fusion.assemble(toy_batch(fusion.task), toy_draw())
    usual: Any = build("independent")
    assert usual.slots([torch.arange(4)], toy_draw()) is None
