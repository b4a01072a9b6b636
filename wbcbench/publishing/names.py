"""Texts in a stranger's documents: what no name contains, and what a board has to escape."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wbcbench.publishing.verdict import Problem

LONGEST = 2000
"""Characters of one text."""
_TAG = re.compile(r"<[a-z/!?]|javascript:|\]\(", re.IGNORECASE)
"""What begins a tag of HTML or a link of Markdown: no name, note or parameter has a use for it."""
_MARKUP = re.compile(r"[<>&\"`|\\$]|^[=@]")
"""What else means something to a browser, to Markdown, to LaTeX or, at the start of a cell, to a spreadsheet."""


def bad_names(documents: dict[str, Any]) -> Iterator[Problem]:
    """Control and invisible characters, tags and links are refused; other markup is pointed out, since boards show
    it escaped."""
    for file, document in documents.items():
        for where, text in _texts("", document):
            if not text.isprintable():
                yield "refuse", f"{file}: {where} has control or invisible characters: {text!r}"
            elif len(text) > LONGEST:
                yield "refuse", f"{file}: {where} has {len(text):,} characters; {LONGEST:,} are allowed"
            elif found := _TAG.search(text):
                yield "refuse", f"{file}: {where} has {found[0]!r}, which begins a tag or a link: {text}"
            elif found := _MARKUP.search(text):
                yield "look", f"{file}: {where} has {found[0]!r}, which is markup somewhere: {text}"


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path} (a key)".strip(), key
            yield from _texts(f"{path}.{key}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(path, inner)


__all__ = ["bad_names"]
