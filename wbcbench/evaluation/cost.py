"""What a deployed network costs: parameters, multiply-accumulates, latency, throughput."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

BURST = 3
"""Passes of a burst: the fewest that have a median, so that as many bursts as possible are tried."""
BURSTS = 34
"""At most, so that a tiny network does not spin."""
WAIT = 3.0
"""Seconds to wait for another measurement on this machine; then it is measured all the same."""


def least_seconds(
    once: Callable[[], None], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The least of the bursts' medians, after a warm-up of two passes.

    Args:
        once: one pass, finished when it returns.
        seconds: after which no other burst begins; one is made however long it takes.
        clock: seconds.
    """
    once()
    once()
    end = clock() + seconds
    medians: list[float] = []
    while len(medians) < BURSTS and (not medians or clock() < end):
        times: list[float] = []
        for _ in range(BURST):
            start = clock()
            once()
            times.append(clock() - start)
        medians.append(statistics.median(times))
    return min(medians)


@contextmanager
def alone(folder: Path | None = None, wait: float = WAIT) -> Iterator[bool]:
    """Hold the machine's lock for measurements; gives whether it was had.

    Args:
        folder: of the lock; by default the machine's temporary folder.
        wait: seconds, after which the block runs without it.
    """
    from filelock import FileLock

    lock = FileLock((folder or Path(tempfile.gettempdir())) / "wbcbench-timing.lock")
    with suppress(OSError):  # filelock's Timeout, another user's file
        lock.acquire(timeout=wait)
    try:
        yield lock.is_locked
    finally:
        lock.release()


Images = dict[str, Tensor]
"""Modality -> [B, C_m, S, S]."""


def parameters(module: nn.Module) -> int:
    """Number of parameters, trainable or not, shared ones counted once."""
    return sum(p.numel() for p in module.parameters())


def macs(module: nn.Module, images: Images) -> int:
    """Multiply-accumulates of one forward pass, in eval mode.

    Counted by PyTorch's own dispatcher-level counter, so convolutions, matrix products and attention
    count, whoever wrote them; element-wise operations, norms and pooling do not.

    Args:
        module: maps `images` to probabilities [B, K].
        images: a batch of one cell.
    """
    counter = FlopCounterMode(display=False)
    with _evaluating(module), counter:
        module(images)
    return int(counter.get_total_flops()) // 2


def latency(
    module: nn.Module,
    images_fn: Callable[[int], Images],
    device: torch.device | str = "cpu",
    *,
    seconds: float = 0.2,
) -> dict[str, Any]:
    """Time forward passes in short bursts, of which the least disturbed counts; see `timing`.

    At most about twice `seconds` altogether, and a wait for other measurements on this machine.

    Args:
        module: maps images to probabilities [B, K]; moved to `device`.
        images_fn: batch size -> images on `device`.
        device: where to time.
        seconds: time for each of the two measurements, after a warm-up of at least two passes.

    Returns:
        `latency_ms` (at batch 1) and `throughput` (images per second at batch 32), each from the least of the
        bursts' medians; `device` (its name) and `threads`. Compare only within one device and thread count.
    """
    device = torch.device(device)
    module.to(device)
    with _evaluating(module), alone():
        single = _seconds(module, images_fn(1), device, seconds)
        batch = _seconds(module, images_fn(32), device, seconds)
    return {
        "latency_ms": single * 1e3,
        "throughput": 32 / batch,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device | str) -> str:
    """`cpu`, or the accelerator's product name."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class _evaluating:
    """Eval mode without gradients; every submodule's own mode is put back afterwards."""

    def __init__(self, module: nn.Module) -> None:
        self.modes = [(m, m.training) for m in module.modules()]
        self.module = module
        self.no_grad = torch.no_grad()

    def __enter__(self) -> None:
        self.module.eval()
        self.no_grad.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.no_grad.__exit__(*error)
        for module, training in self.modes:
            module.training = training


def _seconds(module: nn.Module, images: Images, device: torch.device, seconds: float) -> float:
    def once() -> None:
        module(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return least_seconds(once, seconds)


__all__ = ["BURST", "BURSTS", "WAIT", "alone", "device_name", "latency", "least_seconds", "macs", "parameters"]
