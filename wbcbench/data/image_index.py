"""What is known of a manifest's images after every file was read once; remembered by sizes and mtimes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wbcbench.contracts.dataset import Progress, content_digest
from wbcbench.data.cache import recall, remember
from wbcbench.data.decode import DECODER_VERSION, ImageHeader, UndecodableError, decode_square, read_header
from wbcbench.data.file_source import FileSource
from wbcbench.data.manifest import Manifest
from wbcbench.data.problems import Problems
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
_SHELF = "images"
Decode = Callable[[bytes, int, int], Array]


@dataclass(frozen=True)
class ImageIndex:
    """Facts of all images together."""

    digest: str
    """Hex digest of every image's content in order of modality and row."""
    channels: dict[str, int]
    bits: dict[str, int]
    smallest: int
    """The shortest side of any image, in pixels."""
    largest: int
    oblong: int
    """Images that are not square."""

    @property
    def side(self) -> int | None:
        """The side if all images are square and equal."""
        return self.smallest if self.smallest == self.largest and not self.oblong else None


def index_images(
    manifest: Manifest, source: FileSource, root: str, problems: Problems, progress: Progress | None = None
) -> ImageIndex | None:
    """Read contents and headers of all images, or recall what an earlier call found.

    Broken files go to `problems`; then, and where no image is left, the result is None.

    Raises:
        DataError: a modality that mixes 8-bit and 16-bit images.
    """
    names = sorted({path for paths in manifest.paths.values() for path in paths if path})
    key = content_digest(DECODER_VERSION, root, names, source.stamps(names), list(manifest.paths.items()))
    known = recall(_SHELF, key)
    if isinstance(known, dict):
        try:
            return ImageIndex(**known)
        except TypeError:
            pass  # written by another version
    before = len(problems)
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
        channels={m: max((h.channels for _, h in rows), default=1) for m, rows in headers.items()},
        bits={m: _bits(m, rows) for m, rows in headers.items()},
        smallest=min(sides),
        largest=max(sides),
        oblong=sum(h.width != h.height for h in found),
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
    decode: Decode | None = None,
) -> dict[str, Array]:
    """Decode every image to modality -> [N, C, side, side]; zeros where there is none.

    Args:
        decode: turns (encoded data, channels, side) into [C, side, side]; None: `decode_square`.

    Raises:
        DataError: all undecodable images together, or files that changed since they were indexed.
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
                out[modality][row] = (decode or decode_square)(data, index.channels[modality], side)
            except UndecodableError as error:
                problems.add(line, f"{path} {error}")
    problems.raise_if_any(where)
    if digest.hexdigest() != index.digest:
        raise DataError(
            f"Expected the images of {where} to stay as they are, but some changed while they were read. "
            "Run the command again."
        )
    return out


def _contents(
    manifest: Manifest, source: FileSource, problems: Problems, progress: Progress | None, what: str
) -> Iterator[tuple[str, int, str, bytes | None]]:
    """(modality, line, path, bytes or None) of every place, in order."""
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
    """8 or 16. The two are not mixed: nobody but the user knows how their intensities compare."""
    lines = {bits: [line for line, h in rows if h.bits == bits] for bits in (8, 16)}
    if lines[8] and lines[16]:
        raise DataError(
            f"Expected all {modality} images with 8 or all with 16 bits, but {len(lines[8])} have 8 "
            f"(line {lines[8][0]}) and {len(lines[16])} have 16 (line {lines[16][0]}). Convert one kind "
            "with a fixed window."
        )
    return 16 if lines[16] else 8
