"""Arrays of a stranger's record: judged by their headers before any is loaded, then by their values.

Every digest around them is fixed, as one would who read the code.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.publishing.archive import Limits
from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.verdict import Judge
from wbcbench.records.store import Record, Store
from wbcbench.testing.records import blamed, fake_predictions, fake_record, fake_trial, reforged, said, with_file

Verify = Callable[..., Judge]
Arrays = dict[str, Any]
P, FULL = "test_probabilities", bytes(30 * 3 * 4)


def npz(arrays: Arrays, compression: int = zipfile.ZIP_STORED, **raw: bytes) -> bytes:
    """`raw`: members as they are, by array name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, array in arrays.items():
            if name not in raw:
                one = io.BytesIO()
                np.lib.format.write_array(one, np.asarray(array), version=(1, 0))
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), one.getvalue())
        for name, data in raw.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), data, compression)
    return out.getvalue()


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A member with any header."""
    text = header.encode() + b"\n"
    length = struct.pack("<H", len(text)) if version == (1, 0) else struct.pack("<L", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def header(descr: str = "'<f4'", shape: str = "(30, 3)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


BAD_ARRAYS: dict[str, Callable[[Arrays], bytes]] = {
    "claims terabytes": lambda a: npz(a, **{P: npy(header(shape="(4000000, 900)"), FULL)}),
    "claims more cells than there may be": lambda a: npz(a, **{P: npy(header(shape="(10**9, 3)"), FULL)}),
    "too many cells": lambda a: npz(a, **{P: npy(header(shape="(1000000000, 3)"), FULL)}),
    "too many classes": lambda a: npz(a, **{P: npy(header(shape="(1, 5000)"), bytes(20_000))}),
    "a negative size": lambda a: npz(a, **{P: npy(header(shape="(-30, -3)"), FULL)}),
    "no cell": lambda a: npz(a, **{P: npy(header(shape="(0, 3)"))}),
    "bytes behind the array": lambda a: npz(a, **{P: npy(header(), FULL + b"hidden")}),
    "fewer bytes than it says": lambda a: npz(a, **{P: npy(header(), FULL[:-4])}),
    "one dimension": lambda a: npz(a | {P: a[P].ravel()}),
    "three dimensions": lambda a: npz(a | {P: a[P][None]}),
    "labels of two dimensions": lambda a: npz(a | {"test_labels": a["test_labels"][:, None]}),
    "double precision": lambda a: npz(a | {P: a[P].astype(np.float64)}),
    "the other byte order": lambda a: npz(a | {P: a[P].astype(">f4")}),
    "complex": lambda a: npz(a | {P: a[P].astype(np.complex64)}),
    "labels as text": lambda a: npz(a | {"test_labels": a["test_labels"].astype("U1")}),
    "a record type": lambda a: npz(a, **{P: npy(header("[('a', '<f4')]"), FULL)}),
    "fortran order": lambda a: npz(a, **{P: npy(header(order="True"), FULL)}),
    "a header that is a program": lambda a: npz(a, **{P: npy("__import__('os').abort()")}),
    "a header of 60 kB": lambda a: npz(a, **{P: npy(header() + " " * 60_000, FULL)}),
    "a deeply nested header": lambda a: npz(a, **{P: npy("(" * 9000)}),
    "another format": lambda a: npz(a, **{P: npy(header(), FULL, version=(2, 0))}),
    "no array": lambda a: npz(a, **{P: b"hello"}),
    "empty": lambda a: npz(a, **{P: b""}),
    "an unknown name": lambda a: npz(a | {"code": a[P]}),
    "a way out": lambda a: npz(a | {"../../evil": a[P]}),
    "no zip": lambda a: b"PK" + bytes(100),
    "pickled instead": lambda a: pickle.dumps(a),
    "a bomb within": lambda a: npz(a, zipfile.ZIP_DEFLATED, **{P: npy(header(), bytes(50 << 20))}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_are_not_what_a_record_has(pack: Path, student: Record, verify: Verify, case: str) -> None:
    data = BAD_ARRAYS[case](dict(student.predictions))
    reforged(pack, student, with_file("predictions.npz", data))
    judge = verify(pack)
    assert judge.verdict == "refuse"
    assert blamed(judge) == {"record.arrays"}, [f.text for f in judge.findings]
    assert "failed with an error" not in said(judge, "record.arrays"), "this check must not merely break"


def test_arrays_of_objects_are_never_unpickled(
    pack: Path, student: Record, verify: Verify, tmp_path: Path
) -> None:
    objects = np.empty((30, 3), dtype=object)
    objects[0, 0] = Evil(tmp_path / "evil")
    out = io.BytesIO()
    np.lib.format.write_array(out, objects, version=(1, 0), allow_pickle=True)
    data = npz(dict(student.predictions), **{P: out.getvalue()})
    reforged(pack, student, with_file("predictions.npz", data))
    assert "Python objects" in said(verify(pack), "record.arrays")
    assert not (tmp_path / "evil").exists()


def test_arrays_larger_than_allowed_in_sum(pack: Path, verify: Verify) -> None:
    judge = verify(pack, None, Limits(arrays=1500))
    assert blamed(judge) == {"record.arrays"}
    assert "1,500 are allowed" in said(judge, "record.arrays")


def poked(name: str, at: Any, value: float) -> Callable[[Arrays], Arrays]:
    def change(arrays: Arrays) -> Arrays:
        array = arrays[name].copy()
        array[at] = value
        return arrays | {name: array}

    return change


BAD_VALUES: dict[str, tuple[str, Callable[[Arrays], Arrays]]] = {
    "NaN": ("record.values", poked(P, (0, 0), np.nan)),
    "infinite": ("record.values", poked(P, (0, 0), np.inf)),
    "NaN of a route": ("record.values", poked("test_route_dapi", (3, 1), np.nan)),
    "NaN of validation": ("record.values", poked("val_probabilities", 0, np.nan)),
    "negative": ("record.values", poked(P, (0, 0), -0.5)),
    "rows above 1": ("record.values", poked(P, 0, 0.9)),
    "an unknown label": ("record.values", poked("test_labels", 0, 7)),
    "a negative label": ("record.values", poked("val_labels", 0, -1)),
    "fewer labels": ("record.values", lambda a: a | {"test_labels": a["test_labels"][:-1]}),
    "fewer cells": ("record.values", lambda a: a | {"test_cells": a["test_cells"][:-1]}),
    "fewer rows": ("record.values", lambda a: a | {P: a[P][:-1]}),
    "another number of classes": ("record.values", lambda a: a | {P: np.full((30, 4), 0.25, np.float32)}),
    "no labels": ("record.values", lambda a: {n: x for n, x in a.items() if n != "test_labels"}),
    "a route that is not claimed": ("record.values", lambda a: a | {"test_route_x": a[P]}),
    "donors of other cells": ("record.values", lambda a: a | {"test_groups": np.zeros(4, np.int64)}),
    "a cell twice": ("record.cells", poked("test_cells", 0, 1001)),
    "a negative cell": ("record.cells", poked("val_cells", 0, -3)),
    "a test cell that is a validation cell": ("record.cells", poked("test_cells", 0, 2000)),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_values_that_cannot_be(pack: Path, student: Record, verify: Verify, case: str) -> None:
    check, change = BAD_VALUES[case]
    reforged(pack, student, with_file("predictions.npz", npz(change(dict(student.predictions)))))
    judge = verify(pack)
    assert check in blamed(judge), [f.text for f in judge.findings]
    assert said(judge, check)
    assert "failed with an error" not in said(judge, check)


def test_predictions_with_donors_are_accepted(store: Store, tmp_path: Path, verify: Verify) -> None:
    """The data sets that know donors write `test_groups`; that is no attack."""
    groups = {"test_groups": np.arange(30) // 5}
    records = [fake_record(store, fake_trial(s), predictions=fake_predictions(s) | groups) for s in (0, 1)]
    write_pack(records[:1], tmp_path / "donors.zip")
    judge = verify(tmp_path / "donors.zip", store)
    assert judge.findings == []
