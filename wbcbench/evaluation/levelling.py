"""Whether training had levelled off when it ended, from the validation histories of a method's seeds.

The best validation value of the last half of the epochs is compared with the best of the first half. Without
progress the two are exchangeable: the gain is 0 on average, whatever the noise. Best values and not means, because
a high learning rate makes validation dip, and the anneal that ends a schedule removes the dips: that alone raises
the mean of the last quarter by .01 to .02 of macro-F1, however long the run.

A difference counts if it is larger than .02 or, near a perfect score, than a tenth of what is missing to it, and
beyond noise: a one-sided test, alpha .05. Its standard error is that of the seeds or that of single epochs (from
the differences of successive ones), whichever is larger. In this order:

- `past its best`: the mean of the last quarter is lower than that of an earlier one. Means, because an anneal can
  only raise the last one.
- `still improving`: the gain of the last half counts.
- `plateau`: the gain is smaller than one and a half times what counts, beyond noise, or the score is perfect.
- `too noisy to tell`: all else.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from wbcbench.evaluation.metrics import METRICS

Verdict = Literal["plateau", "still improving", "past its best", "too short to tell", "too noisy to tell"]

SHORTEST = 8
"""Fewest epochs to judge: two in each quarter."""
COUNTS = 0.02
SHARE = 0.1
LEAST = 0.002
"""The least difference that counts: one validation cell of 500."""
RULED_OUT = 1.5
"""A plateau excludes a gain of this many times what counts."""
Z = statistics.NormalDist().inv_cdf(0.95)
Z_OF_THREE = statistics.NormalDist().inv_cdf(1 - 0.05 / 3)
"""The last quarter is compared with the best of three others."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What the verdict needs of one run's validation history: values of a metric, of which less may be better."""

    half: float
    """Best of the first half of the epochs."""
    three_quarters: float
    """Best of the first three quarters."""
    end: float
    """Best of all."""
    late: float
    """Best of the last half."""
    quarters: tuple[float, ...]
    """Mean of each quarter."""
    last: int
    """Number of epochs in the last quarter."""
    jitter: float
    """Standard deviation of the noise of one epoch in the last half."""


@dataclass(frozen=True, slots=True)
class Levelled:
    """A verdict on the seeds of a method."""

    verdict: Verdict
    change: float | None = None
    """How much better the best of the last half is than that of the first; if `past its best`: how much better
    (negative) the mean of the last quarter is than the best quarter's. Mean over seeds; None if too short."""
    error: float | None = None
    """Its standard error."""
    best: tuple[float, float, float] | None = None
    """Best value within one half, three quarters and all of training, mean over seeds."""

    def __str__(self) -> str:
        if self.change is None or self.error is None:
            return self.verdict
        what = "since its best quarter" if self.verdict == "past its best" else "in the last half"
        return f"{self.verdict} ({self.change:+.3f} ± {self.error:.3f} {what})"


def curve(values: Sequence[float], metric: str) -> Curve | None:
    """The summary of one run's validation values, one per epoch; None if there are fewer than `SHORTEST`."""
    n = len(values)
    if n < SHORTEST:
        return None
    best = max if METRICS[metric].higher_is_better else min
    at = [n * i // 4 for i in range(5)]
    late = values[at[2] :]
    steps = [abs(b - a) for a, b in pairwise(late)]
    return Curve(
        half=best(values[: at[2]]),
        three_quarters=best(values[: at[3]]),
        end=best(values),
        late=best(late),
        quarters=tuple(statistics.fmean(values[a:b]) for a, b in pairwise(at)),
        last=n - at[3],
        # two normals of one mean and deviation differ by 2 / sqrt(pi) deviations on average
        jitter=statistics.fmean(steps) * math.sqrt(math.pi) / 2,
    )


def levelled(curves: Sequence[Curve | None], metric: str) -> Levelled:
    """The verdict on one method's runs, which differ in seed or fold only. The module says what it means."""
    known = [c for c in curves if c is not None]
    if not known or len(known) < len(curves):
        return Levelled("too short to tell")
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    perfect = METRICS[metric].range[METRICS[metric].higher_is_better]
    best = (
        round(statistics.fmean(c.half for c in known), 9),
        round(statistics.fmean(c.three_quarters for c in known), 9),
        round(statistics.fmean(c.end for c in known), 9),
    )
    missing = abs(perfect - best[2])
    counts = max(LEAST, min(COUNTS, SHARE * missing))
    jitter = math.sqrt(statistics.fmean(c.jitter**2 for c in known))

    earlier = max(range(3), key=lambda i: sign * statistics.fmean(c.quarters[i] for c in known))
    falls = [sign * (c.quarters[3] - c.quarters[earlier]) for c in known]
    # the difference of two means; its variance is doubled, because neighbouring epochs are alike
    fall, error = statistics.fmean(falls), _error(falls, 2 * jitter / math.sqrt(known[0].last))
    if -fall > max(counts, Z_OF_THREE * error):
        return Levelled("past its best", round(fall, 9), round(error, 9), best)
    gains = [sign * (c.late - c.half) for c in known]
    # the best of four or more normals varies by at most .7 of their deviation, and a difference of two such by 1
    gain, error = statistics.fmean(gains), _error(gains, jitter)
    verdict: Verdict = "too noisy to tell"
    if missing > LEAST and gain > max(counts, Z * error):
        verdict = "still improving"
    elif missing <= LEAST or abs(gain) + Z * error < RULED_OUT * counts:
        verdict = "plateau"
    return Levelled(verdict, round(gain, 9), round(error, 9), best)


def moved(before: Sequence[float], after: Sequence[float]) -> tuple[int, float]:
    """How many pairs of rows stand in another order after than before, and Kendall's tau of the two orders."""
    b, a = (np.sign(np.subtract.outer(v, v))[np.triu_indices(len(v), 1)] for v in (before, after))
    return int((a * b < 0).sum()), float((a * b).mean())


def _error(values: Sequence[float], within: float) -> float:
    """Standard error of a mean over runs, from their spread or from `within`, the noise of one of them."""
    between = statistics.stdev(values) if len(values) > 1 else 0.0
    return max(between, within) / math.sqrt(len(values))


__all__ = ["SHORTEST", "Curve", "Levelled", "Verdict", "curve", "levelled", "moved"]
