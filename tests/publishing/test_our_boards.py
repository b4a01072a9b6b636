"""The boards that are published in this repository are what their records give."""

from __future__ import annotations

from pathlib import Path

import pytest

from wbcbench.publishing.board_files import PROTOCOL
from wbcbench.publishing.publish import check

ROOT = Path(__file__).parents[2] / "leaderboards"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.parent.name for p in ROOT.glob(f"*/{PROTOCOL}")))
def test_it_is_what_its_records_give(name: str) -> None:
    found = check(ROOT / name)
    assert found.problems == []
    assert found.records > 0
