"""Folder names that encode classes, modalities, donors and sides of a split."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath

import numpy as np

from wbcbench.data.csv_table import SUFFIXES, Manifest
from wbcbench.data.folders import FileSource, list_images, unite
from wbcbench.data.formats import foreign_among
from wbcbench.data.labels import distinct_names, join_spellings, side_of, spelling_notes, split_word_in
from wbcbench.errors import DataError

_CHANNEL = re.compile(r"_ch\d+(\.ome)?\.\w+$", re.IGNORECASE)
LEVELS = ("class", "modality", "group", "split", "skip")
"""What a level of folders can mean; `skip`: nothing, as where a zip has everything in one more folder."""


@dataclass(frozen=True)
class Tree:
    """Cells found in folders, N of them."""

    levels: str
    """The meaning of the folder levels, outermost first, such as `modality/class`."""
    listing: Manifest
    dropped: list[tuple[str, str]]
    """(file, why it was dropped)."""


def read_tree(
    source: FileSource,
    levels: str | None,
    where: str,
    sides: Mapping[str, str] | None = None,
    leave_out: Mapping[str, Sequence[str]] | None = None,
) -> Tree:
    """List the cells of a tree with one folder per class, or with class folders in folders of modalities,
    groups or sides of a split.

    Images of the same cell in several modalities have the same name, apart from the suffix.

    Args:
        levels: `class`, `modality/class`, `split/class`, `class/group` ...; None: inferred, if only one fits.
        where: the folder, for messages.
        sides: folder -> train, val or test, in addition to the usual words.
        leave_out: level -> folders whose cells are left out.

    Raises:
        DataError: no images, or levels that are unknown or can be read in several ways.
    """
    sides, leave_out = dict(sides or {}), dict(leave_out or {})
    images = list_images(source)
    if not images.names:
        raise DataError(
            f"Expected folders of images ({', '.join(SUFFIXES)}) in {where}, but it has none "
            f"({images.account(0).sentence()}). {foreign_among(source.listing().files)}".rstrip()
        )
    exported = [name for name in images.names if _CHANNEL.search(name)]
    if levels is None and 2 * len(exported) > len(images.names):
        raise DataError(
            f"Expected one file per cell in {where}, but {exported[0]!r} looks like one channel of a cell from an "
            "imaging flow cytometer. Use --dataset imaging_flow, or --levels class if it is not."
        )
    words = (levels or recognise_levels(images.names, where, sides)).split("/")
    if "class" not in words or not _distinct(words) or not set(words) <= set(LEVELS):
        raise DataError(
            f"Expected levels such as class or modality/class, of {', '.join(LEVELS)}, "
            f"but got {'/'.join(words)!r}."
        )
    if unknown := sorted(set(leave_out) - set(words)):
        raise DataError(
            f"Expected --leave-out of {' or '.join(words)} (the folder levels of {where}), but got {unknown[0]!r}."
        )

    def side(folder: str) -> str | None:
        return sides.get(folder) or side_of(folder)

    dropped: list[tuple[str, str, str]] = []  # file, reason in the account, the same in full
    cells: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in images.names:
        *folders, last = PurePosixPath(name).parts
        if len(folders) != len(words):
            full = f"is {len(folders)} folders deep instead of {len(words)}"
            dropped.append((name, f"not {len(words)} folders deep", full))
            continue
        # macOS decomposes accents, and the same class may come from elsewhere
        at = dict(zip(words, map(_composed, folders), strict=True))
        refused = next((f"{level}={at[level]}" for level, names in leave_out.items() if at[level] in names), "")
        if refused:
            dropped.append((name, f"left out by {refused}", f"was left out by {refused}"))
            continue
        if "split" in at and side(at["split"]) is None:
            full = f"folder {at['split']!r} is not one of train, val, test"
            dropped.append((name, f"in {at['split']}, which is not train, val or test", full))
            continue
        wrong = next((w for w in ("modality", "group") if w in at and side(at[w]) is not None), None)
        if wrong is not None:
            raise DataError(
                f"Expected a {wrong} as level {words.index(wrong) + 1} of the folders in {where}, but "
                f"{at[wrong]!r} is a side of a split, whose test images would be trained on. Use --levels "
                f"{'/'.join('split' if w == wrong else w for w in words if w != 'split')}."
            )
        key = tuple(at.get(w, "") for w in ("split", "group", "class"))
        # without modality folders each file is a cell, so a.png and a.tif are two cells
        key = (*key, PurePosixPath(last).stem if "modality" in at else last)
        modality = at.get("modality", "image")
        if modality in cells[key]:
            full = f"is a second {modality} image of the cell of {cells[key][modality]}"
            dropped.append((name, "second images of a cell", full))
        else:
            cells[key][modality] = name
    keys = sorted(cells)
    if not keys:
        raise DataError(
            f"Expected images {len(words)} folders deep ({'/'.join(words)}) in {where}, but found none."
        )
    originals = sorted({m for files in cells.values() for m in files})
    modalities = dict(zip(distinct_names(originals, where), originals, strict=True))
    paths = {m: [cells[key].get(original, "") for key in keys] for m, original in modalities.items()}
    split = [side(key[0]) for key in keys] if "split" in words else None
    labels, notes = join_spellings([key[2] for key in keys], "class")
    groups, more = join_spellings([key[1] for key in keys], "group") if "group" in words else (None, [])
    found = _names_found(images.folders, words, side)
    for what, place, joined in (("classes", 2, labels), ("groups", 1, groups or [])):
        if what in found:
            one = dict(zip((key[place] for key in keys), joined, strict=False))
            found[what] = frozenset(one.get(_composed(name), name) for name in found[what])
    listing = Manifest(
        lines=list(range(2, len(keys) + 2)),
        labels=labels,
        paths=paths,
        groups=groups,
        split=None if split is None else np.array(split, dtype="<U5"),
        ids=[next(p for p in each if p) for each in zip(*paths.values(), strict=True)],
        notes=[*_renamed(split, [key[0] for key in keys]), *notes, *more, *spelling_notes(labels, groups, where)],
        account=images.account(sum(map(len, cells.values())), [(why, name) for name, why, _ in dropped]),
        found=found,
    )
    return Tree("/".join(words), listing, [(name, full) for name, _, full in dropped])


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _renamed(split: Sequence[str | None] | None, folders: Sequence[str]) -> list[str]:
    """Notes on folders of a split that are not called train, val or test."""
    counts = Counter(zip(folders, split or (), strict=False))
    return [
        f"Folder {name!r} means {side} ({n} cells)." for (name, side), n in sorted(counts.items()) if name != side
    ]


def _names_found(
    folders: Sequence[str], words: Sequence[str], side: Callable[[str], str | None]
) -> dict[str, frozenset[str]]:
    """Every class, group and side that has a folder, even an empty one."""
    found = {}
    for what, level in (("classes", "class"), ("splits", "split"), ("groups", "group")):
        if level in words:
            at = words.index(level)
            names = {path.parts[at] for path in map(PurePosixPath, folders) if len(path.parts) > at}
            found[what] = frozenset(side(n) or n for n in names) if level == "split" else frozenset(names)
    return found


_MODALITY = frozenset({
    "brightfield", "bright", "bf", "darkfield", "dark", "df", "phase", "phasecontrast", "ph", "dic", "dpc", "qpi",
    "fluorescence", "fluo", "fl", "dapi", "hoechst", "pi", "gfp", "rfp", "yfp", "cfp", "mcherry", "cy3", "cy5",
    "fitc", "pe", "apc", "texasred", "ssc", "fsc", "giemsa", "rgb", "infrared", "ir", "uv", "red", "green",
    "blue",
})  # fmt: skip
"""Words that name a modality and neither a class nor a donor, in lower case."""


def _names_modality(name: str) -> bool:
    words = re.findall(r"[a-z]+[0-9]*|[0-9]+", name.lower())
    return unite(name) in _MODALITY or any(w in _MODALITY or re.fullmatch(r"(ch|channel)\d*", w) for w in words)


def recognise_levels(files: Sequence[str], where: str, sides: Mapping[str, str] | None = None) -> str:
    """The levels of the folders, if only one reading is possible.

    A level all of whose folders are sides of a split is the split. A level is a modality if images pair up over
    its folders, and nothing else if all of them have names of modalities. A level of one folder says nothing.
    Everything else is left to the user.

    Raises:
        DataError: no reading is possible, or several are; the message has the option for each.
    """
    sides = dict(sides or {})
    folders = [PurePosixPath(name).parts[:-1] for name in files]
    depths = Counter(map(len, folders))
    depth = max(depths, key=lambda d: (depths[d], d))
    deep = [PurePosixPath(name) for name in files if len(PurePosixPath(name).parts) == depth + 1]
    example = str(deep[-1])
    if depth == 0:
        raise DataError(
            f"Expected a folder per class in {where}, but the images, such as {example!r}, are in no folder. "
            "Make a folder per class, or list the images and their labels in a CSV."
        )
    names = [sorted({path.parts[level] for path in deep}) for level in range(depth)]

    def is_side(name: str) -> bool:
        return name in sides or side_of(name) is not None

    # A level with some words for a side, but not all, can only be a split of which something must be said.
    flags: dict[int, list[list[str]]] = {}
    for level, there in enumerate(names):
        unclear = [n for n in there if not is_side(n) and split_word_in(n)]
        if any(map(is_side, there)) or unclear:
            meant = [w for n in unclear for w in ("--side", f"{n}={split_word_in(n)}")]
            without: list[list[str]] = [[]] if any(map(is_side, there)) else []
            flags[level] = [*without, meant] if unclear else without
    undecided = {level for level in flags if not all(map(is_side, names[level]))}
    options: dict[int, set[str]] = {}
    for level, there in enumerate(names):
        if level in flags:
            options[level] = {"split"}
        elif len(there) > 1 and _pairs_up(deep, level):
            options[level] = {"modality"} if all(map(_names_modality, there)) else {"modality", "class", "group"}
        else:
            options[level] = {"class", "group"} if len(there) > 1 or depth == 1 else {"skip"}
    possible = product(*(sorted(options[level]) for level in range(depth)))
    readings = [words for words in possible if "class" in words and _distinct(words)]
    shallow = len(files) - depths[depth]
    if len(readings) == 1 and not undecided and 2 * shallow < len(files):
        return "/".join(readings[0])
    shown = "; ".join(
        f"level {i + 1}: {', '.join(n[:4])}{' ...' if len(n) > 4 else ''}" for i, n in enumerate(names)
    )
    if not readings:
        raise DataError(
            f"Expected a folder per class in {where}, but images are {depth} folders deep, such as {example!r}, "
            f"and no level can be the class ({shown}). Make folders of classes, or list the images in a CSV; "
            "if the folders are what they do not look like, name them with --levels, such as --levels class."
        )
    lines = []
    for words in readings:
        for more in product(*(flags[level] for level in undecided)):
            told = shlex.join(["--levels", "/".join(words), *(w for one in more for w in one)])
            lines.append(f"  {told}    {_spoken(words, names, is_side, dict(_side_flags(more)))}")
    raise DataError(
        f"Expected folders of one meaning in {where}, but images are {depth} folders deep, such as {example!r}, "
        f"and the meaning is ambiguous ({shown}). Choose one:\n" + "\n".join(lines)
    )


def _distinct(words: Sequence[str]) -> bool:
    known = [word for word in words if word != "skip"]
    return len(set(known)) == len(known)


def _side_flags(more: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    pairs = (word.rpartition("=") for one in more for word in one if word != "--side")
    return [(name, side) for name, _, side in pairs]


def _spoken(
    words: Sequence[str], names: Sequence[Sequence[str]], is_side: Callable[[str], bool], said: Mapping[str, str]
) -> str:
    """A reading in words."""
    parts = []
    for word, there in zip(words, names, strict=True):
        if word == "split":
            gone = [n for n in there if not is_side(n) and n not in said]
            parts += [f"{n} is {side}" for n, side in said.items()]
            parts += [f"{', '.join(gone)} left out"] if gone else []
        elif word != "skip":
            kind = {"class": "classes", "modality": "images of one cell", "group": "donors or slides"}[word]
            parts.append(f"{', '.join(there[:3])}{' ...' if len(there) > 3 else ''} are {kind}")
    return "; ".join(parts)


def _pairs_up(files: Sequence[PurePosixPath], level: int) -> bool:
    """Whether most images have one of the same name in every other folder of this level."""
    cells: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in files:
        rest = (*path.parts[:level], *path.parts[level + 1 : -1], path.stem)
        cells[rest].add(path.parts[level])
    sizes = Counter(name for names in cells.values() for name in names)
    full = sum(len(names) == len(sizes) for names in cells.values())
    return 2 * full > max(sizes.values())
