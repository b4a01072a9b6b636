"""Survey the cells at a path: classes, modalities, and which cells have the same pixels."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import Account, Cells, Dataset, Progress, content_digest
from wbcbench.data.cache import cached_arrays
from wbcbench.data.csv_table import Manifest
from wbcbench.data.decode import DECODER_VERSION, UndecodableError, decode_whole, read_header
from wbcbench.data.folders import FileSource, open_source, refuse_if_absent
from wbcbench.data.image_files import remark_notes
from wbcbench.data.splits import Copies, Folds, same_rows
from wbcbench.errors import DataError
from wbcbench.files import atomic_write_bytes

if TYPE_CHECKING:
    from PIL import Image, ImageDraw


Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Modality:
    """Facts about one modality's images; sides in pixels, 0 if there is no image, or for a vector of numbers."""

    channels: int
    """Or the numbers of a vector."""
    bits: int
    """8 or 16; 32 for a vector."""
    smallest: int
    largest: int
    oblong: int
    """Number of images that are not square."""
    missing: int
    """Number of cells without an image."""


@dataclass
class Survey:
    """The N usable cells at a path; cells that a run cannot use are in `unusable` instead."""

    path: Path
    kind: Literal["tree", "manifest", "npz", "dataset"]
    labels: list[str]
    """[N], as in the source."""
    classes: tuple[str, ...]
    ids: list[str]
    modalities: dict[str, Modality]
    digests: dict[str, list[bytes | None]]
    """Modality -> [N] digests of the decoded pixels; None where an image is missing."""
    groups: list[str] | None = None
    split: NDArray[np.str_] | None = None
    folds: Folds | None = None
    """See `Cells.folds`."""
    dataset: str = ""
    """The data set that can read the path; empty if it must be imported first."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its parameters."""
    taken: list[tuple[str, str]] = field(default_factory=list)
    """(column, folder level or array; the role it was given)."""
    unusable: list[tuple[str, str]] = field(default_factory=list)
    """(file or line, reason)."""
    notes: list[str] = field(default_factory=list)
    accounts: tuple[Account, ...] = ()
    """Of the files or rows first, then of classes, splits, groups and columns; see `Cells.accounts`."""
    sizes: NDArray[np.int64] | None = None
    """Longer sides of all images in pixels, if they differ."""
    extra: dict[str, list[str]] = field(default_factory=dict)
    """Column of numbers that has no role -> [N], as in the source."""
    mixed: dict[str, list[int]] = field(default_factory=dict)
    """`8` and `16` -> rows with an image of this depth in a modality that mixes both, which a run refuses."""
    demonstration: bool = False
    """The cells are made up."""
    read_at: int = 0
    """Side that images were resized to, if they have no side of their own and pixels were loaded; else 0."""
    filtered: bool = False
    """Whether cells were left out by an option, so that a run cannot read the path as it is."""
    listing: Manifest | None = None
    """Paths, if the images are files."""
    root: Path | None = None
    """The folder or zip that the paths are relative to."""
    cells: Cells | None = None
    """Pixels, if they have been loaded."""
    config: Path | None = None
    """The config file that specified how to read the path."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def codes(self) -> NDArray[np.int64]:
        """[N] labels as indices into `classes`."""
        number = {name: i for i, name in enumerate(self.classes)}
        return np.array([number[label] for label in self.labels], dtype=np.int64)

    @cached_property
    def group_names(self) -> list[str]:
        """Distinct groups, by their number in `group_codes`."""
        if self.cells is not None and self.cells.group_names:
            return list(self.cells.group_names)
        return sorted(set(self.groups or ()))

    def group_name(self, code: int) -> str:
        """The name of a group, given its number in `group_codes`."""
        known = self.cells is None or self.cells.group_names
        return self.group_names[code] if known else str(code)

    @cached_property
    def group_codes(self) -> NDArray[np.int64] | None:
        """[N] or None. Numbered as by the data set that a run loads, since its split depends on the order."""
        if self.groups is None or self.cells is not None:
            return self.cells.groups if self.cells is not None else None
        number = {name: i for i, name in enumerate(self.group_names)}
        return np.array([number[g] for g in self.groups], dtype=np.int64)

    @cached_property
    def copies(self) -> Copies:
        """Cells whose pixels are equal in every modality."""
        rows = zip(*self.digests.values(), strict=True)
        return same_rows(row if any(row) else None for row in rows)

    @property
    def side(self) -> int | None:
        """The side if all images are square and of one size, else None."""
        sides = {s for m in self.modalities.values() for s in (m.smallest, m.largest) if s}
        return sides.pop() if len(sides) == 1 and not any(m.oblong for m in self.modalities.values()) else None


@dataclass(frozen=True)
class Images:
    """All images of a listing, decoded once."""

    kept: Manifest
    """The cells whose images can all be read."""
    modalities: dict[str, Modality]
    digests: dict[str, list[bytes | None]]
    """Modality -> [N] digests of the decoded pixels."""
    unreadable: list[tuple[str, str]]
    """(file, reason)."""
    sizes: NDArray[np.int64]
    """Longer sides of the images."""
    mixed: dict[str, list[int]]
    """See `Survey.mixed`."""


def survey_listing(
    listing: Manifest, root: Path, bits: Sequence[str] = (), progress: Progress | None = None
) -> Images:
    """Decode every image once (cached by sizes and times).

    Args:
        bits: `8` or `16`: in modalities that mix both, cells with images of this depth are left out.
    """
    with open_source(root) as source:
        names = sorted({p for paths in listing.paths.values() for p in paths if p})
        refuse_if_absent(source, names, root)
        key = content_digest("survey-1", DECODER_VERSION, str(root.resolve()), names, source.stamps(names))
        found = cached_arrays(key, lambda: _read_all(source, names, progress))
    place = {name: i for i, name in enumerate(names)}
    why, depth = found["why"].astype(str), found["header"][:, 3]
    gone: list[tuple[int, str]] = []  # row, reason in the account
    mixed = {
        m
        for m, paths in listing.paths.items()
        if len({int(depth[place[p]]) for p in paths if p and not why[place[p]]}) > 1
    }
    for row, images in enumerate(zip(*listing.paths.values(), strict=True)):
        there = [(m, place[p]) for m, p in zip(listing.paths, images, strict=True) if p]
        if any(why[i] == MISSING for _, i in there):
            gone.append((row, "with a file that does not exist"))
        elif any(why[i] for _, i in there):
            gone.append((row, "that cannot be decoded"))
        elif cut := next((str(depth[i]) for m, i in there if m in mixed and str(depth[i]) in bits), ""):
            gone.append((row, f"left out by bits={cut}"))
    kept = leave_rows_out(listing, gone)
    used = found["remarks"][[place[p] for p in sorted({p for paths in kept.paths.values() for p in paths if p})]]
    remarks = Counter(remark for each in used.astype(str) for remark in each.split("\n") if remark)
    kept = replace(kept, notes=[*kept.notes, *remark_notes(remarks)])
    modalities, digests, sizes = {}, {}, []
    both: dict[str, set[int]] = {"8": set(), "16": set()}
    for name, paths in kept.paths.items():
        rows = np.array([place[p] for p in paths if p], dtype=np.int64)
        modalities[name] = _facts(found["header"][rows], len(paths) - len(rows))
        digests[name] = [found["digest"][place[p]].tobytes() if p else None for p in paths]
        sizes.append(found["header"][rows, :2].max(1, initial=0).astype(np.int64))
        if len(set(depth[rows].tolist())) > 1:
            for row, path in enumerate(paths):
                if path:
                    both[str(depth[place[path]])].add(row)
    for name, numbers in kept.vectors.items():
        digests[name] = [None if np.isnan(row).all() else _digest(row) for row in numbers]
        modalities[name] = Modality(numbers.shape[1], 32, 0, 0, 0, digests[name].count(None))
    unreadable = [(n, str(why[i])) for n, i in place.items() if why[i]]
    rows_of = {bits: sorted(rows) for bits, rows in both.items() if rows}
    return Images(kept, modalities, digests, unreadable, np.concatenate([np.zeros(0, np.int64), *sizes]), rows_of)


def leave_rows_out(listing: Manifest, gone: Sequence[tuple[int, str]]) -> Manifest:
    """The listing without the rows of (row, reason), which its account then names.

    The account of a folder counts files, of which a cell may have several; that of a table counts rows.
    """
    account = listing.account
    for reason in dict.fromkeys(why for _, why in gone):
        rows = [row for row, why in gone if why == reason]
        account = account.without(reason, things_of(listing, rows))
    dropped = {row for row, _ in gone}
    kept = select_rows(
        listing, np.array([i for i in range(len(listing.lines)) if i not in dropped], dtype=np.intp)
    )
    return replace(kept, account=account)


def things_of(listing: Manifest, rows: Sequence[int]) -> list[str]:
    """What the account of a listing counts, of some of its rows: their files, or their lines."""
    if listing.account.unit == "files":
        return [paths[row] for row in rows for paths in listing.paths.values() if paths[row]]
    return [f"line {listing.lines[row]}" for row in rows]


def survey_cells(cells: Cells) -> tuple[dict[str, Modality], dict[str, list[bytes | None]]]:
    """Facts and digests of loaded cells."""
    modalities, digests = {}, {}
    for m, (name, array) in enumerate(cells.images.items()):
        there = np.ones(len(cells), bool) if cells.present is None else cells.present[:, m]
        side = 0 if name in cells.features else int(array.shape[2])
        bits = array.dtype.itemsize * 8
        modalities[name] = Modality(int(array.shape[1]), bits, side, side, 0, int((~there).sum()))
        digests[name] = [_digest(array[i]) if there[i] else None for i in range(len(cells))]
    return modalities, digests


READ_AT = 64


def survey_dataset(name: str, dataset: Dataset, settings: dict[str, Any], progress: Progress | None) -> Survey:
    """Survey any data set by loading it at its native side (64 px if it has none). Raises `DataError`."""
    described = dataset.describe()
    native = described.image_size
    cells = dataset.load(native or READ_AT, progress)
    modalities, digests = survey_cells(cells)
    return Survey(
        path=Path(str(settings.get("path", name))), kind="dataset", classes=cells.classes,
        labels=[cells.classes[c] for c in cells.labels],
        ids=list(cells.ids or (f"row {i}" for i in range(len(cells)))), modalities=modalities, digests=digests,
        groups=groups_of(cells), split=cells.split, folds=cells.folds, dataset=name, settings=settings,
        notes=cells.notes, cells=cells, accounts=cells.accounting(), read_at=0 if native else READ_AT,
        demonstration=described.demonstration,
    )  # fmt: skip


def groups_of(cells: Cells) -> list[str] | None:
    """[N] names of groups, or None."""
    if cells.groups is None:
        return None
    return [cells.group_names[g] if cells.group_names else str(g) for g in cells.groups]


def sheet_cells(survey: Survey, per_class: int, side: int) -> Cells:
    """The first cells of each class with their pixels, for a contact sheet."""
    if survey.cells is not None:
        return survey.cells
    assert survey.listing is not None
    assert survey.root is not None
    from wbcbench.data.decode import decode_square

    rows = np.concatenate([np.flatnonzero(survey.codes == c)[:per_class] for c in range(len(survey.classes))])
    some = select_rows(survey.listing, rows)
    images = {}
    with open_source(survey.root) as source:
        for m, paths in some.paths.items():
            facts = survey.modalities[m]
            array = np.zeros((len(rows), facts.channels, side, side), np.uint16 if facts.bits == 16 else np.uint8)
            for i, path in enumerate(paths):
                if path:
                    array[i] = decode_square(source.read(path), facts.channels, side)
            images[m] = array
    present = np.array([[bool(p) for p in paths] for paths in some.paths.values()]).T
    return Cells(images, survey.codes[rows], survey.classes, fingerprint="", present=present)


def select_rows(listing: Manifest, rows: NDArray[np.intp]) -> Manifest:
    """The cells `rows` of a listing."""
    return replace(
        listing,
        lines=[listing.lines[i] for i in rows],
        labels=[listing.labels[i] for i in rows],
        paths={m: [paths[i] for i in rows] for m, paths in listing.paths.items()},
        groups=None if listing.groups is None else [listing.groups[i] for i in rows],
        split=None if listing.split is None else listing.split[rows],
        folds=None if listing.folds is None else {k: side[rows] for k, side in listing.folds.items()},
        ids=[listing.ids[i] for i in rows],
        vectors={m: numbers[rows] for m, numbers in listing.vectors.items()},
    )


MISSING = "does not exist"


def _read_all(source: FileSource, names: list[str], progress: Progress | None) -> dict[str, Array]:
    digest = np.zeros((len(names), 32), np.uint8)
    header = np.zeros((len(names), 4), np.int32)
    why, remarks = [], []
    for i, (data, problem) in enumerate(_contents(source, names)):
        remarks.append("")
        if data is not None:
            try:
                h = read_header(data)
                pixels = decode_whole(data, h.channels)
                digest[i] = np.frombuffer(_digest(pixels), np.uint8)
                header[i] = (h.width, h.height, h.channels, h.bits)
                remarks[i] = "\n".join(h.remarks)
            except UndecodableError as error:
                problem = str(error)
        why.append(problem)
        if progress and ((i + 1) % 200 == 0 or i + 1 == len(names)):
            progress(i + 1, len(names), "images read")
    return {"digest": digest, "header": header, "why": np.array(why or [""]), "remarks": np.array(remarks or [""])}


def _contents(source: FileSource, names: list[str]) -> Iterator[tuple[bytes | None, str]]:
    for name in names:
        try:
            yield source.read(name), ""
        except FileNotFoundError:
            yield None, MISSING
        except OSError as error:
            yield None, f"cannot be read ({error.strerror or error})"


def _digest(pixels: Array) -> bytes:
    return hashlib.sha256(
        f"{pixels.shape}{pixels.dtype}".encode() + np.ascontiguousarray(pixels).tobytes()
    ).digest()


def _facts(header: Array, missing: int) -> Modality:
    if not len(header):
        return Modality(1, 8, 0, 0, 0, missing)
    sides = header[:, :2]
    return Modality(
        channels=int(header[:, 2].max()), bits=int(header[:, 3].max()), smallest=int(sides.min()),
        largest=int(sides.max()), oblong=int((sides[:, 0] != sides[:, 1]).sum()), missing=missing,
    )  # fmt: skip


TILE = 96
"""Side of a cell on the sheet, in pixels."""
GAP = 4
PAPER, INK, ABSENT = (255, 255, 255), (0, 0, 0), (200, 0, 0)


def contact_sheet(cells: Cells, path: Path, per_class: int = 8) -> None:
    """Write a PNG of the first `per_class` cells of each class: a row per class and modality.

    8-bit images keep their grey levels; 16-bit modalities are stretched from their 0.1 to 99.9 percentile,
    with one range for the whole sheet. Three channels are shown as red, green, blue; two as red and green; of
    more than three the first three are shown. A missing image is a crossed-out box.

    Raises:
        ValueError: `per_class` is less than 1.
        DataError: there are no images.
        WbcbenchError: the file cannot be written. No partial file is left.
    """
    if per_class < 1:
        raise ValueError(f"Expected at least one cell per class, but got per_class={per_class}.")
    from PIL import Image, ImageDraw

    pictures = {m: array for m, array in cells.images.items() if m not in cells.features}
    if not pictures:
        raise DataError("Expected images for a contact sheet, but every modality is numbers.")
    picked = [np.flatnonzero(cells.labels == c)[:per_class] for c in range(len(cells.classes))]
    columns = max(len(rows) for rows in picked)
    lines = [(c, m) for c in range(len(cells.classes)) for m in pictures]
    margin = _margin([f"{cells.classes[c]} / {m}" for c, m in lines])
    size = (margin + columns * (TILE + GAP) + GAP, len(lines) * (TILE + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    ranges = {m: _grey_range(a, np.concatenate(picked)) for m, a in pictures.items()}
    names = list(cells.images)
    for line, (c, m) in enumerate(lines):
        top = GAP + line * (TILE + GAP)
        pen.text((GAP, top + TILE // 2 - 6), f"{cells.classes[c]} / {m}", fill=INK)
        for column, row in enumerate(picked[c]):
            left = margin + GAP + column * (TILE + GAP)
            if cells.present is not None and not cells.present[row, names.index(m)]:
                _cross_out(pen, left, top)
            else:
                sheet.paste(_tile(cells.images[m][row], *ranges[m]), (left, top))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    atomic_write_bytes(Path(path), buffer.getvalue())


def _margin(labels: list[str]) -> int:
    from PIL import ImageFont

    font = ImageFont.load_default()
    return 2 * GAP + max(int(font.getbbox(text)[2]) for text in labels)


def _grey_range(images: NDArray[Any], rows: NDArray[np.int64]) -> tuple[float, float]:
    """Grey levels shown as black and as white."""
    if images.dtype == np.uint8:
        return 0.0, 255.0
    low, high = np.percentile(images[rows], (0.1, 99.9))
    return float(low), float(max(high, low + 1))


def _tile(image: NDArray[Any], low: float, high: float) -> Image.Image:
    """[C, S, S] to an RGB tile."""
    from PIL import Image

    grey = ((image[:3].astype(np.float32) - low) / (high - low)).clip(0, 1)
    if len(grey) == 1:
        grey = np.repeat(grey, 3, axis=0)
    elif len(grey) == 2:
        grey = np.concatenate([grey, np.zeros_like(grey[:1])])
    pixels = (grey * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    # nearest neighbour keeps the pixels of small images visible
    how = Image.Resampling.NEAREST if TILE % image.shape[1] == 0 else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((TILE, TILE), how)


def _cross_out(pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
    right, bottom = left + TILE - 1, top + TILE - 1
    pen.rectangle((left, top, right, bottom), outline=ABSENT)
    pen.line((left, top, right, bottom), fill=ABSENT)
    pen.line((left, bottom, right, top), fill=ABSENT)
