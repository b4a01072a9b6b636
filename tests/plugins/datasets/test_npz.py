"""Cells from .npz files: every layout that is read, and every broken file is refused with a way out."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wbcbench_plugins.datasets.npz import Npz

from wbcbench.contracts.dataset import Cells
from wbcbench.data import npz_file
from wbcbench.errors import DataError

N = 12
LABEL = np.arange(N) % 3


def pixels(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Callable[..., Npz]]:
    """`save(arrays)(params)` writes a file and opens it."""

    def write(arrays: dict[str, Any] | None = None, **more: Any) -> Callable[..., Npz]:
        path = tmp_path / "cells.npz"
        content = {"image": pixels(N, 8, 8), "label": LABEL} | (arrays or {}) | more
        np.savez_compressed(path, **{k: v for k, v in content.items() if v is not None})
        return lambda **params: Npz(Npz.Params(path=str(path), **params))

    return write


def agree(dataset: Npz, size: int | None = None) -> Cells:
    """Load, after checking that the description promises what comes."""
    said, cells = dataset.describe(), dataset.load(size)
    assert said.fingerprint == cells.fingerprint
    assert said.modalities == cells.modalities
    assert said.classes == cells.classes
    assert said.cells == len(cells)
    assert said.groups == (cells.groups is not None)
    assert (said.split_sizes is None) == (cells.split is None)
    if size is None:
        assert said.image_size == next(iter(cells.images.values())).shape[2]
    return cells


@pytest.mark.parametrize(
    ("shape", "modalities"),
    [
        ((N, 8, 8), {"image": 1}),
        ((N, 8, 8, 1), {"image": 1}),
        ((N, 8, 8, 3), {"image": 3}),
        ((N, 3, 8, 8), {"image": 3}),
        ((N, 2, 8, 8), {"channel0": 1, "channel1": 1}),
        ((N, 8, 8, 5), {f"channel{i}": 1 for i in range(5)}),
    ],
)
def test_default_modalities_follow_the_shape(
    save: Any, shape: tuple[int, ...], modalities: dict[str, int]
) -> None:
    image = pixels(*shape)
    cells = agree(save(image=image)())
    assert cells.modalities == modalities
    first = next(iter(cells.images.values()))[:, 0]
    expected = image if len(shape) == 3 else image[:, 0] if shape[2] == shape[3] else image[..., 0]
    np.testing.assert_array_equal(first, expected)


def test_named_channels_become_modalities(save: Any) -> None:
    image = pixels(N, 3, 8, 8)
    cells = agree(save(image=image, channels=np.array(["Brightfield_Ch3", "PI (DNA)", "Dark-field"]))())
    assert list(cells.images) == ["brightfield_ch3", "pi_dna", "dark_field"]
    np.testing.assert_array_equal(cells.images["pi_dna"], image[:, [1]])


@pytest.mark.parametrize("names", [["Ch 1", "ch-1"], ["ok", "??"]])
def test_channel_names_that_collide_or_vanish_are_refused(save: Any, names: list[str]) -> None:
    with pytest.raises(DataError, match=r"dataset\.modalities"):
        save(image=pixels(N, 2, 8, 8), channels=np.array(names))().describe()


def test_channels_of_another_number_are_ignored(save: Any) -> None:
    assert save(image=pixels(N, 8, 8, 3), channels=np.array(["a", "b"]))().describe().modalities == {"image": 3}


def test_modalities_pick_channels_in_the_users_order(save: Any) -> None:
    image = pixels(N, 3, 8, 8)
    cells = agree(save(image=image)(modalities={"dark": [2], "both": [1, 0]}))
    assert cells.modalities == {"dark": 1, "both": 2}
    np.testing.assert_array_equal(cells.images["both"], image[:, [1, 0]])


def test_modalities_may_be_arrays_of_their_own_in_any_layout(save: Any) -> None:
    arrays = {"bf": pixels(N, 8, 8), "rgb": pixels(N, 8, 8, 3), "fl": pixels(N, 2, 8, 8, dtype=np.uint16)}
    cells = agree(save(arrays, image=None)(modalities={"brightfield": "bf", "smear": "rgb", "dna": "fl"}))
    assert cells.modalities == {"brightfield": 1, "smear": 3, "dna": 2}
    assert cells.images["dna"].dtype == np.uint16
    np.testing.assert_array_equal(cells.images["smear"], arrays["rgb"].transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"modalities": {"x": "imag"}}, "Did you mean 'image'"),
        ({"modalities": {"x": [3]}}, "0..2"),
        ({"modalities": {"x": [-1]}}, "0..2"),
        ({"modalities": {"x": []}}, "0..2"),
        ({"modalities": {"a/b": [0]}}, "Try 'a_b'"),
        ({"image": "imgae"}, "Did you mean 'image'"),
        ({"label": "lable"}, "Did you mean 'label'"),
        ({"group": "donor"}, "'donor'"),
        ({"split": "fold"}, "'fold'"),
        ({"layout": "channels_last"}, "channels"),
    ],
)
def test_names_and_channels_that_are_not_there(save: Any, params: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        save(image=pixels(N, 3, 8, 8))(**params).describe()


def test_an_ambiguous_layout_must_be_said(save: Any) -> None:
    image = pixels(N, 3, 3, 3)
    with pytest.raises(DataError, match=r"dataset\.layout"):
        save(image=image)().describe()
    np.testing.assert_array_equal(save(image=image)(layout="channels_first").load().images["image"], image)
    last = save(image=image)(layout="channels_last").load().images["image"]
    np.testing.assert_array_equal(last, image.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(N, 8, 9), (N, 8, 9, 3), (N, 64), (N, 1, 2, 8, 8)])
def test_images_that_are_not_square_are_refused(save: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"square|\[N,S,S\]"):
        save(image=pixels(*shape))().describe()


def test_modalities_of_two_sides_need_a_size(save: Any) -> None:
    dataset = save(a=pixels(N, 8, 8), b=pixels(N, 6, 6))(modalities={"a": "a", "b": "b"})
    assert dataset.describe().image_size is None
    with pytest.raises(DataError, match="--image-size"):
        dataset.load()
    assert {a.shape[2] for a in dataset.load(5).images.values()} == {5}


def test_other_splits_are_left_out_and_counted(save: Any) -> None:
    split = np.array(["train", "val", "test", "extra"] * 3)
    label = np.where(split == "extra", -1, LABEL)
    cells = agree(save(label=label, split=split)())
    assert len(cells) == 9
    assert any("3 cells" in note and "extra" in note for note in cells.notes)
    assert cells.ids is not None
    assert cells.ids[:4] == ("row 0", "row 1", "row 2", "row 4")
    np.testing.assert_array_equal(cells.images["image"][:, 0], pixels(N, 8, 8)[split != "extra"])
    assert save(split=split)().describe().split_sizes == {"train": 3, "val": 3, "test": 3}


@pytest.mark.parametrize("split", [np.array(["a"] * N), np.zeros(N, int), np.array(["train"] * (N - 1))])
def test_useless_splits_are_refused(save: Any, split: np.ndarray) -> None:
    with pytest.raises(DataError, match="split"):
        save(split=split)().describe()


def test_groups_are_numbered(save: Any) -> None:
    cells = agree(save(group=np.array(["b", "a", "c"] * 4))())
    assert cells.groups is not None
    np.testing.assert_array_equal(cells.groups, [1, 0, 2] * 4)
    with pytest.raises(DataError, match="group"):
        save(group=np.array([np.nan, 1.0, 2.0] * 4))().describe()


@pytest.mark.parametrize(
    ("label", "classes", "names", "codes"),
    [
        (["neu", "bas", "neu"], None, ("bas", "neu"), [1, 0, 1]),
        (["neu", "bas", "neu"], ["neu", "bas"], ("neu", "bas"), [0, 1, 0]),
        ([b"neu", b"bas", b"neu"], None, ("bas", "neu"), [1, 0, 1]),
        (["10", "9", "10"], None, ("9", "10"), [1, 0, 1]),
        ([5, 3, 5], None, ("3", "5"), [1, 0, 1]),
        ([2.0, 0.0, 2.0], ["a", "b", "c"], ("a", "b", "c"), [2, 0, 2]),
        ([[2], [0], [2]], ["a", "b", "c"], ("a", "b", "c"), [2, 0, 2]),
    ],
)
def test_labels(save: Any, label: Any, classes: Any, names: tuple[str, ...], codes: list[int]) -> None:
    cells = agree(save(label=np.array(label * 4), classes=None if classes is None else np.array(classes))())
    assert cells.classes == names
    np.testing.assert_array_equal(cells.labels, codes * 4)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (np.where(np.arange(N) == 4, np.nan, LABEL), "1 are NaN.*row 4"),
        (LABEL + 0.5, "fraction"),
        (LABEL - 1, "4 are negative"),
        (np.array(["a", "b", ""] * 4), "4 have none"),
        (np.array(["a", "b", "NaN"] * 4), "4 have none"),
        (np.zeros(N, int), "two classes"),
        (np.eye(N, dtype=int), "one label per cell"),
        (np.array(LABEL, dtype=object), "Python objects"),
        (LABEL[:-1], "one per label"),
        (np.array([], dtype=int), r"labels \[N\]"),
        (LABEL.astype("complex64"), "whole numbers or text"),
    ],
)
def test_broken_labels_are_refused_at_once(save: Any, label: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        save(label=label)().describe()


def test_labels_beyond_the_named_classes_are_refused(save: Any) -> None:
    with pytest.raises(DataError, match="highest is 2"):
        save(classes=np.array(["a", "b"]))().describe()
    with pytest.raises(DataError, match="Did you mean 'neutrophil'"):
        save(label=np.array(["neutrophils", "b", "b"] * 4), classes=np.array(["neutrophil", "b"]))().describe()


def test_other_lengths_are_refused(save: Any) -> None:
    with pytest.raises(DataError, match="Expected 12 images"):
        save(image=pixels(N + 1, 8, 8))().describe()
    with pytest.raises(DataError, match="one value per label"):
        save(group=np.arange(N - 1))().describe()


def test_floats_in_unit_range_are_scaled_with_a_note(save: Any) -> None:
    image = pixels(N, 8, 8)
    cells = agree(save(image=(image / 255).astype(np.float32))())
    np.testing.assert_array_equal(cells.images["image"][:, 0], image)
    assert any("scaled to 0..255" in note for note in cells.notes)


def test_floats_to_255_are_rounded_and_whole_numbers_kept(save: Any) -> None:
    image = pixels(N, 8, 8)
    cells = save(image=image + 0.2)().load()
    np.testing.assert_array_equal(cells.images["image"][:, 0], image)
    assert any("rounded" in note for note in cells.notes)
    wide = pixels(N, 8, 8, dtype=np.int64) * 200
    assert save(image=wide)().load().images["image"].dtype == np.uint16
    flags = save(image=image > 99)().load().images["image"]
    assert set(np.unique(flags)) == {0, 255}


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (pixels(N, 8, 8) * 2.0, "one fixed window"),
        (pixels(N, 8, 8) / 255 - 0.5, "one fixed window"),
        (np.full((N, 8, 8), np.nan), "768 are NaN"),
        (np.full((N, 8, 8), np.inf), "infinite"),
        (pixels(N, 8, 8, dtype=np.int32) * 1000, "16 bits"),
        (pixels(N, 8, 8, dtype=np.int32) - 300, "16 bits"),
        (np.full((N, 8, 8), "x"), "numbers"),
    ],
)
def test_pixels_that_mean_nothing_certain_are_refused(save: Any, image: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        save(image=image)().load()


def test_sixteen_bits_survive_resizing(save: Any) -> None:
    images = save(image=np.full((N, 8, 8), 60001, np.uint16))().load(5).images["image"]
    assert images.dtype == np.uint16
    assert images.shape == (N, 1, 5, 5)
    assert (images == 60001).all()
    ramp = np.linspace(0, 65535, N * 192).reshape(N, 8, 8, 3).astype(np.uint16)
    small = save(image=ramp)().load(4).images["image"]
    assert small.shape == (N, 3, 4, 4)
    np.testing.assert_allclose(small.mean((2, 3)), ramp.mean((1, 2)), atol=60)


def test_resizing_is_antialiased_and_noted(save: Any) -> None:
    board = np.indices((8, 8)).sum(0) % 2 * 255
    cells = save(image=np.repeat(board[None].astype(np.uint8), N, 0))().load(4)
    assert abs(cells.images["image"].mean() - 127.5) < 3
    assert cells.images["image"].std() < 25  # nearest neighbour would give 0 or 255 only
    assert any("from 8" in note for note in cells.notes)


def medmnist(**changes: Any) -> dict[str, Any]:
    arrays: dict[str, Any] = {"image": None, "label": None}
    for side, count in (("train", 6), ("val", 3), ("test", 4)):
        arrays[f"{side}_images"] = pixels(count, 8, 8, 3)
        arrays[f"{side}_labels"] = (np.arange(count) % 3)[:, None].astype(np.uint8)
    return arrays | changes


def test_medmnist_is_read_as_it_is(save: Any) -> None:
    cells = agree(save(medmnist())())
    assert cells.modalities == {"image": 3}
    assert cells.split is not None
    assert cells.split.tolist() == ["train"] * 6 + ["val"] * 3 + ["test"] * 4
    np.testing.assert_array_equal(cells.images["image"][6:9], medmnist()["val_images"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(cells.labels[9:], np.arange(4) % 3)
    assert save(medmnist())(modalities={"red": [0]}).load().modalities == {"red": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"val_labels": None},
        {"test_images": None},
        {"val_images": None, "val_labels": None},
        {"val_labels": np.zeros((9, 1), int)},
        {"test_images": pixels(4, 9, 9, 3)},
    ],
)
def test_medmnist_with_missing_or_misfit_members_is_refused(save: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"MedMNIST|label"):
        save(medmnist(**changes))().describe()


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04"])
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"numpy\.savez"):
        Npz(Npz.Params(path=str(path))).describe()


def test_truncated_and_absent_files_are_refused(save: Any, tmp_path: Path) -> None:
    save()
    path = tmp_path / "cells.npz"
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cannot be read"):
            Npz(Npz.Params(path=str(path))).load()
    for wrong in (tmp_path / "none.npz", tmp_path, Path("x" * 5000)):
        with pytest.raises(DataError, match=r"dataset\.path"):
            Npz(Npz.Params(path=str(wrong))).describe()


def test_a_damaged_member_is_refused_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cells.npz"
    np.savez(path, image=np.zeros((N, 8, 8), np.uint8), label=LABEL)
    content = bytearray(path.read_bytes())
    content[300] ^= 255  # inside the pixels: the zip's checksum no longer fits
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        Npz(Npz.Params(path=str(path))).load()


def test_the_fingerprint_follows_content_and_choice_not_place(save: Any, tmp_path: Path) -> None:
    first = save(image=pixels(N, 8, 8, 3))().describe().fingerprint
    assert save(image=pixels(N, 8, 8, 3))().describe().fingerprint == first
    explicit = save(image=pixels(N, 8, 8, 3))(modalities={"image": [0, 1, 2]})
    assert explicit.describe().fingerprint == first
    other = tmp_path / "other.npz"
    other.write_bytes((tmp_path / "cells.npz").read_bytes())
    assert Npz(Npz.Params(path=str(other))).describe().fingerprint == first
    assert save(image=pixels(N, 8, 8, 3))(modalities={"red": [0]}).describe().fingerprint != first
    assert save(image=pixels(N, 8, 8, 3) // 2)().describe().fingerprint != first
    assert save(image=pixels(N, 8, 8, 3), label=LABEL[::-1])().describe().fingerprint != first


def test_describing_decodes_no_pixels(save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = save(split=np.array(["train", "val", "test"] * 4))()
    read: list[str] = []
    original = npz_file.NpzFile.read

    def watched(self: npz_file.NpzFile, name: str, purpose: str) -> np.ndarray:
        read.append(name)
        return original(self, name, purpose)

    monkeypatch.setattr(npz_file.NpzFile, "read", watched)
    dataset.describe()
    assert "label" in read
    assert "image" not in read


def test_where_the_file_lies_is_no_part_of_a_trial(save: Any) -> None:
    assert "path" not in save()().public_params()
    assert save()().public_params()["label"] == "label"


def test_real_imaging_flow_cytometry(real: Callable[[str], Path]) -> None:
    path = str(real("jurkat_ifc/data.npz"))
    dataset = Npz(Npz.Params(path=path))
    said = dataset.describe()
    assert said.modalities == {"brightfield_ch3": 1, "pi_dna_fluorescence_ch4": 1, "darkfield_sidescatter_ch6": 1}
    assert said.split_sizes == {"train": 2318, "val": 578, "test": 970}
    start = time.perf_counter()
    dataset.describe()
    assert time.perf_counter() - start < 0.1
    cells = Npz(Npz.Params(path=path, modalities={"brightfield": [0]})).load()
    with np.load(path) as raw:
        keep = np.isin(raw["split"], ("train", "val", "test"))
        np.testing.assert_array_equal(cells.images["brightfield"], raw["image"][keep][:, :1])
        np.testing.assert_array_equal(cells.labels, raw["label"][keep])
    assert cells.classes == ("G1", "S", "G2", "M")
    assert any("4500" in note for note in cells.notes)


def test_real_smears(real: Callable[[str], Path]) -> None:
    cells = Npz(Npz.Params(path=str(real("pbc_mini/data.npz")))).load(32)
    assert cells.images["image"].shape == (2550, 3, 32, 32)
    assert cells.classes == ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")


def test_text_that_is_not_unicode_is_a_damaged_file(tmp_path: Path) -> None:
    label = np.array(["a", "b"] * 8)
    label.view(np.uint32)[0] = 0x7FFFFFFF
    np.savez(tmp_path / "cells.npz", image=np.zeros((16, 8, 8), np.uint8), label=label)
    with pytest.raises(DataError, match=r"'label' holds text that is not Unicode"):
        Npz(Npz.Params(path=str(tmp_path / "cells.npz"))).describe()
