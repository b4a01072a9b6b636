"""Settings that a request leaves open (`auto`), from what is known of the cells: one deterministic function.

The rules come from the recipe study (`tests/benchmarks/recipes.py`; its table is in the guide to own cells): of
the recipes tried on unlike sets of cells, those with the best worst case. A trial holds the values, never `auto`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import Cells, Dataset, Description, content_digest
from wbcbench.data.cache import recall, remember
from wbcbench.data.splits import resolved, training_cells
from wbcbench.spec.request import AUTO, Request
from wbcbench.spec.trial import Augmentation, Budget, Recipe, Selection, SplitSpec

STEPS = 2000
"""Training steps that small sets need."""
FEWEST_PASSES, MOST_PASSES = 20, 200
"""Limits of the epochs: large sets see every cell often enough, and the smallest end some time."""
LARGEST_SIDE = 128
"""Larger images are resized to this side: without it, a first run would take hours."""
STRONGEST, WEAKEST = 0.5, 0.03
"""Limits of the intensity augmentation; a weaker one is none."""
SAMPLE = 2000
"""Cells that the variation between groups is measured on."""
DEMONSTRATION = "a demonstration's budget, since these cells are made up: too short to rank methods"
LAST = "the learning rate ends at 0, and the best of many epochs on validation cells is partly luck"
WEIGHTING = "1 / sqrt(number of cells) per class, so that rare classes count"


@dataclass(frozen=True)
class Facts:
    """What the settings depend on."""

    cells: int
    """In training."""
    side: int | None
    """Of the images in pixels, if they have one."""
    demonstration: bool = False
    """The cells are made up, so that a short run is what a user wants."""
    groups: bool = False
    """Donors, slides or plates are known."""
    variation: Mapping[str, float] | None = None
    """Modality -> how much its intensity varies between groups, see `variation_between_groups`. None: not
    measured."""

    @classmethod
    def of(cls, description: Description, split: SplitSpec, variation: Mapping[str, float] | None = None) -> Facts:
        """From a data set's description and the split of a run."""
        d = description
        split = resolved(split, d.groups, d.split_sizes, d.fold_sizes)
        train = training_cells(split, d.cells, d.split_sizes, d.group_count, d.fold_sizes)
        return cls(train, d.image_size, d.demonstration, d.groups, variation)


@dataclass(frozen=True)
class Chosen:
    """A setting that was left open, the value it gets, and why."""

    key: str
    """As for `--set`: `budget.epochs`."""
    value: Any
    reason: str


