"""Public data sets, each on a small made file in the layout that its publishers ship."""

from __future__ import annotations

import builtins
import hashlib
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wbcbench_plugins.datasets import _medmnist, pbc
from wbcbench_plugins.datasets.bsccm import Bsccm
from wbcbench_plugins.datasets.imaging_flow import ImagingFlow
from wbcbench_plugins.datasets.medmnist import MedMnistSet, SetName
from wbcbench_plugins.datasets.pbc import ARCHIVE, SHA256, Pbc
from wbcbench_plugins.datasets.raabin_wbc import RaabinWbc

from wbcbench.contracts import Dataset
from wbcbench.errors import DataError, MissingExtraError
from wbcbench.testing import DatasetContract

sys.path.insert(0, str(Path(__file__).parent))
import made


def once(path: Path, make: Callable[[Path], Path]) -> str:
    return str(path if path.exists() else make(path))


class TestBsccm(DatasetContract):
    def dataset(self, tmp_path: Path) -> Dataset:
        return Bsccm(Bsccm.Params(path=once(tmp_path / "BSCCM-tiny", made.bsccm)))


class TestMedMnist(DatasetContract):
    def dataset(self, tmp_path: Path) -> Dataset:
        path = once(tmp_path / "bloodmnist.npz", made.medmnist)
        return MedMnistSet(MedMnistSet.Params(path=path, check_digest=False))


class TestPbc(DatasetContract):
    def dataset(self, tmp_path: Path) -> Dataset:
        return Pbc(Pbc.Params(path=once(tmp_path / "PBC_dataset_normal_DIB", made.pbc)))


class TestRaabinWbc(DatasetContract):
    def dataset(self, tmp_path: Path) -> Dataset:
        return RaabinWbc(RaabinWbc.Params(path=once(tmp_path / "Raabin", made.raabin)))


class TestImagingFlow(DatasetContract):
    def dataset(self, tmp_path: Path) -> Dataset:
        return ImagingFlow(ImagingFlow.Params(path=once(tmp_path / "cells", made.flow)))


def test_bsccm_picks_the_right_planes_cells_and_classes(tmp_path: Path) -> None:
    folder = made.bsccm(tmp_path / "a" / "BSCCM-tiny")
    cells = Bsccm(Bsccm.Params(path=str(folder.parent))).load()  # the folder above, as an archive unpacks
    assert cells.modalities == {"brightfield": 1, "darkfield": 3, "dpc": 4, "fluorescence": 6}
    assert cells.classes == ("lymphocyte", "granulocyte", "monocyte")
    # cells 8, 9 (no leukocyte), 10 (no gate) and 11 (lymphocyte and monocyte) are out; 12 is in two gates of one
    kept = [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15]
    assert cells.ids == tuple(f"cell {100 + 7 * i}" for i in kept)
    np.testing.assert_array_equal(cells.labels, [0, 0, 1, 1, 1, 2, 2, 2, 1, 0, 2, 1])
    corners = np.array([[5, 6, 7, 4]]) + 10 * np.array(kept)[:, None]
    np.testing.assert_array_equal(cells.images["dpc"][:, :, 0, 0], corners)
    np.testing.assert_array_equal(cells.images["fluorescence"][0, :, 0, 0], [5, 4, 3, 2, 1, 0])
    assert cells.images["dpc"].dtype == np.uint16
    assert cells.groups is not None
    assert cells.groups[0] == cells.groups[1] != cells.groups[2] == cells.groups[3]
    params = Bsccm.Params(path=str(folder), classes=10, modalities={"bf": ["Brightfield"]}, group="none")
    fine = Bsccm(params).load()
    assert [fine.classes[c] for c in fine.labels] == [
        f"gate_{g}" for g in (0, 0, 1, 2, 3, 7, 8, 9, 4, 5, 0, 9, 1)
    ]  # here a cell in two gates is always in two classes
    assert fine.groups is None


