"""Seeded corruptions, and a trained network on the test split with modalities missing, corrupt or swapped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcbench.contracts import Fusion, over_rows
from wbcbench.data.counter import uniform
from wbcbench.data.views import Modality, ResidentCells, standardised
from wbcbench.evaluation.ablation import Change, Examination, Images, Subset, shapley, subsets
from wbcbench.evaluation.cost import macs_or_why, parameters

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, Tensor, float, int], Tensor]
"""(images [B, C, S, S] or vectors [B, F], cell ids [B], strength in (0, 1], seed) -> the same, corrupted."""


def noise(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Gaussian sensor noise, sd = strength."""
    pixels = x[0].numel()
    u = uniform(seed, "noise", cells[:, None] * pixels + torch.arange(pixels, device=x.device)[None])
    return x + strength * (torch.erfinv(2 * u.clamp(1e-6, 1 - 1e-6) - 1) * math.sqrt(2)).view_as(x)


def blur(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Gaussian blur, sigma = 0.2 px (which changes almost nothing) + strength x 1/16 of the side (4 px of 64)."""
    return _depthwise(x, _gaussian(0.2 + strength * x.shape[-1] / 16, x))


def defocus(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Defocus blur: a disk of radius 0.5 px (which changes nothing) + strength x 1/12 of the side."""
    return _depthwise(x, _disk(0.5 + strength * x.shape[-1] / 12, x))


def illumination(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Uneven illumination: a linear gradient in a random direction and a gain, both up to strength."""
    angle = uniform(seed, "shade", cells) * 2 * math.pi
    gain = 1 + strength * (uniform(seed, "gain", cells) * 2 - 1)
    at = torch.linspace(-1, 1, x.shape[-1], device=x.device)
    shade = torch.cos(angle)[:, None, None] * at[None, None] + torch.sin(angle)[:, None, None] * at[None, :, None]
    return x * gain[:, None, None, None] + strength * shade[:, None]


def stain_shift(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Stain variation: each channel's gain and offset change, both by up to strength."""
    channels = torch.arange(x.shape[1], device=x.device)
    key = cells[:, None] * x.shape[1] + channels[None]
    gain = 1 + strength * (uniform(seed, "stain gain", key) * 2 - 1)
    offset = strength * (uniform(seed, "stain offset", key) * 2 - 1)
    return x * gain[..., None, None] + offset[..., None, None]


def misregistration(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Shift of the modality against the others by strength x 1/6 of the side, in a random direction."""
    angle = uniform(seed, "shift", cells) * 2 * math.pi
    theta = torch.zeros(len(x), 2, 3, device=x.device, dtype=x.dtype)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 0, 2], theta[:, 1, 2] = torch.cos(angle) * strength / 3, torch.sin(angle) * strength / 3
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": noise,
    "blur": blur,
    "defocus": defocus,
    "illumination": illumination,
    "stain_shift": stain_shift,
    "misregistration": misregistration,
}


def dropped(x: Tensor, cells: Tensor, strength: float, seed: int, *, fill: Tensor) -> Tensor:
    """Each number is missing with probability `strength`, and is then imputed as in training, by `fill` [F]."""
    place = cells[:, None] * x.shape[1] + torch.arange(x.shape[1], device=x.device)
    return torch.where(uniform(seed, "drop", place) < strength, fill, x)


def miscalibrated(x: Tensor, cells: Tensor, strength: float, seed: int) -> Tensor:
    """Another instrument: each number's gain and offset change, both by up to strength, equally for all cells."""
    key = torch.arange(x.shape[1], device=x.device)
    gain, offset = (strength * (uniform(seed, f"calibration {w}", key) * 2 - 1) for w in ("gain", "offset"))
    return x * (1 + gain) + offset


def corruptions_of(modality: Modality) -> dict[str, Corruption]:
    """The corruptions of a modality's kind: images, or vectors [B, F]."""
    if modality.median is None:
        return CORRUPTIONS
    fill = standardised(modality.median, modality.mean, modality.std)
    return {"noise": noise, "drop": partial(dropped, fill=fill), "miscalibration": miscalibrated}


def _gaussian(sigma: float, like: Tensor) -> Tensor:
    # Integrated over pixels: sampled at pixel centres, a narrow Gaussian would be a single pixel.
    reach = max(1, math.ceil(3 * sigma))
    edge = torch.arange(-reach, reach + 2, device=like.device, dtype=like.dtype) - 0.5
    line = torch.erf(edge / (sigma * math.sqrt(2))).diff()
    line = line / line.sum()
    return line[:, None] * line[None]


def _disk(radius: float, like: Tensor) -> Tensor:
    # Pixels at the edge are weighted by the part inside the disk, so that every radius gives another kernel.
    reach = math.ceil(radius)
    at = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    disk = (radius + 0.5 - (at[:, None] ** 2 + at[None] ** 2).sqrt()).clamp(0, 1)
    return disk / disk.sum()


def _depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    reach = kernel.shape[0] // 2
    # Replicated borders: a kernel wider than the image would otherwise darken the edge.
    padded = F.pad(x, (reach, reach, reach, reach), mode="replicate")
    weight = kernel.expand(x.shape[1], 1, *kernel.shape)
    return F.conv2d(padded, weight, groups=x.shape[1])


Metrics = dict[str, float | None]


@torch.no_grad()
def examine(
    fusion: Fusion, cells: ResidentCells, ids: Tensor, modalities: tuple[str, ...], seed: int = 0
) -> dict[str, Any]:
    """The full evaluation, as JSON; `seconds`, `passes` and `passes_saved` state what it cost.

    Keys: `missing` (`native`: missing modalities are left out; `impute`: their images are imputed and read);
    `subsets` (metrics per subset of modalities, over the `subset_cells` that have all of them) and `subset_cost`
    (parameters and MACs of what is deployed for it), omitted if the fusion refuses missing modalities;
    `worst_subset`, `shapley` (of balanced accuracy, on complete cells, for at most 5 modalities;
    guessing is 1 / K), `permutation_drop` (macro-F1 lost if one modality shows other cells), `corruptions`
    (macro-F1 per modality, kind and severity 1 to 5), `retained` (their mean as a share of the clean value),
    `diversity` of routes, `cross_slot` (how much a route depends on the other modalities' images, in nats).
    """
    started = time.perf_counter()
    exam = Examination(fusion, cells, ids, modalities, seed)
    whole = exam.metrics(exam.clean.probabilities)
    found: dict[str, Any] = {"seed": seed, "clean": whole, "missing": fusion.traits.missing}
    if len(modalities) > 1 and fusion.traits.missing != "refuse":
        found |= _missing(exam)
    swapped = {m: exam.metrics(exam.swapped((m,)).probabilities) for m in modalities}
    found["permutation_drop"] = {m: _minus(whole, values) for m, values in swapped.items()}
    found |= _corrupt(exam, whole)
    if len(exam.clean.outputs) > 1:
        routes = exam.clean.outputs
        shown = {r: o.shown for r, o in routes.items() if o.shown is not None}
        found["diversity"] = diversity({r: o.logits.softmax(1) for r, o in routes.items()}, shown)
        found["cross_slot"] = _cross_slot(exam)
    seconds = round(time.perf_counter() - started, 2)
    return found | {"passes": exam.passes, "passes_saved": exam.saved, "seconds": seconds}


def diversity(routes: Mapping[str, Tensor], shown: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """Mean over pairs of routes: share of cells decided differently, and symmetrised KL in nats.

    Args:
        routes: name -> probabilities [n, K], two or more.
        shown: name -> [n] bool, the cells that count; no entry: all. A pair is compared on the cells of both.

    Returns:
        Empty if no pair has a cell in common.
    """
    disagree, apart = [], []
    for one, two in combinations(routes, 2):
        a, b = routes[one], routes[two]
        masks = [shown[r] for r in (one, two) if shown and r in shown]
        if masks:
            both = torch.stack(masks).all(0)
            a, b = a[both], b[both]
        if len(a):
            disagree.append((a.argmax(1) != b.argmax(1)).float().mean())
            apart.append((kl(a, b).mean() + kl(b, a).mean()) / 2)
    if not apart:
        return {}
    return {"disagreement": float(torch.stack(disagree).mean()), "kl": float(torch.stack(apart).mean())}


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) per row, [n, K] twice -> [n], in nats; smaller probabilities count as 1e-12."""
    p, q = p.clamp_min(1e-12), q.clamp_min(1e-12)
    return (p * (p / q).log()).sum(1)


def subset_cost(fusion: Fusion, given: Subset, device: torch.device) -> dict[str, int | None]:
    """Parameters and MACs per cell of the network that is deployed if only these modalities are given.

    MACs are None where they cannot be counted.
    """
    task, module = fusion.task, fusion.deploy(given)
    blank = {m: x for m, x in task.blank(1, device).items() if m in given}
    return {"params": parameters(module), "macs": macs_or_why(module, blank)[0]}


def _missing(exam: Examination) -> dict[str, Any]:
    everything = exam.having(exam.modalities)
    answers: dict[Subset, Metrics] = {}
    values: dict[Subset, float] = {}
    counts: dict[str, int] = {}
    for subset in subsets(exam.modalities):
        rows = exam.having(subset)
        counts["+".join(subset)] = count = len(exam.ids) if rows is None else int(rows.sum())
        if not count:
            continue
        probabilities = exam.kept(subset).probabilities
        answers[subset] = exam.metrics(probabilities, rows)
        if everything is None or everything.any():
            values[subset] = exam.metrics(probabilities, everything)["balanced_accuracy"] or 0.0
    costs = {"+".join(s): subset_cost(exam.fusion, s, exam.ids.device) for s in subsets(exam.modalities)}
    found: dict[str, Any] = {"subsets": {"+".join(s): v for s, v in answers.items()}}
    found |= {"subset_cells": counts, "subset_cost": costs}
    worst = min(answers, key=lambda s: answers[s]["macro_f1"] or 0.0)
    found["worst_subset"] = {"modalities": list(worst), "macro_f1": answers[worst]["macro_f1"]}
    if values and len(exam.modalities) <= 5:
        found["shapley"] = shapley(values, 1 / len(exam.cells.classes))
    return found


def _corrupt(exam: Examination, whole: Metrics) -> dict[str, Any]:
    table: dict[str, dict[str, list[float]]] = {}
    for m in exam.modalities:
        table[m] = {}
        for kind, corrupt in corruptions_of(exam.cells.modalities[m]).items():
            answers = [exam.ask(_corrupted(exam, m, corrupt, s / len(SEVERITIES))) for s in SEVERITIES]
            table[m][kind] = [exam.metrics(a.probabilities)["macro_f1"] or 0.0 for a in answers]
    base = whole["macro_f1"] or 0.0
    retained = {
        m: {kind: sum(c) / len(c) / base if base else 0.0 for kind, c in kinds.items()}
        for m, kinds in table.items()
    }
    return {"corruptions": table, "retained": retained}


def _corrupted(exam: Examination, modality: str, corrupt: Corruption, strength: float) -> Change:
    """One modality's images corrupted, where they are available."""
    column = exam.modalities.index(modality)

    def change(images: Images, present: Tensor | None, ids: Tensor) -> tuple[Images, Tensor | None]:
        corrupted = corrupt(images[modality], ids, strength, exam.seed)
        if present is not None:
            corrupted = torch.where(over_rows(present[:, column], corrupted), corrupted, images[modality])
        return {**images, modality: corrupted}, present

    return change


def _cross_slot(exam: Examination) -> dict[str, float]:
    """Per route of one modality: E KL(p(x) || p(x with every other modality permuted)); 0 if independent."""
    found = {}
    for route, out in exam.clean.outputs.items():
        others = tuple(m for m in exam.modalities if m != route)
        rows = exam.having((route,)) if route in exam.modalities else None
        if route in exam.modalities and others and (rows is None or rows.any()):
            after = exam.swapped(others).outputs[route].logits.softmax(1)
            apart = kl(out.logits.softmax(1), after)
            found[route] = float((apart if rows is None else apart[rows]).mean())
    return found


def _minus(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> float:
    return (a["macro_f1"] or 0.0) - (b["macro_f1"] or 0.0)
