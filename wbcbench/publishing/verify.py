"""`wbcbench leaderboard verify`: all checks of a pack, in order, from the archive to its records."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from wbcbench.boards.gather import Seeds, usual_seeds
from wbcbench.boards.model import Board
from wbcbench.errors import UnknownNameError, UsageError, WbcbenchError
from wbcbench.publishing.archive import Limits
from wbcbench.publishing.board_files import PublishOptions
from wbcbench.publishing.copies import SolvedOnce
from wbcbench.publishing.cross_checks import check_against, check_among
from wbcbench.publishing.record_checks import check_record
from wbcbench.publishing.unpack import PACK, unpack
from wbcbench.publishing.verdict import Judge, Problem
from wbcbench.records.schema import Used
from wbcbench.records.store import Record, Store
from wbcbench.registry import BUILTIN_PROVIDER, Registry
from wbcbench.scheduling.compatibility import declared
from wbcbench.spec import Trial

Installed = Mapping[tuple[str, str], str]
"""Kind and name of wbcbench's own components -> SHA-256 of the file that holds each."""


def installed_by(registry: Registry) -> Installed:
    """The components of this installation, including their former names."""
    own = [c for c in registry.components(provider=BUILTIN_PROVIDER) if c.builtin]
    return {(c.kind, name): c.sha256 for c in own for name in c.names}


def strange_code(records: Sequence[Record], installed: Installed) -> Iterator[Problem]:
    """Components stated to be wbcbench's that it does not have, that have other code, or that the trial does not
    use."""
    found: Counter[str] = Counter()
    for record in records:
        named = set(_named(record.trial))
        for part in record.result.components:
            if part.provider == BUILTIN_PROVIDER and (text := _strange(part, named, installed)):
                found[text] += 1
    for text, count in found.items():
        yield "look", f"{text} ({count} record{'s' * (count > 1)})"


def _strange(part: Used, named: set[tuple[str, str]], installed: Installed) -> str:
    what = f"{part.kind} {part.name} is stated to be wbcbench's"
    known = installed.get((part.kind, part.name))
    if known is None:
        return f"{what}, but the wbcbench installed here has none of that name: request its code"
    if (part.kind, part.name) not in named:
        return f"{what}, but the trial does not use it under that name"
    if part.sha256 != known:
        stated = part.sha256[:12] if part.sha256 else "none"
        return f"{what}, with SHA-256 {stated}; here it is {known[:12]}: another release, or changed code"
    return ""


def _named(trial: Trial) -> Iterator[tuple[str, str]]:
    """Kind and name of every component of a trial; those of plugins have their provider before a slash."""
    method = trial.method
    yield "dataset", trial.protocol.dataset.name
    yield "fusion", method.fusion.name
    yield from (("backbone", name) for name in dict.fromkeys(b.name for b in method.backbones.values()))
    yield from (("policy", p.name) for p in method.policies)
    yield from (("distiller", d.name) for d in method.distillers)
    if method.routing is not None:
        yield "routing", method.routing.name


Rows = dict[str, Seeds]
"""Method id -> its seeds."""


def told_of_seeds(
    records: Sequence[Record], submitted: Sequence[str], related: Sequence[Record], asked: PublishOptions | None
) -> Iterator[str]:
    """Rows that would lack a seed, seeds that would not count, and boards that would require other seeds.

    Single modalities are skipped: they are references of other boards.

    Args:
        records: of the pack.
        submitted: ids of the submitted trials.
        related: records of the reference.
        asked: the options of the reference; None: it is a store, whose boards take their seeds from their rows.
    """
    mine = [r.result for r in records if r.trial.id in submitted and r.result.fusion != "single"]
    for digest in sorted({r.key.digest for r in mine}):
        before, after = _rows(related, digest), _rows([*related, *records], digest)
        own = {r.method_id: r.label for r in mine if r.key.digest == digest}
        fixed = None if asked is None else asked.seeds or asked.board_seeds.get(digest)
        was = fixed or usual_seeds(before.values())
        now = fixed or usual_seeds(after.values())
        if not before:
            yield f"Board {digest} would be new and count {_seeds(now)}."
        elif was != now:
            lost = sum(not set(now) <= set(seeds) for seeds in before.values())
            yield (
                f"Board {digest} would count {_seeds(now)} instead of {_seeds(was)}, and {lost} of its "
                f"{len(before)} rows would lack one. A published board keeps its own."
            )
        for method, label in sorted(own.items(), key=lambda x: (x[1], x[0])):
            lacks, beyond = sorted(set(now) - set(after[method])), sorted(set(after[method]) - set(now))
            if lacks:
                yield f"{label} ({method}) lacks {_seeds(lacks)} of board {digest}: it would be shown, not ranked."
            elif beyond:
                yield f"{label} ({method}) has {_seeds(beyond)} too, which board {digest} does not count."


