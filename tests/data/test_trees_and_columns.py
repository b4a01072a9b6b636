"""What folders and columns are taken for: recognised where one reading fits, else asked for."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wbcbench.contracts.dataset import in_window
from wbcbench.data.csv_table import ColumnChoices, ManifestFile, recognise
from wbcbench.data.decode import decode_whole
from wbcbench.data.folders import open_source
from wbcbench.data.labels import Problems
from wbcbench.data.trees import Tree, read_tree
from wbcbench.errors import DataError


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def tree(root: Path, levels: str | None = None) -> Tree:
    with open_source(root) as source:
        return read_tree(source, levels, str(root))


def test_a_folder_per_class(tmp_path: Path) -> None:
    files(tmp_path, "b/2.png", "a/1.JPG", "a/notes.txt", ".git/x.png", "a/.hidden.png", "loose.png")
    found = tree(tmp_path)
    assert found.levels == "class"
    assert found.listing.labels == ["a", "b"]
    assert found.listing.paths == {"image": ["a/1.JPG", "b/2.png"]}
    assert found.listing.groups is None
    assert found.listing.split is None
    assert found.dropped == [("loose.png", "is 0 folders deep instead of 1")]


def test_classes_in_folders_of_modalities(tmp_path: Path) -> None:
    files(tmp_path, *(f"{m}/{c}/{i}.{s}" for m, s in (("Bright field", "png"), ("DAPI", "tif"))
                      for c in "ab" for i in range(3)))  # fmt: skip
    (tmp_path / "DAPI" / "b" / "2.tif").unlink()
    found = tree(tmp_path)
    assert found.levels == "modality/class"
    assert list(found.listing.paths) == ["bright_field", "dapi"]
    assert found.listing.paths["dapi"] == ["DAPI/a/0.tif", "DAPI/a/1.tif", "DAPI/a/2.tif", "DAPI/b/0.tif",
                                           "DAPI/b/1.tif", ""]  # fmt: skip
    files(tmp_path, "DAPI/a/0.png")
    assert tree(tmp_path).dropped == [("DAPI/a/0.tif", "is a second DAPI image of the cell of DAPI/a/0.png")]


def test_sides_of_a_split_by_many_names_and_in_a_zip(tmp_path: Path) -> None:
    root = files(tmp_path / "t", "Training/a/1.png", "Training/b/1.png", "Validation/a/2.png", "test/b/3.png")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root))
        archive.writestr("__MACOSX/Training/a/._1.png", b"x")
    for found in (tree(root), tree(tmp_path / "t.zip")):
        assert found.levels == "split/class"
        assert found.listing.split is not None
        sides = dict(zip(found.listing.ids, found.listing.split, strict=True))
        assert sides == {"Training/a/1.png": "train", "Training/b/1.png": "train", "Validation/a/2.png": "val",
                         "test/b/3.png": "test"}  # fmt: skip


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    files(tmp_path, "donor1/a/1.png", "donor1/b/2.png", "donor2/a/3.png", "donor2/b/4.png")
    with pytest.raises(DataError, match=r"--levels group/class"):
        tree(tmp_path)
    found = tree(tmp_path, "group/class")
    assert found.listing.groups == ["donor1", "donor1", "donor2", "donor2"]
    assert found.listing.labels == ["a", "b", "a", "b"]
    for wrong in ("group", "class/class", "donor/class"):
        with pytest.raises(DataError, match="Expected levels such as"):
            tree(tmp_path, wrong)
    with pytest.raises(DataError, match="3 folders deep"):
        tree(tmp_path, "split/group/class")
    with pytest.raises(DataError, match="has none"):
        tree(files(tmp_path / "empty", "a/readme.txt"))


def test_channels_of_a_flow_cytometer_are_not_taken_for_cells(tmp_path: Path) -> None:
    files(tmp_path, *(f"{c}/{i}_Ch{k}.ome.tif" for c in ("G1", "S") for i in range(3) for k in (1, 3)))
    with pytest.raises(DataError, match="--dataset imaging_flow"):
        tree(tmp_path)
    assert len(tree(tmp_path, "class").listing.lines) == 12


def manifest(path: Path, *lines: str) -> ManifestFile:
    path.write_text("\n".join(lines) + "\n")
    return ManifestFile(path)


def test_columns_are_recognised_by_name_and_content(tmp_path: Path) -> None:
    file = manifest(tmp_path / "m.csv", "BF path,Cell Type,Patient_ID,Set,age,dapi", "a.png,x,p1,training,40,",
                    "b.png,y,p2,Test,41,d.TIF")  # fmt: skip
    columns, taken = recognise(file, ColumnChoices())
    assert columns.modalities == {"bf_path": "BF path", "dapi": "dapi"}
    assert (columns.label, columns.group, columns.split, columns.id) == ("Cell Type", "Patient_ID", "Set", None)
    assert dict(taken) == {
        "BF path": "images of modality bf_path", "Cell Type": "label", "Patient_ID": "group", "Set": "split",
        "age": "not used", "dapi": "images of modality dapi",
    }  # fmt: skip
    listing = file.select(columns, {}, Problems())
    assert listing.notes == ["Split 'Test' means test (1 cells).", "Split 'training' means train (1 cells)."]
    assert listing.split is not None
    assert listing.split.tolist() == ["train", "test"]


def test_columns_that_could_each_be_meant_are_asked_for(tmp_path: Path) -> None:
    file = manifest(tmp_path / "m.csv", "file,label,donor,slide", "a.png,x,1,2")
    with pytest.raises(DataError, match=r"'donor', 'slide' each match.*--group NAME.*--group - for none"):
        recognise(file, ColumnChoices())
    assert recognise(file, ColumnChoices(group="slide"))[0].group == "slide"
    assert recognise(file, ColumnChoices(group="-"))[0].group is None
    with pytest.raises(DataError, match=r"'sldie' for the group"):
        recognise(file, ColumnChoices(group="sldie"))
    with pytest.raises(DataError, match="--label COLUMN"):
        recognise(manifest(tmp_path / "n.csv", "file,what", "a.png,x"), ColumnChoices())
    with pytest.raises(DataError, match="--modality NAME=COLUMN"):
        recognise(manifest(tmp_path / "n.csv", "file,label", "a,x"), ColumnChoices())
    named = manifest(tmp_path / "n.csv", "name,file,label", "smith,a.png,x", "smith,b.png,y")
    assert recognise(named, ColumnChoices())[0].id is None, "a name that repeats is not the cell's"


def test_a_window_cuts_and_fills_without_rescaling() -> None:
    image = np.full((1, 3, 6), 7, dtype=np.uint16)
    image[0, 1, 1:5] = [1, 2, 3, 4]
    out = in_window(image, 4)
    assert out.dtype == np.uint16
    np.testing.assert_array_equal(out[0], [[7, 7, 7, 7], [1, 2, 3, 4], [7, 7, 7, 7], [7, 7, 7, 7]])
    np.testing.assert_array_equal(in_window(image, 6)[0, 2], [7, 1, 2, 3, 4, 7])


def test_colour_becomes_grey_where_one_channel_is_wanted(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (10, 10, 10)).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    assert decode_whole(data, 1).shape == (1, 4, 5)
    assert decode_whole(data, 3).shape == (3, 4, 5)
