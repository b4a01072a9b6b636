"""A figure as bytes that depend on the figure alone: no date, no random ids, fonts embedded as outlines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from wbcbench.boards.model import Report
from wbcbench.boards.plots.drawings import KINDS
from wbcbench.errors import UsageError
from wbcbench.records.files import atomic_write_bytes

SUFFIXES = ("pdf", "svg", "png")
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": "wbcbench", "Producer": None},
    "svg": {"Date": None, "Creator": "wbcbench"},
    "png": {"Software": "wbcbench"},
}
_SETTINGS: Any = {
    "pdf.fonttype": 42,  # TrueType: journals refuse type 3
    "svg.hashsalt": "wbcbench",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a stranger's name is no formula
    "font.size": 9,
    "font.family": "sans-serif",
}


def save(report: Report, kind: str, path: Path, cost: str = "macs") -> None:
    """Draw one of `KINDS` and write it as pdf, svg or png, by the file's ending.

    Raises:
        UsageError: another ending, or a board that has nothing to draw.
    """
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in SUFFIXES:
        raise UsageError(f"Expected a file that ends in .{', .'.join(SUFFIXES)}, but got '{path.name}'.")
    with rc_context(_SETTINGS):
        atomic_write_bytes(path, to_bytes(KINDS[kind](report, cost), suffix))


def to_bytes(figure: Figure, suffix: str) -> bytes:
    """The figure in one of `SUFFIXES`; png at 200 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, metadata=_METADATA[suffix], dpi=200)
    return buffer.getvalue()
