"""`wbcbench data`: describe the cells at a path, audit the split that a run would use, and import the cells."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from wbcbench.contracts.dataset import SPLITS, Account
from wbcbench.data.folders import FileSource, open_source
from wbcbench.data.labels import encode_labels, is_missing, probably_one
from wbcbench.data.reading import CONFIG
from wbcbench.data.splits import Leaks, assign_sides, find_leaks, lower_shares, same_rows
from wbcbench.data.survey import Survey, leave_rows_out
from wbcbench.errors import DataError, LeakError, UsageError
from wbcbench.files import atomic_folder, json_text, write_synced
from wbcbench.spec.load import put
from wbcbench.spec.request import parse_value
from wbcbench.spec.trial import SplitSpec


@dataclass(frozen=True)
class Audit:
    """A split and its leaks."""

    scheme: str
    """`official` or `stratified`."""
    side: NDArray[np.str_]
    """[N] of train, val, test."""
    leaks: Leaks
    probable: tuple[tuple[str, ...], ...]
    """Groups on two or more sides that are probably one, spelled differently."""

    def __bool__(self) -> bool:
        """Whether anything was found."""
        return bool(self.leaks or self.probable)

    def document(self, survey: Survey) -> dict[str, Any]:
        """As JSON; names every affected cell."""

        def rows(found: tuple[tuple[int, ...], ...]) -> list[list[dict[str, str]]]:
            return [
                [{"cell": survey.ids[i], "side": str(self.side[i]), "label": survey.labels[i]} for i in each]
                for each in found
            ]

        torn = []
        for group in self.leaks.torn:
            name = survey.group_name(group)
            torn.append({"group": name, **self._sizes(np.array(survey.groups) == name)})
        return {
            "scheme": self.scheme,
            "sizes": self._sizes(np.ones(len(survey), dtype=np.bool_)),
            "groups_on_two_sides": torn,
            "groups_probably_one_on_two_sides": [
                {"groups": list(names), **self._sizes(np.isin(np.array(survey.groups), names))}
                for names in self.probable
            ],
            "images_on_two_sides": rows(self.leaks.across),
            "images_of_two_labels": rows(self.leaks.conflicts),
        }

    def _sizes(self, rows: NDArray[np.bool_]) -> dict[str, int]:
        return {s: int((self.side[rows] == s).sum()) for s in SPLITS}


def audit(survey: Survey, spec: SplitSpec) -> Audit:
    """Split as a run with `spec` would, and find leaks. Raises `DataError` where a run could not split."""
    scheme, side = assign_sides(survey.codes, survey.classes, survey.group_codes, survey.split, spec)
    groups = np.array(survey.groups or [""] * len(survey))
    probable = tuple(
        names for names in probably_one(set(groups.tolist())) if len(set(side[np.isin(groups, names)])) > 1
    )
    return Audit(scheme, side, find_leaks(survey.codes, side, survey.group_codes, survey.copies), probable)


def facts(survey: Survey) -> dict[str, Any]:
    """Everything that `data inspect` reports, as JSON."""
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
        "accounts": accounts_document(survey.accounts),
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
    """Number of cells with the same pixels: overall, across an official split, with different labels."""
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


def accounts_document(accounts: Sequence[Account]) -> list[dict[str, Any]]:
    """As JSON."""
    return [
        {
            "unit": a.unit, "seen": a.seen, "used": a.used,
            "left_out": {why: {"count": p.count, "examples": list(p.examples)} for why, p in a.left_out.items()},
            "sentence": a.sentence(),
        }
        for a in accounts
    ]  # fmt: skip


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
    gone = _copies_to_drop(survey)
    return np.array([row for row in rows if row not in gone], dtype=np.intp)


def _fit(
    survey: Survey, rows: NDArray[np.intp], with_groups: bool, leaks: bool
) -> tuple[list[str], list[str], list[str]] | None:
    """Why other options than the defaults are needed, and those of import and of run; None if none work."""
    labels = survey.codes[rows]
    official = None if survey.split is None else survey.split[rows]
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
        try:
            side = assign_sides(
                part.astype(np.int64), names, None if groups is None else groups[keep],
                None if official is None else official[keep], spec,
            )[1]  # fmt: skip
            found = find_leaks(part.astype(np.int64), side, None if groups is None else groups[keep], own)
            if not leaks:
                found.refuse(survey.ids if len(keep) == len(survey) and keep.all() else None, survey.group_names)
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
    for scheme in schemes:
        for gone, spec in ((gone, spec) for gone in drops for spec in (scheme, *lower_shares(scheme))):
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


MANIFEST, ARRAYS, REPORT = "manifest.csv", "cells.npz", "import.json"
_RESERVED = ("label", "group", "split", "id")


@dataclass(frozen=True)
class Intake:
    """What would be imported."""

    rows: NDArray[np.intp]
    """Rows of the survey's cells that are kept."""
    dropped: list[tuple[str, str]]
    """(file, line or cell; reason)."""
    accounts: tuple[Account, ...]


