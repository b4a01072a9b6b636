"""Defaults that signatures and `--help` show; a module of its own, so that `--help` imports nothing else."""

from __future__ import annotations

STORE = "wbcbench-store"
METRIC = "macro_f1"
MARGIN = 0.01
"""Methods that differ by less, on the metric that is compared, are called level."""
RESAMPLES = 10_000
"""Number of bootstrap resamples."""
BATCH = 256
"""Cells per batch in `predict`."""
TOLERANCE = 1e-4
"""Largest difference of a probability between an exported file and the trained network."""
DEPLOYED = ("onnx", "onnx-int8", "onnx-dynamic", "onnx-fp16")
"""What `evaluate --deployed` can run."""
COSTS = ("macs", "params", "latency", *(f"{kind}:{cost}" for kind in DEPLOYED for cost in ("size", "latency")))
"""Horizontal axes of the Pareto front."""

__all__ = ["BATCH", "COSTS", "DEPLOYED", "MARGIN", "METRIC", "RESAMPLES", "STORE", "TOLERANCE"]
