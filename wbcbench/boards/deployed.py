"""Columns of deployed networks: the exported files of a board's rows, on the board's own test cells.

They decide nothing: ranks and ties are of the trained networks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from wbcbench.boards.board_statistics import SCALES, lead_interval
from wbcbench.boards.entries import Found
from wbcbench.boards.evaluated import Limits, Methods, complete, intervals
from wbcbench.boards.model import DeployedScore, Timing
from wbcbench.boards.options import Options
from wbcbench.boards.rows import estimate
from wbcbench.boards.samples import Clusters, Sample, clusters, load, pool
from wbcbench.boards.statistics import bootstrap, features, uncertainty
from wbcbench.boards.values import Values
from wbcbench.errors import RecordError
from wbcbench.evaluation.metrics import score
from wbcbench.records.deployed import KINDS, Deployed
from wbcbench.records.evaluations import Evaluated

Scores = dict[str, tuple[DeployedScore, ...]]
Read = Mapping[str, Evaluated[Deployed]]
"""Trial id -> its evaluation."""


def deployed(
    methods: Methods, names: Mapping[str, str], options: Options, judged: bool, board: Values
) -> tuple[Scores, list[str]]:
    """Method id -> its files' scores, one for each kind in which all of its networks were evaluated; and notes.

    Args:
        methods: records of each method.
        names: of the rows, by method id.
        options: of the board.
        judged: whether intervals are computed.
        board: the values of its records.
    """
    scores: Scores = {}
    notes: list[str] = []
    for kind in KINDS:
        whole, partly = complete(Deployed, kind, methods, names, notes)
        for method, read in whole.items():
            made = _score(kind, methods[method], read, options, judged, board)
            scores[method] = (*scores.get(method, ()), made)
        if partly:
            notes.append(
                f"Evaluated as {kind} in part and not shown: {', '.join(partly)}. "
                f"`wbcbench evaluate --deployed {kind}` completes it."
            )
    if scores:
        notes.append(
            "Deployed: exported files on the same test cells, used for no choice; change against the trained "
            "networks in brackets, with its interval over cells and seeds; latency of one cell with one thread."
        )
    return scores, notes


def _score(
    kind: str, records: Sequence[Found], read: Read, options: Options, judged: bool, board: Values
) -> DeployedScore:
    """The files' metric for each seed, of all its folds together as for the trained networks."""
    by = options.by
    values, errors = [], []
    for found in records:
        parts = [read[r.entry.trial_id] for r in found.records]
        p, labels = (np.concatenate(a) for a in zip(*((m.probabilities, m.labels) for m in parts), strict=True))
        metrics = score(p, labels, tuple(parts[0].document.classes)).summary
        values.append(board.of_cells(p, labels, by) if by in board.more else metrics[by])
        errors.append(metrics["ece"])
    before = [board.test(f, by) for f in records]
    value, trained = estimate(values), estimate(before)
    documents = [m.document for m in read.values()]
    devices = list(dict.fromkeys((d.device, d.threads) for d in documents))
    timing = Timing(device=" / ".join(dict.fromkeys(name for name, _ in devices)))
    if len(devices) == 1:
        batch = statistics.median(d.batch_ms for d in documents)
        latency = statistics.median(d.latency_ms for d in documents)
        timing = Timing(
            device=devices[0][0], threads=devices[0][1], latency_ms=latency, throughput=64 / batch * 1e3
        )
    made = DeployedScore(
        kind=kind,
        n=len(documents),
        value=value,
        change=None if value.mean is None or trained.mean is None else value.mean - trained.mean,
        ece=estimate(errors).mean,
        size=statistics.fmean(d.size for d in documents),
        timing=timing,
    )
    if not judged or made.change is None or by in board.more:
        return made
    networks = [[r.entry.digest, read[r.entry.trial_id].document.sha256] for f in records for r in f.records]
    pairs = np.array([values, before], dtype=np.float64)
    limits = intervals(
        [kind, by, networks], lambda: _limits(records, read, pairs, options), records[0].root, options
    )
    if not limits:
        return made
    (low, high), change = limits
    return made.model_copy(
        update={
            "value": value.model_copy(update={"low": low, "high": high}),
            "change_low": change[0],
            "change_high": change[1],
        }
    )


def _limits(records: Sequence[Found], read: Read, values: np.ndarray, options: Options) -> Limits:
    """Of the files' metric, and of its change; none if there are too few cells, or other ones.

    Both are over the same resamples of test cells as those of the board.

    Args:
        records: one of each seed.
        read: of all of them.
        values: [2, S], the metric of the files and of the trained networks.
        options: of the board.
    """
    by = options.by
    samples: list[Sample] = []
    try:
        for found in records:
            parts = [load(r, len(read[r.entry.trial_id].document.classes)) for r in found.records]
            if any(not np.array_equal(s.cells, read[s.found.entry.trial_id].cells) for s in parts):
                return ()
            samples.append(pool(parts, found) if found.folds else parts[0])
    except RecordError:
        return ()  # the row itself is refused for it
    over: Clusters = clusters(samples)
    if len({s.mark for s in samples}) > 1 or not over.enough:
        return ()
    files = [np.concatenate([read[r.entry.trial_id].probabilities for r in f.records]) for f in records]
    tables = [features(p, samples[0].labels, over.of, [by]) for p in (*files, *(s.probabilities for s in samples))]
    resampled = bootstrap(tables, [by], options.resamples, options.bootstrap_seed)[:, 0]
    if not np.isfinite(resampled).all():
        return ()
    now, was = np.split(resampled, 2)
    own = uncertainty(values[0], now, over.effective)
    limits = own.interval(scale=SCALES[by], limits=(0.0, options.widest))
    change = lead_interval(uncertainty(values[0] - values[1], now - was, over.effective), options)
    return () if any(math.isnan(v) for v in (*limits, *change)) else (limits, change)


__all__ = ["deployed"]
