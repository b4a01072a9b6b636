"""Protocol, method, trial: what must be equal, what is compared, one run, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from wbcbench.contracts.params import param
from wbcbench.errors import UsageError, did_you_mean

HASH_VERSION = 1
"""Incremented whenever the canonical form changes, so that an old identity is never mistaken for a new one."""


def canonical_json(value: Any) -> str:
    """Serialise so that equal content gives equal text: sorted keys, no spaces, 1.0 written as 1.

    Raises:
        ValueError: for NaN, infinity and anything that JSON cannot represent.
    """
    return _text(_plain(value))


def digest(value: Any, *, length: int = 16) -> str:
    """Hex SHA-256 of the canonical JSON, cut to `length` characters."""
    return digest_plain(_plain(value), length=length)


def plain(text: str | bytes) -> Any:
    """Parse JSON text into the values of its canonical form: 1.0 is read as 1.

    Raises:
        ValueError: NaN, infinity, or invalid JSON.
    """
    return json.loads(text, parse_float=_number, parse_constant=_number)


def digest_plain(document: Any, *, length: int = 16) -> str:
    """The `digest` of what `plain` returned, without traversing it again."""
    text = f"wbcbench/{HASH_VERSION}:{_text(document)}"
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _text(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def flat(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path -> leaf of nested mappings, in their order; a list counts as a leaf."""
    if isinstance(document, dict):
        for name, inner in document.items():
            yield from flat(inner, f"{path}.{name}" if path else name)
    else:
        yield path, document


def _number(written: str | float) -> float | int:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"Expected a finite number, but got {value}.")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _plain(value: Any) -> Any:
    # exact types first: nearly every value has one of them, and a leaderboard hashes millions
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is dict:
        return {k if type(k) is str else str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    raise ValueError(f"Expected a JSON value, but got {type(value).__name__}.")


IMPUTE = "impute"
MEAN = "mean"
IMPUTERS = {
    MEAN: "the training mean, which is zero after normalisation",
    "zero": "black pixels",
    "token": "an image per modality, learned from training cells that lack it",
}


def chosen_imputer(given: dict[str, Any], fusion: str, missing: str) -> dict[str, str]:
    """Remove `impute` from the given parameters; return what belongs to the identity (nothing for the mean).

    Raises:
        UsageError: unknown imputer, or a fusion that does not impute.
    """
    how = given.pop(IMPUTE, MEAN)
    if not isinstance(how, str) or how not in IMPUTERS:
        known = "; ".join(f"{name}: {what}" for name, what in IMPUTERS.items())
        raise UsageError(
            f"fusion {fusion}: no imputer is called '{how}'.{did_you_mean(str(how), IMPUTERS)} {known}."
        )
    if how != MEAN and missing != "impute":
        does = "handles absent modalities itself" if missing == "native" else "accepts complete cells only"
        raise UsageError(f"fusion {fusion}: impute={how} was requested, but it {does}. Leave impute out.")
    return {} if how == MEAN else {IMPUTE: how}


METRICS_VERSION = 1
"""Incremented when the definition of any stored metric changes."""


class Frozen(BaseModel):
    """Frozen, strict about keys; tuples instead of lists; no NaN or infinity, which an identity cannot contain."""

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,), allow_inf_nan=False)


Share = Annotated[float, Field(ge=0, lt=1)]
PerModality = Share | dict[str, Share]


class ComponentSpec(Frozen):
    """A plugin's component with every parameter written out, defaults included."""

    name: str
    """The registered name; `provider/name` for components that are not built in."""
    params: dict[str, Any] = {}

    def __str__(self) -> str:
        return self.name

    @property
    def model(self) -> str:
        """What users call it: the `model` parameter of a family, else the component's name."""
        return str(self.params.get("model") or self.name)


BackboneSpec = ComponentSpec | dict[str, ComponentSpec]
"""One backbone for all modalities, or modality -> backbone where they are unequal."""


