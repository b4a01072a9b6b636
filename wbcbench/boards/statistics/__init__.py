"""Whether a difference is more than noise. Pure numpy and scipy, independent of records.

Cells and seeds are two sources of noise. Test cells (or donors, if cells are grouped by donor) are resampled with
replacement, 10,000 times, with the same resamples for every method. Seeds are too few to resample (three seeds
drawn with replacement show two thirds of their variance), so their variance is used directly, with its few degrees
of freedom. `uncertainty` combines the two; `seed_variance` estimates the variance between seeds with the help of
the other rows of a board.
"""

from wbcbench.boards.statistics.bootstrap import (
    RESAMPLES,
    SEED,
    MetricSums,
    bootstrap,
    bootstrap_of,
    draws,
    effective_clusters,
    features,
)
from wbcbench.boards.statistics.contrasts import Contrasts
from wbcbench.boards.statistics.hypothesis_tests import (
    Friedman,
    McNemar,
    SeedVariance,
    Uncertainty,
    corrected_resampled_t,
    critical_difference,
    friedman,
    holm,
    mcnemar,
    nemenyi_groups,
    probability_of_improvement,
    seed_variance,
    uncertainty,
)

__all__ = [
    "RESAMPLES",
    "SEED",
    "Contrasts",
    "Friedman",
    "McNemar",
    "MetricSums",
    "SeedVariance",
    "Uncertainty",
    "bootstrap",
    "bootstrap_of",
    "corrected_resampled_t",
    "critical_difference",
    "draws",
    "effective_clusters",
    "features",
    "friedman",
    "holm",
    "mcnemar",
    "nemenyi_groups",
    "probability_of_improvement",
    "seed_variance",
    "uncertainty",
]  # fmt: skip