def plan_intake(survey: Survey, copies: Literal["drop", "keep"]) -> Intake:
    """Decide which cells are kept.

    Of cells with the same pixels, one is kept: the first of the test side, else of val, else of train, so that an
    official test set stays complete. None is kept if the copies have different labels.

    Raises:
        DataError: fewer than two classes remain.
    """
    gone = _copies_to_drop(survey) if copies == "drop" else {}
    dropped = [*survey.unusable, *((survey.ids[row], why) for row, (_, why) in sorted(gone.items()))]
    rows_kept = np.array([i for i in range(len(survey)) if i not in gone], dtype=np.intp)
    if len(rows_kept):
        encode_labels(np.array(survey.labels)[rows_kept], None, str(survey.path))
    else:
        raise DataError(f"Expected cells to import from {survey.path}, but all were dropped.")
    return Intake(rows_kept, dropped, _accounts(survey, {row: reason for row, (reason, _) in gone.items()}))


def _copies_to_drop(survey: Survey) -> dict[int, tuple[str, str]]:
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


def _accounts(survey: Survey, gone: Mapping[int, str]) -> tuple[Account, ...]:
    """The survey's accounts after cells were dropped for these reasons."""
    if survey.listing is not None:
        return leave_rows_out(survey.listing, list(gone.items())).accounts()
    account, *others = survey.accounts
    for reason in dict.fromkeys(gone.values()):
        account = account.without(reason, [survey.ids[row] for row, why in gone.items() if why == reason])
    kept = {survey.labels[row] for row in range(len(survey)) if row not in gone}
    lost = [name for name in dict.fromkeys(survey.labels) if name not in kept]
    return (account, *(a.without("without usable cells", lost) if a.unit == "classes" else a for a in others))


