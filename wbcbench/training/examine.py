"""Examining trained networks: from a record to `evaluations/<trial>.json` beside the records."""

from __future__ import annotations

import json
from typing import Any

import torch

from wbcbench.errors import UsageError
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.evaluation.robustness import examine
from wbcbench.records.atomic import atomic_write_json
from wbcbench.records.spoilt import DOCUMENTS
from wbcbench.records.store import Record
from wbcbench.training.trial import load_fusion
from wbcbench.training.workbench import Workbench


def examined(record: Record, bench: Workbench) -> dict[str, Any]:
    """What `examine` finds in a record's network on its test split; read back where it was found before.

    The record itself stays as it is: an examination chooses nothing and may be made at any later time.
    """
    if record.trial.sealed:
        raise UsageError(
            f"Trial {record.trial.id} was proposed by a search and must not see the test split. Examine the "
            "winner, which is retrained."
        )
    path = bench.store.root / "evaluations" / f"{record.trial.id}.json"
    if path.is_file():
        try:
            entry: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, *DOCUMENTS):
            entry = {}
        if (
            isinstance(entry, dict)
            and entry.get("version") == EXAMINATION_VERSION
            and entry.get("digest") == record.result.digest
        ):
            return entry
    trial = record.trial
    cells, split = bench.resident(trial), bench.split(trial)
    test = torch.as_tensor(split.test, device=bench.device)
    entry = {
        "version": EXAMINATION_VERSION,
        "trial_id": trial.id,
        "digest": record.result.digest,
        "method": trial.label,
        "kd": trial.method.kd,
        "seed": trial.seed,
        "modalities": list(trial.reads),
        "result": examine(load_fusion(record, cells, bench), cells, test, trial.reads),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, entry)
    return entry
