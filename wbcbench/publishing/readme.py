"""The page that a visitor of a published board's folder reads first."""

from __future__ import annotations

from wbcbench.leaderboard.columns import HEADERS
from wbcbench.leaderboard.model import Report
from wbcbench.leaderboard.text import markdown
from wbcbench.publishing.pack import Manifest


def readme(found: Report, title: str, manifest: Manifest, tables: str) -> bytes:
    """Markdown, UTF-8.

    Args:
        found: what is published.
        title: of the board.
        manifest: of the pack that it was made from.
        tables: the boards as Markdown.
    """
    by = HEADERS[found.boards[0].by] if found.boards else ""
    rows = sum(len(b.rows) for b in found.boards)
    lines = [
        f"# {markdown(title)}",
        "",
        f"{rows} rows from {len(manifest.records)} records (teachers included), ranked by {by}. "
        "[index.html](index.html) is the same to sort, filter and look into (download it; it needs no network), "
        "`board.csv` and `board.json` hold every digit.",
        "",
        tables.strip(),
        "",
    ]
    if found.refused:
        lines += [
            "## Left out",
            "",
            *(f"- `{markdown(r.record)}` {markdown(r.reason)}" for r in found.refused),
            "",
        ]
    lines += [
        "## Check it",
        "",
        "Every number is a function of `records.zip`: specifications, per-cell predictions and histories, no "
        "weights, no code. This makes the files again and names any that differs:",
        "",
        "    wbcbench leaderboard publish --check --name NAME      # NAME: of this folder",
        "",
        "`wbcbench leaderboard verify records.zip` says what else was checked; `--rerun` trains one seed again.",
        "",
        "| record | digest |",
        "| --- | --- |",
        *(f"| `{trial}` | `{digest}` |" for trial, digest in sorted(manifest.records.items())),
        "",
    ]
    return "\n".join(lines).encode()
