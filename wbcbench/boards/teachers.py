"""How good the teachers of a board's rows are: against their own students, and against untaught ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from wbcbench.boards.entries import Entry, Found
from wbcbench.boards.gather import Gathered
from wbcbench.boards.model import Row, TeacherScore
from wbcbench.boards.names import label
from wbcbench.boards.options import Options
from wbcbench.boards.values import Values
from wbcbench.errors import RecordError


def with_teachers(
    rows: Sequence[Row],
    methods: Mapping[str, Sequence[Found]],
    found: Gathered,
    values: Values,
    options: Options,
) -> list[Row]:
    """The rows, each with the scores of its direct teachers whose records are here, on the same test cells.

    Args:
        rows: of one board without folds.
        methods: method id -> the records of its row.
        found: all records of the stores.
        values: of the board's records.
        options: of the board.
    """
    by, sign = options.by, 1 if options.higher else -1
    untaught = [r for r in rows if r.kd == "none" and r.status != "incomplete" and r.metrics[by].mean is not None]
    chosen = {r.method_id: _mean([values.val(f, by) for f in methods[r.method_id]]) for r in untaught}
    new = []
    for row in rows:
        groups: dict[str, list[Found]] = {}
        for trial in dict.fromkeys(t for f in methods[row.method_id] for t in f.entry.teachers):
            if (there := found.trials.get(trial)) is not None and _same_cells(found, there.entry, row, methods):
                groups.setdefault(there.entry.method_id, []).append(there)
        scores = []
        mine = row.metrics[by].mean
        for method, own in groups.items():
            try:
                mean = _mean([values.test(f, by) for f in own])
            except RecordError:  # of another board, which reports it
                continue
            if mean is None or mine is None:
                continue
            reads = found.keys[own[0].entry.key].modalities
            others = [r for r in untaught if r.method_id != method and chosen[r.method_id] is not None]
            rivals = [r for r in others if set(r.modalities) <= set(reads)]
            rival = max(rivals, key=lambda r: sign * (chosen[r.method_id] or 0.0), default=None)
            best = None if rival is None else rival.metrics[by].mean
            scores.append(
                TeacherScore(
                    method_id=method,
                    name=label(own[0].entry, reads),
                    mean=mean,
                    worse_than_student=sign * mean < sign * mine,
                    untaught=None if rival is None else rival.name,
                    beats_untaught=None if best is None else sign * mean > sign * best,
                )
            )
        if row.outside and mine is not None:
            told = [
                t.model_copy(update={"worse_than_student": sign * mean < sign * mine})
                if (mean := t.metrics.get(by)) is not None
                else t
                for t in row.outside
            ]
            row = row.model_copy(update={"outside": tuple(told)})
        if row.teaching is not None and scores:
            row = row.model_copy(update={"teaching": row.teaching.model_copy(update={"scores": tuple(scores)})})
        new.append(row)
    return new


def teacher_notes(rows: Sequence[Row], by: str) -> list[str]:
    """What readers must know about the teachers of some rows: shared ones, and those that are not good."""
    notes = []
    shared = [r.name for r in rows if r.teaching and len(r.seeds) > 1 and r.teaching.sets == 1]
    if shared:
        notes.append(
            f"One set of teachers for all seeds: {_listed(shared)}. Their intervals hold no variance between "
            "teachers (teacher.seeds=student trains some for every seed)."
        )
    notes += _outside_notes(rows, by)
    worse = [(r, s) for r in rows if r.teaching for s in r.teaching.scores if s.worse_than_student]
    if worse:
        named = [f"{r.name} ({r.metrics[by].mean:.3f}; {s.name} {s.mean:.3f})" for r, s in worse]
        notes.append(f"A teacher is worse than its student, and so has little to teach: {_listed(named)}.")
    weak = {s.name: s for r in rows if r.teaching for s in r.teaching.scores if s.beats_untaught is False}
    if weak:
        named = [f"{name} ({s.mean:.3f}; {s.untaught})" for name, s in weak.items()]
        notes.append(
            "A teacher does not beat the best untaught student (by validation) that reads no more than it does: "
            f"{_listed(named)}."
        )
    return notes


def _outside_notes(rows: Sequence[Row], by: str) -> list[str]:
    """Whether teachers from outside have seen test cells, as far as it is known, and whether they are any good."""
    taught = [(r.name, t) for r in rows for t in r.outside]  # a row's name has those of its teachers from outside
    said = (
        (
            "Taught from outside by answers that may be of a teacher trained on test cells, since their file does "
            "not state its training cells",
            [name for name, t in taught if t.test_cells_seen is None],
        ),
        (
            "Taught from outside by a teacher that was trained on test cells, so that the row is not comparable",
            [f"{name} ({t.name}: {t.test_cells_seen} cells)" for name, t in taught if t.test_cells_seen],
        ),
        (
            "Taught from outside; the file states that its teacher saw no test cell",
            [name for name, t in taught if t.test_cells_seen == 0],
        ),
        (
            "The same answers from outside for all seeds, so that intervals hold no variance between teachers",
            [r.name for r in rows if r.outside and len(r.seeds) > 1],
        ),
        (
            "A teacher from outside is worse than its student, and so has little to teach",
            [f"{name} ({t.name} {t.metrics[by]:.3f})" for name, t in taught if t.worse_than_student],
        ),
    )
    return [f"{text}: {_listed(list(dict.fromkeys(names)))}." for text, names in said if names]


SHOWN = 6
"""Maximum number of names in a note."""


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _same_cells(found: Gathered, teacher: Entry, row: Row, methods: Mapping[str, Sequence[Found]]) -> bool:
    """Whether the teacher was tested on the row's cells: its budget and modalities may be others."""
    theirs, mine = found.keys[teacher.key], found.keys[methods[row.method_id][0].entry.key]
    fields = ("fingerprint", "split", "classes", "metrics_version")
    return all(getattr(theirs, f) == getattr(mine, f) for f in fields)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


__all__ = ["teacher_notes", "with_teachers"]
