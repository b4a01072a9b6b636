"""A hidden test: a public file of cells without test labels, a sealed file of these labels, and a count of looks.

Participants train on the public file, in which test cells have random labels, and submit packs as usual: a record
has the probabilities of every test cell. The maintainer, who keeps the sealed file, scores them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Literal, TypeVar

import numpy as np
from pydantic import ValidationError

from wbcbench.contracts.dataset import SPLITS, Cells
from wbcbench.data.splits import make_split
from wbcbench.errors import UsageError
from wbcbench.evaluation.metrics import score
from wbcbench.files import atomic_write_bytes
from wbcbench.publishing.archive import by_cell
from wbcbench.publishing.copies import named
from wbcbench.publishing.verdict import Judge, Problem
from wbcbench.records.schema import Strict, Summary
from wbcbench.records.store import Record
from wbcbench.spec import SplitSpec

PUBLIC, SEALED, LOOKS = "public.npz", "sealed.json", "looks.json"


class Sealed(Strict):
    """`sealed.json`, which is never published."""

    schema_version: Literal[1] = 1
    classes: tuple[str, ...]
    cells: tuple[int, ...]
    """Rows of the test cells in the public file, ascending."""
    public: tuple[int, ...]
    """Their random labels in the public file, by which records made from it are recognised."""
    labels: tuple[int, ...]
    """Their labels."""


class Look(Strict):
    """A pack that was scored."""

    pack: str
    """SHA-256."""
    at: str
    """ISO 8601, UTC."""
    methods: tuple[str, ...]
    """Ids of the methods of its submitted trials."""
    scores: dict[str, Summary]
    """Submitted trial -> metrics on the hidden labels."""


class Looks(Strict):
    """`looks.json`, next to the sealed file."""

    schema_version: Literal[1] = 1
    looks: tuple[Look, ...] = ()


def hide(cells: Cells, split: SplitSpec, folder: Path) -> tuple[int, int]:
    """Write `public.npz` and `sealed.json` to a new folder.

    Rows are shuffled and have no names, since order and file names may give classes away.

    Args:
        cells: with the same number of images of every modality for each cell.
        split: one division, whose test cells are hidden.
        folder: must not exist.

    Returns:
        The number of cells, and of hidden ones.

    Raises:
        UsageError: the folder exists, the split has folds, or some cells are incomplete.
        DataError: the split cannot be drawn.
    """
    if folder.exists():
        raise UsageError(f"Expected a new folder, but {folder} exists. A hidden test is never written twice.")
    if split.folded:
        raise UsageError(f"Expected one division for a hidden test, but split.scheme is {split.scheme}.")
    if cells.incomplete:
        raise UsageError(
            f"Expected cells with every modality, but some lack {', '.join(cells.incomplete)}. Leave it out with "
            "--modalities."
        )
    division = make_split(cells, split)
    side = np.empty(len(cells), dtype="<U5")
    for name in SPLITS:
        side[getattr(division, name)] = name
    random = SystemRandom()
    order = np.array(random.sample(range(len(cells)), len(cells)))
    side, true = side[order], cells.labels[order]
    rows = np.flatnonzero(side == "test")
    drawn = [i % len(cells.classes) for i in range(len(rows))]
    random.shuffle(drawn)
    shown = true.copy()
    shown[rows] = drawn
    arrays = {name: np.asarray(images)[order] for name, images in cells.images.items()}
    groups = {} if cells.groups is None else {"group": cells.groups[order]}
    public = io.BytesIO()
    np.savez_compressed(
        public, allow_pickle=False, label=shown, split=side, classes=np.array(cells.classes), **groups, **arrays
    )
    sealed = Sealed(
        classes=cells.classes,
        cells=tuple(rows.tolist()),
        public=tuple(drawn),
        labels=tuple(true[rows].tolist()),
    )
    atomic_write_bytes(folder / PUBLIC, public.getvalue())
    atomic_write_bytes(folder / SEALED, (sealed.model_dump_json() + "\n").encode())
    return len(cells), len(rows)


def reveal(records: Sequence[Record], pack: Path, sealed: Path, judge: Judge) -> None:
    """Score the submitted records of a pack on the hidden labels, and count the look.

    Args:
        records: submitted, already checked.
        pack: their pack. The same pack again is the same look.
        sealed: the sealed file.
        judge: gets the check `hidden.cells`, the scores and a note on the number of looks.

    Raises:
        UsageError: the sealed file, or the file of looks, cannot be read.
    """
    known = _read(Sealed, sealed)
    if not judge.run("hidden.cells", str(pack.name), lambda: _other_cells(records, known)):
        return
    looks = _read(Looks, sealed.parent / LOOKS) if (sealed.parent / LOOKS).is_file() else Looks()
    labels = np.array(known.labels, dtype=np.int64)
    for record in records:
        p = record.predictions["test_probabilities"][by_cell(record.predictions, "test")]
        judge.hidden[record.trial.id] = score(p, labels, known.classes).summary
    digest = hashlib.sha256(pack.read_bytes()).hexdigest()
    if digest not in {look.pack for look in looks.looks}:
        look = Look(
            pack=digest,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            methods=tuple(sorted({r.result.method_id for r in records})),
            scores=judge.hidden,
        )
        looks = Looks(looks=(*looks.looks, look))
        atomic_write_bytes(sealed.parent / LOOKS, (looks.model_dump_json(indent=2) + "\n").encode())
    judge.notes += [
        f"{named(r)}: hidden test, "
        + ", ".join(f"{n} {v:.4f}" for n, v in judge.hidden[r.trial.id].items() if v is not None)
        for r in records
    ]
    judge.notes.append(
        f"{len(looks.looks)} packs have been scored on this hidden test. Each look tells a little of its labels: "
        "show the number with the scores."
    )


def _other_cells(records: Sequence[Record], sealed: Sealed) -> Iterator[Problem]:
    for record in records:
        arrays = record.predictions
        order = by_cell(arrays, "test")
        same = (
            record.result.key.classes == sealed.classes
            and np.array_equal(arrays["test_cells"][order], sealed.cells)
            and np.array_equal(arrays["test_labels"][order], sealed.public)
        )
        if not same:
            yield "refuse", f"{named(record)} was not made from the public file of this hidden test"


T = TypeVar("T", bound=Strict)


def _read(model: type[T], path: Path) -> T:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"Expected {path.name} of a hidden test (`wbcbench leaderboard hide`) in {path}, but: {error}"
        ) from error


__all__ = ["LOOKS", "PUBLIC", "SEALED", "Look", "Looks", "Sealed", "hide", "reveal"]
