"""`wbcbench data`: inspect, import and check your own cells."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from wbcbench.cli.completion import components
from wbcbench.cli.group import LazyGroup
from wbcbench.cli.options import F, json_option, plugins_options
from wbcbench.cli.output import in_lines, print_json, print_table
from wbcbench.terminal import drawn, one_line

if TYPE_CHECKING:
    from wbcbench.data.survey import Survey
    from wbcbench.registry.loading import PluginOptions
    from wbcbench.spec.trial import SplitSpec

SHOWN, SHOWN_LEAKS = 20, 50
SIDES = ("train", "val", "test")
READING = ("label", "group", "split", "fold", "fold_lists", "id",
           "root", "levels", "modality", "leave_out", "side")  # fmt: skip
"""Options that say how a path is read."""
SCHEMES = ("official", "official_folds", "stratified", "kfold", "leave_one_group_out", "repeated")
SUBCOMMANDS = {
    "inspect": (
        "data:inspect",
        "Show classes, modalities, groups, copies and unreadable files; write a contact sheet.",
    ),
    "import": (
        "data:import_cells",
        "Write the manifest and the config for a run, from folders, a CSV or an .npz.",
    ),
    "audit": (
        "data:audit_split",
        "Fail if a donor or an image is on two sides of the split, or an image has two labels.",
    ),
}
"""Name -> where it is, short help."""


@click.group(
    "data",
    cls=LazyGroup,
    lazily=SUBCOMMANDS,
    unknown="`data` has no command '{}'.",
    short_help="Inspect your own cells, import them, check the split.",
)
def data() -> None:
    """Inspect your own cells, import them, and check the split for leaks.

    PATH is a folder with a folder per class (or per modality and class, split and class, ...; also in a zip), a
    CSV with an image path per modality, an .npz, or what `data import` wrote: its folder, or the dataset.yaml in
    it. With --dataset it is read by that data set instead.
    """


@dataclass(frozen=True)
class Source:
    """A path, and the user's options for reading it."""

    path: Path
    values: dict[str, Any]
    plugins: PluginOptions

    def survey(self) -> Survey:
        """Read everything, with progress on stderr. Raises `UsageError` (`DataError`)."""
        from wbcbench.data.csv_table import ColumnChoices
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
        asked = ColumnChoices(
            label=v["label"], group=v["group"], split=v["split"], id=v["id"], root=v["root"], levels=v["levels"],
            fold=v["fold"], fold_lists=v["fold_lists"],
            modalities=dict(_pairs(v["modality"], "--modality")), leave_out=leave_out, sides=self._sides(),
        )  # fmt: skip
        return survey_path(self.path, asked, self._open, _progress())

    def split(self, **flags: Any) -> SplitSpec:
        """The split of a run: flags, then `--set split.KEY=VALUE`. Raises `UsageError`."""
        from wbcbench.spec.load import validate
        from wbcbench.spec.request import parse_value
        from wbcbench.spec.trial import SplitSpec

        given = {key.removeprefix("split."): parse_value(text) for key, text in self._settings(of_split=True)}
        return validate(SplitSpec, {**flags, **given}, "split")

    def _sides(self) -> dict[str, str]:
        from wbcbench.data.labels import side_of
        from wbcbench.errors import UsageError

        sides: dict[str, str] = {}
        for word, text in _pairs(self.values["side"], "--side"):
            side = side_of(text)
            if side is None:
                raise UsageError(f"Expected --side {word}=train, val or test, but got '{text}'.")
            sides[word] = side
        return sides

    def _settings(self, of_split: bool) -> list[tuple[str, str]]:
        pairs = _pairs(self.values["settings"], "--set")
        return [(key, text) for key, text in pairs if key.startswith("split.") == of_split]

    def flags(self) -> list[str]:
        """The given options, as arguments of a command line."""
        words: list[str] = []
        for name in READING:
            value = self.values[name]
            for one in value if isinstance(value, tuple) else (value,):
                words += [] if one is None else [f"--{name.replace('_', '-')}", str(one)]
        return words

    def _open(self, name: str, settings: dict[str, Any]) -> Any:
        from wbcbench.api.requests import load
        from wbcbench.spec.load import validate

        registry, _ = load(self.plugins)
        resolved = registry.resolve("dataset", name)
        cls: Any = registry.load(resolved.component)
        return cls(validate(cls.Params, {**resolved.params, **settings}, f"dataset {name}"))


