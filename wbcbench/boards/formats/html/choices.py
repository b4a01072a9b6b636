"""What a figure is made of beside its drawing: its place on the page and the choice that it offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go


@dataclass(frozen=True)
class Choice:
    """One option of a figure's menu: shows the traces whose `meta` is `value`."""

    value: str
    label: str
    layout: dict[str, Any] = field(default_factory=dict)
    """Attributes of plotly's layout that change with it, dotted."""


@dataclass(frozen=True)
class Drawing:
    """A figure with its words. The first choice is the one that is drawn."""

    figure: go.Figure
    heading: str
    doc: str
    wide: bool = False
    """Takes the page's whole width."""
    asks: str = ""
    """The menu's label; empty: no menu of its own."""
    choices: tuple[Choice, ...] = ()


__all__ = ["Choice", "Drawing"]
