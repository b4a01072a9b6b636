"""One board: its seeds and rows, their gains over single modalities and no distillation, and their ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wbcbench.boards.board_statistics import BoardStatistics, defined, lead_interval
from wbcbench.boards.columns import header
from wbcbench.boards.deployed import deployed
from wbcbench.boards.entries import Found
from wbcbench.boards.external import externals
from wbcbench.boards.gather import Group, board_seeds, by_method
from wbcbench.boards.model import Board, Comparison, Difference, Estimate, PerTable, Row
from wbcbench.boards.names import named, with_backbones
from wbcbench.boards.options import Options
from wbcbench.boards.rows import RowMaker, details
from wbcbench.boards.samples import agreeing
from wbcbench.boards.shares import MANY, table
from wbcbench.boards.standing import standing_notes
from wbcbench.boards.statistics import holm
from wbcbench.boards.statistics.hypothesis_tests import ALPHA
from wbcbench.boards.teachers import teacher_notes, with_teachers
from wbcbench.boards.values import Values, options_of
from wbcbench.errors import RecordError
from wbcbench.evaluation.levelling import moved
from wbcbench.records import verify as checks
from wbcbench.records.schema import ComparisonKey

Methods = Mapping[str, Sequence[Found]]


@dataclass(frozen=True)
class Baselines:
    """Finds baselines among the methods of a board and computes differences from them."""

    methods: Methods
    """Method id -> records in order of seed, references included."""
    values: Values
    options: Options

    @property
    def by(self) -> str:
        """The metric that ranks."""
        return self.options.by

    def single(self, row: Row) -> str | None:
        """Best single modality with the row's backbone and all its seeds: best by validation, never by test."""
        mine = self.methods[row.method_id][0].entry
        if mine.fusion == "single":
            return None
        sign = 1 if self.options.higher else -1
        best: tuple[float, str] | None = None
        for method, records in self.methods.items():
            e = records[0].entry
            if e.fusion != "single" or e.kd != "none" or e.policies or e.backbone_id != mine.backbone_id:
                continue
            own = [self.values.val(f, self.by) for f in records if f.entry.seed in row.seeds]
            values = [sign * v for v in own if v is not None]
            if len(values) == len(row.seeds) and (best is None or sum(values) > best[0]):
                best = sum(values), method
        return None if best is None else best[1]

    def no_kd(self, row: Row) -> tuple[str, bool] | None:
        """The same student without distillation, and whether it has the same recipe."""
        mine = self.methods[row.method_id][0].entry
        if mine.kd == "none":
            return None
        for exact in (True, False):
            for method, records in self.methods.items():
                e = records[0].entry
                same = e.twin == mine.twin if exact else e.loose_twin == mine.loose_twin
                if same and e.kd == "none" and e.key == mine.key and self._covers(records, row):
                    return method, exact
        return None

    def difference(
        self,
        stats: BoardStatistics,
        row: Row,
        against: str | None,
        names: Mapping[str, str],
        exact: bool = True,
    ) -> Difference | None:
        """The row's lead over another method; positive means better."""
        if against is None:
            return None
        u = stats.pair(row.method_id, against)
        if not self.options.higher:
            u = u._replace(value=-u.value)
        low, high = lead_interval(u, self.options)
        return Difference(
            against=against,
            against_name=names[against],
            value=round(u.value, 9),
            low=round(low, 9),
            high=round(high, 9),
            p=defined(u.p),
            p_holm=None,
            beyond_noise=False,
            exact=exact,
        )

    @staticmethod
    def _covers(records: Sequence[Found], row: Row) -> bool:
        return set(row.seeds) <= {f.entry.seed for f in records}


_STATUS_ORDER = {"ranked": 0, "reference": 1, "incomplete": 2}


