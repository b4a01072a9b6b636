"""How often do boards' verdicts hold? Simulated boards of known truth; every rate with its Monte Carlo error.

    python tests/benchmarks/verdicts.py [--rows 2,10,96] [--seeds 1,3,5] [--tests 200,2000,5d,30d] [--runs 200]

`5d` is 2,000 cells of 5 donors, of unequal size. All rows are equally good, so each verdict is an error and should
come in 5 % of boards at most. But `cover` and `alone` should be 0.95, `predict` 0.90, `power` 0.80; low `kept` is
good.

cover    95 % interval of a row's mean
pair     two rows, p < 0.05
stars    any star in a column of leads over one row, Holm over the column
pairs    any of all pairs, Holm
lost     a best row (of equally good ones) is not in the set of the best
torn     any of the equally good rows is not in the set: not promised, and above 5 % for many rows
kept     share of rows that the set keeps although they are 0.05 worse than the best
level    two rows that differ by the margin are called level
predict  90 % prediction interval of one more run's difference: new seed, new cells
power    a difference of the size that two rows' test is said to find in 80 %
borrowed a star of one more row, of a single seed, over a row of the board
alone    95 % interval of the mean of that row
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student
from tabulate import tabulate

from wbcbench.boards.statistics import (
    Contrasts,
    MetricSums,
    bootstrap,
    effective_clusters,
    holm,
    seed_variance,
    uncertainty,
)

Floats = NDArray[np.float64]
K = 4
METRIC = "macro_f1"
RESAMPLES = 250
SKILL, CELL_SD, NOISE = 1.0, 1.0, 0.7
DONOR_SD, ROW_DONOR_SD, COMMON_SD = 0.3, 0.15, 0.05
MARGIN = 0.1
"""Above the errors, or nothing is level."""
CLAIMS = {"cover": 0.95, "alone": 0.95, "predict": 0.90, "power": 0.80}


class World(NamedTuple):
    """What a board is of."""

    rows: int
    seeds: int
    cells: int
    donors: int
    """0: cells are independent."""
    seed_sd: float = 0.1

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.donors} donors" if self.donors else f"{self.cells} cells"

    @property
    def truth(self) -> float:
        """Expected accuracy over all cells, donors and seeds; macro-F1 is the same, all classes being alike."""
        spread = CELL_SD**2 + NOISE**2 + self.seed_sd**2 + COMMON_SD**2
        if self.donors:
            spread += DONOR_SD**2 + ROW_DONOR_SD**2
        return float(norm.cdf(SKILL / np.sqrt(spread)))


class Drawn(NamedTuple):
    """Networks of some rows on one set of test cells."""

    values: Floats
    """[rows, seeds]"""
    resampled: Floats
    """[rows, seeds, resamples]"""
    clusters: float


def table(decided: NDArray[np.intp], labels: NDArray[np.intp], donors: NDArray[np.intp]) -> MetricSums:
    """The same as `features`, of decisions without probabilities, and ten times as fast."""
    width = 1 + 3 * K
    hits = decided == labels
    places = [donors, donors, donors, donors[hits]]
    columns = [np.zeros_like(labels), 1 + labels, 1 + K + decided, 1 + 2 * K + decided[hits]]
    at = np.concatenate([p * width + c for p, c in zip(places, columns, strict=True)])
    sums = np.bincount(at, minlength=(int(donors.max()) + 1) * width).reshape(-1, width)
    return MetricSums(sums.astype(np.float64), K, float("nan"))


def draw(rng: np.random.Generator, world: World, resamples: int = RESAMPLES) -> Drawn:
    """Draw test cells and networks anew."""
    n, shape = world.cells, (world.rows, world.seeds)
    labels = rng.integers(0, K, n)
    difficulty = rng.normal(0, CELL_SD, n)
    donors = np.arange(n)
    own = np.zeros((world.rows, 1, 1))
    if world.donors:
        ends = np.cumsum([0.0, *np.linspace(1, 3, world.donors)])
        donors = np.repeat(np.arange(world.donors), np.diff(np.round(ends / ends[-1] * n).astype(int)))
        difficulty = difficulty + rng.normal(0, DONOR_SD, world.donors)[donors]
        own = rng.normal(0, ROW_DONOR_SD, (world.rows, 1, world.donors))[:, :, donors]
    skill = SKILL + rng.normal(0, world.seed_sd, shape) + rng.normal(0, COMMON_SD, world.seeds)
    tables = []
    for row in range(world.rows):
        for seed in range(world.seeds):
            right = skill[row, seed] + difficulty + own[row, 0] + rng.normal(0, NOISE, n) > 0
            tables.append(table(np.where(right, labels, (labels + rng.integers(1, K, n)) % K), labels, donors))
    whole = [t.counted(t.columns.sum(0)[None])[METRIC][0] for t in tables]
    found = bootstrap(tables, [METRIC], resamples, int(rng.integers(2**31)))
    clusters = effective_clusters(np.bincount(donors))
    return Drawn(np.reshape(whole, shape), found.reshape(*shape, resamples), clusters)


def verdicts(rng: np.random.Generator, world: World, shift: float | None) -> tuple[list[tuple[str, float]], float]:
    """One board: (verdict, rate) and the difference that two rows' test is said to find.

    `shift`: that of boards before this one, for `power`.
    """
    drawn = draw(rng, world._replace(rows=world.rows + 1))
    values, resampled, clusters = drawn.values[:-1], drawn.resampled[:-1], drawn.clusters
    spread = seed_variance(values) if world.seeds > 1 else None
    every = Contrasts.of(values, resampled, clusters, None if spread is None else (spread.rows, spread.df))
    found: list[tuple[str, float]] = []
    covered = [
        (i := uncertainty(v, r, clusters).interval(scale="logit"))[0] <= world.truth <= i[1]
        for v, r in zip(values, resampled, strict=True)
    ]
    found.append(("cover", float(np.mean(covered))))
    pairs = [every.pair(i, i + 1) for i in range(0, world.rows - 1, 2)]
    found.append(("pair", float(np.mean([u.p < 0.05 for u in pairs]))))
    found.append(("stars", float(min(holm([every.pair(i, 0).p for i in range(1, world.rows)])) < 0.05)))
    found.append(("pairs", float(every.p_holm().min() < 0.05)))
    found.append(("lost", float((every.best() < 0.05).mean())))
    found.append(("torn", float(every.best().min() < 0.05)))
    gap = np.where(np.arange(world.rows) == 0, 0.0, -0.05)
    moved = replace(every, value=every.value + gap[:, None] - gap)
    found.append(("kept", float((~(moved.best()[1:] < 0.05)).mean())))
    level = [u._replace(value=u.value + MARGIN).equivalent(MARGIN) < 0.05 for u in pairs]
    found.append(("level", float(np.mean(level))))
    if world.seeds > 1:
        found += borrowed(drawn, world.truth)
        new = draw(rng, world._replace(rows=2 * len(pairs), seeds=1), 0).values
        inside = [
            abs(new[2 * i, 0] - new[2 * i + 1, 0] - u.value) <= float(student.ppf(0.95, u.run_df)) * u.run_se
            for i, u in enumerate(pairs)
        ]
        found.append(("predict", float(np.mean(inside))))
        if shift is not None:
            found.append(("power", float(np.mean([u._replace(value=u.value + shift).p < 0.05 for u in pairs]))))
    return found, float(np.median([u.detectable() for u in pairs]))


def borrowed(drawn: Drawn, truth: float) -> list[tuple[str, float]]:
    """The last row with a single seed: a star against a row of the board on that seed, and its own interval."""
    values, resampled, clusters = drawn
    pairs, means = seed_variance(values[:-1]), seed_variance(values[:-1], paired=False)
    if np.isnan(pairs.other):
        return [("borrowed", 0.0)]
    lead, more = values[-1, :1] - values[0, :1], resampled[-1, :1] - resampled[0, :1]
    star = uncertainty(lead, more, clusters, (pairs.other + float(pairs.rows[0]), pairs.other_df)).p < 0.05
    own = uncertainty(values[-1, :1], resampled[-1, :1], clusters, (means.other, means.other_df))
    low, high = own.interval(scale="logit")
    return [("borrowed", float(star)), ("alone", float(low <= truth <= high))]


def simulate(world: World, runs: int, seconds: float, seed: int = 20261129) -> dict[str, list[float]]:
    """Verdict -> one rate per board."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = defaultdict(list)
    shifts: list[float] = []
    end = time.perf_counter() + seconds
    for run in range(runs):
        if run >= 20 and time.perf_counter() > end:
            break
        shift = float(np.median(shifts)) if run >= 20 and world.seeds > 1 else None
        rates, detectable = verdicts(rng, world, shift)
        shifts.append(detectable)
        for name, rate in rates:
            found[name].append(rate)
    return dict(found)


