"""Recognise and read the cells at a path: a folder tree, a CSV, an .npz or a `dataset.yaml`.

A `dataset.yaml`, as written by `wbcbench data import`, specifies how its cells are read.
"""

from __future__ import annotations

import math
import shlex
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.contracts.dataset import Account, Cells, Dataset, Progress
from wbcbench.data.csv_table import (
    NONE,
    UNUSED,
    ColumnChoices,
    Columns,
    Manifest,
    ManifestFile,
    recognise,
    recognise_folds,
    recognise_name,
)
from wbcbench.data.csv_table import SUFFIXES as IMAGES
from wbcbench.data.folders import list_images, open_source
from wbcbench.data.formats import refuse_foreign
from wbcbench.data.labels import Problems, encode_labels, is_missing, plain
from wbcbench.data.npz_file import NpzFile, find_picks, open_npz
from wbcbench.data.official_folds import NAMES as FOLDS
from wbcbench.data.official_folds import NOWHERE, Lists, fold_columns, fold_notes
from wbcbench.data.survey import (
    Survey,
    groups_of,
    leave_rows_out,
    survey_cells,
    survey_dataset,
    survey_listing,
)
from wbcbench.data.trees import read_tree
from wbcbench.errors import DataError

CONFIG = "dataset.yaml"
SUFFIXES = (".yaml", ".yml")
READ = f"a folder, a .csv, an .npz or a {CONFIG}"


@dataclass(frozen=True)
class Described:
    """A data set and its parameters, from a config file for `wbcbench run`."""

    config: Path
    name: str
    params: dict[str, Any]


def described(path: Path) -> Described | None:
    """The data set that a folder's `dataset.yaml`, or a YAML file, specifies; None if `path` is neither.

    Raises:
        UsageError: it is not a valid config file.
        DataError: it specifies no data set.
    """
    config = path / CONFIG if path.is_dir() else path
    if config.suffix.lower() not in SUFFIXES or not config.is_file():
        return None
    from wbcbench.spec.load import read_yaml, request_from

    tree = read_yaml(config)
    if "dataset" not in tree:
        raise DataError(
            f"Expected `dataset:` in {config}, as written by `wbcbench data import`, but there is none."
        )
    dataset = request_from(tree, where=str(config)).dataset
    return Described(config, dataset.name, dict(dataset.params))


def instead(folder: Path) -> str:
    """For a folder without images: the files in it to give instead, as command-line arguments; may be empty."""
    if not folder.is_dir():
        return ""
    inside = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    arrays, tables, zips = ([p for p in inside if p.suffix.lower() == s] for s in (".npz", ".csv", ".zip"))
    given = [[str(p)] for p in arrays]
    given += [[str(table), *(["--root", str(zips[0])] if zips else [])] for table in tables]
    given += [] if tables else [[str(p)] for p in zips]
    return " or ".join(map(shlex.join, given[:4]))


Open = Callable[[str, dict[str, Any]], Dataset]
"""Creates a data set from its name and parameters."""
BSCCM = "BSCCM_index.csv"
_IMAGES = ("image", "images", "x", "data")


def survey_path(path: Path, asked: ColumnChoices, opener: Open, progress: Progress | None = None) -> Survey:
    """Recognise what is at `path` and read all of it.

    Raises:
        DataError: nothing is there, or it can be read in two ways and `asked` does not specify which.
    """
    said = described(path) if asked.levels is None else None
    if said is not None:
        return _described(said, asked, opener, progress)
    refuse_foreign(path, READ)
    if path.is_dir():
        if (path / BSCCM).is_file():
            raise DataError(f"{path} is BSCCM as published ({BSCCM}). Use --dataset bsccm.")
        if (path / "manifest.csv").is_file() and asked.levels is None:
            return _manifest(path / "manifest.csv", asked, progress)
        return _tree(path, asked, progress)
    if not path.is_file():
        raise DataError(f"Expected {READ}, but there is nothing at {path}.")
    if path.suffix.lower() in IMAGES:
        raise DataError(f"Expected {READ}, but {path} is one image. Give a folder with one folder per class.")
    if path.suffix.lower() == ".npz":
        return _npz(path, asked, opener, progress)
    if zipfile.is_zipfile(path):
        return _tree(path, asked, progress)
    return _manifest(path, asked, progress)


