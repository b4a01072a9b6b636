"""The contract of backbones as tests."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from wbcbench.contracts import Backbone
from wbcbench.testing.components import backbone_types, component_class
from wbcbench.testing.effects import backbone_trace, check_effects
from wbcbench.testing.promise import check_registered, made, no_reads, promise
from wbcbench.testing.toys import noise


class BackboneContract:
    """What every backbone must satisfy. `backbone` is a registered name, a class, or the path of a plugin file."""

    backbone: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    sizes: ClassVar[tuple[int, ...]] = (32, 40)

    @property
    def cls(self) -> type[Backbone]:
        return component_class("backbone", self.backbone)  # type: ignore[no-any-return]

    def build(self, in_chans: int, size: int, width: float = 1.0) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            side = 0 if self.cls.reads == "vectors" else size
            given = (in_chans, side, self.cls.Params(**self.params), width)
            return made(self.cls, "in_chans, image_size, params, width", *given)  # type: ignore[no-any-return]

    def inputs(self, cells: int, channels: int, size: int) -> Tensor:
        """Noise of the kind that it reads: images, or vectors of `channels` numbers."""
        return noise(self.cls, cells, channels, size)

    def test_types(self) -> None:
        """It sets `dim`, and its methods return what they should: `forward` a Features."""
        backbone_types(self.build(2, self.sizes[0]).eval(), 2, self.sizes[0])

    def test_embedding_and_maps(self) -> None:
        """Any number of channels and any side give an embedding of width `dim`, and maps of images on request."""
        for size in self.sizes:
            for channels in (1, 4):
                net = self.build(channels, size).eval()
                x = self.inputs(2, channels, size)
                plain, full = net(x), net(x, maps=True)
                promise(
                    plain.embedding.shape == (2, net.dim),
                    f"2 images of {channels} channels and side {size} gave the embedding "
                    f"{list(plain.embedding.shape)}; `self.dim` is {net.dim}.",
                    "Pool to [B, D] and set `self.dim = D` in `__init__`.",
                    "forward",
                )
                promise(
                    plain.maps == () and (full.maps or self.cls.reads == "vectors"),
                    f"`forward` gave {len(plain.maps)} maps with maps=False and {len(full.maps)} with maps=True.",
                    "Return Features(embedding, maps) with maps=() unless they are requested.",
                    "forward",
                )
                promise(
                    torch.allclose(plain.embedding, full.embedding, atol=1e-5),
                    "The embedding differs when maps are requested, or between two calls in evaluation.",
                    "Compute it the same way, and draw random numbers in training only.",
                    "forward",
                )
                sides = [m.shape[-1] for m in full.maps]
                promise(
                    sides == sorted(sides, reverse=True),
                    f"The maps have the sides {sides}.",
                    "List them from shallow (large) to deep (small).",
                    "forward",
                )

    def test_stages_one_after_another_give_the_maps(self) -> None:
        """Run one after another, the stages give the maps that `forward` gives."""
        net = self.build(2, self.sizes[0]).eval()
        x = self.inputs(2, 2, self.sizes[0])
        maps = net(x, maps=True).maps
        promise(
            net.stage_count in (0, len(maps)),
            f"`stage_count` is {net.stage_count}, but `forward` gives {len(maps)} maps.",
            "Make them equal, or leave `stage_count` at 0.",
            "stage_count",
        )
        for number in range(net.stage_count):
            x = net.stage(number, x)
            promise(
                x.shape == maps[number].shape and torch.allclose(x, maps[number], atol=1e-5),
                f"Stage {number} gives a different map from `forward`.",
                "Let `forward` call `stage`, or leave `stage_count` at 0.",
                "stage",
            )

    def test_eval_is_deterministic(self) -> None:
        """In evaluation an image always gets the same embedding, alone or in a batch."""
        net = self.build(2, self.sizes[0]).eval()
        x = self.inputs(3, 2, self.sizes[0])
        first, second = net(x).embedding, net(x).embedding
        promise(
            torch.equal(first, second),
            "Two calls in evaluation mode on the same images gave different embeddings.",
            "Draw random numbers in training only: nn.Dropout, no torch.rand in `forward`.",
            "forward",
        )
        promise(
            torch.allclose(first[1:2], net(x[1:2]).embedding, atol=1e-4),
            "An image alone gets a different embedding from the same image in a batch.",
            "Do not normalise or average over the batch axis in evaluation.",
            "forward",
        )

    def test_no_classifier_and_every_parameter_trained(self) -> None:
        """Every parameter is registered and gets a gradient; there is no unused classifier."""
        net = self.build(2, self.sizes[0]).train()
        loss = net(self.inputs(4, 2, self.sizes[0])).embedding.sum()
        promise(
            loss.requires_grad,
            "The embedding has no gradient at all.",
            "Look for .detach(), torch.no_grad() or .data.",
            "forward",
        )
        check_registered(loss, net)
        loss.backward()  # type: ignore[no-untyped-call]
        idle = [n for n, p in net.named_parameters() if p.grad is None]
        promise(
            not idle,
            f"No gradient reaches {', '.join(idle)}.",
            "Remove classifiers and unused layers; look for .detach() on the way to the embedding.",
            "forward",
        )

    def test_nothing_is_read_back_from_the_device(self) -> None:
        """A training step never waits for the device."""
        net = self.build(2, self.sizes[0]).train()
        x = self.inputs(4, 2, self.sizes[0])
        with no_reads("forward"):
            net(x, maps=True)

    def test_every_parameter_has_an_effect(self) -> None:
        """Every parameter changes the embedding or a gradient, where its `when` holds."""
        check_effects(
            self.cls.Params, self.params, lambda params: backbone_trace(self.cls, params, self.sizes[0]), "forward"
        )

    def test_state_survives_a_round_trip(self) -> None:
        """It resumes exactly: all state is in the checkpoint."""
        net, other = self.build(2, self.sizes[0]).train(), self.build(2, self.sizes[0])
        x = self.inputs(4, 2, self.sizes[0])
        for _ in range(2):
            net(x)
        other.load_state_dict(net.state_dict())
        promise(
            torch.equal(net.eval()(x).embedding, other.eval()(x).embedding),
            "After two steps, saved and loaded into a new instance, it gives a different embedding.",
            "Keep what changes while training in a buffer (`self.register_buffer(name, tensor)`), not in a plain "
            "attribute: attributes are not saved.",
        )

    def test_width_scales_where_declared(self) -> None:
        """`width=2` doubles the channels, unless it declares `scalable = False`."""
        if not self.cls.scalable:
            return
        narrow, wide = self.build(3, self.sizes[0]), self.build(3, self.sizes[0], width=2.0)
        count = [sum(p.numel() for p in n.parameters()) for n in (narrow, wide)]
        promise(
            2 < count[1] / count[0] <= 4.5,
            f"With width=2 it has {count[1] / count[0]:.1f} times the parameters; two to four were expected.",
            "Multiply every channel count by `width`, or declare scalable = False.",
            "__init__",
        )

    def test_same_seed_same_weights(self) -> None:
        """The same seed gives the same initialisation."""
        a, b = self.build(3, self.sizes[0]), self.build(3, self.sizes[0])
        promise(
            all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)),
            "Two instances with the same seed have different weights.",
            "Initialise with torch's own generator, not with numpy or random.",
            "__init__",
        )
