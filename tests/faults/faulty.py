"""A fusion that misbehaves as told by a file's existence; tests copy it into a plugin folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import nn

from wbcbench.contracts import Fusion, Output, Parameters, param

FOLDER = Path(os.environ.get("WBCBENCH_TEST_FOLDER", "."))


class Faulty(Fusion):
    """Early fusion that raises, blows up, fills the GPU, looks around or clings to its worker."""

    name = "faulty"

    class Params(Parameters):
        how: str = param("well", "well, raise, nan, full_once, full, look, cling")

    def __init__(self, task, backbone, params):
        super().__init__(task, backbone, params)
        self.trunk = backbone(sum(task.channels.values()))
        self.head = nn.Linear(self.trunk.dim, task.n_classes)

    def forward(self, images, present=None, maps=False):
        how = self.params.how
        h = self.trunk(torch.cat([images[m] for m in self.task.modalities], 1)).embedding
        logits = self.head(h)
        if how == "raise":
            raise RuntimeError("this fusion always raises")
        if how == "cling":
            cling()
        if how == "nan":
            logits = logits * float("nan")
        if how.startswith("full") or how == "look":
            note(how)
        if how == "full" or (how == "full_once" and len(list(FOLDER.glob("full_once-*"))) < 2):
            raise torch.OutOfMemoryError("CUDA out of memory (said by a test)")
        return {"joint": Output(logits, h, reads=frozenset(self.task.modalities), head=self.head)}


def note(how):
    """Write down, once per worker, what it was given; the process that plans rehearses the network too."""
    import ray

    path = FOLDER / f"{how}-{os.getpid()}"
    if path.exists() or not ray.is_initialized():
        return
    seen = {"cuda": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": torch.get_num_threads()}
    seen["resources"] = ray.get_runtime_context().get_assigned_resources()
    path.write_text(json.dumps(seen))


def cling():
    """From now on this worker refuses to be reused, as one does whose thread does not end."""
    from ray.tune.trainable.function_trainable import FunctionTrainable

    FunctionTrainable.reset_config = lambda self, config: False