def _described(said: Described, asked: ColumnChoices, opener: Open, progress: Progress | None) -> Survey:
    """The cells of a config file; the user's options for columns and arrays take precedence."""
    dataset, params = opener(said.name, said.params), said.params
    place = Path(str(params.get("path") or "")).expanduser()
    if dataset.name == "folder":
        params = dataset.params.model_dump(mode="json")
        manifest = place / "manifest.csv" if place.is_dir() else place
        survey = _manifest(manifest, _as_folder_reads(ManifestFile(manifest), params, asked), progress)
    elif dataset.name == "npz":
        survey = _npz_as(place, params | _npz_settings(asked), [], asked, opener, progress)
    elif asked != ColumnChoices():
        raise DataError(
            f"Expected no options for columns, since {said.config} is read by the data set {said.name}. "
            "Remove them, or change the parameters in that file."
        )
    else:
        survey = survey_dataset(said.name, dataset, params, progress)
    survey.config = said.config
    return survey


def _as_folder_reads(file: ManifestFile, params: dict[str, Any], asked: ColumnChoices) -> ColumnChoices:
    """The parameters of the data set `folder`, as options."""
    named = {what: str(params[what]) for what in ("label", "group", "split", "id")}
    found: dict[str, Any] = {
        what: getattr(asked, what) or (name if name in file.header else NONE) for what, name in named.items()
    }
    folds = () if asked.fold_lists else fold_columns(file.header, asked.fold or params["fold"])
    found["fold"] = asked.fold or (params["fold"] if folds else NONE)
    taken = [*named.values(), *found.values(), *folds, *params["leave_out"]]
    root = Path(params["root"]).expanduser() if params["root"] else None
    columns: dict[str, str | list[str]] = asked.modalities or params["modalities"]
    return replace(
        asked, **found, root=asked.root or root, leave_out=asked.leave_out or params["leave_out"],
        modalities=columns or {**file.image_columns(taken)},
    )  # fmt: skip


def _tree(path: Path, asked: ColumnChoices, progress: Progress | None) -> Survey:
    with open_source(path) as source:
        given = instead(path) if path.is_dir() and not list_images(source).names else ""
        if given:
            raise DataError(f"Expected folders of images in {path}, but it has none. Give what is in it: {given}.")
        try:
            tree = read_tree(source, asked.levels, str(path), asked.sides, _leave_out(asked, "class", ()))
        except DataError as error:
            tables = instead(path) if asked.levels is None else ""
            raise DataError(f"{error} Or give what is in it: {tables}." if tables else str(error)) from error
    if asked.group == NONE:
        found = {what: names for what, names in tree.listing.found.items() if what != "groups"}
        tree = replace(tree, listing=replace(tree.listing, groups=None, found=found))
    taken = [(f"folder level {i + 1}", word) for i, word in enumerate(tree.levels.split("/"))]
    survey = _listed(tree.listing, path, path, asked, progress)
    survey.kind, survey.taken = "tree", taken
    survey.unusable = [*tree.dropped, *survey.unusable]
    return survey


def _manifest(path: Path, asked: ColumnChoices, progress: Progress | None) -> Survey:
    file = ManifestFile(path)
    columns, taken = recognise(file, asked)
    problems = Problems()
    leave_out = _leave_out(asked, columns.label, file.header)
    listing = file.select(columns, leave_out, problems, asked.sides)
    if not listing.lines:
        problems.raise_if_any(str(path))
    root = asked.root or path.parent
    survey = _listed(listing, root, path, asked, progress)
    survey.kind, survey.taken = "manifest", taken
    survey.unusable = [(f"line {n}", text) for n, text in problems.found()] + survey.unusable
    survey.extra = _numbers(file, [name for name, role in taken if role == UNUSED], survey)
    as_it_is = (
        not survey.unusable and not asked.sides and asked.fold_lists is None and "bits" not in asked.leave_out
    )
    if as_it_is:
        survey.dataset, survey.settings = "folder", _folder_settings(path, file, columns, asked, leave_out)
    return survey


