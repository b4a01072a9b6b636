"""`wbcbench leaderboard`: records -> table. Reads only."""

from __future__ import annotations

import json
from pathlib import Path

import click

from wbcbench.cli.publishing import PublishingGroup


@click.group(
    "leaderboard", cls=PublishingGroup, invoke_without_command=True,
    short_help="Show finished trials as tables.",
)  # fmt: skip
@click.option(
    "--store", "stores", multiple=True, default=("wbcbench-store",), envvar="WBCBENCH_STORE",
    show_default=True, type=click.Path(path_type=Path), help="Folder with records; repeatable.",
)  # fmt: skip
@click.option(
    "--format", "style", type=click.Choice(["markdown", "csv", "plain"]), default="plain", show_default=True,
    help="How to print the tables.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to a file instead.")
@click.option("--json", "as_document", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def command(
    ctx: click.Context, stores: tuple[Path, ...], style: str, output: Path | None, as_document: bool
) -> None:
    """Show one table per comparison key: only trials that may be compared share one.

    Records that cannot be trusted are named on stderr and left out.
    """
    if ctx.invoked_subcommand is not None:
        return
    for store in stores:
        if not store.is_dir():
            # click's own error has exit status 2, as every other usage error here.
            raise click.UsageError(
                f"Expected a store, but {store} is not a folder. Choose one with --store, or make one with "
                "`wbcbench run`."
            )
    from wbcbench.leaderboard import render, table
    from wbcbench.records.atomic import atomic_write_text
    from wbcbench.records.store import Store

    records, refused = [], []
    for root in stores:
        good, bad = Store(root).scan(verify="full")
        records += good
        refused += bad
    for _, error in refused:
        click.echo(f"refused: {error}", err=True)

    boards = table.boards(records)
    if as_document:
        document = {
            "boards": render.as_json(boards),
            "refused": [{"path": str(path), "reason": str(error)} for path, error in refused],
        }
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    elif not boards:
        click.echo(
            f"No finished trials in {', '.join(map(str, stores))}. `wbcbench run` makes some; "
            "`wbcbench run --help` shows how.",
            err=style == "csv",
        )
        return
    else:
        renderers = {
            "markdown": render.render_markdown, "csv": render.render_csv, "plain": render.render_plain,
        }  # fmt: skip
        text = renderers[style](boards)
    if output is None:
        click.echo(text, nl=False)
    else:
        atomic_write_text(output, text)


__all__ = ["command"]
