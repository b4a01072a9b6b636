"""What one trial is given of a machine, and how many trials fit beside each other."""

from __future__ import annotations

from dataclasses import dataclass

from wbcbench.errors import UsageError
from wbcbench.spec.request import Request


@dataclass(frozen=True)
class Share:
    """Cores and GPUs of one trial."""

    cpus: int
    gpus: float
    """Of one GPU (0.25: four trials share it), or a whole number of GPUs."""


def share_of(request: Request, gpus: int) -> Share:
    """What a trial is given: as asked for, else one core and, where there are GPUs, a whole one.

    A whole GPU is the careful choice: shares are bookkeeping, a GPU's memory is not divided.

    Raises:
        UsageError: a GPU is to be used, but no share of one is given.
    """
    wanted = request.gpus_per_trial
    if wanted is None:
        wanted = 1.0 if request.device == "cuda" or (request.device == "auto" and gpus > 0) else 0.0
    if request.device == "cuda" and not wanted:
        raise UsageError("Expected a share of a GPU for --device cuda, but got none. Give --gpus-per-trial 1")
    return Share(request.cpus_per_trial or request.threads or 1, 0.0 if request.device == "cpu" else wanted)


def slots(cpus: int, gpus: int, share: Share) -> int:
    """How many trials of a share run at once on a machine of so many cores and GPUs."""
    by_cpu = cpus // share.cpus
    if not share.gpus:
        return by_cpu
    by_gpu = gpus // int(share.gpus) if share.gpus >= 1 else gpus * int(1 / share.gpus + 1e-9)
    return min(by_cpu, by_gpu)


def check_feasible(share: Share, nodes: list[tuple[int, int]]) -> int:
    """How many trials fit at once on nodes of (cores, GPUs).

    Raises:
        UsageError: not even one ever does. Ray would wait for ever.
    """
    fit = sum(slots(cpus, gpus, share) for cpus, gpus in nodes)
    if not fit:
        cpus, gpus = max(nodes, key=lambda node: node[::-1], default=(0, 0))
        raise UsageError(
            f"Expected a trial's share to fit on one node, but {share.cpus} CPUs and {share.gpus:g} GPUs were "
            f"asked for, and the largest node has {cpus} CPUs and {gpus} GPUs. Lower --cpus-per-trial or "
            "--gpus-per-trial."
        )
    return fit
