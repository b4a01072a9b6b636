"""Which validation cells a combiner is fitted on."""

from __future__ import annotations

import numpy as np
import torch

from wbcbench.contracts import Cells
from wbcbench.data.views import ResidentCells
from wbcbench.evaluation.predict import complete


def resident(absent_b: list[int] | None) -> ResidentCells:
    """Eight cells of classes 0, 1, 0, 1, ...; those named lack modality `b`."""
    present = None
    if absent_b is not None:
        present = np.ones((8, 2), bool)
        present[absent_b, 1] = False
    images = {m: np.zeros((8, 1, 8, 8), np.uint8) for m in "ab"}
    raw = Cells(images=images, labels=np.arange(8) % 2, classes=("x", "y"), fingerprint="f", present=present)
    return ResidentCells(raw, ("a", "b"), np.arange(8), torch.device("cpu"))


def chosen(absent_b: list[int] | None, modalities: tuple[str, ...] = ("a", "b")) -> list[int]:
    ids = torch.tensor([1, 2, 4, 5, 6])
    return complete(resident(absent_b), ids, modalities).tolist()  # type: ignore[no-any-return]


def test_cells_that_lack_a_modality_do_not_judge_its_network() -> None:
    assert chosen([2, 5]) == [1, 4, 6]
    assert chosen([2, 5], ("a",)) == [1, 2, 4, 5, 6], "what the student does not read may be absent"
    assert chosen(None) == [1, 2, 4, 5, 6]


def test_all_cells_judge_where_a_class_has_no_complete_one() -> None:
    assert chosen([1, 5]) == [1, 2, 4, 5, 6]
