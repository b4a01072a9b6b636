"""Settings that a request leaves to wbcbench (`auto`), from what is known of the cells: one deterministic function.

The rules come from the recipe study (`tests/benchmarks/recipes.py`, docs/guides/protocol.md): of the recipes tried
on twelve sets of cells, those with the best worst case. A trial holds the values, never the word `auto`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from wbcbench.contracts.dataset import Description
from wbcbench.data.splits import training_share
from wbcbench.spec.request import Request
from wbcbench.spec.trial import Augmentation, Budget, Recipe, SplitSpec

STEPS = 2000
"""Training steps that small sets need."""
FEWEST_PASSES, MOST_PASSES = 20, 300
"""Limits of the epochs: large sets see every cell a few times, the smallest are not read for ever."""
LARGEST_SIDE = 128
"""Larger images are resized to this side: without it, a first run would take hours."""
WEIGHTING = "cells of rare classes weigh more, but less than all of a common class"


@dataclass(frozen=True)
class Facts:
    """What the settings depend on."""

    cells: int
    """In training."""
    side: int | None
    """Of the images in pixels, if they have one."""
    demonstration: bool = False
    """The cells are made up, so that a short run is what a user wants."""

    @classmethod
    def of(cls, description: Description, split: SplitSpec) -> Facts:
        """From a data set's description and the split of a run."""
        share = training_share(split, description.split_sizes, description.group_count)
        cells = round(description.cells * share)
        return cls(cells, description.image_size, description.demonstration)


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
        short = "a demonstration's budget, since these cells are made up: too short to rank methods"
        demo, views = Budget(), Augmentation()
        return (
            Chosen("budget.epochs", demo.epochs, short),
            Chosen("budget.batch_size", demo.batch_size, short),
            Chosen("augmentation.intensity", views.intensity, "these cells are made up, and their stains vary"),
            Chosen("augmentation.noise", views.noise, "these cells are made up, and their stains vary"),
            Chosen("training.class_weighting", Recipe().class_weighting, WEIGHTING),
        )
    batch = int(given.get("budget.batch_size") or _batch(facts.cells))
    steps = max(1, -(-facts.cells // batch))
    epochs = min(MOST_PASSES, max(FEWEST_PASSES, -(-STEPS // steps)))
    found = [
        Chosen(
            "budget.epochs",
            epochs,
            f"about {facts.cells} training cells in batches of {batch} are {steps} steps an epoch; {epochs * steps} "
            f"steps in all, where small sets need {STEPS}, and at least {FEWEST_PASSES} epochs",
        ),
        Chosen("budget.batch_size", batch, f"for about {facts.cells} training cells"),
        Chosen("augmentation.intensity", 0.0, "stain and fluorescence may be the evidence"),
        Chosen("augmentation.noise", 0.0, "it never helped"),
        Chosen("training.class_weighting", "sqrt", WEIGHTING),
    ]
    if facts.side is not None and facts.side > LARGEST_SIDE:
        found.append(
            Chosen("image_size", LARGEST_SIDE, f"images of {facts.side} px are resized, which trains faster")
        )
    return tuple(found)


def _batch(cells: int) -> int:
    return 32 if cells < 20_000 else 64


def chosen_lines(chosen: Iterable[Chosen]) -> list[str]:
    """`augmentation.intensity 0, augmentation.noise 0: the reason`, a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for c in chosen:
        reasons.setdefault(c.reason, []).append(f"{c.key} {c.value:g}" if c.value == 0 else f"{c.key} {c.value}")
    return [f"{', '.join(settings)}: {reason}" for reason, settings in reasons.items()]


def completed(request: Request, description: Description) -> tuple[Request, tuple[Chosen, ...]]:
    """The request with a value for everything that it leaves open, and those values."""
    facts = Facts.of(description, request.split)
    given = {key: value for key, value in _given(request)}
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


def _given(request: Request) -> list[tuple[str, Any]]:
    """Key and value of what the user has set."""
    found = [("image_size", request.image_size)] if request.image_size is not None else []
    for section in ("budget", "augmentation", "training"):
        model = getattr(request, section)
        found += [(f"{section}.{name}", getattr(model, name)) for name in model.model_fields_set]
    return found
