"""Image files in folders that say what they are: classes, modalities, sides of a split."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from wbcbench.contracts.dataset import content_digest
from wbcbench.data.cache import recall, remember
from wbcbench.data.csv_table import SIDES, SUFFIXES, Manifest
from wbcbench.data.file_source import FileSource
from wbcbench.data.labels import distinct_names
from wbcbench.errors import DataError

_SHELF = "copies"
_CHANNEL = re.compile(r"_ch\d+(\.ome)?\.\w+$", re.IGNORECASE)


def image_files(source: FileSource, below: str = "") -> list[str]:
    """Relative paths of images below a folder of `source`, sorted; hidden ones left out."""
    start = f"{below}/" if below else ""
    return [n for n in source.names() if n.startswith(start) and n.lower().endswith(SUFFIXES)]


def unite(name: str) -> str:
    """A folder's name without case, blanks, hyphens and underscores: `Test-A` and `testa` are one."""
    return re.sub(r"[\s_-]", "", name).lower()


def find_folder(names: Sequence[str], wanted: str) -> str | None:
    """The first folder of these paths that is called `wanted` (see `unite`), as a path, or None."""
    for name in names:
        parts = PurePosixPath(name).parts[:-1]
        for depth, part in enumerate(parts):
            if unite(part) == unite(wanted):
                return "/".join(parts[: depth + 1])
    return None


def copied_files(source: FileSource, names: Sequence[str], root: Path) -> list[list[str]]:
    """Files with equal bytes, two or more each, in the order of `names`; remembered by sizes and times.

    Raises:
        OSError: a file cannot be read.
    """
    key = content_digest("copies-1", str(root.resolve()), list(names), source.stamps(names))
    known = recall(_SHELF, key)
    if isinstance(known, list):
        return known
    same: dict[str, list[str]] = defaultdict(list)
    for name in names:
        same[hashlib.sha256(source.read(name)).hexdigest()].append(name)
    found = [group for group in same.values() if len(group) > 1]
    remember(_SHELF, key, found)
    return found


LEVELS = ("class", "modality", "group", "split")


@dataclass(frozen=True)
class Tree:
    """Cells found in folders, N of them."""

    levels: str
    """What the folders are, from the outermost, as in `modality/class`."""
    listing: Manifest
    dropped: list[tuple[str, str]]
    """(file, why it is no cell)."""


def read_tree(source: FileSource, levels: str | None, where: str) -> Tree:
    """List a folder per class, or classes in folders of modalities, groups or sides of a split.

    Images of one cell in several modalities have one name, whatever the suffix.

    Args:
        levels: `class`, `modality/class`, `split/class`, `class/group` ...; None: recognised, if only one fits.
        where: the folder, for messages.

    Raises:
        DataError: no images, or levels that are not known and cannot be told.
    """
    files = image_files(source)
    if not files:
        raise DataError(f"Expected folders of images ({', '.join(SUFFIXES)}) in {where}, but it has none.")
    exported = [name for name in files if _CHANNEL.search(name)]
    if levels is None and 2 * len(exported) > len(files):
        raise DataError(
            f"Expected a file a cell in {where}, but {exported[0]!r} looks like one channel of a cell out of an "
            "imaging flow cytometer. Say --dataset imaging_flow, or --levels class if it is not."
        )
    words = (levels or _recognise(files, where)).split("/")
    if "class" not in words or len(set(words)) != len(words) or not set(words) <= set(LEVELS):
        raise DataError(
            f"Expected levels such as class or modality/class, of {', '.join(LEVELS)}, "
            f"but got {'/'.join(words)!r}."
        )
    dropped: list[tuple[str, str]] = []
    cells: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in files:
        *folders, last = PurePosixPath(name).parts
        if len(folders) != len(words):
            dropped.append((name, f"lies {len(folders)} folders deep instead of {len(words)}"))
            continue
        at = dict(zip(words, folders, strict=True))
        if "split" in at and at["split"].lower() not in SIDES:
            dropped.append((name, f"folder {at['split']!r} is none of train, val, test"))
            continue
        key = tuple(at.get(w, "") for w in ("split", "group", "class"))
        # without folders of modalities a cell is its file, so that a.png and a.tif are two
        key = (*key, PurePosixPath(last).stem if "modality" in at else last)
        modality = at.get("modality", "image")
        if modality in cells[key]:
            dropped.append((name, f"is a second {modality} image of the cell of {cells[key][modality]}"))
        else:
            cells[key][modality] = name
    keys = sorted(cells)
    if not keys:
        raise DataError(
            f"Expected images {len(words)} folders deep ({'/'.join(words)}) in {where}, but found none."
        )
    originals = sorted({m for images in cells.values() for m in images})
    modalities = dict(zip(distinct_names(originals, where), originals, strict=True))
    paths = {m: [cells[key].get(original, "") for key in keys] for m, original in modalities.items()}
    listing = Manifest(
        lines=list(range(2, len(keys) + 2)),
        labels=[key[2] for key in keys],
        paths=paths,
        groups=[key[1] for key in keys] if "group" in words else None,
        split=np.array([SIDES[key[0].lower()] for key in keys], dtype="<U5") if "split" in words else None,
        ids=[next(p for p in each if p) for each in zip(*paths.values(), strict=True)],
        notes=[],
    )
    return Tree("/".join(words), listing, dropped)


def _recognise(files: Sequence[str], where: str) -> str:
    """The levels, where only one reading fits. Raises `DataError`."""
    folders = [PurePosixPath(name).parts[:-1] for name in files]
    depth = max(map(len, folders))
    deep = [f for f in folders if len(f) == depth]
    if depth == 1:
        return "class"
    if depth == 2:
        outer = sorted({f[0] for f in deep})
        if all(name.lower() in SIDES for name in outer):
            return "split/class"
        inner = [{f[1] for f in deep if f[0] == name} for name in outer]
        cells = [
            {(p.parts[1], p.stem) for p in map(PurePosixPath, files) if len(p.parts) == 3 and p.parts[0] == name}
            for name in outer
        ]
        # the same classes and mostly the same names of cells in each
        if len(outer) > 1 and all(i == inner[0] for i in inner) and len(inner[0]) > 1:
            shared = set.intersection(*cells)
            if 2 * len(shared) > max(map(len, cells)):
                return "modality/class"
    raise DataError(
        f"Expected a folder per class in {where}, but images lie {depth} deep, as {files[-1]!r} does, and what "
        "the folders are cannot be told. Say it with --levels, as in --levels group/class or modality/class."
    )
