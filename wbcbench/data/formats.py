"""Files that hold cells but are not read here: what they are, and how to convert them."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wbcbench.errors import DataError


@dataclass(frozen=True)
class Foreign:
    """A format that is not read."""

    name: str
    advice: str
    suffixes: tuple[str, ...]
    magic: tuple[tuple[int, bytes], ...] = ()
    """(position, bytes) of which one is in every such file; empty: known by its suffix only."""


_SAVEZ = "numpy.savez('cells.npz', image=images, label=labels)"
_FLOW = (
    "Export its images first (IDEAS: Create TIFs from the .cif, one file per channel, 16 bit; or Bio-Formats) and "
    "read them with --dataset imaging_flow."
)
_MICROSCOPE = (
    "Export one TIFF per cell and channel (Fiji with Bio-Formats, or the Python package bioio), in a folder per "
    "class or listed in a .csv."
)
_SLIDE = "Cut out one image per cell (QuPath, or the Python package openslide) and save PNG or TIFF."
_CODE = "It may contain code and is never opened. Convert it where you trust it: " + _SAVEZ + "."
_UNPACK = "Unpack it and give the folder; only .zip is read as it is."

FOREIGN = (
    Foreign("a compensated image file of an imaging flow cytometer", _FLOW, (".cif",)),
    Foreign("a raw image file of an imaging flow cytometer", _FLOW, (".rif",)),
    Foreign("an analysis file of an imaging flow cytometer, without images", _FLOW, (".daf", ".daw")),
    Foreign(
        "a flow cytometry file: events without images",
        "Give the images of the cells.",
        (".fcs",),
        ((0, b"FCS2."), (0, b"FCS3.")),
    ),
    Foreign(
        "a MATLAB file",
        f"Load it with scipy.io.loadmat (version 7.3: h5py) and save it: {_SAVEZ}.",
        (".mat",),
        ((0, b"MATLAB "),),
    ),
    Foreign(
        "an HDF5 file",
        f"Read its arrays with h5py and save them: {_SAVEZ}.",
        (".h5", ".hdf5", ".hdf", ".he5", ".h5ad", ".loom"),
        ((0, b"\x89HDF\r\n\x1a\n"),),
    ),
    Foreign("an Imaris image", _MICROSCOPE, (".ims",), ((0, b"\x89HDF\r\n\x1a\n"),)),
    Foreign(
        "a zarr store",
        f"Read its arrays with zarr and save them: {_SAVEZ}. BSCCM, which is published as zarr, is "
        "read with --dataset bsccm.",
        (".zarr", ".n5"),
    ),
    Foreign(
        "a single numpy array, without labels",
        f"Add them: {_SAVEZ}, with images = numpy.load of this file.",
        (".npy",),
        ((0, b"\x93NUMPY"),),
    ),
    Foreign(
        "a Parquet table",
        "Save it as CSV: pandas.read_parquet(path).to_csv('cells.csv', index=False). Images in it "
        "must become files or an .npz.",
        (".parquet", ".pq"),
        ((0, b"PAR1"),),
    ),
    Foreign(
        "a Feather or Arrow table",
        "Save it as CSV: pandas.read_feather(path).to_csv('cells.csv', index=False). Images in it "
        "must become files or an .npz.",
        (".feather", ".arrow", ".ipc"),
        ((0, b"ARROW1"), (0, b"FEA1")),
    ),
    Foreign(
        "an Excel or OpenDocument workbook",
        "Save the sheet as CSV UTF-8.",
        (".xlsx", ".xlsm", ".ods", ".xls"),
        ((30, b"[Content_Types].xml"), (30, b"_rels/.rels"), (30, b"mimetypeapplication/vnd.oasis"),
         (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")),
    ),
    Foreign("a Zeiss image", _MICROSCOPE, (".czi", ".zvi"), ((0, b"ZISRAWFILE"), (0, b"\xd0\xcf\x11\xe0"))),
    Foreign("a Nikon image", _MICROSCOPE, (".nd2",), ((0, b"\xda\xce\xbe\n"),)),
    Foreign("a Leica image", _MICROSCOPE, (".lif", ".xlif", ".lof"), ((0, b"p\0\0\0"),)),
    Foreign(
        "a microscope's image",
        _MICROSCOPE,
        (".lsm", ".oib", ".oif", ".oir", ".vsi", ".dv", ".r3d", ".stk", ".flex", ".mvd2", ".sld"),
    ),
    Foreign(
        "a whole-slide image",
        _SLIDE,
        (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".qptiff", ".isyntax"),
    ),
    Foreign(
        "a DICOM file",
        "Convert it to PNG or 16-bit TIFF (pydicom, or dcm2img of DCMTK).",
        (".dcm", ".dicom"),
        ((128, b"DICM"),),
    ),
    Foreign("a NIfTI volume", _MICROSCOPE, (".nii",)),
    Foreign(
        "a pickle",
        _CODE,
        (".pkl", ".pickle", ".joblib"),
        tuple((0, bytes([128, n])) for n in range(2, 6)),
    ),
    Foreign(
        "a PyTorch file",
        _CODE,
        (".pt", ".pth", ".ckpt"),
        ((30, b"archive/data.pkl"), (30, b"archive/.data/")),
    ),
    Foreign(
        "weights of a network, not cells",
        "Give cells here; weights belong to a backbone's parameters.",
        (".safetensors", ".onnx"),
    ),
    Foreign(
        "an R file",
        "Write the table with write.csv and the images as TIFF or PNG.",
        (".rds", ".rdata", ".rda"),
    ),
    Foreign(
        "a database",
        "Export the table as CSV UTF-8 and the images as files.",
        (".sqlite", ".db", ".mdb", ".lmdb"),
        ((0, b"SQLite format 3\0"),),
    ),
    Foreign(
        "TensorFlow records",
        f"Read them with tensorflow and save them: {_SAVEZ}.",
        (".tfrecord", ".tfrecords"),
    ),
    Foreign("a RAR archive", _UNPACK, (".rar",), ((0, b"Rar!\x1a\x07"),)),
    Foreign("a 7-Zip archive", _UNPACK, (".7z",), ((0, b"7z\xbc\xaf\x27\x1c"),)),
    Foreign(
        "a compressed file",
        _UNPACK,
        (".gz", ".bz2", ".xz", ".zst", ".lz4"),
        ((0, b"\x1f\x8b"), (0, b"BZh"), (0, b"\xfd7zXZ\0"), (0, b"\x28\xb5\x2f\xfd")),
    ),
    Foreign("a tar archive", _UNPACK, (".tar", ".tgz", ".tbz2", ".txz"), ((257, b"ustar"), (0, b"\x1f\x8b"))),
    Foreign(
        "a film",
        "Save the frames to use as PNG or TIFF, one file per cell.",
        (".avi", ".mp4", ".mov", ".mkv"),
        ((4, b"ftypisom"), (4, b"ftypmp4"), (4, b"ftypqt"), (8, b"AVI ")),
    ),
    Foreign("a PDF", "Give the images and the table themselves.", (".pdf",), ((0, b"%PDF-"),)),
    Foreign("JSON", "Write one row per cell as CSV, with the columns label and image.", (".json", ".jsonl")),
    Foreign("a GIF", "Convert it to PNG.", (".gif",), ((0, b"GIF8"),)),
    Foreign(
        "a HEIC, AVIF or JPEG XL image",
        "Convert it to PNG or TIFF.",
        (".heic", ".heif", ".avif", ".jxl"),
        ((4, b"ftypheic"), (4, b"ftypmif1"), (4, b"ftypavif"), (4, b"JXL ")),
    ),
    Foreign(
        "a raw photo of a camera",
        "Develop it to 16-bit TIFF, all files with the same settings.",
        (".cr2", ".cr3", ".nef", ".arw", ".dng"),
    ),
)  # fmt: skip
_BY_SUFFIX = {suffix: kind for kind in reversed(FOREIGN) for suffix in kind.suffixes}
_ZARR = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_HEAD = 512
_SPECIAL = {
    stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device",
}  # fmt: skip


def sniff(head: bytes, suffix: str = "") -> Foreign | None:
    """The format of a file that begins with `head`; its suffix counts where the content does not contradict it."""
    named = _BY_SUFFIX.get(suffix.lower())
    if named is not None and (not named.magic or _has(head, named)):
        return named
    found = next((kind for kind in FOREIGN if _has(head, kind)), None)
    # a .parquet that is neither Parquet nor text is damaged, and still no table
    return found or (named if b"\0" in head else None)


def _has(head: bytes, kind: Foreign) -> bool:
    return any(head[at : at + len(magic)] == magic for at, magic in kind.magic)


def recognise_foreign(path: Path) -> tuple[str, str] | None:
    """(what is at `path`, what to do), if it is in no format that is read. None for what is not there."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(mode):
        zarr = path.suffix.lower() in (".zarr", ".n5") or any((path / name).is_file() for name in _ZARR)
        return (_BY_SUFFIX[".zarr"].name, _BY_SUFFIX[".zarr"].advice) if zarr else None
    for test, name in _SPECIAL.items():
        if test(mode):
            return name, "Give a regular file or a folder."
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(_HEAD), path.suffix)
    except OSError:
        return None
    if kind is None:
        return None
    lies = path.suffix.lower() not in kind.suffixes
    return kind.name + (", whatever its name says" if lies and path.suffix else ""), kind.advice


def refuse_foreign(path: Path, expected: str) -> None:
    """Raise `DataError`, with what to do, if what is at `path` is in no format that is read."""
    found = recognise_foreign(path)
    if found is not None:
        raise DataError(f"Expected {expected}, but {path} is {found[0]}. {found[1]}")


def foreign_among(names: Iterable[str]) -> str:
    """A sentence on the most frequent foreign format among file names, with what to do; may be empty."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    # `.zarr` is a folder, whose files have numbers as names
    common = [(n, suffix) for suffix, n in suffixes.items() if suffix in _BY_SUFFIX]
    if not common:
        return ""
    count, suffix = max(common)
    kind = _BY_SUFFIX[suffix]
    return f"It has {count} {suffix} file{'s' if count > 1 else ''}: {kind.name}. {kind.advice}"
