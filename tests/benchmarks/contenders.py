"""The same student and teachers on the same cells: trained by the project's loop, and by the plainest one.

An epoch here is what a user waits for: the training pass, validation, and keeping the best weights. Loading and
answering what is done once per stream (replay's stored answers) is timed by itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Cells, Fusion
from wbcbench.contracts.needs import assign_teachers
from wbcbench.data.views import ResidentCells, Views, epoch_order
from wbcbench.evaluation.metrics import score
from wbcbench.registry.loading import load_plugins
from wbcbench.spec import Augmentation, Budget, ComponentSpec, Method, Protocol, Recipe, Trial
from wbcbench.training.build import build_distillers, build_fusion, build_routing, task_of
from wbcbench.training.distillation import Distillation
from wbcbench.training.loop import Job, judge, make_optimiser, train_epoch
from wbcbench.training.state import TrainState
from wbcbench.training.teachers import Replay, Teacher, TeacherBank

CHANNELS = {"brightfield": 3, "nucleus": 1, "granule": 1}
MODALITIES = tuple(CHANNELS)
CLASSES = tuple("abcde")
TEMPERATURE = 4.0
SMALL = ComponentSpec(name="cellnet", params={"width": 16})
WIDE = ComponentSpec(name="cellnet", params={"width": 32})
DEFAULT = Augmentation()
STILL = Augmentation(flip=False, rotate=0, scale=0, shift=0, intensity=0, noise=0, cutout=0)


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common."""

    cells: int = 1200
    """Training cells; a quarter as many more to validate on."""
    size: int = 64
    batch: int = 64
    student: ComponentSpec = SMALL
    teacher: ComponentSpec = WIDE
    augmentation: Augmentation = DEFAULT
    device: str = "cpu"


@dataclass
class Timing:
    """Seconds of one epoch."""

    train: float
    epoch: float
    """With validation and keeping the best."""
    step: float
    """Median from one step of the optimiser to the next; nan where there is one step."""
    cpu: float = float("nan")
    """Processor seconds of the training pass, without those of loaders: what other jobs disturb least."""


class Laps:
    """The moments at which an optimiser has stepped: the same clock for every contender."""

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        self.moments: list[float] = []
        optimiser.register_step_post_hook(lambda *_: self.moments.append(time.perf_counter()))

    def take(self) -> float:
        """The median of the laps since the last call."""
        laps = np.diff(self.moments)
        self.moments.clear()
        return float(np.median(laps)) if len(laps) else float("nan")


class Bench:
    """Cells and networks. Every contender trains a student of its own with the same first weights."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting, self.folder = setting, folder
        self.registry, _ = load_plugins()
        self.resident = noise(setting.cells + setting.cells // 4, setting.size, setting.device)
        device = self.resident.device
        self.train = torch.arange(setting.cells, device=device)
        self.val = torch.arange(setting.cells, len(self.resident), device=device)
        self.nets = {
            m: self.network("single", setting.teacher, (m,)).eval().requires_grad_(False) for m in MODALITIES
        }

    def trial(
        self, fusion: str, backbone: ComponentSpec, reads: tuple[str, ...] = MODALITIES, kd: bool = False
    ) -> Trial:
        """A trial of the default recipe, without class weights: the cells are balanced."""
        s = self.setting
        protocol = Protocol(
            dataset=ComponentSpec(name="noise"), modalities=reads, image_size=s.size, fingerprint="bench",
            budget=Budget(epochs=100, batch_size=s.batch), augmentation=s.augmentation,
        )  # fmt: skip
        # rho = 1: every head sees the same cell, which others can be told to do too
        params = {"rho": 1.0} if fusion == "independent" else {}
        distillers = (ComponentSpec(name="logits", params={"temperature": TEMPERATURE}),) if kd else ()
        method = Method(
            fusion=ComponentSpec(name=fusion, params=params), backbone=backbone, recipe=Recipe(),
            distillers=distillers, routing=ComponentSpec(name="matched") if kd else None,
        )  # fmt: skip
        return Trial(protocol=protocol, method=method)

    def network(self, fusion: str, backbone: ComponentSpec, reads: tuple[str, ...] = MODALITIES) -> Fusion:
        """A fresh network on the device, channels last in memory: what is fastest for all contenders."""
        spec = self.trial(fusion, backbone, reads)
        net = build_fusion(spec, task_of(spec, self.resident), self.registry)
        return net.to(self.resident.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def student(self) -> Fusion:
        """A student, always with the same weights."""
        return self.network("independent", self.setting.student)

    def views(self) -> Views:
        """Views of one seed."""
        return Views(self.resident, self.setting.augmentation, 0)

    def teachers(self) -> list[Teacher]:
        """One per modality; all contenders share the networks."""
        return [Teacher((m,), m, lambda net=net: net) for m, net in self.nets.items()]  # type: ignore[misc]

    def replays(self, views: Views) -> list[Replay]:
        """Stored answers; all contenders share the files."""
        return [Replay(self.folder / t.digest, t, views, self.train, False) for t in self.teachers()]


class Ours:
    """A student trained by the project's loop; `how` is `none`, `replay` or `live`."""

    def __init__(self, bench: Bench, how: str = "none") -> None:
        self.folder = bench.folder / f"ours-{how}"
        spec = bench.trial("independent", bench.setting.student, kd=how != "none")
        fusion, views = bench.student(), bench.views()
        self.job = Job(spec, bench.resident, views, bench.train, bench.val, fusion)
        self.job.score = lambda p: score(p.probabilities, p.labels, CLASSES).summary
        modules = torch.nn.ModuleDict({"fusion": fusion})
        if how != "none":
            teachers = bench.teachers()
            replays = bench.replays(views) if how == "replay" else None
            self.job.bank = TeacherBank(teachers, replays, views, bench.train, maps=False)
            assigned = assign_teachers(fusion.routes, [frozenset(t.reads) for t in teachers], "own")
            self.job.distillation = Distillation(
                partial(build_distillers, spec, bench.registry), partial(build_routing, spec, bench.registry),
                assigned, fusion.routes,
            )  # fmt: skip
            modules["distillation"] = self.job.distillation
        self.state = TrainState(modules, make_optimiser(modules, spec.method.recipe))
        self.laps = Laps(self.state.optimiser)
        self.weights = torch.ones(len(CLASSES), device=bench.resident.device)
        self.stored: list[float] = []
        """Seconds spent on the teachers' answers before each epoch."""
        self.loss = float("nan")

    def epoch(self, number: int) -> Timing:
        """One epoch as `fit` runs it."""
        if self.job.bank is not None:
            self.stored.append(self.job.bank.start_epoch(number))
        start, cpu = time.perf_counter(), time.process_time()
        self.loss = train_epoch(self.job, self.state, self.weights, number)["loss"]
        trained, cpu = time.perf_counter(), time.process_time() - cpu
        weights, metrics, *_ = judge(self.job, self.state)
        self.state.consider(float(metrics["macro_f1"] or 0), weights)
        self.state.epoch = number + 1
        self.state.save(self.folder, self.job.stamp)
        return Timing(trained - start, time.perf_counter() - start, self.laps.take(), cpu)


