"""`wbcbench show`: one component, read from its declaration; a contact sheet for a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.complete import kinds, named
from wbcbench.cli.list import entry
from wbcbench.cli.options import json_option, load, plugin_options
from wbcbench.cli.output import print_json, print_table

if TYPE_CHECKING:
    from wbcbench.registry import Registry, Resolved
    from wbcbench.registry.loading import PluginOptions


@click.command("show")
@click.argument("kind", shell_complete=kinds)
@click.argument("name", shell_complete=named)
@json_option
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Load the data set and write a contact sheet of its cells (PNG).",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Parameter of the data set.")
@plugin_options
def command(
    kind: str, name: str, as_json: bool, save: Path | None, settings: tuple[str, ...], plugins: PluginOptions
) -> None:
    """Show the component NAME of KIND (dataset, backbone, fusion, policy, distiller, routing)."""
    from wbcbench.errors import UsageError
    from wbcbench.registry import kind_of

    kind = kind_of(kind)
    if (save or settings) and kind != "dataset":
        raise UsageError(f"Expected --save and --set with a dataset only, but got a {kind}. Leave them out.")
    registry, _ = load(plugins)
    resolved = registry.resolve(kind, name)
    document = describe(registry, resolved)
    if save is not None:
        _save_sheet(registry, resolved, settings, save)
        document["sheet"] = str(save)
    elif settings:
        raise UsageError("Expected --set together with --save FILE, but got no --save.")
    print_json(document) if as_json else _print(document)


def describe(registry: Registry, resolved: Resolved) -> dict[str, Any]:
    """Everything that is known of a component without building it, JSON-able. Raises `PluginError`."""
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


def _print(document: dict[str, Any]) -> None:
    click.echo(f"{document['kind']} {document['qualified_name']}: {document['summary']}")
    rest = document["doc"].partition("\n")[2].strip()
    if rest:
        click.echo(f"\n{rest}")
    click.echo()
    facts = "aliases source emits arity missing solves offers wants pairing matches replayable preset sheet"
    for key in facts.split():
        value = document.get(key)
        if value or value is False:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            click.echo(f"{key + ':':12}{text}")
    if document.get("missing") == "impute":
        from wbcbench.spec.trial import IMPUTERS

        click.echo(f"{'impute:':12}{'; '.join(f'{name}: {what}' for name, what in IMPUTERS.items())}")
    if "acts_on" in document:
        from wbcbench.contracts.needs import POLICY_ORDER

        click.echo(f"{'acts on:':12}{document['acts_on']} (of several: {' -> '.join(POLICY_ORDER)}, then by name)")
        if document["needs_routes"] != "any":
            click.echo(f"{'routes:':12}{document['needs_routes']}")
    if "needs" in document:
        stated = {k: v for k, v in document["needs"].items() if k != "replayable" and v}
        parts = [f"{k} {'+'.join(v)}" if isinstance(v, (list, tuple)) else f"{k} {v}" for k, v in stated.items()]
        click.echo(f"{'needs:':12}{', '.join(parts)}")
    version = f" {document['provider_version']}" if document["provider_version"] else ""
    click.echo(f"{'provider:':12}{document['provider']}{version}")
    click.echo(f"{'origin:':12}{document['origin']}")
    click.echo()
    if not document["params"]:
        click.echo("No parameters.")
        return
    rows = [
        [p["name"], "required" if p["required"] else p["default"], p["range"], _search(p["search"]), p["doc"]]
        for p in document["params"]
    ]
    print_table(["parameter", "default", "range", "search", "meaning"], rows)


def _search(search: dict[str, Any] | None) -> str:
    if not search:
        return ""
    if "choices" in search:
        return " | ".join(map(str, search["choices"]))
    return f"{search['low']:g} .. {search['high']:g}{' (log)' if search.get('log') else ''}"


def _save_sheet(registry: Registry, resolved: Resolved, settings: tuple[str, ...], path: Path) -> None:
    from wbcbench.cli.settings import given_params
    from wbcbench.data.sheet import contact_sheet

    cls: Any = registry.load(resolved.component)
    contact_sheet(cls(given_params(cls, resolved.params, settings)).load(), path)
