"""Can the gain by distillation be forecast before it is run? Learnt from our boards, tested on a board left out.

    python tests/benchmarks/forecast.py

For every taught record of the published boards: the gain in test macro-F1 over its untaught twin (same fusion,
backbone, policies, cells and seed), and what is known before the student is trained: by how much its teachers
lead on validation cells, how often they agree with the twin, their calibration, how much of what they see the
student sees too. A board is forecast by a model of the other boards. The forecast enters `wbcbench run` only if
its error is below that of "no gain" on every board, which it is not.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import wbcbench

BOARDS = Path(__file__).parents[2] / "leaderboards"
MODELS: dict[str, Any] = {
    "ridge": lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 3, 12))),
    "forest": lambda: RandomForestRegressor(300, min_samples_leaf=5, random_state=0, n_jobs=1),
}


def twin(record: Any) -> tuple[str, ...]:
    """Equal for a taught record and the untaught one that it is compared with."""
    m = record.trial.method
    protocol = record.trial.protocol.model_dump_json(exclude={"selection"})
    return (protocol, str(m.fusion), str(m.backbone), str(m.policies), str(record.trial.seed))


def features(teachers: list[Any], untaught: Any) -> list[float]:
    """What is known before the student is trained, all on validation cells."""
    labels, own = (untaught.predictions[f"val_{k}"] for k in ("labels", "probabilities"))
    said = np.mean([t.predictions["val_probabilities"] for t in teachers], 0)
    scores = [t.result.metrics["val"]["macro_f1"] for t in teachers]
    level = untaught.result.metrics["val"]["macro_f1"]
    seen = {m for t in teachers for m in t.trial.reads}
    right = np.clip(said[np.arange(len(labels)), labels], 1e-7, 1)
    return [
        max(scores) - level, float(np.mean(scores)) - level, level,
        float((said.argmax(1) == own.argmax(1)).mean()),
        abs(float(said.max(1).mean() - (said.argmax(1) == labels).mean())), float(-np.log(right).mean()),
        len(seen & set(untaught.trial.reads)) / len(seen),
    ]  # fmt: skip


def main() -> None:
    """Print each board's error by a model of the others, beside the error of "no gain" and of the mean gain."""
    rows: dict[str, list[tuple[list[float], float]]] = defaultdict(list)
    for folder in sorted(p for p in BOARDS.iterdir() if (p / "records.zip").is_file()):
        records = wbcbench.load_records(folder)
        known = {r.trial.id: r for r in records}
        untaught = {twin(r): r for r in records if not r.trial.method.distillers}
        for record in records:
            teachers = [known.get(t.id) for t in record.trial.method.teachers]
            base = untaught.get(twin(record))
            if not teachers or base is None or None in teachers:
                continue
            gain = record.result.metrics["test"]["macro_f1"] - base.result.metrics["test"]["macro_f1"]
            board = f"{record.trial.protocol.fingerprint[:6]} {'+'.join(record.trial.protocol.modalities)}"
            rows[board].append((features(teachers, base), gain))
    print(f"{'board':42} {'n':>4} {'no gain':>8} {'mean':>8}", *(f"{name:>8}" for name in MODELS))
    for board, own in rows.items():
        others = [row for name, found in rows.items() if name != board for row in found]
        x, y = (np.array(part) for part in zip(*others, strict=True))
        at, gains = (np.array(part) for part in zip(*own, strict=True))
        forecasts = {"no gain": 0.0, "mean": y.mean()}
        forecasts |= {name: make().fit(x, y).predict(at) for name, make in MODELS.items()}
        errors = [float(np.sqrt(((gains - f) ** 2).mean())) for f in forecasts.values()]
        print(f"{board:42} {len(own):4}", *(f"{e:8.4f}" for e in errors))


if __name__ == "__main__":
    main()
