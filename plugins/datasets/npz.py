"""Cells from one .npz file: `image` [N,H,W,C] or [N,C,H,W], one array per modality, or MedMNIST's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import (
    FOLD,
    Account,
    Cells,
    Dataset,
    Description,
    Preparation,
    Progress,
    content_digest,
    indicated,
    indicated_names,
    numbered,
    place_stack,
    window_square,
    window_words,
    without_folds,
    without_indicators,
    without_order,
    without_window,
)
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.decode import to_integers
from wbcbench.data.labels import (
    NAMES,
    ORDER,
    Layout,
    accounts_of_names,
    encode_groups,
    encode_labels,
    in_order,
    is_missing,
    join_arrays,
    names_of_groups,
    plain,
    read_split,
    split_sizes,
)
from wbcbench.data.npz_file import NpzFile, Pick, find_picks, open_npz, read_numbers
from wbcbench.data.official_folds import NOWHERE, Folds, fold_columns, fold_notes, fold_sizes, read_folds
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
_VERSION = "npz-2"
"""Part of the fingerprint: raised whenever the same file would give other cells."""


class Npz(Dataset):
    """One .npz of square images, or numbers, and integer or text labels; cells of no split are left out."""

    name = "npz"
    source = "numpy .npz; MedMNIST's train_images, train_labels ... is read as it is."
    locations = ("path",)

    class Params(Parameters):
        path: str = param("", "The .npz file.")
        modalities: dict[str, list[int] | str] = param(
            {},
            "Modality -> channel indices of the image array, or the name of an array of its own: of images, or of "
            "numbers [N,F], NaN where one is missing. Empty: one modality per entry of `channels` where the file "
            "names its channels, else all of the image.",
        )
        image: str = param("image", "Array of images [N,S,S], [N,S,S,C] or [N,C,S,S].")
        label: str = param("label", "Array of labels [N], numbers or text.")
        group: str = param("group", "Array of donors or slides [N], if there is one.")
        split: str = param("split", "Array of train, val, test [N], if there is one.")
        fold: str = param(
            FOLD,
            "Array of the fold that tests a cell [N] (-1: always trained on), or what arrays of train, val, test "
            "start with: fold0, fold1 and so on; if there are any. Empty: none.",
        )
        indicators: bool = param(
            False, "Whether each column of numbers gets another one that is 1 where its number is missing, else 0."
        )
        layout: Layout = param("auto", "Which axis of a four-dimensional array is the channels.")
        classes_order: list[str | int] = param([], ORDER)
        window: int = param(
            0,
            "Side in pixels that images are cropped or padded to without rescaling; 0: as they are stored.",
            ge=0,
            le=1024,
        )

    def describe(self) -> Description:
        """See `Dataset.describe`: reads headers and the small arrays, no pixels. Raises `DataError`."""
        table = self._table()
        picks = self._picks(table)
        sides = {self.params.window or pick.side for pick in picks.values() if pick.side}
        features = self._features(picks)
        lacking = [m for m in features if np.isnan(self._numbers(table, picks[m])).all(1).any()]
        return Description(
            modalities={m: len(features.get(m, pick.channels)) for m, pick in picks.items()},
            classes=table.classes,
            cells=len(table.labels),
            fingerprint=self._fingerprint(table, picks),
            image_size=sides.pop() if len(sides) == 1 else None,
            split_sizes=split_sizes(table.split),
            fold_sizes=fold_sizes(table.folds),
            groups=table.groups is not None,
            incomplete=tuple(lacking),
            features=features,
            ordered=bool(self.params.classes_order),
            group_count=None if table.groups is None else len(np.unique(table.groups)),
            accounts=(*table.accounts, self._arrays(table, picks)),
            notes=tuple(table.notes),
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`. Raises `DataError` for a file that is absent, broken or misshapen."""
        table, window = self._table(), self.params.window
        picks = self._picks(table)
        arrays: dict[str, Array] = {}
        notes = list(table.notes)
        images: dict[str, Array] = {}
        for done, (name, pick) in enumerate(picks.items()):
            if not pick.side:
                images[name] = numbers = self._numbers(table, pick)
                missing = int(np.isnan(numbers).sum())
                notes += [f"{missing} of {numbers.size} numbers of {name} are missing."] if missing else []
                continue
            if pick.array not in arrays:
                raw = table.file.read(pick.array, f"the images of {name}")[table.rows]
                arrays[pick.array], note = to_integers(raw, f"array {pick.array!r}")
                notes += [note] if note else []
            images[name] = place_stack(pick.take(arrays[pick.array]), window, image_size)
            if progress:
                progress(done + 1, len(picks), f"images of {name}")
        if window and any(pick.side not in (0, window) for pick in picks.values()):
            notes.append(f"Images were cropped or padded to windows of {window} pixels.")
        sides = {name: window or pick.side for name, pick in picks.items() if pick.side}
        resized = [f"{name} from {side}" for name, side in sides.items() if image_size not in (None, side)]
        if resized:
            notes.append(f"Images were resized to {image_size} pixels: {', '.join(resized)}.")
        return Cells(
            images=images,
            labels=table.labels,
            classes=table.classes,
            fingerprint=self._fingerprint(table, picks),
            groups=table.groups,
            split=table.split,
            folds=table.folds,
            ids=tuple(f"row {i}" for i in table.rows),
            notes=notes,
            accounts=(*table.accounts, self._arrays(table, picks)),
            group_names=table.group_names,
            features=self._features(picks),
            ordered=bool(self.params.classes_order),
        ).check()

    def preparation(self, modalities: Mapping[str, int]) -> Preparation:
        """See `Dataset.preparation`: arrays and channels as the training file has them."""
        window = self.params.window
        return Preparation(
            dict(modalities), window_words(window), window_square(window), names=self.public_params()
        )

    def public_params(self) -> dict[str, Any]:
        """See `Dataset.public_params`; without what is as before it existed, so that identities stay."""
        return without_order(without_indicators(without_folds(without_window(super().public_params()))))

    def _numbers(self, table: _Table, pick: Pick) -> Array:
        found = read_numbers(table.file, pick)[table.rows]
        return indicated(found) if self.params.indicators else found

    def _features(self, picks: dict[str, Pick]) -> dict[str, tuple[str, ...]]:
        names = {m: numbered(m, len(pick.channels)) for m, pick in picks.items() if not pick.side}
        if self.params.indicators and not names:
            raise DataError("dataset.indicators has no effect without a modality of numbers. Leave it out.")
        return {m: indicated_names(n) if self.params.indicators else n for m, n in names.items()}

    def _fingerprint(self, table: _Table, picks: dict[str, Pick]) -> str:
        p = self.params
        columns = [name if name in table.file.headers else None for name in (p.label, p.group, p.split)]
        # Files that already said train, val, test keep the fingerprint that they always had.
        recoded = [table.split] if table.recoded and table.split is not None else []
        extra = [*recoded, *(["joined spellings"] if table.joined else []), *([p.window] if p.window else [])]
        extra += ["indicators"] if p.indicators else []
        extra += ["order", *map(str, p.classes_order)] if p.classes_order else []
        if table.folds is not None:
            extra += ["folds", [(fold, side.tolist()) for fold, side in table.folds.items()]]
        return content_digest(_VERSION, table.file.digest, list(picks.items()), columns, *extra)

    def _table(self) -> _Table:
        p = self.params
        where = p.path
        file = open_npz(Path(p.path).expanduser(), p.image, p.label, p.split)
        raw = file.read(p.label, "labels")
        count = len(raw) if raw.ndim else 0
        if not count:
            raise DataError(f"Expected labels [N] in {where}, but {p.label!r} is {list(raw.shape)}.")
        self._ask_about_groups(file)
        split = self._column(file, p.split, "split", count)
        keep = np.ones(count, dtype=np.bool_)
        notes: list[str] = []
        gone: list[tuple[str, str]] = []
        found: dict[str, frozenset[str]] = {}
        recoded = False
        if split is not None:
            if split.dtype.kind not in "US":
                raise DataError(
                    f"Expected {p.split!r} of {where} as text (train, val, test), but it is {split.dtype}. "
                    "Store these words, or name another array with dataset.split."
                )
            read = read_split([str(word) for word in split], where)
            keep, notes, found["splits"] = read.keep, list(read.notes), read.found
            gone = [(read.why(int(row)), f"row {row}") for row in np.flatnonzero(~keep)]
            recoded = not np.array_equal(split[keep], read.side)
            split = read.side
        fold_arrays = self._fold_arrays(file, count)
        folds = read_folds(fold_arrays, where) if fold_arrays else None
        if folds is not None and split is None:  # with a split, it decides which cells are left out
            keep = folds.used
            gone = [(NOWHERE, f"row {row}") for row in np.flatnonzero(~keep)]
        classes = None
        if "classes" in file.headers:
            classes = tuple(str(c) for c in file.read("classes", "class names").astype(str).reshape(-1))
        raw_groups = self._column(file, p.group, "group", count)
        lost, lost_groups = _texts(raw[~keep]), set() if raw_groups is None else _texts(raw_groups[~keep])
        raw, raw_groups, joined, more = join_arrays(
            raw[keep], None if raw_groups is None else raw_groups[keep], where
        )
        notes += more
        labels, names = in_order(*encode_labels(raw, classes, where), p.classes_order, where)
        groups = None if raw_groups is None else encode_groups(raw_groups, where)
        used: dict[str, set[str]] = {"classes": {names[k] for k in np.unique(labels)}}
        found["classes"] = frozenset(names) | (lost - _texts(raw) if classes is None else set())
        if split is not None:
            used["splits"] = set(map(str, split))
        group_names: tuple[str, ...] = ()
        if raw_groups is not None and groups is not None:
            group_names = names_of_groups(raw_groups, groups)
            used["groups"] = set(group_names)
            found["groups"] = frozenset(group_names) | (lost_groups - _texts(raw_groups))
        rows = np.flatnonzero(keep)
        sides = None if folds is None else {fold: side[rows] for fold, side in folds.sides.items()}
        notes += [] if folds is None else [*folds.notes, *fold_notes(sides, [names[c] for c in labels])]
        return _Table(
            file=file,
            rows=rows,
            labels=labels,
            classes=names,
            groups=groups,
            split=split,
            folds=sides,
            count=count,
            notes=notes,
            recoded=recoded,
            joined=joined,
            accounts=(Account.of("rows", count, len(rows), gone), *accounts_of_names(found, used)),
            group_names=group_names,
        )

    def _ask_about_groups(self, file: NpzFile) -> None:
        """Refuse to ignore an array that is called like donors: a split that mixes them is too optimistic."""
        group = self.params.group
        if group in file.headers or group != type(self.params).model_fields["group"].default:
            return
        named = {self.params.label, self.params.split, *map(str, self.params.modalities.values())}
        like = [name for name in file.headers if name not in named and plain(name) in NAMES["group"]]
        if like:
            raise DataError(
                f"Expected to know whether {like[0]!r} of {self.params.path} are groups (donors, slides) that the "
                f"split must keep whole. Set dataset.group={like[0]} if so, dataset.group='' if not."
            )

    def _column(self, file: NpzFile, name: str, purpose: str, count: int) -> Array | None:
        """An optional array [N]; one that the user named must exist."""
        if not name or (name not in file.headers and name == type(self.params).model_fields[purpose].default):
            return None
        column = file.read(name, purpose)
        if column.shape not in ((count,), (count, 1)):
            raise DataError(
                f"Expected {name!r} of {self.params.path} as [N={count}], one value per label, "
                f"but it is {list(column.shape)}."
            )
        return column.reshape(-1)

    def _fold_names(self, file: NpzFile) -> tuple[str, ...]:
        p = self.params
        taken = {p.image, p.label, p.group, p.split, *(v for v in p.modalities.values() if isinstance(v, str))}
        return fold_columns([name for name in file.headers if p.fold != FOLD or name not in taken], p.fold)

    def _fold_arrays(self, file: NpzFile, count: int) -> dict[str, list[str]]:
        """The arrays of folds, as text; a name that the user chose must exist."""
        names = self._fold_names(file)
        if self.params.fold not in ("", FOLD) and not names:
            file.header(self.params.fold, "fold")
        arrays = {name: file.read(name, "fold") for name in names}
        for name, array in arrays.items():
            if array.shape not in ((count,), (count, 1)):
                raise DataError(
                    f"Expected {name!r} of {self.params.path} as [N={count}], a fold or a side of each cell, but "
                    f"it is {list(array.shape)}. Set dataset.fold='' if it is something else."
                )
        return {name: [str(value) for value in array.reshape(-1)] for name, array in arrays.items()}

    def _picks(self, table: _Table) -> dict[str, Pick]:
        p = self.params
        return find_picks(table.file, p.modalities, p.image, p.layout, table.count)

    def _arrays(self, table: _Table, picks: dict[str, Pick]) -> Account:
        """Which arrays of the file are used."""
        p = self.params
        used = {pick.array for pick in picks.values()} | {p.label, p.group, p.split, "classes", "channels"}
        used |= set(self._fold_names(table.file))
        used = table.file.stored(used)
        rest = sorted(set(table.file.members) - used)
        return Account.of(
            "arrays", len(table.file.members), len(used), [("that no parameter names", n) for n in rest]
        )


@dataclass(frozen=True)
class _Table:
    """Everything but the pixels; `rows` are the cells kept of the file's `count`."""

    file: NpzFile
    rows: NDArray[np.intp]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None
    split: NDArray[np.str_] | None
    folds: Folds | None
    count: int
    notes: list[str]
    recoded: bool
    """Whether the file calls a side of the split by another word."""
    joined: bool
    """Whether the file spells a class or a group in two ways that were joined."""
    accounts: tuple[Account, ...]
    group_names: tuple[str, ...]


def _texts(values: Array) -> set[str]:
    """The distinct labels or groups of some rows, as text."""
    return {text for text in (str(v).strip() for v in values.reshape(-1).tolist()) if not is_missing(text)}
