"""Many comparisons at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """Adjusted p-values in the order given: Holm's step-down, which bounds the chance of any false alarm.

    Args:
        p_values: of the comparisons made.
        family: how many might have been made; the others count as if they had shown nothing. At least as many as
            p-values, which is the default.

    Source: Holm, Scand. J. Stat. 6 (1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (max(family or 0, len(p)) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(x) for x in adjusted]