C = TypeVar("C")


def each_of(backbone: C | dict[str, C]) -> tuple[C, ...]:
    """The components of a backbone: one, or one per modality."""
    return tuple(backbone.values()) if isinstance(backbone, dict) else (backbone,)


def equal_as_one(backbones: dict[str, ComponentSpec]) -> BackboneSpec:
    """A backbone per modality as a trial names it: equal ones are one, so that one method has one identity."""
    first, *others = backbones.values()
    return first if all(b == first for b in others) else backbones


DEFAULT_FOLDS = {"kfold": 5, "repeated": 10}
FOLDED = (*DEFAULT_FOLDS, "leave_one_group_out", "official_folds")


class SplitSpec(Frozen):
    """How cells are divided.

    `official` uses the data set's own split or, without one, its own folds; `stratified` draws a split. The others
    are several divisions, the folds, and a trial trains on one of them: `official_folds` are the data set's own,
    `kfold` tests each cell once, `leave_one_group_out` each group (donor, slide, plate), `repeated` draws anew for
    every fold. Validation cells come from what is not tested.
    """

    scheme: Literal["official", "official_folds", "stratified", "kfold", "leave_one_group_out", "repeated"] = (
        Field("official", description="official (split, folds, else stratified), stratified, or several divisions")
    )
    val: float = Field(0.15, gt=0, lt=0.9, description="share of cells for selection")
    test: float = Field(0.25, gt=0, lt=0.9, description="share of cells, evaluated once at the end")
    seed: int = Field(0, ge=0, description="of the division; the same for every trial of a board")
    folds: int | None = Field(
        None, ge=2, le=1000, description="divisions: of kfold (default 5) and repeated (default 10)"
    )
    unit: Literal["cell", "group"] | None = Field(
        None, description="what stays whole; default: groups where the data set has them and something is drawn"
    )
    allow_leaks: bool = Field(
        False,
        description="train although a donor or an image is on two sides, or an image has two labels; recorded "
        "in the comparison key",
    )

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Unused fields are left out, so that identities are as they were before the fields existed."""
        document: dict[str, Any] = handler(self)
        for name in ("allow_leaks", "folds", "unit"):
            if not getattr(self, name):
                document.pop(name, None)
        if not self.draws_test:
            document.pop("test", None)
        return document

    @property
    def folded(self) -> bool:
        """Whether there are several divisions, of which a trial trains on one."""
        return self.scheme in FOLDED

    @property
    def draws_test(self) -> bool:
        """Whether `test` has an effect; otherwise folds or groups decide how many cells are tested."""
        return self.scheme not in ("kfold", "leave_one_group_out", "official_folds")

    @model_validator(mode="before")
    @classmethod
    def _default_folds(cls, given: Any) -> Any:
        scheme = given.get("scheme") if isinstance(given, dict) else None
        if isinstance(scheme, str) and given.get("folds") is None and scheme in DEFAULT_FOLDS:
            return {**given, "folds": DEFAULT_FOLDS[scheme]}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> SplitSpec:
        if self.folds is not None and self.scheme not in DEFAULT_FOLDS:
            raise ValueError(f"folds needs scheme kfold or repeated, but scheme is {self.scheme}")
        if "test" in self.model_fields_set and not self.draws_test:
            raise ValueError(f"test has no effect with scheme {self.scheme}, which tests a fold; leave it out")
        if self.scheme == "leave_one_group_out" and self.unit == "cell":
            raise ValueError("leave_one_group_out keeps groups whole; leave unit=cell out")
        if self.draws_test and self.val + self.test >= 0.95:
            raise ValueError(f"val + test must leave cells to train on, but is {self.val + self.test:g}")
        return self


class Budget(Frozen):
    """How much training every method gets."""

    epochs: int = Field(6, ge=1, description="passes over the training cells")
    batch_size: int = Field(64, ge=2, description="cells per step")


class Augmentation(Frozen):
    """Random views of a training cell; each a function of (seed, epoch, cell, modality).

    Geometry (flip to cutout) is shared by a cell's modalities; intensity and noise are not. Of all fields, only
    `vector_noise` changes modalities that are numbers.
    """

    flip: bool = Field(True, description="flip left-right with probability 1/2")
    rotate: float = Field(180.0, ge=0, le=180, description="rotate by up to this many degrees either way")
    scale: float = Field(0.0, ge=0, lt=0.9, description="zoom by up to this share either way; needs interpolate")
    shift: float = Field(0.06, ge=0, le=0.5, description="shift by up to this share of the side")
    intensity: PerModality = Field(
        0.15,
        description="gain and offset (in sd), up to this share either way; one number, or one per modality. "
        "0 where absolute intensity is the evidence, as in a DNA stain",
    )
    noise: PerModality = Field(0.03, description="Gaussian, sd up to this, in sd of the modality; or per modality")
    cutout: float = Field(0.0, ge=0, le=0.7, description="side of an erased square, share of the image side")
    vector_noise: PerModality = Field(
        0.0, description="sd of Gaussian noise on the numbers of vectors, in sd of each number; or per modality"
    )
    interpolate: bool = Field(
        False,
        description="off: only right-angle rotations and whole-pixel shifts, so that pixels stay as measured; "
        "on: any angle and zoom, blurred by interpolation, as no validation or test image is",
    )
    views: int = Field(
        0,
        ge=0,
        le=100_000,
        description="different views of each cell, after which they repeat; 0: a new one in every epoch. "
        "A teacher answers once for each",
    )

    @model_validator(mode="after")
    def _pixels_or_zoom(self) -> Augmentation:
        if not self.interpolate and self.scale:
            raise ValueError(
                f"expected scale 0 with interpolate off, but got scale {self.scale:g}: set scale to 0, "
                "or interpolate to true"
            )
        return self

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without unused later fields, so that identities are as they were before the fields existed."""
        document: dict[str, Any] = handler(self)
        for name in ("vector_noise", "views"):
            if not getattr(self, name):
                document.pop(name, None)
        return document

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of the fields: of a custom serialiser, pydantic only knows that it returns a mapping."""

        def plain(schema: Any) -> Any:  # the model's own schema is inside those of its validators
            return {k: plain(v) if k == "schema" else v for k, v in schema.items() if k != "serialization"}

        return handler(plain(core_schema))

    def weak(self) -> Augmentation:
        """The same geometry of every view, without intensity, noise and cutout."""
        return self.model_copy(update={"intensity": 0.0, "noise": 0.0, "cutout": 0.0, "vector_noise": 0.0})

    @property
    def random(self) -> bool:
        """Whether two views of a cell can differ."""
        drawn = (self.flip, self.rotate, self.scale, self.shift, self.cutout)
        strengths = (self.intensity, self.noise, self.vector_noise)
        return any(drawn) or any(any(s.values()) if isinstance(s, dict) else s for s in strengths)

    def of(self, what: Literal["intensity", "noise", "vector_noise"], modality: str) -> float:
        """The strength for one modality; a modality that a mapping leaves out gets none."""
        value: float | dict[str, float] = getattr(self, what)
        return value.get(modality, 0.0) if isinstance(value, dict) else value


class Selection(Frozen):
    """Which epoch's weights are kept, chosen on validation cells only."""

    metric: Literal["macro_f1", "balanced_accuracy", "nll", "last"] = "macro_f1"


