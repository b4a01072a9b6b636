"""`wbcbench submit`, `leaderboard publish`, `verify` and `merge`: exchange records with others."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from wbcbench.api.defaults import METRIC, RESAMPLES
from wbcbench.cli.completion import records as known_records
from wbcbench.cli.leaderboard import stores_option
from wbcbench.cli.options import json_option, plugins_options, set_option, store_option
from wbcbench.cli.output import print_json, print_table

if TYPE_CHECKING:
    from wbcbench.publishing.board_files import PublishOptions
    from wbcbench.publishing.verdict import Judge
    from wbcbench.records.store import Record
    from wbcbench.registry import Registry

SHOWN = 8
"""Maximum number of new rows to name."""


@click.command("submit", short_help="Pack records for a leaderboard that others maintain.")
@click.argument("records", nargs=-1, required=True, metavar="RECORD...", shell_complete=known_records)
@store_option("Where to look up records: a folder with records, or a published board.")
@click.option(
    "-o", "--output", default="submission.zip", show_default=True,
    type=click.Path(path_type=Path, dir_okay=False), help="The pack.",
)  # fmt: skip
@click.option("--weights", is_flag=True, help="Pack the trained weights too.")
@json_option
@click.pass_context
def submit(
    ctx: click.Context, /, records: tuple[str, ...], store: Path, output: Path, weights: bool, as_json: bool
) -> None:
    """Pack records and the records of their teachers into one zip.

    A RECORD is a folder, a trial id of the store (or the beginning of one), or a method's name, which means all of
    its seeds.

    It contains documents and arrays: no pickle, no code. Every metric is recomputed first. The recipient checks it
    with `wbcbench leaderboard verify PACK`.
    """
    from wbcbench.publishing.pack import find_records, write_pack
    from wbcbench.publishing.sources import store_at
    from wbcbench.records.store import Store

    here = ctx.with_resource(store_at(store))
    found = list({r.trial.id: r for name in records for r in find_records(name, here)}.values())
    manifest = write_pack(
        found, output, weights=weights, store_of=lambda root: here if root == here.root else Store(root)
    )
    parts = [c for r in found for c in r.result.components if c.provider != "wbcbench"]
    foreign = sorted({f"{c.kind} {c.name} ({c.provider})" for c in parts})
    if as_json:
        print_json({"pack": str(output), "code_not_packed": foreign, **manifest.model_dump(mode="json")})
        return
    rows: dict[tuple[str, str], list[int]] = {}
    for record in found:
        r = record.result
        rows.setdefault((r.method_id, r.title), []).append(r.seed)
    for (_, name), seeds in rows.items():
        click.echo(f"{name}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}")
    searches = [file.split("/")[1] for file in manifest.files if file.startswith("searches/")]
    if searches:
        click.echo(f"Search budgets included: {', '.join(searches)}")
    teachers = len(manifest.records) - len(manifest.submitted)
    size = output.stat().st_size
    click.echo(
        f"{output}: {len(manifest.submitted)} records and {teachers} of their teachers, {size:,} bytes"
        + ("" if weights else ", without weights (--weights adds them)")
    )
    for component in foreign:
        click.echo(f"Code is not packed: state where {component} can be found.", err=True)


@click.command("publish")
@click.option("--name", metavar="NAME", help="Folder under --to; with --check, default: every board there.")
@click.option("--to", default="leaderboards", show_default=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder of all published boards and invalid.yaml.")  # fmt: skip
@click.option("--check", "checking", is_flag=True,
              help="Write nothing; exit 1 if records do not reproduce a file, or one is missing.")  # fmt: skip
@click.option("--rebuild", is_flag=True,
              help="Use published records only: after an upgrade, or a change of invalid.yaml.")  # fmt: skip
@stores_option
@click.option("--pack", "packs", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
              help="Add a submitted pack, if it is not refused; repeatable.")  # fmt: skip
@click.option("--verdict", "verdicts", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
              help="What `verify --rerun --verdict FILE` wrote, to mark reproduced rows; repeatable.")  # fmt: skip
@click.option("--title", help="Heading of the board; default: its name.")
@click.option("--key", multiple=True, metavar="DIGEST", help="Only this board; repeatable.")
@click.option("--where", multiple=True, metavar="FIELD=VALUE",
              help="Only boards with this value in their key: dataset=npz, budget.epochs=30.")  # fmt: skip
@click.option("--by", default=METRIC, show_default=True, metavar="METRIC", help="Metric that ranks.")
@click.option("--seeds", metavar="0,1,2",
              help="Seeds a row needs; default: as published before, at first those of most rows.")  # fmt: skip
@click.option("--resamples", default=RESAMPLES, show_default=True, type=click.IntRange(100),
              metavar="N", help="Bootstrap resamples.")  # fmt: skip
@plugins_options
@click.pass_context
def publish(
    ctx: click.Context, /, name: str | None, to: Path, checking: bool, rebuild: bool, store: tuple[Path, ...],
    packs: tuple[Path, ...], verdicts: tuple[Path, ...], **values: Any,
) -> None:  # fmt: skip
    """Write leaderboards/NAME/: README.md, board.csv, board.json, index.html, protocol.json, and the records.

    A board that is published again keeps its records, options and seeds, and adds the records of --pack and of a
    --store that is given here. A record is excluded only if leaderboards/invalid.yaml lists it with a reason.
    Equal records give equal bytes.
    """
    from wbcbench.api.requests import check_stores, load

    if name is not None and (name.startswith(".") or Path(name).name != name):
        raise click.UsageError(f"Expected a plain folder name as --name, but got '{name}'.")
    if checking:
        ctx.exit(_check(to, name))
    if name is None:
        raise click.UsageError("Expected --name NAME: the folder to write under --to.")
    from wbcbench.boards.text import clean
    from wbcbench.publishing.publish import publish as write
    from wbcbench.publishing.side_files import PACK
    from wbcbench.publishing.sources import stores_at
    from wbcbench.publishing.standing import read_verdict
    from wbcbench.publishing.verify import installed_by, solved_once_by

    folder = to / name
    there = (folder / PACK).is_file()
    if rebuild and not there:
        raise click.UsageError(f"Expected a published board to --rebuild, but {folder} has no {PACK}.")
    said = ctx.get_parameter_source("store") is ParameterSource.COMMANDLINE
    if rebuild or (not said and (there or packs)):
        if not rebuild and (idle := [s for s in store if s.is_dir()]):
            click.echo(f"Not read: {', '.join(map(str, idle))}. Use --store to add a store's records.", err=True)
        store = ()
    check_stores(store)
    asked = _asked(ctx, folder, name, values)
    registry, _ = load(values["plugins"])
    stores = ctx.with_resource(stores_at(store))
    reproduced = {trial: digest for path in verdicts for trial, digest in read_verdict(path).items()}
    done = write(folder, stores, asked, packs, solved_once_by(registry), installed_by(registry), reproduced)
    for line in done.told:
        click.echo(line, err=True)
    for origin, names in done.sources.items():
        rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        click.echo(clean(f"New from {origin}: {'; '.join(names[:SHOWN]) or 'no row'}{rest}"))
    rows = sum(len(b.rows) for b in done.report.boards)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    boards, records = len(done.report.boards), len(done.manifest.records)
    click.echo(f"{folder}: {boards} boards, {rows} rows, {records} records, {size:.1f} MB")
    again = ["wbcbench", "leaderboard", "publish", "--check", "--to", str(to), "--name", name]
    click.echo(f"Check it: {shlex.join(again)}")


def _asked(ctx: click.Context, folder: Path, name: str, values: dict[str, Any]) -> PublishOptions:
    """The options of the command line; where none is given, those that the board was published with."""
    from wbcbench.api.boards import BoardRequest
    from wbcbench.publishing.board_files import PROTOCOL, PublishOptions, read_publish_options

    flags = ("by", "seeds", "key", "where", "resamples")
    options = BoardRequest(**{n: values[n] for n in flags}).options()
    said: dict[str, Any] = {"title": values["title"] or name, "keys": options.keys}
    said |= {n: getattr(options, n) for n in flags if n != "key"}
    if (folder / PROTOCOL).is_file():
        silent = {n for n in ("title", *flags) if ctx.get_parameter_source(n) is ParameterSource.DEFAULT}
        fields = {"keys" if n == "key" else n for n in silent}
        said |= read_publish_options(folder).model_dump(include=fields | {"board_seeds"})
    return PublishOptions(**said)


def _check(to: Path, name: str | None) -> int:
    from wbcbench.publishing.publish import GIVES, check, check_all

    found = check_all(to) if name is None else {name: check(to / name)}
    for board, result in found.items():
        for problem in result.problems:
            click.echo(f"{to / board}: {problem}")
        for note in result.notes:
            click.echo(f"{to / board}: note: {note}")
        if not result.problems:
            click.echo(f"{to / board} matches its {result.records} records on boards; none is missing.")
        if any(p.endswith(GIVES) for p in result.problems):
            again = ["wbcbench", "leaderboard", "publish", "--rebuild", "--to", str(to), "--name", board]
            click.echo(f"    If this is intended: {shlex.join(again)}")
        if any("vanished" in p for p in result.problems):
            click.echo("    Restore it from an earlier commit, or list it in invalid.yaml with a reason.")
    if not found:
        click.echo(f"No board is published in {to}.")
    return int(any(result.problems for result in found.values()))


@click.command("verify", short_help="Check a pack of records: accept, needs a look, or refuse.")
@click.argument("pack", type=click.Path(path_type=Path))
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="STORE",
    help="A trusted store or published board: labels, splits, copies and jumps are compared with it.",
)  # fmt: skip
@click.option(
    "--sealed", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Score the predictions on a hidden test's labels (`leaderboard hide`), and count the look.",
)  # fmt: skip
@click.option("--rerun", is_flag=True,
              help="If nothing was refused: train one seed of each method again, drawn at random.")  # fmt: skip
@click.option("--all-seeds", is_flag=True, help="With --rerun: train all submitted seeds again.")
@click.option("--trial", multiple=True, metavar="ID", help="With --rerun: train this trial again; repeatable.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), default=0.02, show_default=True,
    help="Refuse a larger difference of a score; what counts as reproduced is also limited by the spread of the "
    "pack's seeds and the gap to the next row of --against.",
)  # fmt: skip
@click.option(
    "--verdict", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Also write everything as JSON to this file, for `publish --verdict`.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="Where to train again: auto, cpu, cuda, ...")
@set_option("Where the data are, for --rerun: --set dataset.path=cells.npz")
@json_option
@plugins_options
@click.pass_context
def verify(ctx: click.Context, /, pack: Path, **options: Any) -> None:
    """Check a pack of records, which is treated as untrusted.

    Exit status 0: accepted, or needs a look (see the reasons); 3: refused.
    """
    from wbcbench.api.requests import load
    from wbcbench.files import atomic_write_json
    from wbcbench.publishing.board_files import PROTOCOL, read_publish_options
    from wbcbench.publishing.cross_checks import related_records
    from wbcbench.publishing.rerun import choose
    from wbcbench.publishing.sources import reference_at
    from wbcbench.publishing.verify import checked, installed_by, solved_once_by

    if (options["trial"] or options["all_seeds"]) and not options["rerun"]:
        raise click.UsageError("--trial and --all-seeds say what --rerun trains again. Add --rerun.")
    if options["trial"] and options["all_seeds"]:
        raise click.UsageError("Expected --trial or --all-seeds, but got both.")
    registry, _ = load(options["plugins"])
    against = options["against"]
    asked = read_publish_options(against) if against and (against / PROTOCOL).is_file() else None
    with (
        reference_at(against) if against else nullcontext() as reference,
        checked(pack, reference, solved_once_by(registry), asked=asked, installed=installed_by(registry)) as (
            judge,
            records,
            submitted,
        ),
    ):
        if options["sealed"] and judge.verdict != "refuse":
            from wbcbench.publishing.hidden import reveal

            reveal([r for r in records if r.trial.id in submitted], pack, options["sealed"], judge)
        if options["rerun"] and judge.verdict != "refuse":
            chosen = choose(records, submitted, options["trial"], options["all_seeds"])
            own = [r for r in records if r.trial.id in submitted]
            board = related_records(reference, own)[0] if reference else []
            _rerun(chosen, own, board, asked.by if asked else METRIC, judge, registry, options)
        elif options["rerun"]:
            judge.notes.append("Nothing was trained again: the pack is refused anyway.")
    document = {"pack": str(pack), **judge.document()}
    if options["verdict"]:
        atomic_write_json(options["verdict"], document)
    if options["as_json"]:
        print_json(document)
    else:
        _print_verdict(pack, judge)
    ctx.exit(int(judge.exit_code))


def _rerun(
    chosen: list[Record],
    own: list[Record],
    board: list[Record],
    by: str,
    judge: Judge,
    registry: Registry,
    options: dict[str, Any],
) -> None:
    from wbcbench.progress import RunDisplay
    from wbcbench.publishing.copies import named
    from wbcbench.publishing.rerun import chain, rerun

    how = "chosen by --trial" if options["trial"] else "all" if options["all_seeds"] else "drawn at random"
    judge.notes.append(f"Trained again, {how}: {', '.join(map(named, chosen))}.")
    click.echo(judge.notes[-1], err=True)
    trials = len({planned.trial.id for record in chosen for planned in chain(record.trial)})
    click.echo(f"{trials} trials with the teachers.", err=True)
    with TemporaryDirectory(prefix="wbcbench-rerun-") as folder, RunDisplay(trials) as display:
        rerun(
            chosen, own, judge, registry, display, board=board, by=by,
            store=Path(folder), sets=options["settings"], tolerance=options["tolerance"], device=options["device"],
        )  # fmt: skip


@click.command("hide")
@click.option("--dataset", required=True, metavar="NAME", help="As for `wbcbench run`.")
@click.option("--image-size", type=click.IntRange(8, 1024), help="Side of the public images; default: as stored.")
@click.option("--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="A new folder.")
@set_option("The data and the split: --set dataset.path=cells.npz --set split.scheme=stratified")
@plugins_options
def hide(
    dataset: str, image_size: int | None, to: Path, settings: tuple[str, ...], plugins: Any, **_: Any
) -> None:
    """Split a data set into TO/public.npz, in which test cells have random labels, and TO/sealed.json with theirs.

    Others train on the public file and submit packs; `verify PACK --sealed TO/sealed.json` scores them on the
    labels and counts the looks in TO/looks.json. Publish only the public file.
    """
    from wbcbench.api.requests import load
    from wbcbench.publishing.hidden import PUBLIC, SEALED
    from wbcbench.publishing.hidden import hide as write
    from wbcbench.scheduling.plan import open_dataset
    from wbcbench.spec.load import load_request

    request = load_request(None, {"dataset": dataset}, settings)
    registry, _registered = load(plugins)
    _spec, source = open_dataset(request, registry)
    cells = source.load(image_size or source.describe().image_size)
    count, hidden = write(cells, request.split, to)
    flags = " ".join(f"--set dataset.modalities.{name}={name}" for name in cells.images)
    click.echo(
        f"{to / PUBLIC}: {count} cells, of which the labels of {hidden} test cells are in {to / SEALED} only."
    )
    click.echo(f"Others: wbcbench run --dataset npz --set dataset.path={PUBLIC} {flags}")


def _print_verdict(pack: Path, judge: Judge) -> None:
    from wbcbench.publishing.verdict import CHECKS

    print_table(["check", "result", "what it checks"], [[n, judge.state(n), CHECKS[n]] for n in CHECKS])
    click.echo()
    for finding in judge.findings:
        click.echo(f"{finding.level}: {finding.check}, {finding.where}: {finding.text}")
    for note in judge.document()["notes"]:
        click.echo(f"note: {note}")
    click.echo(f"{pack}: {judge.verdict}")


@click.command("merge")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...", type=click.Path(path_type=Path))
@click.option("--into", required=True, type=click.Path(path_type=Path, file_okay=False), help="Store to write to.")
@json_option
@click.pass_context
def merge(ctx: click.Context, /, stores: tuple[Path, ...], into: Path, as_json: bool) -> None:
    """Copy the records of STORE... into one store; every file's digest is checked, nothing is overwritten.

    The same trial twice is one record if both agree. If they do not, it is reported as irreproducible (exit status
    1), and all of its records are kept in INTO/irreproducible/TRIAL/DIGEST, where no board counts them. To resolve
    one, move the right DIGEST to INTO/records/TRIAL and delete INTO/irreproducible/TRIAL.
    """
    from dataclasses import asdict

    from wbcbench.publishing.merging import ASIDE
    from wbcbench.publishing.merging import merge as join

    merged = join(list(stores), into)
    if as_json:
        print_json(asdict(merged))
        ctx.exit(int(not merged.fine))
    for trial, told in merged.irreproducible.items():
        click.echo(f"irreproducible: {trial} ({told})")
    for reason in merged.refused:
        click.echo(f"refused: {reason}")
    for trial, teachers in merged.without_teacher.items():
        click.echo(f"without its teacher: {trial} (needs {', '.join(teachers)})")
    counts = f"{len(merged.copied)} records copied, {len(merged.same)} were in several stores and agree"
    if not merged.fine:
        counts += (
            f", {len(merged.irreproducible)} irreproducible, {len(merged.refused)} refused, "
            f"{len(merged.without_teacher)} without a teacher"
        )
    click.echo(f"{into}: {counts}")
    if merged.irreproducible:
        click.echo(
            f"Irreproducible records are in {into / ASIDE} and do not count; --help shows how to resolve them."
        )
    ctx.exit(int(not merged.fine))


__all__ = ["hide", "merge", "publish", "submit", "verify"]
