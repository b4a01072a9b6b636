"""What was checked, what was found, and what follows from it: accept, needs a look, refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from wbcbench.errors import ExitCode, RecordError

Level = Literal["look", "refuse"]
Verdict = Literal["accept", "needs a look", "refuse"]
Problem = tuple[Level, str]
"""How bad, and what: texts of strangers in it are escaped by `Judge`."""

CHECKS: dict[str, str] = {
    "archive.directory": "one plain zip: nothing before, after or between its files, not too many, not too large",
    "archive.names": "only names that a pack has: no way out of the folder, no unknown file, no two alike",
    "archive.kinds": "plain files: no link, no folder, no encryption, stored or deflated",
    "archive.sizes": "no file, and no sum of files, that is too large or unpacks to many times its size",
    "archive.content": "every file can be read whole and has the checksum of the archive",
    "manifest.schema": "the manifest is read strictly and names every file and record once",
    "manifest.digests": "every file has the SHA-256 that the manifest says",
    "pack.searches": "what a search had spent can be so, and is about trials of the pack",
    "record.json": "its documents are JSON without repeated keys, NaN or anything that a record does not have",
    "record.schema": "result.json and spec.json follow the schema of this version",
    "record.digests": "the digests in result.json are those of its files",
    "record.identity": "the trial id is recomputed from spec.json, and all that follows from it agrees",
    "record.names": "names have no control or invisible characters; markup is pointed out",
    "record.arrays": "predictions are arrays of the promised kinds and sizes, judged by their headers first",
    "record.values": "shapes, labels and probabilities: finite, not negative, rows that sum to 1",
    "record.cells": "no cell twice, none on both sides",
    "record.ranges": "every metric lies in its range",
    "record.metrics": "every metric recomputed from the predictions, within 1e-6",
    "record.cost": "no cost that cannot be: time <= 0, parameters without MACs, epochs above the budget",
    "record.history": "the history belongs to the run, and its selected epoch is the best by validation",
    "record.environment": "env.json is a plain object",
    "record.weights": "weights, if packed, are finite and as many as the claimed parameters",
    "record.origin": "code that is not part of wbcbench is pointed out",
    "record.perfect": "a perfect score is pointed out",
    "pack.teachers": "every teacher's record is in the pack or in the reference store",
    "pack.components": "what is said to be wbcbench's code is what is installed here",
    "pack.labels": "records of one split agree on the labels and groups of its cells",
    "pack.duplicates": "no two trials have the same predictions",
    "reference.split": "same cells, same division: the split's hash is that of the reference store",
    "reference.labels": "the labels of test and validation cells, and the groups, are the reference's, by cell",
    "reference.duplicates": "no predictions that the reference store has under another trial",
    "reference.same_trial": "a trial that the reference store has too has the same predictions there",
    "reference.jump": "no score far above every reference method of the same comparison key",
    "rerun": "one seed, trained again here, gives the same predictions or scores within the tolerance",
}
"""Every check by name, in the order in which they are made."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or that a person should look at."""

    check: str
    level: Level
    where: str
    text: str


@dataclass
class Judge:
    """Runs checks and keeps what they find. A check that breaks is a refusal: hostile input may break it."""

    findings: list[Finding] = field(default_factory=list)
    made: dict[str, None] = field(default_factory=dict)
    """Names of the checks that were made (in order; a set that keeps it)."""
    notes: list[str] = field(default_factory=list)
    consequences: list[str] = field(default_factory=list)
    """What would become of a board that took the pack in."""

    def run(self, check: str, where: str, problems: Callable[[], Iterable[Problem] | None]) -> bool:
        """Make a check, which yields problems or raises a `RecordError`.

        Returns whether it refused nothing, so that what builds on it can be left out.
        """
        assert check in CHECKS, check
        self.made[check] = None
        try:
            found = list(problems() or ())
        except RecordError as error:
            found = [("refuse", reason(error))]
        except Exception as error:
            # Every way in which a stranger's file can break a check ends in a refusal, never in an acceptance.
            found = [("refuse", f"the check could not be made ({type(error).__name__}: {error})")]
        for level, text in found:
            self.findings.append(Finding(check, level, where, shown(text)))
        return not any(level == "refuse" for level, _ in found)

    @property
    def verdict(self) -> Verdict:
        """`refuse` if any check refuses, `needs a look` if any points something out, else `accept`."""
        levels = {f.level for f in self.findings}
        return "refuse" if "refuse" in levels else "needs a look" if "look" in levels else "accept"

    @property
    def exit_code(self) -> ExitCode:
        """3 for a refusal, else 0."""
        return ExitCode.NOT_COMPARABLE if self.verdict == "refuse" else ExitCode.OK

    def state(self, check: str) -> str:
        """`ok`, `look`, `refuse`, or `not made`."""
        levels = {f.level for f in self.findings if f.check == check}
        if not levels:
            return "ok" if check in self.made else "not made"
        return "refuse" if "refuse" in levels else "look"

    def document(self) -> dict[str, Any]:
        """The whole as JSON."""
        return {
            "verdict": self.verdict,
            "checks": {name: self.state(name) for name in CHECKS},
            "findings": [vars(f) for f in self.findings],
            "notes": [shown(note) for note in (*self.notes, *self.consequences)],
        }


def shown(text: str, limit: int = 500) -> str:
    """A stranger's text for a terminal or a report: control and invisible characters escaped, cut to `limit`."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return plain if len(text) <= limit else plain[:limit] + "..."


def reason(error: RecordError) -> str:
    """A record's error without the folder, which is a temporary one here, and without the advice."""
    text = str(error).split(" It is not counted;")[0]
    return text.split(": ", 1)[1] if text.startswith("Record ") and ": " in text else text


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


__all__ = ["CHECKS", "Finding", "Judge", "Level", "Problem", "Verdict", "bad_names", "reason", "shown"]
