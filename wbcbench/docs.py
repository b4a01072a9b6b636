"""Descriptions of components: documents for `wbcbench list` and `show`, Markdown pages for `docs/`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from wbcbench.contracts.needs import POLICY_ORDER
from wbcbench.errors import PluginError
from wbcbench.registry import KINDS, kind_of, plural, qualified_name
from wbcbench.registry.provenance import split_target

if TYPE_CHECKING:
    from wbcbench.registry import Component, Registry, Resolved


def entry(registry: Registry, component: Component) -> dict[str, Any]:
    """One component as a JSON-able mapping. Errors are reported in `error`, not raised."""
    row: dict[str, Any] = {
        "name": component.name,
        "qualified_name": qualified_name(component),
        "summary": component.summary,
        "provider": component.provider,
        "aliases": list(component.aliases),
    }
    try:
        declared = registry.declaration(component)
        row |= {"summary": declared.summary, "source": declared.source}
        if component.kind == "fusion":
            traits = declared.fusion_traits
            row |= {"emits": list(traits.emits), "arity": list(traits.arity), "missing": traits.missing}
            row["solves"] = list(traits.solves)
            row["offers"] = None if traits.offers is None else list(traits.offers)
        elif component.kind == "distiller":
            needs = declared.needs
            told = needs.as_dict() | {"head": declared.replaces_head}
            row |= {"matches": needs.matched, "role": declared.role, "needs": told}
            row |= {"replayable": needs.replayable}
        elif component.kind == "policy":
            asks = declared.policy_traits
            row |= {"acts_on": asks.acts_on, "arity": list(asks.arity), "wants": list(asks.wants)}
            row["needs_routes"] = asks.needs_routes
        elif component.kind == "routing":
            row |= {"pairing": declared.pairing}
        elif component.kind == "metric":
            names = ("predictions", "higher_is_better", "per_class")
            row |= {n: declared.attributes[n] for n in names} | {"range": list(declared.attributes["range"])}
            row["ordered"] = "Ordered" in declared.extras
        elif component.kind == "corruption":
            row |= {"changes": declared.reads, "strengths": list(declared.attributes["strengths"])}
        elif component.kind == "backbone":
            row |= {"family": bool(declared.family), "scalable": declared.scalable, "reads": declared.reads}
    except PluginError as error:
        row["error"] = str(error).splitlines()[0]
    return row


def describe(registry: Registry, resolved: Resolved) -> dict[str, Any]:
    """Everything that is known about a component without building it, JSON-able. Raises `PluginError`."""
    component = resolved.component
    declared = registry.declaration(component)
    return {
        "kind": component.kind,
        **entry(registry, component),
        "doc": declared.doc,
        "params": declared.param_rows,
        "preset": resolved.params,
        "provider_version": component.provider_version,
        "origin": component.origin,
        "sha256": component.sha256,
    }


@cache
def _registry() -> Registry:
    from wbcbench.registry.loading import PluginOptions, load_plugins

    return load_plugins(PluginOptions(block_all=True))[0]


def kinds_and_components() -> dict[str, list[str]]:
    """Kind in the plural -> names of the built-in components, sorted."""
    return {plural(kind): sorted(c.name for c in _registry().components(kind)) for kind in KINDS}


def described(kind: str, name: str) -> dict[str, Any]:
    """The document of `wbcbench show KIND NAME --json`. `kind` may be in the plural."""
    registry = _registry()
    return describe(registry, registry.resolve(kind_of(kind), name))


def component_page(kind: str, name: str) -> str:
    """One component: what it does, its formula, source, parameters with ranges and search space, needs, its code.

    Args:
        kind: `fusions`, `distillers`, ...
        name: of a built-in component.
    """
    told = described(kind, name)
    lines = [f"# {name}", "", _first(told["doc"]), ""]
    rest = told["doc"].partition("\n")[2].strip()
    if rest:
        lines += [rest, ""]
    facts = {"Source": told.get("source"), "Also called": ", ".join(f"`{a}`" for a in told["aliases"])}
    facts |= facts_of(told)
    lines += [f"- **{title}:** {text}" for title, text in facts.items() if text]
    lines += ["", "## Parameters", "", *_parameters(told["params"]), "", "## Use it", ""]
    lines += ["```sh", _use(told["kind"], name), "```", ""]
    return "\n".join([*lines, "## Code", "", f"::: {_module(kind, name)}", ""])


def index_page(listed: dict[str, list[str]]) -> str:
    """All components, a table per kind."""
    lines = ["# Components", "", "Generated from the registry: what `wbcbench list` shows.", ""]
    for kind, names in listed.items():
        lines += [f"## {kind.capitalize()} ({len(names)})", "", "| name | what it does |", "| --- | --- |"]
        for name in names:
            lines.append(f"| [`{name}`]({kind}/{name}.md) | {_cell(described(kind, name)['summary'])} |")
        lines.append("")
    return "\n".join(lines)


def facts_of(told: dict[str, Any]) -> dict[str, str]:
    """Title -> text of what a component declares; empty texts are to be left out."""
    facts: dict[str, str] = {}
    if told["kind"] == "fusion":
        low, high = told["arity"]
        facts["Modalities"] = f"{low} or more" if high is None else f"{low}" if low == high else f"{low} to {high}"
        facts["Routes"] = ", ".join(told["emits"])
        facts["Missing modalities"] = told["missing"]
        facts["Toy problems it must solve"] = ", ".join(told["solves"])
        facts["Offers to policies"] = ", ".join(told["offers"] or ()).replace("_", " ")
    elif told["kind"] == "distiller":
        facts["Matches"] = told["matches"]
        usual = {
            "replayable": told["needs"]["replayable"],
            "taught_by": "teacher",
            "min_classes": 2,
            "min_batch": 1,
        }
        needs = {k: v for k, v in told["needs"].items() if v and usual.get(k) != v}
        facts["Needs"] = "; ".join(f"{k.replace('_', ' ')}: {_value(v)}" for k, v in needs.items())
        facts["Teacher outputs are replayed"] = "yes" if told["replayable"] else "if they fit on disk"
    elif told["kind"] == "routing":
        facts["Pairs"] = told["pairing"]
    elif told["kind"] == "metric":
        low, high = ("no limit" if v is None else f"{v:g}" for v in told["range"])
        facts["Reads"] = {"classes": "the most probable class of each cell"}.get(
            told["predictions"], "probabilities"
        )
        facts["Better"] = "higher" if told["higher_is_better"] else "lower"
        facts["Range"] = f"{low} to {high}"
        facts["Per class"] = "yes; boards show the mean" if told["per_class"] else ""
        facts["Order"] = "of classes, which the data set or `order` must give" if told["ordered"] else ""
    elif told["kind"] == "corruption":
        facts["Changes"] = {"both": "images and numbers", "vectors": "numbers"}.get(told["changes"], "images")
        facts["Severities"] = ", ".join(f"{s:g}" for s in told["strengths"])
    elif told["kind"] == "policy":
        facts["Acts on"] = f"{told['acts_on']} (of several policies: {', '.join(POLICY_ORDER)}, then by name)"
        facts["Needs routes"] = str(told["needs_routes"])
        facts["Wants"] = ", ".join(told["wants"]).replace("_", " ")
    return facts


def _parameters(params: list[dict[str, Any]]) -> list[str]:
    if not params:
        return ["None."]
    lines = ["| parameter | default | range | search | meaning |", "| --- | --- | --- | --- | --- |"]
    for p in params:
        default = "required" if p["required"] else f"`{p['default']}`"
        cells = [f"`{p['name']}`", default, p["range"] or p["type"], _search(p["search"]), p["doc"]]
        lines.append("| " + " | ".join(_cell(str(c)) for c in cells) + " |")
    return lines


def _search(space: dict[str, Any] | None) -> str:
    if space is None:
        return ""
    if "choices" in space:
        return ", ".join(map(str, space["choices"]))
    return f"{space['low']} to {space['high']}" + (" (log)" if space.get("log") else "")


def _use(kind: str, name: str) -> str:
    if kind == "metric":
        return f"wbcbench leaderboard --metric {name}"
    if kind == "corruption":
        return f"wbcbench run --evaluate full --corruption {name}"
    flag = {"distiller": "kd"}.get(kind, kind)
    extra = {"distiller": "", "routing": " --kd logits", "policy": " --fusion independent"}.get(kind, "")
    return f"wbcbench run --{flag} {name}{extra}"


def _module(kind: str, name: str) -> str:
    """The dotted name of the file that the component is in, as it is installed."""
    target = _registry().resolve(kind_of(kind), name).component.target
    return split_target(target)[0] if isinstance(target, str) else target.__module__


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "yes" if value is True else str(value)


def _first(doc: str) -> str:
    return doc.strip().partition("\n")[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


__all__ = ["component_page", "described", "facts_of", "index_page", "kinds_and_components"]
