"""Spoiled bytes to every reader of what a stranger may have written: success or a `WbcbenchError`, nothing else.

The suite draws the same few bytes every time; longer runs draw others each time, and a failure names its seed and
the bytes. Longer, or one case again:

    WBCBENCH_FUZZ=5000 pytest -n 0 tests/fuzz -k "config or manifest"
    WBCBENCH_FUZZ=1 WBCBENCH_FUZZ_SEED=123456 pytest -n 0 tests/fuzz -k config
"""

from __future__ import annotations

import os
import random
import resource
import signal
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from targets import Target, targets

from wbcbench.errors import WbcbenchError

TIMES = int(os.environ.get("WBCBENCH_FUZZ", "6"))
SECONDS = 60
"""For one reading; it takes some hundredths, but machines may be busy."""
ROOM = 3 << 30
"""Bytes of address space above what is taken already."""
LONGEST = 2_000_000
"""Characters of an error, which may repeat what it is about, but not unfold it."""
_SEED = random.SystemRandom().randrange(10**9) if "WBCBENCH_FUZZ" in os.environ else 0
SEEDS = random.Random(int(os.environ.get("WBCBENCH_FUZZ_SEED", _SEED)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {t.name: t for t in targets(tmp_path_factory.mktemp("fuzz"))}


@pytest.fixture
def bounded() -> Iterator[None]:
    """Little memory, and no endless reading."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"one reading took more than {SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, before)


NAMES = (
    "pack",
    "pack, opened",
    "config",
    "--set",
    "--space",
    "invalid.yaml",
    "ledger",
    "protocol.json",
    "index",
    "cells.npz",
    "cells.npz to classify",
    "dataset.yaml",
    "dataset.yaml to classify",
    "plugin",
    "PNG",
    "TIFF",
    "JPEG",
    "BMP",
    "manifest.csv",
    "manifest.csv to classify",
    "images.zip",
    *(
        f"{name}{signed}"
        for name in ("spec.json", "predictions.npz", "model.safetensors", "history.csv", "env.json", "result.json")
        for signed in ("", ", signed")
    ),
    *(
        f"pack: {name}"
        for name in ("spec.json", "predictions.npz", "history.csv", "env.json", "result.json", "manifest.json")
    ),
    "study: spec.json",
    "study: proposals/00000.json",
    "study: winner.json",
    "study file",
    "examination",
    "examination, signed",
    "board.json to compare",
)


def test_every_reader_is_named(table: dict[str, Target]) -> None:
    assert set(table) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_only_success_or_an_error_of_ours(table: dict[str, Target], name: str, bounded: None) -> None:
    target = table[name]
    target.read(target.valid)
    failures: dict[str, str] = {}
    for _ in range(TIMES):
        seed = SEEDS.randrange(10**9)
        draw = random.Random(seed)
        data = target.valid
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            data = attempt(draw, target, data)
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.read(data)
        except WbcbenchError as error:
            if not 0 < len(str(error)) < LONGEST:
                failures["an error without a text, or an endless one"] = (
                    f"seed {seed}, {len(str(error)):,} characters"
                )
        except Exception as error:
            at = [f for f in traceback.extract_tb(error.__traceback__) if "/tests/" not in f.filename]
            where = "; ".join(
                f"{Path(f.filename).name}:{f.lineno}"
                for f in at
                if "wbcbench" in f.filename or "plugins/" in f.filename
            )
            key = f"{type(error).__name__} at {where}"
            failures.setdefault(key, f"seed {seed}, {data[:300]!r}: {str(error)[:300]}")
        finally:
            signal.alarm(0)
    assert not failures, "\n".join(f"{k}\n    {v}" for k, v in failures.items())


def attempt(draw: random.Random, target: Target, data: bytes) -> bytes:
    """One more mutation; one that keeps a form needs bytes that still have it."""
    try:
        return draw.choice(target.mutations)(data, draw)
    except Exception:
        return data
