"""All benchmarks with one command: a table, one JSON document, one page.

    python tests/benchmarks/suite.py [--only NAME,...] [--quick] [--full] [--threads 2]
                                     [--json OUT.json] [--page OUT.html]

`--quick` shows that everything works; its numbers mean little. `--full` adds boards of 100,000 records.
torchdistill comes with `pip install 'wbcbench[bench]'` (where that would change torch: `pip install --no-deps
--target DIR torchdistill`, and DIR on PYTHONPATH).

A benchmark that fails says so in the document and the others go on; the exit code is then 1. Files are
written after each benchmark, so that what was measured is not lost. A goal that is missed is no failure.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def benchmarks() -> dict[str, Callable[[Any], Any]]:
    """Name -> the benchmark; each takes `Options` and gives a `Part`."""
    from allocator import allocator_part
    from gpu import gpu_part
    from loading import loading_part
    from loop import loop_part, rival_part
    from matrix import matrix_part
    from startup import board_part, startup_part

    return {
        "startup": startup_part,
        "loading": loading_part,
        "allocator": allocator_part,
        "loop": loop_part,
        "rival": rival_part,
        "rival-still": lambda options: rival_part(options, still=True),
        "matrix": matrix_part,
        "leaderboard": board_part,
        "gpu": gpu_part,
    }


def run(
    names: list[str], options: Any, so_far: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """The document: environment, and each benchmark's outcome; `so_far` is told it after every one."""
    import torch
    from measuring import Part, environment

    torch.set_num_threads(options.threads)
    document: dict[str, Any] = {"version": 1, "quick": options.quick, "environment": environment(options.threads)}
    parts: list[dict[str, Any]] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            part = benchmarks()[name](options)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: the others are still worth running
            traceback.print_exc()
            part = Part(name, "", skipped=f"failed: {type(error).__name__}: {error}")
        part.wall_seconds = time.perf_counter() - start
        parts.append(part.as_dict())
        document["parts"] = parts
        document["failed"] = [p["name"] for p in parts if p["skipped"].startswith("failed")]
        so_far(plain(document))
    return dict(plain(document))


def plain(value: Any) -> Any:
    """The same with None for numbers that JSON has no form for."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(document: dict[str, Any]) -> str:
    """Every ratio in one table, and what was not run."""
    from tabulate import tabulate

    met = {True: "yes", False: "NO", None: ""}
    rows = [
        (p["name"], r["name"], r["value"], r["low"], r["high"], r["goal"], met[r["met"]])
        for p in document["parts"]
        for r in p["ratios"]
    ]
    text = tabulate(rows, ("benchmark", "ratio", "median", "smallest", "largest", "goal", "met"), floatfmt=".3f")
    return "\n".join([text, *(f"{p['name']}: not run: {p['skipped']}" for p in document["parts"] if p["skipped"])])


def page(document: dict[str, Any]) -> str:
    """The document as a page that needs nothing else."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((HERE / "suite.html.j2").read_text(encoding="utf-8")).render(**document)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args(arguments)
    # before torch is imported, here and in every process below: all contenders have the same number of threads
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    sys.path.insert(0, str(HERE))
    from measuring import Options

    from wbcbench.files import atomic_write_json, atomic_write_text

    known = list(benchmarks())
    names = [n for n in given.only.split(",") if n] or known
    if unknown := [n for n in names if n not in known]:
        parser.error(f"expected some of {', '.join(known)}, but got {', '.join(unknown)}")
    options = Options(given.threads, quick=given.quick or given.tiny, full=given.full, tiny=given.tiny)

    def write(document: dict[str, Any]) -> None:
        if given.json is not None:
            atomic_write_json(given.json, document)
        if given.page is not None:
            atomic_write_text(given.page, page(document))

    document = run(names, options, write)
    print(table(document))
    return 1 if document["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
