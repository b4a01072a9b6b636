"""Training policies in a trial: in which order they act, and which go together with the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wbcbench.contracts.needs import POLICY_ORDER
from wbcbench.errors import IncompatibleError, PluginError
from wbcbench.registry import Registry
from wbcbench.registry.declaration import Declaration
from wbcbench.scheduling.fit import declared, needs_of, solved_once, spelt
from wbcbench.spec import Component, Protocol
from wbcbench.spec.lessons import JOINT, route_names

Known = Mapping[str, Mapping[str, Any]]
"""Policy -> its declared attributes."""


def in_order(registry: Registry, policies: Iterable[Component]) -> tuple[Component, ...]:
    """The policies as they act, and as a trial names them: by what they act on, then by name.

    So one set of policies is one method, in whatever order a user lists it.
    """

    def place(policy: Component) -> tuple[int, str]:
        acts_on = declared(registry, "policy", policy).acts_on
        if acts_on not in POLICY_ORDER:
            raise PluginError(
                f"Expected `acts_on` of policy '{policy.name}' to be one of {', '.join(POLICY_ORDER)}, but got "
                f"'{acts_on}'."
            )
        return POLICY_ORDER.index(acts_on), policy.name

    return tuple(sorted(policies, key=place))


def check_policies(
    registry: Registry,
    fusion: Component | None,
    policies: tuple[Component, ...],
    distillers: tuple[Component, ...],
    protocol: Protocol,
) -> None:
    """Raises `IncompatibleError` for policies that cannot go with the fusion, the distillers or each other."""
    known = {p.name: declared(registry, "policy", p).attributes for p in policies}
    if len(known) < len(policies):
        names = [p.name for p in policies]
        twice = next(n for n in names if names.count(n) > 1)
        raise IncompatibleError(f"Policy '{twice}' was given twice. Give it once.")
    if fusion is not None and policies:
        if solved_once(registry, fusion):
            raise IncompatibleError(
                f"Fusion '{fusion.name}' is solved in one go and is not trained, so policy '{policies[0].name}' "
                "has nothing to change. Leave the policy out."
            )
        _check_fusion(registry, fusion, known, protocol.modalities)
    _check_budget(policies, known, protocol.budget.epochs)
    _check_each_other(known)
    _check_distillers(registry, known, distillers)


def _check_fusion(registry: Registry, fusion: Component, known: Known, modalities: tuple[str, ...]) -> None:
    declaration = declared(registry, "fusion", fusion)
    for name, attributes in known.items():
        added = {o for n, a in known.items() if n != name for o in a["offers"]}
        for reason in _lacks(attributes, declaration, fusion.name, modalities, added):
            raise IncompatibleError(f"Policy '{name}' {reason}")


def _lacks(
    policy: Mapping[str, Any], fusion: Declaration, name: str, modalities: tuple[str, ...], added: set[str]
) -> Iterator[str]:
    """What the policy needs and does not find in the fusion (called `name`) or in what other policies add."""
    low, high = policy["arity"]
    count = len(modalities)
    if count < low or (high is not None and count > high):
        yield (
            f"takes {spelt(low, high)} modalities, but fusion '{name}' reads {count} ({', '.join(modalities)}). "
            "Choose them with --modalities, or another fusion."
        )
    routes = route_names(fusion.emits, modalities)
    single, joint = sum(r in modalities for r in routes), JOINT in routes
    wanted = str(policy["needs_routes"])
    there = {
        "any": True,
        "several": len(routes) > 1,
        "modality": single > 1,
        "joint": joint,
        "both": single > 1 and joint,
    }
    if not there[wanted]:
        yield f"needs {_ROUTES[wanted]}, but fusion '{name}' has just {', '.join(routes)}."
    most = policy["subsets"]
    if most and not single and count > most:
        yield (
            f"asks a fusion without a head per modality for every subset of at most {most}, but '{name}' reads "
            f"{count}. Choose fewer with --modalities, or a fusion such as late_prob."
        )
    found = added | offered(fusion, routed=single > 0)
    for want in policy["wants"]:
        if want in _WANTS and want not in found:
            needs, advice = _WANTS[want]
            yield f"needs {needs}, which fusion '{name}' does not offer. {advice}"


def offered(fusion: Declaration, routed: bool) -> set[str]:
    """What policies find in a fusion, with what follows from its other declarations.

    A fusion that says nothing is believed to have everything: `setup` of the policy finds out.
    """
    said = set(_WANTS) - {"incomplete"} if fusion.offers is None else set(fusion.offers)
    follows = {"logits", "embedding"} if routed else set()
    follows |= {"embedding"} if "own_embedding" in said else set()
    follows |= {"incomplete"} if fusion.missing != "refuse" else set()
    return said | follows


def _check_budget(policies: tuple[Component, ...], known: Known, epochs: int) -> None:
    for policy in policies:
        waits = known[policy.name]["waits"]
        if waits and epochs <= policy.params[waits]:
            raise IncompatibleError(
                f"Policy '{policy.name}' changes nothing in the first {policy.params[waits]} epochs, but the "
                f"budget is {epochs}. Say --set policy.{waits}={max(1, epochs // 3)}, or train for longer."
            )


def _check_each_other(known: Known) -> None:
    blending = [n for n, a in known.items() if a["blends_cells"]]
    reading = [n for n, a in known.items() if a["reads_labels"]]
    combining = [n for n, a in known.items() if a["gradients"] == "combines"]
    if len(blending) > 1:
        raise IncompatibleError(f"Only one policy can blend cells, but both {' and '.join(blending)} do.")
    if blending and reading:
        raise IncompatibleError(
            f"Policy '{reading[0]}' needs one label per image, but '{blending[0]}' blends cells."
        )
    if len(combining) > 1:
        raise IncompatibleError(f"Only one policy can do the backward, but both {' and '.join(combining)} do.")


def _check_distillers(registry: Registry, known: Known, distillers: tuple[Component, ...]) -> None:
    blending = [n for n, a in known.items() if a["blends_cells"]]
    if blending and distillers:
        raise IncompatibleError(
            f"Policy '{blending[0]}' shows images of several cells at once, of which teachers know nothing. "
            "Use it with --kd none."
        )
    touching = [n for n, a in known.items() if a["gradients"] != "none"]
    stepping = [d.name for d in distillers if declared(registry, "distiller", d).role == "optimiser"]
    if touching and stepping:
        raise IncompatibleError(
            f"Policy '{touching[0]}' changes gradients, but distiller '{stepping[0]}' takes the step by itself."
        )
    learning = [n for n, a in known.items() if "trained_logits" in a["wants"]]
    replacing = [d.name for d in distillers if needs_of(registry, d).head]
    if learning and replacing:
        raise IncompatibleError(
            f"Policy '{learning[0]}' trains the student's own predictions, but distiller '{replacing[0]}' answers "
            "through the teacher's classifier, which labels do not train."
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
    "own_parameters": ("parameters that belong to one modality", _APART),
    "meeting_losses": (
        "losses that meet in some parameters",
        "Add the policy aux_heads, or choose a fusion with a head per modality on one trunk, such as independent.",
    ),
    "incomplete": ("cells to be let in without some modality", "Choose another (`wbcbench list fusions`)."),
}
"""Want -> what it is, and what to do without. `trained_logits` is up to the distillers."""