def _leave_out(asked: ColumnChoices, label: str, there: Sequence[str]) -> dict[str, list[str]]:
    """Column or folder level -> values; `label` stands for the column of labels, and `bits` is none."""
    given = asked.leave_out.items()
    return {label if n == "label" and n not in there else n: values for n, values in given if n != "bits"}


def _numbers(file: ManifestFile, columns: Sequence[str], survey: Survey) -> dict[str, list[str]]:
    """The columns that hold only numbers and gaps, for the survey's cells."""
    assert survey.listing is not None
    rows = dict(file.rows)
    found = {}
    for name in columns:
        at = file.header.index(name)
        values = [rows[line][at].strip() for line in survey.listing.lines]
        given = [v for v in values if not is_missing(v)]
        if given and all(map(_is_number, given)):
            found[name] = values
    return found


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _listed(listing: Manifest, root: Path, path: Path, asked: ColumnChoices, progress: Progress | None) -> Survey:
    """The part common to trees and manifests."""
    extra: tuple[Account, ...] = ()
    if asked.fold_lists is not None:
        listing, extra = _with_lists(listing, asked.fold_lists)
    images = survey_listing(listing, root, asked.leave_out.get("bits", ()), progress)
    kept = images.kept
    if not kept.lines:
        shown = "; ".join(f"{name} {why}" for name, why in images.unreadable[:3])
        raise DataError(
            f"Expected readable images in {path}, but no cell has one ({shown}). Paths are relative to {root}: "
            "set another folder with --root."
        )
    _, classes = encode_labels(np.array(kept.labels), None, str(path))
    return Survey(
        path=path, kind="tree", labels=kept.labels, classes=classes, ids=kept.ids, modalities=images.modalities,
        digests=images.digests, groups=kept.groups, split=kept.split, folds=kept.folds, unusable=images.unreadable,
        listing=kept, root=root, accounts=(*kept.accounts(), *extra), filtered=bool(extra),
        notes=list(kept.notes), sizes=images.sizes,
        mixed=images.mixed,
    )  # fmt: skip


def _with_lists(listing: Manifest, folder: Path) -> tuple[Manifest, tuple[Account, ...]]:
    """The listing with the folds of lists; without cells of no fold, unless there is an official split."""
    keys = [[i, *paths] for i, *paths in zip(listing.ids, *listing.paths.values(), strict=True)]
    read, account = Lists.below(folder).read(keys)
    notes = [*listing.notes, *read.notes, *fold_notes(read.sides, listing.labels)]
    listing = replace(listing, folds=read.sides, notes=notes)
    gone = [] if listing.split is not None else np.flatnonzero(~read.used).tolist()
    return leave_rows_out(listing, [(row, NOWHERE) for row in gone]), (account,)


def _cells_with_lists(cells: Cells, folder: Path) -> tuple[Cells, tuple[Account, ...]]:
    """`_with_lists`, of cells that are called `row 12`, or 12."""
    keys = [[name, name.removeprefix("row ")] for name in cells.ids or ()]
    read, account = Lists.below(folder).read(keys)
    labels = [cells.classes[c] for c in cells.labels]
    cells = replace(cells, folds=read.sides, notes=[*cells.notes, *read.notes, *fold_notes(read.sides, labels)])
    gone = {} if cells.split is not None else dict.fromkeys(np.flatnonzero(~read.used).tolist(), NOWHERE)
    kept, accounts = _without_rows(cells, gone, folder)
    return kept, (*accounts, account)


