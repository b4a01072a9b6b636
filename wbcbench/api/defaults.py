"""Defaults that signatures and `--help` show; a module of its own, so that `--help` imports nothing else."""

from __future__ import annotations

STORE = "wbcbench-store"
METRIC = "macro_f1"
RESAMPLES = 10_000
"""Of the bootstrap."""
BATCH = 256
"""Cells that are classified at a time."""
TOLERANCE = 1e-4
"""Largest difference of a probability between an exported file and the trained network."""

__all__ = ["BATCH", "METRIC", "RESAMPLES", "STORE", "TOLERANCE"]
