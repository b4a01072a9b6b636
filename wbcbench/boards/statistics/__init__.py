"""Is a difference more than noise? Pure numpy and scipy; nothing here knows of records.

Cells and seeds are two sources of noise. Test cells (or donors, where cells of one donor go together) are
resampled with replacement, 10,000 times, the same resamples for every method. Seeds are too few to resample
(three seeds drawn with replacement show two thirds of their variance), so their variance enters directly, with
its few degrees of freedom: `uncertainty` says how the two are put together, and `moderation` what a board's other
rows tell of the variance between seeds.
"""

from wbcbench.boards.statistics.corrections import holm
from wbcbench.boards.statistics.features import Features, features
from wbcbench.boards.statistics.moderation import SeedVariance, seed_variance
from wbcbench.boards.statistics.paired import McNemar, corrected_resampled_t, mcnemar
from wbcbench.boards.statistics.resampling import RESAMPLES, SEED, bootstrap, draws
from wbcbench.boards.statistics.several import (
    Friedman,
    critical_difference,
    friedman,
    nemenyi_groups,
    probability_of_improvement,
)
from wbcbench.boards.statistics.ties import TieGroup, tie_groups
from wbcbench.boards.statistics.uncertainty import Uncertainty, uncertainty

__all__ = [
    "RESAMPLES", "SEED", "Features", "Friedman", "McNemar", "SeedVariance", "TieGroup", "Uncertainty", "bootstrap",
    "corrected_resampled_t", "critical_difference", "draws", "features", "friedman", "holm", "mcnemar",
    "nemenyi_groups", "probability_of_improvement", "seed_variance", "tie_groups", "uncertainty",
]  # fmt: skip