def test_bsccm_notices_a_changed_chunk_and_a_wrong_channel(tmp_path: Path) -> None:
    folder = made.bsccm(tmp_path / "b")
    params = Bsccm.Params(path=str(folder))
    before = Bsccm(params).describe().fingerprint
    used = folder / "BSCCM_images.zarr/batch_0/all/slide_0/led_array/cell_100/0.0.0"
    used.write_bytes(used.read_bytes() + b"x")
    assert Bsccm(params).describe().fingerprint != before
    with pytest.raises(DataError, match=r"'Brightfeld' is not one\. Did you mean 'Brightfield'"):
        Bsccm(Bsccm.Params(path=str(folder), modalities={"bf": ["Brightfeld"]})).describe()
    with pytest.raises(DataError, match="not both"):
        Bsccm(Bsccm.Params(path=str(folder), modalities={"bf": ["Brightfield", "Fluor_690-"]})).describe()
    (folder / "BSCCM_surface_markers.csv").unlink()
    with pytest.raises(DataError, match=r"BSCCM_surface_markers\.csv"):
        Bsccm(params).describe()
    with pytest.raises(DataError, match=r"10\.5061/dryad\.sxksn038s"):
        Bsccm(Bsccm.Params(path=str(tmp_path / "nowhere"))).describe()


def test_bsccm_without_zarr_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.bsccm(tmp_path / "b")
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "zarr":
            raise ModuleNotFoundError(name, name=name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'wbcbench\[bsccm\]'"):
        Bsccm(Bsccm.Params(path=str(folder))).describe()


def test_medmnist_checks_the_published_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made.medmnist(tmp_path / "bloodmnist.npz")
    with pytest.raises(DataError, match=r"7053d0359d879ad8a5505303e11de1dc.*check_digest=false"):
        MedMnistSet(MedMnistSet.Params(path=str(tmp_path))).describe()
    own = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(_medmnist.SETS["bloodmnist"].md5, 28, own)
    cells = MedMnistSet(MedMnistSet.Params(path=str(tmp_path))).load()
    assert len(cells.classes) == 8
    assert set(cells.labels) == {0, 2, 7}, "labels keep their published numbers though few of them occur"
    assert cells.licence == "CC-BY-4.0"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="its MD5 is"):
        MedMnistSet(MedMnistSet.Params(path=str(tmp_path))).describe()


def test_medmnist_tells_sizes_and_sets_apart(tmp_path: Path) -> None:
    made.medmnist(tmp_path / "bloodmnist_64.npz", side=28)
    made.medmnist(tmp_path / "breastmnist.npz", labels=(0, 2), channels=1)
    with pytest.raises(DataError, match=r"Set dataset\.size=28"):
        MedMnistSet(MedMnistSet.Params(path=str(tmp_path), size=64, check_digest=False)).describe()
    with pytest.raises(DataError, match=r"labels 0\.\.1 of breastmnist"):
        MedMnistSet(MedMnistSet.Params(path=str(tmp_path), set="breastmnist", check_digest=False)).describe()
    with pytest.raises(DataError, match=r"bloodmnist_128\.npz.*10\.5281/zenodo\.10519652"):
        MedMnistSet(MedMnistSet.Params(path=str(tmp_path), size=128)).describe()


def test_medmnist_knows_every_set_in_four_sizes() -> None:
    assert set(_medmnist.SETS) == set(SetName.__args__)  # type: ignore[attr-defined]
    digests = [d for published in _medmnist.SETS.values() for d in published.md5.values()]
    assert len(digests) == len(set(digests)) == 4 * len(_medmnist.SETS)
    assert all(len(d) == 32 and set(d) <= set("0123456789abcdef") for d in digests)
    assert all(tuple(p.md5) == _medmnist.SIZES for p in _medmnist.SETS.values())


def test_pbc_leaves_copies_out_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.pbc(tmp_path / "PBC_dataset_normal_DIB")
    cells = Pbc(Pbc.Params(path=str(folder))).load(16)
    assert len(cells) == 16  # one copy, and both of those under two labels
    assert cells.ids is not None
    assert not {"PMY_9.jpg", "MO_77.jpg", "LY_77.jpg", ".DS_169665.jpg"} & set(cells.ids)
    assert any(note.startswith("1 byte-identical copies") for note in cells.notes)
    assert any(note.startswith("2 images that occur in two classes") for note in cells.notes)
    assert len(Pbc(Pbc.Params(path=str(folder), copies="keep")).load(16)) == 19
    with zipfile.ZipFile(tmp_path / "pbc.zip", "w") as archive:
        for file in sorted(folder.rglob("*.jpg")):
            archive.write(file, file.relative_to(tmp_path))
    zipped = Pbc(Pbc.Params(path=str(tmp_path / "pbc.zip"))).load(16)
    assert zipped.fingerprint == cells.fingerprint
    own = (tmp_path / "pbc.zip").rename(tmp_path / ARCHIVE)
    with pytest.raises(DataError, match=rf"{SHA256}.*check_digest=false"):
        Pbc(Pbc.Params(path=str(own))).describe()
    taken = Pbc(Pbc.Params(path=str(own), check_digest=False))
    assert taken.load(16).fingerprint == cells.fingerprint
    assert taken.public_params() == Pbc(Pbc.Params(path=str(folder))).public_params() == {"copies": "drop"}
    monkeypatch.setattr(pbc, "SHA256", hashlib.sha256(own.read_bytes()).hexdigest())
    assert Pbc(Pbc.Params(path=str(own))).describe().cells == 16
    (folder / "platelet").rename(folder / "thrombocyte")
    with pytest.raises(DataError, match="but platelet is missing"):
        Pbc(Pbc.Params(path=str(folder))).describe()


