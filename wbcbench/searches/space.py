"""The search space, and the syntax of its ranges: `log(1,20)`, `choice(a,b)`, `fixed(0.5)`."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator

from wbcbench.errors import UsageError, did_you_mean
from wbcbench.spec.load import validate
from wbcbench.spec.request import BackboneChoice, Choice, Request, parse_value, split_list
from wbcbench.spec.trial import Frozen, Recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial


WORDS = ("uniform", "log", "int", "logint", "choice", "fixed")
_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", re.DOTALL)


def _plain(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in values:
        if not isinstance(value, bool | int | float | str | None):
            raise ValueError(f"expected numbers, words, true or false, but got {value!r}")
    return values


class Range(Frozen):
    """The range of a parameter: between two numbers, among choices, or one fixed value."""

    kind: Literal["float", "int", "choice", "fixed"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: Annotated[tuple[Any, ...], AfterValidator(_plain)] = ()
    """The alternatives; for `fixed`, the single value."""

    def __str__(self) -> str:
        if self.kind in ("choice", "fixed"):
            return f"{self.kind}({', '.join(map(str, self.choices))})"
        word = ("logint" if self.log else "int") if self.kind == "int" else ("log" if self.log else "uniform")
        return f"{word}({_exact(self.low)}, {_exact(self.high)})"


class Dimension(Frozen):
    """A named range, the parameter it sets, and the methods for which it exists."""

    name: str
    """For display and for Optuna: `training.lr`, `distiller.dkd.beta`, `fusion`."""
    section: str
    """`training`, `fusion`, `backbone`, `distiller`, `policy` or `routing`."""
    component: str = ""
    """The component in the section; empty for `training` and for a choice of method. Of the backbone of one
    modality, see `component_name`."""
    parameter: str = ""
    """Empty: the dimension is a choice of method."""
    range: Range
    when: dict[str, tuple[Any, ...]] = {}
    """Choice of method, or another dimension -> labels or values for which this one exists; all must hold."""

    def active(self, chosen: dict[str, Any]) -> bool:
        """Whether the dimension exists, given these values."""
        return all(chosen.get(name) in labels for name, labels in self.when.items())

    def suggest(self, trial: BaseTrial) -> Any:
        """The value that the Optuna trial suggests."""
        r = self.range
        if r.kind == "fixed":
            return r.choices[0]
        if r.kind == "choice":
            return trial.suggest_categorical(self.name, list(r.choices))
        if r.kind == "int":
            return trial.suggest_int(self.name, int(r.low), int(r.high), log=r.log)
        return trial.suggest_float(self.name, r.low, r.high, log=r.log)

    def distribution(self) -> BaseDistribution:
        """The range as an Optuna distribution. Raises `ValueError` for a fixed one, which has none."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        r = self.range
        if r.kind == "choice":
            return CategoricalDistribution(list(r.choices))
        if r.kind == "int":
            return IntDistribution(int(r.low), int(r.high), log=r.log)
        if r.kind == "float":
            return FloatDistribution(r.low, r.high, log=r.log)
        raise ValueError(f"{self.name} is fixed")


def suggest_all(dimensions: Sequence[Dimension], trial: BaseTrial) -> dict[str, Any]:
    """Dimension -> value, including fixed ones, without dimensions that the chosen method does not have."""
    values: dict[str, Any] = {}
    for dimension in dimensions:
        if dimension.active(values):
            values[dimension.name] = dimension.suggest(trial)
    return values


def _exact(number: float) -> str:
    """The shortest text that is exactly this number, so that it can be given again."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def parse_range(name: str, value: Any, whole: bool = False) -> Range:
    """Read `log(1,20)`, `uniform(0,1)`, `int(1,8)`, `logint(1,64)`, `choice(a,b)`, `fixed(v)`, a list or a value.

    Args:
        name: of the parameter, for messages.
        value: text or, from a file, a list (choices) or a number (fixed).
        whole: the parameter takes integers only, so `uniform` and `log` draw integers.

    Raises:
        UsageError: not one of these forms, or an empty range.
    """
    if isinstance(value, list | tuple):
        return _choices(name, value)
    call = _CALL.fullmatch(value) if isinstance(value, str) else None
    if call is None:
        return Range(
            kind="fixed", choices=(_checked(name, parse_value(value) if isinstance(value, str) else value),)
        )
    word, inner = call[1].lower(), call[2]
    arguments = [parse_value(part) for part in split_list(inner)]
    if word not in WORDS:
        raise UsageError(f"{name}: unknown range '{word}'.{did_you_mean(word, WORDS)} {_FORMS}")
    if word == "choice":
        return _choices(name, arguments)
    if word == "fixed":
        if len(arguments) != 1:
            raise UsageError(f"{name}: expected one value in fixed(...), but got {len(arguments)}.")
        return Range(kind="fixed", choices=(_checked(name, arguments[0]),))
    # a whole number beyond floats is no bound; compared, not converted, which would fail
    numbers = [
        float(a) for a in arguments
        if isinstance(a, int | float) and not isinstance(a, bool) and abs(a) <= sys.float_info.max
    ]  # fmt: skip
    if len(arguments) != 2 or len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        raise UsageError(f"{name}: expected two numbers, as in {word}(1,20), but got {word}({inner}).")
    whole = whole or word in ("int", "logint")
    return interval(name, *numbers, log=word in ("log", "logint"), whole=whole)


def interval(name: str, low: float, high: float, *, log: bool = False, whole: bool = False) -> Range:
    """A range of numbers. Raises `UsageError` if it is empty, or logarithmic and not above 0."""
    if not low < high:
        raise UsageError(f"{name}: expected a range from low to high, but got {low:g} to {high:g}.")
    if log and low <= 0:
        raise UsageError(f"{name}: expected a logarithmic range that starts above 0, but it starts at {low:g}.")
    if whole and (low != int(low) or high != int(high)):
        raise UsageError(f"{name}: expected a range of whole numbers, but got {low:g} to {high:g}.")
    return Range(kind="int" if whole else "float", low=low, high=high, log=log)


def _choices(name: str, values: Any) -> Range:
    unique = tuple(dict.fromkeys(_checked(name, v) for v in values))
    if not unique:
        raise UsageError(f"{name}: expected at least one choice, but got none.")
    if len(unique) == 1:
        return Range(kind="fixed", choices=unique)
    return Range(kind="choice", choices=unique)


def _checked(name: str, value: Any) -> Any:
    if not isinstance(value, bool | int | float | str | None):
        raise UsageError(f"{name}: expected a number, a word, true or false, but got {value!r}. {_FORMS}")
    return value


_FORMS = "Ranges are uniform(a,b), log(a,b), int(a,b), logint(a,b), choice(a,b,...), fixed(v) or a plain value."


METHOD = {"fusion": "fusion", "backbone": "backbone", "kd": "kd"}
"""Choices of method: name of the dimension -> key of the request."""


def label(choice: BackboneChoice) -> str:
    """A choice as in command-line options: `independent:rho=0.5`, or `pi=cellnet,brightfield=resnet18`."""
    if not isinstance(choice, Choice):
        return ",".join(f"{modality}={label(one)}" for modality, one in choice.items())
    return ":".join([choice.name, *(f"{k}={v}" for k, v in sorted(choice.params.items()))])


def component_name(modality: str, name: str) -> str:
    """What a dimension calls the backbone of one modality; each modality's is searched on its own."""
    return f"{modality}:{name}"


