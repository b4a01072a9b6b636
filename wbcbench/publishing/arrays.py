"""`predictions.npz` from strangers: every array's header is read and judged before any array is."""

from __future__ import annotations

import re
import tokenize
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.publishing.archive import Limits, kinds, names, open_archive, overlaps, sizes
from wbcbench.publishing.verdict import Problem

_NAME = re.compile(r"((test|val)_(probabilities|labels|cells)|test_groups|test_route_[A-Za-z0-9_.+-]{1,64})\.npy")
_HEADER_MAX = 10_000
"""Bytes of text in an array's header: numpy parses it as a Python literal, which takes time."""


def check_arrays(path: Path, limits: Limits) -> Iterator[Problem]:
    """What is wrong with the arrays of a file, by its directory and their headers; no array is loaded."""
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
                    yield "refuse", f"{info.filename} has no header of an array ({error})"
                    continue
            yield from _judge(info, shape, dtype, header, limits)
            total += info.file_size
        if total > limits.arrays:
            yield "refuse", f"its arrays have {total:,} bytes; {limits.arrays:,} are allowed"


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and length of the header. Version 1 only, as `wbcbench` writes."""
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
        yield "refuse", f"{name} claims {claimed:,} bytes, but {info.file_size - header:,} follow its header"


def by_cell(arrays: Mapping[str, NDArray[Any]], side: str) -> NDArray[np.int64]:
    """The order [N] in which a side's cells are sorted by id, so that a shuffled copy is found too."""
    return np.argsort(arrays[f"{side}_cells"], kind="stable")


__all__ = ["by_cell", "check_arrays"]
