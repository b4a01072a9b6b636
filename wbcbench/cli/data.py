"""`wbcbench data`: your own cells, looked at, brought in, and checked."""

from __future__ import annotations

import importlib

import click

from wbcbench.errors import did_you_mean

SUBCOMMANDS = {
    "inspect": "What is there: classes, modalities, groups, copies, unreadable files; a contact sheet.",
    "import": "Write the manifest and the config that a run reads, from folders, a CSV or an .npz.",
    "audit": "Refuse a split with a donor or an image on two sides, or an image under two labels.",
}
"""Name -> short help; the command is `command` in `wbcbench/cli/data_<name>.py`."""


class Subcommands(click.Group):
    """Imports a subcommand when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        found: click.Command = importlib.import_module(f"wbcbench.cli.data_{cmd_name}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in SUBCOMMANDS:
            ctx.fail(f"`data` has no command '{args[0]}'.{did_you_mean(args[0], SUBCOMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group("data", cls=Subcommands, short_help="Look at your own cells, bring them in, check the split.")
def command() -> None:
    """Your own cells: look at them, bring them in, and check the split for leaks.

    PATH is a folder with a folder per class (or per modality and class, split and class, ...; also in a zip), a
    CSV with a path of an image per modality, or an .npz. With --dataset it is read by that data set instead.
    """
