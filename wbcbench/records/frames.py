"""Records and their epoch histories as pandas frames."""

from __future__ import annotations

import csv
import math
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.errors import UsageError
from wbcbench.evaluation.levelling import Curve, curve
from wbcbench.records.verify import refuse

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.records.store import Record


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of a record's `history.csv`, by epoch, without values that are missing or not numbers.

    Raises:
        OSError: the file is missing. (A verified record has one.)
    """
    with open(folder / "history.csv", encoding="utf-8", newline="") as file:
        return [_numbers(row) for row in csv.DictReader(file)]


def validation(text: str, metric: str) -> Curve | None:
    """The summary of the metric's validation values in the text of a `history.csv`; None if there are too few."""
    rows = csv.reader(text.splitlines())
    try:
        at = next(rows, []).index(f"val_{metric}")
        values = [float(row[at]) for row in rows if row[at]]
    except (ValueError, IndexError, csv.Error):
        return None
    return curve(values, metric) if all(map(math.isfinite, values)) else None


def _numbers(row: dict[str, str]) -> dict[str, float]:
    found = {}
    for name, text in row.items():
        try:
            found[name] = float(text)
        except (TypeError, ValueError):
            continue
    return found


_PLAIN = ("trial_id", "method_id", "label", "fusion", "kd", "backbone", "routing", "seed", "dataset", "status",
          "pseudo_multimodal", "selected_epoch", "started", "ended")  # fmt: skip


def flat(record: Record) -> dict[str, Any]:
    """One row: the record's identity, `board` (digest of its comparison key), metrics as `test_macro_f1`, costs as
    `cost_params`, `policies` and `modalities` joined by `+`, and its path."""
    result = record.result
    row: dict[str, Any] = {"method" if n == "label" else n: getattr(result, n) for n in _PLAIN}
    row |= {"policies": "+".join(result.policies), "modalities": "+".join(record.trial.reads)}
    row |= {"board": result.key.digest}
    for side, summary in sorted(result.metrics.items()):
        row |= {f"{side}_{name}": value for name, value in summary.items()}
    row |= {f"cost_{name}": value for name, value in result.cost.model_dump().items()}
    return row | {"path": str(record.path)}


def cells(record: Record, side: Literal["test", "val"] = "test") -> pd.DataFrame:
    """One row per cell of a split: `cell` (its index in the data set), `label`, `predicted`, `correct`,
    `p_<class>` and, for test cells, `<route>_p_<class>` per route, and `group` if groups are known.

    Raises:
        UsageError: the record does not have the split (a search's proposal has no test predictions).
    """
    import pandas as pd

    arrays, classes = record.predictions, record.result.key.classes
    if f"{side}_labels" not in arrays:
        there = sorted(n.removesuffix("_labels") for n in arrays if n.endswith("_labels"))
        raise UsageError(f"Expected one of {', '.join(there)}, the splits of this record, but got '{side}'.")
    labels, p = arrays[f"{side}_labels"], arrays[f"{side}_probabilities"]
    frame = {
        "cell": arrays[f"{side}_cells"],
        "label": pd.Categorical.from_codes(labels, pd.Index(classes)),
        "predicted": pd.Categorical.from_codes(p.argmax(axis=1), pd.Index(classes)),
        "correct": p.argmax(axis=1) == labels,
    }
    frame |= {f"p_{name}": p[:, k] for k, name in enumerate(classes)}
    if side == "test":
        for array, q in sorted(arrays.items()):
            if array.startswith("test_route_"):
                route = array.removeprefix("test_route_")
                frame |= {f"{route}_p_{name}": q[:, k] for k, name in enumerate(classes)}
        if "test_groups" in arrays:
            frame["group"] = arrays["test_groups"]
    return pd.DataFrame(frame)


def history(record: Record) -> pd.DataFrame:
    """One row per epoch, from `history.csv`. Raises `RecordError` if it cannot be read."""
    import pandas as pd

    try:
        return pd.read_csv(record.path / "history.csv")
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise refuse(record.path, "history.csv", f"cannot be read ({error})") from error


def summary_text(record: Record) -> str:
    """Text for a console: the record's title, one line of metrics per split, and its path."""
    lines = [_title(record)]
    for side, summary in record.result.metrics.items():
        metrics = ", ".join(f"{n} {'-' if v is None else format(v, '.3f')}" for n, v in summary.items())
        lines.append(f"  {side:5}{metrics}")
    return "\n".join([*lines, f"  {record.path}"])


def _title(record: Record) -> str:
    r = record.result
    return f"{r.title}, seed {r.seed}, {r.dataset} ({r.trial_id})"


def summary_html(record: Record) -> str:
    """HTML for a notebook: the record's title and its metrics."""
    import pandas as pd

    result = record.result
    table = pd.DataFrame(result.metrics).T.to_html(float_format="{:.3f}".format, na_rep="-", border=0, escape=True)
    return f"<p>{escape(_title(record))}</p>{table}"
