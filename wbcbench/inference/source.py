"""Cells to be classified, wherever they lie: named, perhaps labelled, and read a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts import Dataset, Preparation, middle_square
from wbcbench.errors import DataError
from wbcbench.inference.rebuild import Rebuilt
from wbcbench.records.schema import InputStatistics

Array = NDArray[Any]
Open = Callable[[str, dict[str, Any]], Dataset]
"""Makes a data set from its name and parameters."""


class NothingFoundError(DataError):
    """A place that has none of the images that were looked for; others may be."""


class Source(Protocol):
    """N cells in one place."""

    where: str
    names: tuple[str, ...]
    """[N]."""
    labels: tuple[str, ...] | None
    """[N] as they are written, empty where unknown; None where nothing says."""
    present: NDArray[np.bool_]
    """[N, M] in the order of the images that were looked for."""
    notes: list[str]
    """What a reader must know: images that were resized, columns that were left aside."""
    errors: dict[int, str]
    """Row -> why the cell cannot be read. Grows while cells are read: what is broken may show only then."""

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """Image -> [stop - start, C, S, S]; zero where absent or in `errors`. Raises `DataError`."""
        ...


@dataclass(frozen=True)
class Kind:
    """One image of a cell, as it has to be."""

    channels: int
    bits: tuple[int, ...]
    """8, 16 or both, the one that files are decoded to first."""

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return np.uint8 if self.bits[0] == 8 else np.uint16


@dataclass(frozen=True)
class Order:
    """Which images to look for, and how they are cut and resized."""

    kinds: Mapping[str, Kind]
    side: int
    classes: tuple[str, ...]
    preparation: Preparation
    square: Callable[[Array, int], Array]
    alone: bool
    """There is one image a cell, and no other that it could be taken for: it need not be called by its name."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    def blank(self, count: int) -> dict[str, Array]:
        """Image -> [count, C, S, S] of zeros."""
        return {n: np.zeros((count, k.channels, self.side, self.side), k.dtype) for n, k in self.kinds.items()}

    def label_of(self, folder: str) -> str:
        """The class that a folder is named after, whatever its case; empty if there is none."""
        return {c.casefold(): c for c in self.classes}.get(folder.casefold(), "")


@dataclass(frozen=True)
class Wanted:
    """What a network reads, and what that is made of."""

    statistics: Mapping[str, InputStatistics]
    side: int
    classes: tuple[str, ...]
    dataset: Dataset | None
    """That it was trained on, without its files; None where its plugin is not at hand."""
    preparation: Preparation
    opener: Open

    @classmethod
    def of(cls, rebuilt: Rebuilt) -> Wanted:
        """Raises `DataError` where nobody knows how its images were prepared."""
        return cls(
            rebuilt.statistics, rebuilt.task.image_size, rebuilt.task.classes, rebuilt.dataset(),
            rebuilt.preparation(), rebuilt.open_dataset,
        )  # fmt: skip

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.statistics)

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """The modalities themselves; then, where these are derived, the images that they are made of."""
        p, common = self.preparation, (self.side, self.classes, self.preparation)
        ready = {m: Kind(len(s.mean), (s.bits,)) for m, s in self.statistics.items()}
        if p.derive is None:
            return (Order(ready, *common, p.square, len(ready) == 1),)
        needed = dict.fromkeys(name for m in ready for name in p.parts(m))
        bits = {name: p.bits or ready[m].bits for m in ready for name in p.parts(m)}
        raw = {name: Kind(p.raw[name], bits[name]) for name in needed}
        return Order(ready, *common, middle_square, False), Order(raw, *common, p.square, len(raw) == 1)

    def spoken(self) -> str:
        """The images to look for, for messages."""
        ready, *raw = (", ".join(order.names) for order in self.orders)
        return ready + (f" (or {raw[0]}, which they are derived from)" if raw and raw[0] != ready else "")


def refuse_if_all_broken(source: Source, names: Sequence[str]) -> None:
    """Raise `DataError` where no cell is left to be classified."""
    if len(source.errors) < len(source.names):
        return
    shown = "\n".join(f"  {source.names[row]}: {why}" for row, why in list(source.errors.items())[:5])
    lost = all(why.endswith("does not exist") for why in source.errors.values())
    elsewhere = "\nDo the paths start in another folder, or in a zip? Say it with --root." if lost else ""
    raise DataError(
        f"Expected cells with images of {', '.join(names)} in {source.where}, but none of {len(source.names)} can "
        f"be read:\n{shown}{elsewhere}"
    )


__all__ = ["Array", "Kind", "NothingFoundError", "Open", "Order", "Source", "Wanted", "refuse_if_all_broken"]
