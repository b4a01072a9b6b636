"""Files of a published board: `protocol.json` (options), `records.txt` (all records it ever had), `README.md`."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from wbcbench.boards.columns import header
from wbcbench.boards.formats import View, render
from wbcbench.boards.model import Board, Report
from wbcbench.boards.options import Options, read_invalid
from wbcbench.boards.text import markdown
from wbcbench.errors import RecordError, UsageError
from wbcbench.publishing.pack import Manifest
from wbcbench.publishing.unpack import Unpacked
from wbcbench.records.schema import ComparisonKey, Strict
from wbcbench.spec.trial import flat

PROTOCOL, INVALID = "protocol.json", "invalid.yaml"


class PublishOptions(Strict):
    """The options of a published board."""

    schema_version: Literal[1] = 1
    title: str = Field(min_length=1, max_length=200)
    by: str = "macro_f1"
    seeds: tuple[int, ...] | None = None
    keys: tuple[str, ...] = ()
    where: dict[str, str] = {}
    resamples: int = 10_000
    board_seeds: dict[str, tuple[int, ...]] = {}
    """Digest of a board's key -> the seeds that it was first published with, which it keeps if `seeds` is None: a
    later row with more seeds must not make the other rows incomplete."""

    def options(self, **more: object) -> Options:
        """As `Options` of `report`."""
        return Options(by=self.by, seeds=self.seeds, board_seeds=self.board_seeds, keys=self.keys,
                       where=self.where, resamples=self.resamples, verify="full", **more)  # type: ignore[arg-type]  # fmt: skip

    def keeping(self, boards: Iterable[Board]) -> PublishOptions:
        """The same options, with the seeds of these boards fixed from now on, unless seeds were requested."""
        kept = {} if self.seeds is not None else {b.digest: b.seeds for b in boards} | self.board_seeds
        return self.model_copy(update={"board_seeds": dict(sorted(kept.items()))})


class ProtocolFile(PublishOptions):
    """`protocol.json`: the options, and the comparison keys of the boards."""

    boards: dict[str, ComparisonKey] = {}
    """By digest."""


def read_publish_options(folder: Path) -> PublishOptions:
    """The options of a published board. Raises `UsageError`."""
    try:
        protocol = ProtocolFile.model_validate_json((folder / PROTOCOL).read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"Expected a published board in {folder}, but {PROTOCOL} cannot be read ({error}). "
            "`wbcbench leaderboard publish --name NAME --store STORE` creates one."
        ) from error
    return PublishOptions.model_validate(protocol.model_dump(exclude={"boards"}))


def invalid_beside(folder: Path) -> dict[str, str]:
    """The records struck out by the `invalid.yaml` next to a board's folder: trial id or digest -> reason."""
    path = folder.parent / INVALID
    return read_invalid(path) if path.is_file() else {}


LEDGER = "records.txt"
_HEAD = "# trial id, digest of its predictions and weights: every record that this board was made from\n"
_LINE = re.compile(r"([0-9a-f]{16})  ([0-9a-f]{64})")

Named = tuple[str, str]
"""Trial id and digest."""


def ledger_text(records: Iterable[Named]) -> bytes:
    """The content of `records.txt` for these records."""
    return (_HEAD + "".join(f"{trial}  {digest}\n" for trial, digest in sorted(set(records)))).encode()


def read_ledger(folder: Path) -> set[Named]:
    """The records in a board's `records.txt`; none without this file. Raises `RecordError` for an invalid line."""
    path = folder / LEDGER
    if not path.is_file():
        return set()
    found = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            match = _LINE.fullmatch(line)
            if match is None:
                raise RecordError(f"{LEDGER} has a line that is not a trial id and a digest: {line[:80]!r}.")
            found.add((match[1], match[2]))
    return found


