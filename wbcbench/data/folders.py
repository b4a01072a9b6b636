"""Image files in a folder or a zip, and folder names that encode classes, modalities and splits."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import numpy as np

from wbcbench.contracts.dataset import Account, content_digest
from wbcbench.data.cache import file_digest, file_stamp, recall, remember
from wbcbench.data.csv_table import SUFFIXES, Manifest
from wbcbench.data.formats import foreign_among, refuse_foreign
from wbcbench.data.labels import distinct_names, join_spellings, side_of, spelling_notes, split_word_in
from wbcbench.errors import DataError


@dataclass(frozen=True)
class Listing:
    """Everything below a folder or in a zip. Paths are relative, with forward slashes."""

    seen: int
    """Number of files, and of links and folders that cannot be followed."""
    files: list[str]
    """Sorted; without those in `skipped`."""
    skipped: list[tuple[str, str]]
    """(reason, path) of what is never read: hidden, linked folders, names that no manifest can hold."""
    folders: list[str]
    """Sorted, without hidden ones, empty ones included."""


HIDDEN, LINK = "hidden", "linked folders that are not followed"
CLOSED, NAME = "folders that cannot be opened", "with a name that cannot be read"


_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")


def _sort_out(paths: Iterable[str], skipped: list[tuple[str, str]]) -> list[str]:
    """The paths that are read, sorted; the others are added to `skipped`."""
    files = []
    for path in paths:
        if any(part.startswith((".", "__MACOSX")) for part in path.split("/")):
            skipped.append((HIDDEN, path))
        elif _UNREADABLE.search(path) or path != path.strip():
            skipped.append((NAME, ascii(path)))
        else:
            files.append(path)
    return sorted(files)


class FileSource(ABC):
    """Files by relative path. Use in a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def stamps(self, names: Iterable[str]) -> list[object]:
        """One value per file (missing: None), or one for all, which changes whenever the content may have."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The file's bytes. Raises `FileNotFoundError`, or `OSError` if the file is damaged."""

    @abstractmethod
    def listing(self) -> Listing:
        """All files and folders, and what is skipped."""

    def close(self) -> None:  # noqa: B027 - a folder has nothing to close
        """Close open files."""


class FolderSource(FileSource):
    """Files below a folder; absolute paths are used unchanged."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def stamps(self, names: Iterable[str]) -> list[object]:
        """(size, mtime_ns) per file."""
        return [self._stamp(name) for name in names]

    def _stamp(self, name: str) -> tuple[int, int] | None:
        try:
            return file_stamp(self._root / name)
        except (OSError, ValueError):
            return None

    def read(self, name: str) -> bytes:
        """See `FileSource.read`."""
        path = self._root / name
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise OSError("it is a device or a pipe, not a regular file")
            if path.is_file():
                _limit(path.stat().st_size)
            return path.read_bytes()
        except ValueError as error:  # the name contains a null byte
            raise FileNotFoundError(name) from error

    def listing(self) -> Listing:
        """See `FileSource.listing`."""
        paths: list[str] = []
        skipped: list[tuple[str, str]] = []
        folders: list[str] = []

        def closed(error: OSError) -> None:
            skipped.append((CLOSED, Path(str(error.filename)).relative_to(self._root).as_posix()))

        for folder, below, files in os.walk(self._root, onerror=closed):
            at = Path(folder).relative_to(self._root)
            links = [name for name in below if (Path(folder) / name).is_symlink()]
            skipped += [(LINK, (at / name).as_posix()) for name in links]
            folders += [(at / name).as_posix() for name in below if name not in links]
            paths += [(at / name).as_posix() for name in files]
        seen = len(paths) + len(skipped)
        hidden = [f for f in folders if any(part.startswith(".") for part in f.split("/"))]
        return Listing(seen, _sort_out(paths, skipped), skipped, sorted(set(folders) - set(hidden)))


class ZipSource(FileSource):
    """Entries of a zip, which is opened on first read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None

    def stamps(self, names: Iterable[str]) -> list[object]:
        """The digest of the whole zip."""
        return [file_digest(self._path)]

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None:
            try:
                self._archive = zipfile.ZipFile(self._path)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(
                    f"Expected a valid zip at {self._path}, but it cannot be read ({error}). Create it again."
                ) from error
        return self._archive

    def read(self, name: str) -> bytes:
        """See `FileSource.read`."""
        archive = self._opened()
        try:
            _limit(archive.getinfo(name).file_size)
            return archive.read(name)
        except KeyError as error:
            raise FileNotFoundError(name) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise OSError(f"its zip entry is damaged: {error}") from error

    def listing(self) -> Listing:
        """See `FileSource.listing`; files that macOS adds to zips count as hidden."""
        entries = self._opened().namelist()
        names = [name for name in entries if not name.endswith("/")]
        skipped = [("repeated in the zip", name) for name, n in Counter(names).items() for _ in range(n - 1)]
        folders = {str(parent) for name in entries for parent in PurePosixPath(name + "x").parents} - {"."}
        shown = {f for f in folders if not any(part.startswith((".", "__MACOSX")) for part in f.split("/"))}
        return Listing(len(names), _sort_out(dict.fromkeys(names), skipped), skipped, sorted(shown))

    def close(self) -> None:
        """Close the zip."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None


def refuse_if_absent(source: FileSource, names: Sequence[str], root: Path) -> None:
    """Raise `DataError` if none of the first thousand of many files is there, before all are looked for."""
    if len(names) > 1000 and not any(source.stamps(names[:1000])):
        raise DataError(
            f"Expected images below {root}, but none of the first 1,000 of {len(names):,} exists, such as "
            f"{names[0]!r}. Paths are relative to it: set another folder with dataset.root or --root."
        )


MAX_FILE = 1 << 30
"""Bytes of an image file; a zip states what an entry unpacks to."""


def _limit(size: int) -> None:
    if size > MAX_FILE:
        raise OSError(f"it has {size / 2**30:.1f} GB; image files of up to {MAX_FILE >> 30} GB are read")


def open_source(root: Path) -> FileSource:
    """A folder or a zip. Raises `DataError` for anything else."""
    refuse_foreign(root, "a folder or a .zip of images")
    if root.is_dir():
        return FolderSource(root)
    if root.is_file() and zipfile.is_zipfile(root):
        return ZipSource(root)
    what = "a file, not a zip" if root.is_file() else "missing"
    raise DataError(f"Expected a folder or a .zip of images, but {str(root)!r} is {what}. Set dataset.root.")


_SHELF = "copies"
_SUFFIX = re.compile(r"\.[a-z0-9_]{1,10}")
_CHANNEL = re.compile(r"_ch\d+(\.ome)?\.\w+$", re.IGNORECASE)


@dataclass(frozen=True)
class ImageFiles:
    """The images below a folder, and everything else that is there."""

    names: list[str]
    """Relative paths, sorted."""
    left_out: list[tuple[str, str]]
    """(reason, path) of the other files."""
    seen: int
    folders: list[str]

    def account(self, used: int, left_out: Iterable[tuple[str, str]] = ()) -> Account:
        """The account of all files, of which some images may be left out too, for (reason, path)."""
        return Account.of("files", self.seen, used, [*self.left_out, *left_out])


def list_images(source: FileSource) -> ImageFiles:
    """List the images in `source`, by their suffix."""
    found = source.listing()
    names, others = [], list(found.skipped)
    for name in found.files:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in SUFFIXES:
            names.append(name)
        elif _SUFFIX.fullmatch(suffix):
            others.append((f"{suffix} not readable", name))
        else:
            others.append(("without a suffix", name))
    return ImageFiles(names, others, found.seen, found.folders)


def unite(name: str) -> str:
    """A folder's name in lower case, without spaces, hyphens and underscores: `Test-A` and `testa` match."""
    return re.sub(r"[\s_-]", "", name).lower()


