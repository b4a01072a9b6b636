"""Facts about a manifest's images, from reading every file once; cached by sizes and mtimes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import (
    RESIZE_VERSION,
    Cells,
    Description,
    Progress,
    content_digest,
    window_square,
)
from wbcbench.contracts.params import Parameters
from wbcbench.data.cache import cached_arrays, recall, remember
from wbcbench.data.csv_table import Manifest
from wbcbench.data.decode import (
    DECODER_VERSION,
    ImageHeader,
    UndecodableError,
    decode_whole,
    fits,
    read_header,
)
from wbcbench.data.folders import FileSource, open_source, refuse_if_absent
from wbcbench.data.labels import Problems, encode_groups, encode_labels, in_order, names_of_groups, split_sizes
from wbcbench.data.official_folds import fold_sizes
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
_SHELF = "images"
Decode = Callable[[bytes, int, int], Array]


@dataclass(frozen=True)
class ImageIndex:
    """Facts about all images together."""

    digest: str
    """Hex digest of all images' content, in order of modality and row."""
    channels: dict[str, int]
    bits: dict[str, int]
    smallest: int
    """The shortest side of any image, in pixels."""
    largest: int
    oblong: int
    """Number of images that are not square."""
    decoder: int
    """The decoder's version since which all images have these pixels; part of the fingerprint."""
    remarks: dict[str, int]
    """`ImageHeader.remarks` -> number of images."""

    @property
    def side(self) -> int | None:
        """The side if all images are square and of one size, else None; 0 without images."""
        return self.smallest if self.smallest == self.largest and not self.oblong else None


def index_images(
    manifest: Manifest, source: FileSource, root: str, problems: Problems, progress: Progress | None = None
) -> ImageIndex | None:
    """Read contents and headers of all images, or return the cached result of an earlier call.

    Damaged files are added to `problems`. The result is None if there are any, or if there is no image.

    Raises:
        DataError: a modality mixes 8-bit and 16-bit images, or numbers of channels that no conversion joins.
    """
    names = sorted({path for paths in manifest.paths.values() for path in paths if path})
    refuse_if_absent(source, names, Path(root))
    key = content_digest(DECODER_VERSION, root, names, source.stamps(names), list(manifest.paths.items()))
    known = recall(_SHELF, key)
    if isinstance(known, dict):
        try:
            return ImageIndex(**known)
        except TypeError:
            pass  # written by another version
    before = len(problems)
    if not manifest.paths:  # a table of numbers
        return ImageIndex("", {}, {}, smallest=0, largest=0, oblong=0, decoder=0, remarks={})
    digest = hashlib.sha256()
    headers: dict[str, list[tuple[int, ImageHeader]]] = {name: [] for name in manifest.paths}
    for modality, line, path, data in _contents(manifest, source, problems, progress, "image headers"):
        _digest_one(digest, modality, data)
        if data is not None:
            try:
                headers[modality].append((line, read_header(data)))
            except UndecodableError as error:
                problems.add(line, f"{path} {error}")
    found = [header for rows in headers.values() for _, header in rows]
    if len(problems) > before or not found:
        return None
    sides = [side for h in found for side in (h.width, h.height)]
    index = ImageIndex(
        digest=digest.hexdigest(),
        channels={m: _channels(m, rows) for m, rows in headers.items()},
        bits={m: _bits(m, rows) for m, rows in headers.items()},
        smallest=min(sides),
        largest=max(sides),
        oblong=sum(h.width != h.height for h in found),
        decoder=max(h.decoder for h in found),
        remarks=dict(sorted(Counter(remark for h in found for remark in h.remarks).items())),
    )
    remember(_SHELF, key, asdict(index))
    return index


def decode_images(
    manifest: Manifest,
    source: FileSource,
    index: ImageIndex,
    side: int,
    where: str,
    progress: Progress | None,
    decode: Decode,
) -> dict[str, Array]:
    """Decode every image to modality -> [N, C, side, side]; zeros where an image is missing.

    Args:
        decode: turns (encoded data, channels, side) into [C, side, side].

    Raises:
        DataError: some images cannot be decoded (the error lists them), or files changed since they were indexed.
    """
    problems, digest = Problems(), hashlib.sha256()
    count = len(manifest.lines)
    out: dict[str, Array] = {
        m: np.zeros((count, c, side, side), np.uint16 if index.bits[m] == 16 else np.uint8)
        for m, c in index.channels.items()
    }
    rows = iter(range(count * len(out)))
    for modality, line, path, data in _contents(manifest, source, problems, progress, "images decoded"):
        row = next(rows) % count
        _digest_one(digest, modality, data)
        if data is not None:
            try:
                out[modality][row] = decode(data, index.channels[modality], side)
            except UndecodableError as error:
                problems.add(line, f"{path} {error}")
    problems.raise_if_any(where)
    if digest.hexdigest() != index.digest:
        raise DataError(
            f"Expected the images of {where} not to change, but some were modified while they were read. "
            "Run the command again."
        )
    return out


