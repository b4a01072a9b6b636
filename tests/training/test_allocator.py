"""Freed memory is kept by the process that trains, unless its user has other plans."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from wbcbench.training.allocator import environment, is_set_by_user

FAULTS = """
import resource, sys
import numpy as np
from wbcbench.training.allocator import keep_freed_memory
assert keep_freed_memory() == (sys.argv[1] == "keep")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(50_000_000, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")


def faults(monkeypatch: pytest.MonkeyPatch, how: str, **variables: str) -> int:
    """Pages that twenty blocks of 50 MB have asked the kernel for, after twenty others."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return int(done.stdout)


@glibc
@pytest.mark.skipif(is_set_by_user(), reason="the environment has settings for the allocator")
def test_a_freed_block_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(monkeypatch, "keep") < 200, "twenty blocks have some 12,000 pages each, or 24 huge ones"


@glibc
@pytest.mark.skipif(is_set_by_user(), reason="the environment has settings for the allocator")
def test_likewise_where_only_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = environment()
    assert faults(monkeypatch, "leave", **settings) < 200
    assert environment() == {}, "they are the user's now"


@glibc
def test_the_user_s_own_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(monkeypatch, "leave", MALLOC_MMAP_THRESHOLD_="1000000", MALLOC_TRIM_THRESHOLD_="1000000") > 480
