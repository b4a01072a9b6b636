"""`wbcbench data`: your own cells, looked at, brought in, and checked."""

from __future__ import annotations

import click

from wbcbench.cli.lazy import LazyGroup

SUBCOMMANDS = {
    "inspect": "What is there: classes, modalities, groups, copies, unreadable files; a contact sheet.",
    "import": "Write the manifest and the config that a run reads, from folders, a CSV or an .npz.",
    "audit": "Refuse a split with a donor or an image on two sides, or an image under two labels.",
}
"""Name -> short help; the command is `command` in `wbcbench/cli/data_<name>.py`."""


@click.group(
    "data",
    cls=LazyGroup,
    names=SUBCOMMANDS,
    modules="wbcbench.cli.data_{}",
    unknown="`data` has no command '{}'.",
    short_help="Look at your own cells, bring them in, check the split.",
)
def command() -> None:
    """Your own cells: look at them, bring them in, and check the split for leaks.

    PATH is a folder with a folder per class (or per modality and class, split and class, ...; also in a zip), a
    CSV with a path of an image per modality, an .npz, or what `data import` wrote: its folder, or the dataset.yaml
    in it. With --dataset it is read by that data set instead.
    """
