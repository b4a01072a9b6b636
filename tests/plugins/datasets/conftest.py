"""A cache of its own for every test, and where real cells lie on machines that have them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

DATA_VARIABLE = "WBCBENCH_DATA"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Give a file of real cells, or skip."""

    def find(name: str) -> Path:
        folder = os.environ.get(DATA_VARIABLE)
        if not folder:
            pytest.skip(f"{DATA_VARIABLE} names no folder of real cells")
        path = Path(folder) / name
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        return path

    return find
