"""`wbcbench new`: write a plugin to start from, and its test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from wbcbench.cli.complete import kinds
from wbcbench.cli.options import json_option
from wbcbench.cli.output import print_json

if TYPE_CHECKING:
    from wbcbench.registry import Registry

EPILOG = """\b
Examples:
  wbcbench new fusion gated_mean
  wbcbench new distiller cosine --plugins-dir my_plugins
  wbcbench new backbone tinynet --package
"""


@click.command("new", epilog=EPILOG)
@click.argument("kind", shell_complete=kinds)
@click.argument("name")
@click.option(
    "--package", is_flag=True, help="Write an installable package, ./wbcbench-NAME, instead of one file."
)
@click.option(
    "--plugins-dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to; default: ./plugins, or the working folder with --package.",
)
@json_option
def command(kind: str, name: str, package: bool, folder: Path | None, as_json: bool) -> None:
    """Write a plugin of KIND (fusion, distiller, backbone, dataset, policy, routing) called NAME.

    It is short and commented, trains as it is, and its test keeps the contract. Nothing is overwritten.
    """
    from wbcbench.registry import kind_of
    from wbcbench.scaffold import check_name, write_file, write_package

    kind = kind_of(kind)
    check_name(kind, name, _known(folder))
    if package:
        written = write_package(kind, name, folder or Path())
    else:
        written = write_file(kind, name, folder or Path("plugins"))
    if as_json:
        print_json({"files": [str(f) for f in written.files], "next": [c for c, _ in written.next_steps]})
        return
    click.echo(f"Wrote {', '.join(map(str, written.files))}.")
    for line, what in written.next_steps:
        click.echo(f"  {line}  # {what}")


def _known(folder: Path | None) -> Registry:
    """Everything that has a name: what is installed, and what lies in the plugin folder. Imports no component."""
    from wbcbench.registry.loading import PluginOptions, load_plugins

    folders = [f for f in (folder, Path("plugins")) if f is not None and f.is_dir()]
    folders = [f for f in folders if not (f / "__init__.py").exists()]
    return load_plugins(PluginOptions.from_environment(folders))[0]
