"""What a record says of its network's inputs, and what older records, which say nothing, are good for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wbcbench.deploy.network import Normaliser, rebuilt
from wbcbench.errors import UsageError
from wbcbench.records.schema import InputStatistics
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_record


def test_a_record_says_how_its_images_were_normalised(winners: Any) -> None:
    record = winners.record("early")
    image = np.load(winners.cells)["image"]
    split = np.load(winners.cells)["split"]
    u = image[split == "train"][..., 0].astype(np.float64)
    said = record.result.inputs["u"]
    assert said.bits == 8
    assert said.mean == pytest.approx((u.mean(),), rel=1e-6)
    assert said.std == pytest.approx((u.std(),), rel=1e-6)
    means = np.sort(u.mean((1, 2)))
    low, high = said.brightness[0]
    assert means[0] <= low * (1 + 1e-5)
    assert high <= means[-1] * (1 + 1e-5)
    assert low < np.median(means) < high


def test_an_older_record_keeps_its_checksum_and_needs_the_cells(winners: Any, tmp_path: Path) -> None:
    record = fake_record(Store(tmp_path / "store"))
    assert "inputs" not in json.loads((record.path / "result.json").read_text())
    assert Store.load_folder(record.path, verify="full").result.inputs == {}
    found = winners.rebuilt("early")
    with pytest.raises(UsageError, match="is from an older version"):
        rebuilt(record, Store(tmp_path / "store"), found.bench.registry)


@pytest.mark.parametrize("bits", [8, 16])
def test_pixels_are_normalised_as_in_training(bits: int) -> None:
    from wbcbench.contracts import Cells
    from wbcbench.data.views import ResidentCells
    from wbcbench.training.report import statistics_of

    rng = np.random.default_rng(0)
    kind = np.uint16 if bits == 16 else np.uint8
    images = {"u": rng.integers(0, 2**bits, (6, 2, 8, 8)).astype(kind)}
    cells = Cells(images, np.arange(6) % 2, ("a", "b"), "f")
    resident = ResidentCells(cells, ("u",), np.arange(4), torch.device("cpu"))
    statistics = statistics_of(resident, torch.arange(4), ("u",))
    assert statistics["u"].bits == bits
    assert InputStatistics.model_validate_json(statistics["u"].model_dump_json()) == statistics["u"]
    means = images["u"][:4].mean((2, 3))
    assert statistics["u"].brightness[0][1] == pytest.approx(means[:, 0].max(), rel=1e-4)
    seen = Normaliser(statistics)("u", torch.from_numpy(images["u"]))
    assert torch.equal(seen, resident.images(torch.arange(6), "u"))
