"""`leaderboard verify --rerun`: a pack's training is done again, on cells that the user names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.evaluation.metrics import evaluate
from wbcbench.publishing.pack import write_pack
from wbcbench.records.store import Record, Store
from wbcbench.testing.records import fake_outcome, unzip, write_cells

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def trained(train: Callable[..., dict[str, Any]], tmp_path: Path) -> Record:
    train("--fusion", "early", "--kd", "none")
    (folder,) = (tmp_path / "store" / "records").iterdir()
    return Store(tmp_path / "store").load(folder.name)


def test_an_honest_training_comes_out_bit_for_bit(
    trained: Record, invoke: Invoke, cells_file: Path, tmp_path: Path
) -> None:
    pack = str(tmp_path / "pack.zip")
    write_pack([trained], tmp_path / "pack.zip")
    again = ("leaderboard", "verify", pack, "--rerun", "--device", "cpu")
    code, out, err = invoke(*again, "--set", f"dataset.path={cells_file}")
    assert code == 0, out + err
    assert "the same predictions, bit for bit" in out
    other = write_cells(tmp_path / "other.npz", seed=99)
    code, _, err = invoke(*again, "--set", f"dataset.path={other}")
    assert code == 2
    assert "Expected the cells that the pack was made from" in err
    code, _, err = invoke(*again, "--set", f"dataset.path={cells_file}", "--set", "fusion.x=1")
    assert code == 2
    assert "--set may name dataset.*" in err


def test_numbers_that_no_training_gave_are_refused(
    trained: Record, invoke: Invoke, cells_file: Path, tmp_path: Path
) -> None:
    """Consistent in themselves, so that only training again tells. (The cells are easy: here they are worse.)"""
    arrays = dict(trained.predictions)
    classes = len(trained.result.key.classes)
    for side in ("test", "val"):
        wrong = np.eye(classes, dtype=np.float32)[(arrays[f"{side}_labels"] + 1) % classes]
        arrays[f"{side}_probabilities"] = 0.9 * wrong + 0.1 * arrays[f"{side}_probabilities"]
    outcome = fake_outcome(trained.trial, trained.predictions)  # costs and times that pass
    claimed = outcome.model_copy(
        update={
            **{name: getattr(trained.result, name) for name in ("key", "components", "selected_epoch", "cost")},
            **evaluate(arrays, trained.result.key.classes),
        }
    )
    store = Store(tmp_path / "forged")
    history = [{"epoch": e} for e in range(trained.result.cost.epochs_run)]
    forged = store.write(
        trained.trial, claimed, predictions=arrays, model=b"x", history=history, environment={"python": "3.11"}
    )
    write_pack([forged], tmp_path / "forged.zip")
    assert len(unzip(tmp_path / "forged.zip")) == 6
    code, out, _ = invoke(
        "leaderboard", "verify", str(tmp_path / "forged.zip"), "--rerun", "--device", "cpu",
        "--set", f"dataset.path={cells_file}",
    )  # fmt: skip
    assert code == 3
    assert "further apart than the tolerance of 0.02" in out
