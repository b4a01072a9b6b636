"""Untrusted zip files: their directory is checked before anything is unpacked; then they are read in pieces."""

from __future__ import annotations

import re
import stat
import struct
import tokenize
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.publishing.verdict import Problem

CHUNK = 1 << 20
_END = struct.Struct("<4s4H2LH")
"""End of the directory: signature, this disk, its disk, entries here, entries, size, offset, comment length."""
_ENTRY_MAX = 512
"""Largest size of a directory entry in bytes; names in packs are short."""
_LOCAL_HEADER = 30
_PLAIN_RATIO_BELOW = 64 << 10
"""Below this size, files may have any compression ratio."""


@dataclass(frozen=True)
class Limits:
    """Limits of a pack, in bytes unless stated otherwise."""

    pack: int = 2 << 30
    """Size of the file."""
    total: int = 2 << 30
    """Size of all its content, unpacked."""
    entries: int = 10_001
    """Number of files: enough for two thousand records. A zip without 64-bit fields can have 65,535."""
    ratio: float = 100.0
    """Unpacked size over packed size, for files above 64 KiB."""
    arrays: int = 512 << 20
    """Size of all arrays of one record."""
    cells: int = 5_000_000
    classes: int = 1000


OWN = Limits(entries=50_001)
"""Limits of a published board's records, which its maintainer collected: enough for ten thousand."""


def open_archive(path: Path, limits: Limits) -> tuple[zipfile.ZipFile | None, list[Problem]]:
    """Open a zip if its directory is small and ends with the file.

    zipfile reads the whole directory into memory, whatever its stated length, so the length is checked first.
    """
    size = path.stat().st_size
    if size > limits.pack:
        return None, [("refuse", f"the file has {size:,} bytes; {limits.pack:,} are allowed")]
    with open(path, "rb") as file:
        file.seek(max(0, size - _END.size))
        tail = file.read()
    if len(tail) < _END.size or not tail.startswith(b"PK\x05\x06"):
        return None, [("refuse", "is not a zip file, or has something after its end")]
    _, disk, first, here, entries, length, offset, comment = _END.unpack(tail)
    if disk or first or here != entries or comment or offset + length + _END.size != size:
        return None, [("refuse", "its directory does not end with the file (disks, comment, 64-bit sizes)")]
    if entries > limits.entries or length > entries * _ENTRY_MAX:
        stated = f"{entries} files in a directory of {length:,} bytes; {limits.entries} files are allowed"
        return None, [("refuse", f"states that it has {stated}")]
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return None, [("refuse", f"cannot be opened ({error})")]
    return archive, [] if len(archive.infolist()) == entries else [("refuse", "states a wrong number of files")]


def overlaps(archive: zipfile.ZipFile) -> Iterator[Problem]:
    """Files that share bytes (as in zip bombs), and bytes before the first file."""
    at = 0
    for info in sorted(archive.infolist(), key=lambda i: i.header_offset):
        if info.header_offset < at:
            yield "refuse", f"{info.filename} overlaps the file before it"
        elif at == 0 and info.header_offset:
            yield "refuse", "has something before its first file"
        at = info.header_offset + _LOCAL_HEADER + len(info.orig_filename) + info.compress_size


def names(archive: zipfile.ZipFile, allowed: Callable[[str], int | None]) -> Iterator[Problem]:
    """Names that are not allowed in this kind of archive, and names that are equal on some file systems."""
    seen: Counter[str] = Counter()
    for info in archive.infolist():
        name = info.orig_filename  # `filename` is cut at a NUL, and has its separators normalised
        seen[name.casefold()] += 1
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in name:
            yield "refuse", f"{name} points outside the folder"
        elif allowed(name) is None or name != info.filename:
            yield "refuse", f"{name} does not belong here"
    for name, count in seen.items():
        if count > 1:
            yield "refuse", f"{name} occurs {count} times (many systems do not distinguish upper and lower case)"


def kinds(archive: zipfile.ZipFile) -> Iterator[Problem]:
    """Links, folders, devices, encryption, unusual compression."""
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if info.is_dir() or (stat.S_IFMT(mode) and not stat.S_ISREG(mode)):
            kind = "a link" if stat.S_ISLNK(mode) else "not a plain file"
            yield "refuse", f"{info.filename} is {kind}"
        if info.flag_bits & 0x1:
            yield "refuse", f"{info.filename} is encrypted"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield "refuse", f"{info.filename} is compressed by method {info.compress_type}; store or deflate it"


