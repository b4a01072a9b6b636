"""What a row is measured against: the best single modality, and the same student without distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wbcbench.boards.entries import METRIC_ORDER
from wbcbench.boards.gather import Found
from wbcbench.boards.judge import Judge
from wbcbench.boards.model import Difference, Row
from wbcbench.boards.statistics.ties import ALPHA

Methods = Mapping[str, Sequence[Found]]


@dataclass(frozen=True)
class Baselines:
    """Finds baselines among the methods of a board and measures against them."""

    methods: Methods
    """Method id -> records in order of seed, references included."""
    by: str
    higher_is_better: bool

    def single(self, row: Row) -> str | None:
        """Best single modality of the row's backbone with all its seeds: best by validation, never by test."""
        mine = self.methods[row.method_id][0].entry
        if mine.fusion == "single":
            return None
        at, sign = METRIC_ORDER.index(self.by), 1 if self.higher_is_better else -1
        best: tuple[float, str] | None = None
        for method, records in self.methods.items():
            e = records[0].entry
            if e.fusion != "single" or e.kd != "none" or e.policies or e.backbone_id != mine.backbone_id:
                continue
            own = [f.entry.val[at] for f in records if f.entry.seed in row.seeds]
            values = [sign * v for v in own if v is not None]
            if len(values) == len(row.seeds) and (best is None or sum(values) > best[0]):
                best = sum(values), method
        return None if best is None else best[1]

    def no_kd(self, row: Row) -> tuple[str, bool] | None:
        """The same student without distillation, and whether its recipe is the same too."""
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
        self, judge: Judge, row: Row, against: str | None, names: Mapping[str, str], exact: bool = True
    ) -> Difference | None:
        """The row's lead over another method; positive is better."""
        if against is None:
            return None
        u = judge.pair(row.method_id, against)
        if not self.higher_is_better:
            u = u._replace(value=-u.value)
        low, high = u.interval()
        return Difference(
            against=against,
            against_name=names[against],
            value=round(u.value, 9),
            low=round(low, 9),
            high=round(high, 9),
            p=round(u.p, 9),
            beyond_noise=u.p < ALPHA,
            exact=exact,
        )

    @staticmethod
    def _covers(records: Sequence[Found], row: Row) -> bool:
        return set(row.seeds) <= {f.entry.seed for f in records}
