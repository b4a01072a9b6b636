"""Contact sheets: any channel count and depth, absent images, whole files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wbcbench.contracts import Cells
from wbcbench.data.survey import contact_sheet


def cells() -> Cells:
    rng = np.random.default_rng(0)
    return Cells(
        images={
            "rgb": rng.integers(0, 256, (6, 3, 16, 16), dtype=np.uint8),
            "deep": rng.integers(0, 65536, (6, 1, 16, 16), dtype=np.uint16),
            "two": rng.integers(0, 256, (6, 2, 16, 16), dtype=np.uint8),
        },
        labels=np.arange(6) % 2,
        classes=("a", "b"),
        fingerprint="f",
        present=np.array([[True, True, i > 2] for i in range(6)]),
    )


def test_a_row_per_class_and_modality(tmp_path: Path) -> None:
    contact_sheet(cells(), tmp_path / "small.png", per_class=1)
    contact_sheet(cells(), tmp_path / "large.png", per_class=3)
    small, large = (Image.open(tmp_path / f"{n}.png") for n in ("small", "large"))
    assert small.height == large.height >= 2 * 3 * 16
    assert large.width > small.width
    assert np.asarray(large).std() > 10
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.png", "small.png"]