def _folder_settings(
    path: Path, file: ManifestFile, columns: Columns, asked: ColumnChoices, leave_out: dict[str, list[str]]
) -> dict[str, Any]:
    """Parameters with which `folder` reads the manifest this way; only those that differ from its defaults."""
    settings: dict[str, Any] = {"path": str(path)}
    if asked.root is not None:
        settings["root"] = str(asked.root)
    used = [columns.label, columns.group, columns.split, columns.id, *columns.fold, *leave_out]
    rest = [name for name in file.header if name not in used]
    numbers = {m: list(names) for m, names in columns.vectors.items()}
    if numbers or dict(columns.modalities) != {name: name for name in rest}:
        settings["modalities"] = {**columns.modalities, **numbers}
    for what in ("label", "group", "split", "id"):
        column = getattr(columns, what)
        if column is None and what in file.header:
            settings[what] = ""
        elif column not in (None, what):
            settings[what] = column
    if columns.fold != fold_columns(file.header, "fold"):
        settings["fold"] = (asked.fold or columns.fold[0]) if columns.fold else ""
    if leave_out:
        settings["leave_out"] = leave_out
    return settings


def _npz(path: Path, asked: ColumnChoices, opener: Open, progress: Progress | None) -> Survey:
    where = str(path)
    file = NpzFile(path)
    names = list(file.headers)
    settings: dict[str, Any] = {"path": where}
    taken: list[tuple[str, str]] = []
    if "train_images" in names:
        taken.append(("train_images, train_labels, val_... , test_...", "MedMNIST's images, labels and split"))
    else:
        for what in ("label", "group", "split"):
            found = recognise_name(what, getattr(asked, what), names, where)
            none = what in names or getattr(asked, what) == NONE
            if found is None and (none or what == "label"):
                settings[what] = "" if none else what
            elif found is not None:
                settings |= {} if found == what else {what: found}
                taken.append((found, what))
        flat = [n for n, header in file.headers.items() if len(header.shape) == 1]
        values = {n: [str(v) for v in file.read(n, "folds")] if plain(n) in FOLDS else [] for n in flat}
        folds = recognise_folds(asked, values, where)
        settings |= (
            {} if folds == fold_columns(names, "fold") else {"fold": asked.fold or folds[0] if folds else ""}
        )
        taken += [(name, "fold" if len(folds) == 1 else "sides of a fold") for name in folds]
        pictures = [n for n in names if n.lower() in _IMAGES]
        if len(pictures) > 1 and not asked.modalities:
            raise DataError(
                f"Expected one array of images in {where}, but {', '.join(pictures)} each match. Choose "
                "one with --modality NAME=ARRAY."
            )
        if pictures and pictures[0] != "image":
            settings["image"] = pictures[0]
    if asked.modalities:
        settings["modalities"] = _npz_settings(asked)["modalities"]
    return _npz_as(path, settings, taken, asked, opener, progress)


def _npz_settings(asked: ColumnChoices) -> dict[str, Any]:
    """The user's options as parameters of the data set `npz`."""
    said = {what: getattr(asked, what) for what in ("label", "group", "split", "fold")}
    settings: dict[str, Any] = {what: "" if name == NONE else name for what, name in said.items() if name}
    if asked.modalities:
        settings["modalities"] = {m: _pick(text) for m, text in asked.modalities.items()}
    return settings


