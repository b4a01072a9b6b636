"""A study as an Optuna journal file or database, for optuna-dashboard. A copy: nothing is ever read back."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, create_trial

from wbcbench.errors import UsageError
from wbcbench.records.atomic import TEMPORARY, storing
from wbcbench.records.store import Store
from wbcbench.search.files import StudyFolder
from wbcbench.search.strategy import quiet
from wbcbench.search.study import Study

SQLITE = "sqlite:///"


def export(folder: StudyFolder, store: Store, target: str) -> int:
    """Copy a study's finished proposals; returns how many.

    Args:
        folder: the study.
        store: where its records are.
        target: a new file (a journal, or after `sqlite:///` a database), or another database's URL.

    Raises:
        UsageError: the file is there already, or the database refuses.
        WbcbenchError: the file system refuses.
    """
    study = Study(folder.spec(), folder, store)
    done = [_plain(t, study) for t in study.optuna.get_trials(deepcopy=False) if t.state.is_finished()]
    if "://" in target and not target.startswith(SQLITE):
        _copy(study, done, lambda: RDBStorage(target), target)
        return len(done)
    path = Path(target.removeprefix(SQLITE))
    if path.exists():
        raise UsageError(f"Expected a new file, but {path} is there already. Delete it, or choose another.")
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
        except Exception as error:  # whatever a database driver raises is about the URL that was given
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(f"Expected to write to {target}, but it refused: {reason}") from error


def _plain(trial: FrozenTrial, study: Study) -> FrozenTrial:
    """A copy without the samplers' notes, with our trial's id for people."""
    return create_trial(
        state=trial.state,
        values=trial.values if trial.state == optuna.trial.TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={"trial_id": study.asked[trial.number].proposal.trial_id},
        intermediate_values=trial.intermediate_values,
    )
