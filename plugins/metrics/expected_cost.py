"""Expected cost of the decisions, by a laboratory's table of what each confusion costs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wbcbench.contracts import MeanOverCells, Metric, Parameters, param
from wbcbench.errors import DataError, IncompatibleError


class ExpectedCost(MeanOverCells, Metric):
    """Mean cost of the decisions, by a table of costs.

    mean over cells of C[true class, decision], in the units of the table C. decide=top: the most probable class;
    decide=cheapest: argmin_j sum_k p_k C[k, j], which uses probabilities.
    """

    name = "expected_cost"
    source = "Elkan, IJCAI 2001"
    higher_is_better = False
    range = (None, None)

    class Params(Parameters):
        costs: list[list[float]] = param(
            [], "Costs [K, K] in the order of the data set's classes; row: true class, column: decision."
        )
        file: str = param(
            "", "Instead of `costs`, a .csv: decisions in the first line, then a line for each true class."
        )
        sha256: str = param("", "SHA-256 of the file; filled in.", digest_of="file")
        decide: Literal["top", "cheapest"] = param("top", "Which class is decided for.")

    params: Params

    def __init__(self, classes: tuple[str, ...], params: Params | None = None) -> None:
        super().__init__(classes, params)
        if bool(self.params.file) == bool(self.params.costs):
            got = "both" if self.params.file else "neither"
            raise IncompatibleError(
                f"expected_cost: expected costs=[[0, 1], [5, 0]] (row: true class, column: decision) or "
                f"file=costs.csv, but got {got}."
            )
        k = len(classes)
        if self.params.file:
            self.costs = _read(Path(self.params.file), classes)
        elif [len(row) for row in self.params.costs] == [k] * k:
            self.costs = np.array(self.params.costs, dtype=np.float64)
        else:
            raise IncompatibleError(
                f"expected_cost: expected {k} rows of {k} costs, for the classes {', '.join(classes)}, "
                f"but got rows of {[len(row) for row in self.params.costs]}."
            )

    def of_cells(self, predictions: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
        cheapest = self.params.decide == "cheapest"
        decided = (predictions @ self.costs).argmin(1) if cheapest else predictions.argmax(1)
        return np.asarray(self.costs[labels, decided])


def _read(path: Path, classes: tuple[str, ...]) -> NDArray[np.float64]:
    """The table of a file, in the order of the classes."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            (_, *decisions), *lines = [[c.strip() for c in line] for line in csv.reader(file) if any(line)]
        rows = {name: dict(zip(decisions, map(float, values), strict=True)) for name, *values in lines}
        table = np.array([[rows[a][b] for b in classes] for a in classes], dtype=np.float64)
        if len(lines) != len(classes) or len(decisions) != len(classes) or not np.isfinite(table).all():
            raise ValueError("other classes, or a cost that is not finite")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        what = f"no class {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"Expected a table of costs in {path}: a first line `,{','.join(classes)}` and a line `CLASS,costs` "
            f"for each class, but got {what}."
        ) from error
    return table
