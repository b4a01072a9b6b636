"""A whole matrix as a user runs it, fusion x KD x seeds: wall time over what its students alone compute.

    python tests/benchmarks/matrix.py

Teachers, planning, start-up, validation, records and scheduling all count in the wall time. Students' own
training seconds are those of the inline run, one thread a trial, divided by the number of cores in use. While
the Ray run goes on, the memory of its processes is looked at once a second.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import sweep
from measuring import Goal, Options, Part, Ratio
from tabulate import tabulate

GOAL = Goal("<=", 1.25)


class Watch(threading.Thread):
    """Peak memory of the processes under this one, by kind; MiB that a process has to itself."""

    def __init__(self, every: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[tuple[str, int], float] = defaultdict(float)
        self.all = 0.0
        self._every, self._ended = every, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._every):
            total = 0.0
            for process in psutil.Process().children(recursive=True):
                try:
                    own = process.memory_full_info().uss / 2**20
                    kind = _kind(process)
                except (psutil.Error, OSError):
                    continue
                total += own
                self.peaks[kind, process.pid] = max(self.peaks[kind, process.pid], own)
            self.all = max(self.all, total)

    def stop(self) -> list[dict[str, Any]]:
        """A row per kind of process."""
        self._ended.set()
        self.join()
        kinds: dict[str, list[float]] = defaultdict(list)
        for (kind, _), peak in self.peaks.items():
            kinds[kind].append(peak)
        rows = [{"process": k, "processes": len(v), "peak_MiB_each": max(v)} for k, v in sorted(kinds.items())]
        return [*rows, {"process": "all at once", "processes": len(self.peaks), "peak_MiB_each": self.all}]


def _kind(process: psutil.Process) -> str:
    words = process.cmdline()
    first = words[0] if words else process.name()
    if first.startswith("ray::"):
        # Tune's actor is called after the function that it runs, or after Tune's own wrapper of it
        return "worker" if "train" in first.lower() or "ImplicitFunc" in first else "ray: other actor"
    if "wbcbench" in words:
        return "driver"
    return f"ray: {Path(first).name}"


def split_seconds(store: Path) -> tuple[float, float, int, int]:
    """Training seconds of students and of teachers, and the number of each."""
    student = teacher = 0.0
    students = teachers = 0
    for path in (store / "records").glob("*/result.json"):
        seconds = float(json.loads(path.read_text())["cost"]["train_seconds"])
        spec = json.loads((path.parent / "spec.json").read_text())
        if spec["method"]["fusion"]["name"] == "single":
            teacher, teachers = teacher + seconds, teachers + 1
        else:
            student, students = student + seconds, students + 1
    return student, teacher, students, teachers


def matrix_part(options: Options) -> Part:
    """Inline on one core, and Ray on all."""
    part = Part("matrix", "Three fusions x KD x seeds on 1,500 synthetic cells of 32 px, one thread a trial.")
    workers = options.threads
    given = argparse.Namespace(seeds=options.pick(2, 1), epochs=options.pick(12, 2, 1), workers=workers)
    kd = options.pick("none,logits,dkd,nkd", "none,logits", "none")
    more = ["--fusion", options.pick("early,independent,late_prob", "early,independent", "early"), "--kd", kd]
    more += ["--device", "cpu"] + (["--set", "dataset.cells=60"] if options.tiny else [])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        inline, document = sweep.timed(sweep.command(folder / "inline", given, *more, "--executor", "inline"))
        student, teacher, students, teachers = split_seconds(folder / "inline")
        part.seconds["inline"] = [inline]
        part.ratios.append(Ratio("inline: wall / students' training", inline / student))
        if not options.tiny:
            watch = Watch()
            watch.start()
            ray = ("--executor", "ray", "--jobs", str(workers))
            several, other = sweep.timed(sweep.command(folder / "ray", given, *more, *ray))
            part.facts += watch.stop()
            if {r["trial_id"]: r["digest"] for r in document["records"]} != {
                r["trial_id"]: r["digest"] for r in other["records"]
            }:
                raise RuntimeError("Ray's records differ from the inline run's.")
            part.seconds["ray"] = [several]
            part.ratios.append(
                Ratio(f"Ray, {workers} workers: wall / students' training", several / (student / workers), GOAL)
            )
            everything = (student + teacher) / workers
            part.ratios.append(Ratio(f"Ray, {workers} workers: wall / all training", several / everything))
            part.ratios.append(Ratio("inline / Ray", inline / several))
    part.seconds |= {"students' training": [student], "teachers' training": [teacher]}
    part.about += (
        f" {students} students, {teachers} teachers. Memory is what a process has to itself, at its peak."
    )
    return part


def main() -> None:
    part = matrix_part(Options())
    print(tabulate([r.as_dict() for r in part.ratios], headers="keys", floatfmt=".3f"))
    print(tabulate(part.facts, headers="keys", floatfmt=".0f"))


if __name__ == "__main__":
    main()
