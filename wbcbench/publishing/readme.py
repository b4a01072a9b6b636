"""The page that a visitor of a published board's folder reads first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wbcbench.leaderboard.columns import HEADERS
from wbcbench.leaderboard.formats import View, render
from wbcbench.leaderboard.model import Report
from wbcbench.leaderboard.text import markdown
from wbcbench.publishing.asked import Asked
from wbcbench.publishing.ledger import Named
from wbcbench.publishing.pack import Manifest
from wbcbench.publishing.unpack import Unpacked
from wbcbench.spec.canonical import flat


def readme(
    found: Report,
    asked: Asked,
    name: str,
    store: Unpacked,
    manifest: Manifest,
    ledger: Iterable[Named],
    invalid: Mapping[str, str],
) -> bytes:
    """Markdown, UTF-8.

    Args:
        found: what is published.
        asked: what was asked for.
        name: of the folder.
        store: the records.
        manifest: of the pack that they came in.
        ledger: every record that was ever published here.
        invalid: trial id or digest -> why it is struck out.
    """
    by = HEADERS[asked.by]
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
    """Trial id and line of the table, of every published record that is struck out."""
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
    """What the boards have in common, and a table of what they have not."""
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


def _made(asked: Asked, name: str, store: Unpacked, manifest: Manifest) -> list[str]:
    """The command, and where the records were trained."""
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


__all__ = ["readme"]
