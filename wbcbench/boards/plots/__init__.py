"""Figures for a paper: one function per kind, vector files, equal boards give equal bytes."""

from __future__ import annotations

from wbcbench.boards.plots.drawings import KINDS
from wbcbench.boards.plots.save import SUFFIXES, save

__all__ = ["KINDS", "SUFFIXES", "save"]
