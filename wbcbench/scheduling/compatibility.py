"""Which components work together, and in which order policies act: refused before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from wbcbench.contracts import Description, Needs
from wbcbench.contracts.needs import JOINT, POLICY_ORDER, PolicyTraits, assign_teachers, route_names
from wbcbench.errors import IncompatibleError
from wbcbench.registry import Registry
from wbcbench.registry.declaration import Declaration
from wbcbench.spec import ComponentSpec, Method, Protocol, Recipe, Trial
from wbcbench.spec.trial import BackboneSpec, Outside, each_of
from wbcbench.spec.weights import BALANCED


def declared(registry: Registry, kind: str, spec: ComponentSpec) -> Declaration:
    """What a trial's component declares."""
    return registry.declared(kind, spec.name)


def needs_of(registry: Registry, distiller: ComponentSpec) -> Needs:
    """What a distiller declares to need."""
    return declared(registry, "distiller", distiller).needs


def check_fit(
    registry: Registry,
    fusion: ComponentSpec,
    backbone: BackboneSpec,
    distillers: tuple[ComponentSpec, ...],
    description: Description,
    protocol: Protocol,
    recipe: Recipe,
) -> None:
    """Raises `IncompatibleError` that states what does not fit and what would."""
    check_kinds(registry, fusion, backbone, protocol.modalities, description.vectors)
    check_backbones(registry, fusion, backbone)
    if distillers and solved_once(registry, fusion):
        raise IncompatibleError(
            f"Fusion '{fusion.name}' is solved in one step and is not trained, so distiller "
            f"'{distillers[0].name}' has nothing to teach. Use it with --kd none."
        )
    declaration = declared(registry, "fusion", fusion)
    routes = route_names(declaration.fusion_traits.emits, protocol.modalities)
    for distiller in distillers:
        needs = needs_of(registry, distiller)
        if "maps" in needs.student and not declaration.fusion_traits.stage_maps:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' reads the student's stage maps, but a head of fusion "
                f"'{fusion.name}' reads several networks, which have no common maps. Choose a "
                "distiller of logits or embeddings, or a fusion such as early, mid_concat or independent."
            )
        if distiller.params.get("weight") == BALANCED and (why := unbalanced(registry, distiller, recipe)):
            raise IncompatibleError(
                f"Distiller '{distiller.name}' cannot have weight={BALANCED}: {why}. Give a number, or "
                "weight=paper."
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


def check_backbones(registry: Registry, fusion: ComponentSpec, backbone: BackboneSpec) -> None:
    """Raises `IncompatibleError` for backbones that the fusion cannot scale, or that it needs to be equal."""
    traits = declared(registry, "fusion", fusion).fusion_traits
    factor = traits.scales
    for one in each_of(backbone):
        if factor and fusion.params[factor] != 1 and not declared(registry, "backbone", one).scalable:
            raise IncompatibleError(
                f"Fusion '{fusion.name}' scales its backbone ({factor} {fusion.params[factor]:g}), but backbone "
                f"'{one.name}' cannot be scaled. Choose a wider model, or --backbone cellnet."
            )
    if not isinstance(backbone, ComponentSpec) and traits.builds_backbone and not traits.own_backbones:
        able = [
            c.name
            for c in registry.components("fusion")
            if (d := registry.declaration(c)).fusion_traits.own_backbones and takes(d, len(backbone))
        ]
        raise IncompatibleError(
            f"Fusion '{fusion.name}' needs one backbone for all modalities, since they share a trunk or exchange "
            f"maps, but got {', '.join(f'{m}={b.model}' for m, b in backbone.items())}. Give one, or choose a "
            f"fusion with a network per modality: {', '.join(sorted(able))}."
        )


def check_weights(registry: Registry, fusion: ComponentSpec, backbone: BackboneSpec) -> None:
    """Raises `IncompatibleError` for a built-in backbone that would keep its random weights: nothing trains it."""
    declaration = declared(registry, "fusion", fusion)
    if not (declaration.solved_once and declaration.fusion_traits.builds_backbone):
        return
    for one in each_of(backbone):
        brings = one.params.get("pretrained") or one.params.get("checkpoint")
        if registry.resolve("backbone", one.name).component.builtin and not brings:
            raise IncompatibleError(
                f"Fusion '{fusion.name}' is solved in one step and trains no backbone, but '{one.model}' starts "
                "from random weights. Choose a timm model with weights: resnet18:pretrained=true, or "
                "resnet18:checkpoint=weights.safetensors"
            )


def check_kinds(
    registry: Registry,
    fusion: ComponentSpec,
    backbone: BackboneSpec,
    modalities: tuple[str, ...],
    vectors: frozenset[str],
) -> None:
    """Raises `IncompatibleError` for a fusion that does not take numbers, or a backbone for another kind of input.

    Args:
        modalities: that are read.
        vectors: the data set's modalities that are numbers.
    """
    traits = declared(registry, "fusion", fusion).fusion_traits
    numbers = [m for m in modalities if m in vectors]
    if numbers and not traits.takes_vectors:
        able = sorted(
            c.name
            for c in registry.components("fusion")
            if (d := registry.declaration(c)).fusion_traits.takes_vectors
            and d.fusion_traits.builds_backbone
            and takes(d, len(modalities))
        )
        raise IncompatibleError(
            f"Fusion '{fusion.name}' joins pixels or maps of images, but {' and '.join(numbers)} "
            f"{'is' if len(numbers) == 1 else 'are'} numbers. Choose a fusion with a network per modality: "
            f"{', '.join(able)}. Or leave them out with --modalities."
        )
    if not traits.builds_backbone:
        return
    for m in modalities:
        one = backbone if isinstance(backbone, ComponentSpec) else backbone[m]
        reads = declared(registry, "backbone", one).reads
        if (reads == "vectors") != (m in vectors):
            has = {True: "numbers", False: "images"}
            raise IncompatibleError(
                f"Backbone '{one.model}' reads {has[reads == 'vectors']}, but '{m}' is {has[m in vectors]}. Give "
                "a backbone for each modality, as in --backbone "
                + ",".join(f"{n}={'mlp' if n in vectors else 'cellnet'}" for n in modalities)
            )


def check_outside(registry: Registry, distillers: tuple[ComponentSpec, ...], teacher: Outside) -> None:
    """Raises `IncompatibleError` for a distiller that needs more of a teacher than its file of answers holds."""
    for distiller in distillers:
        needs = needs_of(registry, distiller)
        if needs.taught_by != "teacher":
            continue
        wants = {
            "stage maps": "maps" in needs.teacher,
            "classifier": needs.teacher_head or declared(registry, "distiller", distiller).replaces_head,
            "embeddings": "embedding" in needs.teacher and not teacher.embedding,
        }
        if lacking := [what for what, wanted in wants.items() if wanted]:
            raise IncompatibleError(
                f"Distiller '{distiller.name}' needs the teacher's {lacking[0]}, which the file of answers "
                f"'{teacher.name}' does not have. "
                + ("Add the array embeddings, or choose" if lacking == ["embeddings"] else "Choose")
                + " a distiller of logits, such as logits or dkd."
            )


def asks_live(registry: Registry, method: Method) -> str:
    """Why teachers must answer for the images of each step, as the subject of a sentence; empty if they need
    not."""
    if not any(needs_of(registry, d).taught_by == "teacher" for d in method.distillers):
        return ""
    asking = [
        f"Policy '{p.name}'" for p in method.policies if declared(registry, "policy", p).policy_traits.asks_live
    ]
    asking += [f"Distiller '{d.name}'" for d in method.distillers if needs_of(registry, d).asks_live]
    return asking[0] if asking else ""


def check_live(registry: Registry, trial: Trial) -> None:
    """Raises `IncompatibleError` for teachers that would have to answer for the images of a step and cannot."""
    method, protocol = trial.method, trial.protocol
    asks = asks_live(registry, method)
    if not asks:
        return
    asks += " lets teachers answer for the images of each step"
    if method.outside:
        raise IncompatibleError(
            f"{asks}, but '{method.outside[0].name}' is a file of answers. Use trained teachers (--teacher "
            "cellnet)."
        )
    if method.teacher_views != "same":
        raise IncompatibleError(
            f"{asks}, but teacher.views = {method.teacher_views} shows them others. Leave it out."
        )
    for teacher in method.teachers:
        if unseen := [m for m in teacher.reads if m not in protocol.modalities]:
            raise IncompatibleError(
                f"{asks}, but a teacher reads {unseen[0]}, which the student is not shown. Choose teachers of "
                f"{', '.join(protocol.modalities)} with --teacher-modalities."
            )
        if teacher.protocol.image_size != protocol.image_size:
            raise IncompatibleError(
                f"{asks}, which have {protocol.image_size} px, but a teacher reads "
                f"{teacher.protocol.image_size} px. "
                "Leave teacher.image_size out."
            )
    blending = [p.name for p in method.policies if declared(registry, "policy", p).policy_traits.blends_cells]
    routing = method.routing and declared(registry, "routing", method.routing)
    if (
        blending
        and method.routing
        and routing
        and (routing.labels or (routing.labels is None and routing.min_teachers > 1))
    ):
        raise IncompatibleError(
            f"Routing '{method.routing.name}' may weigh teachers by labels, but policy '{blending[0]}' shows "
            "images of several cells at once. Use --routing matched."
        )
    differentiating = [d.name for d in method.distillers if needs_of(registry, d).asks_live]
    if differentiating and method.routing:
        routes = route_names(declared(registry, "fusion", method.fusion).fusion_traits.emits, protocol.modalities)
        reads = [frozenset(t.reads) for t in method.teachers]
        pairing = declared(registry, "routing", method.routing).pairing
        for one in assign_teachers(routes, reads, pairing, str(method.routing.params.get("fallback", ""))):
            if one.route != JOINT and any(one.route not in reads[i] for i in one.teachers):
                raise IncompatibleError(
                    f"Distiller '{differentiating[0]}' compares gradients in the same images, but route "
                    f"'{one.route}' of fusion '{method.fusion.name}' has a teacher that reads other modalities. "
                    "Use --routing matched, with a teacher of every modality."
                )


def check_routing_reads(registry: Registry, trial: Trial) -> None:
    """Raises `IncompatibleError` for a routing that reads what the student, or a teacher from outside, has not."""
    method = trial.method
    if method.routing is None:
        return
    routing, name = declared(registry, "routing", method.routing), method.routing.name
    if "maps" in routing.student and not declared(registry, "fusion", method.fusion).fusion_traits.stage_maps:
        raise IncompatibleError(
            f"Routing '{name}' reads the student's stage maps, but a head of fusion '{method.fusion.name}' reads "
            "several networks, which have no common maps. Choose another routing, or a fusion such as early."
        )
    for teacher in method.outside:
        if "maps" in routing.teacher or ("embedding" in routing.teacher and not teacher.embedding):
            raise IncompatibleError(
                f"Routing '{name}' reads the teachers' {' and '.join(routing.teacher)}, which the file of answers "
                f"'{teacher.name}' does not have. Choose another routing."
            )


def unbalanced(registry: Registry, distiller: ComponentSpec, recipe: Recipe) -> str:
    """Why its gradient cannot be set to a share of the task loss's; empty if it can."""
    if declared(registry, "distiller", distiller).replaces_head:
        return "with it the task loss trains nothing that it could be compared with"
    if needs_of(registry, distiller).taught_by == "average":
        return "it compares the student with its own average, from which it does not differ at the start"
    return "" if recipe.task_weight else "training.task_weight is 0"


def check_complete(
    registry: Registry, fusion: ComponentSpec, modalities: tuple[str, ...], description: Description
) -> None:
    """Raises `IncompatibleError` for a fusion that refuses incomplete cells, where some are known to be."""
    lacking = [m for m in modalities if m in (description.incomplete or ())]
    if lacking and declared(registry, "fusion", fusion).fusion_traits.missing == "refuse":
        raise IncompatibleError(
            f"Fusion '{fusion.name}' needs every modality of every cell, but some cells have no "
            f"{' or no '.join(lacking)} image. Leave these cells or modalities out (--modalities), or choose a "
            "fusion that takes incomplete cells (`wbcbench list fusions`)."
        )


def check_arity(registry: Registry, fusion: ComponentSpec, modalities: tuple[str, ...]) -> None:
    """Raises `IncompatibleError` for a number of modalities that a fusion does not take."""
    declaration, count = declared(registry, "fusion", fusion), len(modalities)
    if not takes(declaration, count):
        raise IncompatibleError(
            f"Fusion '{fusion.name}' takes {spelt(*declaration.fusion_traits.arity)} modalities, but the protocol "
            f"has {count} "
            f"({', '.join(modalities)}). Choose them with --modalities."
        )


def takes(fusion: Declaration, modalities: int) -> bool:
    """Whether a fusion takes this many modalities."""
    low, high = fusion.fusion_traits.arity
    return low <= modalities and (high is None or modalities <= high)


def spelt(low: int, high: int | None) -> str:
    """An arity in words: `2`, `2 or more`, `1 to 4`."""
    return f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"


def solved_once(registry: Registry, fusion: ComponentSpec) -> bool:
    """Whether a fusion has no training loop, so that nothing can change it."""
    return declared(registry, "fusion", fusion).solved_once


def _check_roles(registry: Registry, distillers: tuple[ComponentSpec, ...]) -> None:
    """A distiller that only takes the optimiser's step needs another one that has a loss."""
    roles = [declared(registry, "distiller", d).role for d in distillers]
    if roles.count("optimiser") > 1:
        raise IncompatibleError("Only one distiller can take the optimiser's step, but several were given.")
    if "optimiser" in roles and len(roles) == 1:
        name = distillers[0].name
        raise IncompatibleError(f"Distiller '{name}' has no loss of its own: combine it, as in --kd logits+{name}")
    alone = [d.name for d in distillers if declared(registry, "distiller", d).replaces_head]
    reading = [d.name for d in distillers if needs_of(registry, d).inputs]
    if alone and reading:
        raise IncompatibleError(
            f"Distiller '{reading[0]}' differentiates the student's logits, but with '{alone[0]}' they are "
            "those of the teacher's classifier, which have no gradient. Choose one of them."
        )
    names = [d.name for d in distillers]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise IncompatibleError(
            f"The combination has '{min(twice)}' twice. Give it once, with the weight you want."
        )


def adds_loss(registry: Registry, distiller: ComponentSpec, combination: tuple[ComponentSpec, ...]) -> bool:
    """Whether a distiller of a combination has a loss of its own there.

    One that takes the optimiser's step has none, and a transform of logits has one only if no other distiller of
    the combination reads just logits: else it changes what that one reads.
    """
    role = declared(registry, "distiller", distiller).role
    if role == "transform":
        return not any(
            declared(registry, "distiller", d).role == "loss" and set(needs_of(registry, d).student) == {"logits"}
            for d in combination
        )
    return role == "loss"


def together(registry: Registry, distillers: tuple[ComponentSpec, ...]) -> str:
    """One sentence that describes a combination: weights of losses, and what only changes them."""
    parts = []
    for d in distillers:
        if adds_loss(registry, d, distillers):
            weight = d.params["weight"]
            parts.append(f"{d.name} ({weight} weight)" if weight == BALANCED else f"{d.name} (weight {weight:g})")
        elif declared(registry, "distiller", d).role == "optimiser":
            parts.append(f"{d.name} (takes the optimiser's step)")
        else:
            parts.append(f"{d.name} (changes the logits that the others read, and has no weight)")
    return "Taken together: " + " + ".join(parts)


Known = Mapping[str, Declaration]
"""Policy -> what it declares."""


def in_order(registry: Registry, policies: Iterable[ComponentSpec]) -> tuple[ComponentSpec, ...]:
    """The policies as they act, and as a trial names them: by what they act on, then by name.

    So one set of policies is one method, in whatever order a user lists it.
    """

    def place(policy: ComponentSpec) -> tuple[int, str]:
        return POLICY_ORDER.index(declared(registry, "policy", policy).policy_traits.acts_on), policy.name

    return tuple(sorted(policies, key=place))


def check_policies(
    registry: Registry,
    fusion: ComponentSpec | None,
    policies: tuple[ComponentSpec, ...],
    distillers: tuple[ComponentSpec, ...],
    protocol: Protocol,
    description: Description,
) -> None:
    """Raises `IncompatibleError` for policies that do not work with the cells, the fusion, the distillers or each
    other."""
    known = {p.name: declared(registry, "policy", p) for p in policies}
    for name in (n for n, d in known.items() if d.policy_traits.ordered and not description.ordered):
        raise IncompatibleError(
            f"Policy '{name}' uses the order of classes, but the data set declares none for "
            f"{', '.join(description.classes)}. If they have one, state it: --set "
            f"dataset.classes_order=[{','.join(description.classes)}]"
        )
    numbers = [m for m in protocol.modalities if m in description.vectors]
    for name in (n for n, d in known.items() if numbers and not d.policy_traits.vectors):
        raise IncompatibleError(
            f"Policy '{name}' changes images in a way that has no counterpart for numbers, but {numbers[0]} is "
            "numbers. Leave the policy or the modality out."
        )
    if len(known) < len(policies):
        names = [p.name for p in policies]
        twice = next(n for n in names if names.count(n) > 1)
        raise IncompatibleError(f"Policy '{twice}' was given twice. Give it once.")
    if fusion is not None and policies:
        if solved_once(registry, fusion):
            raise IncompatibleError(
                f"Fusion '{fusion.name}' is solved in one step and is not trained, so policy '{policies[0].name}' "
                "has nothing to change. Leave the policy out."
            )
        _check_fusion(registry, fusion, known, protocol.modalities)
    _check_budget(policies, known, protocol.budget.epochs)
    _check_each_other(known)
    _check_distillers(registry, known, distillers)


def _check_fusion(registry: Registry, fusion: ComponentSpec, known: Known, modalities: tuple[str, ...]) -> None:
    declaration = declared(registry, "fusion", fusion)
    for name, policy in known.items():
        added: set[str] = {o for n, d in known.items() if n != name for o in d.policy_traits.offers}
        for reason in lacks(policy.policy_traits, declaration, fusion.name, modalities, added):
            raise IncompatibleError(f"Policy '{name}' {reason}")


def lacks(
    policy: PolicyTraits, fusion: Declaration, name: str, modalities: tuple[str, ...], added: set[str]
) -> Iterator[str]:
    """What the policy needs and does not find in the fusion (called `name`) or in what other policies add.

    Each is the rest of a sentence that starts with the policy's name.
    """
    low, high = policy.arity
    count = len(modalities)
    if count < low or (high is not None and count > high):
        yield (
            f"takes {spelt(low, high)} modalities, but fusion '{name}' reads {count} ({', '.join(modalities)}). "
            "Choose them with --modalities, or another fusion."
        )
    routes = route_names(fusion.fusion_traits.emits, modalities)
    single, joint = sum(r in modalities for r in routes), JOINT in routes
    there = {
        "any": True,
        "several": len(routes) > 1,
        "modality": single > 1,
        "joint": joint,
        "both": single > 1 and joint,
    }
    if not there[policy.needs_routes]:
        yield f"needs {_ROUTES[policy.needs_routes]}, but fusion '{name}' has just {', '.join(routes)}."
    most = policy.subsets
    if most and not single and count > most:
        yield (
            f"runs a fusion without a head per modality on every subset of at most {most}, but '{name}' reads "
            f"{count}. Choose fewer with --modalities, or a fusion such as late_prob."
        )
    found = added | offered(fusion, routed=single > 0)
    for want in policy.wants:
        if want in _WANTS and want not in found:
            needs, advice = _WANTS[want]
            yield f"needs {needs}, which fusion '{name}' does not offer. {advice}"


def offered(fusion: Declaration, routed: bool) -> set[str]:
    """What policies find in a fusion, with what follows from its other declarations.

    A fusion that declares nothing is assumed to offer everything; `setup` of the policy checks it.
    """
    traits = fusion.fusion_traits
    said = set(_WANTS) - {"incomplete"} if traits.offers is None else set(traits.offers)
    follows = {"logits", "embedding"} if routed else set()
    follows |= {"embedding"} if "own_embedding" in said else set()
    follows |= {"features"} if traits.own_backbones and "own_embedding" in said else set()
    follows |= {"incomplete"} if traits.missing != "refuse" else set()
    return said | follows


def _check_budget(policies: tuple[ComponentSpec, ...], known: Known, epochs: int) -> None:
    for policy in policies:
        waits = known[policy.name].policy_traits.waits
        if waits and epochs <= policy.params[waits]:
            raise IncompatibleError(
                f"Policy '{policy.name}' changes nothing in the first {policy.params[waits]} epochs, but the "
                f"budget is {epochs}. Use --set policy.{waits}={max(1, epochs // 3)}, or train for longer."
            )


def _check_each_other(known: Known) -> None:
    blending = [n for n, d in known.items() if d.policy_traits.blends_cells]
    reading = [n for n, d in known.items() if d.policy_traits.reads_labels]
    combining = [n for n, d in known.items() if "DoesBackward" in d.extras]
    if len(blending) > 1:
        raise IncompatibleError(f"Only one policy can blend cells, but both {' and '.join(blending)} do.")
    if blending and reading:
        raise IncompatibleError(
            f"Policy '{reading[0]}' needs one label per image, but '{blending[0]}' blends cells."
        )
    stepping = [n for n, d in known.items() if "StepsInTurn" in d.extras]
    ordinal = [n for n, d in known.items() if d.policy_traits.ordered]
    replacing = [n for n, d in known.items() if d.policy_traits.replaces_losses != "none"]
    if ordinal and len(replacing) > 1:
        raise IncompatibleError(f"Only one policy can replace losses, but {' and '.join(replacing)} do.")
    if len(combining) > 1:
        raise IncompatibleError(f"Only one policy can do the backward pass, but {' and '.join(combining)} do.")
    if len(stepping) > 1 or (stepping and combining):
        raise IncompatibleError(
            f"Policy '{stepping[0]}' takes several optimiser steps for each batch, which leaves none to "
            f"'{[*stepping[1:], *combining][0]}'. Choose one of them."
        )


def _check_distillers(registry: Registry, known: Known, distillers: tuple[ComponentSpec, ...]) -> None:
    blending = [n for n, d in known.items() if d.policy_traits.blends_cells]
    for distiller in distillers if blending else ():
        needs = needs_of(registry, distiller)
        if needs.labels or needs.index or needs.taught_by == "peers":
            reads = "compares heads" if needs.taught_by == "peers" else "reads labels or ids of cells"
            raise IncompatibleError(
                f"Distiller '{distiller.name}' {reads}, but policy '{blending[0]}' shows images of several "
                "cells at once. Choose one that compares outputs for the same images, such as logits, or --kd "
                "none."
            )
    lonely = [n for n, d in known.items() if "teacher" in d.policy_traits.wants]
    if lonely and not any(needs_of(registry, d).taught_by == "teacher" for d in distillers):
        raise IncompatibleError(
            f"Policy '{lonely[0]}' needs a teacher, since the student learns from its answers. Add --kd logits."
        )
    touching = [n for n, d in known.items() if d.touches_gradients]
    stepping = [d.name for d in distillers if declared(registry, "distiller", d).role == "optimiser"]
    if touching and stepping:
        raise IncompatibleError(
            f"Policy '{touching[0]}' changes gradients or takes steps, but distiller '{stepping[0]}' takes the "
            "step by itself."
        )
    learning = [n for n, d in known.items() if "trained_logits" in d.policy_traits.wants]
    replacing = [d.name for d in distillers if declared(registry, "distiller", d).replaces_head]
    if learning and replacing:
        raise IncompatibleError(
            f"Policy '{learning[0]}' trains the student's own predictions, but distiller '{replacing[0]}' "
            "predicts with the teacher's classifier, which labels do not train."
        )


_ROUTES = {
    "several": "at least two routes",
    "modality": "heads of at least two modalities",
    "joint": "a joint route",
    "both": "a joint route and heads of at least two modalities",
}

_APART = "Choose a fusion with one network per modality, such as late_prob or concat."
_WANTS = {
    "logits": (
        "logits of each modality (a head each, or a joint one that adds them up)",
        "Choose a fusion such as late_prob, independent or concat.",
    ),
    "embedding": ("an embedding of each modality", _APART),
    "own_embedding": ("an embedding of each modality that no other shares", _APART),
    "features": (
        "embeddings that only a head reads",
        "Choose a fusion of embeddings, such as concat or sum.",
    ),
    "own_parameters": ("parameters that belong to one modality", _APART),
    "meeting_losses": (
        "losses that meet in some parameters",
        "Add the policy aux_heads, or choose a fusion with a head per modality on one trunk, such as independent.",
    ),
    "incomplete": ("support for cells without some modality", "Choose another (`wbcbench list fusions`)."),
}
"""Want -> what it is, and what to do if it is missing. `trained_logits` depends on the distillers."""
