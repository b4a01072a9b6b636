"""What one trial changes in its process does not reach the next."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wbcbench.isolation import TorchSettings, reset

VANDAL = '''
"""Leaves the process in disorder."""
import random
import numpy as np
import pytest
import torch
from wbcbench_plugins.fusions.early import Early as Plain
from wbcbench.contracts import Fusion, Output
from torch import nn


class Vandal(Fusion):
    """Early fusion that changes what is global, and reads global random numbers."""

    name = "vandal"

    def __init__(self, task, backbone, params):
        super().__init__(task, backbone, params)
        self.trunk = backbone(sum(task.channels.values()))
        self.head = nn.Linear(self.trunk.dim, task.n_classes)
        self.shift = random.random() + float(np.random.rand())

    def forward(self, images, present=None, maps=False):
        h = self.trunk(torch.cat([images[m] for m in self.task.modalities], 1)).embedding
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = True
        torch.set_num_threads(2)
        logits = self.head(h) * (1 + 0.1 * self.shift)
        return {"joint": Output(logits, h, reads=frozenset(self.task.modalities), head=self.head)}
'''


def test_settings_and_random_states_are_put_back() -> None:
    settings = TorchSettings.current()
    reset(settings, 3)
    expected = (random.random(), float(np.random.rand()), float(torch.rand(())), torch.get_num_threads())
    try:
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
    finally:
        reset(settings, 3)
    assert torch.get_default_dtype() == torch.float32
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()
    again = (random.random(), float(np.random.rand()), float(torch.rand(())), torch.get_num_threads())
    assert again == expected
    reset(settings, 4)
    assert random.random() != expected[0]


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="of PyTorch 2.9 and later")
@pytest.mark.parametrize("part", ["", "cuda.matmul", "cudnn.conv"])
def test_precisions_that_older_settings_cannot_express_are_put_back(part: str) -> None:
    backend: Any = torch.backends
    for step in part.split(".") if part else ():
        backend = getattr(backend, step)
    fresh = TorchSettings.current()
    assert fresh == TorchSettings.defaults(fresh.threads)
    try:
        backend.fp32_precision = "ieee"
        changed = TorchSettings.current()
        assert changed != fresh
        fresh.apply()
        assert TorchSettings.current() == fresh
        changed.apply()
        assert TorchSettings.current() == changed
    finally:
        fresh.apply()


def test_a_trial_does_not_depend_on_what_ran_before_it(
    train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "vandal.py").write_text(VANDAL)
    own = ("--plugins-dir", str(folder))
    digests = []
    for i, fusions in enumerate(("vandal,early", "early,vandal")):
        document = train(*own, "--fusion", fusions, "--seeds", "0,1", store=f"store{i}")
        digests.append({r["trial_id"]: r["digest"] for r in document["records"]})
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4
