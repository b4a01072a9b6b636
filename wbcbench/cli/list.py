"""`wbcbench list`: everything that can be combined, read from declarations alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.complete import plurals
from wbcbench.cli.options import json_option, load, plugin_options
from wbcbench.cli.output import print_json, print_table

if TYPE_CHECKING:
    from wbcbench.registry import Component, Registry
    from wbcbench.registry.loading import PluginOptions


@click.command("list")
@click.argument("kind", required=False, shell_complete=plurals)
@click.option("--matrix", is_flag=True, help="Which fusion goes with which distiller and policy, and why not.")
@click.option("--modalities", type=click.IntRange(1, 6), default=2, help="With --matrix: how many modalities.")
@click.option("--classes", type=click.IntRange(2), default=5, help="With --matrix: how many classes.")
@json_option
@plugin_options
def command(
    kind: str | None, matrix: bool, modalities: int, classes: int, as_json: bool, plugins: PluginOptions
) -> None:
    """List components of one KIND, or of all kinds.

    KIND: datasets, backbones, fusions, policies, distillers, routings.
    """
    from wbcbench.registry import KINDS, kind_of, plural

    kinds = (kind_of(kind),) if kind else KINDS
    registry, _ = load(plugins)
    if matrix:
        _matrix(registry, modalities, classes, as_json)
        return
    document = {plural(k): [entry(registry, c) for c in registry.components(k)] for k in kinds}
    if as_json:
        print_json(document)
        return
    for number, (title, entries) in enumerate(document.items()):
        if number:
            click.echo()
        if not entries:
            click.echo(f"{title}: none")
            continue
        head = ["name", "notes", "from", "summary"]
        rows = [[e["name"], _notes(e), _provider(e), e["summary"]] for e in entries]
        if kind:  # one kind alone has room for where it comes from
            head.append("source")
            rows = [[*row, e.get("source", "")] for row, e in zip(rows, entries, strict=True)]
        print_table(head, rows, title=title)


def _matrix(registry: Registry, modalities: int, classes: int, as_json: bool) -> None:
    """Every refused pair with its reason; how many go together."""
    from wbcbench.scheduling.matrix import compatibility

    rows = compatibility(registry, modalities, classes)
    if as_json:
        print_json({"modalities": modalities, "classes": classes, "pairs": rows})
        return
    refused = [r for r in rows if r["reason"]]
    print_table(["", "does not go with", "because"], [[r["first"], r["second"], r["reason"]] for r in refused])
    click.echo(f"{len(rows) - len(refused)} of {len(rows)} pairs go together.")


def entry(registry: Registry, component: Component) -> dict[str, Any]:
    """One component as a JSON-able mapping. What cannot be read is said in `error`, not raised."""
    from wbcbench.errors import PluginError
    from wbcbench.registry import qualified_name

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
            low, high = declared.arity
            row |= {"emits": list(declared.emits), "arity": [low, high], "missing": declared.missing}
            row["solves"] = list(declared.solves)
            row["offers"] = None if declared.offers is None else list(declared.offers)
        elif component.kind == "distiller":
            needs = declared.needs
            row |= {"matches": declared.matches, "role": declared.role, "needs": needs.as_dict()}
            row |= {"replayable": needs.replayable}
        elif component.kind == "policy":
            row |= {"acts_on": declared.acts_on, "arity": list(declared.arity), "wants": list(declared.wants)}
            row["needs_routes"] = declared.needs_routes
        elif component.kind == "routing":
            row |= {"pairing": declared.pairing}
        elif component.kind == "backbone":
            row |= {"family": bool(declared.family), "scalable": declared.scalable}
    except PluginError as error:
        row["error"] = str(error).splitlines()[0]
    return row


def _notes(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return "FAILED"
    notes = []
    if "emits" in entry:
        low, high = entry["arity"]
        takes = str(low) if low == high else f"{low}+" if high is None else f"{low}-{high}"
        notes += ["+".join(entry["emits"]), f"takes {takes}", f"missing: {entry['missing']}"]
    if "acts_on" in entry:
        notes.append(f"acts on {entry['acts_on']}")
        notes += [f"wants {', '.join(entry['wants'])}"] if entry["wants"] else []
    if "needs" in entry:
        needs = entry["needs"]
        flags = ("labels", "index", "schedule", "teacher_head", "draws", "head", "trainable")
        taps = dict.fromkeys((*needs["student"], *needs["teacher"]))
        notes += [entry["matches"], "+".join(taps), ", ".join(f for f in flags if needs[f])]
        if needs["taught_by"] != "teacher":
            notes.append(f"taught by {needs['taught_by']}")
        elif entry["role"] == "loss":
            notes.append("replayed" if entry["replayable"] else "replayed if its maps fit")
        notes = [n for n in notes if n]
    if "pairing" in entry:
        notes.append(f"pairs {entry['pairing']}")
    if entry.get("family"):
        notes.append("family of models")
    return "; ".join(notes)


def _provider(entry: dict[str, Any]) -> str:
    return "" if entry["qualified_name"] == entry["name"] else str(entry["provider"])
