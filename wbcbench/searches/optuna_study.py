"""An Optuna study in memory, which is rebuilt from proposals and records on every start.

All scores are read from records: a finished proposal is asked again (with the stored parameters instead of sampled
ones), its epochs are reported again, and Optuna is told the score of its record. So sampler and pruner are in the
same state as in an uninterrupted search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from wbcbench.errors import RecordError
from wbcbench.records.frames import read_history
from wbcbench.records.store import Store
from wbcbench.searches.files import ADVICE, Proposal, StudyFolder, StudySpec
from wbcbench.searches.settings import REMEMBERS, make_pruner, make_sampler, quiet
from wbcbench.searches.space import suggest_all


@dataclass(frozen=True)
class Fate:
    """The result of a proposal's trial."""

    state: Literal["complete", "pruned", "failed"]
    values: list[float] | None = None
    """Of the objective, only if complete."""
    history: Sequence[dict[str, Any]] = ()
    seconds: float = 0.0


@dataclass
class Proposed:
    """A proposal with its Optuna trial, running or finished."""

    proposal: Proposal
    trial: Trial
    heard: dict[int, bool] = field(default_factory=dict)
    """Reported epoch -> whether to stop there."""


class Recorded(BaseSampler):
    """Returns stored parameters where `inner` would sample. Calls `inner` too if it keeps state per proposal."""

    def __init__(self, inner: BaseSampler, params: dict[str, Any], ask_inner: bool) -> None:
        self.inner = inner
        self.params = params
        self.ask_inner = ask_inner

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(study, trial) if self.ask_inner else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self.ask_inner:
            self.inner.sample_relative(study, trial, search_space)
        return {name: self.params[name] for name in search_space if name in self.params}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.params[param_name]


class Study:
    """The proposals of a study, their results, and the sampler for the next ones."""

    def __init__(self, spec: StudySpec, folder: StudyFolder, store: Store) -> None:
        self.spec = spec
        self.folder = folder
        self.store = store
        self.asked: list[Proposed] = []
        self.open: list[Proposed] = []
        """Proposals of an earlier start that are not finished; to be run first."""
        self.seconds = 0.0
        """Training seconds of its finished and pruned proposals; repeated ones count once."""
        self._paid: set[str] = set()
        with quiet():
            self.optuna = optuna.create_study(
                study_name=folder.id,
                directions=spec.objective.directions,
                pruner=make_pruner(spec.pruner, spec.epochs),
            )
            for proposal in folder.proposals():
                self._replay(proposal)

    def ask(self) -> tuple[Trial, dict[str, Any]]:
        """The next proposal's Optuna trial and its values, including fixed ones; call `keep` before using it."""
        with quiet():
            self.optuna.sampler = make_sampler(self.spec.sampler, self.spec.seed, len(self.asked))
            trial = self.optuna.ask()
            return trial, suggest_all(self.spec.dimensions, trial)

    def keep(self, trial: Trial, trial_id: str = "", error: str = "") -> Proposed:
        """Store the proposal, so that a later start does not sample it again."""
        proposal = Proposal(number=trial.number, params=dict(trial.params), trial_id=trial_id, error=error)
        self.folder.propose(proposal)
        self.asked.append(Proposed(proposal, trial))
        return self.asked[-1]

    def fate(self, proposal: Proposal) -> Fate | None:
        """The result of a proposal according to the files; None if it has not been run."""
        if not proposal.trial_id:
            return Fate("failed")
        mark = self.folder.pruned(proposal.trial_id)
        if mark is not None:
            return Fate("pruned", None, mark.history, mark.seconds)
        if self.store.has(proposal.trial_id):
            record = self.store.load(proposal.trial_id)
            values = self.spec.objective.values(record)
            seconds = record.result.cost.train_seconds or 0.0
            history = read_history(record.path)
            return Fate("failed" if values is None else "complete", values, history, seconds)
        return Fate("failed") if self.store.has_failed(proposal.trial_id) else None

    def hear(self, asked: Proposed, epoch: int, row: dict[str, Any]) -> bool:
        """Report one epoch; returns whether to prune here. A repeated epoch gets the same answer."""
        if epoch in asked.heard or not self.spec.objective.per_epoch:
            return asked.heard.get(epoch, False)
        value = self.spec.objective.at_epoch(row)
        stop = False
        if value is not None:
            with quiet():
                asked.trial.report(value, epoch + 1)
                # Stopping after the last epoch would save nothing.
                stop = epoch + 1 < self.spec.epochs and asked.trial.should_prune()
        asked.heard[epoch] = stop
        return stop

    def tell(self, asked: Proposed, fate: Fate) -> None:
        """Finish a proposal: tell Optuna its result."""
        for row in fate.history:
            if "epoch" in row:
                self.hear(asked, int(row["epoch"]), row)
        states = {"complete": None, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        with quiet():
            self.optuna.tell(asked.trial, fate.values, state=states[fate.state])
        if asked.proposal.trial_id not in self._paid:
            self._paid.add(asked.proposal.trial_id)
            self.seconds += fate.seconds

    def counts(self) -> dict[str, int]:
        """Number of proposals: `trials` (all that are finished), `complete`, `pruned`, `failed`."""
        states = [t.state for t in self.optuna.get_trials(deepcopy=False)]
        found = {
            "complete": states.count(TrialState.COMPLETE),
            "pruned": states.count(TrialState.PRUNED),
            "failed": states.count(TrialState.FAIL),
        }
        return {"trials": sum(found.values()), **found}

    def _replay(self, proposal: Proposal) -> None:
        inner = make_sampler(self.spec.sampler, self.spec.seed, proposal.number)
        self.optuna.sampler = Recorded(inner, proposal.params, self.spec.sampler in REMEMBERS)
        trial = self.optuna.ask()
        try:
            suggest_all(self.spec.dimensions, trial)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            path = self.folder.proposal_path(proposal.number)
            raise RecordError(
                f"Expected parameters of the study's space in {path}, but got others ({error}). {ADVICE}"
            ) from error
        asked = Proposed(proposal, trial)
        self.asked.append(asked)
        fate = self.fate(proposal)
        if fate is None:
            self.open.append(asked)
        else:
            self.tell(asked, fate)
