"""All broken rows of a table in one message: nobody wants to find them one run at a time."""

from __future__ import annotations

from wbcbench.errors import DataError

SHOWN = 20


class Problems:
    """Collects (line, what is wrong) and raises once."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, text: str) -> None:
        """Note that `line` (as an editor counts, from 1) is broken."""
        self._found.append((line, text))

    def found(self) -> list[tuple[int, str]]:
        """(line, what is wrong), in order of lines."""
        return sorted(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def raise_if_any(self, where: str, advice: str = "") -> None:
        """Raise `DataError` with the first 20 in order of lines and the total; nothing if there are none.

        Args:
            where: the table, for the first line.
            advice: a sentence for the last one.
        """
        if not self._found:
            return
        rows = [f"  line {line}: {text}" for line, text in sorted(self._found)]
        more = [f"  ... and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        raise DataError(
            f"Expected every row of {where} to be usable, but found {len(rows)} "
            f"problem{'s' if len(rows) > 1 else ''}:\n"
            + "\n".join(rows[:SHOWN] + more)
            + f"\nMend or remove these rows; a row whose split is empty is left out. {advice}".rstrip()
        )
