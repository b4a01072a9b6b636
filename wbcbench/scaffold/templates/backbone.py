"""my_method: state in one line what it does.

Start from here. The contract is `wbcbench.contracts.Backbone`.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from wbcbench.contracts import Backbone, Features, Parameters, param


class MyMethod(Backbone):
    """Strided convolutions with batch normalisation, averaged over the image."""

    name = "my_method"
    source = ""  # paper and section, shown by `wbcbench show`
    # reads = "vectors"  # for modalities that are numbers [B, in_chans] instead of images

    class Params(Parameters):
        # Set by `--backbone my_method:channels=24`.
        # `search`: the values that `wbcbench search` tries.
        channels: int = param(
            16, "Channels of the first stage; each later one doubles them.", ge=4, search=[16, 32]
        )
        depth: int = param(3, "Stages; each halves the side.", ge=1, le=5)

    params: Params

    def __init__(self, in_chans: int, image_size: int, params: Params, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        # `width` scales every channel count: fusions build narrow and wide copies with it.
        sizes = [in_chans, *(round(params.channels * width) * 2**i for i in range(params.depth))]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(sizes)
        )
        self.dim = sizes[-1]  # the embedding's width, which every backbone must set

    # `stage_count` and `stage` are for fusions that exchange maps between stages; both are optional.
    @property
    def stage_count(self) -> int:
        return len(self.stages)

    def stage(self, number: int, x: Tensor) -> Tensor:
        y: Tensor = self.stages[number](x)
        return y

    def forward(self, x: Tensor, maps: bool = False) -> Features:
        kept: list[Tensor] = []
        for number in range(self.stage_count):
            x = self.stage(number, x)
            kept.append(x)
        # No classifier: heads belong to the fusion. Maps, shallow to deep, only if requested.
        return Features(embedding=x.mean((2, 3)), maps=tuple(kept) if maps else ())
