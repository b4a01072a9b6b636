"""What a search optimises: validation metrics, and what a method costs. Never the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from wbcbench.errors import UsageError, did_you_mean
from wbcbench.records.store import Record
from wbcbench.spec.trial import Frozen

COSTS = {"params": False, "macs": False, "latency_ms": False, "throughput": True, "train_seconds": False}
"""Fields of a record's cost -> whether higher is better."""
_ALIASES = {"latency": "latency_ms", "flops": "macs", "f1": "macro_f1", "balanced_acc": "balanced_accuracy"}


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    from wbcbench.evaluation.metrics import METRICS

    if not names or not set(names) <= {*METRICS, *COSTS} or len(set(names)) < len(names):
        raise ValueError("expected one or more different metrics or costs")
    return names


class Objective(Frozen):
    """One or several quantities, each with its direction."""

    names: Annotated[tuple[str, ...], AfterValidator(_known)] = ("macro_f1",)

    @classmethod
    def parse(cls, text: str) -> Objective:
        """From `macro_f1` or `macro_f1,macs`. Raises `UsageError` for an unknown or repeated name."""
        from wbcbench.evaluation.metrics import METRICS

        names = tuple(_ALIASES.get(n.strip(), n.strip()) for n in text.split(",") if n.strip())
        known = [*METRICS, *COSTS]
        for name in names:
            if name not in known:
                raise UsageError(
                    f"--objective {name}: expected a validation metric or a cost.{did_you_mean(name, known)} "
                    f"There are: {', '.join(known)}."
                )
        if not names or len(set(names)) < len(names):
            raise UsageError(f"Expected --objective as one or more different names, but got '{text}'.")
        return cls(names=names)

    @property
    def several(self) -> bool:
        return len(self.names) > 1

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Optuna's words, one per name."""
        from wbcbench.evaluation.metrics import METRICS

        higher = {**{k: m.higher_is_better for k, m in METRICS.items()}, **COSTS}
        return ["maximize" if higher[n] else "minimize" for n in self.names]

    @property
    def per_epoch(self) -> bool:
        """Whether an epoch's history shows the objective, so that a pruner can judge by it."""
        return not self.several and self.names[0] not in COSTS

    def values(self, record: Record) -> list[float] | None:
        """The record's values, from validation cells and cost; None if one is undefined or not finite."""
        cost, val = record.result.cost, record.result.metrics["val"]
        found: list[float] = []
        for name in self.names:
            value = getattr(cost, name) if name in COSTS else val[name]
            if value is None or not math.isfinite(value):
                return None
            found.append(float(value))
        return found

    def at_epoch(self, row: Mapping[str, Any]) -> float | None:
        """The value in one row of history; None if it has none that is finite."""
        value = row.get(f"val_{self.names[0]}")
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
