"""What a run needs of the cells at a path: its split and checks are tried, and commands that work are printed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wbcbench.data.labels import split_sizes
from wbcbench.data.official_folds import fold_sizes
from wbcbench.data.reading import CONFIG
from wbcbench.data.splits import assign_sides, find_leaks, fold_numbers, larger_shares, resolved
from wbcbench.data.survey import Survey
from wbcbench.errors import DataError, LeakError, UsageError
from wbcbench.spec.load import put
from wbcbench.spec.request import parse_value
from wbcbench.spec.trial import SplitSpec


@dataclass(frozen=True)
class Advice:
    """The options with which a run accepts the cells of a survey."""

    problems: tuple[str, ...] = ()
    """Why a run with the defaults would refuse them."""
    bring: tuple[str, ...] = ()
    """Options for `wbcbench data import`."""
    run: tuple[str, ...] = ()
    """Options for `wbcbench run`."""
    imported: bool = False
    """Whether the cells must be imported first."""
    works: bool = True
    """False: no options were found with which a run accepts them."""


def advise(survey: Survey, imported: bool = False, copies: Literal["drop", "keep"] = "drop") -> Advice:
    """Try the split and the checks of a run, and find the options that it needs.

    Options are tried in this order: none; without copies; larger shares, for few groups; without classes that
    cannot be split; another split than the official one; without groups, which is stated; with leaks, where copies
    are to be kept.

    Args:
        imported: the cells are being imported.
        copies: what the import does with cells of the same pixels.
    """
    kept = np.arange(len(survey))
    problems: list[str] = []
    bring: list[str] = []
    if survey.mixed:
        rarer = min(survey.mixed, key=lambda bits: len(survey.mixed[bits]))
        counts = " and ".join(f"{len(rows)} cells have {bits}-bit" for bits, rows in survey.mixed.items())
        problems.append(
            f"A modality mixes bit depths ({counts} images), which a run refuses. Convert one kind with a fixed "
            "window, or leave it out."
        )
        bring += ["--leave-out", f"bits={rarer}"]
        kept = np.setdiff1d(kept, survey.mixed[rarer])
    must = imported or bool(bring) or not survey.dataset or survey.filtered
    importable = survey.kind != "dataset"
    ways = ([False] if not must or copies == "keep" else []) + ([True] if importable and copies == "drop" else [])
    for leaks in (False, True):
        for dedupe in ways:
            rows = _without_copies(survey, kept) if dedupe else kept
            for groups in (True, False) if survey.groups is not None and importable and not leaks else (True,):
                found = _fit(survey, rows, groups, leaks)
                if found is None:
                    continue
                why, more, flags = found
                if dedupe and not must:
                    why = ["Cells with the same pixels are on two sides of the split, or have two labels.", *why]
                if not groups:
                    why.append(
                        f"{len(survey.group_names)} groups cannot be kept whole. Without groups, donors seen in "
                        "training are tested: results are too optimistic."
                    )
                    more = ["--group", "-", *more]
                return Advice((*problems, *why), (*bring, *more), tuple(flags), must or dedupe or bool(more))
    try:
        assign_sides(survey.codes[kept], survey.classes, None, None, SplitSpec())
        why_not = "no split has every class in training, and each group and image on one side."
    except DataError as error:
        why_not = str(error)
    return Advice((*problems, f"A run cannot use these cells: {why_not}"), tuple(bring), (), must, works=False)


def _without_copies(survey: Survey, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    gone = copies_to_drop(survey)
    return np.array([row for row in rows if row not in gone], dtype=np.intp)


def _fit(
    survey: Survey, rows: NDArray[np.intp], with_groups: bool, leaks: bool
) -> tuple[list[str], list[str], list[str]] | None:
    """Why other options than the defaults are needed, and those of import and of run; None if none work."""
    labels = survey.codes[rows]
    official = None if survey.split is None else survey.split[rows]
    folds = None if survey.folds is None else {k: side[rows] for k, side in survey.folds.items()}
    codes = survey.group_codes
    groups = None if codes is None or not with_groups else codes[rows]
    place = {int(row): i for i, row in enumerate(rows)}
    copies = [same for found in survey.copies if len(same := [place[r] for r in found if r in place]) > 1]
    first, torn = "", False  # torn: of a leak, which other shares and fewer classes do not remove

    def accepts(spec: SplitSpec, gone: Sequence[int]) -> bool:
        nonlocal first, torn
        keep = ~np.isin(labels, list(gone))
        names = [name for i, name in enumerate(survey.classes) if i not in gone]
        if len(names) < 2:
            return False
        part = np.searchsorted(np.setdiff1d(np.arange(len(survey.classes)), list(gone)), labels[keep])
        again = {int(old): new for new, old in enumerate(np.flatnonzero(keep))}
        own = [s for found in copies if len(s := [again[r] for r in found if r in again]) > 1]
        own_groups = None if groups is None else groups[keep]
        own_split = None if official is None else official[keep]
        own_folds = None if folds is None else {k: side[keep] for k, side in folds.items()}
        spec = resolved(spec, groups is not None, split_sizes(official), fold_sizes(own_folds))
        try:
            for fold in fold_numbers(spec, None, own_folds) or (None,):
                side = assign_sides(part.astype(np.int64), names, own_groups, own_split, spec, fold, own_folds)[1]
                found = find_leaks(part.astype(np.int64), side, own_groups, own)
                if not leaks:
                    found.refuse(
                        survey.ids if len(keep) == len(survey) and keep.all() else None, survey.group_names
                    )
        except DataError as error:
            first, torn = first or str(error), isinstance(error, LeakError)
            return False
        return True

    sizes = np.bincount(labels, minlength=len(survey.classes))
    here = np.flatnonzero(sizes)
    drops: list[list[int]] = [[]]
    for least in (2, 3, 4, 5, 7, 10):
        few = [int(c) for c in here if sizes[c] < least]
        if few and few not in drops:
            drops.append(few)
    default = SplitSpec()
    schemes = [default]
    if official is not None:
        trained = np.bincount(labels[official == "train"], minlength=len(survey.classes))
        untrained = [int(c) for c in here if not trained[c]]
        drops[1:1] = [untrained] if untrained and untrained not in drops else []
        schemes.append(default.model_copy(update={"scheme": "stratified"}))
    elif folds is not None:
        schemes.append(default.model_copy(update={"scheme": "stratified"}))
    for scheme in schemes:
        for gone, spec in ((gone, spec) for gone in drops for spec in (scheme, *larger_shares(scheme))):
            if accepts(spec, gone):
                flags = [f"split.{n}={getattr(spec, n)}" for n in ("scheme", "val", "test")
                         if getattr(spec, n) != getattr(default, n)]  # fmt: skip
                flags += ["split.allow_leaks=true"] if leaks else []
                out = [w for c in gone for w in ("--leave-out", f"{_label_level(survey)}={survey.classes[c]}")]
                return [first] if first else [], out, [w for flag in flags for w in ("--set", flag)]
            if torn:
                break
    return None


def _label_level(survey: Survey) -> str:
    return "class" if survey.kind == "tree" else "label"


def run_commands(
    survey: Survey, flags: Sequence[str] = (), advice: Advice | None = None, dest: Path | None = None
) -> list[str]:
    """Shell commands that train on these cells; empty if no options are known with which a run accepts them.

    Args:
        flags: the options given on the command line for reading the source; repeated for `data import`.
        dest: the folder that they have been imported to.
    """
    advice = advice or advise(survey)
    if not advice.works:
        return []
    if dest is not None:
        return [shlex.join(["wbcbench", "run", "--config", str(dest / CONFIG), *advice.run])]
    if survey.config is not None and not flags and not advice.imported:
        return [shlex.join(["wbcbench", "run", "--config", str(survey.config), *advice.run])]
    words = ["wbcbench", "run", "--dataset", survey.dataset]
    settings = [(key, value) for key, value in survey.settings.items() if value != {}]
    options = [s for key, value in settings for s in _settings(key, value)]
    if advice.imported or not survey.dataset or not _reads_back(options, dict(settings)):
        name = next(n for n in ("my_cells", *(f"my_cells_{i}" for i in range(2, 99))) if not Path(n).exists())
        given = [word for word in flags if "--group" not in advice.bring or word not in _group_option(flags)]
        bring = [
            "wbcbench",
            "data",
            "import",
            str(survey.config or survey.path),
            "-o",
            name,
            *given,
            *advice.bring,
        ]
        run = ["wbcbench", "run", "--config", f"{name}/{CONFIG}", *advice.run]
        return [shlex.join(bring), shlex.join(run)]
    placed = choose_size(survey)
    if placed is not None:
        options += [f"window={placed.window}"]
    side = survey.read_at if placed is None else placed.side
    if side:
        advice = replace(advice, run=("--image-size", str(side), *advice.run))
    return [shlex.join([*words, *(w for o in options for w in ("--set", f"dataset.{o}")), *advice.run])]


def _group_option(flags: Sequence[str]) -> Sequence[str]:
    """`--group` and its value, if given."""
    at = list(flags).index("--group") if "--group" in flags else len(flags)
    return flags[at : at + 2]


@dataclass(frozen=True)
class Size:
    """The window that images of several sizes are placed in."""

    window: int
    side: int
    """Side in pixels that the window is resized to."""
    square: int
    """For the alternative, cutting images to their middle square and rescaling them: its side."""
    text: str
    """The distribution of sizes, and what was chosen."""
    document: dict[str, int]


STEP, LEAST, MOST, LARGEST_WINDOW = 8, 16, 128, 1024
"""Sides are multiples of `STEP`, from `LEAST` to `MOST`; a window may be larger, and is then resized."""


def choose_size(survey: Survey) -> Size | None:
    """The window for images of several sizes, from their distribution; None if all have one size.

    The smallest image decides nothing: one of 9 px among those of 120 would cost all others their detail.
    """
    sizes = survey.sizes
    if survey.side is not None or sizes is None or not len(sizes):
        return None
    low, middle, high, top = (round(float(v)) for v in np.percentile(sizes, (5, 50, 95, 100)))
    window = _step(high, LARGEST_WINDOW)
    side = min(window, MOST)
    cut = int((sizes > window).sum())
    resized = "" if side == window else f", resized to {side}"
    text = (
        f"Longer sides of {len(sizes)} images: {int(sizes.min())} to {top} px; 5 % are below {low}, half below "
        f"{middle}, 95 % below {high}. Images are placed in windows of {window} px without rescaling (padded with "
        f"their border's median; {cut} are cropped){resized}."
    )
    document = {"smallest": int(sizes.min()), "percentile_5": low, "median": middle, "percentile_95": high,
                "largest": top, "window": window, "image_size": side, "cropped": cut}  # fmt: skip
    return Size(window, side, min(_step(middle, MOST), MOST), text, document)


def _step(pixels: int, most: int) -> int:
    return max(LEAST, min(most, -(-pixels // STEP) * STEP))


def alternative(survey: Survey, dest: Path, advice: Advice) -> str:
    """The command that rescales images instead of placing them in windows; empty if all have one size."""
    placed = choose_size(survey)
    if placed is None or not advice.works:
        return ""
    words = ["wbcbench", "run", "--config", str(dest / CONFIG), "--set", "dataset.window=0"]
    return shlex.join([*words, "--image-size", str(placed.square), *advice.run])


def _reads_back(options: Sequence[str], settings: dict[str, Any]) -> bool:
    """Whether `--set dataset.KEY=VALUE` means these settings again; names may contain dots, colons and commas."""
    tree: dict[str, Any] = {}
    for option in options:
        key, _, text = option.partition("=")
        try:
            put(tree, key, parse_value(text))
        except UsageError:
            return False
    return tree == settings


def _settings(key: str, value: Any) -> list[str]:
    """The arguments of `--set` for a parameter."""
    if isinstance(value, dict):
        return [s for name, inner in value.items() for s in _settings(f"{key}.{name}", inner)]
    if isinstance(value, list):
        return [f"{key}=[{', '.join(_as_yaml(v) for v in value)}]"]
    return [f"{key}={_as_yaml(value)}"]


def _as_yaml(value: Any) -> str:
    """A value such that `parse_value` gives it back, quoted only where it must be."""
    text = str(value)
    return text if text and parse_value(text) == value else "'" + text.replace("'", "''") + "'"


def copies_to_drop(survey: Survey) -> dict[int, tuple[str, str]]:
    """Row -> (reason in the account, the same in full) of cells that are dropped because of their copies."""
    order = {"test": 0, "val": 1, "train": 2}
    gone: dict[int, tuple[str, str]] = {}
    for rows in survey.copies:
        if len({survey.labels[i] for i in rows}) > 1:
            labels = ", ".join(sorted({survey.labels[i] for i in rows}))
            full = f"the same image has several labels ({labels})"
            gone |= dict.fromkeys(rows, ("of an image with several labels", full))
            continue
        split = survey.split
        kept = rows[0] if split is None else min(rows, key=lambda i: (order[str(split[i])], i))
        gone |= {i: ("duplicates", f"copy of {survey.ids[kept]}") for i in rows if i != kept}
    return gone
