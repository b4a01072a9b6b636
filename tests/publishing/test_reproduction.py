"""Which trials are trained again, and what their difference from the pack says; nothing is trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from wbcbench.errors import UsageError
from wbcbench.publishing.reproduction import Run, allowed, compare
from wbcbench.publishing.rerun import choose
from wbcbench.publishing.verdict import Judge
from wbcbench.records.store import Record, Store
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial


def test_one_seed_of_each_method_is_drawn_after_the_submission(store: Store) -> None:
    own = [fake_record(store, fake_trial(s, fusion=f), s) for f in ("early", "late") for s in range(4)]
    ids = [r.trial.id for r in own]
    drawn = [choose(own, ids) for _ in range(60)]
    assert {len({r.result.fusion for r in one}) for one in drawn} == {len(one) for one in drawn} == {2}
    assert {r.trial.id for one in drawn for r in one} == set(ids)  # misses one in 10^6 runs
    assert choose(own, ids, every=True) == sorted(own, key=lambda r: r.trial.id)
    assert choose(own, ids, [ids[3]]) == [own[3]]
    for wrong in ("zz", ""):
        with pytest.raises(UsageError, match="Expected --trial as the start"):
            choose(own, ids, [wrong])


def _scored(store: Store, seed: int, fusion: str, f1: float) -> Record:
    """A record whose macro-F1 is about `f1`."""
    record = fake_record(store, fake_trial(seed, fusion=fusion), seed)
    metrics = {side: {**values, "macro_f1": f1} for side, values in record.result.metrics.items()}
    return replace(record, result=record.result.model_copy(update={"metrics": metrics}))


@pytest.mark.parametrize(
    ("seeds", "rows", "count", "limit", "because"),
    [
        ([0.8], [], 1, 0.02, "the largest allowed"),
        ([0.8], [0.79], 1, 0.01, "the gap to the next row"),
        ([0.8, 0.802, 0.804], [], 1, 0.0121694, "from the spread of 3 seeds"),
        ([0.8, 0.802, 0.804], [], 3, 0.0070260, "from the spread of 3 seeds"),
        ([0.8, 0.802, 0.804], [0.805, 0.7], 1, 0.003, "the gap to the next row"),
        ([0.7, 0.8, 0.9], [0.1], 1, 0.02, "the largest allowed"),
    ],
)
def test_the_tolerance_follows_the_seeds_and_the_next_row(
    store: Store, seeds: list[float], rows: list[float], count: int, limit: float, because: str
) -> None:
    own = [_scored(store, i, "mine", f1) for i, f1 in enumerate(seeds)]
    others = [_scored(store, 0, f"other{i}", f1) for i, f1 in enumerate(rows)]
    found = allowed(own, others, "macro_f1", 0.02, count)
    assert found == (pytest.approx(limit, abs=1e-6), because)


@pytest.mark.parametrize(
    ("then", "now", "machine", "every", "level", "why"),
    [
        ([0.8, 0.81], [0.8, 0.81], "equal", False, "", "bitwise equal"),
        ([0.80, 0.81], [0.801, 0.811], "same", True, "look", "states this kind of machine"),
        ([0.80, 0.81], [0.801, 0.811], "other", False, "look", "another kind of machine"),
        ([0.80, 0.81], [0.801, 0.811], "other", True, "", ""),
        ([0.80], [0.801], "other", True, "look", "another kind of machine"),
        ([0.80, 0.81], [0.77, 0.78], "other", True, "refuse", "exceeds the tolerance of 0.02"),
        ([0.800, 0.801], [0.780, 0.803], "other", True, "look", "the gap to the next row"),
    ],
)
def test_another_machine_is_a_reason_to_train_all_seeds(
    store: Store,
    tmp_path: Path,
    then: list[float],
    now: list[float],
    machine: str,
    every: bool,
    level: str,
    why: str,
) -> None:
    judge = Judge()
    own = [_scored(store, i, "mine", f1) for i, f1 in enumerate(then)]
    others = [_scored(store, 0, "other", 0.795)]
    runs = []
    for record, f1 in zip(own, now, strict=True):
        again = _scored(Store(tmp_path / "again"), record.trial.seed, "mine", f1)
        if machine != "equal":
            arrays = fake_predictions(99, routes=record.trial.reads)
            again.__dict__["predictions"] = arrays
        if machine == "other":
            (again.path / "env.json").write_text('{"machine": "other"}')
        runs.append(Run(record, again))
    some = runs if every else runs[:1]
    judge.run("rerun", "here", lambda: compare(some, own, others, "macro_f1", 0.02, judge))
    assert {f.level for f in judge.findings} == ({level} if level else set()), judge.findings
    assert why in " ".join([*judge.notes, *(f.text for f in judge.findings)])
    assert set(judge.reproduced) == (set() if level else {run.record.trial.id for run in some})
