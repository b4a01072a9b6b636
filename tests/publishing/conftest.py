"""A store of records without training, a pack of a student and its teacher, and its judge."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wbcbench.publishing.archive import Limits
from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.verdict import Judge
from wbcbench.publishing.verify import checked
from wbcbench.records.store import Record, Store
from wbcbench.testing.records import taught

Verify = Callable[..., Judge]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and its teacher, made once: `store/` and `pack.zip`. Tests get copies."""
    root = tmp_path_factory.mktemp("made")
    write_pack([taught(Store(root / "store"))], root / "pack.zip")
    return root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def student(made: Path, store: Store) -> Record:
    shutil.copytree(made / "store", store.root, dirs_exist_ok=True)
    return next(r for r in store.scan(verify=False)[0] if r.trial.method.teachers)


@pytest.fixture
def pack(made: Path, student: Record, tmp_path: Path) -> Path:
    shutil.copyfile(made / "pack.zip", tmp_path / "pack.zip")
    return tmp_path / "pack.zip"


@pytest.fixture
def verify() -> Verify:
    def call(pack: Path, reference: Store | None = None, limits: Limits | None = None) -> Judge:
        with checked(pack, reference, lambda trial: trial.method.fusion.name == "majority", limits) as (judge, *_):
            return judge

    return call
