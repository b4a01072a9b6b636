"""Which seeds a row needs to be ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from wbcbench.boards.gather import Found
from wbcbench.boards.options import Options

Seeds = tuple[int, ...]


def board_seeds(methods: Mapping[str, Sequence[Found]], options: Options, digest: str) -> Seeds:
    """Those asked for; else those that the board was published with; else the usual ones of its rows.

    Args:
        methods: records of each method, in order of seed.
        options: what was asked for.
        digest: of the board's key.
    """
    if options.seeds is not None:
        return tuple(sorted(set(options.seeds)))
    if digest in options.board_seeds:
        return options.board_seeds[digest]
    return usual_seeds(tuple(f.entry.seed for f in records) for records in methods.values())


def usual_seeds(rows: Iterable[Seeds]) -> Seeds:
    """The set of seeds that most rows have; of equally frequent ones the larger, then the lowest.

    Not the largest: one row with a seed more would leave all others unranked.
    """
    found = Counter(rows)
    return min(found, key=lambda s: (-found[s], -len(s), s), default=())


__all__ = ["Seeds", "board_seeds", "usual_seeds"]
