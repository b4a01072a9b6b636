"""Output for people and programs: documents and tables on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import click

from wbcbench.terminal import drawn, one_line

if TYPE_CHECKING:
    from wbcbench.scheduling.plan import Plan
    from wbcbench.scheduling.source import Outcome
    from wbcbench.spec.request import Request


def print_json(document: Any) -> None:
    """Print one JSON document on stdout. NaN and infinity, which JSON cannot represent, are an error."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def in_lines(document: Any, but: Sequence[str] = ("alternative", "commands", "problems")) -> Any:
    """A document for text: no value, except those of the keys `but`, can begin a line or move the cursor."""
    if isinstance(document, dict):
        return {one_line(k): v if k in but else in_lines(v, but) for k, v in document.items()}
    if isinstance(document, list):
        return [in_lines(value, but) for value in document]
    return one_line(document) if isinstance(document, str) else document


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout: with rich on a terminal, else aligned plain text (never truncated)."""
    columns, title = list(map(one_line, columns)), one_line(title)
    cells = [[("" if cell is None else one_line(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        heads = list(map(escape, columns))
        table = Table(title=escape(title) or None, title_justify="left", box=None, header_style="bold")
        longest = [
            max((len(word) for row in [columns, *cells] for word in row[i].split()), default=0)
            for i in range(len(columns))
        ]
        for head, width in zip(heads, longest, strict=True):
            table.add_column(head, min_width=width)  # so that no word is broken
        for row in cells:
            table.add_row(*map(escape, row))
        console = Console(file=drawn(sys.stdout))
        console.width = max(console.width, sum(longest) + 2 * len(longest))
        console.print(table)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    if title:
        click.echo(title)
    for row in [list(columns), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def as_typed(path: Path, request: Request) -> str:
    """A path in the store, beginning with the store's name as the user typed it."""
    return os.path.join(request.store, path.relative_to(request.root))


def rows(outcomes: list[Outcome], request: Request) -> list[dict[str, Any]]:
    """One mapping per trial, as in JSON documents."""
    return [_row(o, request) for o in outcomes]


def _row(outcome: Outcome, request: Request) -> dict[str, Any]:
    trial = outcome.planned.trial
    row: dict[str, Any] = {
        "trial_id": trial.id,
        "status": outcome.status,
        "role": outcome.planned.role,
        "method": trial.label,
        "fusion": trial.method.fusion.name,
        "kd": trial.method.kd,
        "policies": [p.name for p in trial.method.policies],
        "backbone": trial.method.backbone_name,
        "modalities": list(trial.reads),
        "seed": trial.seed,
        "fold": trial.fold,
        "dataset": trial.protocol.dataset.name,
        "metrics": None,
        "cost": None,
        "path": None,
        "error": outcome.error or None,
    }
    if outcome.record is not None:
        result = outcome.record.result
        cost = result.cost.model_dump(mode="json")
        row |= {
            "metrics": result.metrics,
            "cost": cost,
            "path": as_typed(outcome.record.path, request),
            "digest": result.digest,
            "pseudo_multimodal": result.pseudo_multimodal,
        }
    return row


def print_summary(outcomes: list[Outcome], plan: Plan, store: str) -> None:
    """Print students and their teachers, what was already done, where records are, and next steps."""
    from wbcbench.boards.text import clean

    for note in plan.notes:
        click.echo(clean(note))
    print_table(*_summary(outcomes))
    ceilings = [note for o in outcomes if o.record is not None for note in o.record.result.ceilings()]
    for note in dict.fromkeys(ceilings):
        click.echo(clean(f"Note: {note}"))
    counts = {s: sum(o.status == s for o in outcomes) for s in ("done", "cached", "failed")}
    if counts["cached"] == len(outcomes):
        click.echo("Nothing left to do: every trial is already in the store.")
    else:
        replayed = any(
            o.record is not None and o.status == "done" and o.record.result.cost.teacher_replayed for o in outcomes
        )
        parts = [f"{counts['done']} trained", f"{counts['cached']} already in the store"]
        if counts["failed"]:
            parts.append(f"{counts['failed']} FAILED")
        if replayed:
            parts.append("teachers' outputs computed once and replayed")
        click.echo(", ".join(parts) + ".")
    for outcome in outcomes:
        if outcome.status == "failed":
            trial = outcome.planned.trial
            click.echo(f"\nFailed: {trial.title}, {trial.draw}:\n{outcome.error.rstrip()}", err=True)
    if any(o.planned.role == "student" and o.record is not None for o in outcomes):
        click.echo(f"Records: {Path(store) / 'records'}")
    for line in _next_steps(plan, store):
        click.echo(line)