def recommend(facts: Facts, given: Mapping[str, Any] | None = None) -> tuple[Chosen, ...]:
    """A value for every setting that may be left open.

    Args:
        facts: of the cells.
        given: key -> value of those that the user has set, on which others depend.
    """
    given = given or {}
    if facts.demonstration:
        demo, views = Budget(), Augmentation()
        return (
            Chosen("budget.epochs", demo.epochs, DEMONSTRATION),
            Chosen("budget.batch_size", demo.batch_size, DEMONSTRATION),
            Chosen("augmentation.intensity", views.intensity, "these cells are made up, and their stains vary"),
            Chosen("augmentation.noise", views.noise, "these cells are made up, and their stains vary"),
            Chosen("training.class_weighting", Recipe().class_weighting, WEIGHTING),
            Chosen("selection.metric", Selection().metric, "the best epoch on validation cells is kept"),
        )
    batch = int(given.get("budget.batch_size") or _batch(facts.cells))
    steps = max(1, -(-facts.cells // batch))
    epochs = min(MOST_PASSES, max(FEWEST_PASSES, -(-STEPS // steps)))
    found = [
        Chosen(
            "budget.epochs",
            epochs,
            f"{epochs * steps} steps, since about {facts.cells} training cells in batches of {batch} are {steps} "
            f"an epoch; {STEPS} or more steps are wanted, in {FEWEST_PASSES} to {MOST_PASSES} epochs",
        ),
        Chosen("budget.batch_size", batch, f"the default for about {facts.cells} training cells"),
        _intensity(facts),
        Chosen("augmentation.noise", 0.0, "real cells have noise of their own"),
        Chosen("training.class_weighting", "sqrt", WEIGHTING),
        _selection(facts),
    ]
    if facts.side is not None and facts.side > LARGEST_SIDE:
        found.append(
            Chosen("image_size", LARGEST_SIDE, f"images of {facts.side} px are resized, which trains faster")
        )
    return tuple(found)


def _batch(cells: int) -> int:
    return 32 if cells < 20_000 else 64


def _strength(facts: Facts) -> dict[str, float]:
    """Modality -> how much views vary in intensity: a uniform draw with the sd that is between groups."""
    strength = {m: round(min(STRONGEST, s * 3**0.5), 2) for m, s in (facts.variation or {}).items()}
    return {m: s if s >= WEAKEST else 0.0 for m, s in strength.items()}


def _selection(facts: Facts) -> Chosen:
    key = "selection.metric"
    if facts.groups and facts.variation is None:
        return Chosen(key, AUTO, "last, or macro_f1 where intensity varies between donors, which a run measures")
    if any(_strength(facts).values()):
        return Chosen(key, Selection().metric, "donors differ, and other donors tell which epoch carries over")
    return Chosen(key, "last", LAST)


def _intensity(facts: Facts) -> Chosen:
    key = "augmentation.intensity"
    if not facts.groups:
        return Chosen(key, 0.0, "without donors, intensity is the same evidence in training and test")
    if facts.variation is None:
        return Chosen(key, AUTO, "as much as intensity varies between donors, which a run measures")
    strength = _strength(facts)
    if not any(strength.values()):
        return Chosen(key, 0.0, "intensity does not vary between donors, so it is the same evidence in all")
    return Chosen(key, strength, "as much as intensity varies between donors, so that new donors are no surprise")


def variation_between_groups(cells: Cells) -> dict[str, float]:
    """Modality -> sd between groups of image mean or image sd, whichever is larger, in sd of its pixels.

    Of each class by itself, so that groups with other shares of the classes do not count as different, and without
    what cells of one group differ by. Cells of an official test side are left out; elsewhere all count, since one
    value must serve every fold.
    """
    assert cells.groups is not None
    known = np.ones(len(cells), bool) if cells.split is None else cells.split != "test"
    rows = np.flatnonzero(known)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE)).astype(np.int64)]
    found = {}
    for i, (modality, images) in enumerate(cells.images.items()):
        if modality in cells.features:
            continue  # the intensity of views is of images
        here = rows if cells.present is None else rows[cells.present[rows, i]]
        some = (images[row].astype(np.float64) for row in here)
        pixels = np.array([(image.mean((1, 2)), image.std((1, 2))) for image in some]).reshape(len(here), 2, -1)
        mean, sd = pixels[:, 0], pixels[:, 1]  # [N, C]
        whole = np.sqrt((sd**2).mean(0) + mean.var(0))
        group = np.unique(cells.groups[here], return_inverse=True)[1]
        found[modality] = max(
            _between(values / np.maximum(whole, 1e-9), cells.labels[here], group) for values in (mean, sd)
        )
    return found


def _between(values: NDArray[np.float64], labels: NDArray[np.int64], group: NDArray[np.intp]) -> float:
    """Sd between groups of [N, C] values given their class: root mean square over channels."""
    rest = values.copy()
    for c in np.unique(labels):
        rest[labels == c] -= values[labels == c].mean(0)
    counts = np.bincount(group)
    if (counts > 1).sum() < 2:
        return 0.0
    parts = [rest[group == g] for g in range(len(counts)) if counts[g] > 1]
    noise = np.mean([p.var(0, ddof=1) / len(p) for p in parts], axis=0)
    between = np.var([p.mean(0) for p in parts], axis=0, ddof=1) - noise
    return float(np.sqrt(np.maximum(between, 0).mean()))


def chosen_lines(chosen: Iterable[Chosen]) -> list[str]:
    """`augmentation.noise 0: the reason`, a line for each."""
    return [f"{c.key} {_short(c.value)}: {c.reason}" for c in chosen]


def chosen_note(chosen: Sequence[Chosen]) -> list[str]:
    """The same in one sentence without reasons, except for a demonstration; empty if nothing was left open."""
    if not chosen:
        return []
    values = ", ".join(f"{c.key} {_short(c.value)}" for c in chosen)
    demonstration = [c.reason for c in chosen if c.key == "budget.epochs" and c.reason == DEMONSTRATION]
    return [f"Chosen for these cells: {values}. " + "".join(f"{r[0].upper()}{r[1:]}. " for r in demonstration)
            + "The reasons: run --dry-run."]  # fmt: skip


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_short(v)}" for name, v in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def completed(
    request: Request, description: Description, dataset: Dataset | None = None
) -> tuple[Request, tuple[Chosen, ...]]:
    """The request with a value for everything that it leaves open, and those values.

    Args:
        request: as given.
        description: of the cells.
        dataset: the cells, which are read (once) if groups are known and the intensity of views is left open.
    """
    given = dict(_given(request))
    facts = Facts.of(description, request.split)
    if dataset is None or facts.demonstration:
        facts = replace(facts, groups=False)
    elif facts.groups and not {"augmentation.intensity", "selection.metric"} <= given.keys():
        side = request.image_size or {c.key: c.value for c in recommend(facts, given)}.get("image_size")
        read = {*(request.modalities or description.modalities), *(request.teacher_modalities or ())}
        found = _variation(dataset, description, side)
        facts = replace(facts, variation={m: v for m, v in found.items() if m in read})
    chosen = tuple(c for c in recommend(facts, given) if c.key not in given)
    changes: dict[str, Any] = {}
    for c in chosen:
        section, _, field = c.key.rpartition(".")
        if section:
            changes.setdefault(section, {})[field] = c.value
        else:
            changes[field] = c.value
    update = {
        key: getattr(request, key).model_copy(update=value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return request.model_copy(update=update), chosen


def _variation(dataset: Dataset, description: Description, side: int | None) -> dict[str, float]:
    """See `variation_between_groups`; stored by content."""
    key = content_digest("variation-1", description.fingerprint, side)
    known = recall("variation", key)
    if isinstance(known, dict) and all(isinstance(v, float) for v in known.values()):
        return known
    found = variation_between_groups(dataset.load(side or description.image_size))
    remember("variation", key, found)
    return found


def _given(request: Request) -> list[tuple[str, Any]]:
    """Key and value of what the user has set."""
    found = [("image_size", request.image_size)] if request.image_size is not None else []
    for section in ("budget", "augmentation", "training", "selection"):
        model = getattr(request, section)
        found += [(f"{section}.{name}", getattr(model, name)) for name in model.model_fields_set]
    return found