def labels(request: Request, key: str) -> dict[str, Any]:
    """Label -> alternative, for one list of the request; for `kd`, an alternative is a combination."""
    if key == "kd":
        return {"+".join(map(label, combination)): combination for combination in request.kd}
    return {label(choice): choice for choice in getattr(request, key)}


@dataclass(frozen=True)
class Space:
    """The search space of a request. Calling it with an Optuna trial gives the request of that trial."""

    request: Request
    """With overrides of components (`--set fusion.rho=0.2`) already moved into its choices."""
    dimensions: tuple[Dimension, ...]
    """Choices of method come first, since the others depend on them."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Distiller -> its weight where none is proposed, if it is searched: a number, and not `balanced`."""

    def __call__(self, trial: BaseTrial) -> Request:
        """The proposed request. Works with `Trial` and, from stored parameters, `FixedTrial`."""
        return self.overlay(self.suggest(trial))

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Dimension -> value; see `suggest_all`."""
        return suggest_all(self.dimensions, trial)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Dimension -> Optuna's distribution, for all that are not fixed; used to replay stored proposals."""
        return {d.name: d.distribution() for d in self.free}

    @property
    def free(self) -> tuple[Dimension, ...]:
        """Dimensions that are not fixed."""
        return tuple(d for d in self.dimensions if d.range.kind != "fixed")

    def overlay(self, values: dict[str, Any]) -> Request:
        """The request with these values. Its teachers remain those of the base request."""
        request = self.request
        given: dict[tuple[str, str], dict[str, Any]] = {}
        for dimension in self.dimensions:
            if dimension.parameter and dimension.name in values:
                target = given.setdefault((dimension.section, dimension.component), {})
                target[dimension.parameter] = values[dimension.name]

        def merged(section: str, choice: Choice) -> Choice:
            proposed = given.get((section, choice.name), {})
            if section == "distiller" and choice.name in self.weights:
                proposed = {"weight": self.weights[choice.name], **choice.params, **proposed}
            return Choice(name=choice.name, params={**choice.params, **proposed})

        def backbone(choice: BackboneChoice) -> BackboneChoice:
            if isinstance(choice, Choice):
                return merged("backbone", choice)
            proposed = {m: given.get(("backbone", component_name(m, c.name)), {}) for m, c in choice.items()}
            return {m: Choice(name=c.name, params={**c.params, **proposed[m]}) for m, c in choice.items()}

        def chosen(key: str) -> Any:
            alternatives = labels(request, key)
            return alternatives[values[key]] if key in values else next(iter(alternatives.values()))

        changes: dict[str, Any] = {
            "fusion": (merged("fusion", chosen("fusion")),),
            "backbone": (backbone(chosen("backbone")),),
            "kd": (tuple(merged("distiller", c) for c in chosen("kd")),),
            "policy": tuple(merged("policy", c) for c in request.policy),
            "routing": merged("routing", request.routing),
        }
        recipe = given.get(("training", ""))
        if recipe:
            own = request.training.model_dump(exclude_unset=True)
            changes["training"] = validate(Recipe, {**own, **recipe}, "training")
            # all of the base's: what the student's search changes must not reach its teachers
            base = {**request.training.model_dump(), **request.teacher.training}
            changes["teacher"] = request.teacher.model_copy(update={"training": base})
        return request.model_copy(update=changes)

    def methods(self) -> list[dict[str, str]]:
        """All combinations of methods, each as dimension -> label; a single empty one if there are no choices."""
        combinations: list[dict[str, str]] = [{}]
        for dimension in self.dimensions:
            if not dimension.parameter:
                combinations = [{**c, dimension.name: v} for c in combinations for v in dimension.range.choices]
        return combinations

    def rows(self) -> list[dict[str, Any]]:
        """One row as JSON per dimension: name, range, condition."""
        return [
            {"name": d.name, "range": str(d.range), "when": {k: list(v) for k, v in d.when.items()}}
            for d in self.dimensions
        ]
