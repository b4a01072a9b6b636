"""Names of modalities, and where the channels of an image stack are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from wbcbench.errors import DataError

Layout = Literal["auto", "channels_last", "channels_first"]
_NAME = re.compile(r"[A-Za-z0-9_]+")


def sanitise(name: str) -> str:
    """Lower case with everything but letters and digits as single underscores: `PI (DNA)` -> `pi_dna`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def distinct_names(originals: Iterable[str], where: str) -> list[str]:
    """Sanitise names that a file gives. Raises `DataError` if one becomes empty or two become equal."""
    names: dict[str, str] = {}
    for original in originals:
        name = sanitise(original)
        if not name or name in names:
            why = f"becomes {name!r} as {names[name]!r} does" if name else "has no letter or digit of a-z, 0-9"
            raise DataError(
                f"Expected distinct names of modalities in {where}, but {original!r} {why}. "
                "Name the modalities yourself with dataset.modalities.<name>=..."
            )
        names[name] = original
    return list(names)


def check_names(names: Iterable[str]) -> None:
    """Raise `DataError` for a modality name that could not stand in an option or a file name."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise DataError(
                f"Expected names of modalities of letters, digits and '_', but got {name!r}. "
                f"Try {sanitise(name) or 'image'!r}."
            )


def find_layout(shape: tuple[int, ...], layout: Layout, what: str) -> tuple[Literal[0, 1, 3], int, int]:
    """Where a stack has its channels: (axis, or 0 for [N, S, S] without one; channels; side in pixels).

    Raises:
        DataError: not square, not three- or four-dimensional, or ambiguous.
    """
    advice = "Crop or pad the images to squares; with channels set dataset.layout."
    if len(shape) == 3:
        if shape[1] != shape[2]:
            raise DataError(f"Expected square images {what} [N,S,S], but got {list(shape)}. {advice}")
        return 0, 1, shape[1]
    if len(shape) != 4:
        raise DataError(f"Expected images {what} as [N,S,S], [N,S,S,C] or [N,C,S,S], but got {list(shape)}.")
    last = shape[1] == shape[2] and layout != "channels_first"
    first = shape[2] == shape[3] and layout != "channels_last"
    if last and first:
        raise DataError(
            f"Expected [N,S,S,C] or [N,C,S,S] for {what}, but {list(shape)} may be either. "
            "Set dataset.layout to channels_last or channels_first."
        )
    if not (last or first):
        wanted = {"auto": "[N,S,S,C] or [N,C,S,S]", "channels_last": "[N,S,S,C]", "channels_first": "[N,C,S,S]"}
        raise DataError(f"Expected square images {what} {wanted[layout]}, but got {list(shape)}. {advice}")
    return (3, shape[3], shape[1]) if last else (1, shape[1], shape[2])
