"""Options of the `data` verbs that say how a path is to be read, and the reading."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.complete import components
from wbcbench.cli.options import F, load, plugin_options

if TYPE_CHECKING:
    from wbcbench.data.survey import Survey
    from wbcbench.registry.loading import PluginOptions
    from wbcbench.spec.trial import SplitSpec


@dataclass(frozen=True)
class Source:
    """A path, and what the user said of it."""

    path: Path
    values: dict[str, Any]
    plugins: PluginOptions

    def survey(self) -> Survey:
        """Read everything, with progress on stderr. Raises `UsageError` (`DataError`)."""
        from wbcbench.data.csv_table import Asked
        from wbcbench.data.reading import survey_path
        from wbcbench.data.survey import survey_dataset
        from wbcbench.spec.load import put
        from wbcbench.spec.request import parse_value

        v = self.values
        if v["dataset"] is not None:
            settings: dict[str, Any] = {"path": str(self.path)}
            for key, text in self._settings(of_split=False):
                put(settings, key.removeprefix("dataset."), parse_value(text))
            return survey_dataset(v["dataset"], self._open(v["dataset"], settings), settings, _progress())
        leave_out: dict[str, list[str]] = {}
        for column, value in _pairs(v["leave_out"], "--leave-out"):
            leave_out.setdefault(column, []).append(value)
        asked = Asked(
            label=v["label"], group=v["group"], split=v["split"], id=v["id"], root=v["root"], levels=v["levels"],
            modalities=dict(_pairs(v["modality"], "--modality")), leave_out=leave_out,
        )  # fmt: skip
        return survey_path(self.path, asked, self._open, _progress())

    def split(self, **flags: Any) -> SplitSpec:
        """How a run would divide: flags, then `--set split.KEY=VALUE`. Raises `UsageError`."""
        from wbcbench.spec.load import validate
        from wbcbench.spec.request import parse_value
        from wbcbench.spec.trial import SplitSpec

        given = {key.removeprefix("split."): parse_value(text) for key, text in self._settings(of_split=True)}
        return validate(SplitSpec, {**flags, **given}, "split")

    def _settings(self, of_split: bool) -> list[tuple[str, str]]:
        pairs = _pairs(self.values["settings"], "--set")
        return [(key, text) for key, text in pairs if key.startswith("split.") == of_split]

    def flags(self) -> list[str]:
        """The options that were given, as words of a command line."""
        words: list[str] = []
        for name in ("label", "group", "split", "id", "root", "levels", "modality", "leave_out"):
            value = self.values[name]
            for one in value if isinstance(value, tuple) else (value,):
                words += [] if one is None else [f"--{name.replace('_', '-')}", str(one)]
        return words

    def _open(self, name: str, settings: dict[str, Any]) -> Any:
        from wbcbench.spec.load import validate

        registry, _ = load(self.plugins)
        resolved = registry.resolve("dataset", name)
        cls: Any = registry.load(resolved.component)
        return cls(validate(cls.Params, {**resolved.params, **settings}, f"dataset {name}"))


def source_options(function: F) -> F:
    """Add PATH and what says how it is read; the handler gets one argument `source`."""

    @click.argument("path", type=click.Path(path_type=Path))
    @click.option("--label", metavar="COLUMN", help="Column (or array) of labels; default: recognised by name.")
    @click.option("--group", metavar="COLUMN", help="Of donors, slides or plates; - for none.")
    @click.option("--split", metavar="COLUMN", help="Of train, val, test; - for none.")
    @click.option("--id", metavar="COLUMN", help="Of names of cells; - for none.")
    @click.option(
        "--modality",
        multiple=True,
        metavar="NAME=COLUMN",
        help="Images of a modality (.npz: array, or channels as 0,1); repeatable.",
    )
    @click.option("--root", type=click.Path(path_type=Path, exists=True), help="Where a CSV's paths start.")
    @click.option("--levels", metavar="A/B", help="What folders are: class, modality/class, split/class ...")
    @click.option("--leave-out", multiple=True, metavar="COLUMN=VALUE", help="Rows to leave out; repeatable.")
    @click.option(
        "--dataset",
        metavar="NAME",
        shell_complete=components("dataset"),
        help="Read PATH by this data set (bsccm, medmnist, pbc ...).",
    )
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Its parameters; audit: split.KEY=VALUE.",
    )
    @plugin_options
    @functools.wraps(function)
    def wrapper(path: Path, plugins: PluginOptions, **kwargs: Any) -> Any:
        names = ["label", "group", "split", "id", "modality", "root", "levels", "leave_out", "dataset", "settings"]
        values = {name: kwargs.pop(name) for name in names}
        return function(source=Source(path, values, plugins), **kwargs)

    return wrapper  # type: ignore[return-value]


def _pairs(items: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    from wbcbench.errors import UsageError

    for item in items:
        if "=" not in item:
            raise UsageError(f"Expected {option} NAME=VALUE, but got '{item}'.")
    return [(a.strip(), b.strip()) for a, _, b in (item.partition("=") for item in items)]


def _progress() -> Any:
    """A line on stderr that counts, on a terminal; silence elsewhere."""
    import sys

    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int, what: str) -> None:
        click.echo(f"\r{what}: {done}/{total}", err=True, nl=done == total)

    return show
