"""The search space: one object that Optuna, a stored proposal and a reader of results all understand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wbcbench.search.dimension import Dimension, suggest_all
from wbcbench.spec.load import validate
from wbcbench.spec.request import Choice, Request
from wbcbench.spec.trial import Recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

METHOD = {"fusion": "fusion", "backbone": "backbone", "kd": "kd"}
"""Choices of method: name of the dimension -> key of the request."""


def label(choice: Choice) -> str:
    """A choice as a user writes it: `independent:rho=0.5`."""
    return ":".join([choice.name, *(f"{k}={v}" for k, v in sorted(choice.params.items()))])


def labels(request: Request, key: str) -> dict[str, Any]:
    """Label -> alternative of one list of the request; for `kd` an alternative is a combination."""
    if key == "kd":
        return {"+".join(map(label, combination)): combination for combination in request.kd}
    return {label(choice): choice for choice in getattr(request, key)}


@dataclass(frozen=True)
class Space:
    """What may vary around a request. Calling it with an Optuna trial gives the request of that trial."""

    request: Request
    """With overrides of components (`--set fusion.rho=0.2`) already written into its choices."""
    dimensions: tuple[Dimension, ...]
    """Choices of method first, as the others depend on them."""

    def __call__(self, trial: BaseTrial) -> Request:
        """The proposed request. Works with `Trial` and, from stored parameters, `FixedTrial`."""
        return self.overlay(self.suggest(trial))

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Dimension -> value; see `suggest_all`."""
        return suggest_all(self.dimensions, trial)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Dimension -> Optuna's distribution, of all that is not fixed; for replaying stored proposals."""
        return {d.name: d.distribution() for d in self.free}

    @property
    def free(self) -> tuple[Dimension, ...]:
        """Dimensions that really vary."""
        return tuple(d for d in self.dimensions if d.range.kind != "fixed")

    def overlay(self, values: dict[str, Any]) -> Request:
        """The request with these values in it. Its teachers stay those of the base request."""
        request = self.request
        given: dict[tuple[str, str], dict[str, Any]] = {}
        for dimension in self.dimensions:
            if dimension.parameter and dimension.name in values:
                target = given.setdefault((dimension.section, dimension.component), {})
                target[dimension.parameter] = values[dimension.name]

        def merged(section: str, choice: Choice) -> Choice:
            return Choice(name=choice.name, params={**choice.params, **given.get((section, choice.name), {})})

        def chosen(key: str) -> Any:
            alternatives = labels(request, key)
            return alternatives[values[key]] if key in values else next(iter(alternatives.values()))

        changes: dict[str, Any] = {
            "fusion": (merged("fusion", chosen("fusion")),),
            "backbone": (merged("backbone", chosen("backbone")),),
            "kd": (tuple(merged("distiller", c) for c in chosen("kd")),),
            "policy": tuple(merged("policy", c) for c in request.policy),
            "routing": merged("routing", request.routing),
        }
        recipe = given.get(("training", ""))
        if recipe:
            base = request.training.model_dump()
            changes["training"] = validate(Recipe, {**base, **recipe}, "training")
            changes["teacher"] = request.teacher.model_copy(
                update={"training": {**base, **request.teacher.training}}
            )
        return request.model_copy(update=changes)

    def methods(self) -> list[dict[str, str]]:
        """Every combination of choices of method, each as dimension -> label; one empty one without choices."""
        combinations: list[dict[str, str]] = [{}]
        for dimension in self.dimensions:
            if not dimension.parameter:
                combinations = [{**c, dimension.name: v} for c in combinations for v in dimension.range.choices]
        return combinations

    def rows(self) -> list[dict[str, Any]]:
        """One JSON-able row per dimension: name, range, condition."""
        return [
            {"name": d.name, "range": str(d.range), "when": {k: list(v) for k, v in d.when.items()}}
            for d in self.dimensions
        ]
