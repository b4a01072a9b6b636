"""The data model of a board, from which every format, figure and published page is made.

`wbcbench.boards.build(stores, options)` returns `Board`s; `wbcbench.boards.report` also returns what was
left out. Everything is frozen, ordered and free of times, host names and paths (`Source.path` is not serialised),
so equal records give equal bytes. `wbcbench leaderboard schema` prints the JSON schema of `Report`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import CoreSchema

from wbcbench.evaluation.levelling import Levelled
from wbcbench.evaluation.metrics import METRICS
from wbcbench.records.schema import ComparisonKey, Strict

BOARD_SCHEMA_VERSION: Literal[2] = 2

METRIC_NAMES = ("macro_f1", "balanced_accuracy", "accuracy", "auroc", "nll", "brier", "ece")
"""In the order in which tables show them."""
assert set(METRIC_NAMES) == set(METRICS)

Status = Literal["ranked", "reference", "incomplete"]


class MoreMetric(Strict):
    """A metric that records do not state, computed from their predictions."""

    name: str
    """With its parameters, as in `expected_cost:decide=cheapest`."""
    doc: str
    higher_is_better: bool
    low: float | None
    high: float | None
    """Its range; None: no limit."""
    per_class: bool
    """Whether it is the mean of a value per class."""
    sha256: str
    """Of the file of its code."""


class Estimate(Strict):
    """A metric over seeds. None: undefined, or no statistics were computed."""

    mean: float | None = None
    sd: float | None = None
    """Between seeds, ddof 1."""
    low: float | None = None
    high: float | None = None
    """95 % interval over test cells and seeds. Of one seed: with the other rows' variance between seeds; if they
    are too few, over test cells only."""


class Difference(Strict):
    """A row's lead over another on the board's metric, paired by cell and seed; positive means better."""

    against: str
    """Method id."""
    against_name: str
    value: float
    low: float
    high: float
    p: float | None
    """None: of one seed, with too few other rows to say anything of other seeds."""
    p_holm: float | None
    """Corrected for the differences in this column of the board."""
    beyond_noise: bool
    """p_holm < 0.05."""
    exact: bool = True
    """False: the rows differ in their training recipe too."""


class Comparison(Strict):
    """A ranked row compared with the one of the best mean."""

    leader: str
    row: str
    """Method ids."""
    value: float
    """Leader minus row; positive if the leader is better."""
    low: float
    high: float
    p: float | None
    p_holm: float | None
    """Corrected for all pairs of ranked rows."""
    p_best: float | None
    """That the row is a best one. Below 0.05, some row is better, and it is not in the set of the best. All three
    are None on a board of one seed."""


class Timing(Strict):
    """Speed of the deployed network, median over seeds. Comparable only for the same device and thread count."""

    device: str
    """Several, joined by ` / `, if seeds ran on different devices: then no speed is given."""
    threads: int | None = None
    latency_ms: float | None = None
    throughput: float | None = None
    """Images per second."""


class TeacherScore(Strict):
    """A teacher on the row's test cells, by the board's metric, mean over those that taught the row's seeds."""

    method_id: str
    name: str
    """`single[dapi]`"""
    mean: float
    worse_than_student: bool
    untaught: str | None
    """Name of the best untaught row (by validation) that reads no more than the teacher, if there is one."""
    beats_untaught: bool | None


class OutsideTeaching(Strict):
    """A teacher from outside: answers in a file, which nobody can train again from here."""

    name: str
    digest: str
    """SHA-256 of the file."""
    test_cells_seen: int | None
    """Test cells that it was trained or selected on; None: the file does not say, so that it may have seen any."""
    metrics: dict[str, float | None]
    """On the test split, mean over seeds; keys `METRIC_NAMES`. Empty: it does not answer for all test cells."""
    worse_than_student: bool | None = None
    """By the board's metric."""


