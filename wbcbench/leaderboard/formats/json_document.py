"""The whole report as JSON; `schema.json` beside `wbcbench/leaderboard/model.py` says what is in it."""

from __future__ import annotations

from typing import Any

from wbcbench.leaderboard.formats import View
from wbcbench.leaderboard.model import Report


def render(report: Report, view: View) -> bytes:
    """UTF-8, indented, no NaN."""
    return report.model_dump_json(indent=2).encode() + b"\n"


def schema() -> dict[str, Any]:
    """JSON schema of `Report`."""
    return Report.model_json_schema(mode="serialization") | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wbcbench leaderboard",
    }
