"""The environment a record was made in: versions, device, threads, source revision. No paths, no host names."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import wbcbench

PACKAGES = (
    "wbcbench", "torch", "timm", "numpy", "pandas", "scikit-learn", "scikit-image", "safetensors", "pydantic",
    "optuna", "ray",
)  # fmt: skip


def capture(device: str | None = None) -> dict[str, Any]:
    """Describe this process's environment as JSON.

    Args:
        device: the torch device that the trial runs on, such as `cpu` or `cuda:0`.
    """
    import torch

    from wbcbench.evaluation.cost import device_name

    cudnn: Callable[[], int | None] = torch.backends.cudnn.version  # untyped in torch
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: v for name in PACKAGES if (v := version_of(name)) is not None},
        "cuda": torch.version.cuda,
        "cudnn": cudnn() if torch.cuda.is_available() else None,
        "device": device_name(device) if device else None,
        "git": source_revision(),
        # Distinguishes machines without naming them.
        "host": hashlib.sha256(platform.node().encode()).hexdigest()[:12],
    }


@cache
def source_revision() -> dict[str, Any] | None:
    """Commit and dirty flag of the tree that wbcbench is imported from; None if it is not a checkout.

    Not of the current folder, which may be the user's own repository. Read once per process: a commit made later
    is not the code that runs here, and two git processes per record would slow short trials down.
    """
    tree = Path(wbcbench.__file__).resolve().parents[1]
    if not (tree / ".git").exists():
        return None
    commit = _git(tree, "rev-parse", "HEAD")
    status = _git(tree, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(status)}


def _git(tree: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(tree), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def version_of(name: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


__all__ = ["capture", "source_revision"]
