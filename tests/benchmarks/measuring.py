"""What every benchmark of the suite gives: raw seconds, facts, ratios with their goals."""

from __future__ import annotations

import operator
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from wbcbench.records.environment import source_revision, version_of

PACKAGES = ("wbcbench", "torch", "torchvision", "timm", "numpy", "ray", "torchdistill")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Goal:
    """What a ratio should be."""

    sense: Literal[">=", "<="]
    value: float

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return (operator.ge if self.sense == ">=" else operator.le)(ratio, self.value)

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}"


@dataclass(frozen=True)
class Ratio:
    """One number that compares two things of one run."""

    name: str
    value: float
    goal: Goal | None = None
    low: float | None = None
    """Smallest and largest over the repetitions, where there are several."""
    high: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        goal = None if self.goal is None else str(self.goal)
        met = None if self.goal is None else self.goal.met(self.value)
        return {
            "name": self.name,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "goal": goal,
            "met": met,
        }


@dataclass
class Part:
    """The outcome of one benchmark."""

    name: str
    about: str
    """What was done, and what to know when reading the numbers."""
    ratios: list[Ratio] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Contender -> seconds of each repetition."""
    facts: list[dict[str, Any]] = field(default_factory=list)
    """Rows of a table: whatever is not a ratio."""
    skipped: str = ""
    """Why it was not run, or what of it was not; empty where all was."""
    wall_seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"ratios": [r.as_dict() for r in self.ratios]}


@dataclass(frozen=True)
class Options:
    """What all benchmarks are told."""

    threads: int = 2
    quick: bool = False
    full: bool = False
    tiny: bool = False
    """So small that the numbers mean nothing: for the test of the suite."""

    def pick(self, usual: Any, quick: Any, tiny: Any = None) -> Any:
        """One of three sizes."""
        if self.tiny:
            return quick if tiny is None else tiny
        return quick if self.quick else usual


def interleaved(runs: Mapping[str, Callable[[int], float]], repeats: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each repetition of each run: A B C A B C ..., so that a slow spell slows all of them.

    Args:
        runs: name -> called with the number of the repetition, warm ones included; returns its seconds.
        repeats: counted ones, after `warm` uncounted ones.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm + repeats):
        for name, run in runs.items():
            spent = run(turn)
            if turn >= warm:
                seconds[name].append(spent)
    return seconds


def speedup(name: str, slow: Sequence[float], fast: Sequence[float], goal: Goal | None = None) -> Ratio:
    """How many times as fast as `slow` is `fast`: the median of the repetitions' ratios.

    Repetition i of one is set against repetition i of the other, which ran just before or after it.
    """
    each = [s / f for s, f in zip(slow, fast, strict=True)]
    return Ratio(name, statistics.median(each), goal, min(each), max(each))


class Command(NamedTuple):
    """What one process took."""

    seconds: float
    cpu: float
    """Processor seconds, of its children too."""
    mib: float
    """Peak memory of the largest process."""
    code: int
    out: str
    err: str


def command(*arguments: str) -> Command:
    """Run this Python with the given arguments, from an empty folder."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open(f"{folder}/out", "w+") as out,
        open(f"{folder}/err", "w+") as err,
    ):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=folder,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        cpu = usage.ru_utime + usage.ru_stime
        return Command(seconds, cpu, usage.ru_maxrss / 1024, process.returncode, out.read(), err.read())


def environment(threads: int) -> dict[str, Any]:
    """Where and when; no host name, no paths."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "threads": threads,
        "gpu": _gpu(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: v for name in PACKAGES if (v := version_of(name)) is not None},
        "git": source_revision(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


__all__ = ["Command", "Goal", "Options", "Part", "Ratio", "command", "environment", "interleaved", "speedup"]
