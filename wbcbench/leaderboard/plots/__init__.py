"""Figures for a paper: one function per kind, vector files, equal boards give equal bytes."""

from __future__ import annotations

from wbcbench.leaderboard.plots.drawings import KINDS
from wbcbench.leaderboard.plots.save import SUFFIXES, save

__all__ = ["KINDS", "SUFFIXES", "save"]
