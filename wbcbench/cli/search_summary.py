"""What a search came to: one JSON document, or short tables of proposals and retrained winners."""

from __future__ import annotations

from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import click

from wbcbench.cli.output import print_table
from wbcbench.searches.execute import budget, proposal_of, ranking

if TYPE_CHECKING:
    from wbcbench.searches.execute import Found
    from wbcbench.searches.files import Winner

SHOWN = 5
"""Proposals in the table."""


def document(found: Found) -> dict[str, Any]:
    """The machine-readable result of one search."""
    study = found.study
    names = study.spec.objective.names
    return {
        "study": found.search.folder.id,
        "title": study.spec.title,
        "path": str(found.search.folder.path),
        "budget": budget(study).model_dump(mode="json"),
        "best": [
            {
                "number": t.number,
                "trial_id": proposal_of(study, t).trial_id,
                "values": dict(zip(names, t.values, strict=True)),
                "params": t.params,
            }
            for t in ranking(study)
        ],
        "winners": [{**w.model_dump(mode="json"), "test": _test(found, w)} for w in found.winners],
        "notes": found.search.base.notes,
    }


def print_found(found: Found) -> None:
    """The best proposals by validation, what was spent, and what the retrained winners score on test."""
    study, spent = found.study, budget(found.study)
    best = ranking(study)
    what = "Pareto set" if study.spec.objective.several else "best by validation"
    click.echo(f"\nStudy {spent.study}: {study.spec.title} ({what})")
    names = list(study.spec.objective.names)
    rows = [
        [t.number, *(f"{v:.4g}" for v in t.values), ", ".join(f"{k}={_short(v)}" for k, v in t.params.items())]
        for t in (best if study.spec.objective.several else best[:SHOWN])
    ]
    print_table(["proposal", *(f"val {n}" if n in _VAL else n for n in names), "parameters"], rows)
    parts = [f"{spent.complete} finished", f"{spent.pruned} pruned", f"{spent.failed} failed"]
    click.echo(f"{spent.trials} proposals: {', '.join(parts)}; {spent.train_seconds:.0f} s of training.")
    for winner in found.winners:
        click.echo(
            f"Winner: proposal {winner.number}, retrained with seeds {_seeds(winner)}; "
            f"test macro-F1 {_scores(found, winner)}"
        )
    for outcome in found.retrained:
        if outcome.status == "failed":
            click.echo(f"Failed to retrain, seed {outcome.planned.trial.seed}: {outcome.error.rstrip()}", err=True)
    where = "" if found.search.request.store == "wbcbench-store" else f" --store {found.search.request.store}"
    click.echo(f"Next: wbcbench search report {spent.study}{where}")
    click.echo(f"      wbcbench leaderboard{where}")


def print_comparison(found: list[Found]) -> None:
    """One row per method: its winner, and the equal budget that found it."""
    rows = []
    for one in found:
        spent = budget(one.study)
        for winner in one.winners:
            rows.append(
                [
                    one.study.spec.title, ", ".join(f"{v:.4g}" for v in winner.values), _scores(one, winner),
                    spent.trials, f"{spent.train_seconds:.0f} s", spent.study,
                ]
            )  # fmt: skip
    click.echo("\nEach method's own search, winners retrained with fresh seeds:")
    print_table(["method", "val objective", "test macro-F1", "proposals", "trained", "study"], rows)


def _test(found: Found, winner: Winner) -> dict[str, list[float]]:
    records = {o.planned.trial.id: o.record for o in found.retrained}
    scores: dict[str, list[float]] = {}
    for trial_id in winner.trial_ids:
        record = records[trial_id]
        assert record is not None  # or it would be no winner
        for name, value in record.result.metrics["test"].items():
            if value is not None:
                scores.setdefault(name, []).append(value)
    return scores


def _scores(found: Found, winner: Winner) -> str:
    values = _test(found, winner)["macro_f1"]
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _seeds(winner: Winner) -> str:
    return ", ".join(map(str, winner.seeds))


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


_VAL = frozenset({"accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "brier", "ece"})
