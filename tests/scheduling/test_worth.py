"""What `run` says of each teacher before its students begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from wbcbench.records.store import Store
from wbcbench.scheduling.worth import agreement, untaught
from wbcbench.testing.records import write_cells

CELLS = 60


def test_a_teacher_is_compared_with_untaught_students_that_read_no_more(
    tmp_path: Path, invoke: Callable[..., tuple[int, str, str]]
) -> None:
    cells, root = write_cells(tmp_path / "cells.npz", cells=CELLS), tmp_path / "store"
    answers = tmp_path / "answers.npz"
    right = np.eye(3)[np.arange(CELLS) % 3]
    np.savez(answers, ids=np.arange(CELLS), classes=["a", "b", "c"], probabilities=right, train_ids=[0, 1])
    run = (
        "run", "--dataset", "npz", "--set", f"dataset.path={cells}", "--set", "dataset.modalities.u=[0]",
        "--set", "dataset.modalities.v=[1]", "--backbone", "cellnet:width=4", "--set", "threads=1",
        "--executor", "inline", "--device", "cpu", "--store", str(root),
    )  # fmt: skip
    taught = (*run, "--fusion", "single", "--modalities", "u", "--kd", "logits", "--epochs", "2")

    _, _, err = invoke(*taught, "--teacher", "cellnet:width=6", "--set", "teacher.epochs=1")
    lines = err.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Teacher single[u] (cellnet, "))
    assert "calibration error" in lines[at]
    assert "no untaught student of these cells that reads no more; --kd none trains one" in lines[at]
    assert at < next(i for i, line in enumerate(lines) if line.startswith("student single[u] + logits"))

    # one reads more, one is a rival; the teacher above had another budget
    assert invoke(*run, "--fusion", "early", "--kd", "none", "--epochs", "2")[0] == 0
    assert invoke(*run, "--fusion", "single", "--modalities", "u", "--kd", "none", "--epochs", "2")[0] == 0
    _, _, err = invoke(*taught, "--teacher", "cellnet:width=5")
    (told,) = [line for line in err.splitlines() if line.startswith("Teacher single[u]")]
    assert "Best untaught student that reads no more: single[u] (cellnet, " in told
    assert "which predicts the same for" in told

    _, _, err = invoke(*taught, "--teacher", f"file:{answers}")
    (told,) = [line for line in err.splitlines() if "from outside" in line]
    assert "validation macro-F1 1.000" in told
    assert "trained on: " in told

    records, bad = Store(root).scan()
    assert not bad
    rivals = untaught(Store(root), next(r for r in records if r.result.kd == "logits").result.key)
    assert {r.result.label for r in rivals} >= {"early", "single[u]"}
    assert all(r.result.kd == "none" and r.result.key.budget.epochs == 2 for r in rivals)
    assert agreement(rivals[0], rivals[0]) == 1.0
