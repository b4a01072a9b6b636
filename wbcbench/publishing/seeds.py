"""What a submission does to the seeds that a board counts, in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from wbcbench.leaderboard.model import Board
from wbcbench.leaderboard.seeds import Seeds, usual_seeds
from wbcbench.publishing.asked import Asked
from wbcbench.records.store import Record

Rows = dict[str, Seeds]
"""Method id -> its seeds."""


def told_of_seeds(
    records: Sequence[Record], submitted: Sequence[str], related: Sequence[Record], asked: Asked | None
) -> Iterator[str]:
    """Rows that would lack a seed, seeds that would not count, and boards that would ask for others.

    Of single modalities, which are other boards' references, nothing is said.

    Args:
        records: of the pack.
        submitted: ids of the trials that it is about.
        related: of the reference.
        asked: what the reference was published for; None: it is a store, whose boards follow their rows.
    """
    mine = [r.result for r in records if r.trial.id in submitted and r.result.fusion != "single"]
    for digest in sorted({r.key.digest for r in mine}):
        before, after = _rows(related, digest), _rows([*related, *records], digest)
        own = {r.method_id: r.label for r in mine if r.key.digest == digest}
        fixed = None if asked is None else asked.seeds or asked.board_seeds.get(digest)
        was = fixed or usual_seeds(before.values())
        now = fixed or usual_seeds(after.values())
        if not before:
            yield f"Board {digest} would be new and count {_seeds(now)}."
        elif was != now:
            lost = sum(not set(now) <= set(seeds) for seeds in before.values())
            yield (
                f"Board {digest} would count {_seeds(now)} instead of {_seeds(was)}, and {lost} of its "
                f"{len(before)} rows would lack one. A published board keeps its own."
            )
        for method, label in sorted(own.items(), key=lambda x: (x[1], x[0])):
            lacks, beyond = sorted(set(now) - set(after[method])), sorted(set(after[method]) - set(now))
            if lacks:
                yield f"{label} ({method}) lacks {_seeds(lacks)} of board {digest}: it would be shown, not ranked."
            elif beyond:
                yield f"{label} ({method}) has {_seeds(beyond)} too, which board {digest} does not count."


def outgrown(boards: Sequence[Board], anew: Sequence[Board]) -> Iterator[str]:
    """Boards that keep the seeds which they were published with, although made anew they would ask for others."""
    usual = {b.digest: b.seeds for b in anew}
    for board in boards:
        seeds = usual.get(board.digest, board.seeds)
        if seeds != board.seeds:
            yield (
                f"Board {board.digest} counts {_seeds(board.seeds)}, with which it was published; most rows have "
                f"{_seeds(seeds)} now. The same with --seeds {','.join(map(str, seeds))} counts those."
            )


def _rows(records: Sequence[Record], digest: str) -> Rows:
    found: dict[str, set[int]] = defaultdict(set)
    for r in records:
        if r.result.key.digest == digest:
            found[r.result.method_id].add(r.result.seed)
    return {m: tuple(sorted(seeds)) for m, seeds in found.items()}


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


__all__ = ["outgrown", "told_of_seeds"]
