"""What each verb takes before it does anything, and boards of many records.

    python tests/benchmarks/startup.py

Every verb is a process of its own: `--help` of all, and of some the least work they can do. Python alone is the
zero of the scale. Boards are `leaderboard.py`'s.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import leaderboard
from measuring import Command, Options, Part, command
from tabulate import tabulate

from wbcbench.cli.group import VERBS

LEAST = {
    "list": ("fusions",),
    "show": ("fusion", "independent"),
    "plugins": (),
    "run": ("--dry-run",),
    "doctor": (),
}
"""Verb -> arguments of its least work."""


def startup_part(options: Options) -> Part:
    """Wall time, processor time and memory of every verb."""
    part = Part("startup", "Wall seconds of a process, medians; the first row is Python that does nothing.")
    verbs = options.pick(list(VERBS), list(VERBS), ["list"])
    calls: dict[str, tuple[str, ...]] = {"python": ("-c", "pass")}
    calls |= {f"{v} --help": ("-m", "wbcbench", v, "--help") for v in verbs}
    if not options.tiny:
        calls |= {" ".join((v, *more)): ("-m", "wbcbench", v, *more) for v, more in LEAST.items()}
    repeats = options.pick(3, 1)
    done: dict[str, list[Command]] = {name: [] for name in calls}
    for turn in range(repeats + 1):  # the first round fills the file cache
        for name, arguments in calls.items():
            if turn or not options.quick:
                done[name].append(command(*arguments))
    for name, times in done.items():
        counted = sorted(times[-repeats:], key=lambda c: c.seconds)
        if any(c.code not in (0, 1) for c in counted):  # 1: `doctor` has found something
            raise RuntimeError(f"{name} ended with {counted[0].code}: {counted[0].err}")
        middle = counted[len(counted) // 2]
        part.seconds[name] = [c.seconds for c in counted]
        part.facts.append({"verb": name, "seconds": middle.seconds, "cpu": middle.cpu, "MiB": middle.mib})
    return part


def board_part(options: Options) -> Part:
    """`wbcbench leaderboard` on generated records."""
    part = Part("leaderboard", "`wbcbench leaderboard`: first build, nothing new, one record in a hundred new.")
    counts = options.pick([1_000, 10_000], [200], [60])
    for count in [*counts, *([100_000] if options.full else [])]:
        with tempfile.TemporaryDirectory(prefix="boards-") as folder:
            row: dict[str, Any] = leaderboard.measure(Path(folder), 300 if count > 100 else 60, count)
        part.facts.append(row)
        part.seconds |= {f"{count} {what}": [row[f"{what}_s"]] for what in ("first", "again", "more")}
    if not options.full:
        part.skipped = "100,000 records: with --full"
    return part


def main() -> None:
    print(tabulate(startup_part(Options()).facts, headers="keys", floatfmt=".2f"))


if __name__ == "__main__":
    main()
