"""Examining trained networks: from a record to `evaluations/<trial>.json` beside the records."""

from __future__ import annotations

from typing import Any

import torch

from wbcbench.errors import RecordError, UsageError
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.evaluation.robustness import examine
from wbcbench.records.evaluations import examination_path, read_examination, write_examination
from wbcbench.records.store import Record
from wbcbench.training.wiring import load_fusion
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
    path = examination_path(bench.store.root, record.trial.id)
    if path.is_file():
        try:
            found = read_examination(path, record.result.digest)
            if found.whole:
                return found.entry
        except RecordError:
            pass  # made anew, over what cannot be trusted
    trial = record.trial
    cells, split = bench.resident(trial), bench.split(trial)
    test = torch.as_tensor(split.test, device=bench.device)
    entry: dict[str, Any] = {
        "version": EXAMINATION_VERSION,
        "trial_id": trial.id,
        "digest": record.result.digest,
        "method": trial.label,
        "kd": trial.method.kd,
        "policies": [p.name for p in trial.method.policies],
        "seed": trial.seed,
        "modalities": list(trial.reads),
        "result": examine(load_fusion(record, cells, bench), cells, test, trial.reads),
    }
    write_examination(path, entry)
    return entry
