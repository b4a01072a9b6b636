"""Kill a sweep at random moments until it completes, and compare its store with the undisturbed one, bit for bit.

    python tests/faults/campaign.py                        30 trials, inline, then under Ray with two at once
    python tests/faults/campaign.py --trials 12 --executor ray --seed 7

A sweep of `--trials` trials (students with and without distillation, and their teachers) is run once
undisturbed. Then the same command is started in a new store and killed with SIGKILL: the driver, or, under Ray,
now and then one of its workers instead, after which the driver must go on by itself. It is started again until
it ends by itself, and in the end every file of both stores is compared. Moments are drawn from `--seed`, which is
printed; what a moment hits depends on the machine. Prints one line per executor and exits with 1 if anything
differs. `test_campaign.py` runs a short one with every test run.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import psutil

from wbcbench.files import TEMPORARY
from wbcbench.records.schema import PAYLOAD, Result
from wbcbench.records.store import Store
from wbcbench.testing.records import write_cells

FUSIONS, KD = ("early", "independent"), ("none", "logits")
TEACHERS = 2
"""One per modality, for every student that has a teacher."""


def students(trials: int) -> int:
    """Seeds of each method that make about so many trials, teachers included."""
    return max(1, (trials - TEACHERS) // (len(FUSIONS) * len(KD)))


def command(cells: Path, store: Path, trials: int, epochs: int, *more: str) -> list[str]:
    """The sweep. Latency is measured in every trial, so that it never takes less than some tenths of a second."""
    seeds = ",".join(map(str, range(students(trials))))
    return [
        sys.executable, "-m", "wbcbench", "run", "--dataset", "npz", "--set", f"dataset.path={cells}",
        "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]", "--store", str(store),
        "--backbone", "cellnet:width=4", "--teacher", "cellnet:width=6", "--set", "teacher.fusion=single",
        "--fusion", ",".join(FUSIONS), "--kd", ",".join(KD), "--seeds", seeds, "--epochs", str(epochs),
        "--set", "batch_size=16", "--device", "cpu", "--cpus-per-trial", "1", "--json", *more,
    ]  # fmt: skip


@dataclass
class Tally:
    """What a campaign did."""

    executor: str
    starts: int = 0
    drivers: int = 0
    """Drivers that were killed."""
    workers: int = 0
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)

    def line(self) -> str:
        verdict = "equal" if not self.differences else f"{len(self.differences)} DIFFERENCES"
        counts = f"{self.drivers:8d} {self.workers:8d} {self.starts:8d} {self.seconds:8.0f}"
        return f"{self.executor:8} {counts}  {verdict}"


HEADER = f"{'executor':8} {'drivers':>8} {'workers':>8} {'starts':>8} {'seconds':>8}  store"


class Started(Protocol):
    """A running sweep: a command of its own, or a fork of one that has imported everything."""

    @property
    def pid(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def end(self) -> tuple[int, str]:
        """Wait for it; exit code and what it wrote to stderr."""
        ...


class Command:
    """The sweep as a command of its own."""

    def __init__(self, argv: list[str]) -> None:
        # To a file: what a killed driver leaves behind for a moment may hold a pipe open.
        self._err = tempfile.TemporaryFile("w+")  # noqa: SIM115  gone with this object
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=self._err)
        self.pid: int | None = self._process.pid
        self.poll, self.kill = self._process.poll, self._process.kill

    def end(self) -> tuple[int, str]:
        code = self._process.wait(timeout=900)
        self._err.seek(0)
        return code, self._err.read()


def campaign(
    begin: Callable[[], Started],
    store: Path,
    tally: Tally,
    draw: random.Random,
    kills: int,
    wait: tuple[float, float],
) -> None:
    """Run a sweep until it ends by itself, killing it at most `kills` times.

    Args:
        begin: starts the sweep.
        store: whose growing is watched.
        tally: is added to.
        draw: of moments, and of whom to kill.
        kills: after so many it is left alone.
        wait: shortest and longest time in seconds from a sign of life (a new file in the store) to the kill.
    """
    began, agents = time.monotonic(), []
    while True:
        process = begin()
        tally.starts += 1
        killed = False
        while tally.drivers + tally.workers < kills and process.poll() is None:
            before = newest(store)
            while process.poll() is None and newest(store) == before:
                time.sleep(0.005)
            time.sleep(draw.uniform(*wait))
            workers = workers_of(process) if tally.executor == "ray" else []
            if process.poll() is not None:
                break
            if workers and draw.random() < 0.5:
                kill(draw.choice(workers))
                tally.workers += 1
                tell(f"{time.monotonic() - began:6.1f} s: killed one of {len(workers)} workers")
                continue
            family = descendants(process)
            process.kill()
            tally.drivers, killed = tally.drivers + 1, True
            slow = {p for p in family if "Agent" in titled(p)}  # Ray's own, which hold nothing of ours
            agents += slow
            _, left = psutil.wait_procs([p for p in family if p not in slow], timeout=60)
            tell(f"{time.monotonic() - began:6.1f} s: killed the driver; {len(family)} processes ended with it")
            if left:
                tally.differences.append(f"{len(left)} processes outlived their driver by a minute")
            break
        code, err = process.end()
        if not killed:
            if code:
                tally.differences.append(f"exit code {code}: {err.strip()[-2000:]}")
            break
    tally.seconds = time.monotonic() - began
    # They look for their parent once a minute.
    if left := psutil.wait_procs(agents, timeout=150)[1]:
        tally.differences.append(f"{len(left)} of Ray's agents outlived their driver by more than two minutes")


def tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def newest(store: Path) -> int:
    """Changes whenever a checkpoint, a teacher's answer or a record is written."""
    seen = 0
    for part in ("work", "replay", "records"):
        for path in (store / part).glob("*"):
            try:
                seen = max(seen, path.stat().st_mtime_ns)
            except OSError:
                continue  # a record took its place
    return seen


