"""Further inputs: what inspect says of each, and that what it suggests is accepted by a run."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wbcbench_plugins.datasets.stains import Stains

from tests.cases.conftest import Screen, picture, pictures, table


@dataclass(frozen=True)
class Case:
    """One input and its outcome."""

    name: str
    make: Callable[[Path], Any]
    """Writes the input to a path that is given."""
    says: Sequence[str]
    """Texts on the screen of `data inspect`."""
    options: Sequence[str] = ()
    code: int = 0
    sizes: tuple[int, ...] | None = None
    """Train, val and test cells of the run that is suggested; None: any."""
    at: str = "in"
    never: Sequence[str] = field(default=())


def tree(*folders: str, count: int = 8, **more: Any) -> Callable[[Path], Path]:
    return lambda root: pictures(root, folders, count, **more)


def with_files(make: Callable[[Path], Path], *names: str) -> Callable[[Path], None]:
    def both(root: Path) -> None:
        make(root)
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"x")

    return both


def csv(header: str, row: Callable[[int], str], count: int = 40, **more: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        pictures(path.parent, ["bf"], count, **more)
        table(path, header, [row(i) for i in range(count)])

    return make


def arrays(count: int = 40, **more: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 250, (count, 12, 12), dtype=np.uint8)
        np.savez(path, **{"image": images, "label": np.arange(count) % 2, **more})

    return make


def linked(root: Path) -> None:
    pictures(root, ["a", "b"], 8)
    pictures(root.parent / "elsewhere", ["c"], 8, start=9000)
    (root / "c").symlink_to(root.parent / "elsewhere" / "c")
    (root / "b" / "gone.png").symlink_to(root / "nowhere.png")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for folder in ("a", "b"):
            for i in range(8):
                file = picture(path.parent / "x.png", 100 * ord(folder) + i)
                archive.write(file, f"{folder}/{i}.png")
        archive.writestr("__MACOSX/a/._0.png", b"x")
        archive.writestr(".DS_Store", b"x")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.write(file, "b/7.png")


def broken_class(root: Path) -> None:
    with_files(tree("a", "b"), "c/0.png", "c/1.png")(root)


def mixed_bits(path: Path) -> None:
    pictures(path.parent, ["bf"], 40)
    for i in range(6):
        picture(path.parent / "bf" / f"c{i}.png", 500 + i, bits=16)
    table(path, "bf,label", [f"bf/c{i}.png,{'ab'[i % 2]}" for i in range(40)])


def copies(root: Path) -> None:
    pictures(root, ["a", "b"], 12)
    for i in range(4):
        (root / "a" / f"again{i}.png").write_bytes((root / "a" / f"c{i}.png").read_bytes())


def official(*sides: tuple[str, str, int]) -> Callable[[Path], None]:
    """A CSV with an official split: (side, class, cells)."""

    def make(path: Path) -> None:
        rows = [(side, name) for side, name, n in sides for _ in range(n)]
        pictures(path.parent, ["bf"], len(rows))
        table(path, "bf,label,split", [f"bf/c{i}.png,{name},{side}" for i, (side, name) in enumerate(rows)])

    return make


def sizes(*sides: int) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for i, side in enumerate(sides):
            picture(root / "ab"[i % 2] / f"{i}.png", i, side=side)

    return make


AB = ("a", "b")
CASES = [
    # accounting
    Case("hidden files and folders", with_files(tree(*AB), "a/.x.png", ".git/a/y.png", ".git/config"),
         ["19 files: 16 used, 3 hidden"]),
    Case("links", linked, ["18 files: 16 used, 1 linked folders that are not followed, 1 with a file"]),
    Case("empty class folder", lambda root: (tree(*AB)(root), (root / "c").mkdir()),
         ["16 files: all used", "3 classes: 2 used, 1 without usable cells (c)"]),
    Case("class of broken images", broken_class,
         ["18 files: 16 used, 2 that cannot be decoded", "3 classes: 2 used, 1 without usable cells (c)"]),
    Case("names that no table can hold", with_files(tree(*AB), "a/new\nline.png", "a/back\\slash.png"),
         ["18 files: 16 used, 2 with a name that cannot be read"]),
    Case("images at other depths", with_files(tree(*AB), "loose.png", "a/b/c/deep.png"),
         ["18 files: 16 used, 2 not 1 folders deep"]),
    Case("what is added to zips", zipped, ["19 files: 16 used, 1 repeated in the zip, 2 hidden"], at="in.zip"),
    Case("two images of a cell", with_files(tree("bf/a", "bf/b", "dapi/a", "dapi/b"), "bf/a/c0.tif"),
         ["33 files: 32 used, 1 second images of a cell", "images of one cell"][:1]),
    Case("only other suffixes", with_files(lambda root: root, "a/x.heic", "b/y.gif"),
         ["it has none (2 files: 0 used, 1 .heic not readable, 1 .gif not readable)"], code=2),
    Case("rows of every fault", csv("bf,label,group,id", lambda i: {
            0: "bf/c0.png,,d0,x0", 1: "bf/c1.png,a,d1", 2: ",a,d2,x2", 3: "bf/c3.png,a,,x3",
            4: "bf/c4.png,a,d4,x9", 5: "bf/none.png,a,d5,x5"}.get(i, f"bf/c{i}.png,{'ab'[i % 2]},d{i},x{i}")),
         ["40 rows: 34 used", "1 with too many or too few fields", "1 without a label", "1 without an image",
          "1 without a group", "1 with the id of another row", "1 with a file that does not"], ["--id", "id"]),
    Case("rows left out by a value", csv("bf,label,kind", lambda i: f"bf/c{i}.png,{'ab'[i % 2]},k{i % 4}"),
         ["40 rows: 30 used, 10 left out by kind=k3"], ["--leave-out", "kind=k3"]),
    Case("array that is not used", arrays(area=np.ones(40)), ["3 arrays: 2 used, 1 that no parameter names"],
         at="in.npz"),
    Case("rows of no split", arrays(split=np.array((["training"] * 6 + ["dev"] * 2 + ["eval"] * 2) * 3
                                                  + ["spare"] * 10)),
         ["40 rows: 30 used, 10 of split 'spare'", "Split 'dev' means val"], at="in.npz", sizes=(18, 6, 6)),
    # two readings
    Case("words within names", tree("train_images/a", "train_images/b", "test_images/a", "test_images/b"),
         ["--levels split/class --side test_images=test --side train_images=train"], code=2),
    Case("the same, told", tree("train_images/a", "train_images/b", "test_images/a", "test_images/b", count=20),
         ["split: train 40, val 0, test 40"], ["--side", "train_images=train", "--side", "test_images=test"],
         sizes=(34, 6, 40)),
    Case("one more folder", tree("images/a", "images/b"), ["folder level 1  skip", "16 files: all used"]),
    Case("one more folder, then sides", tree(*(f"x/{s}/{c}" for s in ("train", "test") for c in AB), count=20),
         ["folder level 2  split", "groups: none known"], sizes=(34, 6, 40)),
    Case("sides without classes", tree("train", "test"), ["no level can be the class"], code=2),
    Case("a side beside classes", tree("a", "b", "test"), ["no level can be the class"], code=2),
    Case("donors or classes", lambda root: [picture(root / f"d{k}" / "ab"[i % 2] / f"{k}_{i}.png", 10 * k + i)
                                           for k in range(4) for i in range(8)],
         ["--levels class/group", "--levels group/class"], code=2, never=["modality/class"]),
    Case("donors, told", lambda root: [picture(root / f"d{k}" / "ab"[i % 2] / f"{k}_{i}.png", 10 * k + i)
                                      for k in range(8) for i in range(8)],
         ["groups: 8 of 8 to 8 cells", "64 files: all used"], ["--levels", "group/class"]),
    Case("donors whose files have equal names", tree("u/a", "u/b", "v/a", "v/b"),
         ["--levels modality/class", "--levels group/class", "--levels class/modality"], code=2),
    Case("names of modalities", tree("Bright field/a", "Bright field/b", "DAPI/a", "DAPI/b"),
         ["folder level 1  modality", "32 files: all used"]),
    Case("modalities within classes", tree("a/bf", "a/pi", "b/bf", "b/pi"),
         ["folder level 2  modality", "bf", "pi"], never=["folder level 1  modality"]),
    Case("three levels",
         tree(*(f"{s}/{m}/{c}" for s in ("train", "valid", "test") for m in ("bf", "pi") for c in AB)),
         ["folder level 1  split", "folder level 2  modality", "split: train 16, val 16, test 16"],
         sizes=(16, 16, 16)),
    Case("two columns of groups", csv("bf,label,donor,slide", lambda i: f"bf/c{i}.png,{'ab'[i % 2]},1,2"),
         ["'donor', 'slide' each match"], code=2),
    Case("array that may be donors", arrays(donor=np.arange(40) // 2 % 10), ["groups: 10 of 4 to 4 cells"],
         at="in.npz"),
    # what is suggested runs
    Case("three donors", csv("bf,label,donor", lambda i: f"bf/c{i}.png,{'ab'[i % 2]},d{i // 2 % 3}"),
         ["wbcbench run --dataset folder --set dataset.path=in --set dataset.group=donor\n"]),
    Case("two donors", csv("bf,label,donor", lambda i: f"bf/c{i}.png,{'ab'[i % 2]},d{i // 2 % 2}"),
         ["2 groups cannot be kept whole", "--group -"]),
    Case("mixed bit depths", mixed_bits, ["6 cells have 16-bit", "--leave-out bits=16"]),
    Case("copies", copies, ["28 files: all used", "data import"]),
    Case("official split without a class in training",
         official(("train", "a", 20), ("train", "b", 20), ("test", "a", 5), ("test", "b", 5), ("test", "c", 5)),
         ["c has none", "--leave-out label=c"], sizes=(34, 6, 10)),
    Case("a path for the shell", tree(*AB), ["16 files: all used"], at="it's; $(my) \"cells\" & more"),
    Case("a path that looks like a number", csv("bf,label", lambda i: f"bf/c{i}.png,{'ab'[i % 2]}"),
         ["40 rows: all used"], at="123"),
    Case("columns that no option can name", csv("bf. raw: x,cell.type", lambda i: f"bf/c{i}.png,{'ab'[i % 2]}"),
         ["40 rows: all used"], ["--label", "cell.type"], at="in.csv"),
    Case("a class of one cell with a difficult name",
         lambda root: (tree(*AB)(root), picture(root / "c's: x, y=1" / "0.png", 77)),
         ["--leave-out", "c's: x, y=1 has 1"]),
    Case("a class of one row in an array", arrays(41, label=np.array(["a", "b"] * 20 + ["c"])),
         ["c has 1", "--leave-out label=c"], at="in.npz"),
    Case("cells without an image of one modality",
         csv("bf,pi,label", lambda i: f"bf/c{i}.png,{'' if i == 3 else f'bf/c{39 - i}.png'},{'ab'[i % 2]}"),
         ["40 rows: all used", "12 px"]),
    Case("one class only", tree("a"), ["two classes"], code=2),
    Case("sides called donors", tree("TRAIN/a", "TRAIN/b", "TEST/a", "TEST/b"), ["'TEST' is a side of a split"],
         ["--levels", "group/class"], code=2),
    # size
    Case("arrays of two sizes", arrays(big=np.arange(16000, dtype=np.uint16).reshape(40, 20, 20)),
         ["--set dataset.window=20", "windows of 20 pixels"], ["--modality", "s=image", "--modality", "l=big"],
         at="in.npz"),
    Case("no size of its own", csv("bf,label", lambda i: f"bf/c{i}.png,{'ab'[i % 2]}", height=9),
         ["40 rows: all used", "--image-size 64"], ["--dataset", "folder"]),
    Case("one large image", sizes(*[20] * 30, 300), ["20 to 300 px", "windows of 24 px", "1 are cropped"]),
    Case("large images of many sizes", sizes(*range(200, 230)), ["windows of 232 px", "resized to 128"]),
    Case("oblong images", tree(*AB, side=16, height=12), ["windows of 16 px", "0 are cropped"]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inspect(screen: Screen, tmp_path: Path, case: Case) -> None:
    case.make(tmp_path / case.at)
    said = screen("data", "inspect", case.at, *case.options, code=case.code)
    for text in case.says:
        assert text in said
    for text in case.never:
        assert text not in said
    if case.code == 0:
        split = screen.obey(said)
        if case.sizes is not None:
            assert (len(split.train), len(split.val), len(split.test)) == case.sizes


def test_a_run_asks_about_an_array_that_may_be_donors(screen: Screen, tmp_path: Path) -> None:
    arrays(donor=np.arange(40) // 2 % 10)(tmp_path / "in.npz")
    run = ["run", "--dataset", "npz", "--set", "dataset.path=in.npz", "--dry-run"]
    assert "Set dataset.group=donor if so, dataset.group='' if not" in screen(*run, code=2)
    for answer in ("donor", "''"):
        assert "Data: 40 rows: all used" in screen(*run, "--set", f"dataset.group={answer}")


def test_import_keeps_donors_names_and_columns_of_numbers(screen: Screen, tmp_path: Path) -> None:
    csv("bf,label,donor,area,note", lambda i: f"bf/c{i}.png,{'ab'[i % 2]},Ann {i // 2 % 10},{i / 2 or ''},x")(
        tmp_path / "in.csv"
    )
    report = screen.document("data", "import", "in.csv", "-o", "o")
    assert report["extra"] == {"area": {"lowest": 0.5, "highest": 19.5, "missing": 1}}
    assert report["groups"][:2] == ["Ann 0", "Ann 1"]
    header, first, *_ = (tmp_path / "o" / "manifest.csv").read_text().splitlines()
    assert header == "bf,label,group,id,area"
    assert first.endswith(",a,Ann 0,bf/c0.png,")
    assert screen.obey("\n".join(report["commands"])).train.size
    assert screen.document("data", "inspect", "o")["modalities"][0]["name"] == "bf"


@pytest.mark.parametrize("base", ["folder", "npz"])
def test_stains_are_separated_in_windows(tmp_path: Path, base: str) -> None:
    """Training and new cells are placed alike: cropped or padded, never rescaled."""
    images = np.random.default_rng(0).integers(0, 250, (40, 10, 10, 3), dtype=np.uint8)
    np.savez(tmp_path / "in.npz", image=images, label=np.arange(40) % 2)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    table(tmp_path / "in.csv", "rgb,label", [f"{i}.png,{'ab'[i % 2]}" for i in range(40)])
    path = tmp_path / ("in.csv" if base == "folder" else "in.npz")
    for window in (14, 6):
        stains = Stains(Stains.Params(base=base, base_params={"path": str(path), "window": window}))
        assert stains.describe().image_size == window
        cells = stains.load(window)
        preparation = stains.preparation(cells.modalities)
        assert preparation.derive is not None
        assert f"{window} x {window} pixels without rescaling" in preparation.words
        square = np.stack([preparation.square(image.transpose(2, 0, 1), window) for image in images])
        derived = preparation.derive({next(iter(preparation.raw)): square})
        for name, stack in cells.images.items():
            np.testing.assert_array_equal(derived[name], stack)
        assert "window" in stains.public_params()["base_params"]
    plain = Stains(Stains.Params(base=base, base_params={"path": str(path)}))
    assert "window" not in plain.public_params()["base_params"], "identities are as before there were windows"


def test_an_account_that_does_not_add_up_is_an_error() -> None:
    from wbcbench.contracts import Account, LeftOut
    from wbcbench.errors import DataError

    account = Account.of("files", 5, 3, [("hidden", "a"), ("hidden", "b")])
    assert account.without("duplicates", ["c"]).sentence() == "5 files: 2 used, 2 hidden, 1 duplicates"
    for seen, used, lost in ((5, 3, 1), (5, 6, 0), (1, -1, 2)):
        with pytest.raises(DataError, match="to be accounted for"):
            Account("files", seen, used, {"hidden": LeftOut(lost)})
    with pytest.raises(DataError, match="to be accounted for"):
        account.without("duplicates", "abcd")
