"""Records -> boards: one per comparison key, one row per method, seeds folded. A pure function."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from wbcbench.records.schema import ComparisonKey, backbone_name
from wbcbench.records.store import Record

METRIC_COLUMNS = ("macro_f1", "balanced_accuracy", "accuracy", "auroc", "nll", "ece")
RANKED_BY = "macro_f1"
BUILT_IN = frozenset({"wbcbench", "builtin", "built-in"})
"""Providers that need no mention."""

COLUMNS = (
    "rank", "status", "method", "method_id", "policies", "kd", "backbone", "teachers", "routing", "n",
    "seeds",
    *(column for metric in METRIC_COLUMNS for column in (metric, f"{metric}_sd")),
    "params", "macs", "pseudo_multimodal", "provider",
)  # fmt: skip
_STATUS_ORDER = {"ranked": 0, "reference": 1, "incomplete": 2}


@dataclass(frozen=True)
class Board:
    """One table: everything in it shares one comparison key."""

    key: ComparisonKey
    rows: pd.DataFrame
    """Columns `COLUMNS`. `status` is `ranked`, `reference` (one modality of the board's, unranked) or
    `incomplete` (fewer seeds than the most complete method, unranked). `<metric>` is the mean over
    seeds, `<metric>_sd` the standard deviation (ddof=1); a missing number is NaN."""


def boards(records: Iterable[Record]) -> list[Board]:
    """Sort records into boards, largest first. Sealed records, which searches leave, are passed over.

    A `single` record that reads fewer modalities than a board, and whose key is otherwise equal, is a
    reference row there. A board of nothing but such records is left out, as they stand elsewhere.
    """
    by_key: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.result.status != "sealed":
            by_key[record.result.key.digest].append(record)
    groups = [(group[0].result.key, group) for group in by_key.values()]

    made = []
    for key, group in groups:
        hosts = [other for other, _ in groups if _refers(key, other)]
        if hosts and all(r.result.fusion == "single" for r in group):
            continue
        references = [r for other, g in groups if _refers(other, key) for r in g if r.result.fusion == "single"]
        made.append(Board(key, _rows(group, references)))
    return sorted(made, key=lambda b: (-len(b.rows), b.key.dataset, b.key.digest))


def _refers(small: ComparisonKey, large: ComparisonKey) -> bool:
    """Whether `small` reads a strict subset of `large`'s modalities and is equal in all else."""
    if not set(small.modalities) < set(large.modalities):
        return False
    return small.model_copy(update={"modalities": large.modalities}) == large


def _rows(group: list[Record], references: list[Record]) -> pd.DataFrame:
    own, others = _by_method(group), _by_method(references)
    most = max((len(g) for g in own), default=0)
    rows = [_row(g, "ranked" if len(g) == most else "incomplete") for g in own]
    rows += [_row(g, "reference") for g in others]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    ranked = table["status"] == "ranked"
    # Equal means share a rank; a rank exists only among rows with the same number of seeds.
    table["rank"] = table[RANKED_BY].where(ranked).rank(method="min", ascending=False).astype("Int64")
    table["_order"] = table["status"].map(_STATUS_ORDER)
    table = table.sort_values(
        ["_order", RANKED_BY, "method", "method_id"], ascending=[True, False, True, True], kind="stable"
    )
    return table.drop(columns="_order").reset_index(drop=True)


def _by_method(records: list[Record]) -> list[list[Record]]:
    """Records of each method, one per seed, in order of seed."""
    groups: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in sorted(records, key=lambda r: r.result.trial_id):
        # The same trial may lie in two stores; a seed counts once.
        groups[record.result.method_id].setdefault(record.result.seed, record)
    return [[seeds[s] for s in sorted(seeds)] for seeds in groups.values()]


def _row(records: list[Record], status: str) -> dict[str, Any]:
    first = records[0]
    r, method = first.result, first.trial.method
    row: dict[str, Any] = {
        "rank": None, "status": status, "method": _label(r.fusion, r.key.modalities),
        "method_id": r.method_id, "policies": "+".join(r.policies), "kd": r.kd, "backbone": r.backbone,
        "teachers": "+".join(dict.fromkeys(backbone_name(t.method.backbone) for t in method.teachers)),
        "routing": r.routing or "", "n": len(records), "seeds": [x.result.seed for x in records],
    }  # fmt: skip
    for metric in METRIC_COLUMNS:
        values = [x.result.metrics["test"][metric] for x in records]
        # A mean over some of the seeds would not be comparable, so one undefined value blanks it.
        defined = pd.Series([v for v in values if v is not None], dtype=float)
        whole = len(defined) == len(values)
        row[metric] = defined.mean() if whole else float("nan")
        row[f"{metric}_sd"] = defined.std(ddof=1) if whole else float("nan")
    foreign = sorted({c.provider for x in records for c in x.result.components} - BUILT_IN)
    return row | {
        "params": r.cost.params,
        "macs": r.cost.macs,
        "pseudo_multimodal": any(x.result.pseudo_multimodal for x in records),
        "provider": ", ".join(foreign),
    }


def _label(fusion: str, modalities: tuple[str, ...]) -> str:
    return f"{fusion}[{'+'.join(modalities)}]" if fusion == "single" or len(modalities) == 1 else fusion


__all__ = ["BUILT_IN", "COLUMNS", "METRIC_COLUMNS", "RANKED_BY", "Board", "boards"]
