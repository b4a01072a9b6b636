"""Columns of deployed networks: the exported files of a board's rows, on the board's own test cells.

They decide nothing: ranks and ties are of the trained networks.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from wbcbench.boards.entries import Found
from wbcbench.boards.model import DeployedScore, Timing
from wbcbench.boards.rows import estimate
from wbcbench.boards.values import Values
from wbcbench.errors import RecordError
from wbcbench.evaluation.metrics import score
from wbcbench.records.deployed import KINDS, Measured, deployed_path, read_deployed

Scores = dict[str, tuple[DeployedScore, ...]]


def deployed(
    methods: Mapping[str, Sequence[Found]], names: Mapping[str, str], by: str, board: Values
) -> tuple[Scores, list[str]]:
    """Method id -> its files' scores, one for each kind in which all of its networks were evaluated; and notes.

    Args:
        methods: records of each method.
        names: of the rows, by method id.
        by: the board's metric.
        board: the values of its records.
    """
    scores: Scores = {}
    notes: list[str] = []
    for kind in KINDS:
        partly = []
        for method, records in methods.items():
            every = [record for found in records for record in found.records]
            read = {r.entry.trial_id: m for r in every if (m := _read(r, kind, notes)) is not None}
            if len(read) == len(every):
                scores[method] = (*scores.get(method, ()), _score(kind, records, read, by, board))
            elif read:
                partly.append(f"{names[method]} ({len(read)} of {len(every)})")
        if partly:
            notes.append(
                f"Evaluated as {kind} in part and not shown: {', '.join(sorted(partly))}. "
                f"`wbcbench evaluate --deployed {kind}` completes it."
            )
    if scores:
        notes.append(
            "Deployed: exported files on the same test cells, used for no choice; change against the trained "
            "networks in brackets; latency of one cell with one thread."
        )
    return scores, notes


def _read(record: Found, kind: str, notes: list[str]) -> Measured | None:
    path = deployed_path(record.root, kind, record.entry.trial_id)
    if not path.is_file():
        return None
    try:
        return read_deployed(path, record.entry.digest)
    except RecordError as error:
        notes.append(f"Refused: {error} Its row shows nothing of {kind}.")
        return None


def _score(
    kind: str, records: Sequence[Found], read: Mapping[str, Measured], by: str, board: Values
) -> DeployedScore:
    """The files' metric for each seed, of all its folds together as for the trained networks."""
    values, errors = [], []
    for found in records:
        parts = [read[r.entry.trial_id] for r in found.records]
        p, labels = (np.concatenate(a) for a in zip(*((m.probabilities, m.labels) for m in parts), strict=True))
        metrics = score(p, labels, tuple(parts[0].document.classes)).summary
        values.append(board.of_cells(p, labels, by) if by in board.more else metrics[by])
        errors.append(metrics["ece"])
    value, trained = estimate(values), estimate([board.test(f, by) for f in records])
    documents = [m.document for m in read.values()]
    devices = list(dict.fromkeys((d.device, d.threads) for d in documents))
    timing = Timing(device=" / ".join(dict.fromkeys(name for name, _ in devices)))
    if len(devices) == 1:
        batch = statistics.median(d.batch_ms for d in documents)
        latency = statistics.median(d.latency_ms for d in documents)
        timing = Timing(
            device=devices[0][0], threads=devices[0][1], latency_ms=latency, throughput=64 / batch * 1e3
        )
    change = None if value.mean is None or trained.mean is None else value.mean - trained.mean
    size = statistics.fmean(d.size for d in documents)
    return DeployedScore(
        kind=kind,
        n=len(documents),
        value=value,
        change=change,
        ece=estimate(errors).mean,
        size=size,
        timing=timing,
    )


__all__ = ["deployed"]
