"""What components declare for planning, readable without building a model (imports no torch).

One frozen object per kind, set as a class attribute: `FusionTraits`, `PolicyTraits`, `Needs`. Everything in them
has a default, and a class that sets none has all defaults. An object replaces that of the base class as a whole;
to change a part of it, write `traits = dataclasses.replace(Parent.traits, arity=(2, 2))`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, asdict, dataclass, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from wbcbench.errors import IncompatibleError, did_you_mean


@dataclass(frozen=True)
class RouteTeachers:
    """One student route and the teachers (positions in the teacher list) that teach it."""

    route: str
    teachers: tuple[int, ...]


JOINT = "joint"


def route_names(emits: Sequence[str], modalities: Sequence[str]) -> tuple[str, ...]:
    """Expand a fusion's `emits` into route names: `joint`, the modalities, or both (joint first)."""
    names: list[str] = [JOINT] if "joint" in emits else []
    return (*names, *modalities) if "modality" in emits else tuple(names)


def assign_teachers(
    routes: Sequence[str],
    reads: Sequence[frozenset[str]],
    pairing: Literal["own", "all"],
    fallback: str = "",
) -> tuple[RouteTeachers, ...]:
    """Assign teachers to routes.

    Args:
        routes: the student's routes, `joint` or modality names.
        reads: per teacher, the modalities it reads.
        pairing: `own`: the teachers that read exactly the route's modality (for `joint`: those that read
            several); a route without one gets the fallback or all. `all`: every teacher teaches every route.
        fallback: a modality whose teacher serves the routes without one of their own.

    Raises:
        IncompatibleError: there is no teacher, or none that reads `fallback`.
    """
    if not reads:
        raise IncompatibleError("A distiller needs at least one teacher, but there is none.")
    everyone = tuple(range(len(reads)))
    stand_in = everyone
    if fallback:
        stand_in = tuple(i for i in everyone if reads[i] == frozenset({fallback}))
        if not stand_in:
            known = sorted({m for r in reads for m in r})
            raise IncompatibleError(
                f"routing.fallback names '{fallback}', but no teacher reads just that."
                f"{did_you_mean(fallback, known)} Teachers read: {', '.join(known)}."
            )
    found = []
    for route in routes:
        own = tuple(i for i in everyone if (len(reads[i]) > 1 if route == JOINT else reads[i] == {route}))
        found.append(RouteTeachers(route, everyone if pairing == "all" else (own or stand_in)))
    return tuple(found)


Tap = Literal["logits", "embedding", "maps", "inputs"]
TaughtBy = Literal["teacher", "self", "peers", "average"]
Match = Literal["logits", "embedding", "relational", "maps", "online", "optimiser"]
Problem = Literal["redundant", "unique", "xor"]

Stage = Literal["rows", "images", "losses", "weights", "gradients"]
POLICY_ORDER: tuple[Stage, ...] = ("rows", "images", "losses", "weights", "gradients")
"""The order in which policies act, independent of the order in which they are given; within a stage, by name.

`rows`: which cells and modalities the rows show; `images`: what the images look like, with the losses that follow
from it; `losses`: losses added or replaced; `weights`: factors on losses; `gradients`: changes of gradients.
"""

Offer = Literal["logits", "embedding", "own_embedding", "own_parameters", "meeting_losses", "features"]
"""What a policy may find in a fusion.

`logits`: each modality has logits, of a route or by `AddsLogits`. `embedding`: each modality has an embedding, of
its route or its own backbone; `own_embedding`: the same, and no two share one. `own_parameters`: each has
parameters that nothing else uses (an `nn.ModuleDict` by modality, or those of `OwnHeads`). `meeting_losses`: the
losses of several routes reach the same parameters. `features`: each modality has one backbone of its own, in an
`nn.ModuleDict` by modality, and all that is read of it is its embedding; this follows from `own_backbones` and
`own_embedding`.
"""
Want = Offer | Literal["incomplete", "trained_logits", "teacher"]
"""`incomplete`: cells without some modality are accepted. `trained_logits`: labels train the routes' logits.
`teacher`: some distiller is taught by trained networks."""


@cache
def _choices(cls: type) -> dict[str, tuple[bool, list[Any]]]:
    """Field -> whether it is a tuple, and its allowed values; only fields that restrict their values."""
    found = {}
    for name, hint in get_type_hints(cls).items():
        parts = get_args(hint) if type(None) in get_args(hint) else (hint,)
        whole = next((p for p in parts if get_origin(p) is tuple), None)
        words = _words(get_args(whole)[0] if whole is not None else hint)
        if words:
            found[name] = (whole is not None, words)
    return found


