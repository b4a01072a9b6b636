"""`wbcbench completion`: the shell script; and the completions after a flag: component names from declarations,
records from the store."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def components(kind: str) -> Completer:
    """Names of a kind, to complete the last item of a list such as `early,inde` or `lskd+dk`."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from wbcbench.registry.loading import PluginOptions, load_plugins

        folders = ctx.params.get("plugins_dir") or ()
        registry, _ = load_plugins(PluginOptions.from_environment(folders))
        done, start = _last(incomplete)
        return [
            CompletionItem(done + c.name, help=c.summary)
            for c in registry.components(kind)
            if c.name.startswith(start)
        ]

    return complete


def kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`fusion`, `distiller`, and so on."""
    from wbcbench.registry import KINDS

    return [CompletionItem(k) for k in KINDS if k.startswith(incomplete)]


def plurals(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`fusions`, `distillers`, and so on."""
    from wbcbench.registry import KINDS, plural

    return [CompletionItem(plural(k)) for k in KINDS if plural(k).startswith(incomplete)]


def anything(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of every kind (or of `--kind`), and files."""
    from wbcbench.registry import KINDS

    kind = ctx.params.get("kind")
    items = [i for k in ([kind] if kind in KINDS else KINDS) for i in components(k)(ctx, param, incomplete)]
    return [CompletionItem(incomplete, type="file"), *items]


def named(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the kind given before."""
    from wbcbench.registry import KINDS

    kind = str(ctx.params.get("kind"))
    return components(kind)(ctx, param, incomplete) if kind in KINDS else []


def trackers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of trackers."""
    from wbcbench.tracking import TRACKERS

    done, start = _last(incomplete)
    return [CompletionItem(done + n, help=h) for n, h in TRACKERS.items() if n.startswith(start)]


def records(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Trial ids in the store given by `--store`."""
    folder = Path(ctx.params.get("store") or "wbcbench-store") / "records"
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return [CompletionItem(n) for n in names if n.startswith(incomplete)]


def _last(incomplete: str) -> tuple[str, str]:
    """The complete items of a list, and the beginning of its last item."""
    match = re.search(r"[^,+]*$", incomplete)
    assert match is not None
    return incomplete[: match.start()], match[0]


_WHERE = {
    "bash": "wbcbench completion bash > ~/.wbcbench.bash && echo '. ~/.wbcbench.bash' >> ~/.bashrc",
    "zsh": "wbcbench completion zsh > ~/.wbcbench.zsh && echo '. ~/.wbcbench.zsh' >> ~/.zshrc",
    "fish": "wbcbench completion fish > ~/.config/fish/completions/wbcbench.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_WHERE)))
def completion(shell: str) -> None:
    """Print the script for SHELL; stderr shows how to install it. It takes effect in new shells."""
    from click.shell_completion import get_completion_class

    from wbcbench.cli.group import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "wbcbench", "_WBCBENCH_COMPLETE").source())
    click.echo(f"To install it: {_WHERE[shell]}", err=True)


__all__ = [
    "anything",
    "completion",
    "components",
    "kinds",
    "named",
    "plurals",
    "records",
    "trackers",
]