def make_board(
    group: Group, maker: RowMaker, options: Options, *, statistics: bool, with_details: bool
) -> tuple[Board, dict[str, str]]:
    """A board, and the records that were refused after reading their predictions (trial id -> reason)."""
    options = options_of(options, group.key)
    values, higher = Values.of(options, group.key), options.higher
    bad = values.unreadable((*group.own, *group.references))
    if bad:
        group = _without(group, bad)
    seeds = board_seeds(by_method(group.own), options, group.digest)
    methods = _methods(group, seeds)
    stats = None
    refused = group.refused | bad
    notes: list[str] = []
    if statistics:
        stats = BoardStatistics(_whole(methods, group), options, _root(group), values)
        notes += stats.kept.notes
        if bad := stats.kept.refused:
            refused |= bad
            group = _without(group, bad)
            seeds = board_seeds(by_method(group.own), options, group.digest)
            methods = _methods(group, seeds)
            stats.save()
            stats = BoardStatistics(_whole(methods, group), options, _root(group), values)
        if not stats.enough:
            stats = None
    own = {f.entry.method_id for f in group.own}
    rows = []
    for method, records in methods.items():
        there = {f.entry.seed for f in records} - set(group.lacking.get(method, ()))
        missing = tuple(s for s in seeds if s not in there)
        status = "reference" if method not in own else "incomplete" if missing else "ranked"
        rows.append(maker.row(records, status, values, missing if status == "incomplete" else (), group.folds))  # type: ignore[arg-type]
    rows = with_backbones(named(rows), {m: records[0].entry.backbone_id for m, records in methods.items()})
    if not group.folds:
        rows = with_teachers(rows, methods, maker.found, values, options)
    names = {r.method_id: r.name for r in rows}
    rows = _ranked(rows, options.by, higher)
    comparisons: list[Comparison] = []
    detectable = None
    if stats is not None:
        baselines = Baselines(methods, values, options)
        rows = [r if r.method_id in group.lacking else _measured(r, stats, baselines, names) for r in rows]
        rows = _corrected(_corrected(rows, "over_single"), "over_no_kd")
        rows, comparisons, detectable = _compared(rows, stats, options.by, higher)
        stats.save()
    others = externals(methods, names, options, statistics)
    files, told = deployed(methods, names, options, statistics, values)
    rows = [
        r.model_copy(
            update={
                "external": tuple(others.scores.get(r.method_id, ())),
                "deployed": files.get(r.method_id, ()),
            }
        )
        for r in rows
    ]
    if with_details:
        rows = [r.model_copy(update={"details": details(r, len(group.key.classes))}) for r in rows]
    notes += _fold_notes(group, names) + _notes(rows, seeds, options, stats is not None)
    notes += _levelling_notes(rows, group.key)
    notes += teacher_notes(rows, options.by)
    notes += _ceilings(group)
    notes += standing_notes(rows)
    notes += others.notes + told
    notes += values.looped(options.resamples) if stats is not None else []
    notes += maker.examinations.notes(f.entry.trial_id for records in methods.values() for f in records)
    if options.seeds is None and (beyond := sorted({f.entry.seed for f in group.own} - set(seeds))):
        notes.append(
            f"The board counts seeds {_listed(seeds)}; seeds {_listed(beyond)}, which fewer rows have, are no "
            "part of a complete row. --seeds chooses others."
        )
    sign = -1 if higher else 1

    def place(r: Row) -> tuple[int, int, float, str, str]:
        mean = r.metrics[options.by].mean
        worst = float("inf") if mean is None else sign * mean
        return _STATUS_ORDER[r.status], r.rank or len(rows) + 1, worst, r.name, r.method_id

    board = Board(
        key=group.key,
        digest=group.digest,
        by=options.by,
        higher_is_better=higher,
        seeds=seeds,
        folds=group.folds,
        test_cells=stats.kept.test_cells if stats else None,
        clusters=stats.kept.clusters if stats else None,
        grouped=stats.kept.grouped if stats else False,
        resamples=options.resamples if stats else None,
        rows=tuple(sorted(rows, key=place)),
        comparisons=tuple(comparisons),
        external=tuple(others.sets),
        more_metrics=values.described(),
        detectable=detectable,
        notes=tuple(notes),
    )
    if with_details:
        board = board.model_copy(update={"per_group": _per_group(board, _whole(methods, group), values)})
    return board, refused


def _per_group(board: Board, methods: Methods, values: Values) -> PerTable | None:
    """The table by donor, slide or plate; None without groups, with one, or with too many for a page."""
    first = next((own[0] for own in methods.values() if own), None)
    try:
        if first is None or "test_groups" not in checks.read_predictions(first.path):
            return None
    except RecordError:
        return None
    found = table(board, agreeing(methods, len(board.key.classes))[0], "group", values)
    return found if found is not None and 1 < len(found.shares) <= MANY else None


