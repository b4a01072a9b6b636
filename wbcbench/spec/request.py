"""The request of a run, and reading YAML: one kind of error for every problem, and a limit on alias expansion."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from wbcbench.spec.trial import (
    Augmentation,
    Budget,
    Frozen,
    Recipe,
    Selection,
    SplitSpec,
    TeacherViews,
    each_of,
)

LARGEST = 100_000
"""Most values in one document. Aliases count each time: ten lines of them can expand to 1e9 values."""


def load_yaml(text: str) -> Any:
    """The document's value.

    Raises:
        ValueError: invalid YAML, an impossible date or number, too deep nesting, or too many values.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    left, seen = [value], 0
    while left:
        inner = left.pop()
        seen += 1
        if seen > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} values (aliased values count each time)")
        if isinstance(inner, dict):
            left += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list | tuple | set):
            left += inner
    return value


FILE = "file"
"""`--teacher file:answers.npz`: a teacher from outside. Everything after the colon is the path."""


class Choice(Frozen):
    """A component by name, with those parameters that the user gave."""

    name: str
    params: dict[str, Any] = {}

    @classmethod
    def parse(cls, value: Any) -> Choice:
        """From `name`, `name:key=value:key=value`, `file:PATH` or a mapping with `name` and parameters."""
        if isinstance(value, Choice):
            return value
        if isinstance(value, str) and value.startswith(f"{FILE}:"):
            return cls(name=FILE, params={"path": value.removeprefix(f"{FILE}:")})
        if isinstance(value, str):
            name, *parts = [part.strip() for part in value.split(":")]
            texts: dict[str, str] = {}
            for part in parts:
                key, sep, text = part.partition("=")
                if sep:
                    texts[key.strip()] = text
                elif texts and part:  # of a value that has a colon: freeze=stages:2
                    texts[list(texts)[-1]] += f":{part}"
                else:
                    raise ValueError(f"expected name:key=value, but got '{value}'")
            params = {key: parse_value(text) for key, text in texts.items()}
            if not name:
                raise ValueError(f"expected a name, but got '{value}'")
            return cls(name=name, params=params)
        if isinstance(value, dict) and set(value) == {"name", "params"} and isinstance(value["params"], dict):
            return cls(**value)  # as in a dumped request
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            return cls(name=value["name"], params={k: v for k, v in value.items() if k != "name"})
        raise ValueError(f"expected a name or a mapping with 'name', but got {value!r}")


def parse_value(text: str) -> Any:
    """A value as YAML reads it, but `1e-3` is a number, and `on`, `no` and `10:30` stay text."""
    stripped = text.strip()
    if stripped.lower() in ("on", "off", "yes", "no", "y", "n") or (":" in stripped and stripped[0] not in "[{"):
        return stripped
    try:
        return float(stripped) if "e" in stripped.lower() else load_yaml(stripped)
    except ValueError:
        try:
            return load_yaml(stripped)
        except ValueError:
            return stripped


def split_list(value: Any) -> Any:
    """A comma list as a list; commas inside brackets do not count."""
    if not isinstance(value, str):
        return value if isinstance(value, list | tuple) else [value]
    parts, depth, start = [], 0, 0
    for i, char in enumerate(value):
        depth += (char in "[{(") - (char in "]})")
        if char == "," and depth == 0:
            parts.append(value[start:i])
            start = i + 1
    parts.append(value[start:])
    return [p.strip() for p in parts if p.strip()]


def _choices(value: Any) -> tuple[Choice, ...]:
    return tuple(Choice.parse(v) for v in split_list(value))


def _backbones(value: Any) -> tuple[BackboneChoice, ...]:
    """`a,b` is two alternatives; `m=a,n=b`, or a mapping of modalities, is one with a backbone per modality.

    A modality that is named again begins the next alternative.
    """
    found: list[BackboneChoice] = []
    last: dict[str, Choice] = {}
    for item in split_list(value):
        modality, named, choice = item.partition("=") if isinstance(item, str) else ("", "", item)
        if named and ":" not in modality:
            if modality.strip() in last or not found or found[-1] is not last:
                last = {}
                found.append(last)
            last[modality.strip()] = Choice.parse(choice)
        elif isinstance(item, dict) and not isinstance(item.get("name"), str):
            found.append({str(m): Choice.parse(c) for m, c in item.items()})
        else:
            found.append(Choice.parse(item))
    return tuple(found)


def _combinations(value: Any) -> tuple[tuple[Choice, ...], ...]:
    """`a,b+c` is two alternatives: a alone, b and c together.

    Items that all state their weight belong together: `logits:weight=0.5,at:weight=1000` is one
    combination. To compare them, repeat the option or write a YAML list.
    """
    if isinstance(value, str) and "," in value:
        weighted = [Choice.parse(p) for item in split_list(value) for p in item.split("+")]
        if all("weight" in c.params for c in weighted) and len({c.name for c in weighted}) == len(weighted):
            return (tuple(weighted),)
    result = []
    for item in split_list(value):
        if isinstance(item, str):
            result.append(tuple(Choice.parse(p) for p in item.split("+")))
        elif isinstance(item, list | tuple):
            result.append(tuple(Choice.parse(p) for p in item))
        else:
            result.append((Choice.parse(item),))
    return tuple(result)


