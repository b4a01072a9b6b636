"""Distillers across modalities against direct permutation, and their invariants."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers.modality_focus import MOMENTUM, ModalityFocus, kept, saliency

from wbcbench.contracts import Output, PairShapes, Progress
from wbcbench.errors import IncompatibleError
from wbcbench.testing import closed_forms
from wbcbench.testing.toys import toy_draw

C = closed_forms()
F_S, F_T = C["f_s"], C["f_t"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


