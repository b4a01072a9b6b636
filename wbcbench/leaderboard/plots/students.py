"""Which rows a figure that sets one against another by colour alone may show side by side."""

from __future__ import annotations

from collections import Counter

from wbcbench.leaderboard.model import Board, Row


def students(board: Board) -> tuple[list[Row], str]:
    """Ranked rows of the backbone that most of them have, and what that leaves out, in words.

    A reference does not compete, and a network of nine times the cost beside one of its pupils would look like a
    better method.
    """
    known = [r for r in board.rows if r.metrics[board.by].mean is not None]
    ranked = [r for r in known if r.status == "ranked"]
    often = Counter(r.backbone_text for r in ranked).most_common(1)
    usual = often[0][0] if often else ""
    shown = [r for r in ranked if r.backbone_text == usual]
    references, others = sum(r.status == "reference" for r in known), len(ranked) - len(shown)
    left = [
        f"{count} {what}{'s' * (count > 1)}{rest}"
        for count, what, rest in (
            (references, "reference row", ""), (others, "row", f" of another backbone than {usual}"),
        )
        if count
    ]  # fmt: skip
    return shown, f"Left out: {' and '.join(left)}." if left else ""


__all__ = ["students"]
