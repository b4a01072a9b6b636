"""Convert labels, groups and split columns from files to the values of `Cells`."""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts.dataset import SPLITS, Account
from wbcbench.errors import DataError, did_you_mean

Array = np.ndarray[Any, np.dtype[Any]]
_MISSING = ("", "nan", "na", "n/a", "null")


SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "tune", "tuning"),
    "test": ("test", "testing", "eval", "evaluation", "holdout"),
}
"""Side of a split -> the words that are used for it, in lower case."""
_SIDE = {word: side for side, words in SPLIT_WORDS.items() for word in words}
_SET = re.compile(r"(set|split|data)$")


def side_of(text: str) -> Literal["train", "val", "test"] | None:
    """The side of a split that a word, such as `Valid` or `test_set`, means; None if it is not one."""
    word = re.sub(r"[\s_-]", "", text).lower()
    return _SIDE.get(word) or _SIDE.get(_SET.sub("", word))  # type: ignore[return-value]


NAMES = {
    "label": ("label", "labels", "class", "celltype", "cellclass", "category", "diagnosis", "target", "y"),
    "group": ("group", "groups", "donor", "donorid", "patient", "patientid", "subject", "subjectid", "case",
              "slide", "slideid", "plate"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "id": ("id", "cellid", "name"),
}  # fmt: skip
"""Role -> usual names of its column or array, in lower case, without spaces, hyphens and underscores."""


def plain(name: str) -> str:
    """Lower case, with only letters and digits."""
    return "".join(c for c in name.lower() if c.isalnum())


def split_word_in(name: str) -> str | None:
    """The side that a word within a name means, as in `TEST_SIMPLE` and `my train images`; None without one."""
    return side_of(name) or next(filter(None, map(side_of, re.findall(r"[a-z]+", name.lower()))), None)


_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def join_spellings(values: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Join values that are the same without doubt: apart from blanks around them, from composed and decomposed
    accents, or, where all values are numbers, from `.0`, which pandas appends once a number is missing.

    Values of which there is one spelling only stay as they are.

    Args:
        what: the role of the values, for the notes.

    Returns:
        The joined values and a note for each spelling that was replaced.
    """
    distinct = [value for value in dict.fromkeys(values) if not is_missing(value)]
    tidy = {value: unicodedata.normalize("NFC", value.strip()) for value in distinct}
    if all(_NUMBER.fullmatch(value) for value in tidy.values()):
        tidy = {value: re.sub(r"\.0+$", "", name) for value, name in tidy.items()}
    if len(set(tidy.values())) == len(distinct):
        return list(values), []
    counts = Counter(values)
    shared = Counter(tidy.values())
    notes = [
        f"{what.capitalize()} {value!a} was taken for {tidy[value]!r} ({counts[value]} cells)."
        for value in distinct
        if tidy[value] != value and shared[tidy[value]] > 1
    ]
    return [tidy.get(value, value) for value in values], notes


def probably_one(values: Iterable[str]) -> list[tuple[str, ...]]:
    """Values that differ only in case, in blanks, hyphens or underscores, or in zeros before or `.0` after a
    number: probably the same, written twice."""
    found: dict[str, set[str]] = defaultdict(set)
    for value in set(values):
        text = unicodedata.normalize("NFKC", value).casefold().strip()
        text = re.sub(r"(?<=\d)\.0+$", "", text)
        text = re.sub(r"(?<=\d)[\s_-]+(?=\d)", "-", text)  # 1_2 may be 1-2, but is not 12
        text = re.sub(r"(?<=[^\W\d_])[\s_-]+(?=[^\W_])|(?<=\d)[\s_-]+(?=[^\W\d_])", "", text)
        found[re.sub(r"(?<![\d.])0+(?=\d)", "", text)].add(value)
    return sorted(tuple(sorted(each)) for each in found.values() if len(each) > 1)


def spelling_notes(labels: Sequence[str], groups: Sequence[str] | None, where: str) -> list[str]:
    """A note for each class and each group that probably has two spellings."""
    notes = []
    for what, values in (("class", labels), ("group", groups or ())):
        counts = Counter(values)
        for each in probably_one(counts):
            shown = " and ".join(f"{value!r} ({counts[value]} cells)" for value in each)
            notes.append(f"{shown} are probably one {what}. If so, write them alike in {where}.")
    return notes


def join_arrays(labels: Array, groups: Array | None, where: str) -> tuple[Array, Array | None, bool, list[str]]:
    """`join_spellings` and `spelling_notes` of arrays [N]; numbers stay as they are.

    Returns:
        Labels and groups, whether any were joined, and the notes.
    """
    notes: list[str] = []
    both: list[Array | None] = [labels, groups]
    for i, what in enumerate(("label", "group")):
        array = both[i]
        if array is not None and array.dtype.kind in "US":
            text = [str(value) for value in array.astype(str).reshape(-1)]
            # blanks around labels never mattered
            joined, more = join_spellings([value.strip() for value in text] if what == "label" else text, what)
            notes += more
            both[i] = np.array(joined)
    changed = bool(notes)
    names = [[] if a is None or a.dtype.kind not in "US" else [str(v) for v in a] for a in both]
    assert both[0] is not None
    return both[0], both[1], changed, notes + spelling_notes(names[0], names[1], where)


def is_missing(text: str) -> bool:
    """True for an empty field and for common spellings of a missing value (nan, NA, null)."""
    return text.strip().lower() in _MISSING


def encode_labels(
    raw: Array, classes: tuple[str, ...] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Turn integer or text labels into (codes 0 .. K-1 [N], class names [K]).

    Args:
        raw: [N] or [N, 1].
        classes: names in the order of the codes; None: the sorted distinct labels (as numbers where
            all are whole numbers).
        where: the file, for messages.

    Raises:
        DataError: missing, fractional or negative labels, labels beyond `classes`, fewer than two classes.
    """
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1:
        raise DataError(
            f"Expected one label per cell [N] in {where}, but the labels are {list(raw.shape)}. "
            "Give one class for each cell."
        )
    if raw.dtype.kind in "US":
        codes, names = _text(raw.astype(str), classes, where)
    else:
        codes, names = _numbers(_whole(raw, where), classes, where)
    if len(np.unique(codes)) < 2:
        raise DataError(
            f"Expected cells of at least two classes in {where}, but all {len(codes)} are of one "
            f"({', '.join(np.array(names)[np.unique(codes)])}). A classifier needs two."
        )
    return codes, names


def in_order(
    labels: NDArray[np.int64], classes: tuple[str, ...], order: Sequence[str | int], where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes [N] and names of classes in the given order; an empty one changes nothing.

    Raises:
        DataError: the order lacks a class, or has one that is not there.
    """
    wanted = tuple(str(name) for name in order)
    if not wanted:
        return labels, classes
    if sorted(wanted) != sorted(classes):
        raise DataError(
            f"Expected dataset.classes_order as all classes of {where} from first to last "
            f"({', '.join(classes)}), but got {', '.join(wanted)}."
        )
    return np.array([wanted.index(name) for name in classes], dtype=np.int64)[labels], wanted


ORDER = "All classes from first to last, where their order has a meaning (maturation); empty: it has none."
"""What the parameter `classes_order` of a data set is."""


def _whole(raw: Array, where: str) -> NDArray[np.int64]:
    if raw.dtype.kind not in "iufb":
        raise DataError(f"Expected labels in {where} as whole numbers or text, but they are {raw.dtype}.")
    if raw.dtype.kind == "f":
        bad = ~np.isfinite(raw)
        if bad.any():
            raise DataError(
                f"Expected a label for every cell of {where}, but {int(bad.sum())} are NaN or infinite "
                f"(first: row {int(np.argmax(bad))}). Leave those cells out."
            )
        bad = raw != np.rint(raw)
        if bad.any():
            first = int(np.argmax(bad))
            raise DataError(
                f"Expected whole numbers as labels in {where}, but {int(bad.sum())} have a fraction "
                f"(row {first}: {raw[first]:g}). Is this the label array?"
            )
    whole: NDArray[np.int64] = raw.astype(np.int64)
    if (whole < 0).any():
        raise DataError(
            f"Expected labels from 0 in {where}, but {int((whole < 0).sum())} are negative "
            f"(row {int(np.argmax(whole < 0))}: {whole.min()}). Leave unlabelled cells out."
        )
    return whole


def _numbers(
    raw: NDArray[np.int64], classes: tuple[str, ...] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if classes is None:
        names, codes = np.unique(raw, return_inverse=True)
        return codes.reshape(-1).astype(np.int64), tuple(str(n) for n in names)
    if len(raw) and raw.max() >= len(classes):
        raise DataError(
            f"Expected labels 0..{len(classes) - 1} for the {len(classes)} classes of {where}, but the "
            f"highest is {raw.max()}. Name every class."
        )
    return raw, classes


def _text(
    raw: NDArray[np.str_], classes: tuple[str, ...] | None, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    raw = np.array(join_spellings([str(value).strip() for value in raw], "label")[0])
    names, inverse = np.unique(raw, return_inverse=True)
    distinct = [str(n) for n in names]
    missing = sum(int((raw == n).sum()) for n in distinct if is_missing(n))
    if missing:
        raise DataError(f"Expected a label for every cell of {where}, but {missing} have none. Leave them out.")
    if classes is None:
        whole = all(n.isascii() and n.isdigit() for n in distinct)
        ordered = tuple(sorted(distinct, key=lambda n: (int(n), n) if whole else (0, n)))
    else:
        ordered = classes
        known = {unicodedata.normalize("NFC", c): c for c in classes}
        distinct = [known.get(unicodedata.normalize("NFC", name), name) for name in distinct]
        for name in distinct:
            if name not in classes:
                raise DataError(
                    f"Expected labels of the classes {', '.join(classes)} in {where}, but got "
                    f"{name!r}.{did_you_mean(name, classes)}"
                )
    place = np.array([ordered.index(n) for n in distinct], dtype=np.int64)
    return place[inverse.reshape(-1)], ordered


def encode_groups(raw: Array, where: str) -> NDArray[np.int64]:
    """Number the distinct donors, slides or plates of [N] values. Raises `DataError` for missing ones."""
    flat = raw.reshape(-1)
    if flat.dtype.kind in "US":
        missing = sum(is_missing(str(v)) for v in flat)
    else:
        missing = int((~np.isfinite(flat)).sum()) if flat.dtype.kind == "f" else 0
    if missing:
        raise DataError(
            f"Expected a group for every cell of {where}, but {missing} have none. "
            "Give each of those its own, or name no group."
        )
    codes: NDArray[np.int64] = np.unique(flat, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return codes


def names_of_groups(raw: Array, codes: NDArray[np.int64]) -> tuple[str, ...]:
    """The name of each group by its number: the first of its cells' values [N]."""
    first = np.unique(codes, return_index=True)[1]
    return tuple(str(value).strip() for value in raw.reshape(-1)[first])


@dataclass(frozen=True)
class ReadSplit:
    """A split column of N cells."""

    keep: NDArray[np.bool_]
    """[N], whether the cell is in train, val or test."""
    side: NDArray[np.str_]
    """The sides of the cells that are kept."""
    words: list[str]
    """[N] as written, without blanks around."""
    notes: list[str]
    """On words that were replaced, and on cells that are not kept."""

    @property
    def found(self) -> frozenset[str]:
        """Every distinct side, and every word that is not one."""
        others = (word for word, kept in zip(self.words, self.keep, strict=True) if not kept)
        return frozenset(map(str, self.side)) | {word for word in others if not is_missing(word)}

    def why(self, row: int) -> str:
        """Why a cell is not kept."""
        return "without a split" if is_missing(self.words[row]) else f"of split {self.words[row]!r}"


def read_split(raw: Sequence[str], where: str, sides: Mapping[str, str] | None = None) -> ReadSplit:
    """Read a split column [N], in which sides may be called by any of `SPLIT_WORDS`.

    Args:
        sides: further words -> train, val or test.

    Raises:
        DataError: no cell is in train, val or test.
    """
    words = [str(word).strip() for word in raw]
    counts = Counter(words)
    meaning = {word: (sides or {}).get(word) or side_of(word) or "" for word in sorted(counts)}
    side = np.array([meaning[word] for word in words], dtype="<U5")
    others = {word: counts[word] for word, known in meaning.items() if not known}
    shown = ", ".join([word or "(empty)" for word in others][:5]) + (" ..." if len(others) > 5 else "")
    keep: NDArray[np.bool_] = side != ""
    if not keep.any():
        raise DataError(
            f"Expected splits {', '.join(SPLITS)} in {where}, but got only {shown}. "
            "Rename them, or name no split column."
        )
    notes = [
        f"Split {word!r} means {known} ({counts[word]} cells)."
        for word, known in meaning.items()
        if known and word != known
    ]
    if others:
        notes.append(f"{sum(others.values())} cells of no split of train, val, test were left out ({shown}).")
    return ReadSplit(keep, side[keep], words, notes)


def accounts_of_names(
    found: Mapping[str, Iterable[str]], used: Mapping[str, Iterable[str] | None]
) -> list[Account]:
    """Accounts of classes, splits and groups: which of the names at the source have usable cells."""
    accounts = []
    for unit, names in found.items():
        there = used.get(unit)
        if there is not None:
            every, kept = set(names), set(there)
            gone = sorted(every - kept)
            accounts.append(Account.of(unit, len(every), len(kept), [("without usable cells", n) for n in gone]))
    return accounts


def split_sizes(split: NDArray[np.str_] | None) -> dict[str, int] | None:
    """Number of cells per side, or None without an official split."""
    return None if split is None else {s: int((split == s).sum()) for s in SPLITS}


Layout = Literal["auto", "channels_last", "channels_first"]
_NAME = re.compile(r"[A-Za-z0-9_]+")


def sanitise(name: str) -> str:
    """Lower case; everything but letters and digits becomes single underscores: `PI (DNA)` -> `pi_dna`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def distinct_names(originals: Iterable[str], where: str) -> list[str]:
    """Sanitise names from a file. Raises `DataError` if one becomes empty or two become equal."""
    names: dict[str, str] = {}
    for original in originals:
        name = sanitise(original)
        if not name or name in names:
            why = f"becomes {name!r}, as does {names[name]!r}" if name else "has no letter or digit of a-z, 0-9"
            raise DataError(
                f"Expected distinct modality names in {where}, but {original!r} {why}. "
                "Name the modalities yourself with dataset.modalities.<name>=..."
            )
        names[name] = original
    return list(names)


def check_names(names: Iterable[str]) -> None:
    """Raise `DataError` for a modality name that cannot be used in an option or a file name."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise DataError(
                f"Expected modality names of letters, digits and '_', but got {name!r}. "
                f"Try {sanitise(name) or 'image'!r}."
            )


def find_layout(shape: tuple[int, ...], layout: Layout, what: str) -> tuple[Literal[0, 1, 3], int, int]:
    """The channels of an image stack: (their axis, 0 if there is none; their number; side in pixels).

    Raises:
        DataError: not square, not 3- or 4-dimensional, or ambiguous.
    """
    advice = "Crop or pad the images to squares; with channels set dataset.layout."
    if len(shape) == 3:
        if shape[1] != shape[2]:
            raise DataError(f"Expected square images {what} [N,S,S], but got {list(shape)}. {advice}")
        return 0, 1, shape[1]
    if len(shape) != 4:
        raise DataError(f"Expected images {what} as [N,S,S], [N,S,S,C] or [N,C,S,S], but got {list(shape)}.")
    last = shape[1] == shape[2] and layout != "channels_first"
    first = shape[2] == shape[3] and layout != "channels_last"
    if last and first:
        raise DataError(
            f"Expected [N,S,S,C] or [N,C,S,S] for {what}, but {list(shape)} may be either. "
            "Set dataset.layout to channels_last or channels_first."
        )
    if not (last or first):
        wanted = {"auto": "[N,S,S,C] or [N,C,S,S]", "channels_last": "[N,S,S,C]", "channels_first": "[N,C,S,S]"}
        raise DataError(f"Expected square images {what} {wanted[layout]}, but got {list(shape)}. {advice}")
    return (3, shape[3], shape[1]) if last else (1, shape[1], shape[2])


SHOWN = 20
HOPELESS = 10_000
"""When so many rows are bad, and no other was seen, the rest is not read."""


class Problems:
    """Collects (line, problem) pairs and raises one error for all."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []
        self._lines: set[int] = set()

    def add(self, line: int, text: str) -> None:
        """Add a problem of `line` (counted from 1). Raises `DataError` where none of many rows is usable."""
        self._found.append((line, text))
        self._lines.add(line)
        if len(self._lines) >= HOPELESS and line <= len(self._lines) + 1:
            shown = "\n".join(f"  line {n}: {why}" for n, why in self._found[:3])
            raise DataError(
                f"Expected cells, but none of the first {HOPELESS:,} rows is usable, so the rest was not read:\n"
                f"{shown}\nIs this the right file, and are these the right columns?"
            )

    def found(self) -> list[tuple[int, str]]:
        """(line, problem), in order of lines."""
        return sorted(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def raise_if_any(self, where: str, advice: str = "") -> None:
        """Raise `DataError` with the first 20 problems, by line, and the total; does nothing if there are none.

        Args:
            where: the table, for the first line of the message.
            advice: a sentence for the last line.
        """
        if not self._found:
            return
        count = len(self._found)
        rows = [f"  line {line}: {text}" for line, text in heapq.nsmallest(SHOWN, self._found)]
        more = [f"  ... and {count - SHOWN} more"] if count > SHOWN else []
        raise DataError(
            f"Expected every row of {where} to be usable, but found {count} "
            f"problem{'s' if count > 1 else ''}:\n"
            + "\n".join(rows + more)
            + f"\nFix or remove these rows; a row whose split is empty is left out. {advice}".rstrip()
        )
