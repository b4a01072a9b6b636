"""Cells to classify, from any source: with names, optional labels, and images that are read in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts import Account, Cells, Dataset, Preparation, middle_square
from wbcbench.contracts.dataset import indicated
from wbcbench.data.decode import to_integers
from wbcbench.data.labels import find_layout, sanitise
from wbcbench.data.npz_file import NpzFile, Pick, find_picks, open_npz, read_numbers
from wbcbench.deploy.network import Rebuilt
from wbcbench.errors import DataError
from wbcbench.records.schema import InputStatistics

Array = NDArray[Any]
Open = Callable[[str, dict[str, Any]], Dataset]
"""Creates a data set from its name and parameters."""


class NothingFoundError(DataError):
    """A source has none of the requested images, but may have others."""


class CellSource(Protocol):
    """N cells of one source."""

    where: str
    names: tuple[str, ...]
    """[N]."""
    labels: tuple[str, ...] | None
    """[N] as in the source, empty where unknown; None if the source has no labels."""
    present: NDArray[np.bool_]
    """[N, M] in the order of the requested images."""
    notes: list[str]
    """Notes for the user: images that were resized, columns that were ignored."""
    errors: dict[int, str]
    """Row -> why the cell cannot be read. Grows while cells are read, since some errors are found only then."""

    def accounts(self) -> tuple[Account, ...]:
        """What was found and classified, first of all files or rows; right once all cells have been read."""
        ...

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """Image -> [stop - start, C, S, S]; zero if missing or in `errors`. Raises `DataError`."""
        ...


@dataclass(frozen=True)
class Kind:
    """The required format of one image, or vector of numbers, of a cell."""

    channels: int
    bits: tuple[int, ...]
    """8, 16 or both; files are decoded to the first one. 32: a vector."""
    features: tuple[str, ...] = ()
    """Names of a vector's numbers."""

    @property
    def vector(self) -> bool:
        return self.bits == (32,)

    @property
    def dtype(self) -> type[np.uint8 | np.uint16 | np.float32]:
        return np.float32 if self.vector else np.uint8 if self.bits[0] == 8 else np.uint16