def error(rates: list[float], claim: float) -> tuple[float, float]:
    """The mean and its Monte Carlo error; boards are independent, verdicts of one board are not."""
    x = np.asarray(rates)
    # of rates that never vary: the error that the claimed rate would have
    sd = float(x.std(ddof=1)) or (claim * (1 - claim)) ** 0.5
    return float(x.mean()), sd / len(x) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="2,10,96")
    parser.add_argument("--seeds", default="1,3,5")
    parser.add_argument("--tests", default="200,2000,5d,30d")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=60, help="per line")
    options = parser.parse_args()
    lines = []
    for rows in map(int, options.rows.split(",")):
        for test in options.tests.split(","):
            for seeds in map(int, options.seeds.split(",")):
                donors = int(test[:-1]) if test.endswith("d") else 0
                world = World(rows, seeds, 2000 if donors else int(test), donors)
                found = simulate(world, options.runs, options.seconds)
                line = {"rows": rows, "test": world.name, "seeds": seeds, "boards": len(found["pair"])}
                for name, rates in found.items():
                    mean, mc = error(rates, CLAIMS.get(name, 0.05))
                    line[name] = f"{mean:.3f}±{mc:.3f}"
                lines.append(line)
                print(" ".join(f"{k}={v}" for k, v in line.items()), flush=True)
    print(tabulate(lines, headers="keys", disable_numparse=True))


if __name__ == "__main__":
    main()