class Bare:
    """The same networks, views, loss and optimiser in the plainest loop that one would write by hand.

    `how` is as for `Ours`: `replay` reads the answers that `Ours` has stored from a tensor.
    """

    def __init__(self, bench: Bench, how: str = "none") -> None:
        self.bench, self.how, self.fusion = bench, how, bench.student()
        self.views = bench.views()
        self.optimiser = make_optimiser(self.fusion, Recipe())
        self.laps = Laps(self.optimiser)
        self.best, self.kept = -1.0, self.fusion.state_dict()
        self.loss = float("nan")

    def epoch(self, number: int) -> Timing:
        """Train, validate, keep the best."""
        bench, fusion = self.bench, self.fusion
        stored = [r.epoch(number).logits for r in bench.replays(self.views)] if self.how == "replay" else []
        start, cpu = time.perf_counter(), time.process_time()
        views = self.views.epoch(number)
        fusion.train()
        losses = []
        for ids in epoch_order(bench.train, bench.setting.batch, 0, number):
            y = bench.resident.labels[ids]
            x = {m: views(m, ids).contiguous(memory_format=torch.channels_last) for m in MODALITIES}
            out = [o.logits for o in fusion(x).values()]
            loss = torch.stack([F.cross_entropy(z, y) for z in out]).sum()
            if self.how != "none":
                with torch.no_grad():
                    told = [s[ids] for s in stored] or [
                        next(iter(net({m: x[m]}).values())).logits for m, net in bench.nets.items()
                    ]
                loss = loss + sum(soft(z, t) for z, t in zip(out, told, strict=True))
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            losses.append(loss.detach())
        self.loss = float(torch.stack(losses).mean())
        trained, cpu = time.perf_counter(), time.process_time() - cpu
        right = accuracy(lambda x: fusion.predict(fusion(x)), fusion, bench)
        if right > self.best:
            self.best, self.kept = right, {k: v.clone() for k, v in fusion.state_dict().items()}
        return Timing(trained - start, time.perf_counter() - start, self.laps.take(), cpu)


def soft(student: Tensor, teacher: Tensor) -> Tensor:
    """T^2 KL(teacher || student) of softened probabilities, mean over the batch."""
    log_p, log_q = F.log_softmax(student / TEMPERATURE, 1), F.log_softmax(teacher / TEMPERATURE, 1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * TEMPERATURE**2


@torch.no_grad()
def accuracy(predict: Callable[[dict[str, Tensor]], Tensor], net: torch.nn.Module, bench: Bench) -> float:
    """Share of validation cells that are right."""
    net.eval()
    right = 0
    for ids in bench.val.split(256):
        x = {m: bench.resident.images(ids, m).contiguous(memory_format=torch.channels_last) for m in MODALITIES}
        right += int((predict(x).argmax(1) == bench.resident.labels[ids]).sum())
    return right / len(bench.val)


def noise(count: int, size: int, device: str = "cpu") -> ResidentCells:
    """Cells of noise, as many of each class: speed does not depend on what images show."""
    rng = np.random.default_rng(0)
    images = {m: rng.integers(0, 256, (count, c, size, size), dtype=np.uint8) for m, c in CHANNELS.items()}
    raw = Cells(images=images, labels=np.arange(count) % len(CLASSES), classes=CLASSES, fingerprint="bench")
    return ResidentCells(raw, MODALITIES, np.arange(count), torch.device(device))


@dataclass
class Clocked:
    """Runs a contender's epochs for `interleaved` and keeps every timing."""

    contender: Any
    timings: list[Timing] = field(default_factory=list)

    def __call__(self, turn: int) -> float:
        self.timings.append(self.contender.epoch(turn))
        return self.timings[-1].epoch

    def counted(self, what: str, warm: int = 1) -> list[float]:
        """`train`, `epoch`, `step` or `cpu` of every counted epoch."""
        return [getattr(t, what) for t in self.timings[warm:]]

    def median(self, what: str) -> float:
        """Over the counted epochs."""
        return statistics.median(self.counted(what))
