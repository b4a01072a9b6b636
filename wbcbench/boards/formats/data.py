"""Formats for programs: every row with typed values at full precision, independent of `View`."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from wbcbench.boards.formats import View
from wbcbench.boards.model import METRIC_NAMES, Board, Difference, Estimate, Report, Row
from wbcbench.boards.text import spreadsheet
from wbcbench.records.deployed import KINDS


def render_json(report: Report, view: View) -> bytes:
    """The whole report: UTF-8, indented, no NaN. `wbcbench/boards/schema.json` is its schema."""
    # Straight to bytes: a large store gives a few hundred MiB, which a string would double.
    data: bytes = type(report).__pydantic_serializer__.to_json(report, indent=2)
    return data + b"\n"


def schema() -> dict[str, Any]:
    """JSON schema of `Report`."""
    return Report.model_json_schema(mode="serialization") | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wbcbench leaderboard",
    }


def render_csv(report: Report, view: View) -> bytes:
    """One table of all boards, UTF-8; missing values are empty, and text that looks like a formula is escaped."""
    rows = _rows(report)
    if not rows:
        return b""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(spreadsheet, rows[0]))
    writer.writerows([_csv_cell(v) for v in row.values()] for row in rows)
    return out.getvalue().encode()


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return spreadsheet(value) if isinstance(value, str) else repr(value)


_INTEGERS = frozenset({
    "rank", "n", "params", "macs", "threads", "teachers_trained", "teacher_sets", "teacher_macs",
    "search_trials",
})  # fmt: skip
_BOOLEANS = frozenset({"over_single_beyond_noise", "over_no_kd_beyond_noise", "pseudo_multimodal", "among_best"})
_TEXT = frozenset({
    "board", "dataset", "status", "method", "method_id", "name", "fusion", "kd", "backbone",
    "backbone_differs", "policies", "teachers", "routing", "modalities", "seeds", "missing_seeds",
    "over_single_against",
    "over_single_against_name", "over_no_kd_against", "over_no_kd_against_name", "device", "search_study",
    "teacher_scores", "gradient_ratios", "levelled", "worst_subset", "provider", "components",
    "records", "digests", "standing",
})  # fmt: skip


def render_parquet(report: Report, view: View) -> bytes:
    """The table of `render_csv` as Parquet, typed; the boards' keys are in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _rows(report)
    names = list(rows[0]) if rows else []
    fields = [(name, _parquet_type(pa, name)) for name in names]
    keys = {b.digest: b.key.model_dump(mode="json") for b in report.boards}
    metadata = {"wbcbench.keys": json.dumps(keys, sort_keys=True)}
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata=metadata))
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _parquet_type(pa: Any, name: str) -> Any:
    measured = name.startswith(("external ", *(f"{kind} " for kind in KINDS)))
    if name in _INTEGERS or (measured and name.endswith((" n", " cells", " groups"))):
        return pa.int64()
    return pa.bool_() if name in _BOOLEANS else pa.string() if name in _TEXT else pa.float64()


def _rows(report: Report) -> list[dict[str, Any]]:
    rows = [_flat(row, board) for board in report.boards for row in board.rows]
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


_DIFFERENCE = ("value", "low", "high", "p", "p_holm", "beyond_noise", "against", "against_name")


