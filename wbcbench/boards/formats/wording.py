"""Sentences that stand around a table, the same in every format for people. Not escaped yet."""

from __future__ import annotations

from collections.abc import Sequence

from wbcbench.boards.columns import COLUMNS, HEADERS, shared
from wbcbench.boards.model import Across, Board

PAIRS = 5
"""Comparisons of the best method that are spelt out, at most."""


def title(board: Board) -> str:
    """What the board's rows share, in one line."""
    k = board.key
    pseudo = (
        " (pseudo-multimodal)" if len(k.modalities) > 1 and all(r.pseudo_multimodal for r in board.rows) else ""
    )
    leaks = ", leaks between the sides of the split allowed" if k.leaks_allowed else ""
    return (
        f"{k.dataset}: {' + '.join(k.modalities)}{pseudo}, {k.image_size} px, {len(k.classes)} classes, "
        f"{k.budget.epochs} epochs of batch {k.budget.batch_size}{leaks} (key {board.digest})"
    )


def tables(boards: Sequence[Board]) -> tuple[list[Board], list[str]]:
    """The boards to show as tables, and a line for each of those that have one row, as a lone teacher's has.

    Where no board has more, all are tables.
    """
    large = [b for b in boards if len(b.rows) > 1]
    if not large:
        return list(boards), []
    return large, [_line(b) for b in boards if len(b.rows) == 1]


def _line(board: Board) -> str:
    (row,) = board.rows
    return f"{title(board)}: {row.name}, {HEADERS[board.by]} {COLUMNS[board.by].cell(row, board)}, n {row.n}"


ALONE = "Boards of one row, with nothing to compare it to:"
"""Before the lines of `tables`."""


def legend(board: Board, columns: Sequence[str] = ()) -> list[str]:
    """How to read the table with these columns, then the board's notes."""
    ranked = [r for r in board.rows if r.status == "ranked"]
    better = "higher" if board.higher_is_better else "lower"
    lines = [f"Mean ± sd (ddof 1) over n seeds; ranked by {HEADERS[board.by]}, {better} is better."]
    if board.resamples is not None:
        what = f"{board.test_cells} test cells" + (f" in {board.clusters} groups" if board.grouped else "")
        lines.append(f"95 % intervals over {what} ({board.resamples} bootstrap resamples) and seeds.")
        if len(ranked) > 1:
            lines.append(
                "Rows that share a rank (=) cannot be told from the best row of that rank; a lower rank means "
                "worse than the best of the group above, not than every row there. Paired test over cells and "
                "seeds, Holm over all pairs, alpha 0.05."
            )
    gains = []
    if {"over_single", "over_single_interval"} & set(columns):
        gains.append("vs single: lead over the best single modality by validation")
    if {"over_no_kd", "over_no_kd_interval"} & set(columns):
        gains.append("vs no KD: lead over the same student without distillation")
    if gains:
        lines.append("; ".join(gains) + ". Paired, positive is better, * beyond noise (95 %, one comparison).")
    if any(r.status == "reference" for r in board.rows):
        lines.append("reference: reads fewer modalities than the board has, and does not compete.")
    if any(r.pseudo_multimodal for r in board.rows):
        lines.append("Pseudo-multimodal: the modalities were computed from one image; no new light was measured.")
    same = {name: text for name, text in shared(board).items() if name not in columns and text}
    if "latency" not in columns and "throughput" not in columns:
        same.pop("device", None)
    words = {"backbone": "backbone {}", "device": "latency and throughput on {}"}
    said = [words[name].format(text) for name, text in same.items()]
    if board.rows and not any(r.foreign for r in board.rows):
        said.append("no component from outside wbcbench")
    if said:
        lines.append(f"All rows: {', '.join(said)}.")
    return [*lines, *board.notes]


def across_lines(across: Across) -> list[str]:
    """What holds over several data sets."""
    lines = [
        f"Over {len(across.boards)} data sets, {len(across.methods)} methods ranked by {HEADERS[across.by]}: "
        f"Friedman p = {across.friedman_p:.3g}; mean ranks nearer than {across.critical_difference:.2f} cannot be "
        "told apart (Nemenyi, alpha 0.05).",
        *([nothing_could_show(across)] if across.hopeless else []),
        "Mean rank of each:",
    ]
    lines += [f"{rank:.2f}  {name}" for name, rank in zip(across.methods, across.mean_ranks, strict=True)]
    best = [i for i in across.improvement if i.a == across.methods[0]][:PAIRS]
    if best:
        lines.append(
            f"Chance that a run of {across.methods[0]} beats one of another, on a data set drawn at random:"
        )
    lines += [f"{i.probability:.2f} ({i.low:.2f}..{i.high:.2f})  {i.b}" for i in best]
    return [*lines, *across.notes]


def nothing_could_show(across: Across) -> str:
    """That the diagram would look the same whatever the results."""
    most, sets = len(across.methods) - 1, len(across.boards)
    return (
        f"So few data sets could show nothing: mean ranks of {most + 1} methods differ by {most} at most, less "
        f"than {across.critical_difference:.2f}. That none can be told apart is because there are {sets} data "
        "sets, and says nothing of the methods."
    )
