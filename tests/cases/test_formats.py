"""What is no folder, table or array file is named, with what to do; nothing hangs or fills the memory."""

from __future__ import annotations

import io
import os
import resource
import socket
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wbcbench.contracts import Preparation
from wbcbench.data.formats import FOREIGN, recognise_foreign, sniff
from wbcbench.deploy.cell_files import open_cells
from wbcbench.errors import DataError

Invoke = Callable[..., tuple[int, str, str]]
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(500)
NPY = b"\x93NUMPY\x01\x00" + bytes(500)

GIVEN: dict[str, tuple[bytes, str, str]] = {
    "cells.cif": (b"II*\0" + bytes(200), "imaging flow cytometer", "--dataset imaging_flow"),
    "cells.rif": (b"II*\0" + bytes(200), "imaging flow cytometer", "--dataset imaging_flow"),
    "cells.daf": (b"<x>", "analysis file", "--dataset imaging_flow"),
    "cells.fcs": (b"FCS3.1" + bytes(200), "without images", "images of the cells"),
    "cells.h5": (HDF5, "HDF5", "h5py"),
    "cells.mat": (b"MATLAB 5.0 MAT-file" + bytes(200), "MATLAB", "scipy.io.loadmat"),
    "cells.npy": (NPY, "single numpy array", "numpy.savez"),
    "cells.parquet": (b"PAR1" + bytes(200), "Parquet", "read_parquet"),
    "cells.feather": (b"ARROW1" + bytes(200), "Arrow", "read_feather"),
    "cells.czi": (b"ZISRAWFILE" + bytes(200), "Zeiss", "Bio-Formats"),
    "cells.nd2": (b"\xda\xce\xbe\n" + bytes(200), "Nikon", "Bio-Formats"),
    "cells.lif": (b"p\0\0\0" + bytes(200), "Leica", "Bio-Formats"),
    "cells.svs": (b"II*\0" + bytes(200), "whole-slide", "one image per cell"),
    "cells.dcm": (bytes(128) + b"DICM" + bytes(200), "DICOM", "pydicom"),
    "cells.pkl": (b"\x80\x04" + bytes(200), "pickle", "never opened"),
    "cells.tar.gz": (b"\x1f\x8b" + bytes(200), "compressed", "Unpack"),
    "cells.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(200), "7-Zip", "Unpack"),
    "cells.rar": (b"Rar!\x1a\x07" + bytes(200), "RAR", "Unpack"),
    "book.xlsx": (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml" + bytes(200), "workbook", "CSV UTF-8"),
    "book.csv": (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "workbook, whatever", "CSV UTF-8"),
    "arrays.npz": (HDF5, "HDF5 file, whatever its name says", "h5py"),
    "table.csv": (b"PAR1" + bytes(200), "Parquet table, whatever", "read_parquet"),
    "plain": (NPY, "single numpy array", "numpy.savez"),
    "one.png": (b"\x89PNG\r\n\x1a\n", "one image", "one folder per class"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_case_15_a_format_that_is_not_read_is_named(name: str, invoke: Invoke, tmp_path: Path) -> None:
    content, what, advice = GIVEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    for verb in (("inspect",), ("audit",), ("import", "-o", str(tmp_path / "in"))):
        code, out, err = invoke("data", verb[0], str(path), *verb[1:])
        assert (code, out) == (2, "")
        assert what in err
        assert advice in err
        assert err.count("\n") == 1
    for dataset in ("folder", "npz") if what != "one image" else ():
        code, _, err = invoke("run", "--dataset", dataset, "--set", f"dataset.path={path}", "--dry-run")
        assert code == 2
        assert what in err
    # what is in a folder is named too, by its suffix
    if path.suffix not in ("", ".csv", ".npz", ".png"):
        code, _, err = invoke("data", "inspect", str(tmp_path))
        assert code == 2
        assert f"1 {path.suffix} file: {recognise_foreign(path)[0]}" in err  # type: ignore[index]


def test_every_format_is_found_by_its_suffix() -> None:
    for kind in FOREIGN:
        for suffix in kind.suffixes:
            position, magic = kind.magic[0] if kind.magic else (0, b"")
            assert sniff(bytes(position) + magic, suffix) == kind
    assert sniff(b"label,image\n", ".parquet") is None  # a table, whatever its name says
    assert sniff(b"label,image\n", ".csv") is None
    assert sniff(b"PK\x03\x04" + bytes(26) + b"image.npy", ".npz") is None


def _bomb(path: Path, member: str, head: bytes, megabytes: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(member, head + bytes(megabytes << 20))


def _header(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return out.getvalue()


def _many(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("image.npy", _header((0, 8, 8)))
        archive.writestr("label.npy", _header((count,)) + bytes(count))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 100 characters
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


def _lines(text: str, count: int = 60_000) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text("label,image\n" + text * count)

    return write


def _lying(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", _header((10**9, 10**9)))
        archive.writestr("label.npy", _header((10,)) + bytes(10))


HOSTILE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "pipe": ("cells.csv", _fifo, "named pipe"),
    "pipe as arrays": ("cells.npz", _fifo, "named pipe"),
    "socket": ("cells.csv", _socket, "socket"),
    "folder called table": ("cells.csv", Path.mkdir, "has none"),
    "zeros": ("cells.csv", lambda path: path.symlink_to("/dev/zero"), "device"),
    "rows of other width": ("cells.csv", _lines("a,b,c\n"), "none of the first 10,000"),
    "rows without labels": ("cells.csv", _lines(",x.png\n"), "none of the first 10,000"),
    "images that are missing": ("cells.csv", _lines("a,x.png\nb,y.png\n", 6_000), "exist"),
    "arrays that unpack": ("cells.npz", lambda path: _bomb(path, "label.npy", _header((20 << 20,)), 20), "GB"),
    "more labels than cells exist": ("cells.npz", lambda path: _many(path, 2_000_000), "at most 1,000,000"),
    "image that unpacks": ("cells.zip", lambda path: _bomb(path, "a/1.png", b"\x89PNG\r\n\x1a\n", 20), "GB"),
    "arrays that lie": ("cells.npz", _lying, "claims"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_quickly(
    name: str, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wbcbench.data.folders.MAX_FILE", 16 << 20)
    monkeypatch.setattr("wbcbench.data.npz_file._LARGE", 16 << 20)
    monkeypatch.setattr("wbcbench.data.npz_file._MOST_CELLS", 1_000_000)
    file, make, says = HOSTILE[name]
    path = tmp_path / file
    make(path)
    before, size = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, _, err = invoke("data", "inspect", str(path))
    dataset = "npz" if path.suffix == ".npz" else "folder"
    more, _, error = invoke("run", "--dataset", dataset, "--set", f"dataset.path={path}", "--dry-run")
    assert (code, more) == (2, 2)
    assert says in err
    assert "Traceback" not in err + error
    assert time.process_time() - before < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size < 400_000  # kB


@pytest.mark.parametrize("name", ["cells.cif", "cells.h5", "book.csv", "cells.pkl"])
def test_predict_names_the_format_too(name: str, tmp_path: Path) -> None:
    content, what, advice = GIVEN[name]
    (tmp_path / name).write_bytes(content)
    wanted: Any = SimpleNamespace(preparation=Preparation({"image": 3}), dataset=None, orders=())
    with pytest.raises(DataError, match=what) as caught:
        open_cells(tmp_path / name, wanted)
    assert advice in str(caught.value)