def write_intake(survey: Survey, intake: Intake, dest: Path, copy: bool) -> dict[str, Any]:
    """Create the folder `dest` with a config, a report, and a manifest or an array file.

    Args:
        copy: copy images below `dest`; else the manifest refers to them where they are.

    Returns:
        The content of the report.

    Raises:
        DataError: `dest` exists already, or a modality's name would clash with another column.
        WbcbenchError: the file system refuses to write.
    """
    if dest.exists():
        raise DataError(f"Expected a new folder, but {dest} exists. Choose another one with -o, or remove it.")
    clash = sorted(set(survey.modalities) & set(_RESERVED))
    if clash:
        raise DataError(
            f"Expected modality names other than {', '.join(_RESERVED)}, but got {', '.join(clash)}. Choose "
            "another name with --modality NAME=..., or rename its folder."
        )
    report: dict[str, Any] = {
        "source": str(survey.path.resolve()),
        "kind": survey.kind,
        "taken": [{"what": what, "for": meaning} for what, meaning in survey.taken],
        "cells": len(intake.rows),
        "accounts": accounts_document(intake.accounts),
        "dropped": [{"what": what, "why": why} for what, why in intake.dropped],
        "notes": survey.notes,
        "copied": copy,
    }
    placed = choose_size(survey)
    if placed is not None:
        report["size"] = {**placed.document, "text": placed.text}
    if survey.groups is not None:
        report["groups"] = survey.group_names
    if survey.extra:
        report["extra"] = {name: _summary(values, intake.rows) for name, values in survey.extra.items()}
    with atomic_folder(dest) as folder:
        if survey.listing is not None:
            dataset = _manifest(survey, intake.rows, folder, dest.resolve(), copy)
        else:
            dataset = _arrays(survey, intake.rows, folder, dest.resolve(), copy)
        config: dict[str, Any] = {"dataset": dataset}
        if placed is not None:
            dataset["window"] = placed.window
            config["image_size"] = placed.side
        write_synced(folder / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        write_synced(folder / REPORT, json_text(report).encode())
    return report


def _summary(values: list[str], rows: NDArray[np.intp]) -> dict[str, float | int]:
    """Range of a column of numbers."""
    numbers = [float(values[i]) for i in rows if not is_missing(values[i])]
    limits = {"lowest": min(numbers), "highest": max(numbers)} if numbers else {}
    return {**limits, "missing": len(rows) - len(numbers)}


def _manifest(survey: Survey, rows: NDArray[np.intp], folder: Path, dest: Path, copy: bool) -> dict[str, Any]:
    """Write `manifest.csv` and, with `copy`, the images; return the config's `dataset`."""
    listing, root = survey.listing, survey.root
    assert listing is not None
    assert root is not None
    zipped = root.is_file()
    columns: dict[str, list[str]] = {}
    with open_source(root) as source:
        for modality, paths in listing.paths.items():
            if copy:
                columns[modality] = [_copied(source, paths[i], modality, n, folder) for n, i in enumerate(rows)]
            elif zipped:
                columns[modality] = [paths[i] for i in rows]
            else:
                # absolute, so that the manifest can be anywhere and can be moved
                columns[modality] = [str(root.resolve() / paths[i]) if paths[i] else "" for i in rows]
    columns["label"] = [survey.labels[i] for i in rows]
    if survey.groups is not None:
        columns["group"] = [survey.groups[i] for i in rows]
    if survey.split is not None:
        columns["split"] = [str(survey.split[i]) for i in rows]
    columns["id"] = [survey.ids[i] for i in rows]
    if len(set(columns["id"])) < len(rows):
        del columns["id"]
    for name, values in survey.extra.items():
        columns[f"extra_{name}" if name in columns or name in _RESERVED else name] = [values[i] for i in rows]
    write_synced(folder / MANIFEST, _csv(columns).encode())
    settings: dict[str, Any] = {"name": "folder", "path": str(dest / MANIFEST)}
    if survey.extra:  # every other column would be taken for images
        settings["modalities"] = {name: name for name in listing.paths}
    return settings | ({"root": str(root.resolve())} if zipped and not copy else {})


def _copied(source: FileSource, path: str, modality: str, number: int, folder: Path) -> str:
    """Copy one image; return its path in the new folder. Keeps the name if it is safe."""
    if not path:
        return ""
    parts = PurePosixPath(path).parts
    safe = not PurePosixPath(path).is_absolute() and ".." not in parts
    name = PurePosixPath("images", modality, *(parts if safe else (f"{number:06d}_{parts[-1]}",)))
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():  # two cells may share one file
        try:
            target.write_bytes(source.read(path))
        except FileNotFoundError as error:
            raise DataError(
                f"Expected {path} to exist, but it was removed meanwhile. Run the command again."
            ) from error
    return str(name)


def _arrays(survey: Survey, rows: NDArray[np.intp], folder: Path, dest: Path, copy: bool) -> dict[str, Any]:
    """Refer to the array file if no cell was dropped, else write `cells.npz`."""
    assert survey.cells is not None
    if survey.dataset != "npz":
        raise DataError(
            f"Expected a folder, a CSV or an .npz, but {survey.dataset} is a data set already, which needs no "
            f"import. Use it with `wbcbench run --dataset {survey.dataset}`."
        )
    if not copy and len(rows) == len(survey) and not survey.filtered:
        return {"name": "npz", **survey.settings, "path": str(survey.path.resolve())}
    cells = survey.cells
    arrays: dict[str, Any] = {name: array[rows] for name, array in cells.images.items()}
    # codes and names, so that the order of the classes is kept
    arrays |= {"label": cells.labels[rows], "classes": np.array(cells.classes)}
    if survey.groups is not None:
        arrays["group"] = np.array(survey.groups)[rows]
    if cells.split is not None:
        arrays["split"] = cells.split[rows]
    with open(folder / ARRAYS, "xb") as file:
        np.savez(file, **arrays)
    names = {name: name for name in cells.images}
    return {"name": "npz", "path": str(dest / ARRAYS), "layout": "channels_first", "modalities": names}


def _csv(columns: dict[str, list[str]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()