def _flat(row: Row, board: Board) -> dict[str, Any]:
    """A row as column -> str, int, float, bool or None; the same columns for every row."""
    t, s, m, teaching, v = row.timing, row.search, row.missing_modalities, row.teaching, row.levelled
    values: dict[str, Any] = {
        "board": board.digest, "dataset": board.key.dataset, "rank": row.rank, "among_best": row.among_best,
        "status": row.status, "method": row.method, "method_id": row.method_id, "name": row.name,
        "fusion": row.fusion, "kd": row.kd, "backbone": row.backbone,
        "backbone_differs": row.backbone_differs, "policies": "+".join(row.policies),
        "teachers": "+".join(row.teacher_backbones), "routing": row.routing or "",
        "modalities": "+".join(row.modalities), "n": row.n, "seeds": _joined(row.seeds),
        "missing_seeds": _joined(row.missing_seeds),
    }  # fmt: skip
    for name in METRIC_NAMES:
        e = row.metrics[name]
        values |= {name: e.mean, f"{name}_sd": e.sd, f"{name}_low": e.low, f"{name}_high": e.high}
    for name, difference in (("over_single", row.over_single), ("over_no_kd", row.over_no_kd)):
        values |= _difference(name, difference)
    values |= {
        "params": row.params, "macs": row.macs, "latency_ms": t.latency_ms, "throughput": t.throughput,
        "device": t.device, "threads": t.threads, "train_seconds": row.train_seconds,
        "teachers_trained": teaching.teachers if teaching else None,
        "teacher_sets": teaching.sets if teaching else None,
        "teacher_scores": " ".join(f"{s.name}={s.mean:.6g}" for s in teaching.scores) if teaching else "",
        "gradient_ratios": " ".join(f"{n}={a:g}..{b:g}" for n, (a, b) in row.pulls.items()),
        "teacher_train_seconds": teaching.train_seconds if teaching else None,
        "teacher_macs": teaching.macs if teaching else None,
        "search_study": s.study if s else "", "search_trials": s.trials if s else None,
        "search_train_seconds": s.train_seconds if s else None,
        "levelled": v.verdict if v else "", "levelled_change": v.change if v else None,
        "levelled_error": v.error if v else None,
        **dict(zip(("val_half", "val_three_quarters", "val_end"), (v and v.best) or (None,) * 3, strict=True)),
        "worst_subset": "+".join(m.worst) if m else "", "worst_subset_macro_f1": m.worst_macro_f1 if m else None,
        "pseudo_multimodal": row.pseudo_multimodal, "provider": row.foreign,
        "components": "; ".join(f"{p.kind}={p.provider}/{p.name}@{p.version or '?'}" for p in row.parts),
        "records": " ".join(x.trial_id for x in row.sources), "digests": " ".join(x.digest for x in row.sources),
    }  # fmt: skip
    for more in board.more_metrics:
        e, name = row.metrics[more.name], more.name
        values |= {name: e.mean, f"{name}_sd": e.sd, f"{name}_low": e.low, f"{name}_high": e.high}
    for other in board.external:
        score = next((x for x in row.external if x.set == other.id), None)
        f1 = Estimate() if score is None else score.macro_f1
        name = f"external {other.name}"
        for count in ("n", "cells", "groups"):
            values[f"{name} {count}"] = None if score is None else getattr(score, count)
        values |= {
            f"{name} macro_f1": f1.mean, f"{name} macro_f1_sd": f1.sd, f"{name} macro_f1_low": f1.low,
            f"{name} macro_f1_high": f1.high,
        }  # fmt: skip
    if any(r.standing for r in board.rows):
        values["standing"] = row.standing
    for kind in dict.fromkeys(d.kind for r in board.rows for d in r.deployed):
        file = next((d for d in row.deployed if d.kind == kind), None)
        value = Estimate() if file is None else file.value
        values |= {
            f"{kind} n": file and file.n, f"{kind} {board.by}": value.mean, f"{kind} {board.by}_sd": value.sd,
            f"{kind} {board.by}_low": value.low, f"{kind} {board.by}_high": value.high,
            f"{kind} change": file and file.change, f"{kind} change_low": file and file.change_low,
            f"{kind} change_high": file and file.change_high, f"{kind} ece": file and file.ece,
            f"{kind} size": file and file.size, f"{kind} latency_ms": file and file.timing.latency_ms,
            f"{kind} throughput_64": file and file.timing.throughput,
        }  # fmt: skip
    return values


def _difference(name: str, difference: Difference | None) -> dict[str, Any]:
    return {
        (name if field == "value" else f"{name}_{field}"): None
        if difference is None
        else getattr(difference, field)
        for field in _DIFFERENCE
    }


def _joined(seeds: tuple[int, ...]) -> str:
    return " ".join(map(str, seeds))
