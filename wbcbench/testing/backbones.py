"""The contract of backbones as tests."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from wbcbench.contracts import Backbone
from wbcbench.testing.components import component_class


class BackboneContract:
    """What every backbone must hold. `backbone` is a registered name or a class."""

    backbone: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    sizes: ClassVar[tuple[int, ...]] = (32, 40)

    @property
    def cls(self) -> type[Backbone]:
        return component_class("backbone", self.backbone)  # type: ignore[no-any-return]

    def build(self, in_chans: int, size: int, width: float = 1.0) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.cls(in_chans, size, self.cls.Params(**self.params), width)

    def test_embedding_and_maps(self) -> None:
        for size in self.sizes:
            for channels in (1, 4):
                net = self.build(channels, size).eval()
                x = torch.randn(2, channels, size, size)
                plain, full = net(x), net(x, maps=True)
                assert plain.embedding.shape == (2, net.dim)
                assert plain.maps == ()
                assert torch.allclose(plain.embedding, full.embedding, atol=1e-5)
                assert full.maps, "no stage maps"
                sides = [m.shape[-1] for m in full.maps]
                assert sides == sorted(sides, reverse=True), "stage maps run from shallow to deep"

    def test_stages_one_after_another_give_the_maps(self) -> None:
        net = self.build(2, self.sizes[0]).eval()
        x = torch.randn(2, 2, self.sizes[0], self.sizes[0])
        maps = net(x, maps=True).maps
        assert net.stage_count in (0, len(maps))
        for number in range(net.stage_count):
            x = net.stage(number, x)
            assert torch.allclose(x, maps[number], atol=1e-5), f"stage {number}"

    def test_no_classifier_and_every_parameter_trained(self) -> None:
        net = self.build(2, self.sizes[0]).train()
        net(torch.randn(4, 2, self.sizes[0], self.sizes[0])).embedding.sum().backward()
        idle = [n for n, p in net.named_parameters() if p.grad is None]
        assert not idle, f"no gradient reaches {idle}"

    def test_width_scales_where_declared(self) -> None:
        if not self.cls.scalable:
            return
        narrow, wide = self.build(3, self.sizes[0]), self.build(3, self.sizes[0], width=2.0)
        count = [sum(p.numel() for p in n.parameters()) for n in (narrow, wide)]
        assert 2 < count[1] / count[0] <= 4.5

    def test_same_seed_same_weights(self) -> None:
        a, b = self.build(3, self.sizes[0]), self.build(3, self.sizes[0])
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
