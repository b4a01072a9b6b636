"""Bring cells in: write the manifest (or the array file) and the config that a run reads, whole or not at all."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from wbcbench.data.audit import suggested_side
from wbcbench.data.described import CONFIG
from wbcbench.data.file_source import FileSource, open_source
from wbcbench.data.labels import encode_labels
from wbcbench.data.survey import Survey
from wbcbench.errors import DataError
from wbcbench.records.atomic import atomic_folder, json_text, write_synced

MANIFEST, ARRAYS, REPORT = "manifest.csv", "cells.npz", "import.json"
_RESERVED = ("label", "group", "split", "id")


@dataclass(frozen=True)
class Intake:
    """What would be brought in."""

    rows: NDArray[np.intp]
    """Of the survey's cells, those that are kept."""
    dropped: list[tuple[str, str]]
    """(file, line or cell; why)."""


def plan_intake(survey: Survey, copies: Literal["drop", "keep"]) -> Intake:
    """Decide which cells are kept.

    Of cells with the same pixels one stays: the first of the test side, else of val, else of train, so that an
    official test set stays whole. None stays where the copies have different labels.

    Raises:
        DataError: fewer than two classes are left.
    """
    dropped = list(survey.unusable)
    gone: dict[int, str] = {}
    if copies == "drop":
        order = {"test": 0, "val": 1, "train": 2}
        for rows in survey.copies:
            if len({survey.labels[i] for i in rows}) > 1:
                labels = ", ".join(sorted({survey.labels[i] for i in rows}))
                gone |= dict.fromkeys(rows, f"the same image has several labels ({labels})")
                continue
            split = survey.split
            kept = rows[0] if split is None else min(rows, key=lambda i: (order[str(split[i])], i))
            gone |= {i: f"copy of {survey.ids[kept]}" for i in rows if i != kept}
    dropped += [(survey.ids[i], why) for i, why in sorted(gone.items())]
    rows_kept = np.array([i for i in range(len(survey)) if i not in gone], dtype=np.intp)
    if len(rows_kept):
        encode_labels(np.array(survey.labels)[rows_kept], None, str(survey.path))
    else:
        raise DataError(f"Expected cells to bring in from {survey.path}, but every one was dropped.")
    return Intake(rows_kept, dropped)


def write_intake(survey: Survey, intake: Intake, dest: Path, copy: bool) -> dict[str, Any]:
    """Make the folder `dest`: config, report, and a manifest or an array file.

    Args:
        copy: images are copied below `dest`; else the manifest names them where they lie.

    Returns:
        The content of the report.

    Raises:
        DataError: `dest` is there already, or a modality's name would clash with another column.
        WbcbenchError: the file system refuses.
    """
    if dest.exists():
        raise DataError(f"Expected a new folder, but {dest} is there. Choose another with -o, or remove it.")
    clash = sorted(set(survey.modalities) & set(_RESERVED))
    if clash:
        raise DataError(
            f"Expected modalities called other than {', '.join(_RESERVED)}, but got {', '.join(clash)}. Name it "
            "with --modality NAME=..., or rename its folder."
        )
    report = {
        "source": str(survey.path.resolve()),
        "kind": survey.kind,
        "taken": [{"what": what, "for": meaning} for what, meaning in survey.taken],
        "cells": len(intake.rows),
        "dropped": [{"what": what, "why": why} for what, why in intake.dropped],
        "notes": survey.notes,
        "copied": copy,
    }
    with atomic_folder(dest) as folder:
        if survey.listing is not None:
            dataset = _manifest(survey, intake.rows, folder, dest.resolve(), copy)
        else:
            dataset = _arrays(survey, intake.rows, folder, dest.resolve(), copy)
        config: dict[str, Any] = {"dataset": dataset}
        if survey.side is None:
            config["image_size"] = suggested_side(survey)
        write_synced(folder / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
        write_synced(folder / REPORT, json_text(report).encode())
    return report


def _manifest(survey: Survey, rows: NDArray[np.intp], folder: Path, dest: Path, copy: bool) -> dict[str, Any]:
    """Write `manifest.csv`, and the images if asked; return the config's `dataset`."""
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
                # absolute, so that the manifest may lie, and be moved, anywhere
                columns[modality] = [str(root.resolve() / paths[i]) if paths[i] else "" for i in rows]
    columns["label"] = [survey.labels[i] for i in rows]
    if survey.groups is not None:
        columns["group"] = [survey.groups[i] for i in rows]
    if survey.split is not None:
        columns["split"] = [str(survey.split[i]) for i in rows]
    columns["id"] = [survey.ids[i] for i in rows]
    if len(set(columns["id"])) < len(rows):
        del columns["id"]
    write_synced(folder / MANIFEST, _csv(columns).encode())
    settings = {"name": "folder", "path": str(dest / MANIFEST)}
    return settings | ({"root": str(root.resolve())} if zipped and not copy else {})


def _copied(source: FileSource, path: str, modality: str, number: int, folder: Path) -> str:
    """Copy one image; return its path in the new folder. Names are kept where they are safe."""
    if not path:
        return ""
    parts = PurePosixPath(path).parts
    safe = not PurePosixPath(path).is_absolute() and ".." not in parts
    name = PurePosixPath("images", modality, *(parts if safe else (f"{number:06d}_{parts[-1]}",)))
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():  # one file may serve two cells
        try:
            target.write_bytes(source.read(path))
        except FileNotFoundError as error:
            raise DataError(
                f"Expected {path} to stay where it is, but it is gone. Run the command again."
            ) from error
    return str(name)


def _arrays(survey: Survey, rows: NDArray[np.intp], folder: Path, dest: Path, copy: bool) -> dict[str, Any]:
    """Refer to the array file if nothing of it was dropped, else write `cells.npz`."""
    assert survey.cells is not None
    if survey.dataset != "npz":
        raise DataError(
            f"Expected a folder, a CSV or an .npz, but {survey.dataset} is a data set already. Run it."
        )
    if not copy and len(rows) == len(survey):
        return {"name": "npz", **survey.settings, "path": str(survey.path.resolve())}
    cells = survey.cells
    arrays: dict[str, Any] = {name: array[rows] for name, array in cells.images.items()}
    # numbers and names, so that the order of the classes stays
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


__all__ = ["ARRAYS", "CONFIG", "MANIFEST", "REPORT", "Intake", "plan_intake", "write_intake"]
