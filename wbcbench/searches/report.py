"""Reports of a study: Optuna's plots in a self-contained HTML file and as PNG; and its export to a database."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from statistics import fmean, stdev
from types import ModuleType
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from wbcbench.errors import RecordError, UsageError
from wbcbench.files import TEMPORARY, atomic_write_bytes, atomic_write_text, storing
from wbcbench.records.store import Store
from wbcbench.searches.files import StudyFolder, Winner, studies
from wbcbench.searches.optuna_study import Study
from wbcbench.searches.search import proposal_of, ranking
from wbcbench.searches.settings import COSTS, quiet

_PER_OBJECTIVE = {
    "history": "plot_optimization_history",
    "importances": "plot_param_importances",
    "slices": "plot_slice",
}
ENOUGH = 8
"""Fewest finished proposals for importances; with fewer, the estimates are meaningless."""
Draw = Callable[[ModuleType], Any]
"""Takes `optuna.visualization` or its matplotlib version and returns a figure (or axes)."""


def overview(store: Store) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row as JSON per study of the store; and the error of each damaged study."""
    rows: list[dict[str, Any]] = []
    damaged: dict[str, str] = {}
    for folder in studies(store):
        try:
            rows.append(_row(folder, store))
        except RecordError as error:
            damaged[folder.id] = str(error)
    return rows, damaged


def _row(folder: StudyFolder, store: Store) -> dict[str, Any]:
    study = Study(folder.spec(), folder, store)
    best = ranking(study)[:1]
    spec = study.spec
    return {
        "study": folder.id, "title": spec.title, "objective": ",".join(spec.objective.names),
        "sampler": spec.sampler, "pruner": spec.pruner, **study.counts(),
        "best": ", ".join(f"{v:.4g}" for t in best for v in t.values), "winners": len(folder.winners()),
    }  # fmt: skip


def write_report(folder: StudyFolder, store: Store, target: Path) -> list[Path]:
    """Write `report.html` and a PNG per plot to a folder, or a page alone to a file `.html`; returns the files.

    A plot is left out if the study has too few finished proposals for it, and the page states why.

    Raises:
        RecordError: the study is damaged.
        WbcbenchError: the file system refuses.
    """
    study = Study(folder.spec(), folder, store)
    alone = target.suffix == ".html"
    parts: list[str] = []
    written: list[Path] = []
    missing: list[str] = []
    for name, draw in plots(study):
        try:
            parts.append(_html(draw, first=not parts))
            if not alone:
                path = target / f"{name}.png"
                atomic_write_bytes(path, _png(draw))
                written.append(path)
        except (ValueError, RuntimeError) as error:
            missing.append(f"No {name}: {error}")
    page = target if alone else target / "report.html"
    atomic_write_text(page, _page(study, store, parts, missing))
    return [page, *written]


def plots(study: Study) -> Iterator[tuple[str, Draw]]:
    """Name and drawing of every plot that applies to the study."""
    objective, trials = study.spec.objective, study.optuna
    for i, name in enumerate(objective.names):
        label = f"val {name}" if name not in COSTS else name
        suffix = f"_{name}" if objective.several else ""
        shared = {"target": partial(_value, i) if objective.several else None, "target_name": label}
        for kind, function in _PER_OBJECTIVE.items():
            yield f"{kind}{suffix}", partial(_call, function, trials, shared)
    if objective.per_epoch:
        yield "epochs", partial(_call, "plot_intermediate_values", trials, {})
    if len(objective.names) == 2:
        yield "pareto", partial(_call, "plot_pareto_front", trials, {"target_names": list(objective.names)})


def _value(index: int, trial: FrozenTrial) -> float:
    return float(trial.values[index])