class Teaching(Strict):
    """The teachers of a row: their cost, including that of their own teachers, and how good they are."""

    teachers: int
    """Number of distinct trained networks, over all seeds."""
    sets: int
    """Different sets of teachers behind the row's seeds. With one for several seeds, intervals hold no variance
    between teachers."""
    scores: tuple[TeacherScore, ...] = ()
    """Of the row's own teachers whose records are in a given store; empty for folds."""
    train_seconds: float | None
    macs: int | None
    """Of the teachers of one student, per cell. Both are None if a teacher's record is in no given store."""
    params: int | None


class Search(Strict):
    """Cost of the search that chose this row's parameters, by validation."""

    study: str
    trials: int
    complete: int | None = None
    pruned: int | None = None
    failed: int | None = None
    train_seconds: float | None = None


class MissingModalities(Strict):
    """Macro-F1 with only some modalities present, mean over seeds; only if every seed was evaluated in full."""

    worst: tuple[str, ...]
    worst_macro_f1: float
    subsets: dict[str, float]
    """`brightfield+dapi` -> macro-F1."""


class ExternalSet(Strict):
    """Labelled cells of another data set, on which the networks of a board were evaluated."""

    id: str
    name: str
    dataset: str
    fingerprint: str
    cells: int
    """That were evaluated; of rows that differ in this, the most."""
    fewest_cells: int
    """The fewest."""
    groups: int | None
    """Donors, slides or plates; None: not known, so that cells are resampled."""
    classes: tuple[str, ...]
    """Those with cells."""
    left_out: tuple[str, ...]
    """Which cells were not evaluated, and why; a sentence for each way in which networks differ in it."""
    unchecked: int
    """Number of networks of which it is unknown whether they were trained on some of these cells."""


class ExternalScore(Strict):
    """All networks of a row on an external set."""

    set: str
    """Its id."""
    n: int
    """Number of networks: seeds, or seeds x folds."""
    cells: int
    groups: int | None
    macro_f1: Estimate
    """Over the classes with cells. Mean and sd over networks; interval over cells or groups and networks."""


class DeployedScore(Strict):
    """The exported files of all networks of a row, on the row's test cells."""

    kind: str
    """`onnx`, `onnx-int8`, ..."""
    n: int
    """Number of networks: seeds, or seeds x folds."""
    value: Estimate
    """The board's metric, mean and sd over seeds."""
    change: float | None
    """Its mean minus that of the trained networks."""
    change_low: float | None = None
    change_high: float | None = None
    """95 % interval, over test cells and seeds as the metric's own."""
    ece: float | None
    """Mean over seeds."""
    size: float
    """Bytes of a file, mean."""
    timing: Timing
    """Of one cell, median over files; throughput in batches of 64."""


class Part(Strict):
    """A component of a method, and its provider."""

    kind: str
    name: str
    provider: str
    version: str | None = None
    sha256: str | None = None
    foreign: bool
    """Not part of wbcbench."""


_LATER = (
    "fold", "folds", "external", "deployed", "more_metrics", "per_group", "pulls", "outside", "standing", "title",
)  # fmt: skip


class _Folded(Strict):
    """Leaves later fields out where they say nothing, so that older documents keep their bytes."""

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        return {k: v for k, v in document.items() if k not in _LATER or v not in (None, (), [], {}, "")}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler({k: v for k, v in core_schema.items() if k != "serialization"})  # type: ignore[arg-type]


class Source(_Folded):
    """A record that a row was made from."""

    trial_id: str
    seed: int
    fold: int | None = None
    digest: str
    checked: Literal["quick", "files", "full"]
    """quick: the result's own checksum; files: every file's digest; full: every metric recomputed."""
    metrics: dict[str, float | None]
    """On the test split; keys `METRIC_NAMES` and those of `Board.more_metrics`."""
    path: Path | None = Field(default=None, exclude=True)
    """Its location; not part of any output."""


class ClassScore(Strict):
    """One class, mean over seeds."""

    precision: float
    recall: float
    f1: float
    f1_sd: float | None
    support: int
    """Number of test cells."""


class ReliabilityBin(Strict):
    """Test cells of all seeds whose top probability is in one of the equal-width bins."""

    cells: int
    confidence: float
    accuracy: float