def source_options(function: F) -> F:
    """Add PATH and the options for reading it; the handler gets one argument `source`."""

    @click.argument("path", type=click.Path(path_type=Path))
    @click.option("--label", metavar="COLUMN", help="Column (or array) of labels; default: recognised by name.")
    @click.option("--group", metavar="COLUMN", help="Column of donors, slides or plates; - for none.")
    @click.option("--split", metavar="COLUMN", help="Column of train, val, test; - for none.")
    @click.option("--fold", metavar="COLUMN", help="Column of the fold that tests a cell, or of fold0, fold1 ...")
    @click.option(
        "--fold-lists",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="FOLDER",
        help="Folds as lists of names: fold0_train.csv, fold0_test.csv ...",
    )
    @click.option("--id", metavar="COLUMN", help="Column of cell names; - for none.")
    @click.option(
        "--modality",
        multiple=True,
        metavar="NAME=COLUMN",
        help="Images of a modality (.npz: array, or channels as 0,1); repeatable.",
    )
    @click.option("--root", type=click.Path(path_type=Path, exists=True), help="Folder of a CSV's relative paths.")
    @click.option(
        "--levels", metavar="A/B", help="Folder levels: class, modality/class, split/class, skip/class ..."
    )
    @click.option(
        "--leave-out",
        multiple=True,
        metavar="COLUMN=VALUE",
        help="Cells to leave out, by a column, a folder level or bits=8; repeatable.",
    )
    @click.option(
        "--side",
        multiple=True,
        metavar="WORD=SIDE",
        help="Side (train, val, test) that a folder or a word of the split column means; repeatable.",
    )
    @click.option(
        "--dataset",
        metavar="NAME",
        shell_complete=components("dataset"),
        help="Read PATH with this data set (bsccm, medmnist, pbc ...).",
    )
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Parameter of that data set; for audit: split.KEY=VALUE.",
    )
    @plugins_options
    @functools.wraps(function)
    def wrapper(path: Path, plugins: PluginOptions, **kwargs: Any) -> Any:
        names = [*READING, "dataset", "settings"]
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
    """Show a counter on stderr if it is a terminal."""
    import sys

    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int, what: str) -> None:
        click.echo(f"\r{one_line(what)}: {done}/{total}", drawn(sys.stderr), nl=done == total)

    return show


@click.command("inspect")
@source_options
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.png",
              help="Write a contact sheet: a few cells of each class, in each modality.")  # fmt: skip
@json_option
def inspect(source: Source, sheet: Path | None, as_json: bool) -> None:
    """Show what is at PATH: cells, classes, modalities, groups, split, copies, files that cannot be read."""
    from wbcbench.data.advice import advise, choose_size, run_commands
    from wbcbench.data.intake import facts
    from wbcbench.data.survey import TILE, contact_sheet, sheet_cells

    survey = source.survey()
    document, advice, size = facts(survey), advise(survey), choose_size(survey)
    document["size"] = None if size is None else {**size.document, "text": size.text}
    document["problems"] = list(advice.problems)
    document["commands"] = run_commands(survey, source.flags(), advice)
    if sheet is not None:
        contact_sheet(sheet_cells(survey, 8, TILE), sheet)
        document["sheet"] = str(sheet)
    print_json(document) if as_json else _print_facts(in_lines(document))


def _print_facts(d: dict[str, Any]) -> None:
    click.echo(f"{d['path']}: {d['cells']} cells, {len(d['classes'])} classes")
    _print_accounts(d["accounts"])
    click.echo()
    _print_taken(d["taken"])
    print_table(["class", "cells", "share"], [[c["name"], c["cells"], f"{c['share']:.1%}"] for c in d["classes"]])
    click.echo()
    rows = [[m["name"], m["channels"], m["dtype"], _side(m), m["missing"] or ""] for m in d["modalities"]]
    print_table(["modality", "channels", "dtype", "side", "cells without"], rows)
    click.echo()
    g = d["groups"]
    counted = g and f"{g['count']} of {g['smallest']} to {g['largest']} cells (median {g['median']:g})"
    click.echo(f"groups: {counted or 'none known: cells of one donor may be on two sides of a split'}")
    split = d["split"] and ", ".join(f"{side} {n}" for side, n in d["split"].items())
    if split or not d["folds"]:
        click.echo(f"split: {split or 'none: a run makes one'}")
    if d["folds"]:
        print_table(
            ["fold", "train", "val", "test"], [[f["fold"], *(f[s] or "" for s in SIDES)] for f in d["folds"]]
        )
    _print_copies(d["copies"])
    _print_list("cannot be used", d["unusable"])
    for note in d["notes"]:
        click.echo(f"note: {note}")
    if "sheet" in d:
        click.echo(f"contact sheet: {d['sheet']}")
    if d["size"]:
        click.echo(f"size: {d['size']['text']}")
    click.echo("A run chooses, where it is not told:")
    for c in d["chosen"]:
        click.echo(f"  {c['key']} {c['value']}: {c['reason']}")
    _print_commands(d)


