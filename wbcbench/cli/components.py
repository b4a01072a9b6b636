"""`wbcbench list`, `show`, `plugins` and `new`: components and plugins, read from declarations only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.completion import kinds, named, plurals
from wbcbench.cli.options import json_option, plugins_options, set_option
from wbcbench.cli.output import print_json, print_table
from wbcbench.terminal import one_line

if TYPE_CHECKING:
    from wbcbench.registry import Registry, Resolved
    from wbcbench.registry.loading import PluginOptions

NEW_EPILOG = """\b
Examples:
  wbcbench new fusion gated_mean
  wbcbench new distiller cosine --plugins-dir my_plugins
  wbcbench new backbone tinynet --package
"""


@click.command("list")
@click.argument("kind", required=False, shell_complete=plurals)
@click.option("--wide", is_flag=True, help="A line per component: summary, what it takes and needs, provider.")
@click.option("--matrix", is_flag=True, help="Which fusion works with which distiller and policy, and why not.")
@click.option("--modalities", type=click.IntRange(1, 6), default=2, help="With --matrix: how many modalities.")
@click.option("--classes", type=click.IntRange(2), default=5, help="With --matrix: how many classes.")
@json_option
@plugins_options
def list_components(
    kind: str | None,
    wide: bool,
    matrix: bool,
    modalities: int,
    classes: int,
    as_json: bool,
    plugins: PluginOptions,
) -> None:
    """List the names of components by family; of one KIND, with summaries.

    KIND: datasets, backbones, fusions, policies, distillers, routings, metrics, corruptions.
    """
    from wbcbench.api.requests import load
    from wbcbench.docs import entry
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
        elif wide:
            head = ["name", "notes", "from", "summary", "source"]
            cells = [[e["name"], _notes(e), _provider(e), e["summary"], e.get("source", "")] for e in entries]
            print_table(head, cells, title=title)
        elif kind:
            _with_summaries(title, entries)
        else:
            _by_family(title, entries)
    if not kind and not wide:
        click.echo("\nwbcbench list KIND has summaries, --wide notes, and wbcbench show KIND NAME everything.")


WIDTH = 100
"""Columns of short tables, on a narrower terminal its own width."""


def _width() -> int:
    import shutil

    return max(60, min(WIDTH, shutil.get_terminal_size((WIDTH, 40)).columns))


def _family(entry: dict[str, Any]) -> str:
    """What an entry is grouped by: a fusion by its heads, a distiller by what it matches."""
    if "error" in entry:
        return "FAILED"
    if "emits" in entry:
        heads = {("joint",): "one head", ("modality",): "a head per modality"}
        return heads.get(tuple(entry["emits"]), "both kinds of heads")
    if "acts_on" in entry:
        return f"on {entry['acts_on']}"
    if "predictions" in entry:
        return "of the order of classes" if entry["ordered"] else f"of {entry['predictions']}"
    if "changes" in entry:
        return {"both": "of images and numbers", "vectors": "of numbers"}.get(entry["changes"], "of images")
    return str(entry.get("matches") or entry.get("pairing") or "")


def _families(entries: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Family -> its entries, the largest family first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for e in entries:
        found.setdefault(_family(e), []).append(e)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _by_family(title: str, entries: list[dict[str, Any]]) -> None:
    """Names only, in as few lines as they need."""
    click.echo(f"{title} ({len(entries)})")
    families = _families(entries)
    widest = max(map(len, families))
    for family, own in families.items():
        names = ", ".join(e["name"] + (f" ({p})" if (p := _provider(e)) else "") for e in own)
        _wrapped(f"  {one_line(family).ljust(widest)}{'  ' * bool(widest)}", names)


def _with_summaries(title: str, entries: list[dict[str, Any]]) -> None:
    """A line or two per entry, by family."""
    widest = max(len(one_line(e["name"])) for e in entries)
    for number, (family, own) in enumerate(_families(entries).items()):
        click.echo("\n" * bool(number) + (f"{title}: {one_line(family)}" if family else title))
        for e in own:
            provider = f" [{_provider(e)}]" if _provider(e) else ""
            _wrapped(f"  {one_line(e['name']).ljust(widest)}  ", e.get("error", e["summary"]) + provider)


def _wrapped(head: str, text: str) -> None:
    """A text behind a heading, with its further lines below its first; no word is broken."""
    import textwrap

    lines = textwrap.wrap(one_line(text), _width() - len(head), break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines or [""]):
        click.echo(f"{head if not number else ' ' * len(head)}{line}".rstrip())


def _matrix(registry: Registry, modalities: int, classes: int, as_json: bool) -> None:
    """A grid for each two kinds, in which components that fit alike share a line, and the numbered reasons."""
    from wbcbench.scheduling.matrix import compatibility

    rows = compatibility(registry, modalities, classes)
    if as_json:
        print_json({"modalities": modalities, "classes": classes, "pairs": rows})
        return
    reasons: dict[str, int] = {}
    tables: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for row in rows:
        (first, a), (second, b) = row["first"].split(":", 1), row["second"].split(":", 1)
        text = row["reason"]
        for kind, name in ((first, a), (second, b)):
            text = text.replace(f"{kind.title()} '{name}'", f"The {kind}")
            text = text.replace(f"{kind} '{name}'", f"the {kind}")
        number = str(reasons.setdefault(text, len(reasons) + 1)) if text else "+"
        tables.setdefault((first, second), {})[a, b] = number
    for (first, second), cells in tables.items():
        _grid(first, second, cells)
    click.echo("+ works together. Otherwise, the numbers say why not:")
    for reason, n in reasons.items():
        _wrapped(f"{n:>3}  ", reason)
    good = sum(not row["reason"] for row in rows)
    click.echo(f"{good} of {len(rows)} pairs are compatible.")


def _grid(first: str, second: str, cells: dict[tuple[str, str], str]) -> None:
    """One table: `second` down, `first` across, as letters that are spelt out above it."""
    across = _alike({a: {b: v for (x, b), v in cells.items() if x == a} for a, _ in cells})
    down = _alike({b: {a: v for (a, x), v in cells.items() if x == b} for _, b in cells})
    click.echo(f"{second} (down) with {first} (across)")
    letters = [chr(ord("A") + i % 26) * (1 + i // 26) for i in range(len(across))]
    for letter, names in zip(letters, across, strict=True):
        _wrapped(f"  {letter:<3}", ", ".join(names))
    click.echo()
    wide = _width() - 4 * len(letters) - 2
    click.echo(" " * (wide + 2) + "".join(f"{letter:>4}" for letter in letters))
    import textwrap

    for names in down:
        lines = textwrap.wrap(one_line(", ".join(names)), wide, break_long_words=False)
        values = "".join(f"{cells[group[0], names[0]]:>4}" for group in across)
        click.echo(f"  {lines[0].ljust(wide)}{values}")
        for line in lines[1:]:
            click.echo(f"  {line}")
    click.echo()


def _alike(rows: dict[str, dict[str, str]]) -> list[list[str]]:
    """Names whose rows are equal, together."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, row in rows.items():
        found.setdefault(tuple(row.items()), []).append(name)
    return list(found.values())


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
    if "predictions" in entry:
        notes.append(f"{'higher' if entry['higher_is_better'] else 'lower'} is better")
        notes += ["per class"] if entry["per_class"] else []
    if entry.get("family"):
        notes.append("family of models")
    if entry.get("reads") == "vectors":
        notes.append("reads numbers")
    return "; ".join(notes)


