"""The training loop on a GPU: eager, compiled, with CUDA graphs; idle time; several trials; beside timm's step.

    python tests/benchmarks/gpu.py

Needs an NVIDIA GPU and says so where there is none. Nothing here has a goal.

Share of peak: three times the forward's multiply-accumulates (as PyTorch's counter has them), two operations
each, over what a large bfloat16 matrix product reaches on this very GPU in this very run. timm's training
script is not part of its package: its step is written out here as that script takes it (autocast, timm's
optimiser, gradients cleared to None), on a batch that is on the GPU already, so that it has no loading and no
augmentation to do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import sweep
import torch
from contenders import CHANNELS, STILL, Bench, Ours, Setting, Timing
from measuring import Options, Part, interleaved, speedup
from tabulate import tabulate
from torch.nn import functional as F

from wbcbench.spec import ComponentSpec
from wbcbench.training.loop import train_epoch

PROFILED = 16  # steps: the profiler takes long to read what it wrote
COMPILED = {"eager": None, "compiled": "default", "CUDA graphs": "reduce-overhead"}


def matmul_peak(side: int = 8192) -> float:
    """Operations per second of a bfloat16 matrix product."""
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    took = []
    for _ in range(8):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            a @ a
        torch.cuda.synchronize()
        took.append((time.perf_counter() - start) / 10)
    return 2 * side**3 / min(took)


def operations(bench: Bench) -> float:
    """Of one image in a training step: forward, and twice that backward."""
    from wbcbench.evaluation.cost import macs

    ids = bench.train[:1]
    images = {m: bench.resident.images(ids, m) for m in CHANNELS}
    return 3 * 2 * macs(bench.student().deploy(), images)


def idle_share(run: Callable[[], Any]) -> float:
    """Share of the wall time in which no kernel runs, from the profiler's own record."""
    from torch.profiler import DeviceType, ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        wall = (time.perf_counter() - start) * 1e6
    spans = sorted(
        (e.time_range.start, e.time_range.end) for e in seen.events() if e.device_type == DeviceType.CUDA
    )
    busy, until = 0.0, float("-inf")
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return 1 - busy / wall


class Training(Ours):
    """The loop's training pass alone: what a CUDA graph has answered in validation is gone with its next call."""

    def few(self, cells: int) -> None:
        """From now on, an epoch is so many cells."""
        self.job.train = self.job.train[:cells]

    def epoch(self, number: int) -> Timing:
        """One pass over the training cells."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        train_epoch(self.job, self.state, self.weights, number)
        torch.cuda.synchronize()
        spent = time.perf_counter() - start
        return Timing(spent, spent, self.laps.take())


class TimmStep:
    """A step as timm's training script takes it, for as many steps as an epoch has."""

    def __init__(self, bench: Bench) -> None:
        from timm.optim import create_optimizer_v2

        self.steps = -(-bench.setting.cells // bench.setting.batch)
        self.fusion = bench.student().train()
        self.optimiser = create_optimizer_v2(self.fusion, opt="adamw", lr=2e-3, weight_decay=0.05)
        ids = bench.train[: bench.setting.batch]
        self.images = {
            m: bench.resident.images(ids, m).contiguous(memory_format=torch.channels_last) for m in CHANNELS
        }
        self.labels = bench.resident.labels[ids]

    def few(self, cells: int) -> None:
        """From now on, an epoch is the steps of so many cells."""
        self.steps = -(-cells // len(self.labels))

    def epoch(self, number: int) -> Timing:
        """As many steps, on one batch."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(self.steps):
            with torch.autocast("cuda", torch.bfloat16):
                out = self.fusion(self.images)
                loss = sum(
                    (F.cross_entropy(o.logits, self.labels) for o in out.values()), torch.zeros((), device="cuda")
                )
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            self.optimiser.zero_grad()
        torch.cuda.synchronize()
        spent = time.perf_counter() - start
        return Timing(spent, spent, float("nan"))


def gpu_part(options: Options, say: Callable[[dict[str, Any]], object] = lambda row: None) -> Part:
    """Every measurement for a small and a large student, and several trials a GPU.

    `say` is told each row as soon as it is known: time on a GPU may end before the last one.
    """
    part = Part("gpu", "A student without KD, 64 px, batch 256, bfloat16 where the GPU has it.")
    if not torch.cuda.is_available():
        part.skipped = "no GPU"
        return part
    peak = matmul_peak()
    big = ComponentSpec(name="timm", params={"model": "resnet50"})
    students = {"CellNet-16": Setting().student, "ResNet-50": big}
    for name, student in students.items():
        cells = options.pick(8192 if student is not big else 4096, 1024, 64)
        setting = replace(Setting(), cells=cells, batch=256, student=student, device="cuda")
        with tempfile.TemporaryDirectory() as folder:
            for row in _measure(part, name, setting, Path(folder), peak, options.pick(4, 1)):
                part.facts.append(row)
                say(row)
    if not options.quick:
        given = argparse.Namespace(seeds=8, epochs=20, gpus_per_trial="1,0.5,0.25,0.125", workers=8)
        with tempfile.TemporaryDirectory() as folder:
            for r in sweep.on_gpus(given, Path(folder)):
                row = {"student": "sweep", "loop": f"{1 / r['gpus_per_trial']:g} trials a GPU", **r}
                part.facts.append(row)
                say(row)
    return part


def _measure(
    part: Part, name: str, setting: Setting, folder: Path, peak: float, epochs: int
) -> Iterator[dict[str, Any]]:
    bench = Bench(setting, folder)
    contenders: dict[str, Training | TimmStep] = {}
    for how, mode in COMPILED.items():
        ours = Training(bench)
        if mode is not None:
            ours.job.fusion.compile(mode=mode)
        contenders[how] = ours
    contenders["eager, still images"] = Training(Bench(replace(setting, augmentation=STILL), folder / "still"))
    contenders["timm's step"] = TimmStep(bench)
    runs = {how: lambda turn, c=c: c.epoch(turn).train for how, c in contenders.items()}
    seconds = interleaved(runs, epochs, warm=2)
    per_image = operations(bench)
    for how, took in seconds.items():
        speed = setting.cells / min(took)
        contenders[how].few(PROFILED * setting.batch)
        idle = idle_share(lambda c=contenders[how]: c.epoch(epochs + 2))  # type: ignore[misc]
        row = {"student": name, "loop": how, "images_per_second": speed, "share_of_peak": speed * per_image / peak}
        steps = -(-setting.cells // setting.batch)
        part.seconds[f"{name}: {how}"] = took
        if how != "eager":
            part.ratios.append(speedup(f"{name}: eager / {how}", took, seconds["eager"]))
        yield row | {"idle_share": idle, "idle_ms_per_step": idle * min(took) / steps * 1e3}


def main() -> None:
    part = gpu_part(Options(), say=lambda row: print(row, flush=True))
    print(part.skipped or tabulate(part.facts, headers="keys", floatfmt=".3f"))


if __name__ == "__main__":
    main()
