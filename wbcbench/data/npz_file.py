"""An .npz file of plain arrays: shapes and dtypes are read from its headers, arrays only on request."""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from wbcbench.contracts.dataset import SPLITS
from wbcbench.data.cache import file_digest
from wbcbench.data.formats import refuse_foreign
from wbcbench.data.labels import Layout, check_names, distinct_names, find_layout
from wbcbench.errors import DataError, did_you_mean
from wbcbench.files import ARRAYS

Array = np.ndarray[Any, np.dtype[Any]]


_LARGE = 1 << 30
_DENSEST = 200
"""Bytes that a compressed one may become in a large array: zeros become a thousand."""

_MOST_CELLS = 50_000_000


@dataclass(frozen=True)
class Header:
    """Shape and dtype of one stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class NpzFile:
    """The arrays of one file, by name.

    Raises:
        DataError: the file is missing, not a zip or truncated, or a member is not an array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_foreign(path, "an .npz file")
        try:
            there = path.is_file()
        except OSError as error:  # an invalid file name
            raise DataError(
                f"Expected an .npz file, but {str(path)!r}: {error.strerror}. Set dataset.path."
            ) from error
        if not there:
            what = "a folder" if path.is_dir() else "missing"
            raise DataError(f"Expected an .npz file, but {str(path)!r} is {what}. Set dataset.path to one.")
        try:
            self.digest = file_digest(path)
            """Hex SHA-256 of the whole file."""
            with zipfile.ZipFile(path) as archive:
                self.headers = {
                    info.filename.removesuffix(".npy"): _header(archive, info)
                    for info in archive.infolist()
                    if info.filename.endswith(".npy")
                }
        except ARRAYS as error:
            raise self._broken(error) from error
        self.members = frozenset(self.headers)
        """Names of the stored arrays."""

    def stored(self, names: Iterable[str]) -> set[str]:
        """The stored arrays that these names read."""
        return set(self.members) & set(names)

    def _broken(self, error: Exception) -> DataError:
        return DataError(
            f"Expected a valid .npz file of arrays, but {self.path} cannot be read "
            f"({error or type(error).__name__}). Save it again with numpy.savez."
        )

    def header(self, name: str, purpose: str) -> Header:
        """The header of an array that must exist and hold plain values. Raises `DataError`."""
        if name not in self.headers:
            raise DataError(
                f"Expected array {name!r} for {purpose} in {self.path}, but it has "
                f"{', '.join(sorted(self.headers)) or 'none'}.{did_you_mean(name, self.headers)} "
                "Set the right name in the data set's parameters."
            )
        header = self.headers[name]
        if header.dtype.hasobject:
            raise DataError(
                f"Expected array {name!r} of {self.path} as plain numbers or text, but it holds Python "
                "objects, which are never unpickled. Save it with .astype(str) or as numbers."
            )
        return header

    def read(self, name: str, purpose: str) -> Array:
        """Decode one array. Raises `DataError`."""
        header = self.header(name, purpose)
        if len(header.shape) == 1 and header.shape[0] > _MOST_CELLS:
            raise DataError(
                f"Expected one of the {purpose} per cell, but {name!r} of {self.path} has {header.shape[0]:,} "
                f"values; at most {_MOST_CELLS:,} cells are read."
            )
        needed, there = math.prod(header.shape) * header.dtype.itemsize, _memory()
        if needed > there:
            raise DataError(
                f"Expected arrays that fit into memory, but {name!r} of {self.path} has {needed / 2**30:.0f} GB "
                f"and this machine {there / 2**30:.0f}. Save smaller or fewer images, or files and a manifest."
            )
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                array: Array = archive[name]
        except ARRAYS as error:
            raise self._broken(error) from error
        if array.dtype.kind == "U" and array.nbytes:
            # numpy does not look, and Python's error would be none of ours
            codes = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).view(np.uint32)
            if int(codes.max()) > sys.maxunicode:
                raise self._broken(ValueError(f"array {name!r} holds text that is not Unicode"))
        return array


class MedMnist(NpzFile):
    """A file in MedMNIST's layout: `image`, `label` and `split` are joined from its six arrays.

    Raises:
        DataError: one of the six is missing, or their shapes do not match.
    """

    def __init__(self, path: Path, image: str, label: str, split: str) -> None:
        super().__init__(path)
        self._image, self._label, self._split = image, label, split
        missing = [f"{s}_{w}" for s in SPLITS for w in ("images", "labels") if f"{s}_{w}" not in self.headers]
        if missing:
            raise DataError(
                f"Expected MedMNIST's six arrays in {path}, but {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing. Save all six."
            )
        rows = []
        for side in SPLITS:
            images, labels = (self.header(f"{side}_{w}", f"MedMNIST's {w}") for w in ("images", "labels"))
            if images.shape[:1] != labels.shape[:1]:
                raise DataError(
                    f"Expected one label for each of the {images.shape[:1]} {side} images of {path}, "
                    f"but {side}_labels is {list(labels.shape)}."
                )
            rows.append(images.shape[0])
        shapes = {self.headers[f"{s}_images"].shape[1:] for s in SPLITS}
        if len(shapes) != 1:
            raise DataError(f"Expected MedMNIST images of one shape in {path}, but got {sorted(shapes)}.")
        total, first = sum(rows), self.headers["train_images"]
        labels = self.headers["train_labels"]
        self._rows = rows
        self.headers |= {
            image: Header((total, *shapes.pop()), first.dtype),
            label: Header((total, *labels.shape[1:]), labels.dtype),
            split: Header((total,), np.dtype("<U5")),
        }

    def stored(self, names: Iterable[str]) -> set[str]:
        """See `NpzFile.stored`."""
        made = {self._image: "images", self._label: "labels"}
        parts = {f"{side}_{made[name]}" for name in names if name in made for side in SPLITS}
        return super().stored({*names, *parts})

    def read(self, name: str, purpose: str) -> Array:
        """Decode one array, or join the three arrays of a virtual name. Raises `DataError`."""
        if name == self._split:
            return np.repeat(np.array(SPLITS), self._rows)
        stem = {self._image: "images", self._label: "labels"}.get(name)
        if stem is None:
            return super().read(name, purpose)
        return np.concatenate([super(MedMnist, self).read(f"{s}_{stem}", purpose) for s in SPLITS])


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def open_npz(path: Path, image: str, label: str, split: str) -> NpzFile:
    """Open a file in either layout; MedMNIST's is recognised by `train_images`. Raises `DataError`."""
    file = NpzFile(path)
    if "train_images" in file.headers and image not in file.headers:
        return MedMnist(path, image, label, split)
    return file