def _call(function: str, trials: optuna.Study, arguments: dict[str, Any], library: ModuleType) -> Any:
    finished = len(trials.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if function == _PER_OBJECTIVE["importances"] and finished < ENOUGH:
        raise ValueError(f"{finished} finished proposals are too few to estimate importances; {ENOUGH} are needed")
    return getattr(library, function)(trials, **arguments)


def _html(draw: Draw, first: bool) -> str:
    from optuna import visualization

    with quiet():
        figure = draw(visualization)
    if not figure.data:
        raise ValueError("there are too few finished proposals to draw it")
    # The page includes the library, once, so that it works without a network.
    html: str = figure.to_html(full_html=False, include_plotlyjs=first, include_mathjax=False)
    return html


def _png(draw: Draw) -> bytes:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from optuna.visualization import matplotlib as visualization

    with quiet():
        axes = draw(visualization)
    figure = np.ravel(axes)[0].figure
    try:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return buffer.getvalue()
    finally:
        plt.close(figure)
        mpl.rcdefaults()  # Optuna's plots change matplotlib's global style


def _page(study: Study, store: Store, parts: list[str], missing: list[str]) -> str:
    """The page, in the style of leaderboards' pages."""
    spec, counts = study.spec, study.counts()
    facts = {
        "proposals": f"{counts['trials']}: {counts['complete']} finished, {counts['pruned']} pruned, "
        f"{counts['failed']} failed",
        "objective, on validation cells": ", ".join(spec.objective.names),
        "sampler": spec.sampler, "pruner": spec.pruner, "seed": str(spec.seed),
        "training": f"{study.seconds:.0f} s",
    }  # fmt: skip
    ranked = ranking(study)
    winners = {w.proposal: w for w in study.folder.winners()}
    names = list(dict.fromkeys(name for t in ranked for name in t.params))
    head = ["proposal", *(f"validation {n}" if n not in COSTS else n for n in spec.objective.names), *names]
    head += ["test macro-F1, retrained", "trial"]
    rows = []
    for t in ranked:
        trial_id = proposal_of(study, t).trial_id
        won = winners.get(trial_id)
        cells = [f"{t.number} (winner)" if won else str(t.number), *(f"{v:.4g}" for v in t.values)]
        cells += [_rounded(t.params.get(name, "")) for name in names]
        cells += [_tested(won, store) if won else "", trial_id]
        rows.append((won is not None, cells))
    title = escape(f"Search {study.folder.id}: {spec.title}")
    css = resources.files("wbcbench.boards.formats").joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>{css}
tr.won {{ background: var(--first); }}
</style></head><body>
<header><p class="brand">wbcbench</p><h1>{title}</h1>
<dl class="facts">{"".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())}</dl></header>
<main>
<section><h2>Proposals, best first</h2>
<p class="lead">Proposals are compared on validation cells. {_about_winners(list(winners.values()))}</p>
<table class="plain"><thead><tr>{"".join(f'<th scope="col">{escape(h)}</th>' for h in head)}</tr></thead><tbody>
{"".join(_table_row(*row) for row in rows)}
</tbody></table></section>
<section><h2>Plots</h2>
{"".join(f"<figure>{part}</figure>" for part in parts)}
{"".join(f'<p class="quiet">{escape(text)}</p>' for text in missing)}</section>
</main></body></html>
"""


def _about_winners(winners: Sequence[Winner]) -> str:
    if not winners:
        return "No winner was retrained: there is no test result."
    return "The winner was trained again with other seeds, and only these trainings saw the test cells."


def _table_row(won: bool, cells: Sequence[str]) -> str:
    first, *others = map(escape, cells)
    tail = "".join(f"<td>{text}</td>" for text in others)
    return f'<tr{" class=won" * won}><th scope="row">{first}</th>{tail}</tr>\n'


def _tested(winner: Winner, store: Store) -> str:
    """Mean and spread over the winner's seeds, from their records."""
    found = [store.load(i).result.metrics["test"]["macro_f1"] for i in winner.trial_ids if store.has(i)]
    values = [v for v in found if v is not None]
    if len(values) < len(winner.trial_ids):
        return f"records of {len(winner.trial_ids) - len(values)} seeds are not in this store"
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread} (seeds {', '.join(map(str, winner.seeds))})"


def _rounded(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


SQLITE = "sqlite:///"


def export(folder: StudyFolder, store: Store, target: str) -> int:
    """Copy a study's finished proposals to a file or database; returns their number.

    Args:
        folder: the study.
        store: where its records are.
        target: a new file (a journal, or after `sqlite:///` a database), or another database's URL.

    Raises:
        UsageError: the file exists already, or the database refuses.
        WbcbenchError: the file system refuses.
    """
    study = Study(folder.spec(), folder, store)
    done = [_plain(t, study) for t in study.optuna.get_trials(deepcopy=False) if t.state.is_finished()]
    if "://" in target and not target.startswith(SQLITE):
        _copy(study, done, lambda: RDBStorage(target), target)
        return len(done)
    path = Path(target.removeprefix(SQLITE))
    if path.exists():
        raise UsageError(f"Expected a new file, but {path} exists already. Delete it, or choose another.")
    temporary = path.parent / f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}"
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if target.startswith(SQLITE):
                _copy(study, done, lambda: RDBStorage(f"{SQLITE}{temporary}"), target)
            else:
                _copy(study, done, lambda: JournalStorage(JournalFileBackend(str(temporary))), target)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return len(done)


def _copy(study: Study, trials: list[FrozenTrial], open_storage: Callable[[], BaseStorage], target: str) -> None:
    spec = study.spec
    with quiet():
        try:
            storage = open_storage()
            copy = optuna.create_study(
                storage=storage, study_name=study.folder.id, directions=spec.objective.directions
            )
            copy.set_metric_names([f"val {n}" if spec.objective.per_epoch else n for n in spec.objective.names])
            copy.set_user_attr("title", spec.title)
            copy.add_trials(trials)
            if isinstance(storage, RDBStorage):
                storage.engine.dispose()
        except OSError:
            raise
        except optuna.exceptions.DuplicatedStudyError:
            raise UsageError(
                f"{target} has a study '{study.folder.id}' already. Choose another database."
            ) from None
        except Exception as error:  # any error of a database driver is due to the given URL
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"Expected to write to {target}, but it refused: {reason}") from error


def _plain(trial: FrozenTrial, study: Study) -> FrozenTrial:
    """A copy without the samplers' attributes, but with the id of our trial."""
    return create_trial(
        state=trial.state,
        values=trial.values if trial.state == optuna.trial.TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={"trial_id": study.asked[trial.number].proposal.trial_id},
        intermediate_values=trial.intermediate_values,
    )
