"""The whole report as JSON; `schema.json` beside `wbcbench/leaderboard/model.py` says what is in it."""

from __future__ import annotations

import json
from typing import Any

from wbcbench.leaderboard.formats import View
from wbcbench.leaderboard.model import Report


def render(report: Report, view: View) -> bytes:
    """UTF-8, indented, no NaN."""
    return (
        json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def schema() -> dict[str, Any]:
    """JSON schema of `Report`."""
    return Report.model_json_schema(mode="serialization") | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wbcbench leaderboard",
    }