class Details(Strict):
    """What a page, but not a table, shows about a row."""

    per_class: dict[str, ClassScore]
    confusion: tuple[tuple[int, ...], ...]
    """Summed over seeds; row: true class, column: predicted class."""
    reliability: tuple[ReliabilityBin, ...]


class Row(_Folded):
    """One method: everything except seed and fold is equal."""

    rank: int | None
    """1 + number of rows with a better mean. None: not ranked."""
    among_best: bool | None
    """Whether it is in the set of the best: with a confidence of 95 %, the best method is in it (multiple
    comparisons with the best). None: not ranked, or nothing is known of other seeds."""
    status: Status
    """`reference`: reads fewer modalities than the board; `incomplete`: lacks a seed of the board."""
    method: str
    """Fusion; with its modality if it reads only one: `single[dapi]`."""
    method_id: str
    name: str
    """Readable and unique on the board: `independent + logits`."""
    fusion: str
    kd: str
    backbone: str
    backbone_differs: str = ""
    """`width=24`: parameters that differ from the board's other backbones of that name; empty: none."""
    policies: tuple[str, ...]
    routing: str | None
    teacher_backbones: tuple[str, ...]
    modalities: tuple[str, ...]
    seeds: tuple[int, ...]
    missing_seeds: tuple[int, ...]
    """Seeds of the board that this row lacks, or of which it lacks a fold."""
    folds: tuple[int, ...] = ()
    """Of the board; empty: the split is one division."""
    metrics: dict[str, Estimate]
    """Keys `METRIC_NAMES` and those of `Board.more_metrics`."""
    over_single: Difference | None = None
    """Against the best single modality of the same backbone, best by validation."""
    over_no_kd: Difference | None = None
    """Against the same student without distillation."""
    params: int
    macs: int | None
    timing: Timing
    train_seconds: float | None
    """Mean over seeds, without teachers."""
    levelled: Levelled | None = None
    """Whether training had levelled off, by the metric that selects epochs. None: a document from before this."""
    teaching: Teaching | None
    """None: no teachers."""
    outside: tuple[OutsideTeaching, ...] = ()
    """Teachers from outside."""
    pulls: dict[str, tuple[float, float]] = {}
    """Distiller -> size of its gradient in units of the task loss's, early and late in training, geometric mean
    over seeds. Empty: none was measured."""
    search: Search | None = None
    missing_modalities: MissingModalities | None = None
    external: tuple[ExternalScore, ...] = ()
    """On the external sets of the board; without those on which some network was not evaluated."""
    deployed: tuple[DeployedScore, ...] = ()
    """As exported files; without kinds in which some network was not evaluated."""
    standing: str = ""
    """`ours`, `claimed` by others, or `reproduced (1)` with the seeds that were trained again; several with their
    seeds. Empty: the board has no statement."""
    pseudo_multimodal: bool
    """The modalities were computed from one image, not measured separately."""
    parts: tuple[Part, ...]
    sources: tuple[Source, ...]
    """In the order of `seeds`."""
    details: Details | None = None

    @property
    def backbone_text(self) -> str:
        """`cellnet`, or `cellnet (width=24)` if the board has others."""
        return self.backbone + (f" ({self.backbone_differs})" if self.backbone_differs else "")

    @property
    def n(self) -> int:
        """Number of trained networks: seeds x folds."""
        return len(self.sources) if self.folds else len(self.seeds)

    @property
    def foreign(self) -> str:
        """Providers other than wbcbench, comma-separated."""
        return ", ".join(dict.fromkeys(p.provider for p in self.parts if p.foreign))


class Share(Strict):
    """Some test cells of a board."""

    name: str
    cells: int
    classes: int
    """How many classes they are of; macro-F1 is over these."""


class PerRow(Strict):
    """One row of the board."""

    name: str
    method_id: str
    values: tuple[float | None, ...]
    """Mean over seeds for each of `PerTable.shares`; None: undefined."""
    worst: str
    """The share with the worst value; empty if all are undefined."""


