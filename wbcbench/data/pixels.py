"""Pixel values as `Cells` holds them: uint8 or uint16, whatever the array was saved as."""

from __future__ import annotations

from typing import Any

import numpy as np

from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


def to_integers(a: Array, what: str) -> tuple[Array, str | None]:
    """Return `a` as uint8 or uint16, and a note if values were scaled or rounded.

    Floats must lie in [0, 1] (scaled by 255) or [0, 255] (rounded); whole numbers of other types must fit
    16 bits; booleans become 0 and 255.

    Raises:
        DataError: NaN, infinity, values outside those ranges, or a type that holds no pixels.
    """
    if a.dtype in (np.uint8, np.uint16):
        return a, None
    if a.dtype.kind == "b":
        return a.astype(np.uint8) * np.uint8(255), None
    if a.dtype.kind not in "iuf":
        raise DataError(f"Expected {what} as numbers, but it is {a.dtype}. Convert it to uint8.")
    low, high = (a.min(), a.max()) if a.size else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(
            f"Expected finite pixels in {what}, but {int((~np.isfinite(a)).sum())} are NaN or infinite. "
            "Fill them, or leave those cells out."
        )
    if a.dtype.kind in "iu":
        if low < 0 or high > 65535:
            raise DataError(
                f"Expected whole numbers of at most 16 bits in {what}, but they run from {low} to {high}. "
                "Scale them to 0..255 with a fixed window and save uint8."
            )
        return a.astype(np.uint8 if high <= 255 else np.uint16), None
    if low < 0 or high > 255:
        raise DataError(
            f"Expected floats in [0, 1] or [0, 255] in {what}, but they run from {low:g} to {high:g}. "
            "Scale them with one fixed window for all cells (not cell by cell, which would erase "
            "absolute intensity) and save uint8 or uint16."
        )
    if high <= 1:
        return np.rint(a * 255).astype(np.uint8), f"{what}: floats in [0, 1] were scaled to 0..255."
    return np.rint(a).astype(np.uint8), f"{what}: floats in [0, 255] were rounded."