def _words(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [w for part in get_args(hint) for w in _words(part)]


class _Checked:
    """Rejects values that a field does not allow, so that a typo fails where it is written; makes lists tuples."""

    def _check(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name, (several, words) in _choices(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if value is None:
                continue
            known = ", ".join(repr(w) for w in words)
            if several and not isinstance(value, tuple):
                raise TypeError(f"Expected `{name}` as a tuple, such as ({words[0]!r},), but got {value!r}.")
            wrong = [v for v in (value if several else (value,)) if v not in words]
            if wrong:
                raise ValueError(f"Expected `{name}` to be one of {known}, but got {wrong[0]!r}.")


@dataclass(frozen=True, kw_only=True)
class FusionTraits(_Checked):
    """What a fusion declares: `traits = FusionTraits(emits=("modality",), missing="native")`."""

    emits: tuple[Literal["joint", "modality"], ...] = ("joint",)
    """Which routes there are: one joint head, one head per modality, or both."""
    arity: tuple[int, int | None] = (1, None)
    """How many modalities it takes. A fusion of exactly one is run once per modality."""
    missing: Literal["native", "impute", "refuse"] = "impute"
    """What happens to a cell that lacks a modality: the fusion leaves it out by itself (`present` is
    passed and the absent image changes nothing); the core fills the image with the training mean
    (zero after normalisation); or such cells are refused at plan time."""
    solves: tuple[Problem, ...] = ("redundant", "unique")
    """Which two-modality problems it can express (`wbcbench.testing.fusions`): either modality is
    enough; each has information that the other lacks; only both together are informative. The contract tests
    check this."""
    stage_maps: bool = True
    """False: some route gives no stage maps (its head reads the embeddings of several networks, which have no
    common map), and distillers of maps are refused at plan time. If left True, they are still refused before
    training, once the networks are built."""
    builds_backbone: bool = True
    """False: it never builds a backbone, so that the chosen one is not part of a trial's identity."""
    own_backbones: bool = False
    """True: every backbone is built for one modality, by `backbone(channels, modality=name)`, and works with
    others of any other kind and width. Unequal backbones are refused at plan time for all other fusions."""
    vectors: bool | None = None
    """Whether a modality may be numbers [B, F] instead of images. None: if it has `own_backbones`; one that has
    them and reads maps or pixels declares False."""
    scales: str = ""
    """Name of the parameter that is a factor on the backbone's channels, if there is one. Unless it is 1, such a
    fusion is refused at plan time with a backbone that cannot be scaled."""
    offers: tuple[Offer, ...] | None = None
    """What training policies find in it; what follows from `emits` need not be listed. None: not declared, and
    policies find out when training starts instead of while planning."""

    def __post_init__(self) -> None:
        self._check()

    @property
    def takes_vectors(self) -> bool:
        """Whether a modality may be numbers."""
        return self.own_backbones if self.vectors is None else self.vectors


@dataclass(frozen=True, kw_only=True)
class PolicyTraits(_Checked):
    """What a training policy declares: `traits = PolicyTraits(acts_on="rows")`."""

    acts_on: Stage = "losses"
    """The stage of a step that it changes (`POLICY_ORDER`), which determines its order among policies. A policy
    with hooks of several stages states the one that must determine its order: dropped modalities (`rows`)
    are masked in the losses before others replace them."""
    arity: tuple[int, int | None] = (1, None)
    """How many modalities the fusion must read."""
    needs_routes: Literal["any", "several", "modality", "joint", "both"] = "any"
    """Which routes the fusion must have: at least two of any kind, at least two of single modalities, a joint
    one, or two of single modalities and a joint one."""
    wants: tuple[Want, ...] = ()
    """What it must find in the fusion, or in what another policy `offers`. Checked while planning if the fusion
    declares what it offers, otherwise by `setup`."""
    offers: tuple[Offer, ...] = ()
    """What it adds for other policies, such as a loss per modality that reaches the parameters of the routes."""
    subsets: int = 0
    """The most modalities of which it runs every subset (2^M forward passes), if the fusion has no route for each;
    0: it runs no subsets."""
    waits: str = ""
    """Name of the parameter that counts the epochs before it changes anything: budgets up to it are refused."""
    vectors: bool = True
    """False: what it does to images has no counterpart for numbers, so that it is refused with them."""
    blends_cells: bool = False
    """Whether an image may show parts of several cells. Losses on hard labels do not support such images, and
    teachers answer for them as if `live_teachers` were set."""
    live_teachers: bool = False
    """Whether teachers answer for the images of the step, as the policies have changed them, instead of for each
    cell's own view. No such answer can be stored, so that every teacher runs in every step."""
    reads_labels: bool = False
    """Whether it makes losses of its own from hard labels, and so cannot be used with one that blends cells."""
    ordered: bool = False
    """Whether it uses the order of classes, and so is refused where the data set declares none."""
    replaces_losses: Literal["none", "modality", "all"] = "none"
    """Which routes' cross-entropy it replaces by a loss without label smoothing: those of modalities, or the joint
    one too."""

    def __post_init__(self) -> None:
        self._check()

    @property
    def asks_live(self) -> bool:
        """Whether teachers must be run on the images of each step."""
        return self.live_teachers or self.blends_cells


@dataclass(frozen=True)
class Needs(_Checked):
    """What a distiller reads and requires: `needs = Needs(labels=True)`. The core derives the rest from it.

    A frozen teacher is *replayed*: its outputs are looked up instead of computed. Logits and embeddings
    always are; stage maps only where they fit a budget, so a distiller of maps may get a live teacher. One that
    reads `inputs`, the images, can differentiate in them (`input_gradient`): its teacher answers for the images of
    each step, and its losses are one number per row.
    """

    student: tuple[Tap, ...] = ("logits",)
    teacher: tuple[Tap, ...] = ("logits",)
    labels: bool = False
    """`Output.labels` is read."""
    index: bool = False
    """`Output.index` (stable cell ids) is read: memory banks, histories."""
    schedule: bool = False
    """`progress` changes the loss (warm-up, annealing)."""
    teacher_head: bool = False
    """The teacher's classifier is called: `Output.head`."""
    taught_by: TaughtBy = "teacher"
    """Where `teacher` of `terms` comes from. `teacher`: a trained network of its own. `self`: the
    student's own output, detached (no teacher is trained). `peers`: each other route of the student that
    was shown the same cell, detached. `average`: a moving average of the student's weights, on the same
    images."""
    draws: bool = False
    """Random numbers are used (`progress.draw`), so the value depends on the step."""
    head: InitVar[bool] = False
    """Old: a distiller that replaces the route's prediction has the base class `ReplacesHead` instead."""
    optimiser: Literal["", "sgd"] = ""
    """The only optimiser that it works with."""
    min_classes: int = 2
    min_batch: int = 1
    trainable: bool = False
    """The distiller has parameters of its own (adapters, temperatures)."""

    _: KW_ONLY
    matches: Match | None = None
    """What it matches, for lists of methods; None: what it reads of the student."""

    def __post_init__(self, head: bool) -> None:
        self._check()
        if "inputs" in self.teacher and self.taught_by != "teacher":
            raise ValueError(
                f"Expected taught_by='teacher' where the teacher's inputs are read, not {self.taught_by!r}."
            )
        object.__setattr__(self, "_head", head)  # for `previous`

    @property
    def replayable(self) -> bool:
        """Whether a frozen teacher's stored outputs are always enough."""
        return self.taught_by == "teacher" and not {"maps", "inputs"} & {*self.teacher}

    @property
    def inputs(self) -> bool:
        """Whether it reads images, of the student or the teacher."""
        return "inputs" in (*self.student, *self.teacher)

    @property
    def asks_live(self) -> bool:
        """Whether teachers must be run on the images of each step."""
        return "inputs" in self.teacher

    @property
    def matched(self) -> Match:
        """What it matches, as declared or else as derived from what it reads of the student."""
        read: Match = (
            "maps" if "maps" in self.student else "embedding" if "embedding" in self.student else "logits"
        )
        return self.matches or read

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with `replayable`."""
        return {k: v for k, v in asdict(self).items() if k != "matches"} | {"replayable": self.replayable}


# The old name stays readable, and `dataclasses.replace` keeps it.
Needs.head = property(lambda needs: needs._head)  # type: ignore[attr-defined]


def differences(value: Any) -> dict[str, Any]:
    """The fields of such an object that differ from their defaults."""
    return {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
