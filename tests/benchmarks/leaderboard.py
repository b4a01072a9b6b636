"""How boards grow: generated records, the first build, and the rebuild from the index.

    python tests/benchmarks/leaderboard.py [--counts 1000,10000] [--cells 300] [--folder DIR] [--keep] [--json]

Add 100000 to `--counts` for the largest. Records have three seeds a method, one method in ten with other
parameters instead of another name, and stand on boards of about 1,000 records. They are whole in everything
but this: their predictions, weights and histories are hard links to those of a few. Each step is `wbcbench
leaderboard --format json -o FILE` as a command of its own: `first` with no index, `again` with nothing new, `more`
after one record in a hundred was added; `cpu` is processor time of all processes, which other jobs disturb less.
Peak memory is that of the largest process. Goals: first build linear, and 100,000 in about a minute; rebuild in
seconds; memory bounded.

Above 2,000 records boards have no intervals unless asked; `statistics` is a rebuild with those of one board.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from wbcbench.records.schema import ComparisonKey, Outcome, Result
from wbcbench.records.store import Store
from wbcbench.spec import Budget, ComponentSpec, Method, Protocol, Trial
from wbcbench.testing.records import CLASSES, fake_outcome, fake_predictions, fake_record, fake_trial

SEEDS = 3
BOARD = 1000
POOL = 20
EPOCHS = 60


class Part(NamedTuple):
    """What generated records share: files on disk, their digests, and the outcome that the predictions have."""

    folder: Path
    files: dict[str, str]
    outcome: Outcome


def pool(folder: Path, cells: int) -> list[Part]:
    """A few real records."""
    parts = []
    for i in range(POOL):
        predictions = fake_predictions(i, cells=cells, skill=1 + i / POOL)
        history = np.random.default_rng(i).random(EPOCHS).tolist()
        record = fake_record(
            Store(folder), fake_trial(i, fusion="pool"), predictions=predictions, validation=history
        )
        parts.append(Part(record.path, record.result.files, fake_outcome(record.trial, predictions)))
    return parts


def generated(number: int) -> Trial:
    """Trial number so and so."""
    method, seed = divmod(number, SEEDS)
    board = number // BOARD
    return Trial(
        protocol=Protocol(
            dataset=ComponentSpec(name="fake"), modalities=("brightfield", "dapi"), image_size=16,
            fingerprint="f" * 16, budget=Budget(epochs=board + 1),
        ),
        method=Method(
            fusion=ComponentSpec(name=f"fusion-{method - method % 10}" if method % 10 < 2 else f"fusion-{method}",
                             params={"rho": method % 10 / 10, "repeats": 1}),
            backbone=ComponentSpec(name="tiny", params={"width": 8}),
        ),
        seed=seed,
    )  # fmt: skip


def generate(store: Path, parts: list[Part], first: int, count: int) -> None:
    """Write records `first` to `first + count - 1`."""
    for number in range(first, first + count):
        trial, part = generated(number), parts[number % POOL]
        p = trial.protocol
        key = ComparisonKey.of(trial, fingerprint=p.fingerprint, split="s" * 16, classes=CLASSES)
        spec = (trial.model_dump_json(indent=2) + "\n").encode()
        files = part.files | {"spec.json": hashlib.sha256(spec).hexdigest()}
        result = Result.build(trial, part.outcome.model_copy(update={"key": key}), files)
        folder = store / "records" / trial.id
        folder.mkdir(parents=True)
        for name in part.files:
            if name != "spec.json":
                os.link(part.folder / name, folder / name)
        (folder / "spec.json").write_bytes(spec)
        (folder / "result.json").write_bytes(result.model_dump_json(indent=2).encode())


def timed(store: Path, out: Path, *more: str) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak MiB of one `wbcbench leaderboard`."""
    command = [sys.executable, "-m", "wbcbench", "leaderboard", "--store", str(store)]
    command += ["--format", "json", "-o", str(out), *more]
    start = time.perf_counter()
    _, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, command[0], command), 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure(folder: Path, cells: int, count: int) -> dict[str, Any]:
    """Every step for one number of records."""
    store, out = folder / f"store-{count}", folder / "board.json"
    start = time.perf_counter()
    generate(store, pool(folder / f"first-{count}", cells), 0, count)
    found: dict[str, Any] = {"records": count, "generated_s": time.perf_counter() - start}
    found["first_s"], found["first_cpu"], found["first_mib"] = timed(store, out)
    said = out.read_bytes()
    found["again_s"], found["again_cpu"], found["again_mib"] = timed(store, out)
    if out.read_bytes() != said:
        raise SystemExit("The rebuild gave other bytes.")
    document = json.loads(said)
    found["boards"], found["rows"] = len(document["boards"]), sum(len(b["rows"]) for b in document["boards"])
    key = document["boards"][0]["digest"]
    found["statistics_s"], found["statistics_cpu"], _ = timed(store, out, "--key", key, "--statistics")
    # links to the first pool would change its files' times, and with them every record
    generate(store, pool(folder / f"pool-{count}", cells), count, max(1, count // 100))
    found["more_s"], found["more_cpu"], _ = timed(store, out)
    found["index_mib"] = (store / "index" / "records.json").stat().st_size / 2**20
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1000,10000")
    parser.add_argument("--cells", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="Where to write; default: a temporary folder.")
    parser.add_argument("--keep", action="store_true", help="Leave the stores there.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    np.seterr(all="raise")
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="boards-", dir=options.folder))
    try:
        rows = []
        for count in map(int, options.counts.split(",")):
            rows.append(measure(folder, options.cells, count))
            if not options.json:
                print(tabulate(rows[-1:], headers="keys", floatfmt=".1f"), flush=True)
        if options.json:
            print(json.dumps({"cpus": os.cpu_count(), "cells": options.cells, "steps": rows}, indent=2))
        else:
            print("\nper 1,000 records:")
            small = ("first_s", "first_cpu", "again_s", "again_cpu", "more_s", "index_mib")
            table = [{"records": r["records"]} | {k: 1000 * r[k] / r["records"] for k in small} for r in rows]
            print(tabulate(table, headers="keys", floatfmt=".2f"))
    finally:
        if not options.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
