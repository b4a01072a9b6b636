"""Options of boards, and the list of invalid records (`leaderboards/invalid.yaml`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError

from wbcbench.boards.statistics import RESAMPLES, SEED
from wbcbench.errors import UsageError
from wbcbench.evaluation.metrics import METRICS, Metric
from wbcbench.evaluation.scorers import Scorer, known
from wbcbench.records.schema import Strict
from wbcbench.spec.request import load_yaml

LARGE = 2000
"""Number of records on the boards above which statistics and details are computed only on request."""

MARGIN = 0.01
"""Methods that differ by less, on the metric that is compared, are called level."""

Checked = Literal["quick", "files", "full"]


@dataclass(frozen=True)
class Options:
    """Raises `UsageError` when a value is unknown or out of range."""

    by: str = "macro_f1"
    """The metric that ranks: a built-in one, or the name of one in `metrics`."""
    metrics: tuple[Scorer, ...] = ()
    """Metrics that records do not state, computed from their predictions."""
    seeds: tuple[int, ...] | None = None
    """Seeds that a row needs; None: those of `board_seeds`, else those that most methods have."""
    board_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Digest of a board's key -> the seeds that it was published with."""
    keys: tuple[str, ...] = ()
    """Prefixes of key digests; empty: all boards."""
    where: dict[str, str] = field(default_factory=dict)
    """Field of the key (dotted: `budget.epochs`) -> its value as text."""
    together: bool = False
    """Everything in one table; an error if keys differ."""
    statistics: bool | None = None
    """None: yes, unless there are more than `LARGE` records on the boards."""
    details: bool | None = None
    """Per-class scores, confusion, reliability; None as above."""
    resamples: int = RESAMPLES
    bootstrap_seed: int = SEED
    margin: float = MARGIN
    """For comparisons and effects: what differs by less is called level."""
    verify: Checked | None = None
    """How thoroughly records are checked; None: `full` up to 200 records in the stores, `files` up to 5,000, else
    `quick`. With statistics, metrics are always recomputed."""
    index: bool = True
    """Read and write `index/` in the stores."""
    reproduced: bool = False
    """Leave out the rows of published boards that others claim and that were not trained again."""
    invalid: Mapping[str, str] = field(default_factory=dict)
    """Trial id, or a record's digest -> why it is invalid: it does not count and is listed as left out."""

    def __post_init__(self) -> None:
        self.properties(self.by)
        if self.resamples < 100:
            raise UsageError(f"Expected at least 100 resamples, but got {self.resamples}.")
        if not 0 < self.margin < math.inf:
            raise UsageError(f"Expected a margin above 0, in units of {self.by}, but got {self.margin:g}.")
        if self.seeds is not None and not self.seeds:
            raise UsageError("Expected at least one seed, as in --seeds 0,1,2, but got none.")

    def properties(self, metric: str) -> Metric:
        """Of a metric of the boards. Raises `UsageError` for another name."""
        return METRICS.get(metric) or known(metric, self.metrics)

    @property
    def higher(self) -> bool:
        """Whether higher is better, by the metric that ranks."""
        return self.properties(self.by).higher_is_better

    @property
    def widest(self) -> float:
        """The largest possible difference of two rows, by the metric that ranks."""
        low, high = self.properties(self.by).range
        return high - low


class Invalid(Strict):
    """One invalid record."""

    record: str = Field(pattern=r"^([0-9a-f]{16}|[0-9a-f]{64})$")
    """Trial id (16 hex digits: every record of it), or a record's digest (64)."""
    reason: str = Field(min_length=10, max_length=1000)


def read_invalid(path: Path) -> dict[str, str]:
    """Trial id or digest -> reason. Raises `UsageError` for a file in another format."""
    try:
        document = load_yaml(path.read_text(encoding="utf-8")) or []
    except (OSError, ValueError) as error:
        raise UsageError(f"Expected a YAML list in {path}, but it cannot be read ({error}).") from error
    try:
        entries = TypeAdapter(list[Invalid]).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"Expected a list of `record:` (16 or 64 hex digits) and `reason:` (10 characters or more) in {path}, "
            f"but {'.'.join(map(str, first['loc']))}: {first['msg']}. Put the digits into quotes."
        ) from error
    return {e.record: e.reason for e in entries}
