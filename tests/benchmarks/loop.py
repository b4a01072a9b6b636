"""Training speed as ratios from one run: our loop, a bare PyTorch loop, distillation by replay and live.

    python tests/benchmarks/loop.py [--threads 2] [--epochs 3] [--json]

Same tensors, same network, same augmentation, same number of threads, interleaved so that a machine that slows
down slows all of them. `ours / bare`: images per second, goal >= 0.95. `replay / no KD`: of students, once the
teachers' answers are stored, goal >= 0.9. `replay / live`: what replay saves a student.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from wbcbench.contracts import Cells
from wbcbench.data.batches import epoch_order
from wbcbench.data.resident import ResidentCells
from wbcbench.data.views import Views
from wbcbench.plugins import load_plugins
from wbcbench.spec import Augmentation, Budget, Component, Method, Protocol, Recipe, Trial
from wbcbench.spec.lessons import pair
from wbcbench.training.build import build_distillers, build_fusion, build_routing, task_of
from wbcbench.training.distillation import Distillation
from wbcbench.training.loop import Job, train_epoch
from wbcbench.training.optim import make_optimiser
from wbcbench.training.state import TrainState
from wbcbench.training.teachers import Replay, Teacher, TeacherBank

MODALITIES = ("brightfield", "nucleus", "granule")
CPU = torch.device("cpu")


def cells(count: int, size: int) -> ResidentCells:
    """Noise: speed does not depend on what the images show."""
    rng = np.random.default_rng(0)
    images = {
        m: rng.integers(0, 256, (count, c, size, size), dtype=np.uint8)
        for m, c in zip(MODALITIES, (3, 1, 1), strict=True)
    }
    raw = Cells(images=images, labels=np.arange(count) % 5, classes=tuple("abcde"), fingerprint="bench")
    return ResidentCells(raw, MODALITIES, np.arange(count), CPU)


def trial(fusion: str, width: int, kd: bool = False, reads: tuple[str, ...] = MODALITIES) -> Trial:
    """A trial of the default recipe."""
    protocol = Protocol(
        dataset=Component(name="noise"), modalities=reads, image_size=64, fingerprint="bench",
        budget=Budget(epochs=100, batch_size=64), augmentation=Augmentation(),
    )  # fmt: skip
    method = Method(
        fusion=Component(name=fusion),
        backbone=Component(name="cellnet", params={"width": width}),
        recipe=Recipe(),
        distillers=(Component(name="logits"),) if kd else (),
        routing=Component(name="matched") if kd else None,
    )
    return Trial(protocol=protocol, method=method)


class Ours:
    """One student trained by the project's loop."""

    def __init__(self, resident: ResidentCells, how: str, folder: Path) -> None:
        registry, _ = load_plugins()
        spec = trial("independent", 16, kd=how != "none")
        fusion = build_fusion(spec, task_of(spec, resident), registry)
        fusion.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        views, train = Views(resident, spec.protocol.augmentation, 0), torch.arange(len(resident))
        self.job = Job(spec, resident, views, train, train[:1], fusion)
        modules = torch.nn.ModuleDict({"fusion": fusion})
        if how != "none":
            teachers = []
            for m in MODALITIES:
                t = trial("single", 32, reads=(m,))
                net = build_fusion(t, task_of(t, resident), registry).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                teachers.append(Teacher((m,), m, lambda net=net: net))  # type: ignore[misc]
            replays = (
                [Replay(folder / t.digest, t, views, train, False) for t in teachers] if how == "replay" else None
            )
            self.job.bank = TeacherBank(teachers, replays, views, train, maps=False)
            routing = build_routing(spec, registry)
            lessons = pair(fusion.routes, [frozenset(t.reads) for t in teachers], routing.pairing)
            build = partial(build_distillers, spec, registry)
            self.job.distillation = Distillation(build, ["logits"], routing, lessons)
        self.state = TrainState(modules, make_optimiser(modules, spec.method.recipe))
        self.weights = torch.ones(5)

    def epoch(self, epoch: int) -> float:
        """Seconds of one epoch; storing the teachers' answers is not counted (it is done once per stream)."""
        if self.job.bank is not None:
            self.job.bank.start_epoch(epoch)
        start = time.perf_counter()
        train_epoch(self.job, self.state, self.weights, epoch)
        return time.perf_counter() - start


class Bare:
    """The same network, views and optimiser in the plainest loop one would write by hand."""

    def __init__(self, resident: ResidentCells) -> None:
        registry, _ = load_plugins()
        spec = trial("independent", 16)
        self.fusion = build_fusion(spec, task_of(spec, resident), registry).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.resident, self.views = resident, Views(resident, spec.protocol.augmentation, 0)
        self.optimiser = make_optimiser(self.fusion, spec.method.recipe)

    def epoch(self, epoch: int) -> float:
        start = time.perf_counter()
        views = self.views.epoch(epoch)
        self.fusion.train()
        for ids in epoch_order(torch.arange(len(self.resident)), 64, 0, epoch):
            y = self.resident.labels[ids]
            x = {m: views(m, ids).contiguous(memory_format=torch.channels_last) for m in MODALITIES}
            loss = torch.stack([F.cross_entropy(o.logits, y) for o in self.fusion(x).values()]).sum()
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--epochs", type=int, default=3, help="counted epochs, after one to warm up")
    parser.add_argument("--cells", type=int, default=1200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    resident = cells(options.cells, 64)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Ours | Bare] = {"bare": Bare(resident)}
        runs |= {how: Ours(resident, how, Path(folder)) for how in ("none", "replay", "live")}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for epoch in range(options.epochs + 1):
            for name, run in runs.items():
                spent = run.epoch(epoch)
                if epoch:
                    seconds[name].append(spent)
    speed = {name: options.cells / statistics.median(s) for name, s in seconds.items()}
    ratios = {
        "ours / bare": speed["none"] / speed["bare"],
        "replay / no KD": speed["replay"] / speed["none"],
        "replay / live": speed["replay"] / speed["live"],
    }
    if options.json:
        print(json.dumps({"images_per_second": speed, "ratios": ratios, "threads": options.threads}))
        return
    for name, value in speed.items():
        print(f"{name:8} {value:8.0f} images/s")
    for name, value in ratios.items():
        print(f"{name:15} {value:.3f}")


if __name__ == "__main__":
    main()
