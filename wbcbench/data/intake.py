"""`wbcbench data`: describe the cells at a path, audit the split that a run would use, and import the cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from wbcbench.contracts.dataset import FOLD, SPLITS, Account
from wbcbench.data.advice import choose_size, copies_to_drop
from wbcbench.data.auto import Facts, recommend
from wbcbench.data.folders import FileSource, open_source
from wbcbench.data.labels import encode_labels, is_missing, probably_one, split_sizes
from wbcbench.data.official_folds import column_values, fold_columns, fold_sizes
from wbcbench.data.reading import CONFIG
from wbcbench.data.splits import (
    Leaks,
    assign_sides,
    find_leaks,
    fold_numbers,
    resolved,
    same_rows,
    training_cells,
)
from wbcbench.data.survey import Survey, leave_rows_out
from wbcbench.errors import DataError
from wbcbench.files import atomic_folder, json_text, write_synced
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


def audits(survey: Survey, spec: SplitSpec) -> list[Audit]:
    """Split as a run with `spec` would, and find leaks, in every fold if there are several.

    Raises:
        DataError: a run could not split.
    """
    grouped = survey.groups is not None
    spec = resolved(spec, grouped, split_sizes(survey.split), fold_sizes(survey.folds))
    numbers = fold_numbers(spec, len(survey.group_names) if grouped else None, survey.folds)
    return [audit(survey, spec, fold) for fold in (numbers or (None,))]


def audit(survey: Survey, spec: SplitSpec, fold: int | None = None) -> Audit:
    """Split as a run with `spec`, and find leaks. Raises `DataError` where a run could not split."""
    spec = resolved(spec, survey.groups is not None, split_sizes(survey.split), fold_sizes(survey.folds))
    scheme, side = assign_sides(
        survey.codes, survey.classes, survey.group_codes, survey.split, spec, fold, survey.folds
    )
    scheme += f", fold {fold}" if fold is not None else ""
    groups = np.array(survey.groups or [""] * len(survey))
    probable = tuple(
        names for names in probably_one(set(groups.tolist())) if len(set(side[np.isin(groups, names)]) - {""}) > 1
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
            {"name": name, "channels": m.channels, "dtype": "float32" if m.bits == 32 else f"uint{m.bits}",
             "side": [m.smallest, m.largest], "not_square": m.oblong, "missing": m.missing}
            for name, m in survey.modalities.items()
        ],
        "groups": None,
        "split": None,
        "copies": _copies(survey),
        "accounts": accounts_document(survey.accounts),
        "unusable": [{"what": what, "why": why} for what, why in survey.unusable],
        "chosen": settings_for(survey),
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
    folds = fold_sizes(survey.folds)
    document["folds"] = folds and [{"fold": fold, **own} for fold, own in folds.items()]
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


MANIFEST, ARRAYS, REPORT = "manifest.csv", "cells.npz", "import.json"
_RESERVED = ("label", "group", "split", "id", "fold")


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
    gone = copies_to_drop(survey) if copies == "drop" else {}
    dropped = [*survey.unusable, *((survey.ids[row], why) for row, (_, why) in sorted(gone.items()))]
    rows_kept = np.array([i for i in range(len(survey)) if i not in gone], dtype=np.intp)
    if len(rows_kept):
        encode_labels(np.array(survey.labels)[rows_kept], None, str(survey.path))
    else:
        raise DataError(f"Expected cells to import from {survey.path}, but all were dropped.")
    return Intake(rows_kept, dropped, _accounts(survey, {row: reason for row, (reason, _) in gone.items()}))


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
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True) + _left_open(survey, intake.rows)
        write_synced(folder / CONFIG, text.encode())
        write_synced(folder / REPORT, json_text(report).encode())
    return report


def settings_for(survey: Survey, rows: NDArray[np.intp] | None = None) -> list[dict[str, Any]]:
    """What a run chooses for these cells where it is not told: key, value and reason.

    Args:
        survey: of the cells.
        rows: those that are used; None: all.
    """
    rows = np.arange(len(survey)) if rows is None else rows
    sizes = split_sizes(None if survey.split is None else survey.split[rows])
    folds = fold_sizes(None if survey.folds is None else {k: side[rows] for k, side in survey.folds.items()})
    groups, placed = survey.group_codes, choose_size(survey)
    split = resolved(SplitSpec(), groups is not None, sizes, folds)
    count = None if groups is None else len(np.unique(groups[rows]))
    facts = Facts(
        training_cells(split, len(rows), sizes, count, folds), survey.side if placed is None else placed.side,
        survey.demonstration, groups is not None,
    )  # fmt: skip
    return [{"key": c.key, "value": c.value, "reason": c.reason} for c in recommend(facts)]


def _left_open(survey: Survey, rows: NDArray[np.intp]) -> str:
    """The settings as comments in YAML, to be edited."""
    lines, sections = ["# What a run chooses for these cells; remove the # to fix a value."], set[str]()
    for c in settings_for(survey, rows):
        section, _, name = c["key"].rpartition(".")
        if section and section not in sections:
            sections.add(section)
            lines.append(f"# {section}:")
        lines.append(f"# {'  ' if section else ''}{name}: {c['value']}  # {c['reason']}")
    return "\n" + "\n".join(lines) + "\n"


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
    if survey.folds is not None:
        columns |= column_values({fold: side[rows] for fold, side in survey.folds.items()})
    columns["id"] = [survey.ids[i] for i in rows]
    if len(set(columns["id"])) < len(rows):
        del columns["id"]
    vectors: dict[str, list[str]] = {}
    for m, numbers in listing.vectors.items():
        vectors[m] = []
        for name, values in zip(listing.features[m], numbers[rows].T, strict=True):
            clash = name in columns or name in _RESERVED or fold_columns([name], FOLD)
            vectors[m].append(f"{m}_{name}" if clash else name)
            columns[vectors[m][-1]] = ["" if np.isnan(v) else str(v) for v in values]
    for name, values in survey.extra.items():
        taken = name in columns or name in _RESERVED or fold_columns([name], FOLD)
        columns[f"extra_{name}" if taken else name] = [values[i] for i in rows]
    write_synced(folder / MANIFEST, _csv(columns).encode())
    settings: dict[str, Any] = {"name": "folder", "path": str(dest / MANIFEST)}
    if survey.extra or vectors:  # every other column would be taken for images
        settings["modalities"] = {**{name: name for name in listing.paths}, **vectors}
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
    if cells.folds is not None:
        arrays |= {n: np.array(v) for n, v in column_values({k: s[rows] for k, s in cells.folds.items()}).items()}
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