@dataclass(frozen=True)
class Pick:
    """Where one modality's pixels are."""

    array: str
    channels: tuple[int, ...]
    axis: int
    """Of the channels; 0 if there is none."""
    side: int
    """0: an array [N, F] of numbers, which are the channels."""

    def __repr__(self) -> str:  # part of the fingerprints of data sets since before this class had its name
        return f"_Pick(array={self.array!r}, channels={self.channels!r}, axis={self.axis!r}, side={self.side!r})"

    def take(self, array: Array) -> Array:
        """[N, C, S, S] of the modality, or [N, F] of numbers, from its whole array."""
        stack = array[:, None] if self.axis == 0 else np.moveaxis(array, self.axis, 1)
        return stack[:, list(self.channels)]


Picks = Mapping[str, Sequence[int] | str]
"""Modality -> channel indices of the image array, or the name of an array of its own."""


def find_picks(
    file: NpzFile, wanted: Picks, image: str, layout: Layout, count: int | None = None
) -> dict[str, Pick]:
    """Where the pixels of each modality are; of all modalities of the image array if none are named.

    Args:
        image: the array that channel indices refer to.
        count: expected number of images; None: any.

    Raises:
        DataError: a missing array, another number of images, or channels that it does not have.
    """
    wanted = dict(wanted) or _by_default(file, image, layout)
    check_names(wanted)
    picks = {}
    for name, pick in wanted.items():
        array = pick if isinstance(pick, str) else image
        header = file.header(array, f"modality {name!r}")
        if count is not None and header.shape[:1] != (count,):
            raise DataError(
                f"Expected {count} images in array {array!r} of {file.path}, one per label, "
                f"but it is {list(header.shape)}."
            )
        if isinstance(pick, str) and len(header.shape) == 2:
            picks[name] = _numbers(file, array, header)
            continue
        axis, channels, side = find_layout(header.shape, layout, f"in array {array!r}")
        chosen = tuple(range(channels)) if isinstance(pick, str) else tuple(pick)
        if not chosen or min(chosen) < 0 or max(chosen) >= channels:
            raise DataError(
                f"Expected channels of 0..{channels - 1} for modality {name!r}, but got {list(chosen)}."
            )
        picks[name] = Pick(array, chosen, axis, side)
    return picks


def _numbers(file: NpzFile, array: str, header: Header) -> Pick:
    """A modality of numbers [N, F]."""
    if header.dtype.kind not in "fiub" or not header.shape[1]:
        raise DataError(
            f"Expected {array!r} of {file.path} as numbers [N, F], but it is {header.dtype} {list(header.shape)}. "
            "Numbers are floats, in which NaN is a missing one, or integers."
        )
    return Pick(array, tuple(range(header.shape[1])), 1, 0)


def read_numbers(file: NpzFile, pick: Pick) -> Array:
    """[N, F] float32 of a modality of numbers. Raises `DataError` for what float32 cannot hold."""
    with np.errstate(over="ignore"):
        numbers = file.read(pick.array, "numbers").astype(np.float32)
    if np.isinf(numbers).any():
        row, column = np.argwhere(np.isinf(numbers))[0]
        raise DataError(
            f"Expected finite numbers in array {pick.array!r} of {file.path}, or NaN for missing ones, but row "
            f"{row} has an infinite one in column {column}."
        )
    return numbers


def _by_default(file: NpzFile, image: str, layout: Layout) -> dict[str, Sequence[int] | str]:
    header = file.header(image, "images")
    _, count, _ = find_layout(header.shape, layout, f"in array {image!r}")
    if "channels" in file.headers:
        originals = file.read("channels", "channel names").reshape(-1)
        if len(originals) == count:
            names = distinct_names(map(str, originals.astype(str)), f"`channels` of {file.path}")
            return {name: [i] for i, name in enumerate(names)}
    if count in (1, 3):
        return {"image": list(range(count))}
    return {f"channel{i}": [i] for i in range(count)}


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    with archive.open(info) as member:
        version = npy.read_magic(member)
        # numpy has no public reader for version 3 (names in UTF-8), which only structured arrays use.
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = reader(member)
        claimed = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or (not dtype.hasobject and claimed != info.file_size - member.tell()):
            # numpy would allocate what the header claims before reading.
            raise ValueError(f"{info.filename} claims {list(shape)} of {dtype}, but has {info.file_size:,} bytes")
        if claimed > _LARGE and claimed > _DENSEST * info.compress_size:
            raise ValueError(
                f"{info.filename} would unpack {info.compress_size / 2**20:.0f} MB to {claimed / 2**30:.1f} "
                "GB, which no images do"
            )
        return Header(shape, dtype)