def _ceilings(group: Group) -> list[str]:
    """Classes without test cells, which keep macro-F1 below 1. All records have the same test cells."""
    for found in group.own:
        try:
            return checks.read_result(found.path).ceilings()
        except RecordError:
            continue
    return []


def _methods(group: Group, seeds: tuple[int, ...]) -> dict[str, list[Found]]:
    """Records that count: for a method that has all seeds of the board, only those seeds."""
    methods = by_method(group.own)
    for method, records in methods.items():
        if set(seeds) <= {f.entry.seed for f in records}:
            methods[method] = [f for f in records if f.entry.seed in seeds]
    for method, records in by_method(group.references).items():
        wanted = [f for f in records if f.entry.seed in seeds]
        methods.setdefault(method, wanted or records)
    return {m: r for m, r in methods.items() if r}


def _whole(methods: Methods, group: Group) -> Methods:
    """Without the methods that lack a fold: their test cells are others."""
    return {m: records for m, records in methods.items() if m not in group.lacking}


def _without(group: Group, refused: Mapping[str, str]) -> Group:
    """The group without these records, and without the seeds of which they are a fold."""
    own, references = (
        [f for f in found if not any(r.entry.trial_id in refused for r in f.records)]
        for found in (group.own, group.references)
    )
    return replace(group, own=own, references=references)


def _fold_notes(group: Group, names: Mapping[str, str]) -> list[str]:
    if not group.folds:
        return []
    notes = [
        f"{len(group.folds)} folds ({_listed(group.folds)}): a row's predictions are those of every fold's "
        "network for the cells that it was not trained on, together. n counts trained networks."
    ]
    for method, seeds in sorted(group.lacking.items(), key=lambda item: names.get(item[0], item[0])):
        which = "; ".join(f"folds {_listed(f)} of seed {s}" for s, f in sorted(seeds.items()))
        notes.append(f"{names.get(method, method)} lacks {which}: its numbers are of other cells.")
    return notes


def _root(group: Group) -> Path:
    return group.own[0].root


def _measured(row: Row, stats: BoardStatistics, baselines: Baselines, names: Mapping[str, str]) -> Row:
    metrics: dict[str, Estimate] = {}
    for name, found in row.metrics.items():
        limits = None if found.mean is None else stats.interval(row.method_id, name)
        low, high = limits or (None, None)
        metrics[name] = Estimate(mean=found.mean, sd=found.sd, low=low, high=high)
    if metrics[baselines.by].mean is None:
        return row.model_copy(update={"metrics": metrics})
    no_kd = baselines.no_kd(row)
    return row.model_copy(
        update={
            "metrics": metrics,
            "over_single": baselines.difference(stats, row, baselines.single(row), names),
            "over_no_kd": None if no_kd is None else baselines.difference(stats, row, no_kd[0], names, no_kd[1]),
        }
    )


def _order(rows: Sequence[Row], by: str, higher: bool) -> list[int]:
    found = [(i, r.metrics[by].mean) for i, r in enumerate(rows) if r.status == "ranked"]
    known = [(i, m) for i, m in found if m is not None]
    return [i for i, m in sorted(known, key=lambda x: (-x[1] if higher else x[1], rows[x[0]].method_id))]


def _corrected(rows: Sequence[Row], column: str) -> list[Row]:
    """The rows with Holm's correction of the differences in one column, as all of them are looked at."""
    there = [i for i, r in enumerate(rows) if getattr(r, column) is not None]
    found = [getattr(rows[i], column) for i in there]
    corrected = list(rows)
    for i, d, p in zip(there, found, holm([math.nan if d.p is None else d.p for d in found]), strict=True):
        update = {"p_holm": defined(p), "beyond_noise": p < ALPHA}
        corrected[i] = rows[i].model_copy(update={column: d.model_copy(update=update)})
    return corrected


def _compared(
    rows: list[Row], stats: BoardStatistics, by: str, higher: bool
) -> tuple[list[Row], list[Comparison], float | None]:
    """Rows with their place in or out of the set of the best, the leads of the first, and `Board.detectable`."""
    order = [rows[i].method_id for i in _order(rows, by, higher)]
    if len(order) < 2:
        return rows, [], None
    standing = stats.standing(order, higher)
    leader, *others = standing.methods
    made = [
        Comparison(leader=leader, row=other, **lead.model_dump())
        for other, lead in zip(others, standing.leads, strict=True)
    ]
    if any(c.p_best is None for c in made):
        return rows, made, None
    best = {leader: True} | {c.row: c.p_best is not None and c.p_best >= ALPHA for c in made}
    rows = [r.model_copy(update={"among_best": best.get(r.method_id)}) for r in rows]
    return rows, made, standing.detectable


