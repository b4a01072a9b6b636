"""A store of records without training, a pack of a student and its teacher, and its judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wbcbench.publishing.archive import Limits
from wbcbench.publishing.checking import checked
from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.verdict import Judge
from wbcbench.records.store import Record, Store
from wbcbench.testing.packs import taught

Verify = Callable[..., Judge]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def student(store: Store) -> Record:
    return taught(store)


@pytest.fixture
def pack(student: Record, tmp_path: Path) -> Path:
    write_pack([student], tmp_path / "pack.zip")
    return tmp_path / "pack.zip"


@pytest.fixture
def verify() -> Verify:
    def call(pack: Path, reference: Store | None = None, limits: Limits | None = None) -> Judge:
        with checked(pack, reference, lambda trial: trial.method.fusion.name == "majority", limits) as (judge, *_):
            return judge

    return call
