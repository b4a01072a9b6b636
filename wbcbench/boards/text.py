"""Text from records is untrusted: it must be escaped before it is put into a table."""

from __future__ import annotations

import re
import unicodedata

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "†": r"\dag{}",
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
    """Escape text for a cell of a GitHub table: no new columns, HTML, links, mentions or code."""
    safe = "".join(_MARKDOWN.get(c, c) for c in clean(text))
    return re.sub(r"://", "&#58;//", re.sub(r"\](?=[(\[:])", r"\\]", safe))


def latex(text: str) -> str:
    """Escape text for LaTeX: no command, no comment, no alignment."""
    return "".join(_LATEX.get(c, c) for c in clean(text))


def spreadsheet(text: str) -> str:
    """Escape text for CSV: a cell that a spreadsheet would interpret as a formula gets a leading apostrophe."""
    safe = clean(text)
    return f"'{safe}" if safe.lstrip()[:1] in ("=", "+", "-", "@") else safe