def _contents(
    manifest: Manifest, source: FileSource, problems: Problems, progress: Progress | None, what: str
) -> Iterator[tuple[str, int, str, bytes | None]]:
    """(modality, line, path, bytes or None) of every modality and row, in order."""
    total = len(manifest.lines) * len(manifest.paths)
    done = 0
    for modality, paths in manifest.paths.items():
        for line, path in zip(manifest.lines, paths, strict=True):
            data = None
            if path:
                try:
                    data = source.read(path)
                except FileNotFoundError:
                    problems.add(line, f"{path} does not exist")
                except OSError as error:
                    problems.add(line, f"{path} cannot be read ({error.strerror or error})")
            yield modality, line, path, data
            done += 1
            if progress and (done % 200 == 0 or done == total):
                progress(done, total, what)


def _digest_one(digest: Any, modality: str, data: bytes | None) -> None:
    digest.update(f"{modality}\0".encode() + (b"-" if data is None else hashlib.sha256(data).digest()))


def _bits(modality: str, rows: list[tuple[int, ImageHeader]]) -> int:
    """8 or 16. The two cannot be mixed: only the user knows how their intensities compare."""
    lines = {bits: [line for line, h in rows if h.bits == bits] for bits in (8, 16)}
    if lines[8] and lines[16]:
        raise DataError(
            f"Expected all {modality} images with 8 or all with 16 bits, but {len(lines[8])} have 8 "
            f"(line {lines[8][0]}) and {len(lines[16])} have 16 (line {lines[16][0]}). Convert one kind "
            "with a fixed window."
        )
    return 16 if lines[16] else 8


def _channels(modality: str, rows: list[tuple[int, ImageHeader]]) -> int:
    """Grey and colour become colour; other numbers must be the same in all images."""
    most = max((h.channels for _, h in rows), default=1)
    for line, header in rows:
        if not fits(header.channels, most):
            other = next(number for number, h in rows if h.channels == most)
            raise DataError(
                f"Expected all {modality} images with the same channels, but line {line} has {header.channels} "
                f"and line {other} has {most}. Save all with the same, or the channels as separate grey images."
            )
    return most


def remark_notes(remarks: Mapping[str, int]) -> list[str]:
    """One note for each kind of `ImageHeader.remarks`."""
    return [f"{n} image{'s have' if n > 1 else ' has'} {remark}." for remark, n in remarks.items()]


def _there(manifest: Manifest) -> dict[str, Array]:
    """Modality -> [N] bool, the cells that have it."""
    there: dict[str, Array] = {m: np.array([bool(p) for p in paths]) for m, paths in manifest.paths.items()}
    return there | {m: np.logical_not(np.isnan(numbers).all(1)) for m, numbers in manifest.vectors.items()}


P = TypeVar("P", bound=Parameters)


