"""Titles of data sets and boards, in a store's `titles.json`: for readers only, outside every identity.

A key is the fingerprint of a data set's cells or the digest of a board's comparison key. Since no record contains
a title, it can be given or changed after the runs, by another run or by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from wbcbench.errors import RecordError
from wbcbench.files import DOCUMENTS, atomic_write_json, held
from wbcbench.records.schema import ComparisonKey

TITLES = "titles.json"
Title = Annotated[str, Field(min_length=1, max_length=200)]
_FORM = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")], Title])


def read_titles(root: Path) -> dict[str, str]:
    """Fingerprint or key's digest -> title; empty without such a file.

    Raises:
        RecordError: the file is in another format.
    """
    path = root / TITLES
    try:
        return _FORM.validate_python(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, *DOCUMENTS, ValidationError) as error:
        raise RecordError(
            f"Expected {path} as a JSON object of digests and titles of at most 200 characters, but got another "
            f"document ({str(error).splitlines()[0]}). Correct it, or delete it: no record depends on it."
        ) from error


def add_titles(root: Path, titles: Mapping[str, str]) -> None:
    """Add titles to a store; they replace earlier ones."""
    if titles and not titles.items() <= read_titles(root).items():
        with held(root / "locks" / f"{TITLES}.lock", str(root / TITLES)):
            atomic_write_json(root / TITLES, read_titles(root) | dict(titles))


def titles_of(keys: Iterable[ComparisonKey], dataset: str, board: str) -> dict[str, str]:
    """The entries for these keys: `dataset` names their cells, `board` the tables. Empty text names nothing."""
    named = ((key, text) for k in keys for key, text in ((k.fingerprint, dataset), (k.digest, board)))
    return {key: text for key, text in named if text}


def title_of(key: ComparisonKey, titles: Mapping[str, str]) -> str:
    """The title of a key's board; empty if it has none."""
    if key.digest in titles:
        return titles[key.digest]
    named = titles.get(key.fingerprint, "")
    return f"{named}: {' + '.join(key.modalities)}" if named else ""


__all__ = ["TITLES", "Title", "add_titles", "read_titles", "title_of", "titles_of"]
