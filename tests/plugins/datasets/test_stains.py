"""Pseudo-modalities: the known colours land where they must, and nobody can mistake them for sensors."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wbcbench_plugins.datasets.npz import Npz
from wbcbench_plugins.datasets.stains import Stains

from wbcbench.data.decode import WINDOWS, convert
from wbcbench.errors import DataError, UsageError

N = 12


@pytest.fixture
def smears(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3)).astype(np.uint8)
    split = np.array(["train", "val", "test"] * 4)
    np.savez(tmp_path / "s.npz", image=image, label=np.arange(N) % 2, split=split, group=np.arange(N))
    return tmp_path / "s.npz"


def stains(path: Path, **params: Any) -> Stains:
    return Stains(Stains.Params(**{"base_params": {"path": str(path)}, **params}))


@pytest.mark.parametrize("space", list(WINDOWS))
@pytest.mark.parametrize("keep", [False, True])
def test_each_space_gives_its_modalities_as_described(smears: Path, space: str, keep: bool) -> None:
    dataset, base = stains(smears, space=space, keep_rgb=keep), Npz(Npz.Params(path=str(smears)))
    said, cells, plain = dataset.describe(), dataset.load(), base.load()
    names = (["rgb"] if keep else []) + list(WINDOWS[space])  # type: ignore[index]
    assert list(said.modalities) == list(cells.images) == names
    assert said.modalities == cells.modalities
    assert said.pseudo_multimodal
    assert cells.pseudo_multimodal
    assert said.fingerprint == cells.fingerprint != plain.fingerprint
    assert said.image_size == 8
    assert said.split_sizes == {"train": 4, "val": 4, "test": 4}
    np.testing.assert_array_equal(cells.labels, plain.labels)
    np.testing.assert_array_equal(cells.groups, plain.groups)  # type: ignore[arg-type]
    assert all(a.dtype == np.uint8 for a in cells.images.values())
    assert any("computed from image" in note for note in cells.notes)
    if keep:
        np.testing.assert_array_equal(cells.images["rgb"], plain.images["image"])


def test_red_green_blue_are_the_channels_themselves(smears: Path) -> None:
    cells, plain = stains(smears, space="rgb").load(), Npz(Npz.Params(path=str(smears))).load().images["image"]
    for i, name in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(cells.images[name], plain[:, [i]])


def colour(r: int, g: int, b: int, space: Any) -> dict[str, int]:
    image = np.array([r, g, b], np.uint8).reshape(1, 3, 1, 1)
    return {name: int(array.item()) for name, array in convert(image, space).items()}


def test_known_colours() -> None:
    assert colour(255, 255, 255, "hed") == {"haematoxylin": 0, "eosin": 0, "residual": 0}
    nucleus, granule = colour(90, 60, 150, "hed"), colour(240, 130, 150, "hed")
    assert nucleus["haematoxylin"] > 120 > granule["haematoxylin"]
    assert granule["eosin"] > nucleus["eosin"]
    assert colour(255, 0, 0, "hsv") == {"hue": 0, "saturation": 255, "value": 255}
    assert colour(0, 255, 0, "hsv") == {"hue": 85, "saturation": 255, "value": 255}
    assert colour(255, 255, 255, "lab") == {"lightness": 255, "green_red": 128, "blue_yellow": 128}
    assert colour(255, 0, 0, "lab")["green_red"] > 190 > 90 > colour(0, 255, 0, "lab")["green_red"]
    assert colour(0, 0, 255, "lab")["blue_yellow"] < 40


def test_many_cells_are_converted_as_one_is() -> None:
    images = np.random.default_rng(1).integers(0, 256, (600, 3, 4, 4)).astype(np.uint8)
    steps: list[tuple[int, int, str]] = []
    whole = convert(images, "hed", lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == [256, 512, 600]
    for i in (0, 255, 256, 599):
        alone = convert(images[i : i + 1], "hed")
        for name in whole:
            np.testing.assert_array_equal(whole[name][[i]], alone[name])
    wide = convert(images.astype(np.uint16) * 257, "lab")
    for name, array in convert(images, "lab").items():
        np.testing.assert_array_equal(wide[name], array)


def test_it_is_converted_once(smears: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stains(smears).load(6)
    monkeypatch.setattr("wbcbench_plugins.datasets.stains.convert", lambda *_: pytest.fail("converted again"))
    second = stains(smears).load(6)
    for name, array in first.images.items():
        np.testing.assert_array_equal(array, second.images[name])


def test_the_fingerprint_follows_every_choice(smears: Path) -> None:
    choices: list[dict[str, Any]] = [{}, {"space": "lab"}, {"keep_rgb": True}, {"space": "hsv"}]
    assert len({stains(smears, **choice).describe().fingerprint for choice in choices}) == len(choices)


def test_places_of_the_base_are_no_part_of_a_trial(smears: Path) -> None:
    public = stains(smears, space="lab").public_params()
    assert str(smears) not in repr(public)
    assert public["base"] == "npz"
    assert public["base_params"] == Npz().public_params()
    again = Stains(Stains.Params(**{**public, "base_params": public["base_params"] | {"path": str(smears)}}))
    assert again.describe() == stains(smears, space="lab").describe()


def test_unknown_parameters_of_the_base_are_refused(smears: Path) -> None:
    with pytest.raises(UsageError, match=r"'pth' is not a known key. Did you mean 'path'"):
        stains(smears, base_params={"pth": "x.npz"}).describe()
    with pytest.raises(UsageError, match="nzp"):
        stains(smears, base="nzp").describe()
    with pytest.raises(DataError, match="stains itself"):
        stains(smears, base="stains", base_params={}).describe()


OWN = '''
"""Smears of one's own."""
from wbcbench_plugins.datasets.npz import Npz

