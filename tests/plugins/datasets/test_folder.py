"""The user's own cells: what is read of images and manifests, and how broken rows are reported."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wbcbench_plugins.datasets.folder import Folder

from wbcbench.contracts.dataset import Cells
from wbcbench.data import image_files
from wbcbench.data.splits import make_split
from wbcbench.errors import DataError
from wbcbench.spec.trial import SplitSpec


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


class Cabinet:
    """A folder of images and a manifest, filled by the tests."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def image(self, name: str, pixels: np.ndarray | Image.Image, **options: Any) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
        return name

    def manifest(self, header: str, rows: Sequence[str], name: str = "manifest.csv", newline: str = "\n") -> Path:
        path = self.root / name
        path.write_bytes(newline.join([header, *rows, ""]).encode())
        return path

    def open(self, **params: Any) -> Folder:
        return Folder(Folder.Params(**{"path": str(self.root), **params}))


@pytest.fixture
def cabinet(tmp_path: Path) -> Cabinet:
    return Cabinet(tmp_path)


@pytest.fixture
def six(cabinet: Cabinet) -> Cabinet:
    """Six cells of two classes, bright-field and fluorescence, 8 x 8."""
    for i in range(6):
        cabinet.image(f"bf/{i}.png", noise(8, 8, seed=i))
        cabinet.image(f"fl/{i}.png", noise(8, 8, seed=100 + i))
    cabinet.manifest("BF,fl,label", [f"bf/{i}.png,fl/{i}.png,{'ab'[i % 2]}" for i in range(6)])
    return cabinet


def agree(dataset: Folder, size: int | None = None) -> Cells:
    said, cells = dataset.describe(), dataset.load(size)
    assert said.fingerprint == cells.fingerprint
    assert said.modalities == cells.modalities
    assert (said.classes, said.cells, said.groups) == (cells.classes, len(cells), cells.groups is not None)
    return cells


def test_a_manifest_and_its_images(six: Cabinet) -> None:
    cells = agree(six.open())
    assert list(cells.images) == ["bf", "fl"]
    np.testing.assert_array_equal(cells.images["fl"][3, 0], noise(8, 8, seed=103))
    assert cells.classes == ("a", "b")
    assert cells.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert cells.present is None
    assert cells.ids is not None
    assert cells.ids[2] == "bf/2.png"
    assert cells.notes == []
    said = six.open().describe()
    assert said.image_size == 8
    assert said.split_sizes is None


def test_modalities_columns_and_paths_are_chosen(six: Cabinet) -> None:
    rows = [f"c{i},{i}.png,{'xy'[i % 2]},d{i // 2},{('train', 'val', 'test')[i // 2]}" for i in range(6)]
    path = six.manifest("name,file,kind,donor,fold", rows, "sub.csv")
    cells = agree(
        six.open(path=str(path), root=str(six.root / "bf"), modalities={"dna": "file"}, label="kind",
                 group="donor", split="fold", id="name")
    )  # fmt: skip
    assert list(cells.images) == ["dna"]
    assert cells.groups is not None
    assert cells.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert cells.split is not None
    assert cells.split.tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert cells.ids == tuple(f"c{i}" for i in range(6))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_what_spreadsheets_write(six: Cabinet, delimiter: str, bom: str) -> None:
    rows = [delimiter.join(("ab"[i % 2], f'"bf\\{i}.png"', f"fl/{i}.png")) for i in range(6)]
    six.manifest(bom + delimiter.join(("label", "bf", "fl")), [*rows, ""], newline="\r\n")
    assert agree(six.open()).images["bf"].shape == (6, 1, 8, 8)