def find_folder(names: Sequence[str], wanted: str) -> str | None:
    """The path of the first folder in these paths whose name matches `wanted` (see `unite`), or None."""
    for name in names:
        parts = PurePosixPath(name).parts[:-1]
        for depth, part in enumerate(parts):
            if unite(part) == unite(wanted):
                return "/".join(parts[: depth + 1])
    return None


def copied_files(source: FileSource, names: Sequence[str], root: Path) -> list[list[str]]:
    """Groups of two or more files with equal bytes, in the order of `names`; cached by sizes and times.

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
    if "class" not in words or len(set(words)) != len(words) or not set(words) <= set(LEVELS):
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
    for what, at_, joined in (("classes", 2, labels), ("groups", 1, groups or [])):
        if what in found:
            one = dict(zip((key[at_] for key in keys), joined, strict=False))
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


_MODALITY = frozenset(
    [
        "brightfield",
        "bright",
        "bf",
        "darkfield",
        "dark",
        "df",
        "phase",
        "phasecontrast",
        "ph",
        "dic",
        "dpc",
        "qpi",
        "fluorescence",
        "fluo",
        "fl",
        "dapi",
        "hoechst",
        "pi",
        "gfp",
        "rfp",
        "yfp",
        "cfp",
        "mcherry",
        "cy3",
        "cy5",
        "fitc",
        "pe",
        "apc",
        "texasred",
        "ssc",
        "fsc",
        "giemsa",
        "rgb",
        "infrared",
        "ir",
        "uv",
        "red",
        "green",
        "blue",
    ]
)
"""Words that name a modality and neither a class nor a donor, in lower case."""


def _names_modality(name: str) -> bool:
    words = re.findall(r"[a-z]+[0-9]*|[0-9]+", name.lower())
    return unite(name) in _MODALITY or any(w in _MODALITY or re.fullmatch(r"(ch|channel)\d*", w) for w in words)


def recognise_levels(files: Sequence[str], where: str, sides: Mapping[str, str] | None = None) -> str:
    """The levels of the folders, if only one reading is possible.

    A level all of whose folders are sides of a split is the split. A level is a modality if images pair up over
    its folders, and nothing else if all of them have names of modalities. Everything else is left to the user.

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
            options[level] = {"class", "group"} if len(there) > 1 or depth == 1 else {"group"}
    readings = [
        words
        for words in permutations(LEVELS, depth)
        if "class" in words and all(word in options[level] for level, word in enumerate(words))
    ] if depth <= len(LEVELS) else []  # fmt: skip
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
        else:
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
