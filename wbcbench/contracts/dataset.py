"""What a data set promises: describe itself cheaply, then hand over its cells as arrays.

Data-set plugins use numpy, never torch, at import time: `wbcbench run --dry-run` describes them.
"""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.params import Parameters
from wbcbench.errors import DataError, UsageError

Array = NDArray[Any]
MIDDLE = "Cut images to their middle square and resize them as training did: Pillow's bicubic filter, antialiased."


RESIZE_VERSION = 1
"""Increased whenever the same image would give different pixels; part of the keys of cached arrays."""


def centre_square(image: Array) -> Array:
    """Cut the middle square out of [C, H, W]; an odd pixel is cut from the bottom or right."""
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[:, top : top + side, left : left + side]


def in_window(image: Array, side: int) -> Array:
    """Place [C, H, W] in the middle of [C, side, side] without rescaling.

    Parts that do not fit are cut; missing parts are filled with the median of the image's own border, channel by
    channel. An odd pixel is cut from, or added at, the bottom or right.
    """
    image = image[:, *(slice(max(0, n - side) // 2, max(0, n - side) // 2 + side) for n in image.shape[1:])]
    height, width = image.shape[1:]
    border = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
    out = np.empty((len(image), side, side), dtype=image.dtype)
    out[:] = np.median(border, axis=1).astype(image.dtype)[:, None, None]
    top, left = (side - height) // 2, (side - width) // 2
    out[:, top : top + height, left : left + width] = image
    return out


def resize_image(image: Array, side: int) -> Array:
    """Resize [C, S, S] (uint8 or uint16) to [C, side, side]: bicubic, antialiased when it shrinks."""
    from PIL import Image

    if image.shape[1] == side:
        return image
    size, bicubic = (side, side), Image.Resampling.BICUBIC
    if image.dtype == np.uint8 and len(image) in (1, 3):
        whole = Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))
        out = np.asarray(whole.resize(size, bicubic))
        return out[None] if len(image) == 1 else out.transpose(2, 0, 1)
    # Pillow resizes 16 bit only as float.
    planes = [np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, bicubic)) for plane in image]
    rounded: Array = np.clip(np.rint(np.stack(planes)), 0, np.iinfo(image.dtype).max).astype(image.dtype)
    return rounded


def resize_stack(images: Array, side: int | None) -> Array:
    """Resize [N, C, S, S] to `side` (None: as it is); contiguous."""
    if side is None or images.shape[2] == side:
        return np.ascontiguousarray(images)
    out = np.empty((*images.shape[:2], side, side), dtype=images.dtype)
    for i, image in enumerate(images):
        out[i] = resize_image(image, side)
    return out


def middle_square(image: Array, side: int) -> Array:
    """[C, H, W] -> [C, side, side]: the middle square, resized."""
    return resize_image(centre_square(image), side)


def place_stack(images: Array, window: int, side: int | None) -> Array:
    """Place [N, C, S, S] in windows of `window` pixels without rescaling (0: as it is), then resize to `side`."""
    if window and images.shape[2] != window:
        images = np.stack([in_window(image, window) for image in images]) if len(images) else images
    return resize_stack(images, side)


def window_square(window: int) -> Callable[[Array, int], Array]:
    """`Preparation.square` of images that are placed in a window, then resized; 0: cut to the middle square."""
    if not window:
        return middle_square
    return lambda image, side: resize_image(in_window(image, window), side)


def window_words(window: int) -> str:
    """`window_square` in words."""
    if not window:
        return MIDDLE
    return (
        f"Images are placed in a window of {window} x {window} pixels without rescaling: what does not "
        "fit is cut, what is missing is filled with the median of the image's border. The window is then "
        "resized with Pillow's bicubic filter (antialiased), as training did."
    )


def without_window(params: dict[str, Any]) -> dict[str, Any]:
    """Public parameters without `window: 0`, which identities of trials from before there were windows lack."""
    return params if params.get("window") else {k: v for k, v in params.items() if k != "window"}


FOLD = "fold"
"""Default name of the column or array of official folds."""


def without_folds(params: dict[str, Any]) -> dict[str, Any]:
    """Public parameters without `fold` of the default name, which identities from before there were folds lack."""
    return params if params.get("fold") != FOLD else {k: v for k, v in params.items() if k != "fold"}


def without_indicators(params: dict[str, Any]) -> dict[str, Any]:
    """Public parameters without `indicators: false`, which identities from before there were vectors lack."""
    return params if params.get("indicators") else {k: v for k, v in params.items() if k != "indicators"}


