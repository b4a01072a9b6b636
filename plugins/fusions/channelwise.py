"""Channel-wise multiplication: one modality's embedding scales the channels of another's maps, stage by stage."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import keep_stages, pool

from wbcbench.contracts import (
    BackboneFactory,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    Task,
    param,
    stage_shapes,
)
from wbcbench.errors import IncompatibleError


class Channelwise(Fusion):
    """The maps of an image are multiplied, channel by channel, by what numbers (or another image) say.

    f_s <- f_s * (V_s h_c) after every stage s, h_c the conditioning embedding; p = softmax(W GAP(f)). For exactly
    two modalities: an image, and numbers or another image. In the paper layer s of an MLP on the numbers scales
    stage s; here its last layer scales all. The V_s start with a bias of 1, so that at first images are passed on
    nearly as they are. Parameters: P_c + S(C_c) + P(stages) + S(C_t) + sum_s (D_c + 1) C_s + (D + 1) K: two
    backbones.
    """

    name = "channelwise"
    source = "Duanmu et al., MICCAI 2020, doi 10.1007/978-3-030-59713-9_24, as in fusilli"
    traits = FusionTraits(
        stage_maps=True,
        arity=(2, 2),
        offers=("own_parameters",),
        solves=("redundant", "unique", "xor"),
        vectors=True,
        own_backbones=True,
    )

    class Params(Parameters):
        conditioner: Literal["numbers", "first", "second"] = param(
            "numbers", "Which modality scales the other; `numbers`: the one that is numbers, else the second.",
            search=["numbers", "first", "second"],
        )  # fmt: skip

    params: Params

    def __init__(self, task: Task, backbone: BackboneFactory, params: Params) -> None:
        super().__init__(task, backbone, params)
        names = task.modalities
        numbers = next((i for i, m in enumerate(names) if m in task.vectors), 1)
        place = {"numbers": numbers, "first": 0, "second": 1}[params.conditioner]
        self.condition, self.target = names[place], names[1 - place]
        if self.target in task.vectors:
            raise IncompatibleError(
                f"channelwise scales the maps of an image, but '{self.target}' is numbers. Set "
                "fusion.conditioner=numbers and give it one image, or choose concat or film."
            )
        nets = {m: backbone(c, modality=m) for m, c in task.channels.items()}
        image = nets[self.target]
        channels = task.channels[self.target]
        shapes = stage_shapes(image, channels, task.image_size)
        keep_stages(image, range(len(shapes)), (channels, task.image_size, task.image_size))
        self.backbones = nn.ModuleDict(nets)
        self.scales = nn.ModuleList(nn.Linear(nets[self.condition].dim, c) for c, _, _ in shapes)
        for layer in self.scales:
            assert isinstance(layer, nn.Linear)
            nn.init.ones_(layer.bias)
        self.head = nn.Linear(shapes[-1][0], task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        told = self.backbones[self.condition](images[self.condition]).embedding
        net, x, kept = self.backbones[self.target], images[self.target], []
        for number, scale in enumerate(self.scales):
            x = net.stage(number, x) * scale(told)[:, :, None, None]  # type: ignore[operator]
            kept.append(x)
        embedding = pool(x)
        return {
            "joint": Output(
                logits=self.head(embedding),
                embedding=embedding,
                maps=tuple(kept) if maps else (),
                reads=frozenset(self.task.modalities),
                head=self.head,
            )
        }
