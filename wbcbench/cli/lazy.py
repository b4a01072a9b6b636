"""A command group whose commands' short help is known without importing them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from wbcbench.errors import did_you_mean


class LazyGroup(click.Group):
    """Imports a command's module when that command is called, not before.

    Args:
        names: of the commands -> short help.
        modules: where a command is, with `{}` for its name: an attribute `command`.
        unknown: how an unknown command is refused, with `{}` for what was typed.
    """

    def __init__(
        self, *args: Any, names: Mapping[str, str], modules: str, unknown: str = "No command is called '{}'.",
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **kwargs)
        self._names, self._modules, self._unknown = names, modules, unknown

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._names:
            return None
        found: click.Command = importlib.import_module(self._modules.format(cmd_name)).command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self._names.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # `--no-plugins` may stand alone. Click would then take the next word as its value, as in
        # `wbcbench list --no-plugins fusions`; so only `=` gives it one.
        end = args.index("--") if "--" in args else len(args)
        args = [f"{a}=*" if a == "--no-plugins" and i < end else a for i, a in enumerate(args)]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._names and not args[0].startswith("-"):
            ctx.fail(f"{self._unknown.format(args[0])}{did_you_mean(args[0], self._names)}")
        return super().resolve_command(ctx, args)


__all__ = ["LazyGroup"]
