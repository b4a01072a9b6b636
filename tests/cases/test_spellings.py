"""One label, donor or side of a split under two spellings: joined without doubt, pointed out with some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wbcbench_plugins.datasets.npz import Npz

from wbcbench.data.labels import join_spellings, probably_one, spelling_notes

Invoke = Callable[..., tuple[int, str, str]]
NFC, NFD = "Gro\u00df\u00e9", "Gro\u00dfe\u0301"

JOINED = {
    "pandas' floats": (["1", "1.0", "2.0"], ["1", "1", "2"]),
    "floats alone": (["1.0", "2.0"], ["1.0", "2.0"]),
    "numbers among words": (["1", "1.0", "x"], ["1", "1.0", "x"]),
    "fractions": (["1.5", "1.50", "1"], ["1.5", "1.50", "1"]),
    "zeros in front": (["1", "01"], ["1", "01"]),
    "missing values": (["1", "", "1.0"], ["1", "", "1"]),
    "accents": ([NFC, NFD], [NFC, NFC]),
    "decomposed accents alone": ([NFD, "b"], [NFD, "b"]),
    "blanks around": (["a", " a", "a\u00a0"], ["a", "a", "a"]),
    "case": (["Lymph", "lymph"], ["Lymph", "lymph"]),
    "negative": (["-1", "-1.0", "1"], ["-1", "-1", "1"]),
}


@pytest.mark.parametrize("name", JOINED)
def test_spellings_are_joined_where_no_doubt_is_possible(name: str) -> None:
    values, expected = JOINED[name]
    joined, notes = join_spellings(values, "label")
    assert joined == expected
    assert bool(notes) == (len(set(joined)) < len(set(values)))


PROBABLE = {
    ("Lymph", "lymph"): True,
    ("D1", "d1"): True,
    ("D 1", "D1"): True,
    ("D_1", "D-1"): True,
    ("D01", "D1"): True,
    ("1", "1.0"): True,
    ("slide 1-2", "slide_1_2"): True,
    ("\uff21", "a"): True,
    ("1-2", "12"): False,
    ("CD4+", "CD4-"): False,
    ("D1", "D10"): False,
    ("1.5", "15"): False,
    ("1.05", "1.5"): False,
    ("-1", "1"): False,
    ("a", "b"): False,
}


@pytest.mark.parametrize("pair", PROBABLE)
def test_what_is_probably_one(pair: tuple[str, str]) -> None:
    assert bool(probably_one(pair)) is PROBABLE[pair]
    assert len(spelling_notes(pair, pair, "cells.csv")) == 2 * PROBABLE[pair]


def table(root: Path, rows: list[tuple[str, str, str]]) -> Path:
    """A manifest of distinct images with (label, group, split) of each row."""
    random = np.random.default_rng(1)
    lines = ["image,label,group,split"]
    for i, row in enumerate(rows):
        Image.fromarray(random.integers(0, 255, (12, 12), np.uint8)).save(root / f"{i}.png")
        lines.append(",".join((f"{i}.png", *row)))
    path = root / "cells.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def donors(*names: str) -> list[tuple[str, str, str]]:
    """Cells of both classes from a donor of each of train, val and test."""
    return [(label, donor, side) for donor, side in zip(names, ("train", "val", "test"), strict=True)
            for label in "ab" for _ in range(4)]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "code", "says"),
    [
        (("1", "2", "1.0"), 3, "  1: train 8, test 8"),
        (("D1", "D2", "d1"), 3, "  D1 = d1: train 8, test 8"),
        (("D1", "D2", "D_1"), 3, "  D1 = D_1: train 8, test 8"),
        ((NFC, "D2", NFD), 3, f"  {NFC}: train 8, test 8"),
        (("D1", "D2", "D3"), 0, "No leak found."),
    ],
    ids=["case 12", "case", "underscore", "accents", "clean"],
)
def test_an_audit_finds_a_donor_under_two_spellings(
    names: tuple[str, str, str], code: int, says: str, invoke: Invoke, tmp_path: Path
) -> None:
    path = str(table(tmp_path, donors(*names)))
    got, out, err = invoke("data", "audit", path)
    assert got == code, out + err
    assert says in out
    assert ("No leak found." in out) == (code == 0)
    assert invoke("data", "audit", path, "--allow-leaks")[0] == 0
    document = json.loads(invoke("data", "audit", path, "--json")[1])
    assert document["leaks"] is (code == 3)


def test_an_audit_of_arrays_too(invoke: Invoke, tmp_path: Path) -> None:
    rows = donors("D1", "D2", "d1")
    images = np.random.default_rng(2).integers(0, 255, (len(rows), 12, 12), np.uint8)
    label, group, split = (np.array(column) for column in zip(*rows, strict=True))
    np.savez(tmp_path / "cells.npz", image=images, label=label, group=group, split=split)
    code, out, _ = invoke("data", "audit", str(tmp_path / "cells.npz"))
    assert code == 3
    assert "D1 = d1: train 8, test 8" in out


def test_case_12_labels_and_sides_are_the_same_for_every_verb(invoke: Invoke, tmp_path: Path) -> None:
    rows = [(label, f"D{i}", side) for i, (label, side) in enumerate(
        (label, side) for label in ("1", "1.0", "2") for side in ("Train", "TRAINING", "dev", "valid", "test")
        for _ in range(2))]  # fmt: skip
    path = table(tmp_path, rows)
    seen = json.loads(invoke("data", "inspect", str(path), "--json")[1])
    assert {c["name"]: c["cells"] for c in seen["classes"]} == {"1": 20, "2": 10}
    assert seen["split"] == {"train": 12, "val": 12, "test": 6}
    assert "Label '1.0' was taken for '1' (10 cells)." in seen["notes"]
    run = ("--fusion", "early", "--kd", "none", "--dry-run", "--store", str(tmp_path / "store"))
    code, out, err = invoke("run", "--dataset", "folder", "--set", f"dataset.path={path}", *run)
    assert code == 0, err
    assert "Label '1.0' was taken for '1' (10 cells)." in out + err
    assert invoke("data", "import", str(path), "-o", str(tmp_path / "in"))[0] == 0
    again = json.loads(invoke("data", "inspect", str(tmp_path / "in"), "--json")[1])
    assert (again["classes"], again["split"]) == (seen["classes"], seen["split"])


def test_arrays_that_are_joined_get_a_fingerprint_of_their_own(tmp_path: Path) -> None:
    def described(name: str, labels: list[str]) -> Npz:
        np.savez(tmp_path / name, image=np.zeros((4, 8, 8), np.uint8), label=np.array(labels))
        return Npz(Npz.Params(path=str(tmp_path / name)))

    joined = described("joined.npz", ["1", "1.0", "2", "2.0"]).describe()
    assert joined.classes == ("1", "2")
    assert len(joined.notes) == 2
    alone = described("alone.npz", ["1.0", "1.0", "2.0", "2.0"]).describe()
    assert (alone.classes, alone.notes) == (("1.0", "2.0"), ())


def test_folders_of_one_class_in_two_normal_forms(invoke: Invoke, tmp_path: Path) -> None:
    for k, name in enumerate((NFC, NFD, "Mono", "mono")):
        (tmp_path / name).mkdir(exist_ok=True)
        for i in range(3):
            Image.fromarray(np.full((9, 9), 40 * k + i, np.uint8)).save(tmp_path / name / f"{k}{i}.png")
    seen = json.loads(invoke("data", "inspect", str(tmp_path), "--json")[1])
    assert {c["name"]: c["cells"] for c in seen["classes"]} == {NFC: 6, "Mono": 3, "mono": 3}
    assert any("'Mono' (3 cells) and 'mono' (3 cells) are probably one class" in note for note in seen["notes"])