def _print_accounts(accounts: list[dict[str, Any]]) -> None:
    """How many files or rows were found and used; classes, groups and sides of which none are used."""
    for i, account in enumerate(accounts):
        if i == 0 or account["left_out"]:
            click.echo(account["sentence"])


def _print_commands(d: dict[str, Any]) -> None:
    """What a run would refuse, and the commands that it accepts."""
    click.echo()
    for problem in d["problems"]:
        click.echo(f"A run with the defaults would stop: {problem}" if d["commands"] else problem)
    if d["commands"]:
        click.echo("To train on these cells:\n" + "\n".join(f"  {line}" for line in d["commands"]))
    if d.get("alternative"):
        click.echo(f"With images cut to their middle square and rescaled instead:\n  {d['alternative']}")


def _print_taken(taken: list[dict[str, str]]) -> None:
    """How each column, folder level or array was interpreted."""
    if taken:
        print_table(["found", "taken for"], [[t["what"], t["for"]] for t in taken])
        click.echo()


def _print_list(what: str, rows: list[dict[str, str]], shown: int = SHOWN) -> None:
    """Print `what: N`, then the first few with reasons."""
    if rows:
        click.echo(f"{what}: {len(rows)}")
        for row in rows[:shown]:
            click.echo(f"  {row['what']}: {row['why']}")
        if len(rows) > shown:
            click.echo(f"  ... and {len(rows) - shown} more")


def _print_copies(c: dict[str, Any]) -> None:
    if not c["images"]:
        click.echo("copies: none")
    else:
        click.echo(
            f"copies: {c['images']} images occur more than once, in {c['cells']} cells; on two sides of the "
            f"official split: {c['across_official_split']}; under two labels: {c['of_two_labels']}"
        )
        for cells in c["examples"]:
            click.echo(f"  {' = '.join(cells)}")
    if c["groups_across_official_split"]:
        click.echo(f"groups on two sides of the official split: {c['groups_across_official_split']}")
    for modality, cells in c["of_one_modality_only"].items():
        click.echo(f"copies in {modality} alone: {cells} cells share its image and differ in another modality")


def _side(m: dict[str, Any]) -> str:
    low, high = m["side"]
    if m["dtype"] == "float32":
        return ""
    side = f"{low} px" if low == high else f"{low} to {high} px"
    return f"{side}, {m['not_square']} not square" if m["not_square"] else side


@click.command("import")
@source_options
@click.option("-o", "--output", "dest", required=True, type=click.Path(path_type=Path), metavar="DEST",
              help="A new folder.")  # fmt: skip
@click.option("--copy", is_flag=True, help="Copy the images; default: refer to the originals.")
@click.option("--copies", type=click.Choice(["drop", "keep"]), default="drop", show_default=True,
              help="drop: keep one of several equal cells (none if labels differ); keep: keep all.")  # fmt: skip
@json_option
def import_cells(source: Source, dest: Path, copy: bool, copies: Literal["drop", "keep"], as_json: bool) -> None:
    """Write DEST from PATH: dataset.yaml for `wbcbench run --config`, a manifest (or cells.npz), import.json.

    It reports how each column was interpreted, and what was dropped and why; import.json contains all of it. DEST
    is written atomically.
    """
    from wbcbench.data.advice import advise, alternative, run_commands
    from wbcbench.data.intake import plan_intake, write_intake
    from wbcbench.errors import DataError

    if dest.exists():  # before reading, which may take hours
        raise DataError(f"Expected a new folder, but {dest} exists. Choose another with -o, or remove it.")
    survey = source.survey()
    intake = plan_intake(survey, copies)
    report = write_intake(survey, intake, dest, copy)
    advice = advise(survey, imported=True, copies=copies)
    again = None if advice.bring else dest  # these cells need options that this import was not given
    report |= {
        "dest": str(dest),
        "problems": list(advice.problems),
        "commands": run_commands(survey, source.flags(), advice, again),
        "alternative": alternative(survey, dest, advice) if again else "",
    }
    if as_json:
        print_json(report)
        return
    report = in_lines(report)
    _print_taken(report["taken"])
    for note in report["notes"]:
        click.echo(f"note: {note}")
    _print_list("dropped", report["dropped"])
    if "extra" in report:
        click.echo(f"numbers kept for later use, in manifest.csv: {', '.join(report['extra'])}")
    if "size" in report:
        click.echo(f"size: {report['size']['text']}")
    _print_accounts(report["accounts"])
    click.echo(f"{dest}: {report['cells']} cells imported, {len(report['dropped'])} dropped")
    _print_commands(report)


@click.command("audit")
@source_options
@click.option("--scheme", type=click.Choice(SCHEMES), default="official", show_default=True,
              help="official: the data set's own split or folds, if any; others: made by wbcbench.")  # fmt: skip
