"""`wbcbench check` and `wbcbench doctor`: is a plugin sound, is the installation?"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.completion import anything, kinds
from wbcbench.cli.options import json_option, plugins_options, set_option, store_option
from wbcbench.cli.output import print_json

if TYPE_CHECKING:
    from wbcbench.api.checking import Checked, CheckedComponent, CheckRequest
    from wbcbench.registry import Component
    from wbcbench.registry.loading import PluginOptions
    from wbcbench.testing.check import Verdict


@click.command("check")
@click.argument("plugin", metavar="PLUGIN_OR_NAME", shell_complete=anything)
@click.option(
    "--kind",
    shell_complete=kinds,
    help="Kind of the component, if several have the name: fusion, distiller, ...",
)
@set_option("Parameter to test with.")
@click.option("--only", default="", metavar="WORDS", help="Check only promises that contain these words.")
@click.option("--verbose", "-v", is_flag=True, help="Show the traceback of each broken promise.")
@click.option("--watch", is_flag=True, help="Check the file again whenever it changes, until Ctrl-C.")
@json_option
@plugins_options
def check(
    plugin: str,
    kind: str | None,
    settings: tuple[str, ...],
    only: str,
    verbose: bool,
    watch: bool,
    as_json: bool,
    plugins: PluginOptions,
) -> int:
    """Check a plugin file, or a component given by name, against the contract of its kind.

    Exit codes: 0 all promises kept, 1 some broken, 2 usage, 4 the plugin cannot be imported.
    """
    from wbcbench.api.checking import CheckRequest
    from wbcbench.errors import ExitCode, UsageError

    wanted = CheckRequest(plugin=plugin, kind=kind, settings=settings, only=only, plugins=plugins)
    if watch:
        if as_json or not Path(plugin).exists():
            wrong = "--json" if as_json else f"'{plugin}', which is no file or folder"
            raise UsageError(f"--watch checks a plugin file whenever it changes; it does not go with {wrong}.")
        _watch(wanted, verbose)
        return ExitCode.OK
    if as_json:
        done = wanted.check()
        print_json({"ok": done.ok, "components": [_document(c, verbose) for c in done.components]})
    else:
        done = _print_checks(wanted, verbose)
    return ExitCode.OK if done.ok else ExitCode.SOME_FAILED


def _print_checks(wanted: CheckRequest, verbose: bool) -> Checked:
    from wbcbench.registry import qualified_name

    out = sys.stdout  # pytest replaces sys.stdout
    told: set[str] = set()

    def begins(component: Component) -> None:
        told.clear()
        click.echo(f"{component.kind} {qualified_name(component)} ({_near(component.origin)})", file=out)

    def stands(verdict: Verdict) -> None:
        click.echo(_lines(verdict, verbose, told), file=out)

    def ended(one: CheckedComponent) -> None:
        waits = f" Not checked because of that: {len(one.waiting)} more." if one.waiting else ""
        click.echo(f"{one.kept} of {len(one.verdicts)} promises kept.{waits}", file=out)

    return wanted.check(begins, stands, ended)


POLL_SECONDS = 0.3


def _watch(wanted: CheckRequest, verbose: bool) -> None:
    """Check now, and again whenever a file changes.

    Each check has a process of its own, since an imported file cannot be imported anew; it starts from a server
    that has already imported what takes seconds.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["wbcbench.testing.check", "wbcbench.testing.subjects"])
    path, seen = Path(wanted.plugin), None
    try:
        while True:
            files = [path, *path.rglob("*.py")] if path.is_dir() else [path]
            now = [(f, f.stat().st_mtime_ns) for f in files if f.exists()]
            if now and now != seen:
                seen, began = now, time.monotonic()
                process = processes.Process(target=_check_once, args=(wanted, verbose))
                process.start()
                process.join()
                took = time.monotonic() - began
                click.echo(f"{took:.1f} s. Waiting for a change of {_near(str(path))}; Ctrl-C ends.\n", err=True)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        click.echo(err=True)


def _check_once(wanted: CheckRequest, verbose: bool) -> None:
    """One check in a process of its own; an error is printed as any command's."""
    from wbcbench.errors import WbcbenchError

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once
    try:
        _print_checks(wanted, verbose)
    except WbcbenchError as error:
        click.echo(f"Error: {error}", err=True)


def _document(one: CheckedComponent, verbose: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from wbcbench.registry import qualified_name

    return {
        "kind": one.component.kind,
        "name": one.component.name,
        "qualified_name": qualified_name(one.component),
        "origin": one.component.origin,
        "ok": one.ok,
        "waiting": one.waiting,
        "promises": [asdict(v) if verbose else {**asdict(v), "traceback": ""} for v in one.verdicts],
    }


def _lines(verdict: Verdict, verbose: bool, told: set[str]) -> str:
    if verdict.ok and verdict.found:
        return f"  --    {verdict.promise} {verdict.found}"
    if verdict.ok:
        return f"  ok    {verdict.promise}"
    lines = [f"  FAIL  {verdict.promise}"]
    where = f"{_near(verdict.where)}: " if verdict.where else ""
    if verdict.found in told and not verbose:
        return "\n".join([*lines, f"        {where}as above."])
    told.add(verdict.found)
    lines.append(f"        {where}{verdict.found}")
    if verdict.fix:
        lines.append(f"        Fix: {verdict.fix}")
    if verbose:
        lines += [f"        {line}" for line in verdict.traceback.rstrip().splitlines()]
    return "\n".join(lines)


def _near(place: str) -> str:
    """`file:line`, relative to the working folder if it is inside it."""
    path = Path(place)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else place


_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@click.command("doctor")
@store_option("Store to check.")
@click.option("--quick", is_flag=True, help="Do not check the digests of the store's files.")
@json_option
@plugins_options
@click.pass_context
def doctor(ctx: click.Context, store: Path, quick: bool, as_json: bool, plugins: PluginOptions) -> None:
    """Diagnose versions, devices, plugins, store and disk, and suggest fixes.

    Changes nothing. Exit code 1 if there is a problem.
    """
    from wbcbench.cli.output import print_json
    from wbcbench.doctor import examine

    if not quick:
        _announce(store)
    found = examine(store, plugins, digests=not quick)
    problems = sum(f.state == "problem" for f in found)
    if as_json:
        print_json({"problems": problems, "findings": [f.as_dict() for f in found]})
    else:
        for finding in found:
            click.echo(f"{_MARKS[finding.state]:8} {finding.about}: {finding.text}")
            if finding.fix:
                click.echo(
                    f"{'':8}   {'to fix it' if finding.state == 'problem' else 'if need be'}: {finding.fix}"
                )
        click.echo("No problems." if not problems else f"{problems} problem{'s' * (problems > 1)}.")
    ctx.exit(int(problems > 0))


def _announce(store: Path) -> None:
    """Report the expected time, if it is long: about 2 ms a record and 2 s a GiB."""
    files = [path.stat().st_size for path in store.glob("records/*/*") if path.is_file()]
    gib = sum(files) / 2**30
    seconds = len(files) / 3000 + 2 * gib
    if seconds > 5:
        text = f"Checking digests of {len(files)} files, {gib:.1f} GiB: about {seconds:.0f} s. --quick skips this."
        click.echo(text, err=True)