def without_order(params: dict[str, Any]) -> dict[str, Any]:
    """Public parameters without an empty `classes_order`, which identities from before there were orders lack."""
    return params if params.get("classes_order") else {k: v for k, v in params.items() if k != "classes_order"}


def indicated(numbers: Array) -> Array:
    """[N, F] with NaN where a number is missing -> [N, 2 F]: the numbers, then 1 for each missing one, else 0.

    A vector without any number stays absent.
    """
    missing = np.isnan(numbers)
    flags = np.where(missing.all(1, keepdims=True), np.nan, missing)
    return np.concatenate([numbers, flags], axis=1).astype(np.float32)


def indicated_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of what `indicated` returns."""
    return (*names, *(f"{name} missing" for name in names))


@dataclass(frozen=True)
class Preparation:
    """How a user's images become a network's modalities.

    By default a modality is an image of its own, cut to its middle square and resized. A data set whose
    `load` does something else declares it here, so that `predict` does the same and `export` documents it.
    """

    raw: Mapping[str, int]
    """Raw images of a new cell -> channels."""
    words: str = MIDDLE
    """The same in words, for users of an exported network who do not have wbcbench."""
    square: Callable[[Array, int], Array] = middle_square
    """A raw image [C, H, W] as decoded, and a side -> [C, side, side]."""
    derive: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None
    """Raw images [N, C, S, S] by name -> modalities [N, C, S, S] by name; None: they are the modalities."""
    made_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality -> raw images it is derived from, none of which a cell may lack."""
    bits: tuple[int, ...] = ()
    """Allowed bit depths of raw images, of 8 and 16; empty: those of the modalities in training."""
    any_colour: bool = False
    """Colour images of a grey modality are converted to grey instead of being refused."""
    place: Callable[[str], tuple[str, str] | None] | None = None
    """A file's path below the folder -> (cell, raw image), or None for a file that is not an image of a cell.
    None: a subfolder per raw image, or all images if there is only one raw image."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """Names used by the training files: `label`, `id`, `image`, `split`, `layout` and `modalities`, as in the data
    sets `npz` and `folder`."""
    numbered: bool = False
    """Numeric labels are class indices, whatever the classes are called."""

    def parts(self, modality: str) -> tuple[str, ...]:
        """The raw images that a modality needs."""
        return self.made_of.get(modality, (modality,))


SPLITS = ("train", "val", "test")

Progress = Callable[[int, int, str], None]
"""Called as `progress(done, total, what)`; never required."""


EXAMPLES = 5
"""Number of things that an account names for each reason."""
MANY = ("files", "rows", "cells")
"""Units of which a sentence names no examples."""
REASONS = 8
"""Number of reasons in a sentence."""


@dataclass(frozen=True)
class LeftOut:
    """How many were left out for one reason, and the first of them."""

    count: int
    examples: tuple[str, ...] = ()

    def named(self) -> str:
        """The examples in brackets, after a blank; empty if there are none."""
        more = " ..." if self.count > len(self.examples) else ""
        return f" ({', '.join(self.examples)}{more})" if self.examples else ""


@dataclass(frozen=True)
class Account:
    """What happened to everything of one kind that was found: it was used, or left out for a stated reason.

    Raises:
        DataError: used and left out do not add up to what was seen, which is an error in the code that read them.
    """

    unit: str
    """Plural: `files`, `rows`, `cells`, `classes`, `groups`."""
    seen: int
    used: int
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    """Reason, as in `24 .heic not readable`, -> what was left out for it."""

    def __post_init__(self) -> None:
        lost = sum(part.count for part in self.left_out.values())
        if self.used < 0 or self.seen != self.used + lost:
            raise DataError(
                f"Expected {self.seen} {self.unit} to be accounted for, but {self.used} were used and {lost} left "
                "out. This is an error in the reader of this data set; please report it."
            )

    @classmethod
    def of(cls, unit: str, seen: int, used: int, left_out: Iterable[tuple[str, str]] = ()) -> Account:
        """An account from (reason, name) of everything that was left out. Raises `DataError`, see the class."""
        reasons: dict[str, list[str]] = {}
        for reason, name in left_out:
            reasons.setdefault(reason, []).append(name)
        found = {why: LeftOut(len(names), tuple(names[:EXAMPLES])) for why, names in reasons.items()}
        return cls(unit, seen, used, found)

    def without(self, reason: str, names: Iterable[str]) -> Account:
        """The account after some of what was used is left out too."""
        more = list(names)
        if not more:
            return self
        before = self.left_out.get(reason, LeftOut(0))
        now = LeftOut(before.count + len(more), (*before.examples, *more)[:EXAMPLES])
        return Account(self.unit, self.seen, self.used - len(more), {**self.left_out, reason: now})

    def sentence(self) -> str:
        """As on the screen: `640 files: 612 used, 24 .heic not readable, 4 duplicates`. Classes are named."""
        if not self.left_out:
            return f"{self.seen} {self.unit}: all used"
        parts = [
            f"{part.count} {reason}{'' if self.unit in MANY else part.named()}"
            for reason, part in list(self.left_out.items())[:REASONS]
        ]
        rest = sum(part.count for part in list(self.left_out.values())[REASONS:])
        parts += [f"{rest} for other reasons"] if rest else []
        return f"{self.seen} {self.unit}: {self.used} used, {', '.join(parts)}"


def account_lines(accounts: Sequence[Account]) -> list[str]:
    """The first account, and every other of which something was left out, a sentence each."""
    return [a.sentence() for i, a in enumerate(accounts) if i == 0 or a.left_out]


@dataclass(frozen=True)
class Description:
    """What is known about a data set without decoding its images."""

    modalities: dict[str, int]
    """Modality name -> channels, or numbers of a vector, in canonical order."""
    classes: tuple[str, ...]
    cells: int
    """Cells that would be loaded (without those that are in no split)."""
    fingerprint: str
    """Hex digest that changes whenever the pixels, labels, groups or official split may have changed."""
    image_size: int | None = None
    """Native side in pixels if all images are square and equal, else None: then the user must choose."""
    split_sizes: dict[str, int] | None = None
    """Cells per official split, or None where the protocol has to make one."""
    fold_sizes: dict[int, dict[str, int]] | None = None
    """Number of each official fold -> its cells per side, as in `split_sizes`; None: it has none."""
    groups: bool = False
    group_count: int | None = None
    """Number of groups: if too few for a split, it is refused before images are read. None: not counted."""
    pseudo_multimodal: bool = False
    """True if modalities are computed from one image instead of being measured separately."""
    licence: str = "unknown"
    demonstration: bool = False
    """True if the cells are made up: a run that sets no budget is then a short one, and says so."""
    incomplete: tuple[str, ...] | None = None
    """Modalities that some cells lack, in canonical order; empty: every cell has all. None: not known without
    loading."""
    accounts: tuple[Account, ...] = ()
    """As `Cells.accounts`, as far as they are known without decoding."""
    notes: tuple[str, ...] = ()
    """Those of `Cells.notes` that are known without decoding, such as labels that were joined; shown for a run."""
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """As `Cells.features`, with an entry for every modality that is a vector of numbers instead of images."""
    ordered: bool = False
    """As `Cells.ordered`."""

    @property
    def vectors(self) -> frozenset[str]:
        """The modalities that are numbers instead of images."""
        return frozenset(self.features)

    def accounting(self) -> tuple[Account, ...]:
        """The accounts; for a data set that keeps none, that every cell is used."""
        return self.accounts or (Account("cells", self.cells, self.cells),)


@dataclass
class Cells:
    """All cells of a data set in memory (or memory-mapped).

    N cells, M modalities, C_m channels of modality m, side S; F_m numbers of a modality that is a vector.
    """

    images: Mapping[str, NDArray[Any]]
    """Modality -> [N, C_m, S, S] uint8 or uint16: images; or [N, F_m] float32: vectors of numbers as measured, NaN
    where one is missing. An absent image is all zero, and False in `present`. A vector without any number is
    absent, and is made False in `present`."""
    labels: NDArray[np.int64]
    """[N], values 0 .. len(classes) - 1."""
    classes: tuple[str, ...]
    fingerprint: str
    groups: NDArray[np.int64] | None = None
    """[N] donor, slide or plate; a group is never on two sides of a split."""
    split: NDArray[np.str_] | None = None
    """[N] of 'train' | 'val' | 'test': the set's official split."""
    folds: Mapping[int, NDArray[np.str_]] | None = None
    """Number of each official fold -> [N] of 'train' | 'val' | 'test' | '', '' for cells that it does not use.
    Where a fold has no validation cells, they are drawn from its training cells."""
    present: NDArray[np.bool_] | None = None
    """[N, M] in the order of `images`; None: no image is absent."""
    ids: tuple[str, ...] | None = None
    """[N] human-readable names (file names, row numbers)."""
    pseudo_multimodal: bool = False
    licence: str = "unknown"
    notes: list[str] = field(default_factory=list)
    """Notes for users: cells left out, images resized, duplicates found."""
    accounts: tuple[Account, ...] = ()
    """What was found at the source (files, rows, classes, groups) and how much of it these cells are; the first
    is shown for every run. A data set that leaves nothing out may keep none."""
    group_names: tuple[str, ...] = ()
    """Names of the donors, slides or plates, by their number in `groups`; empty: not known."""
    resolved: dict[str, Any] = field(default_factory=dict)
    """Parameters that were left open and were derived from the cells, such as the side of the largest image:
    name -> number or text. Records store them, because new cells are prepared with them."""
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality that is a vector -> the names of its numbers, [F_m]. A vector without an entry gets `name_1` and so
    on."""
    ordered: bool = False
    """Whether `classes` are in an order that means something, such as stages of maturation. Boards then show
    metrics that use it, and losses may use it."""

    def __post_init__(self) -> None:
        if not isinstance(self.images, Mapping):
            return  # `check` is for what is wrong
        vectors = self.vectors
        self.features = {m: tuple(self.features.get(m) or numbered(m, self.images[m].shape[1])) for m in vectors}
        gone = {m: np.isnan(self.images[m]).all(1) for m in vectors if self.images[m].dtype.kind == "f"}
        shape = (len(self.labels), len(self.images))
        gone = {m: rows for m, rows in gone.items() if len(rows) == len(self.labels)}
        there = np.ones(shape, np.bool_) if self.present is None else self.present
        if there.shape == shape and any(rows.any() for rows in gone.values()):
            columns = [there[:, i] & ~gone[m] if m in gone else there[:, i] for i, m in enumerate(self.images)]
            self.present = np.stack(columns, axis=1)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def modalities(self) -> dict[str, int]:
        """Modality -> channels, or numbers of a vector."""
        return {name: int(array.shape[1]) for name, array in self.images.items()}

    @property
    def vectors(self) -> tuple[str, ...]:
        """The modalities that are numbers instead of images."""
        return tuple(name for name, array in self.images.items() if getattr(array, "ndim", 0) == 2)

    def accounting(self) -> tuple[Account, ...]:
        """The accounts; for a data set that keeps none, that every cell is used."""
        return self.accounts or (Account("cells", len(self), len(self)),)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Modalities that some cells lack."""
        if self.present is None:
            return ()
        return tuple(m for m, here in zip(self.images, self.present.T, strict=True) if not here.all())

    def check(self) -> Cells:
        """Raise `DataError` unless every promise of this class holds; return self."""
        n = len(self.labels)
        if not self.images:
            raise DataError("Expected at least one modality, but the data set has none.")
        pictures = {name: array for name, array in self.images.items() if name not in self.vectors}
        arrays = {f"{name} images": array for name, array in self.images.items()} | {"labels": self.labels}
        for name in ("groups", "split", "present"):
            arrays |= {f"`{name}`": getattr(self, name)} if getattr(self, name) is not None else {}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise DataError(f"Expected {name} as a numpy array, but got a {type(array).__name__}.")
        for name in self.vectors:
            self._check_vector(name)
        for name, array in pictures.items():
            if array.ndim != 4 or array.shape[0] != n or array.shape[2] != array.shape[3]:
                raise DataError(
                    f"Expected {name} images [N={n}, C, S, S] or numbers [N={n}, F], but got {list(array.shape)}."
                )
            if array.dtype not in (np.uint8, np.uint16):
                raise DataError(f"Expected {name} images as uint8 or uint16, but got {array.dtype}.")
        if len({a.shape[2] for a in pictures.values()}) > 1:
            sizes = {k: a.shape[2] for k, a in pictures.items()}
            raise DataError(f"Modalities differ in side: {sizes}. Choose one with --image-size.")
        if n and (self.labels.min() < 0 or self.labels.max() >= len(self.classes)):
            raise DataError(f"Expected labels 0..{len(self.classes) - 1}, but they run from "
                            f"{self.labels.min()} to {self.labels.max()}.")  # fmt: skip
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if len(self.classes) < 2 or (counts > 0).sum() < 2:
            raise DataError(f"Expected cells of at least two classes, but got {int((counts > 0).sum())} "
                            f"({', '.join(self.classes)}). A classifier needs two.")  # fmt: skip
        if self.present is not None and self.present.shape != (n, len(self.images)):
            raise DataError(f"Expected `present` [N={n}, M={len(self.images)}], got {list(self.present.shape)}.")
        columns = [("groups", self.groups), ("split", self.split)]
        for name, column in (*columns, *((f"folds[{k}]", sides) for k, sides in (self.folds or {}).items())):
            if column is not None and column.shape != (n,):
                raise DataError(f"Expected `{name}` [N={n}], but got {list(column.shape)}.")
        if self.group_names and self.groups is not None and n and self.groups.max() >= len(self.group_names):
            raise DataError(
                f"Expected a name for every group up to {self.groups.max()}, but got {len(self.group_names)}."
            )
        for name, value in self.resolved.items():
            if not isinstance(value, str | int | float):
                raise DataError(f"Expected `resolved` of numbers or text, but {name} is {type(value).__name__}.")
        if self.split is not None and not set(np.unique(self.split)) <= set(SPLITS):
            raise DataError(f"Expected splits {SPLITS}, but got {sorted(set(np.unique(self.split)))}.")
        for number, sides in (self.folds or {}).items():
            if strange := sorted(set(map(str, np.unique(sides))) - {*SPLITS, ""}):
                raise DataError(f"Expected fold {number} of {SPLITS} or '', but got {strange}.")
        return self

    def _check_vector(self, name: str) -> None:
        array, names = self.images[name], self.features[name]
        if array.dtype != np.float32:
            raise DataError(f"Expected the numbers of {name} as float32, but got {array.dtype}.")
        if array.shape[0] != len(self.labels) or not array.shape[1]:
            raise DataError(f"Expected {name} as [N={len(self.labels)}, F], but got {list(array.shape)}.")
        if len(names) != array.shape[1]:
            raise DataError(f"Expected names of {array.shape[1]} numbers of {name}, but got {len(names)}.")
        if np.isinf(array).any():
            row, column = (int(i) for i in np.argwhere(np.isinf(array))[0])
            raise DataError(
                f"Expected finite numbers in {name}, or NaN for missing ones, but cell {row} has an infinite "
                f"{names[column]}. Numbers are stored as float32, which ends at 3.4e38."
            )