@dataclass(frozen=True)
class Order:
    """The images to look for, and how they are cropped and resized."""

    kinds: Mapping[str, Kind]
    side: int
    classes: tuple[str, ...]
    preparation: Preparation
    square: Callable[[Array, int], Array]
    alone: bool
    """Whether a cell has a single image, which then need not have its name, since it cannot be confused."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @property
    def pictures(self) -> tuple[str, ...]:
        """The names of images, without those of vectors."""
        return tuple(name for name, kind in self.kinds.items() if not kind.vector)

    def blank(self, count: int) -> dict[str, Array]:
        """Image -> [count, C, S, S] of zeros; vector -> [count, F] of NaN."""
        shapes = {n: (count, self.kinds[n].channels, self.side, self.side) for n in self.pictures}
        return {n: np.zeros(shape, self.kinds[n].dtype) for n, shape in shapes.items()} | self.no_numbers(count)

    def no_numbers(self, count: int) -> dict[str, Array]:
        """Vector -> [count, F] of NaN."""
        return {n: np.full((count, k.channels), np.nan, np.float32) for n, k in self.kinds.items() if k.vector}

    def name_of(self, written: str) -> str | None:
        """The image that a folder or column is called after; `Bright field` is bright_field, as in training."""
        if written in self.pictures:
            return written
        plain = sanitise(written)
        return plain if plain in self.pictures and written not in self.preparation.raw else None

    def label_of(self, folder: str) -> str:
        """The class with the name of a folder, ignoring case; empty if there is none."""
        return {c.casefold(): c for c in self.classes}.get(folder.casefold(), "")


@dataclass(frozen=True)
class Wanted:
    """The images that a network reads, and those they are derived from."""

    statistics: Mapping[str, InputStatistics]
    side: int
    classes: tuple[str, ...]
    dataset: Dataset | None
    """The data set it was trained on, without its files; None if its plugin is not available."""
    preparation: Preparation
    opener: Open

    @classmethod
    def of(cls, rebuilt: Rebuilt) -> Wanted:
        """The same, of a rebuilt network. Raises `DataError` if the preparation of its images is unknown."""
        return cls(
            rebuilt.statistics, rebuilt.task.image_size, rebuilt.task.classes, rebuilt.dataset(),
            rebuilt.preparation(), rebuilt.open_dataset,
        )  # fmt: skip

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.statistics)

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """The modalities themselves; then, if these are derived, the images that they are derived from."""
        p, common = self.preparation, (self.side, self.classes, self.preparation)
        ready = {m: Kind(len(s.mean), (s.bits,), s.features) for m, s in self.statistics.items()}
        if p.derive is None:
            alone = len(ready) == 1 and not any(kind.vector for kind in ready.values())
            return (Order(ready, *common, p.square, alone),)
        needed = dict.fromkeys(name for m in ready for name in p.parts(m))
        bits = {name: p.bits or ready[m].bits for m in ready for name in p.parts(m)}
        raw = {name: Kind(p.raw[name], bits[name]) for name in needed}
        return Order(ready, *common, middle_square, False), Order(raw, *common, p.square, len(raw) == 1)

    def spoken(self) -> str:
        """The images to look for, for messages."""
        ready, *raw = (", ".join(order.names) for order in self.orders)
        return ready + (f" (or {raw[0]}, which they are derived from)" if raw and raw[0] != ready else "")


def refuse_if_all_broken(source: CellSource, names: Sequence[str]) -> None:
    """Raise `DataError` if no cell can be classified."""
    if len(source.errors) < len(source.names):
        return
    shown = "\n".join(f"  {source.names[row]}: {why}" for row, why in list(source.errors.items())[:5])
    lost = all(why.endswith("does not exist") for why in source.errors.values())
    elsewhere = "\nIf the paths are relative to another folder or a zip, give it with --root." if lost else ""
    raise DataError(
        f"Expected cells with images of {', '.join(names)} in {source.where}, but none of {len(source.names)} can "
        f"be read:\n{shown}{elsewhere}"
    )


UNREAD = "that cannot be read"
"""Reason in an account of cells with errors."""


class ArrayCells:
    """Stacks of images, all of one side. See `CellSource`."""

    def __init__(
        self, where: str, order: Order, stacks: Mapping[str, Array], labels: tuple[str, ...] | None,
        names: tuple[str, ...] | None = None, present: Array | None = None, accounts: tuple[Account, ...] = (),
        ready: bool = True,
    ) -> None:  # fmt: skip
        """Raises `DataError` for other channels or depths.

        Args:
            stacks: image -> [N, C, S, S]; vector -> [N, F].
            present: [N, M].
            ready: images of the network's side are prepared already; False: all are as those of a training file.
        """
        count = {len(a) for a in stacks.values()}
        if len(count) != 1:
            raise DataError(f"Expected equal numbers of images per modality in {where}, but got {sorted(count)}.")
        (n,) = count
        self.where, self._order, self._stacks, self._ready = where, order, dict(stacks), ready
        self._accounts = accounts or (Account("rows", n, n),)
        self.notes: list[str] = []
        self.errors: dict[int, str] = {}
        self.names = names or tuple(f"row {i}" for i in range(n))
        self.labels = labels
        there = np.array([[m in stacks for m in order.names]] * n, dtype=np.bool_).reshape(n, len(order.names))
        for column, m in enumerate(order.names):
            if m in stacks and stacks[m].dtype.kind == "f":
                there[:, column] = ~np.isnan(stacks[m]).reshape(n, -1).all(1)
        self.present = there if present is None else there & present
        for m, stack in stacks.items():
            self._fit(m, stack)

    def accounts(self) -> tuple[Account, ...]:
        """See `CellSource.accounts`."""
        return self._accounts

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """See `CellSource.read`."""
        side, out = self._order.side, self._order.blank(stop - start)
        for m, stack in self._stacks.items():
            part = stack[start:stop]
            # Images of the network's side are already prepared, as specified in `inputs.json`.
            if part.ndim == 2:
                out[m] = np.ascontiguousarray(part)
                continue
            whole = part if self._ready and part.shape[2] == side else [
                self._order.square(image, side) for image in part
            ]  # fmt: skip
            out[m] = np.ascontiguousarray(whole)
        return out

    def _fit(self, name: str, stack: Array) -> None:
        kind = self._order.kinds[name]
        if kind.vector != (stack.ndim == 2):
            has = {True: "numbers [N, F]", False: "images"}
            raise DataError(
                f"Expected {name} as {has[kind.vector]} in {self.where}, as in training, but got "
                f"{list(stack.shape)}."
            )
        if stack.shape[1] != kind.channels:
            what = "numbers" if kind.vector else "channels"
            raise DataError(
                f"Expected {name} with {kind.channels} {what} in {self.where}, but got {stack.shape[1]}."
            )
        if stack.dtype.itemsize * 8 not in kind.bits:
            raise DataError(
                f"Expected {name} as {np.dtype(kind.dtype)}, as in training, but {self.where} has "
                f"{stack.dtype}. Convert it with the window that the training images were converted with."
            )
        if not kind.vector and stack.shape[2] != self._order.side:
            self.notes.append(f"{name}: {stack.shape[2]} pixels were resized to {self._order.side}.")


def npz_cells(path: Path, order: Order, called: Mapping[str, Any]) -> ArrayCells:
    """One array per image, named after it, or the channels that it had in training.

    Labels are optional. The split is ignored: every row is a cell.

    Args:
        called: names of the arrays, as parameters of the data set `npz`.

    Raises:
        NothingFoundError: no array has the name of an image.
        DataError: the file is damaged, or has other channels or bit depths.
    """
    image, label = str(called.get("image", "image")), str(called.get("label", "label"))
    file = open_npz(path, image, label, str(called.get("split", "split")))
    picks = _picks(file, order, called, image)
    if not picks:
        raise NothingFoundError(f"arrays {', '.join(sorted(file.headers))}")
    notes, raw = [], {}
    for name in dict.fromkeys(p.array for p in picks.values() if p.side):
        raw[name], note = to_integers(file.read(name, "images"), f"array {name!r}")
        notes += [note] if note else []
    stacks = {m: p.take(raw[p.array]) if p.side else _numbers(file, p, called) for m, p in picks.items()}
    count = len(next(iter(stacks.values())))
    ready = not called.get("window")
    cells = ArrayCells(str(path), order, stacks, _labels(file, label, count, order), ready=ready)
    cells.notes[:0] = notes
    return cells


def loaded_cells(where: str, cells: Cells, order: Order) -> ArrayCells:
    """Cells that a data set loaded at the network's side. Raises `NothingFoundError`."""
    stacks = {m: cells.images[m] for m in order.names if m in cells.images}
    if not stacks:
        raise NothingFoundError(f"modalities {', '.join(cells.images)}")
    present = None
    if cells.present is not None:
        columns = {m: i for i, m in enumerate(cells.images)}
        present = np.stack([cells.present[:, columns[m]] if m in columns else np.zeros(len(cells), bool)
                            for m in order.names], axis=1)  # fmt: skip
    labels = tuple(cells.classes[c] for c in cells.labels)
    found = ArrayCells(where, order, stacks, labels, cells.ids, present, cells.accounting())
    found.notes += cells.notes
    return found


