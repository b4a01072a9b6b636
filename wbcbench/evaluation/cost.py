"""The cost of a deployed network: parameters, multiply-accumulates, latency, throughput."""

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
"""Passes per burst: the fewest with a meaningful median, to allow as many bursts as possible."""
BURSTS = 34
"""Largest number of bursts, to limit the time for tiny networks."""
WAIT = 3.0
"""Seconds to wait for another measurement on this machine; after that, measure anyway."""


def least_seconds(
    once: Callable[[], None], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The lowest median of the bursts, after a warm-up of two passes.

    Args:
        once: one pass, finished when it returns.
        seconds: no burst starts after this time; at least one burst is run.
        clock: returns seconds.
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
    """Hold the machine-wide lock for measurements; yields whether it was acquired.

    Args:
        folder: of the lock; by default the system's temporary folder.
        wait: seconds; after that the block runs without the lock.
    """
    from filelock import FileLock

    lock = FileLock((folder or Path(tempfile.gettempdir())) / "wbcbench-timing.lock")
    with suppress(OSError):  # filelock's Timeout, or a lock file of another user
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

    Counted by PyTorch's dispatcher-level counter. So convolutions, matrix products and attention
    count, in plugins too; element-wise operations, norms and pooling do not.

    Args:
        module: maps `images` to probabilities [B, K].
        images: a batch of one cell.
    """
    counter = FlopCounterMode(display=False)
    # The counter hooks modules' inputs into autograd; without gradients that fails for a view of a parameter.
    with _evaluating(module), torch.inference_mode(False), torch.enable_grad():
        own = {m: x.clone() for m, x in images.items()}  # what was made in inference mode has no gradients
        with counter:
            module(own)
    return int(counter.get_total_flops()) // 2


def macs_or_why(module: nn.Module, images: Images) -> tuple[int | None, str]:
    """`macs`, or None and the reason: a network may have operations that PyTorch's counter does not support."""
    try:
        return macs(module, images), ""
    except (Exception, SystemExit) as error:  # whatever a foreign network does: counting must not end the run
        why = (str(error).strip() or "no message").splitlines()[0]
        return None, f"multiply-accumulates cannot be counted ({type(error).__name__}: {why})"


def latency(
    module: nn.Module,
    images_fn: Callable[[int], Images],
    device: torch.device | str = "cpu",
    *,
    seconds: float = 0.2,
) -> dict[str, Any]:
    """Time forward passes in short bursts and take the fastest burst, see `least_seconds`.

    Takes at most about twice `seconds`, plus a wait for other measurements on this machine.

    Args:
        module: maps images to probabilities [B, K]; moved to `device`.
        images_fn: batch size -> images on `device`.
        device: where to time.
        seconds: time for each of the two measurements, after a warm-up of at least two passes.

    Returns:
        `latency_ms` (at batch 1) and `throughput` (images per second at batch 32), each from the lowest median
        of the bursts; `device` (its name) and `threads`. Compare only within one device and thread count.
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
    """Eval mode without gradients; restores the mode of every submodule afterwards."""

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


__all__ = [
    "BURST",
    "BURSTS",
    "WAIT",
    "alone",
    "device_name",
    "latency",
    "least_seconds",
    "macs",
    "macs_or_why",
    "parameters",
]
