"""Cells in an .npz file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.data.channels import find_layout
from wbcbench.data.npz_file import NpzFile, open_npz
from wbcbench.data.pixels import to_integers
from wbcbench.data.resize import resize_stack
from wbcbench.errors import DataError
from wbcbench.inference.source import Array, Wanted


@dataclass(frozen=True)
class _Pick:
    array: str
    channels: tuple[int, ...]
    axis: int


class NpzCells:
    """One array a modality, named after it, or the channels that the modality had in training. See `Source`.

    Labels are optional; the split is not looked at: every row is a cell.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        """Reads the arrays whole. Raises `DataError`."""
        params = wanted.params if wanted.dataset == "npz" else {}
        image, label = str(params.get("image", "image")), str(params.get("label", "label"))
        file = open_npz(path, image, label, str(params.get("split", "split")))
        self.where, self._wanted, self.notes = str(path), wanted, list[str]()
        picks = {m: p for m in wanted.modalities if (p := _pick(file, m, wanted, params, image)) is not None}
        if not picks:
            raise DataError(
                f"Expected arrays named {', '.join(wanted.modalities)} in {path}, or '{image}' with their "
                f"channels, but it has {', '.join(sorted(file.headers))}."
            )
        raw = {name: self._array(file, name) for name in dict.fromkeys(p.array for p in picks.values())}
        count = {len(a) for a in raw.values()}
        if len(count) != 1:
            raise DataError(f"Expected as many images of every modality in {path}, but got {sorted(count)}.")
        (n,) = count
        self._images = {m: _take(raw[p.array], p) for m, p in picks.items()}
        for m, stack in self._images.items():
            self._fit(m, stack)
        self.names = tuple(f"row {i}" for i in range(n))
        self.labels = _labels(file, label, n)
        self.present = np.array([[m in picks for m in wanted.modalities]] * n, dtype=np.bool_)

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """See `Source.read`."""
        out = self._wanted.blank(stop - start)
        for m, stack in self._images.items():
            out[m][:] = resize_stack(stack[start:stop], self._wanted.side)
        return out

    def _array(self, file: NpzFile, name: str) -> Array:
        array, note = to_integers(file.read(name, "images"), f"array {name!r}")
        self.notes += [note] if note else []
        return array

    def _fit(self, modality: str, stack: Array) -> None:
        wanted = self._wanted
        if stack.shape[1] != wanted.channels(modality):
            raise DataError(
                f"Expected {modality} with {wanted.channels(modality)} channels in {self.where}, but got "
                f"{stack.shape[1]}."
            )
        if stack.dtype != wanted.dtype(modality):
            raise DataError(
                f"Expected {modality} as {np.dtype(wanted.dtype(modality))}, as in training, but {self.where} has "
                f"{stack.dtype}. Convert it with the window that the training images were converted with."
            )
        if stack.shape[2] != wanted.side:
            self.notes.append(f"{modality}: {stack.shape[2]} pixels were resized to {wanted.side}.")


def _pick(file: NpzFile, modality: str, wanted: Wanted, params: Any, image: str) -> _Pick | None:
    said = params.get("modalities", {}).get(modality)
    array = modality if modality in file.headers else said if isinstance(said, str) else image
    if array not in file.headers:
        return None
    header = file.header(array, f"modality {modality!r}")
    axis, count, _ = find_layout(header.shape, params.get("layout", "auto"), f"in array {array!r}")
    named = array == modality or isinstance(said, str)
    if named or (said is None and count == wanted.channels(modality) and len(wanted.modalities) == 1):
        return _Pick(array, tuple(range(count)), axis)
    if said is None or max(said) >= count:
        return None
    return _Pick(array, tuple(said), axis)


def _take(array: Array, pick: _Pick) -> Array:
    stack = array[:, None] if pick.axis == 0 else np.moveaxis(array, pick.axis, 1)
    return stack[:, list(pick.channels)]


def _labels(file: NpzFile, name: str, count: int) -> tuple[str, ...] | None:
    if name not in file.headers:
        return None
    raw = file.read(name, "labels").reshape(-1)
    if len(raw) != count:
        raise DataError(f"Expected {count} labels in {file.path}, one a cell, but got {len(raw)}.")
    if raw.dtype.kind in "US" or "classes" not in file.headers:
        return tuple(str(v).strip() for v in raw.tolist())
    classes = file.read("classes", "class names").astype(str).reshape(-1)
    return tuple(str(classes[int(v)]) if 0 <= int(v) < len(classes) else "" for v in raw.tolist())


__all__ = ["NpzCells"]