def numbered(modality: str, count: int) -> tuple[str, ...]:
    """Names of the numbers of a vector that has none: `markers_1`, `markers_2` ..."""
    return tuple(f"{modality}_{i + 1}" for i in range(count))


_finder: Callable[[str], type[Dataset]] | None = None


def registered(name: str) -> type[Dataset]:
    """The class of another data set, by its registered name, for data sets that wrap one.

    Without a registry (in a test that builds a data set itself), only built-in data sets are found.

    Raises:
        UsageError: no data set has this name.
    """
    if _finder is not None:
        return _finder(name)
    try:
        module = importlib.import_module(f"wbcbench_plugins.datasets.{name}")
    except ImportError as error:
        raise UsageError(f"No built-in dataset is called '{name}'.") from error
    return next(c for c in vars(module).values() if isinstance(c, type) and getattr(c, "name", None) == name)


def find_registered_by(finder: Callable[[str], type[Dataset]]) -> None:
    """Set how `registered` finds data sets; called by the registry."""
    global _finder
    _finder = finder


class Dataset(ABC):
    """A source of cells. Subclass, set `name`, declare `Params`, implement two methods."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    """Where the data or its layout comes from: citation, licence."""
    locations: ClassVar[tuple[str, ...]] = ()
    """Parameters that only state where files are. They are not part of a trial's identity and not stored in
    records: the fingerprint represents the content."""

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    def __init__(self, params: Parameters | None = None) -> None:
        self.params = params if params is not None else self.Params()

    def public_params(self) -> dict[str, Any]:
        """The parameters that belong to a trial's identity (JSON-able)."""
        return self.params.model_dump(mode="json", exclude=set(self.locations))  # type: ignore[no-any-return]

    @abstractmethod
    def describe(self) -> Description:
        """Describe the data, in well under a second, without decoding images. Raises `DataError`."""

    @abstractmethod
    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """Return all cells at side `image_size` (None: native). Deterministic. Raises `DataError`."""

    def preparation(self, modalities: Mapping[str, int]) -> Preparation:
        """How images of new cells become these modalities (name -> channels) of a network. Reads no file.

        Override where `load` does more than cut images to their middle square and resize them. `params` are those
        of training, with `Cells.resolved` filled in and without locations.

        Raises:
            DataError: required information is in neither, as for records older than `resolved`.
        """
        return Preparation(dict(modalities))

    def reads(self, path: Path) -> bool:
        """Whether `path` has a format that only this class reads; `predict` then loads it with the parameter
        `path` set to it. Not meant for images in folders, manifests and .npz files."""
        return False


def content_digest(*parts: object) -> str:
    """Hex SHA-256 of arrays, bytes and anything with a stable `repr`, in order."""
    h = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            h.update(f"{part.dtype.str}{part.shape}".encode())
            h.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
        else:
            h.update(part if isinstance(part, bytes) else repr(part).encode())
        h.update(b"\0")
    return h.hexdigest()
