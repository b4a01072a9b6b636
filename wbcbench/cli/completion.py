"""`wbcbench completion`: the shell's part of completion."""

from __future__ import annotations

import click

_WHERE = {
    "bash": "wbcbench completion bash > ~/.wbcbench.bash && echo '. ~/.wbcbench.bash' >> ~/.bashrc",
    "zsh": "wbcbench completion zsh > ~/.wbcbench.zsh && echo '. ~/.wbcbench.zsh' >> ~/.zshrc",
    "fish": "wbcbench completion fish > ~/.config/fish/completions/wbcbench.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_WHERE)))
def command(shell: str) -> None:
    """Print the script for SHELL; how to keep it goes to stderr. New shells have it."""
    from click.shell_completion import get_completion_class

    from wbcbench.cli.group import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "wbcbench", "_WBCBENCH_COMPLETE").source())
    click.echo(f"To have it always: {_WHERE[shell]}", err=True)


__all__ = ["command"]