def sizes(archive: zipfile.ZipFile, allowed: Callable[[str], int | None], limits: Limits) -> Iterator[Problem]:
    """Files that are too large, or have too high a compression ratio."""
    for info in archive.infolist():
        limit = allowed(info.filename)
        if limit is not None and info.file_size > limit:
            yield "refuse", f"{info.filename} unpacks to {info.file_size:,} bytes; {limit:,} are allowed"
        if info.file_size > _PLAIN_RATIO_BELOW and info.file_size > limits.ratio * max(1, info.compress_size):
            yield (
                "refuse",
                f"{info.filename} unpacks to {info.file_size / max(1, info.compress_size):.0f} times its size; "
                f"{limits.ratio:g} times are allowed",
            )
    total = sum(info.file_size for info in archive.infolist())
    if total > limits.total:
        yield "refuse", f"unpacks to {total:,} bytes in all; {limits.total:,} are allowed"


def pieces(file: IO[bytes], limit: int) -> Iterator[bytes]:
    """The content of an open member, never more than `limit` bytes, whatever its directory entry states.

    Raises:
        ValueError: there are more than `limit` bytes.
        zipfile.BadZipFile: the checksum differs.
    """
    read = 0
    while piece := file.read(CHUNK):
        read += len(piece)
        if read > limit:
            raise ValueError(f"unpacks to more than the {limit:,} bytes that are allowed")
        yield piece


_NAME = re.compile(r"((test|val)_(probabilities|labels|cells)|test_groups|test_route_[A-Za-z0-9_.+-]{1,64})\.npy")
_HEADER_MAX = 10_000
"""Largest size of an array's header in bytes: numpy parses it as a Python literal, which takes time."""


def check_arrays(path: Path, limits: Limits) -> Iterator[Problem]:
    """Problems of the arrays of a file, from its directory and their headers; loads no array."""
    archive, problems = open_archive(path, limits)
    yield from problems
    if archive is None or problems:
        return

    def allowed(name: str) -> int | None:
        return limits.arrays if _NAME.fullmatch(name) else None

    with archive:
        outer = [*overlaps(archive), *names(archive, allowed), *kinds(archive), *sizes(archive, allowed, limits)]
        yield from outer
        if outer:
            return
        total = 0
        for info in archive.infolist():
            with archive.open(info) as member:
                try:
                    shape, dtype, header = _header(member)
                except (
                    ValueError, EOFError, SyntaxError, TypeError, MemoryError, RecursionError, tokenize.TokenError,
                ) as error:  # fmt: skip
                    yield "refuse", f"{info.filename} has no valid array header ({error})"
                    continue
            yield from _judge(info, shape, dtype, header, limits)
            total += info.file_size
        if total > limits.arrays:
            yield "refuse", f"its arrays have {total:,} bytes; {limits.arrays:,} are allowed"


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and length of the header. Only version 1, which `wbcbench` writes."""
    version = np.lib.format.read_magic(member)  # type: ignore[no-untyped-call]
    if version != (1, 0):
        raise ValueError(f"its format is {version}, not (1, 0)")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member, max_header_size=_HEADER_MAX)  # type: ignore[no-untyped-call]
    if fortran and len(shape) > 1:
        raise ValueError("it is in Fortran order")
    return shape, dtype, member.tell()


def _judge(
    info: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype[Any], header: int, limits: Limits
) -> Iterator[Problem]:
    name = info.filename.removesuffix(".npy")
    whole = name.endswith(("_labels", "_cells", "_groups"))
    wanted = np.dtype("<i8") if whole else np.dtype("<f4")
    if dtype.hasobject:
        yield "refuse", f"{name} is an array of Python objects, which would have to be unpickled"
        return
    if dtype != wanted:
        yield "refuse", f"{name} is {dtype}, not {wanted}"
    if len(shape) != (1 if whole else 2):
        yield "refuse", f"{name} has shape {list(shape)}, not {'[N]' if whole else '[N, K]'}"
        return
    if not 0 < shape[0] <= limits.cells or (not whole and not 1 < shape[1] <= limits.classes):
        yield "refuse", f"{name} has shape {list(shape)}; N <= {limits.cells:,} and K <= {limits.classes:,}"
        return
    claimed = dtype.itemsize * shape[0] * (1 if whole else shape[1])
    if info.file_size - header != claimed:
        yield "refuse", f"{name} states {claimed:,} bytes, but {info.file_size - header:,} follow its header"


def by_cell(arrays: Mapping[str, NDArray[Any]], side: str) -> NDArray[np.int64]:
    """The order [N] that sorts a side's cells by id, so that a shuffled copy is detected, too."""
    return np.argsort(arrays[f"{side}_cells"], kind="stable")


__all__ = [
    "OWN", "Limits", "by_cell", "check_arrays", "kinds", "names", "open_archive", "overlaps", "pieces", "sizes"
]  # fmt: skip