class Mine(Npz):
    """An .npz under another name."""
    name = "mine"
'''


def test_any_registered_data_set_of_colour_images_will_do(
    smears: Path, tmp_path: Path, invoke: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(OWN)
    words = ("--plugins-dir", str(tmp_path / "plugins"), "--dataset", "stains", "--dry-run", "--json")
    words = (*words, "--set", f"dataset.base_params.path={smears}")
    ids = {}
    for base in ("npz", "mine", "local.mine/mine"):
        code, out, err = invoke("run", *words, "--set", f"dataset.base={base}")
        assert code == 0, err
        ids[base] = json.loads(out)["trials"][-1]["trial_id"]
    assert ids["npz"] != ids["mine"]
    code, _, err = invoke("run", *words, "--set", "dataset.base=mien")
    assert code == 2
    assert "Did you mean 'mine'" in err


def test_without_a_colour_modality_it_is_refused(tmp_path: Path, smears: Path) -> None:
    np.savez(tmp_path / "grey.npz", image=np.zeros((4, 8, 8), np.uint8), label=[0, 1, 0, 1])
    with pytest.raises(DataError, match="image \\(1\\)"):
        stains(tmp_path / "grey.npz").describe()
    with pytest.raises(DataError, match="Did you mean 'image'"):
        stains(smears, modality="imgae").describe()


def manifest(folder: Path, rows: list[str]) -> Path:
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(folder / f"c{i}.png")
        Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(folder / f"g{i}.png")
    (folder / "manifest.csv").write_text("\n".join(["grey,smear,label", *rows, ""]))
    return folder


def test_a_folder_as_base_and_the_first_colour_modality(tmp_path: Path) -> None:
    folder = manifest(tmp_path, [f"g{i}.png,c{i}.png,{i % 2}" for i in range(4)])
    cells = stains(folder, base="folder").load()
    assert any("computed from smear" in note for note in cells.notes)
    assert any("not used: grey" in note for note in cells.notes)
    assert "root" not in stains(folder, base="folder").public_params()["base_params"]


def test_cells_without_the_colour_image_are_refused(tmp_path: Path) -> None:
    folder = manifest(tmp_path, ["g0.png,c0.png,0", "g1.png,,1", "g2.png,c2.png,0"])
    with pytest.raises(DataError, match="1 have none"):
        stains(folder, base="folder").load()
    folder = manifest(tmp_path, [",c0.png,0", "g1.png,c1.png,1"])
    assert stains(folder, base="folder").load().present is None


@pytest.mark.skipif(
    importlib.util.find_spec("wbcbench_plugins.datasets.synthetic") is None, reason="no synthetic data set yet"
)
def test_rendered_cells_as_base() -> None:
    dataset = stains(Path(), base="synthetic", base_params={"cells": 60})
    said, cells = dataset.describe(), dataset.load(24)
    assert said.fingerprint == cells.fingerprint
    assert cells.images["haematoxylin"].shape == (60, 1, 24, 24)
    assert cells.pseudo_multimodal


def test_real_smears(real: Callable[[str], Path]) -> None:
    """The windows fit a real smear: used, and hardly clipped."""
    cells = stains(real("pbc_mini/data.npz")).load(32)
    for name, array in cells.images.items():
        assert array.shape == (2550, 1, 32, 32)
        assert array.std() > 15, name
        assert (array == 255).mean() < 0.002, name
