"""What it brings that freed memory stays with the process: the same steps in two processes, either way.

    python tests/benchmarks/allocator.py

One thread. Training steps of 64 cells, and forward passes of `eval_batch` cells and of 256, for the student and
the teacher of the other benchmarks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from contenders import SMALL, WIDE, Bench, Setting
from measuring import Options, Part, speedup
from tabulate import tabulate
from torch import Tensor, nn

from wbcbench.evaluation.predict import eval_batch
from wbcbench.training.allocator import is_set_by_user, keep_freed_memory

HERE = Path(__file__).resolve().parent


def train(net: nn.Module, images: Tensor) -> None:
    """One pass of forward and backward, 64 cells at a time."""
    net.train()
    for x in images.split(64):
        out = next(iter(net({"brightfield": x}).values()))
        F.cross_entropy(out.logits, torch.zeros(len(x), dtype=torch.long)).backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def forward(net: nn.Module, images: Tensor, batch: int) -> None:
    """One pass without gradients."""
    net.eval()
    for x in images.split(batch):
        net({"brightfield": x})


def measure(cells: int, sizes: list[int], repeats: int) -> dict[str, list[float]]:
    """Seconds of each pass, all repetitions but a first."""
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            bench = Bench(Setting(cells=8, size=size), Path(folder))
            images = torch.randn(cells, 3, size, size).contiguous(memory_format=torch.channels_last)
            for called, component in (("CellNet-16", SMALL), ("CellNet-32", WIDE)):
                net = bench.network("single", component, ("brightfield",))
                passes = {
                    "training": lambda n=net, x=images: train(n, x),
                    "forward": lambda n=net, x=images: forward(n, x, eval_batch(x.device)),
                    "forward of 256": lambda n=net, x=images: forward(n, x, 256),
                }
                for what, run in passes.items():
                    times = []
                    for _ in range(repeats + 1):
                        start = time.perf_counter()
                        run()
                        times.append(time.perf_counter() - start)
                    found[f"{called}, {size} px, {what}"] = times[1:]
    return found


def allocator_part(options: Options) -> Part:
    """Freed memory kept beside freed memory given back."""
    part = Part("allocator", "Freed memory kept / given back, one thread; times as fast.")
    if is_set_by_user() or not keep_freed_memory():
        part.skipped = "the allocator is not glibc's, or the environment has settings for it"
        return part
    given = [options.pick(256, 64, 8), options.pick([32, 64], [32], [16]), options.pick(3, 1)]
    both = []
    for how in ("kept", "given back"):
        done = subprocess.run(
            [sys.executable, __file__, how, json.dumps(given)], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        both.append(json.loads(done.stdout))
    kept, back = both
    for what, times in kept.items():
        part.ratios.append(speedup(what, back[what], times))
        part.seconds |= {f"{what}, kept": times, f"{what}, given back": back[what]}
    return part


def main() -> None:
    if len(sys.argv) > 2:
        if sys.argv[1] == "kept":
            keep_freed_memory()
        print(json.dumps(measure(*json.loads(sys.argv[2]))))
        return
    part = allocator_part(Options())
    print(part.skipped or tabulate([r.as_dict() for r in part.ratios], headers="keys", floatfmt=".2f"))


if __name__ == "__main__":
    main()
