"""What cannot work is refused before anything is trained, and where it can be told, before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wbcbench.contracts import Cells, Description
from wbcbench.errors import IncompatibleError
from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.scheduling.plan import make_plan
from wbcbench.spec.load import request_from
from wbcbench.testing.components import component_class

Train = Callable[..., dict[str, Any]]
Invoke = Callable[..., tuple[int, str, str]]

STRICT = '''
import torch
from torch import nn
from wbcbench.contracts import Fusion, FusionTraits, Output


class Strict(Fusion):
    """Early fusion of complete cells."""

    name = "strict"
    traits = FusionTraits(missing="refuse")

    def __init__(self, task, backbone, params):
        super().__init__(task, backbone, params)
        self.trunk = backbone(sum(task.channels.values()))
        self.head = nn.Linear(self.trunk.dim, task.n_classes)

    def forward(self, images, present=None, maps=False):
        h = self.trunk(torch.cat([images[m] for m in self.task.modalities], 1)).embedding
        return {"joint": Output(self.head(h), h, reads=frozenset(self.task.modalities))}
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "strict.py").write_text(STRICT)
    return folder


def manifest(folder: Path, lacking: str = "") -> Path:
    """Twelve cells with the modalities `bf` and `dapi`, of which one lacks `lacking`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["bf,dapi,label,split"]
    for i in range(12):
        paths = {}
        for m in ("bf", "dapi"):
            Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{m}{i}.png")
            paths[m] = "" if i == 3 and m == lacking else f"{m}{i}.png"
        rows.append(f"{paths['bf']},{paths['dapi']},{'xy'[i % 2]},{('train', 'val', 'test')[i // 4]}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


def plan(plugins: Path, folder: Path, **words: Any) -> Any:
    registry, _ = load_plugins(PluginOptions(folders=(plugins,)))
    tree = {"dataset": {"name": "folder", "path": str(folder)}, "fusion": ["strict"], "kd": ["none"], **words}
    return make_plan(request_from(tree, {}, (), where="here"), registry)


def test_incomplete_cells_are_refused_while_planning(plugins: Path, tmp_path: Path) -> None:
    folder = manifest(tmp_path / "cells", "dapi")
    with pytest.raises(IncompatibleError, match="some cells have no dapi image"):
        plan(plugins, folder)
    left = plan(plugins, folder, fusion=["strict", "early"], incompatible="skip")
    assert [p.trial.label for p in left.trials] == ["early"]
    assert plan(plugins, folder, modalities=["bf"]).trials, "what is not read may be absent"
    with pytest.raises(IncompatibleError, match="some cells have no dapi image"):
        plan(plugins, folder, fusion=["early"], kd=["logits"], teacher={"fusion": "strict"})
    assert plan(plugins, manifest(tmp_path / "whole")).trials


@pytest.mark.parametrize("present", ["absent", "all true", "unknown"])
def test_a_matrix_that_is_true_all_over_is_complete(
    present: str, train: Train, plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the plan is told nothing, the cells decide; a matrix by itself lacks nothing."""
    npz = component_class("dataset", "npz")
    real, described = npz.load, npz.describe

    def load(self: Any, *args: Any) -> Cells:
        cells: Cells = real(self, *args)
        matrix = np.ones((len(cells), len(cells.images)), bool)
        if present == "unknown":
            matrix[::4, 1] = False
        return replace(cells, present=matrix)

    def describe(self: Any) -> Description:
        return replace(described(self), incomplete=None)

    if present != "absent":
        monkeypatch.setattr(npz, "load", load)
        monkeypatch.setattr(npz, "describe", describe)
    fusion = ("--fusion", "strict", "--plugins-dir", str(plugins), "--epochs", "1")
    if present != "unknown":
        assert train(*fusion)["records"][0]["status"] == "done"
        return
    (row,) = train(*fusion, code=2)["records"]
    assert "some cells have no v image" in row["error"]


@pytest.mark.parametrize(
    ("fusion", "says"),
    [
        ("mid_concat:stage=9", "Stage 9 was requested"),
        ("mbt:fusion_layer=5", "Choose fusion_layer up to"),
        ("tfn:dim=400", "Use a smaller `dim`"),
        ("token_transformer:width=30", "multiple of `heads`"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_teachers_are_trained(
    fusion: str, says: str, train: Train, tmp_path: Path
) -> None:
    document = train("--fusion", fusion, "--kd", "logits", code=2)
    assert says in document["stderr"]
    assert "with backbone cellnet" in document["stderr"]
    assert not list((tmp_path / "store").glob("records/*")), "nothing was trained"


def test_where_misfits_are_skipped_the_others_run(train: Train) -> None:
    document = train("--fusion", "mid_concat:stage=9,early", "--epochs", "1", "--set", "incompatible=skip", code=1)
    assert {r["fusion"]: r["status"] for r in document["records"]} == {"mid_concat": "failed", "early": "done"}
