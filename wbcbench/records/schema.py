"""The schema of `result.json`, as strict Pydantic models. Imports no torch, pandas or scikit-learn.

A record is a folder `records/<trial id>/` with the files of `FILES`. A new field here needs a
default; a changed meaning needs a higher `SCHEMA_VERSION`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import CoreSchema

from wbcbench.spec import METRICS_VERSION, Augmentation, Budget, Trial, digest
from wbcbench.spec.trial import method_name

if TYPE_CHECKING:
    from wbcbench.contracts.dataset import Account

SCHEMA_VERSION: Literal[1] = 1

RESULT = "result.json"
PAYLOAD = ("spec.json", "predictions.npz", "model.safetensors", "history.csv", "env.json")
"""Files whose SHA-256 `result.json` holds."""
FILES = (*PAYLOAD, RESULT)

Side = Literal["train", "val", "test"]
Count = Annotated[int, Field(ge=0)]
Summary = dict[str, float | None]
"""Metric name -> value; the keys of `wbcbench.evaluation.metrics.METRICS`."""


class Strict(BaseModel):
    """Frozen; unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


_FLAGS = ("leaks_allowed", "ordered")


class ComparisonKey(Strict):
    """What must be equal for two numbers to be compared in one table."""

    dataset: str
    fingerprint: str
    """Of the content: pixels, labels, groups, official split."""
    split: str
    """Hash of the assignment of cells to sides."""
    modalities: tuple[str, ...]
    image_size: int
    classes: tuple[str, ...]
    budget: Budget
    augmentation: Augmentation
    selection: str
    metrics_version: int = METRICS_VERSION
    leaks_allowed: bool = False
    """True if a donor or an image was allowed to be on two sides of the split."""
    ordered: bool = False
    """True if the classes are in an order that the data set declares, such as stages of maturation."""

    @property
    def judged_by(self) -> str:
        """The metric of validation scores: that which chooses the epoch; macro-F1 where the last one is kept."""
        return "macro_f1" if self.selection == "last" else self.selection

    @property
    def kept(self) -> str:
        """Which epoch's weights are kept, in words."""
        return "the last one" if self.selection == "last" else f"the best by validation {self.selection}"

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits the flags that are false, so that keys have the same digest as before these were added."""
        document: dict[str, Any] = handler(self)
        return {k: v for k, v in document.items() if k not in _FLAGS or v}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of the fields: of a custom serialiser, pydantic only knows that it returns a mapping."""
        return handler({k: v for k, v in core_schema.items() if k != "serialization"})  # type: ignore[arg-type]

    @classmethod
    def of(
        cls, trial: Trial, *, fingerprint: str, split: str, classes: tuple[str, ...], ordered: bool = False
    ) -> ComparisonKey:
        """The key of a trial that ran on cells with this fingerprint, split hash and classes."""
        p = trial.protocol
        return cls(
            dataset=p.dataset.name, fingerprint=fingerprint, split=split, modalities=p.modalities,
            image_size=p.image_size, classes=classes, budget=p.budget, augmentation=p.augmentation,
            selection=p.selection.metric, metrics_version=p.metrics_version,
            leaks_allowed=p.split.allow_leaks, ordered=ordered,
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """16 hex digits."""
        return digest(self)

    def diff(self, other: ComparisonKey) -> list[str]:
        """The fields in which two keys differ, each as `field: mine != theirs`; empty when equal."""
        mine, theirs = ({**k.model_dump(mode="json"), **{f: getattr(k, f) for f in _FLAGS}} for k in (self, other))
        return list(_differences("", mine, theirs))


class Cost(Strict):
    """The cost of running and training a method. None: not measured."""

    params: int
    macs: int | None = None
    """Multiply-accumulates of one cell."""
    latency_ms: float | None = None
    """For a batch of one: the lowest of several short bursts' medians (in older records, a single median)."""
    throughput: float | None = None
    """Images per second, for a batch of 32; measured in the same way."""
    train_seconds: float | None = None
    teacher_seconds: float | None = None
    """Time to compute teacher outputs that were not stored yet; not included in `train_seconds`. The time of live
    teachers is included in `train_seconds`."""
    train_images_per_second: float | None = None
    teacher_replayed: bool | None = None
    """None without teachers."""
    epochs_run: int
    device: str
    threads: int | None = None


class Used(Strict):
    """A component that was used, and the origin of its code."""

    kind: str
    name: str
    provider: str
    version: str | None = None
    sha256: str | None = None
    """Of the source file."""


class InputStatistics(Strict):
    """Statistics of one modality in training, needed to apply the network to other cells. C channels of images, or
    C numbers of a vector."""

    bits: Literal[8, 16, 32]
    """Per pixel as stored: uint8 or uint16; 32: a vector of float32 numbers."""
    mean: tuple[float, ...]
    """[C], of raw pixel values over the training cells. The network's input is (pixel - mean) / std."""
    std: tuple[float, ...]
    """[C]; 1 for a flat channel."""
    brightness: tuple[tuple[float, float], ...]
    """[C], the 1 % and 99 % quantiles, over training cells, of a cell's mean pixel value, or of each number."""
    contrast: tuple[tuple[float, float], ...]
    """[C], the same for the standard deviation of a cell's pixel values. Empty for a vector."""
    median: tuple[float, ...] = ()
    """[C], of a vector, over the training cells: what missing numbers are replaced by. Empty for images."""
    features: tuple[str, ...] = ()
    """[C], names of a vector's numbers. Empty for images."""

    @property
    def vector(self) -> bool:
        """Whether the modality is numbers instead of images."""
        return self.bits == 32

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits later fields if empty, so that the checksums of older records remain valid."""
        document: dict[str, Any] = handler(self)
        for name in ("median", "features"):
            if not getattr(self, name):
                document.pop(name, None)
        return document


class Counted(Strict):
    """What happened to everything of one kind that the data set found; see `wbcbench.contracts.Account`."""

    unit: str
    seen: int
    used: int
    left_out: dict[str, int] = {}
    """Reason -> number."""
    examples: dict[str, list[str]] = {}
    """Reason -> the first of what was left out."""

    def sentence(self) -> str:
        """As `Account.sentence`."""
        from wbcbench.contracts.dataset import Account, LeftOut

        return Account(
            self.unit,
            self.seen,
            self.used,
            {w: LeftOut(n, tuple(self.examples.get(w, ()))) for w, n in self.left_out.items()},
        ).sentence()

    @classmethod
    def of(cls, account: Account) -> Counted:
        """The same as a model."""
        return cls(
            unit=account.unit, seen=account.seen, used=account.used,
            left_out={why: part.count for why, part in account.left_out.items()},
            examples={why: list(part.examples) for why, part in account.left_out.items()},
        )  # fmt: skip


class Pull(Strict):
    """How strongly one distiller pulled on the student."""

    weight: float
    """The factor on its loss; of a balanced one, the number that the training set."""
    ratios: dict[int, float] = {}
    """Epoch -> size of its gradient in units of the task loss's, in the middle step of some epochs; see
    `wbcbench.training.strength`. Empty if they share no parameters."""


class OutsideTeacher(Strict):
    """A teacher from outside, on the cells of the trial. Of a sealed trial, without the test split."""

    name: str
    digest: str
    """SHA-256 of the file of its answers."""
    answered: dict[Side, Count]
    """Cells of each side for which the file has an answer."""
    trained_on: dict[Side, Count] | None
    """Cells of each side on which it was trained or selected, as the file states; None: it does not say."""
    metrics: dict[Side, Summary]
    """Of its mean answer over views, on the sides of which it answers for every cell."""


class Outcome(Strict):
    """The result of a finished trial; the store adds identity and digests."""

    key: ComparisonKey
    metrics: dict[Literal["test", "val"], Summary]
    """A sealed trial has no `test`; its `per_class`, `confusion` and `routes`, which are of the test split, are
    empty."""
    per_class: dict[str, dict[str, float]]
    confusion: list[list[int]]
    routes: dict[str, Summary] = {}
    cost: Cost
    components: list[Used] = []
    notes: list[str] = []
    pseudo_multimodal: bool = False
    inputs: dict[str, InputStatistics] = {}
    """Modality -> statistics of its images. Empty in records made before this field was added."""
    resolved: dict[str, bool | int | float | str] = {}
    """Parameters of the data set that were inferred from its cells; see `Cells.resolved`."""
    accounts: list[Counted] = []
    """Files or rows, classes and groups that were found, and those that were left out, with reasons."""
    group_names: list[str] = []
    """Names of the donors, slides or plates, by their number in `test_groups` of the predictions."""
    pulls: dict[str, Pull] = {}
    """Distiller -> how strongly it pulled."""
    outside: list[OutsideTeacher] = []
    """Teachers from outside, in the order of the trial."""
    selected_epoch: int
    started: str
    """ISO 8601, UTC."""
    ended: str

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits later fields if empty, so that the checksums of older records remain valid."""
        document: dict[str, Any] = handler(self)
        for name in ("inputs", "resolved", "accounts", "group_names", "pulls", "outside"):
            if not getattr(self, name):
                document.pop(name, None)
        return document


class Result(Outcome):
    """The content of `result.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    trial_id: str
    method_id: str
    status: Literal["done", "sealed"] = "done"
    """`sealed`: a search's trial; has validation results only and is never ranked."""
    label: str
    fusion: str
    kd: str
    backbone: str
    routing: str | None
    policies: tuple[str, ...]
    seed: int
    dataset: str
    teachers: list[str]
    files: dict[str, str]
    """Name -> SHA-256 of every other file of the record."""
    digest: str
    """Of trial, predictions and weights: equal for two identical runs, whatever their timings."""
    checksum: str = ""
    """Of this document without this field, to detect a damaged `result.json`."""

    @property
    def title(self) -> str:
        """The method's display name, as in tables: `concat + logits + modality_dropout`."""
        return method_name(self.label, self.kd, self.policies)

    def ceilings(self) -> list[str]:
        """A note if classes without test cells keep macro-F1 below 1; empty for sealed trials."""
        from wbcbench.evaluation.metrics import ceiling_notes

        return (
            ceiling_notes([sum(row) for row in self.confusion], self.key.classes, "test") if self.confusion else []
        )

    @classmethod
    def build(cls, trial: Trial, outcome: Outcome, files: dict[str, str]) -> Result:
        """Complete an outcome with the trial's identity and the files' digests."""
        m = trial.method
        draft = cls(
            **{name: getattr(outcome, name) for name in Outcome.model_fields},
            trial_id=trial.id, method_id=trial.method_id(), status="sealed" if trial.sealed else "done",
            label=trial.label, fusion=m.fusion.name, kd=m.kd,
            backbone=m.backbone_name, routing=m.routing.name if m.routing else None,
            policies=tuple(p.name for p in m.policies), seed=trial.seed, dataset=trial.protocol.dataset.name,
            teachers=[t.id for t in m.teachers], files=files, digest=content_digest(trial.id, files),
        )  # fmt: skip
        return draft.model_copy(update={"checksum": draft.own_checksum()})

    def own_checksum(self) -> str:
        """64 hex digits over every other field."""
        return digest(self.model_dump(mode="json", exclude={"checksum"}), length=64)


def content_digest(trial_id: str, files: dict[str, str]) -> str:
    """64 hex digits over the trial and the SHA-256 of its predictions and weights."""
    return digest([trial_id, files["predictions.npz"], files["model.safetensors"]], length=64)


def _differences(path: str, mine: Any, theirs: Any) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return [
            line
            for name in mine
            for line in _differences(f"{path}.{name}" if path else name, mine[name], theirs[name])
        ]
    return [] if mine == theirs else [f"{path}: {_short(mine)} != {_short(theirs)}"]


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


__all__ = [
    "FILES", "PAYLOAD", "RESULT", "SCHEMA_VERSION", "ComparisonKey", "Cost", "Counted", "InputStatistics",
    "Outcome", "OutsideTeacher", "Pull", "Result", "Strict", "Summary", "Used", "content_digest",
]  # fmt: skip
