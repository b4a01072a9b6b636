"""Random divisions of cells: single cells or whole groups, balanced by class. Each seed is another draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import content_digest
from wbcbench.errors import DataError

Indices = NDArray[np.int64]
Masks = NDArray[np.bool_]
EXHAUSTIVE = 12
"""Up to this many groups, every set of groups is considered."""
CANDIDATES = 4096
"""Random sets of groups that are considered where there are more."""
SLACK = 0.5
"""Imbalance accepted beyond the best, as part of the share: seeds then differ, and no draw is lopsided."""


def draw_cells(labels: Indices, pool: Indices, share: float, seed: int) -> Indices:
    """About `share` of the cells `pool`, stratified by label. Raises `DataError` if a class is too small."""
    from sklearn.model_selection import train_test_split

    # A count, because scikit-learn rounds a fraction up: 0.1 / 0.7 of 700 would give 101.
    count = max(1, round(share * len(pool)))
    try:
        drawn = train_test_split(np.arange(len(pool)), test_size=count, stratify=labels[pool], random_state=seed)[
            1
        ]
    except ValueError as error:
        raise DataError(f"Expected enough cells of every class to split, but: {error} Add cells.") from error
    return np.asarray(pool[drawn])


def draw_groups(
    labels: Indices, groups: Indices, pool: Indices, share: float, seed: int, nth: int = 0, leave: int = 1
) -> Indices:
    """The cells of about `share` of the groups in `pool`, one of many balanced sets of groups.

    A set is balanced if its share of all cells and of each class is near `share`, and if every class remains
    outside it. One of the balanced sets is drawn at random.

    Args:
        labels: [N].
        groups: [N].
        pool: cells to draw from.
        share: 0 to 1; at least one group is drawn.
        seed: of the draw.
        nth: draws without replacement: no two are equal.
        leave: groups that are left at least.

    Raises:
        DataError: fewer than `leave` + 1 groups, no set leaves every class outside, or fewer than `nth` + 1 sets.
    """
    names, code = np.unique(groups[pool], return_inverse=True)
    if len(names) <= leave:
        raise DataError(f"Expected at least {leave + 1} groups to set {share:.0%} aside, but got {len(names)}.")
    table = np.zeros((len(names), int(labels.max()) + 1))
    np.add.at(table, (code.reshape(-1), labels[pool]), 1)
    table = table[:, table.any(axis=0)]
    rng = np.random.default_rng(seed)
    masks = _sets(table.sum(axis=1), share, len(names) - leave, rng)
    shares = masks @ (table / table.sum(axis=0))
    size = masks @ table.sum(axis=1) / len(pool)
    score = np.abs(size - share) + np.abs(shares - share).mean(axis=1)
    score[(shares > 1 - 1e-9).any(axis=1)] = np.inf  # some class would not be left to train on
    if not np.isfinite(score).any():
        raise DataError(
            f"Expected to set {share:.0%} of {len(names)} groups aside, but then some class would have no cell "
            "left. Add groups, or leave out the classes that only one group has."
        )
    order = np.sort(score[np.isfinite(score)])
    limit = min(order[0] + SLACK * share, max(order[len(order) // 10], order[min(19, len(order) - 1)]))
    accepted = rng.permutation(np.flatnonzero(score <= limit + 1e-9))
    if nth >= len(accepted):
        raise DataError(
            f"Expected {nth + 1} different divisions of {len(names)} groups, but only {len(accepted)} are "
            f"balanced. Set split.folds={len(accepted)} or less, or scheme leave_one_group_out."
        )
    return np.asarray(pool[masks[accepted[nth]][code.reshape(-1)]])


def _sets(sizes: NDArray[np.float64], share: float, most: int, rng: np.random.Generator) -> Masks:
    """Sets [M, G] of 1 to `most` groups: all there are, or random ones of about the right size."""
    count = len(sizes)
    if count <= EXHAUSTIVE:
        numbers = np.arange(1, 2**count - 1)
        masks = np.asarray((numbers[:, None] >> np.arange(count)) & 1, dtype=bool)
        return np.asarray(masks[masks.sum(axis=1) <= most])
    order = rng.permuted(np.tile(np.arange(count), (CANDIDATES, 1)), axis=1)
    filled = np.cumsum(sizes[order], axis=1) / sizes.sum()
    take = np.clip(np.abs(filled - share).argmin(axis=1) + 1, 1, most)
    masks = np.zeros((CANDIDATES, count), dtype=bool)
    np.put_along_axis(masks, order, np.arange(count) < take[:, None], axis=1)
    return np.unique(masks, axis=0)


def partition(labels: Indices, groups: Indices | None, folds: int, seed: int) -> Indices:
    """Fold 0 .. `folds` - 1 of each of [N] cells, balanced by class; groups stay whole.

    Raises:
        DataError: fewer groups than folds, or fewer cells of a class than folds.
    """
    from sklearn.model_selection import StratifiedKFold

    if groups is not None:
        return _partition_groups(labels, groups, folds, seed)
    rare = np.bincount(labels)
    rare = rare[rare > 0]
    if rare.min() < folds:
        raise DataError(
            f"Expected at least {folds} cells of every class for {folds} folds, but the smallest has "
            f"{rare.min()}. Set split.folds={max(2, rare.min())}, or leave that class out."
        )
    code = np.zeros(len(labels), dtype=np.int64)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, test) in enumerate(splitter.split(labels, labels)):
        code[test] = fold
    return code


def _partition_groups(labels: Indices, groups: Indices, folds: int, seed: int) -> Indices:
    """One of the best of many random partitions, each filled group by group where it balances most."""
    names, code = np.unique(groups, return_inverse=True)
    count = len(names)
    if count < folds:
        raise DataError(
            f"Expected at least {folds} groups for {folds} folds, but got {count}. "
            f"Set split.folds={count} or less, or split.scheme=leave_one_group_out."
        )
    table = np.zeros((count, int(labels.max()) + 1))
    np.add.at(table, (code.reshape(-1), labels), 1)
    table = table[:, table.any(axis=0)]
    table /= table.sum(axis=0)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(int(np.clip(8000 // count, 8, 256))):
        of, filled, held = np.zeros(count, dtype=np.int64), np.zeros((folds, table.shape[1])), np.zeros(folds)
        for g in rng.permutation(count):
            worse = (2 * filled * table[g]).sum(axis=1)
            of[g] = fold = np.lexsort((rng.random(folds), held, worse))[0]
            filled[fold] += table[g]
            held[fold] += 1
        found.append((float(np.abs(filled - 1 / folds).mean()), of))
    found.sort(key=lambda pair: pair[0])
    best = [of for score, of in found if score <= found[max(0, len(found) // 10 - 1)][0] + 1e-9]
    return np.asarray(best[int(rng.integers(len(best)))][code.reshape(-1)])


def another_seed(*parts: int | str) -> int:
    """A seed of 32 bits, by content; unlike `data.counter` without torch, since audits divide cells too."""
    return int(content_digest(*map(str, parts))[:8], 16)


def draw(
    labels: Indices, groups: Indices | None, pool: Indices, share: float, seed: int, nth: int = 0, leave: int = 1
) -> Indices:
    """About `share` of `pool`: whole groups if there are groups, else cells; see the functions above."""
    if groups is None:
        return draw_cells(labels, pool, share, another_seed(seed, "division", nth) if nth else seed)
    return draw_groups(labels, groups, pool, share, seed, nth, leave)


def draw_groups_as_before(labels: Indices, groups: Indices, pool: Indices, share: float, seed: int) -> Indices:
    """The draw of records made before `split.unit` existed, so that they can be verified: nearly the same for
    every seed, since scikit-learn's shuffle only decides between equally good groups."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = max(2, round(1 / share))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        chosen = next(splitter.split(labels[pool], labels[pool], groups[pool]))[1]
    except ValueError as error:
        raise DataError(f"Expected enough cells of every class to split, but: {error} Add cells.") from error
    return np.asarray(pool[chosen])


__all__ = ["another_seed", "draw", "draw_cells", "draw_groups", "draw_groups_as_before", "partition"]
