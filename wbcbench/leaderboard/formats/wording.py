"""Sentences that stand around a table, the same in every format for people. Not escaped yet."""

from __future__ import annotations

from wbcbench.leaderboard.columns import HEADERS
from wbcbench.leaderboard.model import Across, Board


def title(board: Board) -> str:
    """What the board's rows share, in one line."""
    k = board.key
    return (
        f"{k.dataset}: {' + '.join(k.modalities)}, {k.image_size} px, {len(k.classes)} classes, "
        f"{k.budget.epochs} epochs of batch {k.budget.batch_size} (key {board.digest})"
    )


def legend(board: Board) -> list[str]:
    """How to read the table, then the board's notes."""
    ranked = [r for r in board.rows if r.status == "ranked"]
    lines = [f"Mean ± standard deviation (ddof=1) over n seeds; ranked by {HEADERS[board.by]}."]
    if board.resamples is not None:
        what = f"{board.test_cells} test cells" + (f" in {board.clusters} groups" if board.grouped else "")
        lines.append(f"95 % intervals over {what} ({board.resamples} bootstrap resamples) and seeds.")
        if len(ranked) > 1:
            lines.append(
                "Rows that share a rank (=) cannot be told from the best of them: paired test, Holm, alpha 0.05."
            )
    if any(r.over_single or r.over_no_kd for r in board.rows):
        lines.append("* marks a paired gain beyond noise (95 %, one comparison).")
    if any(r.status == "reference" for r in board.rows):
        lines.append("Rows `single[...]` without a rank read fewer modalities: a reference, not a competitor.")
    if any(r.pseudo_multimodal for r in board.rows):
        lines.append("Pseudo-multimodal: the modalities were computed from one image; no new light was measured.")
    return [*lines, *board.notes]


def across_lines(across: Across) -> list[str]:
    """What holds over several data sets."""
    p = across.friedman_p
    lines = [
        f"Over {len(across.boards)} data sets, {len(across.methods)} methods ranked by {HEADERS[across.by]}: "
        f"Friedman p = {p:.3g}; mean ranks nearer than {across.critical_difference:.2f} cannot be told apart "
        "(Nemenyi, alpha 0.05)."
    ]
    lines += [f"{rank:.2f}  {name}" for name, rank in zip(across.methods, across.mean_ranks, strict=True)]
    return lines
