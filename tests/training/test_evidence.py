"""What a fusion can capture: redundant evidence suits all, synergistic (XOR) evidence only those that see it.

The sharpest test of `independent`: with rho = 0 every slot shows a cell of its own, so no head can learn how
modalities go together, and on XOR cells it stays at chance; early fusion, and rho = 1, solve them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CLEAN = (
    "dataset.noise=0",
    "dataset.difficulty=0",
    "dataset.classes=2",
    "dataset.cells=900",
    "dataset.image_size=24",
)


@pytest.fixture
def accuracy(invoke: Callable[..., tuple[int, str, str]], tmp_path: Path) -> Callable[..., dict[str, float]]:
    def call(fusions: str, redundant: float, synergy: float, modalities: str) -> dict[str, float]:
        sets = (*CLEAN, f"dataset.redundant={redundant}", f"dataset.synergy={synergy}", "dataset.unique=0",
                "augmentation.scale=0", "training.lr=5e-3")  # fmt: skip
        code, out, err = invoke(
            "run", "--fusion", fusions, "--modalities", modalities, "--epochs", "14", "--store", str(tmp_path),
            "--backbone", "cellnet:width=8", "--device", "cpu", "--json",
            *(part for s in sets for part in ("--set", s)),
        )  # fmt: skip
        assert code == 0, err
        found: dict[str, float] = {}
        for record in json.loads(out)["records"]:
            spec = json.loads((Path(record["path"]) / "spec.json").read_text())
            rho = spec["method"]["fusion"]["params"].get("rho", "")
            name = f"{record['fusion']}{rho}" if len(record["modalities"]) > 1 else record["modalities"][0]
            found[name] = record["metrics"]["test"]["balanced_accuracy"]
        return found

    return call


def test_xor_cells_need_a_fusion_that_sees_both_modalities_of_a_cell(
    accuracy: Callable[..., dict[str, float]],
) -> None:
    found = accuracy("early,independent:rho=0,independent:rho=1", 0, 1, "nucleus,granule")
    assert found["early"] > 0.85, found
    assert found["independent1.0"] > 0.8, found
    assert found["independent0.0"] < 0.65, found  # chance is .5; 225 test cells: sd .03


def test_redundant_cells_are_solved_by_all(accuracy: Callable[..., dict[str, float]]) -> None:
    found = accuracy("early,independent:rho=0", 1, 0, "nucleus,granule")
    assert min(found.values()) > 0.9, found