def outgrown(boards: Sequence[Board], seedless: Sequence[Board]) -> Iterator[str]:
    """Boards that keep the seeds they were first published with, although a new board would require others."""
    usual = {b.digest: b.seeds for b in seedless}
    for board in boards:
        seeds = usual.get(board.digest, board.seeds)
        if seeds != board.seeds:
            yield (
                f"Board {board.digest} counts {_seeds(board.seeds)}, with which it was published; most rows have "
                f"{_seeds(seeds)} now. Add --seeds {','.join(map(str, seeds))} to count those."
            )


def _rows(records: Sequence[Record], digest: str) -> Rows:
    found: dict[str, set[int]] = defaultdict(set)
    for r in records:
        if r.result.key.digest == digest:
            found[r.result.method_id].add(r.result.seed)
    return {m: tuple(sorted(seeds)) for m, seeds in found.items()}


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


MANY = 100
"""After this many reasons to refuse a pack, no other record of it is checked."""
NO_REFERENCE = "no reference store was given (--against DIR): labels, split, copies and jumps were not compared"


@contextmanager
def checked(
    path: Path,
    reference: Store | None,
    solved_once: SolvedOnce,
    limits: Limits | None = None,
    asked: PublishOptions | None = None,
    installed: Installed | None = None,
) -> Iterator[tuple[Judge, list[Record], tuple[str, ...]]]:
    """Check a pack. During the block, its records are in a temporary folder.

    Args:
        path: the pack.
        reference: a trusted store to compare with.
        solved_once: see `copies.SolvedOnce`.
        limits: of sizes; by default those of `Limits`.
        asked: the options of the reference, if it is a published board.
        installed: wbcbench's components here, to compare with those stated in the pack; None: not compared.

    Yields:
        The judge, the records that passed their own checks, and the submitted trial ids.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"Expected a pack, but {path} is not a file. `wbcbench submit RECORD...` creates one.")
    judge = Judge()
    with tempfile.TemporaryDirectory(prefix="wbcbench-pack-") as folder:
        limits = limits or Limits()
        manifest = unpack(path, Path(folder), judge, limits)
        records: list[Record] = []
        if manifest is not None:
            for trial_id in sorted(manifest.records):
                if sum(f.level == "refuse" for f in judge.findings) > MANY:
                    judge.notes.append(
                        f"More than {MANY} reasons to refuse it; its other records were not checked."
                    )
                    break
                record = check_record(Path(folder) / "records" / trial_id, manifest, judge, limits)
                records += [] if record is None else [record]
            check_among(records, reference, judge, solved_once, PACK)
            if installed is not None:
                judge.run("pack.components", PACK, lambda: strange_code(records, installed))
            if reference is not None:
                related = check_against(records, reference, judge, solved_once, PACK)
                submitted = () if manifest is None else manifest.submitted
                judge.consequences += told_of_seeds(records, submitted, related, asked)
            else:
                # Made-up labels agree with each other: they can only be detected with a reference.
                judge.run("reference.labels", PACK, lambda: [("look", NO_REFERENCE)])
            if not any(f"records/{i}/model.safetensors" in manifest.files for i in manifest.records):
                judge.notes.append("Weights were not packed; --rerun trains the network again.")
        yield judge, records, tuple(manifest.submitted) if manifest is not None else ()


def solved_once_by(registry: Registry) -> SolvedOnce:
    """According to the components that are installed here; False for unknown ones."""

    def answer(trial: Trial) -> bool:
        try:
            return declared(registry, "fusion", trial.method.fusion).solved_once
        except (UnknownNameError, WbcbenchError):
            return False

    return answer


__all__ = ["Installed", "checked", "installed_by", "outgrown", "solved_once_by", "strange_code", "told_of_seeds"]