def once_published(folder: Path) -> set[Named]:
    """All records that `records.txt` files in or under a folder ever had, from the git history.

    Empty without git, without a repository, or without history (in a shallow clone).
    """
    command = ["git", "-C", str(folder), "log", "-m", "-p", "--format=", "--unified=0", "--no-ext-diff",
               "--no-textconv", "--no-color", "--", f":(glob)**/{LEDGER}"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return set()
    found = (_LINE.fullmatch(line[1:]) for line in done.stdout.splitlines() if line[:1] in ("+", "-"))
    return {(m[1], m[2]) for m in found if m is not None}


def vanished(ledger: Iterable[Named], there: Iterable[Named], invalid: Mapping[str, str]) -> list[Named]:
    """Records that were published, are missing now, and are not struck out."""
    known = set(there)
    return sorted(r for r in set(ledger) - known if r[0] not in invalid and r[1] not in invalid)


def readme(
    found: Report,
    asked: PublishOptions,
    name: str,
    store: Unpacked,
    manifest: Manifest,
    ledger: Iterable[Named],
    invalid: Mapping[str, str],
) -> bytes:
    """Markdown, UTF-8.

    Args:
        found: the boards that are published.
        asked: their options.
        name: of the folder.
        store: the records.
        manifest: of the pack of these records.
        ledger: all records that were ever published here.
        invalid: trial id or digest -> why it is struck out.
    """
    by = header(asked.by)
    rows = sum(len(b.rows) for b in found.boards)
    struck = list(_struck(store, manifest, ledger, invalid, asked.by))
    others = [r for r in found.refused if not any(r.record == trial for trial, _ in struck)]
    lines = [
        f"# {markdown(asked.title)}",
        "",
        f"{rows} rows from {len(manifest.records)} records (teachers included), ranked by {by}. "
        "[index.html](index.html) is the same to sort, filter and look into (download it; it needs no network), "
        "`board.csv` and `board.json` hold every digit.",
        "",
        render(found, "markdown", View()).decode().strip(),
        "",
    ]
    if struck:
        lines += ["## Struck out", "", "These records do not count, and are kept.", "",
                  "| method | seed | record | " + by + " | reason |", "| --- | --- | --- | --- | --- |",
                  *(line for _, line in struck), ""]  # fmt: skip
    if others:
        lines += ["## Left out", "", *(f"- `{markdown(r.record)}` {markdown(r.reason)}" for r in others), ""]
    lines += ["## Protocol", "", *_protocol(found, store), ""]
    lines += ["## How it was made", "", *_made(asked, name, store, manifest), ""]
    lines += [
        "## Check it",
        "",
        "Every number is a function of `records.zip`: specifications, per-cell predictions and histories, no "
        "weights, no code. This makes the files again, on any machine and without the networks. It names any file "
        "that differs, and any record of `records.txt` that vanished:",
        "",
        f"    wbcbench leaderboard publish --check --name {name}",
        "",
        "Timings, costs and the files in `evaluations/` were measured where the networks ran and cannot be "
        "recomputed. `wbcbench leaderboard verify records.zip` says what was checked of each record; with "
        "`--rerun` it trains one seed again.",
        "",
    ]
    return "\n".join(lines).encode()


def _struck(
    store: Unpacked, manifest: Manifest, ledger: Iterable[Named], invalid: Mapping[str, str], by: str
) -> Iterator[Named]:
    """Trial id and table row of every published record that is struck out."""
    for trial, digest in sorted(ledger):
        reason = invalid.get(trial) or invalid.get(digest)
        if reason is None:
            continue
        method, seed, score = "?", "", ""
        if manifest.records.get(trial) == digest:
            result = store.load(trial).result
            method, seed = f"~~{markdown(result.title)}~~", str(result.seed)
            value = result.metrics["test"][by]
            score = "" if value is None else f"~~{value:.3f}~~"
        yield trial, f"| {method} | {seed} | `{trial}` `{digest[:12]}` | {score} | {markdown(reason)} |"


def _protocol(found: Report, store: Unpacked) -> list[str]:
    """A list of what the boards have in common, and a table of their differences."""
    boards = []
    for board in found.boards:
        split = store.load(board.rows[0].sources[0].trial_id).trial.protocol.split
        key = _flat(board.key.model_dump(mode="json") | {"division": split.model_dump(mode="json")})
        boards.append({"key": board.digest, "seeds": ", ".join(map(str, board.seeds)), **key})
    if not boards:
        return ["No board."]
    names = list(dict.fromkeys(n for b in boards for n in b))
    same = [n for n in names if len({b.get(n) for b in boards}) == 1]
    differ = [n for n in names if n not in same]
    lines = [f"- {n}: {markdown(boards[0][n])}" for n in same]
    if differ:
        lines += ["", "| board | " + " | ".join(str(i + 1) for i in range(len(boards))) + " |",
                  "| --- |" + " --- |" * len(boards)]  # fmt: skip
        lines += [f"| {n} | " + " | ".join(markdown(b.get(n, "")) for b in boards) + " |" for n in differ]
    return lines


def _flat(document: dict[str, Any]) -> dict[str, str]:
    return {n: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for n, v in flat(document)}


def _made(asked: PublishOptions, name: str, store: Unpacked, manifest: Manifest) -> list[str]:
    """The command, and the environments in which the records were trained."""
    words = ["wbcbench leaderboard publish", f"--name {name}", "--store STORE"]
    words += [f"--by {asked.by}"] if asked.by != "macro_f1" else []
    words += [f"--seeds {','.join(map(str, asked.seeds))}"] if asked.seeds else []
    words += [f"--key {key}" for key in asked.keys] + [f"--where {k}={v}" for k, v in asked.where.items()]
    words += [f"--resamples {asked.resamples}"] if asked.resamples != 10_000 else []
    where: Counter[str] = Counter()
    for trial in manifest.records:
        environment = json.loads((store.record_path(trial) / "env.json").read_bytes())
        packages = environment.get("packages") or {}
        versions = [f"{p} {packages[p]}" for p in ("wbcbench", "torch", "timm", "numpy") if p in packages]
        device = environment.get("device") or store.load(trial).result.cost.device
        where[f"{', '.join(versions) or 'unknown versions'}, on {device}"] += 1
    lines = ["    " + " ".join(words), ""]
    lines += [f"- {count} records: {markdown(text)}" for text, count in sorted(where.items())]
    return lines


__all__ = [
    "INVALID",
    "LEDGER",
    "PROTOCOL",
    "Named",
    "ProtocolFile",
    "PublishOptions",
    "invalid_beside",
    "ledger_text",
    "once_published",
    "read_ledger",
    "read_publish_options",
    "readme",
    "vanished",
]