class Recipe(Frozen):
    """How a network is optimised. Part of the method, so a search may change it."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    lr: float = param(2e-3, "peak learning rate", gt=0, le=10, search=(3e-4, 2e-2), log=True)
    weight_decay: float = param(0.05, "not on biases and norms", ge=0, le=10, search=(1e-3, 0.5), log=True)
    momentum: float = param(0.9, "SGD only (Nesterov)", ge=0, lt=1, when="optimiser = sgd")
    warmup_epochs: float = Field(1.0, ge=0, description="linear, from 0; then cosine to 0")
    label_smoothing: float = param(0.0, "share of a label given to all classes", ge=0, lt=1, search=(0.0, 0.2))
    class_weighting: Literal["none", "sqrt", "inverse"] = param(
        "sqrt",
        "weight of a class in the task loss: 1, 1/sqrt(count), 1/count; mean 1 over cells",
        search=["none", "sqrt", "inverse"],
    )
    task_weight: float = Field(1.0, ge=0, description="factor on the task loss, next to a distiller's weight")
    ema: float = Field(0.0, ge=0, lt=1, description="decay per step of averaged weights; 0: off")
    clip: float = Field(0.0, ge=0, description="gradient norm is cut to this; 0: off")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 autocast on a GPU that has it, float32 elsewhere"
    )


class Protocol(Frozen):
    """What must be equal for two numbers to be comparable."""

    dataset: ComponentSpec
    modalities: tuple[str, ...]
    image_size: int = Field(ge=0, le=1024)
    """Side of the images; 0: the data set has none."""
    fingerprint: str
    """Of the data set's content, from its description when the trial was planned."""
    split: SplitSpec = SplitSpec()
    budget: Budget = Budget()
    augmentation: Augmentation = Augmentation()
    selection: Selection = Selection()
    metrics_version: int = METRICS_VERSION


