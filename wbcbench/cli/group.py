"""The top-level command: a table of verbs whose short help is known without importing them."""

from __future__ import annotations

from typing import Any

import click

from wbcbench import __version__
from wbcbench.cli.lazy import LazyGroup

VERBS = {
    "run": "Train and evaluate methods; teachers are trained first where they are missing.",
    "study": "Run every part of a study file into one store; run it again and it goes on.",
    "search": "Search parameters and methods with Optuna; the winner is retrained with fresh seeds.",
    "list": "List what can be combined: data sets, backbones, fusions, distillers and so on.",
    "show": "Show one component: its parameters, defaults, search space, source.",
    "data": "Look at your own cells, bring them in, and check the split for leaks.",
    "plugins": "Show which plugins were found, and why any was not loaded.",
    "new": "Write a plugin to start from, with its test: one file, or a package.",
    "check": "Test a plugin against the contract of its kind, and say how to mend it.",
    "submit": "Pack records for a leaderboard that others keep.",
    "export": "Write a trained network with its preprocessing: ONNX, torch.export or safetensors.",
    "predict": "Classify cells of a folder, a manifest or an .npz with a trained network.",
    "report": "One HTML page on one record: curves, confusion, mistakes, reliability, provenance.",
    "leaderboard": "Build, check and compare tables of stored results.",
    "doctor": "Look for what is wrong here, and say what mends it.",
    "completion": "Print the script that completes verbs and component names in your shell.",
}
"""Verb -> short help; the command is `command` in `wbcbench/cli/<verb>.py`."""


@click.group(
    cls=LazyGroup,
    names=VERBS,
    modules="wbcbench.cli.{}",
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
