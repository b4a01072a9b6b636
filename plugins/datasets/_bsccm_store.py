"""A BSCCM folder as its authors publish it: what is in its tables, and its images by cell and channel.

BSCCM_global_metadata.json   names of channels
BSCCM_index.csv              one row per cell: global_index, data_path, batch, antibodies, fov_center_x, ...
BSCCM_surface_markers.csv    one row per cell: measured fluorescence, and gates named selection_gated_...
BSCCM_images.zarr            <data_path>/led_array|fluor|dpc/cell_<global_index>: [C, H, W] (dpc [H, W])
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import content_digest
from wbcbench.data.cache import file_digest, file_stamp, recall, remember
from wbcbench.errors import DataError, did_you_mean, missing_extra

Array = np.ndarray[Any, np.dtype[Any]]
INDEX, MARKERS, METADATA, IMAGES = (
    "BSCCM_index.csv", "BSCCM_surface_markers.csv", "BSCCM_global_metadata.json", "BSCCM_images.zarr",
)  # fmt: skip
GATES = 10
"""Gated populations, in the order of their columns; the authors define which is which (`gate_of`)."""


@dataclass(frozen=True)
class Channels:
    """Where one modality's planes are."""

    array: str
    """led_array or fluor."""
    planes: tuple[int, ...]


class BsccmStore:
    """The tables of a BSCCM folder, read at once, and its images, read on request.

    Raises:
        DataError: a file is missing or does not match the published layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = _inside(path)
        import pandas as pd

        try:
            metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
            self.channels: dict[str, list[str]] = {
                "led_array": [str(n) for n in metadata["led_array"]["channel_names"]],
                "fluor": [str(n) for n in metadata["fluorescence"]["channel_names"]],
            }
            self.index = pd.read_csv(path / INDEX, index_col="global_index")
            markers = pd.read_csv(path / MARKERS, index_col="global_index", usecols=_gate_or_index)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"Expected the tables of BSCCM in {path} ({METADATA}, {INDEX}, {MARKERS}), but one cannot be "
                f"read: {error}. Unpack the archive again."
            ) from error
        lacking = [
            c for c in ("data_path", "fov_center_x", "fov_center_y", "batch") if c not in self.index.columns
        ]
        if lacking or len(markers.columns) != GATES:
            raise DataError(
                f"Expected the columns data_path, fov_center_x, fov_center_y and batch in {INDEX} and {GATES} "
                f"columns selection_gated_... in {MARKERS} of {path}, but "
                + (
                    f"these are missing: {', '.join(lacking)}."
                    if lacking
                    else f"the latter are {len(markers.columns)}."
                )
                + " Is it a coherent (single-LED) edition? Those are not supported."
            )
        self.gates: Array = markers.reindex(self.index.index).fillna(False).to_numpy(dtype=bool)
        """[rows of the index, 10]."""

    def find(self, names: Iterable[str], modality: str) -> Channels:
        """The planes of channels by name, all of one array. Raises `DataError`."""
        names = list(names)
        known = [n for each in self.channels.values() for n in each]
        for name in names:
            if name not in known:
                raise DataError(
                    f"Expected a channel of BSCCM for modality {modality}, but {name!r} is not one."
                    f"{did_you_mean(name, known)} Channels: {', '.join(known)}."
                )
        for array, there in self.channels.items():
            if names and set(names) <= set(there):
                return Channels(array, tuple(there.index(n) for n in names))
        raise DataError(
            f"Expected channels of the LED array or of fluorescence for modality {modality}, not both, but got "
            f"{', '.join(names) or 'none'}. Make two modalities of them."
        )

    def digest(self, rows: NDArray[np.intp], arrays: Iterable[str]) -> str:
        """Hex digest of the tables and of the stored bytes of these cells; cached by file sizes and times."""
        folders = [self._folder(row, array) for row in rows for array in sorted(set(arrays))]
        files = [f for folder in folders for f in _files(folder)]
        tables = [file_digest(self.path / name) for name in (METADATA, INDEX, MARKERS)]
        key = content_digest(
            "bsccm-1", str(self.path.resolve()), tables, [(f, *file_stamp(Path(f))) for f in files]
        )
        known = recall("bsccm", key)
        if isinstance(known, str):
            return known
        h = hashlib.sha256()
        for file in files:
            h.update(os.path.relpath(file, self.path).encode() + b"\0")
            h.update(hashlib.sha256(Path(file).read_bytes()).digest())
        digest = content_digest(tables, h.hexdigest())
        remember("bsccm", key, digest)
        return digest

    def shape(self, row: int, array: str) -> tuple[int, int, int]:
        """[C, H, W] of one cell, from the store's metadata."""
        c, h, w = self._array(_open(self.path / IMAGES), row, array).shape
        return int(c), int(h), int(w)

    def read(
        self, rows: NDArray[np.intp], picks: Mapping[str, Channels], progress: Any = None
    ) -> dict[str, Array]:
        """Modality -> [N, C, S, S], unsigned as stored. Raises `DataError`."""
        group = _open(self.path / IMAGES)
        out: dict[str, Array] = {}
        for done, row in enumerate(rows):
            for modality, pick in picks.items():
                stored = self._array(group, int(row), pick.array)
                # planes are chunks of their own: only those that are wanted are decompressed
                planes = np.stack([np.asarray(stored[plane]) for plane in pick.planes])
                if modality not in out:
                    out[modality] = np.zeros((len(rows), *planes.shape), dtype=planes.dtype)
                if planes.shape != out[modality].shape[1:] or planes.dtype != out[modality].dtype:
                    raise DataError(
                        f"Expected {modality} images {list(out[modality].shape[1:])} of {out[modality].dtype} in "
                        f"{self.path}, but cell {self.index.index[row]} is {list(planes.shape)} of {planes.dtype}."
                    )
                out[modality][done] = planes
            if progress and ((done + 1) % 200 == 0 or done + 1 == len(rows)):
                progress(done + 1, len(rows), "cells read")
        return out

    def _name(self, row: int, array: str) -> str:
        return f"{self.index['data_path'].iloc[row]}/{array}/cell_{self.index.index[row]}".lstrip("/")

    def _folder(self, row: int, array: str) -> Path:
        return self.path / IMAGES / self._name(row, array)

    def _array(self, group: Any, row: int, array: str) -> Any:
        name = self._name(row, array)
        try:
            found = group[name]
        except (KeyError, ValueError, OSError) as error:
            raise DataError(
                f"Expected the images {name} in {self.path / IMAGES}, but there are none ({error}). Unpack again."
            ) from error
        if getattr(found, "ndim", 0) != 3:
            raise DataError(f"Expected {name} of {self.path / IMAGES} as [C, H, W], but it is {found!r}.")
        return found