@click.option("--allow-leaks", is_flag=True, help="Report leaks, but exit 0.")
@json_option
@click.pass_context
def audit_split(
    ctx: click.Context, /, source: Source, scheme: str,
    allow_leaks: bool, as_json: bool,
) -> None:  # fmt: skip
    """Exit 3 if a group or an image is on two sides of the split that a run would use, or an image has two labels.

    A run refuses the same, unless split.allow_leaks=true is set, which is then part of its comparison key. If
    groups are known, a split that wbcbench makes keeps each on one side.
    """
    import numpy as np

    from wbcbench.contracts.dataset import SPLITS
    from wbcbench.data.intake import accounts_document, audits
    from wbcbench.errors import ExitCode
    from wbcbench.evaluation.metrics import ceiling_notes

    spec = source.split(scheme=scheme)
    survey = source.survey()
    every, allowed = audits(survey, spec), allow_leaks or spec.allow_leaks
    found = next((one for one in every if one), every[0])
    counts = {s: np.bincount(survey.codes[found.side == s], minlength=len(survey.classes)) for s in SPLITS}
    document = {
        "path": str(survey.path), "cells": len(survey), "groups": len(survey.group_names) or None,
        **found.document(survey), "accounts": accounts_document(survey.accounts),
        "unusable": len(survey.unusable), "leaks": bool(found), "allowed": allowed,
        "notes": [
            *survey.notes,
            *(note for s in SPLITS for note in ceiling_notes(counts[s], survey.classes, s)),
        ],
    }  # fmt: skip
    if len(every) > 1:
        document["folds"] = [one.document(survey) | {"leaks": bool(one)} for one in every]
    print_json(document) if as_json else _print_audit(in_lines(document))
    ctx.exit(ExitCode.NOT_COMPARABLE if found and not allowed else ExitCode.OK)


def _print_audit(d: dict[str, Any]) -> None:
    sizes = ", ".join(f"{side} {n}" for side, n in d["sizes"].items())
    click.echo(f"{d['path']}: {d['cells']} cells, {d['scheme']} split: {sizes}")
    if "folds" in d:
        columns = ["split", *SIDES, "leaks"]
        rows = [[f["scheme"], *f["sizes"].values(), "yes" if f["leaks"] else ""] for f in d["folds"]]
        print_table(columns, rows)
    _print_accounts(d["accounts"])
    for note in d["notes"]:
        click.echo(f"note: {note}")
    if d["groups"] is None:
        click.echo("groups: none known, so leaks between donors cannot be checked (--group COLUMN names them)")
    for torn in _some(d["groups_on_two_sides"], "groups on two sides"):
        sides = ", ".join(f"{side} {torn[side]}" for side in SIDES if torn[side])
        click.echo(f"  {torn['group']}: {sides}")
    if d["groups_probably_one_on_two_sides"]:
        for torn in _some(d["groups_probably_one_on_two_sides"], "groups on two sides that are probably one"):
            sides = ", ".join(f"{side} {torn[side]}" for side in SIDES if torn[side])
            click.echo(f"  {' = '.join(torn['groups'])}: {sides}")
    for cells in _some(d["images_on_two_sides"], "images on two sides"):
        click.echo("  " + " = ".join(f"{c['cell']} ({c['side']})" for c in cells))
    for cells in _some(d["images_of_two_labels"], "images under two labels"):
        click.echo("  " + " = ".join(f"{c['cell']} ({c['label']})" for c in cells))
    if d["unusable"]:
        click.echo(f"not checked: {d['unusable']} files or rows that cannot be used (`data inspect` names them)")
    if not d["leaks"]:
        click.echo("No leak found.")
    elif not any(d[f"{what}_on_two_sides"] for what in ("groups", "images")) and not d["images_of_two_labels"]:
        click.echo(
            "Groups that are probably one are on two sides: a leak if they are. Write them alike and split again; "
            "if they are different, --allow-leaks accepts the split, which a run uses in any case."
        )
    elif d["allowed"]:
        click.echo("Leaks found, and allowed. A run needs --set split.allow_leaks=true, which is part of its key.")
    else:
        click.echo(
            "Leaks found: a run refuses this split. `wbcbench data import` drops copies; split.scheme=stratified "
            "keeps groups whole; split.allow_leaks=true trains anyway, and becomes part of the comparison key."
        )


def _some(found: list[Any], what: str) -> list[Any]:
    """Print how many there are; return the first few."""
    click.echo(f"{what}: {len(found) or 'none'}")
    return found[:SHOWN_LEAKS]


__all__ = ["audit_split", "data", "import_cells", "inspect"]
