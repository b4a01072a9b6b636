"""Colours that stay apart for colour-blind readers.

Source: Okabe and Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

from collections.abc import Iterable

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A7A00", "#888888")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
MARKERS = dict(zip(SYMBOLS, "osD^PX*h", strict=True))
"""Plotly's names -> matplotlib's."""


def styles(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Name -> colour and symbol; after eight names colours come again with another symbol."""
    found: dict[str, tuple[str, str]] = {}
    for i, name in enumerate(dict.fromkeys(names)):
        found[name] = (OKABE_ITO[i % 8], SYMBOLS[(i + i // 8) % 8])
    return found