def _provider(entry: dict[str, Any]) -> str:
    return "" if entry["qualified_name"] == entry["name"] else str(entry["provider"])


@click.command("show")
@click.argument("kind", shell_complete=kinds)
@click.argument("name", shell_complete=named)
@json_option
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Load the data set and write a contact sheet of its cells (PNG).",
)
@set_option("Parameter of the data set.")
@plugins_options
def show(
    kind: str, name: str, as_json: bool, save: Path | None, settings: tuple[str, ...], plugins: PluginOptions
) -> None:
    """Show the component NAME of KIND (dataset, backbone, fusion, policy, distiller, routing, metric,
    corruption)."""
    from wbcbench.api.requests import load
    from wbcbench.docs import describe
    from wbcbench.errors import UsageError
    from wbcbench.registry import kind_of

    kind = kind_of(kind)
    if (save or settings) and kind != "dataset":
        raise UsageError(f"Expected --save and --set with a dataset only, but got a {kind}. Remove them.")
    registry, _ = load(plugins)
    resolved = registry.resolve(kind, name)
    document = describe(registry, resolved)
    if save is not None:
        _save_sheet(registry, resolved, settings, save)
        document["sheet"] = str(save)
    elif settings:
        raise UsageError("Expected --set together with --save FILE, but got no --save.")
    print_json(document) if as_json else _print_component(document)


