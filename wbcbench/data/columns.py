"""Which column of a stranger's CSV is what. Recognised by name or content, never where two could be meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wbcbench.data.channels import distinct_names
from wbcbench.data.labels import is_missing
from wbcbench.data.manifest import SUFFIXES, Columns, ManifestFile
from wbcbench.errors import DataError

NAMES = {
    "label": ("label", "labels", "class", "celltype", "cellclass", "category", "diagnosis", "target", "y"),
    "group": ("group", "groups", "donor", "donorid", "patient", "patientid", "subject", "subjectid", "case",
              "slide", "slideid", "plate"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "id": ("id", "cellid", "name"),
}  # fmt: skip
"""What -> names of columns or arrays it goes by, without case, blanks, hyphens and underscores."""
SIDES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""A side of the split as people write it -> as it is written here."""
NONE = "-"
"""What a user says for: there is no such column."""


@dataclass(frozen=True)
class Asked:
    """What the user said of a source; None: to be recognised, `-`: there is none."""

    label: str | None = None
    group: str | None = None
    split: str | None = None
    id: str | None = None
    modalities: dict[str, str] = field(default_factory=dict)
    """Modality -> column, or array, or channel numbers as `0,1`."""
    root: Path | None = None
    """Where relative paths of a CSV start; None: its folder."""
    levels: str | None = None
    """What the folders of a tree are, as in `split/class`."""
    leave_out: dict[str, list[str]] = field(default_factory=dict)


def plain(name: str) -> str:
    """Without case and everything but letters and digits."""
    return "".join(c for c in name.lower() if c.isalnum())


def recognise_name(what: str, asked: str | None, there: Sequence[str], where: str) -> str | None:
    """The column or array that is `what` (a key of `NAMES`), or None.

    Raises:
        DataError: several could be meant, or the one asked for is not there.
    """
    if asked is not None:
        if asked == NONE:
            return None
        if asked not in there:
            raise DataError(f"Expected {asked!r} for the {what} in {where}, but it has {', '.join(there)}.")
        return asked
    found = [name for name in there if plain(name) in NAMES[what]]
    if len(found) > 1:
        raise DataError(
            f"Expected one {what} in {where}, but {', '.join(map(repr, found))} could each be meant. "
            f"Say which with --{what} NAME{'' if what == 'label' else f', or --{what} {NONE} for none'}."
        )
    return found[0] if found else None


def recognise(file: ManifestFile, asked: Asked) -> tuple[Columns, list[tuple[str, str]]]:
    """What each column of a CSV is, and the same in words: (column, what it was taken for), for all.

    Raises:
        DataError: no label or no images are found, or two columns could be meant.
    """
    where = str(file.path)
    taken = set(asked.modalities.values())
    free = [name for name in file.header if name not in taken]
    roles = {what: recognise_name(what, getattr(asked, what), free, where) for what in NAMES}
    if asked.id is None and roles["id"] is not None and _repeats(file, roles["id"]):
        roles["id"] = None  # `name` of something else than the cell
    if roles["label"] is None:
        raise DataError(
            f"Expected a column of labels in {where} ({', '.join(NAMES['label'][:4])} ...), but found none among "
            f"{', '.join(file.header)}. Say which with --label COLUMN."
        )
    for column in taken:
        file.column(column, "modality")
    if asked.modalities:
        modalities = dict(asked.modalities)
    else:
        columns = [n for n in free if n not in roles.values() and n not in asked.leave_out and image_like(file, n)]
        if not columns:
            raise DataError(
                f"Expected a column of image paths in {where} ({', '.join(SUFFIXES)}), but found none among "
                f"{', '.join(file.header)}. Say which with --modality NAME=COLUMN."
            )
        modalities = dict(zip(distinct_names(columns, where), columns, strict=True))
    meaning = {column: f"images of modality {m}" for m, column in modalities.items()}
    meaning |= {column: what for what, column in roles.items() if column is not None}
    meaning |= dict.fromkeys(asked.leave_out, "leaves cells out")
    label = roles.pop("label")
    assert label is not None
    columns_ = Columns(label=label, modalities=modalities, **roles)
    return columns_, [(name, meaning.get(name, "not used")) for name in file.header]


def mend_split(file: ManifestFile, column: str | None) -> list[str]:
    """Write `training`, `Validation` ... in the split column as train, val, test; say what was done."""
    if column is None:
        return []
    at = file.header.index(column)
    changed: dict[str, str] = {}
    for _, row in file.rows:
        if at < len(row):
            side = SIDES.get(row[at].strip().lower())
            if side is not None and side != row[at].strip():
                changed[row[at].strip()] = side
                row[at] = side
    return [f"{written!r} of {column!r} was taken for {side}" for written, side in changed.items()]


def image_like(file: ManifestFile, name: str) -> bool:
    """Whether every value of a column is the name of an image file."""
    at = file.header.index(name)
    values = [row[at].strip().lower() for _, row in file.rows if at < len(row) and not is_missing(row[at])]
    return bool(values) and all(value.endswith(SUFFIXES) for value in values)


def _repeats(file: ManifestFile, name: str) -> bool:
    at = file.header.index(name)
    values = [row[at] for _, row in file.rows if at < len(row)]
    return len(set(values)) < len(values)
