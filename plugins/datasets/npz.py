"""Cells from one .npz file: `image` [N,H,W,C] or [N,C,H,W], one array per modality, or MedMNIST's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import (
    Cells,
    Dataset,
    Description,
    Preparation,
    Progress,
    content_digest,
    resize_stack,
)
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.decode import to_integers
from wbcbench.data.labels import (
    Layout,
    check_names,
    distinct_names,
    encode_groups,
    encode_labels,
    find_layout,
    join_arrays,
    read_split,
    split_sizes,
)
from wbcbench.data.npz_file import NpzFile, open_npz
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
_VERSION = "npz-2"
"""Part of the fingerprint: raised whenever the same file would give other cells."""


class Npz(Dataset):
    """One .npz of square images and integer or text labels; cells of no split are left out."""

    name = "npz"
    source = "numpy .npz; MedMNIST's train_images, train_labels ... is read as it is."
    locations = ("path",)

    class Params(Parameters):
        path: str = param("", "The .npz file.")
        modalities: dict[str, list[int] | str] = param(
            {},
            "Modality -> channel indices of the image array, or the name of an array of its own. Empty: one "
            "modality per entry of `channels` where the file names its channels, else all of the image.",
        )
        image: str = param("image", "Array of images [N,S,S], [N,S,S,C] or [N,C,S,S].")
        label: str = param("label", "Array of labels [N], numbers or text.")
        group: str = param("group", "Array of donors or slides [N], if there is one.")
        split: str = param("split", "Array of train, val, test [N], if there is one.")
        layout: Layout = param("auto", "Which axis of a four-dimensional array is the channels.")

    def describe(self) -> Description:
        """See `Dataset.describe`: reads headers and the small arrays, no pixels. Raises `DataError`."""
        table = self._table()
        picks = self._picks(table)
        sides = {pick.side for pick in picks.values()}
        return Description(
            modalities={name: len(pick.channels) for name, pick in picks.items()},
            classes=table.classes,
            cells=len(table.labels),
            fingerprint=self._fingerprint(table, picks),
            image_size=sides.pop() if len(sides) == 1 else None,
            split_sizes=split_sizes(table.split),
            groups=table.groups is not None,
            incomplete=(),
            group_count=None if table.groups is None else len(np.unique(table.groups)),
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`. Raises `DataError` for a file that is absent, broken or misshapen."""
        table = self._table()
        picks = self._picks(table)
        arrays: dict[str, Array] = {}
        notes = list(table.notes)
        images: dict[str, Array] = {}
        for done, (name, pick) in enumerate(picks.items()):
            if pick.array not in arrays:
                raw = table.file.read(pick.array, f"the images of {name}")[table.rows]
                arrays[pick.array], note = to_integers(raw, f"array {pick.array!r}")
                notes += [note] if note else []
            stack = arrays[pick.array]
            stack = stack[:, None] if pick.axis == 0 else np.moveaxis(stack, pick.axis, 1)
            images[name] = resize_stack(stack[:, list(pick.channels)], image_size)
            if progress:
                progress(done + 1, len(picks), f"images of {name}")
        resized = [
            f"{name} from {pick.side}" for name, pick in picks.items() if image_size not in (None, pick.side)
        ]
        if resized:
            notes.append(f"Images were resized to {image_size} pixels: {', '.join(resized)}.")
        return Cells(
            images=images,
            labels=table.labels,
            classes=table.classes,
            fingerprint=self._fingerprint(table, picks),
            groups=table.groups,
            split=table.split,
            ids=tuple(f"row {i}" for i in table.rows),
            notes=notes,
        ).check()

    def preparation(self, modalities: Mapping[str, int]) -> Preparation:
        """See `Dataset.preparation`: arrays and channels as the training file has them."""
        return Preparation(dict(modalities), names=self.public_params())

    def _fingerprint(self, table: _Table, picks: dict[str, _Pick]) -> str:
        p = self.params
        columns = [name if name in table.file.headers else None for name in (p.label, p.group, p.split)]
        # Files that already said train, val, test keep the fingerprint that they always had.
        recoded = [table.split] if table.recoded and table.split is not None else []
        joined = ["joined spellings"] if table.joined else []
        return content_digest(_VERSION, table.file.digest, list(picks.items()), columns, *recoded, *joined)

    def _table(self) -> _Table:
        p = self.params
        where = p.path
        file = open_npz(Path(p.path).expanduser(), p.image, p.label, p.split)
        raw = file.read(p.label, "labels")
        count = len(raw) if raw.ndim else 0
        if not count:
            raise DataError(f"Expected labels [N] in {where}, but {p.label!r} is {list(raw.shape)}.")
        split = self._column(file, p.split, "split", count)
        keep = np.ones(count, dtype=np.bool_)
        notes: list[str] = []
        recoded = False
        if split is not None:
            if split.dtype.kind not in "US":
                raise DataError(
                    f"Expected {p.split!r} of {where} as text (train, val, test), but it is {split.dtype}. "
                    "Store these words, or name another array with dataset.split."
                )
            said = split
            keep, split, _, notes = read_split(said, where)
            recoded = not np.array_equal(said[keep], split)
        classes = None
        if "classes" in file.headers:
            classes = tuple(str(c) for c in file.read("classes", "class names").astype(str).reshape(-1))
        groups = self._column(file, p.group, "group", count)
        raw, groups = raw[keep], None if groups is None else groups[keep]
        raw, groups, joined, more = join_arrays(raw, groups, where)
        notes += more
        labels, classes = encode_labels(raw, classes, where)
        return _Table(
            file=file,
            rows=np.flatnonzero(keep),
            labels=labels,
            classes=classes,
            groups=None if groups is None else encode_groups(groups, where),
            split=split,
            count=count,
            notes=notes,
            recoded=recoded,
            joined=joined,
        )

    def _column(self, file: NpzFile, name: str, purpose: str, count: int) -> Array | None:
        """An optional array [N]; one that the user named must exist."""
        if not name or (name not in file.headers and name == type(self.params).model_fields[purpose].default):
            return None
        column = file.read(name, purpose)
        if column.shape not in ((count,), (count, 1)):
            raise DataError(
                f"Expected {name!r} of {self.params.path} as [N={count}], one value per label, "
                f"but it is {list(column.shape)}."
            )
        return column.reshape(-1)

    def _picks(self, table: _Table) -> dict[str, _Pick]:
        wanted = dict(self.params.modalities) or self._default(table.file)
        check_names(wanted)
        picks = {}
        for name, pick in wanted.items():
            array = pick if isinstance(pick, str) else self.params.image
            header = table.file.header(array, f"modality {name!r}")
            if header.shape[:1] != (table.count,):
                raise DataError(
                    f"Expected {table.count} images in array {array!r} of {self.params.path}, one per label, "
                    f"but it is {list(header.shape)}."
                )
            axis, count, side = find_layout(header.shape, self.params.layout, f"in array {array!r}")
            chosen = tuple(range(count)) if isinstance(pick, str) else tuple(pick)
            if not chosen or min(chosen) < 0 or max(chosen) >= count:
                raise DataError(
                    f"Expected channels of 0..{count - 1} for modality {name!r}, but got {list(chosen)}."
                )
            picks[name] = _Pick(array, chosen, axis, side)
        return picks

    def _default(self, file: NpzFile) -> dict[str, list[int] | str]:
        header = file.header(self.params.image, "images")
        _, count, _ = find_layout(header.shape, self.params.layout, f"in array {self.params.image!r}")
        if "channels" in file.headers:
            originals = file.read("channels", "channel names").reshape(-1)
            if len(originals) == count:
                names = distinct_names(map(str, originals.astype(str)), f"`channels` of {self.params.path}")
                return {name: [i] for i, name in enumerate(names)}
        if count in (1, 3):
            return {"image": list(range(count))}
        return {f"channel{i}": [i] for i in range(count)}


@dataclass(frozen=True)
class _Pick:
    """Where one modality's pixels are."""

    array: str
    channels: tuple[int, ...]
    axis: int
    side: int


@dataclass(frozen=True)
class _Table:
    """Everything but the pixels; `rows` are the cells kept of the file's `count`."""

    file: NpzFile
    rows: NDArray[np.intp]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None
    split: NDArray[np.str_] | None
    count: int
    notes: list[str]
    recoded: bool
    """Whether the file calls a side of the split by another word."""
    joined: bool
    """Whether the file spells a class or a group in two ways that were joined."""
