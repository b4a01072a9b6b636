"""How results are displayed: a plain table in a console, an escaped HTML table in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class Shown(ABC):
    """A result with a `summary` frame, shown as a table."""

    @abstractmethod
    def summary(self) -> pd.DataFrame:
        """The frame that is shown: the main columns."""

    def notes(self) -> list[str]:
        """Lines under the table."""
        return []

    def __repr__(self) -> str:
        from tabulate import tabulate

        table = self.summary()
        rows, heads = table.to_numpy().tolist(), [str(c) for c in table.columns]
        text = tabulate(rows, headers=heads, tablefmt="simple", floatfmt=".3f", missingval="-")
        return "\n".join([text, *self.notes()])

    def _repr_html_(self) -> str:
        from html import escape

        table = self.summary().to_html(
            index=False, na_rep="-", float_format="{:.3f}".format, border=0, escape=True
        )
        return str(table) + "".join(f"<p>{escape(line)}</p>" for line in self.notes())


__all__ = ["Shown"]
