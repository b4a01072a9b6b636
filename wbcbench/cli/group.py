"""The top-level command: a table of commands with their short help, known without importing them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import click

from wbcbench import __version__
from wbcbench.errors import did_you_mean


class LazyGroup(click.Group):
    """Imports a command's module when that command is called, not before.

    Args:
        lazily: name of the command -> `module:attribute` in this package, and its short help.
        unknown: message for an unknown command, with `{}` for what was typed.
        sections: heading -> the commands under it, for the help; None: one list.
    """

    def __init__(
        self,
        *args: Any,
        lazily: Mapping[str, tuple[str, str]],
        unknown: str = "No command is called '{}'.",
        sections: Mapping[str, Iterable[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections or {"Commands": list(lazily)}
        self._lazily, self._unknown = lazily, unknown

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazily)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazily:
            return None
        module, _, attribute = self._lazily[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(f"wbcbench.cli.{module}"), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self._lazily))
        for heading, names in self._sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), self._lazily[name][1]) for name in names])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # `--no-plugins` may have no value. Click would then take the next word as its value, as in
        # `wbcbench list --no-plugins fusions`; so a value must be given with `=`.
        end = args.index("--") if "--" in args else len(args)
        args = [f"{a}=*" if a == "--no-plugins" and i < end else a for i, a in enumerate(args)]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._lazily and not args[0].startswith("-"):
            ctx.fail(f"{self._unknown.format(args[0])}{did_you_mean(args[0], self._lazily)}")
        return super().resolve_command(ctx, args)


GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Train": {
        "run": ("run:run", "Train and evaluate methods; missing teachers first."),
        "study": ("run:study", "Run every part of a study file into one store."),
        "search": ("search:search", "Search parameters and methods; retrain the winner."),
        "status": ("status:status", "What is done, running and failed in a store."),
        "watch": ("status:watch", "The same, refreshed while a sweep runs anywhere."),
    },
    "Compare": {
        "leaderboard": ("leaderboard:leaderboard", "Build, check and compare tables of stored results."),
        "report": ("deploying:report", "Write a page about one record: curves, confusion, mistakes."),
        "evaluate": ("deploying:evaluate", "Evaluate trained networks on other labelled cells."),
    },
    "Use": {
        "predict": ("deploying:predict", "Classify cells with a trained network."),
        "export": ("deploying:export", "Write a trained network as ONNX, torch.export or safetensors."),
        "submit": ("publishing:submit", "Pack records for a leaderboard that others maintain."),
    },
    "Data and components": {
        "data": ("data:data", "Inspect your own cells, import them, check the split for leaks."),
        "list": ("components:list_components", "List data sets, backbones, fusions, distillers and so on."),
        "show": ("components:show", "Show one component: parameters, defaults, search space, source."),
        "new": ("components:new", "Write a plugin template with its test."),
        "check": ("check:check", "Test a plugin against the contract of its kind."),
        "plugins": ("components:plugins", "Show which plugins were found, and why some were not loaded."),
    },
    "Installation": {
        "doctor": ("check:doctor", "Diagnose the installation and suggest fixes."),
        "completion": ("completion:completion", "Print the script for completion in your shell."),
    },
}
"""What a command is for -> the commands."""
VERBS = {verb: told for verbs in GROUPS.values() for verb, told in verbs.items()}
"""Command -> where it is, short help."""


@click.group(
    cls=LazyGroup,
    lazily=VERBS,
    sections=GROUPS,
    # color: click would otherwise delete the escape sequences of a hostile name, which must be seen instead
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "color": True},
    epilog="Exit codes: 0 done, 1 some trials failed, 2 usage, 3 not comparable, 4 a plugin failed.",
)
@click.version_option(__version__, prog_name="wbcbench")
@click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    help="Show the full traceback of an error (also WBCBENCH_TRACEBACK=1).",
)
def cli(**_: Any) -> None:
    """Compare ways of fusing modalities, and of distilling large teachers into small students, on cells."""