def _ranked(rows: list[Row], by: str, higher: bool) -> list[Row]:
    """In the order of means; rows with equal means share a rank."""
    last: tuple[float | None, int] = (None, 0)
    for place, i in enumerate(_order(rows, by, higher), start=1):
        mean = rows[i].metrics[by].mean
        last = last if mean == last[0] else (mean, place)
        rows[i] = rows[i].model_copy(update={"rank": last[1]})
    return rows


def _levelling_notes(rows: Sequence[Row], key: ComparisonKey) -> list[str]:
    """Whether ranked rows still improved when training ended, and what more training changed about their order."""
    ranked = [r.levelled for r in rows if r.status == "ranked" and r.levelled is not None]
    best = [v.best for v in ranked if v.best is not None]
    told = Counter(v.verdict for v in ranked if not v.verdict.endswith(" to tell"))
    notes = []
    if 2 * told["still improving"] > len(ranked):
        notes.append(
            f"{told['still improving']} of {len(ranked)} rows were still improving when training ended, after "
            f"{key.budget.epochs} epochs: with more (`wbcbench run --epochs N`) their order may be another."
        )
    elif len(told) > 1:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(told.items()))
        notes.append(
            f"Rows differ in whether training had levelled off ({counts}; `levelled`): with more or fewer than "
            f"{key.budget.epochs} epochs their order may be another."
        )
    if len(best) > 1:
        half, later, end = zip(*best, strict=True)
        (m2, tau2), (m3, tau3) = moved(half, end), moved(later, end)
        pairs = len(best) * (len(best) - 1) // 2
        notes.append(
            f"By validation {header(key.judged_by)}, {m2} of {pairs} pair{'s' * (pairs > 1)} of rows stood the "
            f"other way round after half of training (Kendall's tau {tau2:.2f}), {m3} after three quarters "
            f"({tau3:.2f})."
        )
    return notes


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def _lacks_single(row: Row, rows: Sequence[Row]) -> bool:
    alone = row.status == "ranked" and row.fusion != "single" and row.over_single is None
    return alone and any(r.fusion == "single" for r in rows)


def _notes(rows: Sequence[Row], seeds: tuple[int, ...], options: Options, judged: bool) -> list[str]:
    notes = []
    incomplete = [r for r in rows if r.status == "incomplete"]
    if incomplete:
        shared = set(rows[0].seeds).intersection(*(r.seeds for r in rows if r.status != "reference"))
        hint = f" --seeds {','.join(map(str, sorted(shared)))} ranks them all." if shared else ""
        notes.append(
            f"incomplete: {len(incomplete)} of {len(rows)} rows lack one of seeds {', '.join(map(str, seeds))} "
            f"and are not ranked.{hint}"
        )
    if judged and len(seeds) == 1:
        notes.append(
            "One seed: intervals are over test cells only, and no row is called better, since nothing is known of "
            "other seeds."
        )
    elif judged and any(len(r.seeds) == 1 for r in rows):
        notes.append("A row of one seed gets the variance between seeds from the other rows, if there are enough.")
    if judged and any(_lacks_single(r, rows) for r in rows):
        notes.append("No lead over single is given where no row of one modality has the row's backbone and seeds.")
    budgets = {r.search.trials if r.search else 0 for r in rows if r.status == "ranked"}
    if len(budgets) > 1:
        notes.append(
            "Rows had different search budgets: "
            + ", ".join("none" if b == 0 else f"{b} trials" for b in sorted(budgets))
            + ". See `search`."
        )
    devices = {(r.timing.device, r.timing.threads) for r in rows}
    if len(devices) > 1:
        notes.append("Latency and throughput are of different devices or thread counts: do not compare them.")
    if any(r.over_no_kd is not None and not r.over_no_kd.exact for r in rows):
        notes.append("A gain over no KD marked ~ is against a student with another training recipe.")
    if not judged and options.statistics is None:
        notes.append("No intervals or ties here: only equal means share a rank.")
    return notes
