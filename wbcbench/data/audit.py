"""Is any donor or image on two sides of the split that a run would use? And in words, what is at a path."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import SPLITS
from wbcbench.data.leaks import Leaks, find_leaks, same_rows
from wbcbench.data.splits import assign_sides
from wbcbench.data.survey import Survey
from wbcbench.spec.trial import SplitSpec


@dataclass(frozen=True)
class Audit:
    """A division and what is wrong with it."""

    scheme: str
    """official or stratified."""
    side: NDArray[np.str_]
    """[N] of train, val, test."""
    leaks: Leaks

    def document(self, survey: Survey) -> dict[str, Any]:
        """JSON-able, with every cell named."""

        def rows(found: tuple[tuple[int, ...], ...]) -> list[list[dict[str, str]]]:
            return [
                [{"cell": survey.ids[i], "side": str(self.side[i]), "label": survey.labels[i]} for i in each]
                for each in found
            ]

        torn = []
        for group in self.leaks.torn:
            name = survey.group_name(group)
            mine = self.side[np.array(survey.groups) == name]
            torn.append({"group": name, **{s: int((mine == s).sum()) for s in SPLITS}})
        return {
            "scheme": self.scheme,
            "sizes": {s: int((self.side == s).sum()) for s in SPLITS},
            "groups_on_two_sides": torn,
            "images_on_two_sides": rows(self.leaks.across),
            "images_of_two_labels": rows(self.leaks.conflicts),
        }


def audit(survey: Survey, spec: SplitSpec) -> Audit:
    """Divide as a run with `spec` would, and judge. Raises `DataError` where a run could not divide."""
    scheme, side = assign_sides(survey.codes, survey.classes, survey.group_codes, survey.split, spec)
    return Audit(scheme, side, find_leaks(survey.codes, side, survey.group_codes, survey.copies))


def facts(survey: Survey) -> dict[str, Any]:
    """Everything that `data inspect` says, JSON-able."""
    counts = np.bincount(survey.codes, minlength=len(survey.classes))
    document: dict[str, Any] = {
        "path": str(survey.path),
        "kind": survey.kind,
        "taken": [{"what": what, "for": meaning} for what, meaning in survey.taken],
        "cells": len(survey),
        "classes": [
            {"name": name, "cells": int(n), "share": round(float(n) / len(survey), 4)}
            for name, n in zip(survey.classes, counts, strict=True)
        ],
        "modalities": [
            {"name": name, "channels": m.channels, "dtype": f"uint{m.bits}", "side": [m.smallest, m.largest],
             "not_square": m.oblong, "missing": m.missing}
            for name, m in survey.modalities.items()
        ],
        "groups": None,
        "split": None,
        "copies": _copies(survey),
        "unusable": [{"what": what, "why": why} for what, why in survey.unusable],
        "notes": survey.notes,
    }  # fmt: skip
    if survey.groups is not None:
        sizes = np.unique(np.array(survey.groups), return_counts=True)[1]
        document["groups"] = {
            "count": len(survey.group_names), "smallest": int(sizes.min()), "median": float(np.median(sizes)),
            "largest": int(sizes.max()),
        }  # fmt: skip
    if survey.split is not None:
        document["split"] = {s: int((survey.split == s).sum()) for s in SPLITS}
    return document


def _copies(survey: Survey) -> dict[str, Any]:
    """How many cells show the same pixels: anywhere, over an official split, under two labels."""
    leaks = find_leaks(
        survey.codes,
        survey.split if survey.split is not None else np.full(len(survey), "train"),
        survey.group_codes,
        survey.copies,
    )
    whole = {row for rows in survey.copies for row in rows}
    shared = {}
    for name, digests in survey.digests.items():
        rows = {row for found in same_rows(digests) for row in found} - whole
        if rows:
            shared[name] = len(rows)
    return {
        "images": len(survey.copies),
        "cells": len(whole),
        "across_official_split": len(leaks.across),
        "of_two_labels": len(leaks.conflicts),
        "groups_across_official_split": len(leaks.torn),
        "of_one_modality_only": shared,
        "examples": [[survey.ids[i] for i in rows[:3]] for rows in survey.copies[:5]],
    }


def run_commands(survey: Survey, flags: Sequence[str] = ()) -> list[str]:
    """The commands that would train on these cells, ready for a shell.

    Args:
        flags: what the user said of the source on the command line, for `data import`.
    """
    if survey.config is not None and not flags:
        return [shlex.join(["wbcbench", "run", "--config", str(survey.config)])]
    size = [] if survey.side else ["--image-size", str(suggested_side(survey))]
    if not survey.dataset:
        bring = ["wbcbench", "data", "import", str(survey.path), "-o", "my_cells", *flags]
        return [shlex.join(bring), shlex.join(["wbcbench", "run", "--config", "my_cells/dataset.yaml"])]
    words = ["wbcbench", "run", "--dataset", survey.dataset]
    for key, value in survey.settings.items():
        words += [w for setting in _settings(key, value) for w in ("--set", f"dataset.{setting}")]
    return [shlex.join([*words, *size])]


def suggested_side(survey: Survey) -> int:
    """A side for images of several sizes: the smallest one's, at most 64 px, so that nothing is enlarged."""
    sides = [m.smallest for m in survey.modalities.values() if m.smallest]
    return max(8, min([64, *sides]))


def _settings(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for name, inner in value.items() for s in _settings(f"{key}.{name}", inner)]
    if isinstance(value, list):
        return [f"{key}=[{','.join(map(str, value))}]"]
    return [f"{key}={value if value != '' else chr(39) * 2}"]
