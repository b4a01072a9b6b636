"""Cells whose images are files. One that cannot be read costs its cell, and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wbcbench.data.decode import ImageHeader, UndecodableError, decode_whole, read_header
from wbcbench.data.file_source import FileSource
from wbcbench.errors import DataError
from wbcbench.inference.source import Array, Order


class FileCells:
    """See `Source`. Headers are read at once: most of what is wrong is known before anything is computed."""

    def __init__(
        self,
        where: str,
        root: FileSource,
        order: Order,
        names: Sequence[str],
        paths: Mapping[str, Sequence[str]],
        labels: Sequence[str] | None,
        errors: Mapping[int, str] | None = None,
    ) -> None:
        """`paths`: image -> [N], empty where there is none; `errors`: cells that are known to be broken.

        Raises:
            DataError: the network reads images that no file could hold.
        """
        self.where, self._root, self._order = where, root, order
        self.names = tuple(names)
        self.labels = None if labels is None else tuple(labels)
        self._paths = {m: paths.get(m, [""] * len(self.names)) for m in order.names}
        columns = [[bool(path) for path in self._paths[m]] for m in order.names]
        self.present = np.array(columns, dtype=np.bool_).T.reshape(len(self.names), len(columns))
        self.notes: list[str] = []
        self.errors: dict[int, str] = dict(errors or {})
        for row in np.flatnonzero(~self.present.any(1)).tolist():
            self.errors.setdefault(row, f"has no image of {' or '.join(order.names)}")
        self._check_headers()

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """See `Source.read`."""
        out, side = self._order.blank(stop - start), self._order.side
        with self._root as root:
            for m, paths in self._paths.items():
                channels = self._order.kinds[m].channels
                for row in range(start, stop):
                    if paths[row] and row not in self.errors:
                        try:
                            whole = decode_whole(root.read(paths[row]), channels)
                            out[m][row - start] = self._order.square(whole, side)
                        except (UndecodableError, OSError) as error:
                            self.errors[row] = f"{paths[row]} {_why(error)}"
        return out

    def _check_headers(self) -> None:
        other, side = 0, self._order.side
        with self._root as root:
            for m, paths in self._paths.items():
                channels = self._order.kinds[m].channels
                if channels not in (1, 3) and any(paths):
                    raise DataError(
                        f"The network reads {m} with {channels} channels, which image files do not have. "
                        "Give the cells as an .npz."
                    )
                for row, path in enumerate(paths):
                    if not path or row in self.errors:
                        continue
                    try:
                        header = read_header(root.read(path))
                    except (UndecodableError, OSError) as error:
                        self.errors[row] = f"{path} {_why(error)}"
                        continue
                    if unfit := self._unfit(m, header):
                        self.errors[row] = f"{path} {unfit}"
                    other += (header.width, header.height) != (side, side)
        if other:
            self.notes.append(f"{other} images were not {side} x {side} pixels: cut or filled, and resized.")

    def _unfit(self, name: str, header: ImageHeader) -> str:
        """Why an image that can be read is none for the network; empty if it is one."""
        kind = self._order.kinds[name]
        if header.bits != kind.bits[0]:
            return f"has {header.bits} bits, but {name} was trained on {kind.bits[0]}"
        if header.channels > kind.channels and not self._order.preparation.any_colour:
            return f"is in colour, but {name} was trained on grey"
        return ""


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    return f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else str(error)


__all__ = ["FileCells"]
