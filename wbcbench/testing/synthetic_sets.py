"""Three made-up two-modality problems that tell what a fusion can express. Deterministic, seconds to learn.

Each modality shows stripes, upright or level, in noise: one bit per modality and cell. The label is

    redundant   the bit, which both modalities show: either is enough
    unique      2 bit_u + bit_v: each modality holds what the other lacks; one term per modality is enough
    xor         bit_u xor bit_v: neither modality alone says anything; the modalities must meet before a
                nonlinearity
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from wbcbench.contracts import Batch, Fusion, Progress, Task
from wbcbench.testing.toys import toy_draw
from wbcbench.training.supervision import task_loss, total, with_labels

Problem = Literal["redundant", "unique", "xor"]
_SIDE = 16


def synthetic_task(problem: Problem, modalities: int = 2) -> Task:
    """Two classes (four for `unique`); modalities beyond the second show noise."""
    classes = "abcd" if problem == "unique" else "ab"
    return Task(channels=dict.fromkeys("uvwxyz"[:modalities], 1), classes=tuple(classes), image_size=_SIDE)


def synthetic_cells(problem: Problem, task: Task, cells: int, seed: int) -> Batch:
    """Fresh cells of the problem; labels [N], one image [N, 1, 16, 16] per modality."""
    random = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (2, cells), generator=random)
    if problem == "redundant":
        bits[1] = bits[0]
    wave = torch.sin(torch.arange(_SIDE) * torch.pi / 2 + torch.pi / 4)
    level = wave[:, None].expand(_SIDE, _SIDE)
    images = {}
    for i, m in enumerate(task.modalities):
        noise = 0.3 * torch.randn(cells, 1, _SIDE, _SIDE, generator=random)
        if i < 2:
            noise = noise + torch.where(bits[i, :, None, None, None].bool(), level.T, level)
        images[m] = noise
    return Batch(cells=torch.arange(cells), labels=_labels(problem, bits), images=images)


def learns(fusion: Fusion, problem: Problem, lr: float = 1e-2, steps: int = 400, batch: int = 48) -> float:
    """Train on fresh cells until 95 % of unseen ones are right, or for `steps`; returns the last accuracy."""
    if fusion.trained == "once":
        solve(fusion, synthetic_cells(problem, fusion.task, 300, seed=1))
        return _accuracy(fusion, synthetic_cells(problem, fusion.task, 96, seed=10**6))
    optimiser = torch.optim.Adam(fusion.parameters(), lr)
    held_out = synthetic_cells(problem, fusion.task, 96, seed=10**6)
    accuracy = 0.0
    for step in range(1, steps + 1):
        fusion.train()
        optimiser.zero_grad()
        _loss(fusion, synthetic_cells(problem, fusion.task, batch, seed=step), step).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 20 == 0:
            accuracy = _accuracy(fusion, held_out)
            if accuracy >= 0.95:
                break
    return accuracy


@torch.no_grad()
def solve(fusion: Fusion, batch: Batch) -> None:
    """Let a fusion with `trained = "once"` solve a batch of cells."""
    features = fusion.features(batch.images, batch.present)
    fusion.solve(features, batch.labels, torch.ones(fusion.task.n_classes))


def _labels(problem: Problem, bits: Tensor) -> Tensor:
    if problem == "unique":
        return 2 * bits[0] + bits[1]
    return bits[0] ^ bits[1] if problem == "xor" else bits[0]


def _loss(fusion: Fusion, batch: Batch, step: int) -> Tensor:
    images = batch.images
    batch = fusion.assemble(batch, toy_draw(step=step))
    if batch.rows is not None:
        images = {m: x[batch.rows[m]] for m, x in images.items()}
    outputs = with_labels(fusion(images), batch)
    return total(
        task_loss(fusion, [], outputs, batch, torch.ones(fusion.task.n_classes), Progress(0, 1, step, 400))
    )


@torch.no_grad()
def _accuracy(fusion: Fusion, cells: Batch) -> float:
    fusion.eval()
    outputs = fusion(cells.images)
    fusion.fit_combiner(outputs, cells.labels)
    return float((fusion.predict(outputs).argmax(1) == cells.labels).float().mean())
