"""Text from records is a stranger's: what must be done to it before it stands in a table."""

from __future__ import annotations

import re
import unicodedata

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
_MARKDOWN = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "|": "\\|",
    "`": "\\`",
    "*": "\\*",
    "\\": "\\\\",
    "@": "&#64;",
}


def clean(text: str) -> str:
    """One line without control characters, escape sequences and marks that reverse the direction of writing."""
    text = re.sub(r"\s+", " ", text)
    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))


def markdown(text: str) -> str:
    """For a cell of a GitHub table: no new columns, HTML, links, mentions or code."""
    safe = "".join(_MARKDOWN.get(c, c) for c in clean(text))
    return re.sub(r"://", "&#58;//", re.sub(r"\](?=[(\[:])", r"\\]", safe))


def latex(text: str) -> str:
    """For LaTeX text: no command, no comment, no alignment."""
    return "".join(_LATEX.get(c, c) for c in clean(text))


def spreadsheet(text: str) -> str:
    """For CSV: a cell that a spreadsheet would take for a formula gets a leading apostrophe."""
    safe = clean(text)
    return f"'{safe}" if safe.lstrip()[:1] in ("=", "+", "-", "@") else safe
