"""Which fusion works with which distiller and policy: a table made from declarations alone."""

from __future__ import annotations

from itertools import product

from wbcbench.contracts import Description
from wbcbench.errors import IncompatibleError, WbcbenchError
from wbcbench.registry import Component as Registered
from wbcbench.registry import Registry, qualified_name
from wbcbench.scheduling.compatibility import check_arity, check_fit, check_policies, declared, needs_of
from wbcbench.spec import Budget, ComponentSpec, Protocol, Recipe

NEUTRAL = ("none",)
EPOCHS = 30
"""A training of usual length: the table does not depend on budgets."""


def compatibility(registry: Registry, modalities: int = 2, classes: int = 5) -> list[dict[str, str]]:
    """Every pair of a fusion with a distiller, a fusion with a policy, and a distiller with a policy.

    Args:
        modalities: how many the data set has.
        classes: how many it has.

    Returns:
        Rows `first`, `second` (as `kind:name`) and `reason`, which is empty if the two work together. What
        depends on a backbone (stages, width) is checked when a run is planned or rehearsed.
    """
    names = tuple(f"m{i}" for i in range(modalities))
    description = Description(
        modalities=dict.fromkeys(names, 1),
        classes=tuple(f"c{i}" for i in range(classes)),
        fingerprint="",
        cells=100,
        ordered=True,
    )
    kinds = {kind: registry.components(kind) for kind in ("fusion", "distiller", "policy")}
    rows = []
    for first, second in (("fusion", "distiller"), ("fusion", "policy"), ("distiller", "policy")):
        for a, b in product(kinds[first], kinds[second]):
            chosen = {first: _spec(registry, a), second: _spec(registry, b)}
            reason = "" if b.name in NEUTRAL else _why_not(registry, chosen, description, names)
            rows.append({"first": f"{first}:{a.name}", "second": f"{second}:{b.name}", "reason": reason})
    return rows


def _why_not(
    registry: Registry, chosen: dict[str, ComponentSpec], description: Description, modalities: tuple[str, ...]
) -> str:
    fusion = chosen.get("fusion")
    distillers = (
        (chosen["distiller"],) if "distiller" in chosen and chosen["distiller"].name not in NEUTRAL else ()
    )
    policies = (chosen["policy"],) if "policy" in chosen else ()
    protocol = Protocol(
        dataset=ComponentSpec(name="any"),
        modalities=modalities,
        image_size=32,
        fingerprint="",
        budget=Budget(epochs=EPOCHS),
    )
    backbone = _spec(registry, registry.resolve("backbone", "cellnet").component)
    optimiser = "sgd" if any(needs_of(registry, d).optimiser == "sgd" for d in distillers) else "adamw"
    recipe = Recipe(optimiser=optimiser)  # type: ignore[arg-type]
    # a distiller that only takes the step is checked together with one that has a loss
    beside = _spec(registry, registry.resolve("distiller", "logits").component)
    whole = (*distillers, beside) if distillers and distillers[0].name != "logits" else distillers
    try:
        if fusion is not None:
            if declared(registry, "fusion", fusion).fusion_traits.arity[1] == 1:
                modalities = modalities[:1]  # run once per modality
                protocol = protocol.model_copy(update={"modalities": modalities})
            check_arity(registry, fusion, modalities)
            check_fit(registry, fusion, backbone, whole, description, protocol, recipe)
        check_policies(registry, fusion, policies, whole or (beside,), protocol, description)
    except IncompatibleError as error:
        return str(error)
    except WbcbenchError as error:  # a plugin that cannot be read works with nothing
        return str(error).splitlines()[0]
    return ""


def _spec(registry: Registry, component: Registered) -> ComponentSpec:
    params = registry.declaration(component).params
    return ComponentSpec(name=qualified_name(component), params=params().model_dump(mode="json"))