OUTSIDE_NAME = r"[A-Za-z0-9][A-Za-z0-9 ._+()-]{0,39}"
"""Of a teacher from outside, for tables."""


class Outside(Frozen):
    """A teacher from outside: its answers by cell, in a file that is identified by its content."""

    name: str = Field(pattern=f"^{OUTSIDE_NAME}$")
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the file."""
    reads: tuple[str, ...]
    """The modalities for which it teaches, which need not be what it has seen."""
    views: int = Field(1, ge=1)
    embedding: int = Field(0, ge=0)
    """Width of its embeddings; 0: it has none."""


TeacherViews = Literal["same", "weak"]


class Method(Frozen):
    """What is compared."""

    fusion: ComponentSpec
    backbone: BackboneSpec
    recipe: Recipe = Recipe()
    policies: tuple[ComponentSpec, ...] = ()
    distillers: tuple[ComponentSpec, ...] = ()
    routing: ComponentSpec | None = None
    teachers: tuple[Trial, ...] = ()
    """Each teacher is a complete trial, so it is found by its identity, and chains need no extra code."""
    outside: tuple[Outside, ...] = ()
    """Teachers from outside. To the routing they come after `teachers`."""
    teacher_seeds: Literal["fixed", "student"] = "fixed"
    """`student`: every seed of the method has teachers of its own, trained with the student's seed."""
    teacher_views: TeacherViews = "same"
    """What trained teachers see: the student's views, or their geometry alone (`Augmentation.weak`)."""

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Unused fields are left out, so that identities are as they were before the fields existed."""
        document: dict[str, Any] = handler(self)
        if self.teacher_seeds == "fixed":
            document.pop("teacher_seeds", None)
        if self.teacher_views == "same":
            document.pop("teacher_views", None)
        if not self.outside:
            document.pop("outside", None)
        return document

    @property
    def taught_for(self) -> list[tuple[str, ...]]:
        """Of each teacher, as the routing counts them, the modalities for which it teaches."""
        return [t.reads for t in self.teachers] + [t.reads for t in self.outside]

    @property
    def backbones(self) -> dict[str, ComponentSpec]:
        """Modality -> its backbone; "" -> the one of all modalities."""
        return {"": self.backbone} if isinstance(self.backbone, ComponentSpec) else self.backbone

    @property
    def backbone_name(self) -> str:
        """`resnet18`, or `dapi=cellnet:width=8,nucleus=resnet18`: parameters only where names alone are equal."""
        if isinstance(self.backbone, ComponentSpec):
            return self.backbone.model
        return ",".join(f"{m}={_told_apart(b, self.backbone.values())}" for m, b in sorted(self.backbone.items()))

    @property
    def kd(self) -> str:
        """The distillers' names joined by `+`, or `none`."""
        return "+".join(d.name for d in self.distillers) or "none"