def descendants(driver: Started) -> list[psutil.Process]:
    """Processes that a driver has started; they must not outlive it for long."""
    try:
        return list(psutil.Process(driver.pid).children(recursive=True))
    except psutil.Error:
        return []


def workers_of(driver: Started) -> list[psutil.Process]:
    """The driver's Ray workers, at a trial or waiting for one. Not Ray's own agents: the node ends with them."""
    titles = {child: titled(child) for child in descendants(driver)}
    return [child for child, title in titles.items() if title.startswith("ray::") and "Agent" not in title]


def titled(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):  # it ended by itself
        process.send_signal(signal.SIGKILL)


def differences(store: Path, undisturbed: Path) -> list[str]:
    """How a store differs from the undisturbed one; times and the environment's order apart, nothing may."""
    found = []
    mine, theirs = tree(store), tree(undisturbed)
    found += [f"left over: {name}" for name in sorted(mine - theirs)]
    found += [f"missing: {name}" for name in sorted(theirs - mine)]
    good, bad = Store(store).scan(verify="full")
    found += [f"damaged: {path.name} ({error})" for path, error in bad]
    for record in good:
        other = undisturbed / "records" / record.trial.id
        for name in PAYLOAD:
            if not (other / name).is_file():
                continue
            a, b = (record.path / name).read_bytes(), (other / name).read_bytes()
            if name == "history.csv":
                a, b = without_times(a), without_times(b)
            if a != b:
                found.append(f"{record.trial.id}/{name} differs")
        if said(record.path) != said(other):
            found.append(f"{record.trial.id}/result.json says something else")
    return found


def tree(store: Path) -> set[str]:
    """Every file but the locks, which stay; a record's parts count one by one.

    A teacher's answer that was being written when the process was killed goes after ten minutes: not counted.
    """
    paths = {
        p.relative_to(store).as_posix() for p in store.rglob("*") if p.is_file() or p.name.startswith(TEMPORARY)
    }
    return {p for p in paths if not p.startswith("locks/") and not (p.startswith("replay/") and TEMPORARY in p)}


def without_times(data: bytes) -> bytes:
    """A history without its columns of seconds."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    keep = [i for i, name in enumerate(rows[0]) if "seconds" not in name]
    return "\n".join(",".join(row[i] for i in keep) for row in rows).encode()


def said(folder: Path) -> dict[str, object]:
    """What a result says but for times, and for digests of files that hold times."""
    path = folder / "result.json"
    if not path.is_file():
        return {}
    document = Result.model_validate_json(path.read_bytes()).model_dump(mode="json")
    for name in ("started", "ended", "checksum"):
        del document[name]
    timed = {"latency_ms", "throughput", "train_seconds", "teacher_seconds", "train_images_per_second"}
    document["cost"] = {k: v for k, v in document["cost"].items() if k not in timed}
    document["files"] = {k: v for k, v in document["files"].items() if k not in ("history.csv", "env.json")}
    return document


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30, help="about so many, teachers included")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=30, help="at most so many per executor")
    parser.add_argument("--executor", choices=("inline", "ray", "both"), default="both")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; by default another every time")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="wbcc-") as name:
        folder = Path(name)
        cells = write_cells(folder / "cells.npz")
        sweep = (options.trials, options.epochs)
        begun = time.monotonic()
        code, err = Command(command(cells, folder / "whole", *sweep, "--executor", "inline")).end()
        if code:
            print(err)
            return 1
        count = len(list((folder / "whole" / "records").iterdir()))
        print(f"undisturbed: {count} trials, {time.monotonic() - begun:.0f} s\n{HEADER}", flush=True)
        failed = False
        for executor in ("inline", "ray") if options.executor == "both" else (options.executor,):
            tally = Tally(executor)
            where = ["--executor", executor, *(["--jobs", "2"] if executor == "ray" else [])]
            begin = partial(Command, command(cells, folder / executor, *sweep, *where))
            campaign(begin, folder / executor, tally, random.Random(seed), options.kills, (0.0, 1.5))
            tally.differences += differences(folder / executor, folder / "whole")
            print(tally.line(), flush=True)
            for difference in tally.differences:
                print(f"  {difference}")
            failed |= bool(tally.differences)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
