"""Diffusion distillation: the student's map is a noisy teacher's, and is denoised before it is compared.

Three things learn at once (Huang et al.): an autoencoder that compresses the teacher's last map, a diffusion
model of those codes, and the student through the distance of its denoised code. Only the last map is used; the
paper also treats logits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param
from wbcbench.contracts.adapters import Stages

LEVELS = 1000
"""Noise levels of the diffusion model."""


def signal_share() -> Tensor:
    """alpha_bar [LEVELS]: how much of the variance is signal at each noise level, falling from 1 towards 0.

    Source: Ho et al., NeurIPS 2020, arXiv 2006.11239, section 4: beta linear from 1e-4 to 0.02.
    """
    return (1 - torch.linspace(1e-4, 0.02, LEVELS, dtype=torch.float64)).cumprod(0)


def noised(code: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """sqrt(a) x + sqrt(1 - a) eps; code and noise [B, L, H, W], signal a [B] in [0, 1].

    Source: Ho et al., arXiv 2006.11239, equation 4.
    """
    a = signal[:, None, None, None]
    return a.sqrt() * code + (1 - a).sqrt() * noise


def ddim_step(code: Tensor, predicted: Tensor, signal: Tensor, next_signal: Tensor) -> Tensor:
    """One deterministic denoising step from signal share a to a' > a.

    x' = sqrt(a') (x - sqrt(1 - a) eps) / sqrt(a) + sqrt(1 - a') eps

    Args:
        code: x [B, L, H, W].
        predicted: eps, the noise that the model predicts in x, [B, L, H, W].
        signal, next_signal: a and a', scalars in (0, 1]; a' = 1 gives the clean code.

    Returns:
        [B, L, H, W].

    Source: Song et al., ICLR 2021, arXiv 2010.02502, equation 12 with sigma = 0.
    """
    clean = (code - (1 - signal).sqrt() * predicted) / signal.sqrt()
    return next_signal.sqrt() * clean + (1 - next_signal).sqrt() * predicted


class Denoiser(nn.Module):
    """Predicts the noise in a code [B, L, H, W] from it and its noise level [B].

    Batch norms, the last one on the prediction itself, as in the reference code: without them the chain of
    denoising steps, which divides by a small signal share, blows up within a few hundred steps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.level = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.last = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, code: Tensor, level: Tensor) -> Tensor:
        steps = torch.arange(16, device=code.device, dtype=code.dtype)
        angles = level[:, None].to(code.dtype) * torch.exp(-math.log(LEVELS) * steps / 16)
        known = self.level(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None]
        hidden = code + self.second(F.silu(self.first(F.silu(code + known))))
        out: Tensor = self.last(F.silu(hidden))
        return out


class Diffusion(Distiller):
    """Diffusion distillation: distance of the student's denoised code to the teacher's code of the last map.

    `match` teaches the student; `diffusion` the model of the teacher's codes (noise prediction);
    `autoencoder` their compression. The model also takes part in `match`, as in the reference code.
    """

    name = "diffkd"
    source = "Huang et al., NeurIPS 2023, arXiv 2305.15712"
    needs = Needs(student=("maps",), teacher=("maps",), draws=True, trainable=True, min_batch=2)

    class Params(DistillerParams):
        weight: float = param(
            0.1,
            "Factor on the loss; the paper has 1, with which small networks diverged on real cells.",
            ge=0,
            search=(0.01, 10.0),
            log=True,
            paper=1.0,
        )
        width: int = param(1024, "Most channels of a code.", ge=1, search=[64, 256, 1024])
        steps: int = param(5, "Denoising steps, each one pass of the model.", ge=1, le=50, search=[2, 5, 10])

    params: Params
    signal: Tensor

    def setup(self, pair: PairShapes) -> None:
        self.key = pair.key
        self.stages = Stages(pair, adapter=None, which="last")
        given, wanted = pair.student_maps[-1][0], pair.teacher_maps[-1][0]
        width = min(self.params.width, wanted)
        # codes are standardised without trained scales, so that none can shrink the distance or the noise
        self.encode = nn.Sequential(nn.Conv2d(wanted, width, 1, bias=False), nn.BatchNorm2d(width, affine=False))
        self.decode = nn.Conv2d(width, wanted, 1)
        self.translate = nn.Sequential(nn.Conv2d(given, width, 1, bias=False), nn.BatchNorm2d(width, affine=False))
        self.purity = nn.Linear(width, 1)
        self.denoise = Denoiser(width)
        self.register_buffer("signal", signal_share().to(torch.get_default_dtype()))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        ((s, t),) = self.stages(student.maps, teacher.maps)
        code = self.encode(t)
        restored = self.decode(code)
        code = code.detach()
        rows = len(code)

        def noise(purpose: str) -> Tensor:
            return progress.draw.normal(code.numel(), f"{self.key}/diffkd/{purpose}").to(code).view_as(code)

        level = (progress.draw.uniform(rows, f"{self.key}/diffkd/level").to(code.device) * LEVELS).long()
        level = level.clamp_max(LEVELS - 1)
        eps = noise("diffusion")
        guess = self.denoise(noised(code, eps, self.signal[level]), level)
        return {
            "match": (self._denoised(self.translate(s), noise("student")) - code).pow(2).flatten(1).mean(1),
            "diffusion": (guess - eps).pow(2).flatten(1).mean(1),
            "autoencoder": (restored - t).pow(2).flatten(1).mean(1),
        }

    def _denoised(self, code: Tensor, noise: Tensor) -> Tensor:
        """The student's code after `steps` denoising steps, from the middle noise level down to none.

        How much noise is added first is predicted from the code, so that its level can be made the one at
        which denoising starts.
        """
        code = noised(code, noise, torch.sigmoid(self.purity(code.mean((2, 3))))[:, 0])
        levels = [round(LEVELS / 2 * (1 - k / self.params.steps)) for k in range(self.params.steps)]
        for i, level in enumerate(levels):
            predicted = self.denoise(code, torch.full((len(code),), level, device=code.device))
            signal = self.signal[level]
            clean = i + 1 == len(levels)
            code = ddim_step(
                code, predicted, signal, torch.ones_like(signal) if clean else self.signal[levels[i + 1]]
            )
        return code