def _summary(outcomes: list[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows, students first: one row per method, with mean and sd over its seeds (and folds)."""
    from wbcbench.spec.trial import method_name

    methods: dict[tuple[str, str], list[Outcome]] = {}
    for o in sorted(outcomes, key=lambda o: o.planned.role != "student"):
        methods.setdefault((o.planned.role, o.planned.trial.method_id()), []).append(o)
    several = {
        role: len({o.planned.trial.method.backbone_name for o in outcomes if o.planned.role == role}) > 1
        for role in ("student", "teacher")
    }
    backbone = ["backbone"] if any(several.values()) else []
    columns = ["role", "method", "kd", *backbone, "seeds", "test macro-F1", "test bal. acc.", "params", "MACs"]
    rows = []
    for (role, _), own in methods.items():
        trial = own[0].planned.trial
        found = [o.record.result for o in own if o.record is not None]
        method = method_name(trial.label, "none", [p.name for p in trial.method.policies])  # kd has its own column
        row = [role, method, trial.method.kd, *([trial.method.backbone_name] if backbone else [])]
        row.append(seeds_text({o.planned.trial.seed for o in own}))
        row += [_spread([r.metrics["test"][m] for r in found]) for m in ("macro_f1", "balanced_accuracy")]
        cost = found[0].cost if found else None
        row += ["", ""] if cost is None else [short(cost.params), short(cost.macs or 0)]
        seconds = [r.cost.train_seconds for r in found if r.cost.train_seconds is not None]
        row.append(f"{mean(seconds):.0f} s" if seconds else "")
        rows.append([*row, _states(own)])
    return [*columns, "train", "state"], rows


def seeds_text(seeds: Iterable[int]) -> str:
    """`0-2` for 0, 1 and 2; `0,2`."""
    found = sorted(seeds)
    whole = len(found) > 2 and found[-1] - found[0] == len(found) - 1
    return f"{found[0]}-{found[-1]}" if whole else ",".join(map(str, found))


def _spread(values: Sequence[float | None]) -> str:
    """Mean and sd (ddof 1) of the values that are defined."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    return f"{mean(known):.3f}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


def _states(outcomes: list[Outcome]) -> str:
    """`trained`; of several trials `2 trained, 1 FAILED`."""
    names = {"done": "trained", "cached": "cached", "failed": "FAILED"}
    counts = {name: sum(o.status == status for o in outcomes) for status, name in names.items()}
    there = {name: count for name, count in counts.items() if count}
    return next(iter(there)) if len(there) == 1 else ", ".join(f"{n} {name}" for name, n in there.items())


def short(number: float) -> str:
    """1234567 -> `1.23 M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f}"


def store_flag(store: str) -> str:
    """` --store DIR`, quoted for the shell; empty for the default."""
    return "" if store == "wbcbench-store" else f" --store {shlex.quote(store)}"


def _next_steps(plan: Plan, store: str) -> list[str]:
    trials = [p.trial for p in plan.trials if p.role == "student"]
    where = store_flag(store)
    dataset = trials[0].protocol.dataset.name
    lines = [f"Next: wbcbench leaderboard{where}"]
    if len({t.seed for t in trials}) == 1 and dataset == "synthetic":
        fusion, kd = trials[0].method.fusion.name, trials[0].method.kd
        rivals = ",".join(dict.fromkeys(["early", "late_prob", fusion]))
        distillers = ",".join(dict.fromkeys(["none", "logits", kd]))
        lines.append(f"      wbcbench run --fusion {rivals} --kd {distillers} --seeds 0,1,2{where}")
    return lines


def print_examinations(found: list[dict[str, Any]]) -> None:
    """What `--evaluate full` found, a line per trial; nothing if it was not asked for."""
    from wbcbench.evaluation.corrupters import STANDARD
    from wbcbench.spec.trial import method_name

    if not found:
        return
    rows = []
    for entry in found:
        result = entry["result"]
        worst, drops = result.get("worst_subset"), result["permutation_drop"]
        relied = max(drops, key=lambda m: drops[m])
        kept = [v for kinds in result["retained"].values() for kind, v in kinds.items() if kind in STANDARD]
        rows.append(
            [
                method_name(entry["method"], "none", entry.get("policies", [])),
                entry["kd"],
                str(entry["seed"]),
                f"{result['clean']['macro_f1']:.3f}",
                f"{worst['macro_f1']:.3f} with {'+'.join(worst['modalities'])}" if worst else "",
                f"{relied} ({-drops[relied]:+.3f})",
                f"{sum(kept) / len(kept):.0%}",
            ]
        )
    click.echo()
    columns = ["method", "kd", "seed", "macro-F1", "worst subset", "relies most on", "kept when corrupt"]
    print_table(columns, rows)