def _names(value: Any) -> Any:
    return None if value is None else tuple(split_list(value))


def _seeds(value: Any) -> Any:
    try:
        return tuple(int(v) for v in split_list(value))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"expected whole numbers such as 0,1,2, but got {value!r}") from error


OneChoice = Annotated[Choice, BeforeValidator(Choice.parse)]
BackboneChoice = Choice | dict[str, Choice]
"""One backbone for all modalities, or modality -> backbone."""
BackboneChoices = Annotated[tuple[BackboneChoice, ...], BeforeValidator(_backbones), Field(min_length=1)]
Choices = Annotated[tuple[Choice, ...], BeforeValidator(_choices), Field(min_length=1)]
Combinations = Annotated[tuple[tuple[Choice, ...], ...], BeforeValidator(_combinations), Field(min_length=1)]
Names = Annotated[tuple[str, ...] | None, BeforeValidator(_names)]


def _count(value: Any) -> Any:
    """`5M`, `1.5M` or `100k` as a whole number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)", value.strip()) if isinstance(value, str) else None
    if found is None and isinstance(value, str):
        raise ValueError("expected a number such as 5M, 1.5M or 100k")
    if found is None:
        return value
    return round(float(found[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[found[2]])


Count = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_count)]


def _gpu_share(value: float | None) -> float | None:
    if value is not None and value > 1 and value != int(value):
        raise ValueError("expected a share of one GPU (such as 0.25) or a whole number of GPUs")
    return value


Seeds = Annotated[tuple[int, ...], BeforeValidator(_seeds), Field(min_length=1)]


STUDENT: Literal["student"] = "student"


def _teacher_seeds(value: Any) -> Any:
    try:
        return value if value == STUDENT else _seeds(value)
    except ValueError:
        raise ValueError(f"expected '{STUDENT}' or whole numbers such as 0,1,2, but got {value!r}") from None


TeacherSeeds = Annotated[
    Literal["student"] | Annotated[tuple[int, ...], Field(min_length=1)], BeforeValidator(_teacher_seeds)
]


AUTO = "auto"


def _left_open(value: Any) -> Any:
    """Without fields that are `auto`, which is what a field that is not given is."""
    return {k: v for k, v in value.items() if v != AUTO} if isinstance(value, dict) else value


def _not_auto(value: Any) -> Any:
    return None if value == AUTO else value


Side = Annotated[Annotated[int, Field(ge=8, le=1024)] | None, BeforeValidator(_not_auto)]


class TeacherRequest(Frozen):
    """The teachers: high-complexity networks, one or more per modality, shared by all students of a seed."""

    backbone: BackboneChoices = (Choice(name="cellnet", params={"width": 32}),)
    """Several sizes per modality: all of them teach, or, with `routing: assistant`, the first teaches the student
    and each is taught by the next."""
    fusion: Choices = (Choice(name="single"),)
    """`single`: a teacher per modality. Any other: one teacher that reads all teacher modalities."""
    epochs: int | None = Field(None, ge=1, description="default: as long as the student")
    image_size: Side = None
    """None: the student's. A teacher with another side sees the same views of the same cells, at that side."""
    seeds: TeacherSeeds = "student"
    """`student`: teachers have the student's seed, so that results vary with the teacher as they would for another
    user. `[0]`: students of all seeds share one teacher, and their intervals are about that one. Several seeds
    make an ensemble per modality, shared too, whose softened probabilities are averaged."""
    views: TeacherViews = "same"
    """`weak`: teachers answer for the student's views without their intensity, noise and cutout, so that a
    strongly augmented student learns what they say of the clear image. They are trained as ever."""
    training: dict[str, Any] = {}
    """Recipe fields in which teachers differ from the student."""


def _teacher(value: Any) -> Any:
    """`teacher: resnet18` is short for `teacher: {backbone: resnet18}`."""
    return {"backbone": value} if isinstance(value, str) else value


class Exclude(Frozen):
    """Which cells of the cross product are left out: all that match everything named here."""

    fusion: Annotated[tuple[Choice, ...], BeforeValidator(_choices)] = ()
    backbone: Annotated[tuple[BackboneChoice, ...], BeforeValidator(_backbones)] = ()
    kd: Annotated[tuple[tuple[Choice, ...], ...], BeforeValidator(_combinations)] = ()
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = ()

    @model_validator(mode="after")
    def _names_something(self) -> Exclude:
        if not (self.fusion or self.backbone or self.kd or self.seeds):
            raise ValueError("expected at least one of fusion, backbone, kd, seeds")
        return self

    def names(self) -> dict[str, list[str]]:
        """The names by key, as a user would write them."""
        found = {
            "fusion": [c.name for c in self.fusion],
            "backbone": [c.name for b in self.backbone for c in each_of(b)],
            "kd": ["+".join(c.name for c in kd) for kd in self.kd],
            "seeds": [str(s) for s in self.seeds],
        }
        return {key: names for key, names in found.items() if names}


