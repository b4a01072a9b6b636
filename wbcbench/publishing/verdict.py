"""The checks of a pack, their findings, and the verdict: accept, needs a look, refuse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from wbcbench.errors import ExitCode, RecordError

Level = Literal["look", "refuse"]
Verdict = Literal["accept", "needs a look", "refuse"]
Problem = tuple[Level, str]
"""(level, text). `Judge` escapes untrusted text in it."""

CHECKS: dict[str, str] = {
    "archive.directory": "a plain zip: nothing before, after or between its files, not too many, not too large",
    "archive.names": "only names allowed in a pack: no path outside the folder, no unknown file, no duplicates",
    "archive.kinds": "plain files: no link, no folder, no encryption, stored or deflated",
    "archive.sizes": "no file is too large or compressed too much, and neither are all files together",
    "archive.content": "every file can be read completely and matches its checksum in the archive",
    "manifest.schema": "the manifest follows the schema strictly and lists every file and record once",
    "manifest.digests": "every file has the SHA-256 of the manifest",
    "pack.searches": "search budgets are plausible and belong to trials of the pack",
    "record.json": "its documents are JSON objects without duplicate keys and NaN",
    "record.schema": "result.json and spec.json follow the schema of this version",
    "record.digests": "the digests in result.json match its files",
    "record.identity": "the trial id, recomputed from spec.json, and everything derived from it match",
    "record.names": "names have no control or invisible characters; markup is reported",
    "record.arrays": "predictions are arrays of the expected types and sizes, according to their headers",
    "record.values": "shapes and labels are valid; probabilities are finite, non-negative and sum to 1",
    "record.cells": "no cell occurs twice or on both sides",
    "record.ranges": "every metric is in its range",
    "record.metrics": "every metric equals the one recomputed from the predictions, within 1e-6",
    "record.cost": "no impossible cost: time <= 0, parameters without MACs, more epochs than the budget",
    "record.history": "the history fits the run, and the selected epoch is the best on validation cells",
    "record.environment": "env.json is a plain object",
    "record.weights": "weights, if packed, are finite and match the stated number of parameters",
    "record.origin": "code that is not part of wbcbench is reported",
    "record.perfect": "a perfect score is reported",
    "pack.teachers": "every teacher's record is there, and of its student's cells and split",
    "pack.components": "code stated to be wbcbench's equals the code installed here",
    "pack.labels": "records of one split agree on the labels and groups of its cells",
    "pack.duplicates": "no two trials have the same predictions, or nearer ones than honest seeds do",
    "reference.split": "for the same cells, the split's hash equals that of the reference store",
    "reference.labels": "labels of test and validation cells, and groups, equal those of the reference store",
    "reference.duplicates": "the same, against the trials of the reference store",
    "reference.same_trial": "a trial that is also in the reference store has the same predictions there",
    "reference.jump": "no score far above every reference method of the same comparison key",
    "hidden.cells": "records are of the public file of a hidden test, which scores them",
    "rerun": "seeds trained again here give equal predictions, or scores within the tolerance",
}
"""All checks by name, in the order in which they are run."""


@dataclass(frozen=True)
class CheckResult:
    """Something that is wrong, or that needs a manual check."""

    check: str
    level: Level
    where: str
    text: str


@dataclass
class Judge:
    """Runs checks and collects their findings. An error in a check is a refusal, since malicious input may cause
    it."""

    findings: list[CheckResult] = field(default_factory=list)
    made: dict[str, None] = field(default_factory=dict)
    """Names of the checks that were run (a dict used as an ordered set)."""
    notes: list[str] = field(default_factory=list)
    consequences: list[str] = field(default_factory=list)
    """Effects on a board if the pack were added."""
    hidden: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Trial id -> metrics on the labels of a hidden test."""
    reproduced: dict[str, str] = field(default_factory=dict)
    """Trial id -> digest of its record, for those that were trained again with equal results."""

    def run(self, check: str, where: str, problems: Callable[[], Iterable[Problem] | None]) -> bool:
        """Run a check, which yields problems or raises a `RecordError`.

        Returns whether it passed, so that checks that depend on it can be skipped.
        """
        assert check in CHECKS, check
        self.made[check] = None
        try:
            found = list(problems() or ())
        except RecordError as error:
            found = [("refuse", reason(error))]
        except Exception as error:
            # If an untrusted file causes any error in a check, it is refused, never accepted.
            found = [("refuse", f"the check failed with an error ({type(error).__name__}: {error})")]
        for level, text in found:
            self.findings.append(CheckResult(check, level, where, shown(text)))
        return not any(level == "refuse" for level, _ in found)

    @property
    def verdict(self) -> Verdict:
        """`refuse` if any check refuses, `needs a look` if any has a finding, else `accept`."""
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
        """Everything as JSON."""
        return {
            "verdict": self.verdict,
            "checks": {name: self.state(name) for name in CHECKS},
            "findings": [vars(f) for f in self.findings],
            "reproduced": self.reproduced,
            "hidden": self.hidden,
            "notes": [shown(note) for note in (*self.notes, *self.consequences)],
        }


def shown(text: str, limit: int = 500) -> str:
    """Untrusted text for a terminal or a report: control and invisible characters escaped, cut to `limit`."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return plain if len(text) <= limit else plain[:limit] + "..."


def reason(error: RecordError) -> str:
    """A record's error without the folder, which is temporary here, and without the advice."""
    text = str(error).split(" It is not counted;")[0]
    return text.split(": ", 1)[1] if text.startswith("Record ") and ": " in text else text


LONGEST = 2000
"""Largest number of characters of a text."""
_TAG = re.compile(r"<[a-z/!?]|javascript:|\]\(", re.IGNORECASE)
"""The start of an HTML tag or a Markdown link, which no name, note or parameter needs."""
_MARKUP = re.compile(r"[<>&\"`|\\$]|^[=@+-]")
"""Other characters with a meaning in HTML, Markdown, LaTeX or, at the start of a cell, in spreadsheets."""


def bad_names(documents: dict[str, Any]) -> Iterator[Problem]:
    """Refuses control and invisible characters, tags and links. Other markup is only reported, since boards show
    it escaped."""
    for file, document in documents.items():
        for where, text in _texts("", document):
            if not text.isprintable():
                yield "refuse", f"{file}: {where} has control or invisible characters: {text!r}"
            elif len(text) > LONGEST:
                yield "refuse", f"{file}: {where} has {len(text):,} characters; {LONGEST:,} are allowed"
            elif found := _TAG.search(text):
                yield "refuse", f"{file}: {where} has {found[0]!r}, the start of a tag or a link: {text}"
            elif found := _MARKUP.search(text):
                yield "look", f"{file}: {where} has {found[0]!r}, which is markup in some formats: {text}"


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


__all__ = ["CHECKS", "CheckResult", "Judge", "Level", "Problem", "Verdict", "bad_names", "reason", "shown"]
