"""A row as one flat mapping of typed values, for csv and parquet: full precision, nothing rounded for show."""

from __future__ import annotations

from typing import Any

from wbcbench.boards.model import METRIC_NAMES, Board, Difference, Row

_DIFFERENCE = ("value", "low", "high", "p", "beyond_noise", "against", "against_name")


def flat(row: Row, board: Board) -> dict[str, Any]:
    """Column -> str, int, float, bool or None; the same columns for every row."""
    t, s, m, teaching = row.timing, row.search, row.missing_modalities, row.teaching
    values: dict[str, Any] = {
        "board": board.digest, "dataset": board.key.dataset, "rank": row.rank, "tie_group": row.tie_group,
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
        "teacher_train_seconds": teaching.train_seconds if teaching else None,
        "teacher_macs": teaching.macs if teaching else None,
        "search_study": s.study if s else "", "search_trials": s.trials if s else None,
        "search_train_seconds": s.train_seconds if s else None,
        "worst_subset": "+".join(m.worst) if m else "", "worst_subset_macro_f1": m.worst_macro_f1 if m else None,
        "pseudo_multimodal": row.pseudo_multimodal, "provider": row.foreign,
        "components": "; ".join(f"{p.kind}={p.provider}/{p.name}@{p.version or '?'}" for p in row.parts),
        "records": " ".join(x.trial_id for x in row.sources), "digests": " ".join(x.digest for x in row.sources),
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
