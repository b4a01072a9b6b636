"""An Optuna study that lives in memory and is lived again, from proposals and records, on every start.

No number is read from anywhere but records: a finished proposal is asked for anew (with the stored parameters
instead of sampled ones), its epochs are reported anew, and it is told what its record says. So sampler and
pruner are in the state in which an unbroken search would have them.
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
    """What became of a proposal's trial."""

    state: Literal["complete", "pruned", "failed"]
    values: list[float] | None = None
    """Of the objective; complete only."""
    history: Sequence[dict[str, Any]] = ()
    seconds: float = 0.0


@dataclass
class Asked:
    """A proposal that is under way or done."""

    proposal: Proposal
    trial: Trial
    heard: dict[int, bool] = field(default_factory=dict)
    """Epoch -> whether to stop there."""


class Recorded(BaseSampler):
    """Gives stored parameters where `inner` would sample; lets `inner` note what it notes of a proposal."""

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
    """Proposals, what became of them, and what to propose next."""

    def __init__(self, spec: StudySpec, folder: StudyFolder, store: Store) -> None:
        self.spec = spec
        self.folder = folder
        self.store = store
        self.asked: list[Asked] = []
        self.open: list[Asked] = []
        """Proposed in an earlier life and not finished; to be run first."""
        self.seconds = 0.0
        """Training seconds that its finished and pruned proposals took; a repeated one costs nothing."""
        self._paid: set[str] = set()
        with quiet():
            self.optuna = optuna.create_study(
                study_name=folder.id,
                directions=spec.objective.directions,
                pruner=make_pruner(spec.pruner, spec.epochs),
            )
            for proposal in folder.proposals():
                self._relive(proposal)

    def ask(self) -> tuple[Trial, dict[str, Any]]:
        """The next proposal's Optuna trial and its values, fixed ones included; `keep` it before use."""
        with quiet():
            self.optuna.sampler = make_sampler(self.spec.sampler, self.spec.seed, len(self.asked))
            trial = self.optuna.ask()
            return trial, suggest_all(self.spec.dimensions, trial)

    def keep(self, trial: Trial, trial_id: str = "", error: str = "") -> Asked:
        """Write down what was asked, so that it is never asked twice."""
        proposal = Proposal(number=trial.number, params=dict(trial.params), trial_id=trial_id, error=error)
        self.folder.propose(proposal)
        self.asked.append(Asked(proposal, trial))
        return self.asked[-1]

    def fate(self, proposal: Proposal) -> Fate | None:
        """What files say of a proposal; None if it is still to be run."""
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

    def hear(self, asked: Asked, epoch: int, row: dict[str, Any]) -> bool:
        """Report one epoch; True: the pruner wants to stop here. An epoch told again gets the same answer."""
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

    def tell(self, asked: Asked, fate: Fate) -> None:
        """Close a proposal."""
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
        """How many proposals are `trials` (closed), `complete`, `pruned`, `failed`."""
        states = [t.state for t in self.optuna.get_trials(deepcopy=False)]
        found = {
            "complete": states.count(TrialState.COMPLETE),
            "pruned": states.count(TrialState.PRUNED),
            "failed": states.count(TrialState.FAIL),
        }
        return {"trials": sum(found.values()), **found}

    def _relive(self, proposal: Proposal) -> None:
        inner = make_sampler(self.spec.sampler, self.spec.seed, proposal.number)
        self.optuna.sampler = Recorded(inner, proposal.params, self.spec.sampler in REMEMBERS)
        trial = self.optuna.ask()
        try:
            suggest_all(self.spec.dimensions, trial)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            path = self.folder.proposal_path(proposal.number)
            raise RecordError(
                f"Expected parameters of the study's space in {path}, but got another's ({error}). {ADVICE}"
            ) from error
        asked = Asked(proposal, trial)
        self.asked.append(asked)
        fate = self.fate(proposal)
        if fate is None:
            self.open.append(asked)
        else:
            self.tell(asked, fate)
