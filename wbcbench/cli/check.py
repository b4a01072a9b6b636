"""`wbcbench check`: the contract tests of a plugin, told in plain words."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.complete import anything, kinds
from wbcbench.cli.options import json_option, plugin_options
from wbcbench.cli.output import print_json

if TYPE_CHECKING:
    from wbcbench.checking import Verdict
    from wbcbench.checking.subjects import Subject
    from wbcbench.registry.loading import PluginOptions


@click.command("check")
@click.argument("plugin", metavar="PLUGIN_OR_NAME", shell_complete=anything)
@click.option(
    "--kind",
    shell_complete=kinds,
    help="What the name is, where it could be several things: fusion, distiller, ...",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Parameter to test with.")
@click.option("--only", default="", metavar="WORDS", help="Check only promises that these words are in.")
@click.option("--verbose", "-v", is_flag=True, help="Show the traceback of each promise that is broken.")
@json_option
@plugin_options
def command(
    plugin: str,
    kind: str | None,
    settings: tuple[str, ...],
    only: str,
    verbose: bool,
    as_json: bool,
    plugins: PluginOptions,
) -> int:
    """Check a plugin file, or the component of a name, against the contract of its kind.

    Exit codes: 0 all promises kept, 1 some broken, 2 usage, 4 the plugin cannot be imported.
    """
    from importlib.util import find_spec

    from wbcbench.errors import ExitCode, UsageError
    from wbcbench.registry import kind_of

    if find_spec("pytest") is None:
        raise UsageError(
            "Expected pytest, which runs the contract tests, but it is not installed. Run: pip install pytest"
        )
    from wbcbench.checking import find_subjects

    subjects = find_subjects(plugin, plugins, kind_of(kind) if kind else "")
    documents = [_check(subject, settings, only, verbose, not as_json) for subject in subjects]
    ok = all(d["ok"] for d in documents)
    if as_json:
        print_json({"ok": ok, "components": documents})
    return ExitCode.OK if ok else ExitCode.SOME_FAILED


def _check(subject: Subject, settings: tuple[str, ...], only: str, verbose: bool, talk: bool) -> dict[str, Any]:
    from wbcbench.checking import Verdict, check_component
    from wbcbench.cli.settings import given_params
    from wbcbench.registry import qualified_name

    component = subject.resolved.component
    cls = _load(subject)
    params = given_params(cls, subject.resolved.params, settings).model_dump(exclude_unset=True)
    out = sys.stdout  # pytest puts its own in place
    heading = f"{component.kind} {qualified_name(component)} ({_near(component.origin)})"
    told: set[str] = set()

    def tell(verdict: Verdict) -> None:
        if talk:
            click.echo(_lines(verdict, verbose, told), file=out)

    if talk:
        click.echo(heading, file=out)
    verdicts = [
        Verdict("name", "Its name is its own.", False, clash, "Choose another `name`.", component.origin)
        for clash in subject.clashes
    ] or [Verdict("name", "Its name is its own.", True)]
    for verdict in verdicts:
        tell(verdict)
    findings = check_component(component.kind, cls, params, tell, only, tuple(verdicts))
    verdicts += findings.verdicts
    kept = sum(v.ok for v in verdicts)
    if talk:
        waits = f" {len(findings.waiting)} more rest on the broken one, and wait." if findings.waiting else ""
        click.echo(f"{kept} of {len(verdicts)} promises kept.{waits}", file=out)
    return {
        "kind": component.kind,
        "name": component.name,
        "qualified_name": qualified_name(component),
        "origin": component.origin,
        "ok": kept == len(verdicts),
        "waiting": findings.waiting,
        "promises": [asdict(v) if verbose else {**asdict(v), "traceback": ""} for v in verdicts],
    }


def _load(subject: Subject) -> Any:
    from wbcbench.errors import PluginError

    try:
        return subject.registry.load(subject.resolved.component)
    except SystemExit as error:
        raise PluginError(
            f"Expected to import {subject.resolved.component.origin}, but its code called sys.exit({error.code})."
        ) from error


def _lines(verdict: Verdict, verbose: bool, told: set[str]) -> str:
    if verdict.ok:
        return f"  ok    {verdict.promise}"
    lines = [f"  FAIL  {verdict.promise}"]
    where = f"{_near(verdict.where)}: " if verdict.where else ""
    if verdict.found in told and not verbose:
        return "\n".join([*lines, f"        {where}as above."])
    told.add(verdict.found)
    lines.append(f"        {where}{verdict.found}")
    if verdict.mend:
        lines.append(f"        Mend: {verdict.mend}")
    if verbose:
        lines += [f"        {line}" for line in verdict.traceback.rstrip().splitlines()]
    return "\n".join(lines)


def _near(place: str) -> str:
    """`file:line` relative to the working folder, where it lies below it."""
    path = Path(place)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else place
