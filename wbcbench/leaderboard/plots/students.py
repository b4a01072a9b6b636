"""Which rows a figure that sets one against another by colour alone may show side by side."""

from __future__ import annotations

from collections import Counter

from wbcbench.leaderboard.model import Board, Row


def students(board: Board) -> tuple[list[Row], str]:
    """Ranked rows of the backbone that most of them have, and what that leaves out, in words.

    A reference does not compete; a network of nine times the cost beside one of its pupils would look like a
    better method, and so would the winner of a search beside methods as they come.
    """
    known = [r for r in board.rows if r.metrics[board.by].mean is not None]
    ranked = [r for r in known if r.status == "ranked"]
    often = Counter(r.backbone_text for r in ranked).most_common(1)
    usual = often[0][0] if often else ""
    alike = [r for r in ranked if r.backbone_text == usual]
    plain = [r for r in alike if r.search is None]
    shown = plain or alike
    references, others = sum(r.status == "reference" for r in known), len(ranked) - len(alike)
    left = [
        f"{count} {what}{'s' * (count > 1)}{rest}"
        for count, what, rest in (
            (references, "reference row", ""), (others, "row", f" of another backbone than {usual}"),
            (len(alike) - len(shown), "winner", " of a search"),
        )
        if count
    ]  # fmt: skip
    return shown, f"Left out: {', '.join(left)}." if left else ""


__all__ = ["students"]
