"""The top-level command: a table of verbs whose short help is known without importing them."""

from __future__ import annotations

import importlib
from typing import Any

import click

from wbcbench import __version__
from wbcbench.errors import did_you_mean

VERBS = {
    "run": "Train and evaluate methods; teachers are trained first where they are missing.",
    "search": "Search parameters and methods with Optuna; the winner is retrained with fresh seeds.",
    "list": "List what can be combined: data sets, backbones, fusions, distillers and so on.",
    "show": "Show one component: its parameters, defaults, search space, source.",
    "plugins": "Show which plugins were found, and why any was not loaded.",
    "submit": "Pack records for a leaderboard that others keep.",
    "export": "Write a trained network with its preprocessing: ONNX, torch.export or safetensors.",
    "predict": "Classify cells of a folder, a manifest or an .npz with a trained network.",
    "report": "One HTML page on one record: curves, confusion, mistakes, reliability, provenance.",
    "leaderboard": "Build, check and compare tables of stored results.",
}
"""Verb -> short help; the command is `command` in `wbcbench/cli/<verb>.py`."""


class LazyGroup(click.Group):
    """Imports a verb's module when that verb is called, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"wbcbench.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # `--no-plugins` may stand alone. Click would then take the next word as its value, as in
        # `wbcbench list --no-plugins fusions`; so only `=` gives it one.
        end = args.index("--") if "--" in args else len(args)
        args = [f"{a}=*" if a == "--no-plugins" and i < end else a for i, a in enumerate(args)]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"No command is called '{args[0]}'.{did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 some trials failed, 2 usage, 3 not comparable, 4 a plugin failed.",
)
@click.version_option(__version__, prog_name="wbcbench")
@click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    help="Show the whole traceback of an error (also WBCBENCH_TRACEBACK=1).",
)
def cli(**_: Any) -> None:
    """Compare ways of fusing modalities, and of distilling big teachers into small students, on cells."""