def gate_of(fine: bool) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names, and the class of each of the ten gates (-1: none), as the authors' package maps them."""
    if fine:
        return tuple(f"gate_{i}" for i in range(GATES)), np.arange(GATES)
    return ("lymphocyte", "granulocyte", "monocyte"), np.array([0, 1, 1, 1, -1, -1, -1, 2, 2, 2])


def _gate_or_index(column: str) -> bool:
    return column == "global_index" or "selection_gated" in column


def _inside(path: Path) -> Path:
    """The folder that holds the tables: `path`, or the one folder in it that does (as archives unpack)."""
    for folder in (path, *sorted(p for p in path.glob("*") if p.is_dir())):
        if (folder / INDEX).is_file():
            return folder
    raise DataError(
        f"Expected an unpacked BSCCM folder with {INDEX} at {str(path)!r}, but there is none. Download BSCCM, "
        "BSCCM-tiny or BSCCMNIST (DOI 10.5061/dryad.sxksn038s), unpack it, and set dataset.path to its folder."
    )


def _files(folder: Path) -> list[str]:
    return sorted(os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)


def _open(path: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise missing_extra(error) or error from None
    try:
        return zarr.open_group(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"Expected a zarr group at {path}, but it cannot be opened ({error}). Unpack it again."
        ) from error


__all__ = ["GATES", "INDEX", "BsccmStore", "Channels", "gate_of"]