class Request(Frozen):
    """One `wbcbench run`: the cross product of its lists.

    `image_size` and fields of `budget`, `augmentation`, `training` and `selection` that are not given,
    or `auto`, get a value from what is known of the cells when the request is planned (`wbcbench.data.auto`).
    """

    dataset: OneChoice = Choice(name="synthetic")
    title: str = Field("", max_length=200)
    """What boards call these trials' table, instead of the data set's name and modalities. No part of a trial."""
    dataset_title: str = Field("", max_length=200)
    """What boards call the cells, instead of the data set's name. In a file: `title` of `dataset`."""
    modalities: Names = None
    teacher_modalities: Names = None
    image_size: Side = None
    split: SplitSpec = SplitSpec()
    budget: Annotated[Budget, BeforeValidator(_left_open)] = Budget()
    augmentation: Annotated[Augmentation, BeforeValidator(_left_open)] = Augmentation()
    selection: Annotated[Selection, BeforeValidator(_left_open)] = Selection()
    fusion: Choices = (Choice(name="independent"),)
    backbone: BackboneChoices = (Choice(name="cellnet"),)
    max_macs: Count = None
    """Multiply-accumulates per cell that a deployed student may have: its backbone is the widest that fits."""
    max_params: Count = None
    """The same for parameters."""
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None
    """The same for milliseconds per cell, measured on the machine that plans, with one thread."""
    kd: Combinations = ((Choice(name="none"),),)
    routing: OneChoice = Choice(name="matched")
    policy: Annotated[tuple[Choice, ...], BeforeValidator(_choices)] = ()
    training: Annotated[Recipe, BeforeValidator(_left_open)] = Recipe()
    teacher: Annotated[TeacherRequest, BeforeValidator(_teacher)] = TeacherRequest()
    seeds: Seeds = (0,)
    folds: Seeds | None = None
    """Of a split with several divisions, the ones to run; None: all."""
    exclude: tuple[Exclude, ...] = ()
    """Cells of the cross product that are left out."""
    incompatible: Literal["refuse", "skip"] = "refuse"
    """`skip` leaves out incompatible combinations, with the reason, instead of refusing the whole request."""
    overrides: dict[str, dict[str, Any]] = {}
    """Section (dataset, fusion, kd, backbone, routing, policy) -> parameters from `--set`, applied to
    every listed component that has them."""
    store: str = "wbcbench-store"
    device: str = "auto"
    threads: int | None = Field(None, ge=1)
    """Compute threads of one trial; None: `cpus_per_trial`, or torch's choice if that is None too."""
    executor: Literal["auto", "inline", "ray"] = "auto"
    """`inline`: one trial after another in this process. `ray`: several at a time, with Ray Tune."""
    jobs: int | None = Field(None, ge=1)
    """Maximum number of concurrent trials; None: as many as fit."""
    cpus_per_trial: int | None = Field(None, ge=1)
    """CPU cores of a trial, and its compute threads under either executor."""
    gpus_per_trial: Annotated[float | None, AfterValidator(_gpu_share)] = Field(None, ge=0)
    """Share of a GPU per trial; None: a whole GPU if there is one, else none."""
    ray_address: str = ""
    """`host:port` of a running Ray cluster, or `auto`; empty: Ray is started for this run only."""
    replay_maps_gb: float = Field(2.0, ge=0)
    """Stage maps are replayed too (in half precision) if all epochs of a trial's teachers fit into this size.
    So are embeddings of frozen teachers, for their other heads."""
    replay: Literal["auto", "never"] = "auto"
    """`never` runs teachers at every step: the same student up to float tolerance, but slower."""
    _root: Path = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _title_of_dataset(cls, document: Any) -> Any:
        """Moves `title` out of the data set's parameters, which identify trials."""
        if not isinstance(document, dict):
            return document
        found = dict(document)
        titles = [found.get("dataset_title")]
        if "dataset" in found:
            dataset = Choice.parse(found["dataset"])
            titles.append(dataset.params.get("title"))
            kept = {k: v for k, v in dataset.params.items() if k != "title"}
            found["dataset"] = Choice(name=dataset.name, params=kept)
        overrides = found.get("overrides")
        if isinstance(overrides, dict) and "title" in (overrides.get("dataset") or {}):
            own = dict(overrides["dataset"])
            titles.append(own.pop("title"))
            found["overrides"] = {**overrides, "dataset": own}
        given = [t for t in titles if t not in (None, "")]
        return found | ({"dataset_title": str(given[-1])} if given else {})

    def model_post_init(self, _: Any) -> None:
        self._root = Path(self.store).absolute()

    @property
    def root(self) -> Path:
        """The store's absolute path, also after a change of working directory; `store` is what the user typed."""
        return self._root
