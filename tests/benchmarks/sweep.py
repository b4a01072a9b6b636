"""What Ray costs and brings: one sweep of short trials through every executor, from one run.

    python tests/benchmarks/sweep.py [--workers 2] [--seeds 12] [--epochs 6] [--repeats 1] [--json]

Two fusions x `--seeds` trials on synthetic cells, one thread a trial, each executor as a command of its own with
a store of its own. `training` is the sum of the trials' own training seconds in the inline run: what no scheduler
can save. Goal for Ray, on 2 cores: wall time at most 1.15 x (training / workers) + start-up, where start-up is
the wall time of a Ray run of the same command of which all but two trials are done.

With a GPU: `--gpus-per-trial 1,0.5,0.25,0.125` prints trials per hour for 1, 2, 4 and 8 trials a GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate


def command(store: Path, options: argparse.Namespace, *more: str) -> list[str]:
    """The sweep as a user types it."""
    seeds = ",".join(map(str, range(options.seeds)))
    return [
        sys.executable, "-m", "wbcbench", "run", "--fusion", "early,independent", "--seeds", seeds,
        "--set", "dataset.cells=1500", "--set", "dataset.image_size=32", "--epochs", str(options.epochs),
        "--cpus-per-trial", "1", "--store", str(store), "--json", *more,
    ]  # fmt: skip


def timed(arguments: list[str]) -> tuple[float, dict[str, Any]]:
    """Wall seconds of a command, and the document it printed."""
    start = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start, json.loads(done.stdout)


def training_seconds(store: Path) -> float:
    """Sum over the store's records of what their training alone took."""
    results = [json.loads(p.read_text()) for p in (store / "records").glob("*/result.json")]
    return float(sum(r["cost"]["train_seconds"] for r in results))


def forget(store: Path, keep: int) -> None:
    """Remove all records but some."""
    for record in sorted((store / "records").iterdir())[keep:]:
        shutil.rmtree(record)


def on_cores(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """One round: inline, Ray, and Ray with hardly anything to do."""
    cpu = ("--device", "cpu")
    ray = (*cpu, "--executor", "ray", "--jobs", str(options.workers))
    inline, one = timed(command(folder / "inline", options, *cpu, "--executor", "inline"))
    training = training_seconds(folder / "inline")
    several, other = timed(command(folder / "ray", options, *ray))
    same = {r["trial_id"]: r["digest"] for r in one["records"]} == {
        r["trial_id"]: r["digest"] for r in other["records"]
    }
    if not same:
        raise SystemExit("Ray's records differ from the inline run's")
    beside = training_seconds(folder / "ray")
    trials = len(one["records"])
    forget(folder / "ray", trials - 2)
    few, _ = timed(command(folder / "ray", options, *ray))
    startup = few - 2 * training / trials / min(2, options.workers)
    return {
        "trials": trials,
        "training": training,
        "training_under_ray": beside,
        "inline": inline,
        "ray": several,
        "startup": startup,
        "goal": 1.15 * training / options.workers + startup,
        "inline/ray": inline / several,
        "ray/goal": several / (1.15 * training / options.workers + startup),
    }


def on_gpus(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, float]]:
    """Trials per hour for each share of a GPU, Ray's start among them; each as soon as it is known."""
    for share in (float(s) for s in options.gpus_per_trial.split(",")):
        store = folder / str(share)
        more = ("--device", "auto", "--executor", "ray", "--gpus-per-trial", str(share))
        seconds, document = timed(command(store, options, *more))
        trials = len(document["records"])
        yield {"gpus_per_trial": share, "seconds": seconds, "trials/hour": trials / seconds * 3600}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--gpus-per-trial", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            if options.gpus_per_trial:
                rows += on_gpus(options, Path(folder))
            else:
                rows.append(on_cores(options, Path(folder)))
    if not options.gpus_per_trial and len(rows) > 1:
        rows.append({key: statistics.median(r[key] for r in rows) for key in rows[0]})
    print(json.dumps(rows) if options.json else tabulate(rows, headers="keys", floatfmt=".2f"))


if __name__ == "__main__":
    main()