def _numbers(file: NpzFile, pick: Pick, called: Mapping[str, Any]) -> Array:
    """[N, F] of a vector, prepared as in training."""
    found = read_numbers(file, pick)
    return indicated(found) if called.get("indicators") else found


def _picks(file: NpzFile, order: Order, called: Mapping[str, Any], image: str) -> dict[str, Pick]:
    """Where each image is: in an array of its name, where it was in training, or where the file says."""
    layout, wanted = called.get("layout", "auto"), called.get("modalities", {})
    named: dict[str, list[int] | str] = {}
    for name in order.names:
        said = wanted.get(name)
        if name in file.headers or (isinstance(said, str) and said in file.headers):
            named[name] = name if name in file.headers else said
        elif isinstance(said, list) and image in file.headers:
            named[name] = said
    picks = find_picks(file, named, image, layout) if named else {}
    rest = [name for name in order.names if name not in picks]
    if rest and image in file.headers:
        own = find_picks(file, {}, image, layout)
        picks |= {name: own[name] for name in rest if name in own}
        if order.alone and not picks:
            header = file.header(image, "images")
            axis, count, side = find_layout(header.shape, layout, f"in array {image!r}")
            if count == order.kinds[rest[0]].channels:
                picks[rest[0]] = Pick(image, tuple(range(count)), axis, side)
    return {name: picks[name] for name in order.names if name in picks}


def _labels(file: NpzFile, name: str, count: int, order: Order) -> tuple[str, ...] | None:
    if name not in file.headers:
        return None
    raw = file.read(name, "labels").reshape(-1)
    if len(raw) != count:
        raise DataError(f"Expected {count} labels in {file.path}, one per cell, but got {len(raw)}.")
    if raw.dtype.kind not in "US" and "classes" in file.headers:
        classes = tuple(map(str, file.read("classes", "class names").astype(str).reshape(-1)))
    elif raw.dtype.kind not in "US" and order.preparation.numbered:
        classes = order.classes
    else:
        return tuple(str(v).strip() for v in raw.tolist())
    return tuple(classes[int(v)] if 0 <= int(v) < len(classes) else "" for v in raw.tolist())


__all__ = [
    "UNREAD",
    "Array",
    "ArrayCells",
    "CellSource",
    "Kind",
    "NothingFoundError",
    "Open",
    "Order",
    "Wanted",
    "loaded_cells",
    "npz_cells",
    "refuse_if_all_broken",
]
