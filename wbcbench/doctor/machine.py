"""Processor, GPUs, memory, and what Ray needs of a machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from wbcbench.doctor.examination import Finding, Findings

GIB = 2**30
RAY_SESSION = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""What Ray appends to its temp folder; a socket's path may have 107 characters on Linux, 103 on macOS."""


def processor() -> Findings:
    """Cores that this process may use, and threads per trial."""
    import torch
    from joblib import cpu_count

    usable, whole = int(cpu_count()), os.cpu_count() or 1
    limited = "" if usable == whole else f" of {whole} (a container or a job allows no more)"
    text = f"{usable} cores{limited}, torch uses {torch.get_num_threads()} threads"
    yield Finding("processor", "ok", text)


def gpu() -> Findings:
    """GPUs that torch can use; a GPU that it cannot use although it is there."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(count):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        yield Finding("GPU", "ok", f"cuda:{i} {name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free")
    if torch.backends.mps.is_available():
        yield Finding("GPU", "ok", "mps (Apple): one trial at a time, without Ray")
    elif not count and shutil.which("nvidia-smi"):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None:
            text = f"an NVIDIA driver is here, but CUDA_VISIBLE_DEVICES={hidden!r} hides its GPUs"
            yield Finding("GPU", "problem", text, "unset CUDA_VISIBLE_DEVICES")
        else:
            text = f"an NVIDIA driver is here, but torch {torch.__version__} sees no GPU"
            fix = "run `nvidia-smi`; if it shows one, install a torch for its CUDA version"
            yield Finding("GPU", "problem", text, fix)
    elif not count:
        yield Finding("GPU", "ok", "none: trials run on the processor")


def memory() -> Findings:
    """Memory that is free now."""
    import psutil

    seen = psutil.virtual_memory()
    text = f"{seen.available / GIB:.1f} of {seen.total / GIB:.1f} GiB free"
    if seen.available < 2 * GIB:
        yield Finding("memory", "problem", text, "Close something: a trial with its libraries takes about 1 GiB.")
    else:
        yield Finding("memory", "ok", text)


def ray_needs() -> Findings:
    """Shared memory, and a temp folder whose path is short enough for sockets."""
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        if free < GIB / 4:
            text = f"only {free / 2**20:.0f} MiB of shared memory (/dev/shm): Ray falls back to slow files"
            yield Finding("Ray", "note", text, "in Docker: --shm-size 2g")
    temp = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(temp + RAY_SESSION) > 103:
        text = f"the temp folder {temp} is too long for Ray's sockets; /tmp is used instead"
        yield Finding("Ray", "note", text, "export RAY_TMPDIR=/tmp")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        text = f"RAY_ADDRESS={address} is set, and is not followed: wbcbench starts its own Ray"
        yield Finding("Ray", "note", text, f"--ray-address {address} joins that cluster")
    import ray

    yield Finding("Ray", "ok", f"{ray.__version__}; started only where several trials run at once")


__all__ = ["gpu", "memory", "processor", "ray_needs"]
