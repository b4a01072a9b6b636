"""The command line: a thin layer over `wbcbench.api`. Modules are imported only when they are used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

TRACEBACK_VARIABLE = "WBCBENCH_TRACEBACK"


def main() -> None:
    """Entry point of the command `wbcbench`, which runs in a process of its own."""
    from wbcbench.terminal import make_streams_inert
    from wbcbench.training.allocator import claim_process

    claim_process()
    make_streams_inert()  # here too, so that it includes the traceback of a bug
    sys.exit(execute(sys.argv[1:]))


def execute(args: Sequence[str]) -> int:
    """Run one command and return its exit code (see `wbcbench.errors.ExitCode`).

    A `WbcbenchError` becomes a message; any other exception is a bug in wbcbench and is not caught.
    """
    from wbcbench.terminal import inert_streams

    with inert_streams():
        return _executed(list(args))


def _executed(args: list[str]) -> int:
    import click

    from wbcbench.cli.group import cli
    from wbcbench.errors import ExitCode, WbcbenchError, missing_extra

    show_traceback = "--traceback" in args or os.environ.get(TRACEBACK_VARIABLE, "") not in ("", "0")
    # Removed here, so that it may be anywhere on the line.
    args = [a for a in args if a != "--traceback"]
    try:
        result = cli.main(args, prog_name="wbcbench", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.OK
    except WbcbenchError as error:
        if show_traceback:
            raise
        click.echo(f"Error: {error}", err=True, color=True)
        return error.exit_code
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None or show_traceback:
            raise
        click.echo(f"Error: {missing}", err=True, color=True)
        return missing.exit_code
    except click.ClickException as error:
        if show_traceback:
            raise
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) closed the pipe. Python would report it again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
