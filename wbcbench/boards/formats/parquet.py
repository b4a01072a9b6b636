"""The table of `csv` as Parquet, typed; the boards' keys are in the file's metadata."""

from __future__ import annotations

import io
import json
from typing import Any

from wbcbench.boards.formats import View
from wbcbench.boards.formats.flat import flat
from wbcbench.boards.model import Report

_INTEGERS = frozenset({
    "rank", "tie_group", "n", "params", "macs", "threads", "teachers_trained", "teacher_macs",
    "search_trials",
})  # fmt: skip
_BOOLEANS = frozenset({"over_single_beyond_noise", "over_no_kd_beyond_noise", "pseudo_multimodal"})
_TEXT = frozenset({
    "board", "dataset", "status", "method", "method_id", "name", "fusion", "kd", "backbone",
    "backbone_differs", "policies", "teachers", "routing", "modalities", "seeds", "missing_seeds",
    "over_single_against",
    "over_single_against_name", "over_no_kd_against", "over_no_kd_against_name", "device", "search_study",
    "worst_subset", "provider", "components", "records", "digests",
})  # fmt: skip


def render(report: Report, view: View) -> bytes:
    """The bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [flat(row, board) for board in report.boards for row in board.rows]
    names = list(rows[0]) if rows else []
    fields = [(name, _type(pa, name)) for name in names]
    keys = {b.digest: b.key.model_dump(mode="json") for b in report.boards}
    metadata = {"wbcbench.keys": json.dumps(keys, sort_keys=True)}
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata=metadata))
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _type(pa: Any, name: str) -> Any:
    if name in _INTEGERS:
        return pa.int64()
    return pa.bool_() if name in _BOOLEANS else pa.string() if name in _TEXT else pa.float64()
