"""Which components work together: refused while planning, before anything is trained."""

from __future__ import annotations

from wbcbench.contracts import Description, Needs
from wbcbench.errors import IncompatibleError
from wbcbench.registry import Registry
from wbcbench.registry.declaration import Declaration
from wbcbench.spec import Component, Protocol, Recipe
from wbcbench.spec.lessons import route_names


def declared(registry: Registry, kind: str, spec: Component) -> Declaration:
    """What a trial's component says of itself."""
    return registry.declared(kind, spec.name)


def needs_of(registry: Registry, distiller: Component) -> Needs:
    """What a distiller declares to need."""
    return declared(registry, "distiller", distiller).needs


def check_fit(
    registry: Registry,
    fusion: Component,
    backbone: Component,
    distillers: tuple[Component, ...],
    description: Description,
    protocol: Protocol,
    recipe: Recipe,
) -> None:
    """Raises `IncompatibleError` that says what does not fit and what would."""
    factor = declared(registry, "fusion", fusion).scales
    if factor and fusion.params[factor] != 1 and not declared(registry, "backbone", backbone).scalable:
        raise IncompatibleError(
            f"Fusion '{fusion.name}' scales its backbone ({factor} {fusion.params[factor]:g}), but backbone "
            f"'{backbone.name}' cannot be scaled. Choose a wider model, or --backbone cellnet."
        )
    if distillers and solved_once(registry, fusion):
        raise IncompatibleError(
            f"Fusion '{fusion.name}' is solved in one go and is not trained, so distiller "
            f"'{distillers[0].name}' has nothing to teach. Use it with --kd none."
        )
    declaration = declared(registry, "fusion", fusion)
    routes = route_names(declaration.emits, protocol.modalities)
    for distiller in distillers:
        needs = needs_of(registry, distiller)
        if "maps" in needs.student and not declaration.stage_maps:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' reads the student's stage maps, but a head of fusion "
                f"'{fusion.name}' stands on several networks, which have none in common. Choose a "
                "distiller of logits or embeddings, or a fusion such as early, mid_concat or independent."
            )
        if len(description.classes) < needs.min_classes:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' needs at least {needs.min_classes} classes, but the data set "
                f"has {len(description.classes)}. 'logits' works with two."
            )
        if protocol.budget.batch_size < needs.min_batch:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' needs batches of at least {needs.min_batch}, but batch_size "
                f"is {protocol.budget.batch_size}."
            )
        if needs.optimiser and recipe.optimiser != needs.optimiser:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' works with the optimiser {needs.optimiser}, but "
                f"training.optimiser is {recipe.optimiser}. "
                f"Add --set training.optimiser={needs.optimiser} --set training.lr=0.05"
            )
        if needs.taught_by == "peers" and len(routes) < 2:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' lets the heads of one student teach each other, but fusion "
                f"'{fusion.name}' has a single route. Choose one with a head per modality, such as independent."
            )
    _check_roles(registry, distillers)


def check_complete(
    registry: Registry, fusion: Component, modalities: tuple[str, ...], description: Description
) -> None:
    """Raises `IncompatibleError` for a fusion that refuses incomplete cells, where some are known to be."""
    lacking = [m for m in modalities if m in (description.incomplete or ())]
    if lacking and declared(registry, "fusion", fusion).missing == "refuse":
        raise IncompatibleError(
            f"Fusion '{fusion.name}' needs every modality of every cell, but some cells have no "
            f"{' or no '.join(lacking)} image. Leave these cells or modalities out (--modalities), or choose a "
            "fusion that takes incomplete cells (`wbcbench list fusions`)."
        )


def check_arity(registry: Registry, fusion: Component, modalities: tuple[str, ...]) -> None:
    """Raises `IncompatibleError` for a number of modalities that a fusion does not take."""
    low, high = declared(registry, "fusion", fusion).arity
    count = len(modalities)
    if count < low or (high is not None and count > high):
        raise IncompatibleError(
            f"Fusion '{fusion.name}' takes {spelt(low, high)} modalities, but the protocol has {count} "
            f"({', '.join(modalities)}). Choose them with --modalities."
        )


def spelt(low: int, high: int | None) -> str:
    """An arity in words: `2`, `2 or more`, `1 to 4`."""
    return f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"


def solved_once(registry: Registry, fusion: Component) -> bool:
    """Whether a fusion has no training loop, so that nothing can change it."""
    return declared(registry, "fusion", fusion).trained == "once"


def _check_roles(registry: Registry, distillers: tuple[Component, ...]) -> None:
    """A distiller that only takes the optimiser's step needs another one that has a loss."""
    roles = [declared(registry, "distiller", d).role for d in distillers]
    if roles.count("optimiser") > 1:
        raise IncompatibleError("Only one distiller can take the optimiser's step, but several were given.")
    if "optimiser" in roles and len(roles) == 1:
        name = distillers[0].name
        raise IncompatibleError(f"Distiller '{name}' has no loss of its own: combine it, as in --kd logits+{name}")
    names = [d.name for d in distillers]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise IncompatibleError(
            f"One combination has '{min(twice)}' twice. Give it once, with the weight you want."
        )


def together(registry: Registry, distillers: tuple[Component, ...]) -> str:
    """One sentence on what a combination comes to: weights of losses, and what only changes them."""
    parts = []
    losses = [d for d in distillers if declared(registry, "distiller", d).role == "loss"]
    for d in distillers:
        role = declared(registry, "distiller", d).role
        if role == "optimiser":
            parts.append(f"{d.name} (takes the optimiser's step)")
        elif role == "transform" and any(set(needs_of(registry, x).student) == {"logits"} for x in losses):
            parts.append(f"{d.name} (changes the logits that the others read; its own weight has no effect)")
        else:
            parts.append(f"{d.name} (weight {d.params['weight']:g})")
    return "Taken together: " + " + ".join(parts)
