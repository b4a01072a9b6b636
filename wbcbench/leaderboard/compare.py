"""One pair of methods, explained: how far apart, how sure, on which classes, at what cost, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.errors import ComparabilityError, UsageError, did_you_mean
from wbcbench.evaluation.metrics import METRICS
from wbcbench.leaderboard.build import report
from wbcbench.leaderboard.entries import METRIC_ORDER
from wbcbench.leaderboard.gather import Found, gather
from wbcbench.leaderboard.judge import Sample, load, scatter
from wbcbench.leaderboard.model import Board, Row
from wbcbench.leaderboard.options import Options
from wbcbench.leaderboard.pair import ClassShift, Explanation, PairMcNemar, Ratio
from wbcbench.leaderboard.selection import mixed
from wbcbench.leaderboard.statistics import (
    Uncertainty,
    bootstrap,
    corrected_resampled_t,
    features,
    holm,
    mcnemar,
    uncertainty,
)
from wbcbench.leaderboard.statistics.ties import ALPHA
from wbcbench.records import verify as checks
from wbcbench.records.store import Store


def explain(stores: Sequence[Store | Path | str], a: str, b: str, options: Options) -> Explanation:
    """Compare two methods of one board.

    Args:
        stores: where their records are.
        a: a row's name, the beginning of a method's or a trial's id, or its fusion where only one row has that.
        b: the same.
        options: as for boards; `options.by` is the metric compared.

    Raises:
        UsageError: no such method, or several.
        ComparabilityError: they stand on different boards, or share no seed or no test cells.
    """
    fast = replace(options, statistics=False, details=False)
    made = report(stores, fast)
    board, left, right = _find(made.boards, a, b)
    found = gather([s if isinstance(s, Store) else Store(s) for s in stores], fast)
    seeds = sorted(set(left.seeds) & set(right.seeds))
    if not seeds:
        raise ComparabilityError(
            f"Expected {left.name} and {right.name} to share a seed, but they have {left.seeds} and "
            f"{right.seeds}. Run the missing ones."
        )
    pairs = _Pairs(board, found.trials, seeds, options)
    u = pairs.lead(left, right)
    low, high = u.interval()
    others = [
        r for r in board.rows if r.method_id not in (left.method_id, right.method_id) and r.status == "ranked"
    ]
    others = [r for r in others if set(seeds) <= set(r.seeds)]
    known = [u.p, *(pairs.lead(left, r).p for r in others)]
    family = len(known) * (len(known) + 1) // 2
    return Explanation(
        board=board.digest,
        by=options.by,
        a=left.name,
        b=right.name,
        a_id=left.method_id,
        b_id=right.method_id,
        seeds=tuple(seeds),
        a_mean=round(pairs.mean(left), 9),
        b_mean=round(pairs.mean(right), 9),
        lead=round(u.value, 9),
        low=round(low, 9),
        high=round(high, 9),
        p=round(u.p, 9),
        comparisons=family,
        p_holm=round(holm(known, family)[0], 9),
        beyond_noise=u.p < ALPHA,
        mcnemar=tuple(pairs.mcnemar(left, right)),
        classes=tuple(pairs.classes(left, right)),
        cost=tuple(_ratios(left, right)),
        differences=tuple(_spec_differences(left, right)),
        splits=_over_splits(made.boards, board, left, right, found.trials, options.by),
    )


def _find(boards: Sequence[Board], a: str, b: str) -> tuple[Board, Row, Row]:
    hits = [(board, _matches(board, a), _matches(board, b)) for board in boards]
    shared = [(board, x, y) for board, x, y in hits if x and y]
    for name, which in ((a, 1), (b, 2)):
        if not any(hit[which] for hit in hits):
            names = {r.name for board in boards for r in board.rows}
            raise UsageError(
                f"No row is called '{name}'.{did_you_mean(name, names)} Give a name, or the beginning of a "
                f"method's or trial's id. There are: {'; '.join(sorted(names)[:30])}."
            )
    if not shared:
        first = next(board for board, x, _ in hits if x)
        second = next(board for board, _, y in hits if y)
        raise mixed([(first.digest, first.key), (second.digest, second.key)])
    if len(shared) > 1:
        keys = ", ".join(f"{board.digest} ({board.key.dataset})" for board, _, _ in shared)
        raise UsageError(f"'{a}' and '{b}' stand together on several boards: {keys}. Choose one with --key.")
    board, x, y = shared[0]
    for name, rows in ((a, x), (b, y)):
        if len(rows) > 1:
            raise UsageError(
                f"'{name}' could be {'; '.join(f'{r.name} (id {r.method_id})' for r in rows)}. Give an id."
            )
    if x[0].method_id == y[0].method_id:
        raise UsageError(f"Expected two methods, but '{a}' and '{b}' are both {x[0].name}.")
    return board, x[0], y[0]


def _matches(board: Board, text: str) -> list[Row]:
    by_id = [
        r for r in board.rows
        if len(text) >= 4
        and (r.method_id.startswith(text.lstrip("#")) or any(s.trial_id.startswith(text) for s in r.sources))
    ]  # fmt: skip
    exact = [r for r in board.rows if r.name == text]
    # `a + b (weight=1)` and `a + b #1234` are names made unique; without that they may still mean several
    loose = [r for r in board.rows if text in (r.method, r.name.split(" #")[0].split(" (")[0])]
    return by_id or exact or loose


class _Pairs:
    """Paired questions about the rows of one board, on shared seeds."""

    def __init__(self, board: Board, trials: dict[str, Found], seeds: Sequence[int], options: Options) -> None:
        self.board, self.trials, self.seeds, self.options = board, trials, list(seeds), options
        self.sign = 1.0 if METRICS[options.by].higher_is_better else -1.0
        self._samples: dict[str, list[Sample]] = {}
        self._resampled: dict[str, Any] = {}
        self._scattered: tuple[dict[str, float], float] | None = None

    def samples(self, row: Row) -> list[Sample]:
        """Predictions of the shared seeds, in their order."""
        if row.method_id not in self._samples:
            trial = {s.seed: s.trial_id for s in row.sources}
            classes = len(self.board.key.classes)
            self._samples[row.method_id] = [load(self.trials[trial[s]], classes) for s in self.seeds]
        return self._samples[row.method_id]

    def clusters(self, row: Row) -> Any:
        """Donor, or cell where nobody knows donors, of each test cell; 0 .. G - 1."""
        known = [s.groups for r in self._samples.values() for s in r if s.groups is not None]
        count = len(self.samples(row)[0].labels)
        return np.unique(known[0], return_inverse=True)[1].reshape(-1) if known else np.arange(count)

    def mean(self, row: Row) -> float:
        """Of the compared metric, over shared seeds."""
        return float(np.mean(self._values(row)))

    def lead(self, a: Row, b: Row) -> Uncertainty:
        """How far a is ahead of b; positive is better."""
        first, second = self.samples(a), self.samples(b)
        marks = {s.mark for s in (*first, *second)}
        if len(marks) > 1:
            raise ComparabilityError(
                f"Expected {a.name} and {b.name} to be judged on the same test cells, but their predictions are "
                "of different ones, although their key is the same. One of the records is wrong."
            )
        clusters = self.clusters(a)
        x, y = self._bootstrap(a, clusters), self._bootstrap(b, clusters)
        known = self._scatter()
        return uncertainty(
            self.sign * (self._values(a) - self._values(b)), self.sign * (x - y), clusters.max() + 1,
            None if known is None else (known[0][a.method_id] + known[0][b.method_id], known[1]),
        )  # fmt: skip

    def mcnemar(self, a: Row, b: Row) -> Iterator[PairMcNemar]:
        """One test per seed: each is about two trained networks."""
        for seed, x, y in zip(self.seeds, self.samples(a), self.samples(b), strict=True):
            found = mcnemar(x.probabilities.argmax(1) == x.labels, y.probabilities.argmax(1) == y.labels)
            yield PairMcNemar(
                seed=seed, only_a=found.only_a, only_b=found.only_b, p=round(found.exact_p, 9),
                chi2=round(found.chi2, 9), chi2_p=round(found.chi2_p, 9),
            )  # fmt: skip

    def classes(self, a: Row, b: Row) -> Iterator[ClassShift]:
        """F1 of each class, a minus b, Holm over classes."""
        clusters = self.clusters(a)
        values, resampled = [], []
        for row in (a, b):
            tables = [features(s.probabilities, s.labels, clusters) for s in self.samples(row)]
            values.append(np.stack([t.class_f1(t.columns.sum(0)[None])[0] for t in tables]))
            resampled.append(
                bootstrap(tables, (), self.options.resamples, self.options.bootstrap_seed, per_class=True)
            )
        judged = [
            uncertainty(
                values[0][:, k] - values[1][:, k], resampled[0][:, k] - resampled[1][:, k], clusters.max() + 1
            )
            for k in range(len(self.board.key.classes))
        ]
        adjusted = holm([u.p for u in judged])
        for name, u, p in zip(self.board.key.classes, judged, adjusted, strict=True):
            low, high = u.interval()
            yield ClassShift(
                name=name, f1=round(u.value, 9), low=round(low, 9), high=round(high, 9), p_holm=round(p, 9),
                beyond_noise=p < ALPHA,
            )  # fmt: skip

    def _scatter(self) -> tuple[dict[str, float], float] | None:
        if len(self.seeds) < 2:
            return None
        if self._scattered is None:
            values = {}
            for row in self.board.rows:
                by_seed = {s.seed: s.metrics[self.options.by] for s in row.sources}
                own = [v for s in self.seeds if (v := by_seed.get(s)) is not None]
                if len(own) == len(self.seeds):
                    values[row.method_id] = np.array(own)
            self._scattered = scatter(values)
        return self._scattered

    def _values(self, row: Row) -> Any:
        at = METRIC_ORDER.index(self.options.by)
        return np.array([s.found.entry.test[at] for s in self.samples(row)], dtype=np.float64)

    def _bootstrap(self, row: Row, clusters: Any) -> Any:
        if row.method_id not in self._resampled:
            tables = [features(s.probabilities, s.labels, clusters) for s in self.samples(row)]
            o = self.options
            self._resampled[row.method_id] = bootstrap(tables, (o.by,), o.resamples, o.bootstrap_seed)[:, 0]
        return self._resampled[row.method_id]


def _ratios(a: Row, b: Row) -> Iterator[Ratio]:
    pairs: list[tuple[str, float | None, float | None]] = [
        ("parameters", a.params, b.params),
        ("MACs", a.macs, b.macs),
        ("training time", a.train_seconds, b.train_seconds),
    ]
    same = (a.timing.device, a.timing.threads) == (b.timing.device, b.timing.threads)
    if same:
        pairs.append(("latency", a.timing.latency_ms, b.timing.latency_ms))
    for what, x, y in pairs:
        if x is not None and y:
            yield Ratio(what=what, a=float(x), b=float(y), ratio=round(x / y, 6))


def _spec_differences(a: Row, b: Row) -> Iterator[str]:
    paths = [row.sources[0].path for row in (a, b)]
    assert all(paths)
    mine, theirs = (checks.read_trial(p).method.model_dump(mode="json") for p in paths if p is not None)
    for method in (mine, theirs):
        method["teachers"] = [
            {"reads": t["protocol"]["modalities"], "seed": t["seed"],
             **{k: t["method"][k] for k in ("fusion", "backbone", "recipe")}}
            for t in method["teachers"]
        ]  # fmt: skip
    if a.modalities != b.modalities:
        yield f"modalities: {'+'.join(a.modalities)} != {'+'.join(b.modalities)}"
    yield from _differing("", mine, theirs)


def _differing(path: str, mine: Any, theirs: Any) -> Iterator[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in dict.fromkeys([*mine, *theirs]):
            yield from _differing(f"{path}.{name}" if path else name, mine.get(name), theirs.get(name))
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
            yield from _differing(f"{path}[{i}]", x, y)
    elif mine != theirs:
        yield f"{path}: {_short(mine)} != {_short(theirs)}"


def _short(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    if isinstance(value, dict) and "backbone" in value:
        return f"{_short(value['backbone'])} on {'+'.join(value['reads'])}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]" if value else "none"
    return "none" if value is None else str(value)


def _over_splits(
    boards: Sequence[Board], board: Board, a: Row, b: Row, trials: dict[str, Found], by: str
) -> str | None:
    """Nadeau and Bengio's test, where both methods ran on several splits of the same data."""
    sign = 1.0 if METRICS[by].higher_is_better else -1.0
    differences = []
    for other in boards:
        if other.key.model_copy(update={"split": board.key.split}) != board.key:
            continue
        mine, theirs = ([r for r in other.rows if r.name == wanted.name] for wanted in (a, b))
        if len(mine) == len(theirs) == 1:
            x, y = mine[0].metrics[by].mean, theirs[0].metrics[by].mean
            if x is not None and y is not None:
                differences.append(sign * (x - y))
    ratio = trials[a.sources[0].trial_id].entry.test_to_train
    if len(differences) < 2 or ratio is None:
        return None
    u = corrected_resampled_t(differences, ratio)
    low, high = u.interval()
    return (
        f"Over {len(differences)} splits of the same data: lead {u.value:+.4f} ({low:+.4f} to {high:+.4f}), "
        f"corrected resampled t-test p = {u.p:.3g}."
    )
