"""The contract of data sets, for the sets that read files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from wbcbench_plugins.datasets.folder import Folder
from wbcbench_plugins.datasets.npz import Npz
from wbcbench_plugins.datasets.stains import Stains

from wbcbench.contracts import Dataset
from wbcbench.testing import DatasetContract
from wbcbench.testing.records import write_cells


class TestNpz(DatasetContract):
    def dataset(self, tmp_path: Path) -> Dataset:
        path = tmp_path / "cells.npz"
        if not path.exists():
            write_cells(path)
        return Npz(Npz.Params(path=str(path), modalities={"u": [0], "v": [1]}))


class TestFolder(DatasetContract):
    def dataset(self, tmp_path: Path) -> Dataset:
        if not (tmp_path / "manifest.csv").exists():
            rng = np.random.default_rng(0)
            rows = ["bf,dapi,label,group"]
            for i in range(12):
                Image.fromarray(rng.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8)).save(tmp_path / f"b{i}.png")
                Image.fromarray(rng.integers(0, 65536, (16, 16), dtype=np.uint16)).save(tmp_path / f"d{i}.tif")
                rows.append(f"b{i}.png,{'' if i == 3 else f'd{i}.tif'},{'xy'[i % 2]},donor{i % 4}")
            (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
        return Folder(Folder.Params(path=str(tmp_path / "manifest.csv")))


class TestStains(DatasetContract):
    def dataset(self, tmp_path: Path) -> Dataset:
        if not (tmp_path / "rgb.npz").exists():
            image = np.random.default_rng(0).integers(0, 256, (10, 20, 20, 3), dtype=np.uint8)
            np.savez(tmp_path / "rgb.npz", image=image, label=np.arange(10) % 2)
        return Stains(Stains.Params(base="npz", base_params={"path": str(tmp_path / "rgb.npz")}))
