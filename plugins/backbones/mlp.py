"""A multilayer perceptron for modalities that are numbers: cytometry intensities, blood counts, morphology."""

from __future__ import annotations

from torch import Tensor, nn

from wbcbench.contracts import Backbone, Features, Parameters, param


class MLP(Backbone):
    """A small multilayer perceptron for modalities that are numbers.

    Layers of linear, layer norm, ReLU and dropout; the last one's H units are the embedding. Parameters for F
    numbers: (F + 1) H + 2 H of the first layer, and (H + 1) H + 2 H of each other one.
    """

    name = "mlp"
    source = "baseline of Gorishniy et al., NeurIPS 2021, arXiv 2106.11959, section 3.1; layer norm added"
    reads = "vectors"

    class Params(Parameters):
        hidden: int = param(64, "Units H of every layer.", ge=4, le=2048, search=[32, 64, 128, 256])
        layers: int = param(2, "Hidden layers.", ge=1, le=16, search=[1, 2, 3])
        dropout: float = param(0.1, "Share of units that are dropped in training.", ge=0, lt=1, search=(0.0, 0.5))

    params: Params

    def __init__(self, in_chans: int, image_size: int, params: Params, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        self.dim = max(4, round(params.hidden * width))
        layers: list[nn.Module] = []
        for given in [in_chans] + [self.dim] * (params.layers - 1):
            layers += [nn.Linear(given, self.dim), nn.LayerNorm(self.dim), nn.ReLU(), nn.Dropout(params.dropout)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, maps: bool = False) -> Features:
        return Features(embedding=self.layers(x))
