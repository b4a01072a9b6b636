"""A store of small trained networks, made once a worker, for all that takes a winner away."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click.testing
import pytest

from wbcbench.cli.group import cli
from wbcbench.deploy.network import Rebuilt, rebuilt
from wbcbench.records.store import Record, Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import load_plugins
from wbcbench.testing.records import write_cells

SMALL = (
    "--backbone", "cellnet:width=4", "--teacher", "cellnet:width=4", "--device", "cpu", "--set", "threads=1",
    "--executor", "inline", "--epochs", "1", "--set", "batch_size=32",
    "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]",
)  # fmt: skip


@functools.cache
def registry() -> Registry:
    """Loaded once: nobody changes it."""
    return load_plugins()[0]


@dataclass(frozen=True)
class Winners:
    """Records of tiny cells with the modalities `u` and `v` and the classes a, b, c."""

    root: Path
    cells: Path
    ids: dict[str, str]
    """Fusion -> trial."""

    @property
    def store(self) -> Store:
        return Store(self.root)

    @property
    def where(self) -> tuple[str, ...]:
        """Options that name store and cells."""
        return ("--store", str(self.root), "--set", f"dataset.path={self.cells}")

    def record(self, fusion: str) -> Record:
        return self.store.load(self.ids[fusion])

    def rebuilt(self, fusion: str, *sets: str) -> Rebuilt:
        """With its cells, unless other `sets` are given."""
        return rebuilt(self.record(fusion), self.store, registry(), sets or (f"dataset.path={self.cells}",))


def train(folder: Path, *args: str, cells: int = 96) -> Winners:
    """`wbcbench run` on tiny cells in a folder of its own."""
    path = write_cells(folder / "cells.npz", cells=cells)
    run = ["run", "--dataset", "npz", "--set", f"dataset.path={path}", "--store", str(folder / "store"), "--json"]
    done = click.testing.CliRunner().invoke(cli, [*run, *SMALL, *args], catch_exceptions=False)
    document: dict[str, Any] = json.loads(done.stdout)
    assert all(r["error"] is None for r in document["records"])
    ids = {r["fusion"] + ("" if r["kd"] == "none" else f"+{r['kd']}"): r["trial_id"] for r in document["records"]}
    return Winners(folder / "store", path, ids)


def train_on(folder: Path, *args: str) -> tuple[Path, str]:
    """`wbcbench run` of one small network for an epoch; returns its store and its id."""
    run = ["run", "--kd", "none", "--store", str(folder / "store"), "--json", *SMALL[:-4], *args]
    done = click.testing.CliRunner().invoke(cli, run, catch_exceptions=False)
    (record,) = json.loads(done.stdout)["records"]
    assert record["error"] is None
    return folder / "store", record["trial_id"]


@pytest.fixture(scope="session")
def training_on() -> Callable[..., tuple[Path, str]]:
    """`train_on`, for other data sets."""
    return train_on


@pytest.fixture(scope="session")
def winners(tmp_path_factory: pytest.TempPathFactory) -> Winners:
    folder = tmp_path_factory.mktemp("winners")
    return train(folder, "--fusion", "early,independent,stacking,cen,handcrafted,majority", "--kd", "none")


@pytest.fixture(scope="session")
def training() -> Callable[..., Winners]:
    """`train`, for other stores."""
    return train