class PerTable(Strict):
    """The rows of one board, in its order."""

    board: str
    dataset: str
    by: str
    of: Literal["group", "fold", "class"]
    classes: tuple[str, ...]
    shares: tuple[Share, ...]
    rows: tuple[PerRow, ...]


class Board(_Folded):
    """One table: everything in it shares one comparison key."""

    key: ComparisonKey
    digest: str
    """Digest of the key."""
    title: str = ""
    """What people call it; empty: nobody gave a title. See `records.titles`."""
    by: str
    """The metric that ranks."""
    higher_is_better: bool
    seeds: tuple[int, ...]
    """Seeds that a row needs to be ranked."""
    folds: tuple[int, ...] = ()
    """Folds that each of them needs; empty: the split is one division."""
    test_cells: int | None = None
    clusters: int | None = None
    """Number of resampled units: groups (donors, for example) if the split has any, else cells. None: no
statistics."""
    grouped: bool = False
    resamples: int | None = None
    rows: tuple[Row, ...]
    """Ranked rows first, then references, then incomplete rows; best first within each."""
    comparisons: tuple[Comparison, ...] = ()
    """In the order of means."""
    detectable: float | None = None
    """The smallest lead of the best row that excludes another from the set of the best in four of five cases;
    median over pairs."""
    more_metrics: tuple[MoreMetric, ...] = ()
    """Metrics beyond `METRIC_NAMES`."""
    external: tuple[ExternalSet, ...] = ()
    per_group: PerTable | None = None
    """The ranking metric by donor, slide or plate; None: not known, too many, or no details were requested."""
    notes: tuple[str, ...] = ()
    """Notes for readers: what was left out, and why."""

    @property
    def name(self) -> str:
        """Its title; without one, the data set and the modalities."""
        return self.title or f"{self.key.dataset}: {' + '.join(self.key.modalities)}"

    def row(self, method_id: str) -> Row:
        """The row of a method. Raises `KeyError`."""
        for row in self.rows:
            if row.method_id == method_id:
                return row
        raise KeyError(method_id)


class Improvement(Strict):
    """Probability that a run of `a` beats a run of `b` on a randomly drawn data set."""

    a: str
    b: str
    probability: float
    low: float
    high: float


class Across(Strict):
    """The same methods on several boards."""

    methods: tuple[str, ...]
    """Names, best mean rank first."""
    boards: tuple[str, ...]
    """Digests of the boards' keys."""
    by: str
    mean_ranks: tuple[float, ...]
    friedman_chi2: float
    friedman_p: float
    iman_davenport_p: float
    critical_difference: float
    """Nemenyi, alpha 0.05: mean ranks that differ by less cannot be distinguished."""
    groups: tuple[tuple[str, ...], ...]
    """Bars of the critical-difference diagram."""
    improvement: tuple[Improvement, ...]
    """For every pair, the better mean rank first."""
    notes: tuple[str, ...] = ()
    """How rows were matched, if they differ."""

    @property
    def hopeless(self) -> bool:
        """Whether there are too few data sets to show any difference, whatever the results."""
        return self.critical_difference > len(self.methods) - 1


class Refused(Strict):
    """A record that was left out."""

    record: str
    """Trial id, or the folder's name."""
    reason: str
    path: Path | None = Field(default=None, exclude=True)
    """Its location; not part of any output."""


class Report(Strict):
    """The boards of some stores, comparisons across them, and what was left out."""

    schema_version: Literal[2] = BOARD_SCHEMA_VERSION
    boards: tuple[Board, ...]
    across: tuple[Across, ...] = ()
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()


__all__ = [
    "BOARD_SCHEMA_VERSION", "METRIC_NAMES", "Across", "Board", "ClassScore", "Comparison", "DeployedScore",
    "Details", "Difference", "Estimate", "ExternalScore", "ExternalSet", "Improvement", "MissingModalities",
    "MoreMetric", "Part", "PerRow", "PerTable", "Refused", "ReliabilityBin", "Report", "Row", "Search", "Share",
    "Source", "Status", "TeacherScore", "Teaching", "Timing",
]  # fmt: skip