@pytest.mark.parametrize(("test", "sizes"), [("A", (20, 10)), ("B", (20, 4)), ("both", (20, 14))])
def test_raabin_parts(tmp_path: Path, test: Any, sizes: tuple[int, int]) -> None:
    cells = RaabinWbc(RaabinWbc.Params(path=str(made.raabin(tmp_path / "r")), test=test)).load(16)
    assert cells.split is not None
    assert ((cells.split == "train").sum(), (cells.split == "test").sum()) == sizes
    assert cells.classes == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
    assert cells.ids is not None
    for name, label in zip(cells.ids, cells.labels, strict=True):
        assert cells.classes[label].capitalize() in name


def test_raabin_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    folder = made.raabin(tmp_path / "r")
    made.photo(folder / "Train" / "Artifact" / "x.jpg", 1)
    with pytest.raises(DataError, match="'Artifact'"):
        RaabinWbc(RaabinWbc.Params(path=str(folder))).describe()
    with pytest.raises(DataError, match="folder Train"):
        RaabinWbc(RaabinWbc.Params(path=str(folder / "TestB"))).describe()


def test_imaging_flow_keeps_the_scale_and_knows_what_is_missing(tmp_path: Path) -> None:
    folder = made.flow(tmp_path / "cells")
    named = {"bf": 3, "pi": 4, "df": 6}
    cells = ImagingFlow(ImagingFlow.Params(path=str(folder), channels=named, window=14)).load()
    assert cells.modalities == {"bf": 1, "pi": 1, "df": 1}
    assert cells.images["bf"].shape == (8, 1, 14, 14)
    assert cells.classes == ("G1", "S")
    assert cells.ids == ("G1/97", "G1/99", "G1/101", "G1/103", "S/98", "S/100", "S/102", "S/104")
    assert cells.present is not None
    assert cells.ids[int(np.flatnonzero(~cells.present[:, 2])[0])] == "S/100"
    assert (~cells.present).sum() == 1
    # the first cell is 10 high and 12 wide: filled with its own border, its pixels as they were
    first = cells.images["pi"][0, 0]
    assert (first[:2] == 2000).all()
    assert (first[2 + 6 :] == 2000).all()
    assert (first[2 + 3 : 2 + 6, 1 + 3 : 1 + 6] != 2000).any()
    assert ImagingFlow(ImagingFlow.Params(path=str(folder), channels=named)).describe().image_size == 17


def test_imaging_flow_groups_and_names(tmp_path: Path) -> None:
    for run in ("run1", "run2"):
        made.flow(tmp_path / "cells" / run)
    made.photo(tmp_path / "cells" / "overview.png", 1)
    params = ImagingFlow.Params(path=str(tmp_path / "cells"), levels="group/class")
    cells = ImagingFlow(params).load(16)
    assert cells.groups is not None
    assert len(cells) == 16
    assert np.bincount(cells.groups).tolist() == [8, 8]
    assert any("1 images of another name" in note for note in cells.notes)
    with pytest.raises(DataError, match=r"channel 5 for pi.*3, 4, 6"):
        ImagingFlow(ImagingFlow.Params(path=str(tmp_path / "cells"), channels={"pi": 5})).describe()
    made.photo(tmp_path / "cells/run1/G1/97_Ch3.png", 1)
    with pytest.raises(DataError, match="found both"):
        ImagingFlow(params).describe()
