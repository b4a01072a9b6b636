"""The whole report as JSON; `schema.json` beside `wbcbench/boards/model.py` says what is in it."""

from __future__ import annotations

from typing import Any

from wbcbench.boards.formats import View
from wbcbench.boards.model import Report


def render(report: Report, view: View) -> bytes:
    """UTF-8, indented, no NaN."""
    # as bytes at once: of a large store they are a few hundred MiB, and text would double them
    data: bytes = type(report).__pydantic_serializer__.to_json(report, indent=2)
    return data + b"\n"


def schema() -> dict[str, Any]:
    """JSON schema of `Report`."""
    return Report.model_json_schema(mode="serialization") | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wbcbench leaderboard",
    }
