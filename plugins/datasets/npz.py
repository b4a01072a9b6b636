"""Cells from one .npz file: `image` [N,H,W,C] or [N,C,H,W], one array per modality, or MedMNIST's."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wbcbench.contracts.dataset import SPLITS, Cells, Dataset, Description, Progress, content_digest
from wbcbench.contracts.params import Parameters, param
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


class Npz(Dataset):
    """Square uint8 or uint16 images, integer or text labels; cells of no split are left out."""

    name = "npz"
    source = "numpy .npz; MedMNIST's train_images, train_labels ... is read as it is."

    class Params(Parameters):
        path: str = param("", "The .npz file.")
        modalities: dict[str, list[int] | str] = param(
            {}, "Modality -> channel indices of `image`, or the name of its own array; empty: all of `image`."
        )
        image: str = param("image", "Array of images.")
        label: str = param("label", "Array of labels [N].")
        group: str = param("group", "Array of donors or slides [N], if there is one.")
        split: str = param("split", "Array of train, val, test [N], if there is one.")
        layout: Literal["auto", "channels_last", "channels_first"] = param("auto", "Where channels are.")

    def describe(self) -> Description:
        """See `Dataset.describe`. Labels are decoded, and so are images for now."""
        cells = self.load()
        sizes = None
        if cells.split is not None:
            sizes = {s: int((cells.split == s).sum()) for s in SPLITS}
        side = next(iter(cells.images.values())).shape[2]
        return Description(cells.modalities, cells.classes, len(cells), cells.fingerprint, int(side), sizes,
                           cells.groups is not None)  # fmt: skip

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`. Raises `DataError` for a file that is absent, broken or misshapen."""
        data, fingerprint = self._read()
        p = self.params
        for name in (p.image, p.label):
            if name not in data and not all(isinstance(v, str) for v in p.modalities.values() or [0]):
                raise DataError(f"Expected array {name!r} in {p.path}, but it has {sorted(data)}. Name it.")
        if p.label not in data:
            raise DataError(f"Expected labels {p.label!r} in {p.path}, but it has {sorted(data)}. Name them.")
        raw = data[p.label].reshape(-1)
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise DataError(f"Expected a label for every cell, but {int((~np.isfinite(raw)).sum())} are NaN.")
        names, labels = np.unique(raw, return_inverse=True)
        classes = tuple(str(c) for c in names)
        if "classes" in data and raw.dtype.kind in "iuf":
            classes, labels = tuple(str(c) for c in data["classes"]), raw.astype(np.int64)
        images = self._images(data)
        keep = np.ones(len(raw), dtype=bool)
        split = data[p.split].astype(str) if p.split in data else None
        notes = []
        if split is not None:
            keep = np.isin(split, SPLITS)
            if not keep.all():
                notes.append(f"{int((~keep).sum())} cells of no split (train, val, test) were left out.")
        for name, array in images.items():
            if len(array) != len(raw):
                raise DataError(f"Expected {len(raw)} {name} images, one a label, but got {len(array)}.")
        chosen = {name: _resize(array[keep], image_size) for name, array in images.items()}
        groups = None
        if p.group in data:
            groups = np.unique(data[p.group], return_inverse=True)[1].astype(np.int64)[keep]
        ids = tuple(f"row {i}" for i in np.flatnonzero(keep))
        return Cells(chosen, labels.astype(np.int64)[keep], classes, fingerprint, groups,
                     split[keep] if split is not None else None, ids=ids, notes=notes).check()  # fmt: skip

    def _read(self) -> tuple[dict[str, Array], str]:
        path = Path(self.params.path).expanduser()
        if not path.is_file():
            raise DataError(f"Expected an .npz file, but {str(path)!r} is none. Set dataset.path.")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            with np.load(path, allow_pickle=False) as archive:
                data = {name: archive[name] for name in archive.files}
        except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(
                f"Expected a whole .npz of plain arrays, but {path}: {error}. Save it anew."
            ) from error
        settings = self.params.model_dump(exclude={"path"})
        if "train_images" in data:
            parts = [s for s in SPLITS if f"{s}_images" in data]
            data[self.params.image] = np.concatenate([data[f"{s}_images"] for s in parts])
            data[self.params.label] = np.concatenate([data[f"{s}_labels"].reshape(-1) for s in parts])
            data[self.params.split] = np.repeat(parts, [len(data[f"{s}_images"]) for s in parts])
        return data, content_digest("npz-1", digest, settings)

    def _images(self, data: dict[str, Array]) -> dict[str, Array]:
        wanted: dict[str, list[int] | str] = dict(self.params.modalities)
        stack = self._stack(data[self.params.image]) if self.params.image in data else None
        if not wanted and stack is not None:
            count = stack.shape[1]
            named = [str(c) for c in data["channels"]] if "channels" in data else []
            if count in (1, 3) and len(named) != count:
                wanted = {"image": list(range(count))}
            else:
                named = named if len(named) == count else [f"channel{i}" for i in range(count)]
                wanted = {re.sub(r"\W+", "_", c).strip("_").lower(): [i] for i, c in enumerate(named)}
        images = {}
        for name, pick in wanted.items():
            if isinstance(pick, str):
                if pick not in data:
                    raise DataError(f"Expected array {pick!r} for {name}, but there are {sorted(data)}.")
                images[name] = self._stack(data[pick])
            elif stack is None or not pick or min(pick) < 0 or max(pick) >= stack.shape[1]:
                have = 0 if stack is None else stack.shape[1]
                raise DataError(f"Expected channels 0..{have - 1} for {name}, but got {pick}.")
            else:
                images[name] = stack[:, pick]
        return images

    def _stack(self, a: Array) -> Array:
        """Bring to [N, C, S, S]."""
        if a.dtype not in (np.uint8, np.uint16):
            raise DataError(f"Expected uint8 or uint16 images, but got {a.dtype}. Scale and convert them.")
        if a.ndim == 3:
            return a[:, None]
        last = a.ndim == 4 and a.shape[3] <= 16 and a.shape[1] == a.shape[2]
        first = a.ndim == 4 and a.shape[1] <= 16 and a.shape[2] == a.shape[3]
        layout = self.params.layout
        if layout == "auto" and last == first:
            raise DataError(f"Expected [N,S,S,C] or [N,C,S,S], but got {list(a.shape)}. Set dataset.layout.")
        return a.transpose(0, 3, 1, 2) if layout == "channels_last" or (layout == "auto" and last) else a


def _resize(a: Array, side: int | None) -> Array:
    """Resize [N, C, S, S] with antialiasing, channel by channel (in float, so 16 bits survive)."""
    if side is None or a.shape[2] == side:
        return np.ascontiguousarray(a)
    from PIL import Image

    out = np.empty((*a.shape[:2], side, side), dtype=a.dtype)
    top = np.iinfo(a.dtype).max
    for i, c in np.ndindex(*a.shape[:2]):
        plane = Image.fromarray(a[i, c].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
        out[i, c] = np.clip(np.rint(np.asarray(plane)), 0, top)
    return out