def test_image_kinds(cabinet: Cabinet) -> None:
    rgb = noise(8, 8, 3)
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    alpha = np.dstack([rgb, noise(8, 8, seed=5)])
    kinds = {
        "rgb.png": (rgb, rgb),
        "rgb.bmp": (rgb, rgb),
        "rgb.tif": (rgb, rgb),
        "alpha.png": (alpha, rgb),
        "palette.png": (palette, np.asarray(palette.convert("RGB"))),
        "grey.png": (rgb[..., 0], np.repeat(rgb[..., :1], 3, 2)),
        "bits.png": (Image.fromarray(rgb[..., 0] > 99), np.repeat((rgb[..., :1] > 99) * np.uint8(255), 3, 2)),
    }
    for name, (written, _) in kinds.items():
        cabinet.image(name, written)
    cabinet.image("photo.jpg", rgb, quality=95)
    names = [*kinds, "photo.jpg"]
    cabinet.manifest("image,label", [f"{name},{i % 2}" for i, name in enumerate(names)])
    images = agree(cabinet.open()).images["image"]
    assert images.shape == (8, 3, 8, 8)
    for name, (_, expected), got in zip(kinds, kinds.values(), images, strict=False):
        np.testing.assert_array_equal(got, expected.transpose(2, 0, 1), err_msg=name)
    with Image.open(cabinet.root / "photo.jpg") as photo:
        np.testing.assert_array_equal(images[7], np.asarray(photo).transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen(cabinet: Cabinet, suffix: str) -> None:
    wide = (noise(8, 8).astype(np.uint16) << 8) + 7
    for i in range(2):
        cabinet.image(f"{i}.{suffix}", wide + i)
    cabinet.manifest("image,label", [f"{i}.{suffix},{i}" for i in range(2)])
    images = agree(cabinet.open()).images["image"]
    assert images.dtype == np.uint16
    np.testing.assert_array_equal(images[1, 0], wide + 1)
    assert cabinet.open().load(4).images["image"].dtype == np.uint16


def test_eight_and_sixteen_bits_are_not_mixed_within_a_modality(cabinet: Cabinet) -> None:
    cabinet.image("8.png", noise(8, 8))
    cabinet.image("16.png", noise(8, 8).astype(np.uint16))
    cabinet.manifest("image,label", ["8.png,a", "16.png,b"])
    with pytest.raises(DataError, match=r"1 have 8 \(line 2\) and 1 have 16 \(line 3\)"):
        cabinet.open().describe()
    cabinet.manifest("eight,sixteen,label", ["8.png,16.png,a", "8.png,16.png,b"])
    assert {a.dtype.name for a in cabinet.open().load().images.values()} == {"uint8", "uint16"}


def test_grey_and_colour_in_one_modality_become_colour(cabinet: Cabinet) -> None:
    grey = noise(8, 8)
    cabinet.image("g.png", grey)
    cabinet.image("c.png", noise(8, 8, 3))
    cabinet.manifest("image,other,label", ["g.png,g.png,a", "c.png,g.png,b"])
    cells = agree(cabinet.open())
    assert cells.modalities == {"image": 3, "other": 1}
    np.testing.assert_array_equal(cells.images["image"][0], np.repeat(grey[None], 3, 0))


def test_mixed_sizes_are_cropped_to_the_middle_and_resized(cabinet: Cabinet) -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    cabinet.image("wide.png", wide)
    cabinet.image("high.png", np.ascontiguousarray(wide.T))
    cabinet.image("square.png", np.full((40, 40), 90, np.uint8))
    cabinet.manifest("image,label", ["wide.png,a", "high.png,b", "square.png,a"])
    assert cabinet.open().describe().image_size is None
    with pytest.raises(DataError, match=r"10 to 40 pixels.*--image-size"):
        cabinet.open().load()
    cells = agree(cabinet.open(), 8)
    assert cells.images["image"].shape == (3, 1, 8, 8)
    assert (cells.images["image"][:2] == 200).all()
    assert (cells.images["image"][2] == 90).all()
    assert any("2 images that are not square" in note for note in cells.notes)
    assert any("10..40" in note for note in cells.notes)


def test_an_empty_path_is_a_missing_image(six: Cabinet) -> None:
    six.manifest("bf,fl,label", ["bf/0.png,,a", "bf/1.png,fl/1.png,b", ",fl/2.png,a", "nan,fl/3.png,b"])
    cells = agree(six.open())
    assert cells.present is not None
    assert cells.present.tolist() == [[True, False], [True, True], [False, True], [False, True]]
    assert not cells.images["bf"][2:].any()
    assert cells.ids == ("bf/0.png", "bf/1.png", "fl/2.png", "fl/3.png")
    assert "2 cells have no bf image." in cells.notes


def test_rows_of_no_split_and_left_out_rows_need_not_be_whole(six: Cabinet) -> None:
    rows = [
        "bf/0.png,a,train,",
        "bf/1.png,b,val,",
        "bf/2.png,a,test,",
        "none.png,,,",
        "none.png,,extra,",
        "x,,,drop",
    ]
    six.manifest("bf,label,split,duplicate", rows)
    cells = agree(six.open(leave_out={"duplicate": ["drop", "conflict"]}))
    assert len(cells) == 3
    assert any(note.startswith("2 cells of no split") and "(empty), extra" in note for note in cells.notes)
    assert "1 cells were left out by duplicate." in cells.notes
    assert six.open(leave_out={"duplicate": ["drop"]}).describe().split_sizes == {"train": 1, "val": 1, "test": 1}


def _bomb(path: Path, side: int = 9000) -> None:
    """A PNG of `side` x `side` pixels in a few bytes: only its header is real."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))


def test_every_broken_row_is_reported_at_once(six: Cabinet) -> None:
    (six.root / "zero.png").write_bytes(b"")
    (six.root / "text.png").write_text("not an image")
    _bomb(six.root / "huge.png")
    _bomb(six.root / "bomb.png", 30000)
    Image.fromarray(noise(8, 8)).save(
        six.root / "stack.tif", save_all=True, append_images=[Image.fromarray(noise(8, 8))]
    )
    rows = [
        "1,bf/0.png,a",
        "2,none.png,a",
        "3,zero.png,a",
        "4,text.png,b",
        "5,huge.png,b",
        "6,bomb.png,b",
        "7,stack.tif,b",
        "8,bf/1.png,",
        "9,bf/2.png,NaN",
        "10,,b",
        "1,bf/3.png,b",
        "12,bf/4.png",
        "13,bf,b",
    ]
    six.manifest("id,bf,label", rows)
    with pytest.raises(DataError) as caught:
        six.open().describe()
    lines = str(caught.value).splitlines()
    assert "12 problems" in lines[0]
    expected = [
        "line 3: none.png does not exist",
        "line 4: zero.png is empty",
        "line 5: text.png is not a readable",
        "line 6: huge.png has 9000 x 9000 pixels",
        "line 7: bomb.png has more than 64 million",
        "line 8: stack.tif holds 2 frames",
        "line 9: has no label",
        "line 10: has no label (column 'label' is 'NaN')",
        "line 11: has no image",
        "line 12: repeats the id '1' of line 2",
        "line 13: has 2 fields, but the header has 3",
        "line 14: bf cannot be read",
    ]
    assert len(lines) == len(expected) + 2
    assert "a row whose split is empty is left out" in lines[-1]
    for line, start in zip(lines[1:], expected, strict=False):
        assert line.strip().startswith(start)


def test_of_many_problems_the_first_twenty_and_the_total_are_shown(six: Cabinet) -> None:
    six.manifest("bf,label", [f"none{i}.png,a" for i in range(50)])
    with pytest.raises(DataError, match="50 problems") as caught:
        six.open().describe()
    assert "line 21:" in str(caught.value)
    assert "line 22:" not in str(caught.value)
    assert "and 30 more" in str(caught.value)
    assert f"are relative to {six.root} (dataset.root)" in str(caught.value)


def test_truncated_images_are_found_together_when_they_are_decoded(six: Cabinet) -> None:
    for i in (1, 4):
        file = six.root / f"bf/{i}.png"
        file.write_bytes(file.read_bytes()[:60])
    six.open().describe()
    for _ in range(2):  # nothing half-decoded was cached
        with pytest.raises(DataError, match="2 problems") as caught:
            six.open().load()
        assert "line 3: bf/1.png cannot be decoded" in str(caught.value)
        assert "line 6: bf/4.png" in str(caught.value)


def test_a_quoted_line_break_does_not_shift_line_numbers(six: Cabinet) -> None:
    six.manifest("bf,label,comment", ['bf/0.png,a,"two\nlines"', "none.png,b,x"])
    with pytest.raises(DataError, match=r"line 4: none.png"):
        six.open(modalities={"bf": "bf"}).describe()


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"label": "lable"}, "Did you mean 'label'"),
        ({"modalities": {"x": "fll"}}, "Did you mean 'fl'"),
        ({"group": "donor"}, "'donor'"),
        ({"split": "fold"}, "'fold'"),
        ({"id": "name"}, "'name'"),
        ({"leave_out": {"dup": ["x"]}}, "'dup'"),
        ({"modalities": {"a b": "fl"}}, "Try 'a_b'"),
        ({"root": "nowhere"}, r"dataset\.root"),
        ({"path": ""}, r"dataset\.path"),
        ({"path": "nowhere.csv"}, r"dataset\.path"),
    ],
)
def test_wrong_names(six: Cabinet, params: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        six.open(**params).describe()


def test_a_column_that_holds_no_paths_asks_for_modalities(six: Cabinet) -> None:
    six.manifest("bf,size,label", ["bf/0.png,small,a", "bf/1.png,big,b"])
    with pytest.raises(DataError, match=r"'size'.*'small'.*dataset\.modalities"):
        six.open().describe()
    assert six.open(modalities={"bf": "bf"}).describe().cells == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"bf,label\n", "empty"),
        (b"bf,bf,label\nx,y,z\n", "twice"),
        (b"bf,label\nx\xff,a\n", "UTF-8"),
        (b"label\na\n", "column of image paths"),
        (b"bf,BF,label\na.png,b.png,c\n", "distinct modality names"),
        (b"bf,label,split\nbf/0.png,a,x\nbf/1.png,b,y\n", "but got only x, y"),
        (b"bf,label\nbf/0.png,a\nbf/1.png,a\n", "two classes"),
    ],
)
def test_hopeless_manifests(six: Cabinet, content: bytes, says: str) -> None:
    (six.root / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        six.open().describe()


def test_one_cell_a_class_loads_but_cannot_be_split(six: Cabinet) -> None:
    six.manifest("bf,label", [f"bf/{i}.png,c{i}" for i in range(4)])
    cells = six.open().load()
    assert len(cells.classes) == 4
    with pytest.raises(DataError, match="class"):
        make_split(cells, SplitSpec())


def test_a_zip_is_the_folder_it_was_made_of(six: Cabinet, tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(six.root.glob("*/*.png")):
            file.write(path, str(path.relative_to(six.root)))
    zipped, plain = six.open(root=str(archive)), six.open()
    assert zipped.describe() == plain.describe()
    np.testing.assert_array_equal(zipped.load(6).images["bf"], plain.load(6).images["bf"])
    six.manifest("bf,label", ["bf/0.png,a", "bf/9.png,b"])
    with pytest.raises(DataError, match=r"line 3: bf/9.png does not exist"):
        six.open(root=str(archive)).describe()
    (tmp_path / "text.zip").write_text("no")
    with pytest.raises(DataError, match="not a zip"):
        six.open(root=str(tmp_path / "text.zip")).describe()


def test_a_broken_zip_entry_is_a_broken_row(six: Cabinet, tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for i in range(2):
            file.write(six.root / f"bf/{i}.png", f"bf/{i}.png")
    content = bytearray(archive.read_bytes())
    content[60] ^= 255
    archive.write_bytes(content)
    six.manifest("bf,label", ["bf/0.png,a", "bf/1.png,b"])
    with pytest.raises(DataError, match=r"line 2: bf/0.png cannot be read") as caught:
        six.open(root=str(archive)).describe()
    assert "1 problem:" in str(caught.value)


def test_the_fingerprint_follows_pixels_and_columns_not_place(six: Cabinet, tmp_path: Path) -> None:
    first = six.open().describe().fingerprint
    image, manifest = six.root / "bf/0.png", six.root / "manifest.csv"
    original, text = image.read_bytes(), manifest.read_text()
    six.image("bf/0.png", noise(8, 8, seed=77))
    assert six.open().describe().fingerprint != first
    image.write_bytes(original)
    assert six.open().describe().fingerprint == first
    manifest.write_text(text.replace("fl/5.png,b", "fl/5.png,a"))
    assert six.open().describe().fingerprint != first
    manifest.write_text(text.replace(",label", ",label,note").replace(",a\n", ",a,x\n").replace(",b\n", ",b,y\n"))
    assert six.open(modalities={"bf": "BF", "fl": "fl"}).describe().fingerprint == first
    assert {"path", "root"}.isdisjoint(six.open().public_params())


def test_files_are_read_once_and_decoded_once(six: Cabinet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []
    six.open().load(6, lambda *step: seen.append(step))
    assert seen[-1] == (12, 12, "images decoded")
    monkeypatch.setattr(image_files, "read_header", lambda *_: pytest.fail("header read again"))
    monkeypatch.setattr(image_files, "decode_whole", lambda *_: pytest.fail("decoded again"))
    assert six.open().describe().image_size == 8
    assert isinstance(six.open().load(6).images["bf"], np.memmap)


def test_a_damaged_cache_gives_the_same_images(
    six: Cabinet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path / "own"))
    before = np.array(six.open().load(6).images["fl"])
    for file in (tmp_path / "own").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:-9])
    for file in (tmp_path / "own").glob("*.json"):
        file.write_text('{"broken')
    np.testing.assert_array_equal(six.open().load(6).images["fl"], before)


def test_images_that_change_while_they_are_read_are_not_cached(
    six: Cabinet, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = image_files.decode_whole

    def rewrite(data: bytes, channels: int) -> np.ndarray:
        six.image("fl/5.png", noise(8, 8, seed=99))
        return original(data, channels)

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "decode_whole", rewrite)
        with pytest.raises(DataError, match="modified while"):
            six.open().load()
    np.testing.assert_array_equal(six.open().load().images["fl"][5, 0], noise(8, 8, seed=99))


def test_real_smears_from_a_zip(real: Callable[[str], Path]) -> None:
    """A subset, by leaving out most of the table: the whole takes longer than a test should."""
    params = Folder.Params(
        path=str(real("pbc/labels.csv")),
        root=str(real("pbc/images.zip")),
        modalities={"smear": "file"},
        leave_out={"label": ["erythroblast", "ig", "neutrophil", "eosinophil", "platelet"], "split": ["train"]},
    )
    said = Folder(params).describe()
    assert Folder(params).describe() == said
    assert said.classes == ("basophil", "lymphocyte", "monocyte")
    assert said.image_size == 80
    assert said.split_sizes == {"train": 0, "val": 125 + 111 + 146, "test": 349 + 367 + 445}
    cells = Folder(params).load(24)
    assert cells.images["smear"].shape == (1543, 3, 24, 24)
    assert 120 < cells.images["smear"].mean() < 230
