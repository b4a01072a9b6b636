"""A small residual network for small images: three stages of basic blocks, sized by width and depth.

Stem 3x3, then stages of `width`, 2x and 4x `width` channels, halving the side between stages; basic
blocks as in He et al., CVPR 2016 (arXiv 1512.03385), section 4.2, with the pooled shortcut of He et al., CVPR
2019 (arXiv 1812.01187), section 4.2 (ResNet-D). Global average pooling, D = 4 x width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Backbone, Features, Parameters, param


class CellNet(Backbone):
    """A small residual network for small images, sized by width and depth."""

    name = "cellnet"
    aliases = ("tiny",)
    source = "He et al., CVPR 2016, arXiv 1512.03385; shortcut of He et al., CVPR 2019, arXiv 1812.01187"

    class Params(Parameters):
        width: int = param(
            16, "Channels of the first stage; later stages have 2x and 4x.", ge=4, le=512, sizes=True
        )
        depth: int = param(1, "Residual blocks per stage.", ge=1, le=16)
        stem_stride: int = param(0, "Stride of the stem; 0: 2 from 56 px on, else 1.", ge=0, le=4)

    params: Params

    def __init__(self, in_chans: int, image_size: int, params: Params, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        base = max(4, round(params.width * width))
        stride = params.stem_stride or (2 if image_size >= 56 else 1)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, base, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(base),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList()
        channels = base
        for stage in range(3):
            out = base * 2**stage
            blocks: list[nn.Module] = []
            for block in range(params.depth):
                blocks.append(BasicBlock(channels, out, stride=2 if stage > 0 and block == 0 else 1))
                channels = out
            self.stages.append(nn.Sequential(*blocks))
        self.dim = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stage_count(self) -> int:
        return len(self.stages)

    def stage(self, number: int, x: Tensor) -> Tensor:
        y: Tensor = self.stages[number](self.stem(x) if number == 0 else x)
        return y

    def forward(self, x: Tensor, maps: bool = False) -> Features:
        x = self.stem(x)
        kept: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            if maps:
                kept.append(x)
        return Features(embedding=x.mean((2, 3)), maps=tuple(kept))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; [B, C, H, W] -> [B, C', H/stride, W/stride]."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        # Pool, then project (ResNet-D): a strided 1x1 convolution would throw three of four pixels away,
        # and its backward pass hangs for some widths in channels-last memory on CPU (seen in torch 2.15).
        shortcut: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True)] if stride != 1 else []
        if in_channels != channels:
            shortcut += [nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