def _print_component(document: dict[str, Any]) -> None:
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
    if document["kind"] in ("metric", "corruption"):
        from wbcbench.docs import facts_of

        for title, text in facts_of(document).items():
            if text:
                click.echo(f"{title.lower() + ':':12}{text}")
    if "acts_on" in document:
        from wbcbench.contracts.needs import POLICY_ORDER

        click.echo(f"{'acts on:':12}{document['acts_on']} (of several: {' -> '.join(POLICY_ORDER)}, then by name)")
        if document["needs_routes"] != "any":
            click.echo(f"{'routes:':12}{document['needs_routes']}")
    if "needs" in document:
        stated = {k: v for k, v in document["needs"].items() if k != "replayable" and v}
        parts = [f"{k} {'+'.join(v)}" if isinstance(v, (list, tuple)) else f"{k} {v}" for k, v in stated.items()]
        click.echo(f"{'needs:':12}{', '.join(parts)}")
    if document["kind"] == "distiller" and document["name"] != "none":
        click.echo(f"{'weight:':12}balanced if not given: its gradient starts as large as the task loss's")
    version = f" {document['provider_version']}" if document["provider_version"] else ""
    click.echo(f"{'provider:':12}{document['provider']}{version}")
    click.echo(f"{'origin:':12}{document['origin']}")
    click.echo()
    if not document["params"]:
        click.echo("No parameters.")
        return
    rows = [
        [p["name"], "required" if p["required"] else p["default"], p["range"], _range(p["search"]), p["doc"]]
        for p in document["params"]
    ]
    print_table(["parameter", "default", "range", "search", "meaning"], rows)


def _range(search: dict[str, Any] | None) -> str:
    if not search:
        return ""
    if "choices" in search:
        return " | ".join(map(str, search["choices"]))
    return f"{search['low']:g} .. {search['high']:g}{' (log)' if search.get('log') else ''}"


def _save_sheet(registry: Registry, resolved: Resolved, settings: tuple[str, ...], path: Path) -> None:
    from wbcbench.data.survey import contact_sheet
    from wbcbench.spec.load import component_params

    cls: Any = registry.load(resolved.component)
    contact_sheet(cls(component_params(cls, resolved.params, settings)).load(), path)


@click.command("plugins")
@json_option
@click.option("--verbose", "-v", is_flag=True, help="Show the traceback of each plugin that failed.")
@plugins_options
def plugins(as_json: bool, verbose: bool, plugins: PluginOptions) -> None:
    """Show every plugin that was found, whether it was loaded, blocked or failed, and why."""
    from dataclasses import asdict

    from wbcbench.registry.loading import load_plugins

    _, report = load_plugins(plugins)
    if as_json:
        rows = [asdict(p) for p in report.plugins]
        for row in rows if not verbose else ():
            del row["traceback"]
        print_json({"plugins": rows, "clashes": report.clashes})
        return
    print_table(
        ["plugin", "version", "status", "components", "origin", "reason"],
        [[p.provider, p.version, p.status, p.components, p.origin, p.reason] for p in report.plugins],
    )
    for skipped in (s for p in report.plugins for s in p.skipped):
        click.echo(f"\nLeft out: {skipped}")
    for outdated in (s for p in report.plugins for s in p.outdated):
        click.echo(f"\nOutdated: {outdated}")
    for clash in report.clashes:
        click.echo(f"\nName clash: {clash}")
    for plugin in report.failed if verbose else ():
        click.echo(f"\n{plugin.provider}:\n{plugin.traceback.rstrip() or plugin.reason}")


@click.command("new", epilog=NEW_EPILOG)
@click.argument("kind", shell_complete=kinds)
@click.argument("name")
@click.option(
    "--package", is_flag=True, help="Write an installable package, ./wbcbench-NAME, instead of one file."
)
@click.option(
    "--plugins-dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to; default: ./plugins, or the working folder with --package.",
)
@json_option
def new(kind: str, name: str, package: bool, folder: Path | None, as_json: bool) -> None:
    """Write a plugin of KIND (fusion, distiller, backbone, dataset, policy, routing) named NAME.

    It is short and commented, can be trained unchanged, and passes its test. Nothing is overwritten.
    """
    from wbcbench.registry import kind_of
    from wbcbench.scaffold import check_name, write_file, write_package

    kind = kind_of(kind)
    check_name(kind, name, _known(folder))
    if package:
        written = write_package(kind, name, folder or Path())
    else:
        written = write_file(kind, name, folder or Path("plugins"))
    if as_json:
        print_json({"files": [str(f) for f in written.files], "next": [c for c, _ in written.next_steps]})
        return
    click.echo(f"Wrote {', '.join(map(str, written.files))}.")
    for line, what in written.next_steps:
        click.echo(f"  {line}  # {what}")


def _known(folder: Path | None) -> Registry:
    """All known components: those installed, and those in the plugin folder. Imports no component."""
    from wbcbench.registry.loading import PluginOptions, load_plugins

    folders = [f for f in (folder, Path("plugins")) if f is not None and f.is_dir()]
    folders = [f for f in folders if not (f / "__init__.py").exists()]
    return load_plugins(PluginOptions.from_environment(folders))[0]


__all__ = ["list_components", "new", "plugins", "show"]
