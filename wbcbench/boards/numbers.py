"""Numbers for people, with as many digits as they are worth."""

from __future__ import annotations

from math import floor, log10


def count(value: float | None) -> str:
    """1234567 -> `1.23M`, three digits; empty for None."""
    if value is None:
        return ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            digits = 2 - (value >= 9.995 * size) - (value >= 99.95 * size)
            return f"{value / size:.{digits}f}{unit}"
    return f"{value:.0f}"


def two_digits(value: float) -> str:
    """0.0234 -> `0.023`, 9.41 -> `9.4`, 123 -> `120`: what a timing is worth, without an exponent."""
    rounded = float(f"{value:.1e}")
    places = 1 - floor(log10(rounded)) if rounded > 0 else 0
    return f"{rounded:.{max(0, places)}f}"


__all__ = ["count", "two_digits"]