class Trial(Frozen):
    """One protocol, one method, one seed, and one fold if the protocol's split has several."""

    protocol: Protocol
    method: Method
    seed: int = Field(0, ge=0)
    sealed: bool = False
    """Proposed by a search: judged on validation cells only. Its record contains nothing about the test split
    and is never ranked."""
    fold: int | None = Field(None, ge=0)
    """Which division of the cells it trains on; None: there is only one."""

    @model_serializer(mode="wrap")
    def _serialised(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Unused fields are left out, so that identities are as they were before the fields existed."""
        document: dict[str, Any] = handler(self)
        if not self.sealed:
            document.pop("sealed", None)  # this runs twice for a nested trial
        if self.fold is None:
            document.pop("fold", None)
        return document

    def seal(self) -> Trial:
        """The same training without evaluation on the test split: a separate trial."""
        # Not model_copy, which would copy the cached identity too.
        return Trial(protocol=self.protocol, method=self.method, seed=self.seed, fold=self.fold, sealed=True)

    @cached_property
    def id(self) -> str:
        """16 hex digits: the trial's identity and the name of its record's folder."""
        return digest(self)

    @property
    def reads(self) -> tuple[str, ...]:
        return self.protocol.modalities

    @property
    def draw(self) -> str:
        """Which of the method's trials this is: `seed 1`, or `seed 1, fold 2`."""
        return f"seed {self.seed}" + ("" if self.fold is None else f", fold {self.fold}")

    @property
    def label(self) -> str:
        """Short readable name of the method: `independent`, `single[brightfield]`, `early:impute=token`."""
        fusion, imputer = self.method.fusion.name, self.method.fusion.params.get(IMPUTE)
        fusion = f"{fusion}:{IMPUTE}={imputer}" if isinstance(imputer, str) else fusion
        return f"{fusion}[{self.reads[0]}]" if len(self.reads) == 1 else fusion

    @property
    def title(self) -> str:
        """Full readable name of the method, as in tables: `concat + logits + modality_dropout`."""
        return method_name(self.label, self.method.kd, [p.name for p in self.method.policies])

    def method_id(self) -> str:
        """Identity of everything except seed and fold: rows of a leaderboard are grouped by it."""
        method = without_draws(self.method.model_dump(mode="json"))
        return digest({"protocol": self.protocol, "method": method})


def _told_apart(spec: ComponentSpec, among: Iterable[ComponentSpec]) -> str:
    twins = [s for s in among if s.model == spec.model]
    differ = [k for k, v in spec.params.items() if any(t.params.get(k) != v for t in twins)]
    return ":".join([spec.model, *(f"{k}={spec.params[k]}" for k in differ)])


def method_name(label: str, kd: str, policies: Iterable[str] = ()) -> str:
    """Readable name of a method: `concat`, `concat + logits`, `concat + logits + modality_dropout`."""
    return " + ".join([label, *([] if kd == "none" else [kd]), *policies])


def without_draws(method: dict[str, Any]) -> dict[str, Any]:
    """A dumped method without what differs between its own trials.

    A teacher trains on its student's fold, and may have its student's seed: by that, they are not two methods.
    """
    drawn = {"fold", "seed"} if method.get("teacher_seeds") == "student" else {"fold"}
    teachers = [
        {**{k: v for k, v in t.items() if k not in drawn}, "method": without_draws(t["method"])}
        for t in method["teachers"]
    ]
    return {**method, "teachers": teachers}


Method.model_rebuild()
