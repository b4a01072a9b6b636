"""Whose word a row of a published board is: ours, claimed by others, or reproduced by training again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from wbcbench.boards.entries import Found
from wbcbench.boards.model import Row

Standing = Literal["ours", "reproduced", "claimed"]
ORDER: tuple[Standing, ...] = ("ours", "reproduced", "claimed")
CLAIMED_NOTE = (
    "Claimed rows were sent in by others and are consistent in themselves, but predictions that were made up "
    "consistently can only be told by training again. Reproduced: that was done, with these seeds. Ours: trained "
    "by the board's maintainers. `wbcbench leaderboard --reproduced` leaves claimed rows out."
)


def standing_of(records: Iterable[Found], known: Mapping[str, str]) -> str:
    """A row's standing: `ours`, `claimed`, `reproduced (1)` with the seeds that were trained again, or several of
    these with their seeds, as in `ours (0, 1), claimed (2)`. Empty: no statement is known.

    Args:
        records: of the row.
        known: trial id -> `Standing`.
    """
    seeds: dict[str, dict[int, None]] = {}
    for record in records:
        if word := known.get(record.entry.trial_id):
            seeds.setdefault(word, {})[record.entry.seed] = None
    if len(seeds) == 1 and "reproduced" not in seeds:
        return next(iter(seeds))
    return ", ".join(f"{word} ({', '.join(map(str, seeds[word]))})" for word in ORDER if word in seeds)


def only_claimed(records: Iterable[Found], known: Mapping[str, str]) -> bool:
    """Whether others claim a row and none of its seeds was trained again."""
    return {known.get(r.entry.trial_id) for r in records} == {"claimed"}


def standing_notes(rows: Iterable[Row]) -> list[str]:
    """A note for readers of a board with claimed or reproduced rows."""
    return [CLAIMED_NOTE] if any(r.standing not in ("", "ours") for r in rows) else []


__all__ = ["ORDER", "Standing", "only_claimed", "standing_notes", "standing_of"]
