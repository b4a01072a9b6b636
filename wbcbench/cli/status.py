"""`wbcbench status` and `wbcbench watch`: what is done, running and failed in a store. They change nothing."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbcbench.cli.options import json_option, store_option
from wbcbench.cli.output import print_json
from wbcbench.terminal import drawn, one_line

if TYPE_CHECKING:
    from wbcbench.records.activity import Activity

SHOWN = 12
"""Maximum number of running trials, and of failures, in the text."""
_store = store_option("The store to look at.")


@click.command("status")
@_store
@json_option
def status(store: Path, as_json: bool) -> None:
    """Show what is done, running and failed in a store, also while a sweep runs elsewhere.

    Everything is read from the store's files, and nothing is changed. Scores are of validation cells.
    """
    from dataclasses import asdict

    found = _read(store)
    if as_json:
        print_json(asdict(found))
    else:
        click.echo("\n".join(lines(found, store)))


@click.command("watch")
@_store
@click.option("--every", type=click.FloatRange(0.5), default=3.0, show_default=True, metavar="SECONDS",
              help="Time between two looks.")  # fmt: skip
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Keep an HTML file up to date, which refreshes itself in a browser.")  # fmt: skip
@click.option("--until-idle", is_flag=True, help="Stop when no trial runs.")
def watch(store: Path, every: float, page: Path | None, until_idle: bool) -> None:
    """Show `wbcbench status` again and again, until Ctrl-C.

    Without a terminal, the text is printed whenever it has changed.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=drawn(sys.stdout))
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    last: list[str] = []
    with live or nullcontext():
        while True:
            found = _read(store)
            text = lines(found, store)
            if page is not None:
                _write_page(page, text, every)
            if live is not None:
                live.update(Text("\n".join(text), overflow="fold"), refresh=True)
            elif text != last:
                click.echo("\n".join([*text, ""]))
            last = text
            if until_idle and not found.running:
                return
            time.sleep(every)


def _read(path: Path) -> Activity:
    from wbcbench.api.requests import check_stores
    from wbcbench.records.activity import activity
    from wbcbench.records.store import Store

    check_stores([path])
    return activity(Store(path))


def lines(found: Activity, store: Path) -> list[str]:
    """The state of a store as text of at most 100 columns, where names are not longer."""
    from wbcbench.progress import spell

    text = [f"{one_line(store)}: {found.records} done, {found.running} running, {len(found.failures)} failed"]
    for s in found.sweeps:
        parts = [f"{s.done}/{s.trials} done", f"{s.running} running", f"{s.waiting} waiting"]
        parts += [f"{s.failed} failed"] if s.failed else []
        rate = [f.seconds for f in found.recent if f.seconds is not None]
        if rate and s.running:
            left = (s.waiting + s.running / 2) * sum(rate) / len(rate) / s.running
            parts.append(f"about {spell(left)} left")
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(s.started))
        text.append(f"Sweep begun {began}: {', '.join(parts)}")
    text += [f"Search {one_line(study)}: {count} proposals so far" for study, count in found.searches.items()]
    running = [t for t in found.training if t.alive]
    if running:
        text += ["", "Running"]
    for t in running[:SHOWN]:
        score = "" if t.validation is None else f"  validation macro-F1 {t.validation:.3f}"
        rest = "" if t.seconds_left is None else f"  about {spell(t.seconds_left)} left"
        text.append(f"  {_bar(t.epoch, t.epochs)}  {one_line(t.name)}{score}{rest}")
    text += [f"  and {len(running) - SHOWN} more"] if len(running) > SHOWN else []
    stopped = [t for t in found.training if not t.alive]
    if stopped:
        names = ", ".join(f"{one_line(t.name)} at epoch {t.epoch}" for t in stopped[:3])
        more = f" and {len(stopped) - 3} more" if len(stopped) > 3 else ""
        text += ["", f"Begun, but silent for {spell(stopped[0].silent)} or longer: {names}{more}."]
        text.append("The same command again resumes them.")
    if found.recent:
        text += ["", "Finished last (validation macro-F1)"]
    for f in found.recent:
        text.append(f"  {'' if f.validation is None else f'{f.validation:.3f}':5}  {one_line(f.name)}")
    if found.failures:
        text += ["", "Failed"]
    text += [f"  {one_line(f.name)} ({f.trial_id}): {one_line(f.error)}" for f in found.failures[:SHOWN]]
    return text


def _bar(done: int, total: int | None) -> str:
    if not total:
        return f"epoch {done}"
    filled = round(12 * min(1.0, done / total))
    return f"{'#' * filled}{'.' * (12 - filled)} {done:>3}/{total}"


def _write_page(path: Path, text: list[str], every: float) -> None:
    from html import escape

    from wbcbench.files import atomic_write_text

    at = time.strftime("%Y-%m-%d %H:%M:%S")
    atomic_write_text(
        path,
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="refresh" content="{max(1, round(every))}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>wbcbench watch</title>\n'
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:1rem}"
        "pre{white-space:pre-wrap;overflow-wrap:anywhere}</style></head>\n"
        f"<body><main><h1>{escape(text[0])}</h1><pre>{escape(chr(10).join(text[1:]))}</pre>"
        f"<p>As of {at}.</p></main></body></html>\n",
    )


__all__ = ["lines", "status", "watch"]
