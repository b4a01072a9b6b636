"""Defaults that signatures and `--help` show; a module of its own, so that `--help` imports nothing else."""

from __future__ import annotations

STORE = "wbcbench-store"
METRIC = "macro_f1"
RESAMPLES = 10_000
"""Number of bootstrap resamples."""
BATCH = 256
"""Cells per batch in `predict`."""
TOLERANCE = 1e-4
"""Largest difference of a probability between an exported file and the trained network."""

__all__ = ["BATCH", "METRIC", "RESAMPLES", "STORE", "TOLERANCE"]