class ListedImages(ABC, Generic[P]):
    """Cells listed as paths of image files (PNG, JPEG, TIFF, BMP, WebP, JPEG 2000) below a folder or in a zip.

    A data set uses a subclass to describe and load itself; the subclass defines where the files are and which
    files belong to which cell. (No data set inherits from this class: a component's declarations must be in its
    own file.)
    """

    version: ClassVar[str]
    """Part of the fingerprint: increased whenever the same files would give other cells."""
    licence: ClassVar[str] = "unknown"

    def __init__(self, params: P) -> None:
        self.params = params

    @abstractmethod
    def _root(self) -> Path:
        """The folder or zip that paths are relative to."""

    def _where(self) -> Path:
        """The path that messages name."""
        return self._root()

    @abstractmethod
    def _list(self, source: FileSource, problems: Problems) -> Manifest:
        """The cells in a fixed order; adds invalid ones to `problems`. Reads no pixels. Raises `DataError`."""

    def _classes(self) -> tuple[str, ...] | None:
        """Class names in order; None: the sorted distinct labels."""
        return None

    def _adapt(self, index: ImageIndex) -> ImageIndex:
        """The index of the decoded images, if it differs from that of the files' headers."""
        return index

    def _order(self) -> tuple[str, ...]:
        """All classes from first to last, if their order means something."""
        return ()

    def _labels(self, manifest: Manifest) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        where = str(self._where())
        labels, classes = encode_labels(np.array(manifest.labels), self._classes(), where)
        return in_order(labels, classes, self._order(), where)

    def _resolved(self, index: ImageIndex) -> dict[str, Any]:
        """See `Cells.resolved`."""
        return {}

    def _window(self, index: ImageIndex) -> int:
        """Side of the window that images are placed in, unscaled; 0: they are cut to their middle square."""
        return 0

    def _side(self, index: ImageIndex) -> int | None:
        """The native side in pixels, or None if there is none."""
        return self._window(index) or index.side

    def _decode(
        self, manifest: Manifest, source: FileSource, index: ImageIndex, side: int, progress: Progress | None
    ) -> dict[str, Array]:
        """Modality -> [N, C, side, side]."""
        square = window_square(self._window(index))

        def decode(data: bytes, channels: int, to: int) -> Array:
            return square(decode_whole(data, channels), to)

        return decode_images(manifest, source, index, side, str(self._where()), progress, decode)

    def _decoding(self, index: ImageIndex) -> tuple[object, ...]:
        """What decoded arrays depend on, in addition to the files and the side."""
        window = self._window(index)
        placed: tuple[object, ...] = ("window", window) if window else ()
        return ("folder-arrays", DECODER_VERSION, RESIZE_VERSION, index, *placed)

    def _fingerprint(self, manifest: Manifest, index: ImageIndex) -> str:
        split = None if manifest.split is None else manifest.split.tolist()
        columns = (manifest.labels, manifest.groups, split, list(manifest.paths))
        content = content_digest(self.version, index.decoder, columns, index.digest)
        window = self._window(index)
        content = content_digest(content, window) if window else content
        content = content_digest(content, "order", self._order()) if self._order() else content
        if manifest.vectors:
            numbers = [x for m, array in manifest.vectors.items() for x in (m, manifest.features[m], array)]
            content = content_digest(content, "vectors", *numbers)
        if manifest.folds is None:
            return content
        return content_digest(content, "folds", [(fold, side.tolist()) for fold, side in manifest.folds.items()])

    def describe(self) -> Description:
        """See `Dataset.describe`. The first call reads every file, later ones only sizes and times."""
        manifest, index = self._read(None)
        labels, classes = self._labels(manifest)
        return Description(
            modalities=dict(index.channels) | {m: x.shape[1] for m, x in manifest.vectors.items()},
            classes=classes,
            cells=len(labels),
            fingerprint=self._fingerprint(manifest, index),
            image_size=self._side(index) or None,
            split_sizes=split_sizes(manifest.split),
            fold_sizes=fold_sizes(manifest.folds),
            groups=manifest.groups is not None,
            group_count=None if manifest.groups is None else len(set(manifest.groups)),
            licence=self.licence,
            incomplete=tuple(m for m, there in _there(manifest).items() if not there.all()),
            features=manifest.features,
            ordered=bool(self._order()),
            accounts=manifest.accounts(),
            notes=(*manifest.notes, *remark_notes(index.remarks)),
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`. Images are decoded once per size, then memory-mapped from the cache."""
        manifest, index = self._read(progress)
        where = str(self._where())
        side = image_size or self._side(index)
        if side is None:
            raise DataError(
                f"Expected images of one square size in {where}, but sides run from "
                f"{index.smallest} to {index.largest} pixels. Choose one with --image-size."
            )

        def decode() -> dict[str, Array]:
            with open_source(self._root()) as source:
                return self._decode(manifest, source, index, side, progress)

        images = cached_arrays(content_digest(*self._decoding(index), side), decode) if manifest.paths else {}
        labels, classes = self._labels(manifest)
        groups = None if manifest.groups is None else encode_groups(np.array(manifest.groups), where)
        names = () if groups is None else names_of_groups(np.array(manifest.groups), groups)
        present = np.array(list(_there(manifest).values())).T
        return Cells(
            images={name: images[name] for name in manifest.paths} | manifest.vectors,
            labels=labels,
            classes=classes,
            fingerprint=self._fingerprint(manifest, index),
            groups=groups,
            split=manifest.split,
            folds=manifest.folds,
            present=None if present.all() else np.ascontiguousarray(present),
            ids=tuple(manifest.ids),
            licence=self.licence,
            notes=manifest.notes + remark_notes(index.remarks) + self._notes(manifest, index, side),
            resolved=self._resolved(index),
            accounts=manifest.accounts(),
            group_names=names,
            features=manifest.features,
            ordered=bool(self._order()),
        ).check()

    def _read(self, progress: Progress | None) -> tuple[Manifest, ImageIndex]:
        root, where = self._root(), self._where()
        problems = Problems()
        with open_source(root) as source:
            manifest = self._list(source, problems)
            index = index_images(manifest, source, str(root.resolve()), problems, progress)
        problems.raise_if_any(str(where), f"Image paths are relative to {root} (dataset.root).")
        if index is None:
            raise DataError(f"Expected images in {where}, but it names none. Add their paths.")
        return manifest, self._adapt(index)

    def _notes(self, manifest: Manifest, index: ImageIndex, side: int) -> list[str]:
        notes = []
        window = self._window(index)
        if window:
            if index.side != window:
                notes.append(
                    f"Images of {index.smallest}..{index.largest} pixels were placed in windows of {window}."
                )
            if side != window:
                notes.append(f"Windows of {window} pixels were resized to {side}.")
        elif index.oblong:
            notes.append(f"{index.oblong} images that are not square were cut to their middle square.")
        if not window and index.side != side:
            sides = (
                f"{index.smallest}" if index.smallest == index.largest else f"{index.smallest}..{index.largest}"
            )
            notes.append(f"Images of {sides} pixels were resized to {side}.")
        for name, paths in manifest.paths.items():
            missing = sum(not path for path in paths)
            if missing:
                notes.append(f"{missing} cells have no {name} image.")
        for name, numbers in manifest.vectors.items():
            if missing := int(np.isnan(numbers).sum()):
                notes.append(f"{missing} of {numbers.size} numbers of {name} are missing.")
        return notes
