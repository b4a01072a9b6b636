"""Is a difference more than noise? Pure numpy and scipy; nothing here knows of records.

Cells and seeds are two sources of noise. Test cells (or donors, where cells of one donor go together) are
resampled with replacement, 10,000 times, the same resamples for every method. Seeds are too few to resample
(three seeds drawn with replacement show two thirds of their variance), so their variance enters directly, with
its few degrees of freedom. `uncertainty` combines the two; `seed_variance` says what the other rows of a board
tell about the variance between seeds.
"""

from wbcbench.boards.statistics.bootstrap import RESAMPLES, SEED, Features, bootstrap, draws, features
from wbcbench.boards.statistics.hypothesis_tests import (
    Friedman,
    McNemar,
    SeedVariance,
    TieGroup,
    Uncertainty,
    corrected_resampled_t,
    critical_difference,
    friedman,
    holm,
    mcnemar,
    nemenyi_groups,
    probability_of_improvement,
    seed_variance,
    tie_groups,
    uncertainty,
)

__all__ = [
    "RESAMPLES", "SEED", "Features", "Friedman", "McNemar", "SeedVariance", "TieGroup", "Uncertainty", "bootstrap",
    "corrected_resampled_t", "critical_difference", "draws", "features", "friedman", "holm", "mcnemar",
    "nemenyi_groups", "probability_of_improvement", "seed_variance", "tie_groups", "uncertainty",
]  # fmt: skip