def _npz_as(
    path: Path,
    settings: dict[str, Any],
    taken: list[tuple[str, str]],
    asked: ColumnChoices,
    opener: Open,
    progress: Progress | None,
) -> Survey:
    if asked.sides:
        raise DataError(
            "Expected --side with folders or a CSV, but got an .npz. Rename the words in its split array."
        )
    dataset = opener("npz", settings)
    if dataset.describe().image_size is None:  # arrays of several sizes: without rescaling, size is evidence
        p = dataset.params
        picks = find_picks(open_npz(path, p.image, p.label, p.split), p.modalities, p.image, p.layout)
        settings = {**settings, "window": max(pick.side for pick in picks.values())}
        dataset = opener("npz", settings)
    cells = dataset.load(None, progress)
    said = {m: f"{a.shape[1]} channels" for m, a in cells.images.items()}
    taken = [*taken, *((f"image array, {what}", f"images of modality {m}") for m, what in said.items())]
    kept, accounts = _without(cells, asked.leave_out, path)
    if asked.fold_lists is not None:
        kept, accounts = _cells_with_lists(replace(kept, accounts=accounts), asked.fold_lists)
    modalities, digests = survey_cells(kept)
    return Survey(
        path=path, kind="npz", labels=[kept.classes[c] for c in kept.labels], classes=kept.classes,
        ids=list(kept.ids or ()), modalities=modalities, digests=digests, groups=groups_of(kept), split=kept.split,
        folds=kept.folds, dataset="npz", settings=settings, taken=taken, notes=list(kept.notes), cells=kept,
        accounts=accounts, filtered=len(kept) < len(cells) or asked.fold_lists is not None,
    )  # fmt: skip


def _without(
    cells: Cells, leave_out: Mapping[str, Sequence[str]], path: Path
) -> tuple[Cells, tuple[Account, ...]]:
    """The cells without those of some labels, groups or sides, and the accounts."""
    accounts = cells.accounting()
    if not leave_out:
        return cells, accounts
    columns: dict[str, list[str] | None] = {
        "label": [cells.classes[c] for c in cells.labels],
        "group": groups_of(cells),
        "split": None if cells.split is None else [str(side) for side in cells.split],
    }
    gone: dict[int, str] = {}
    for name, values in leave_out.items():
        column = columns.get(name)
        if column is None:
            there = ", ".join(n for n, c in columns.items() if c is not None)
            raise DataError(f"Expected --leave-out of {there} in {path}, but got {name!r}.")
        gone |= {row: f"left out by {name}={value}" for row, value in enumerate(column) if value in values}
    return _without_rows(cells, gone, path)


def _without_rows(cells: Cells, gone: Mapping[int, str], path: Path) -> tuple[Cells, tuple[Account, ...]]:
    """The cells without those of row -> reason, and the accounts."""
    ids = cells.ids or tuple(f"row {i}" for i in range(len(cells)))
    account, *others = cells.accounting()
    if not gone:
        return cells, (account, *others)
    for reason in dict.fromkeys(gone.values()):
        account = account.without(reason, [ids[row] for row, why in gone.items() if why == reason])
    rows = np.array([row for row in range(len(cells)) if row not in gone], dtype=np.intp)
    labels, classes = encode_labels(np.array([cells.classes[c] for c in cells.labels])[rows], None, str(path))
    kept = tuple(c for c in cells.classes if c in classes)  # in the order that the file states
    order = np.array([kept.index(c) for c in classes])
    gone_classes = [("without usable cells", c) for c in cells.classes if c not in kept]
    classes_account = Account.of("classes", len(cells.classes), len(kept), gone_classes)
    found = replace(
        cells, images={m: x[rows] for m, x in cells.images.items()}, labels=order[labels], classes=kept,
        groups=None if cells.groups is None else cells.groups[rows],
        split=None if cells.split is None else cells.split[rows],
        folds=None if cells.folds is None else {k: side[rows] for k, side in cells.folds.items()},
        present=None if cells.present is None else cells.present[rows], ids=tuple(ids[row] for row in rows),
    )  # fmt: skip
    return found, (account, classes_account, *(a for a in others if a.unit == "arrays"))


def _pick(text: str | list[str]) -> list[int] | str:
    """`0,1` as channel numbers, anything else as the name of an array."""
    parts = text.strip("[]").split(",") if isinstance(text, str) else list(map(str, text))
    text = ",".join(parts)
    return [int(p) for p in parts] if all(p.strip().isdigit() for p in parts) else text


__all__ = ["CONFIG", "NONE", "ColumnChoices", "Described", "Open", "described", "instead", "survey_path"]
