"""Does what was written answer as the trained network does?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wbcbench.data.counter import derive_seed
from wbcbench.errors import WbcbenchError
from wbcbench.exporting.formats import Arrays, Runner
from wbcbench.inference.network import PROBABILITIES, ROUTE
from wbcbench.inference.rebuild import Rebuilt

if TYPE_CHECKING:
    from wbcbench.evaluation.predict import Predictions

TOLERANCE = 1e-4
"""Largest difference of a probability between the trained network and the file."""
STORED = 0.02
"""Largest difference between the trained network here and the predictions in its record, which may have been
made on a GPU in lower precision. More means that code or cells are not what they were."""
CELLS = 512
MADE_UP = 32
_BATCHES = (1, 2, 7, 64)


class Disagrees(WbcbenchError):
    """What was written is not the network that was trained."""


@dataclass(frozen=True)
class Agreement:
    """The outcome of a check that was passed."""

    cells: int
    kind: str
    """`validation cells` or `made-up cells`."""
    largest: float
    """Largest difference of a probability between the trained network and the file."""
    stored: float | None
    """The same between the trained network and the record's own predictions; None without the cells."""
    tolerance: float

    def sentence(self) -> str:
        """For people."""
        against = (
            "" if self.stored is None else f"; the network and its record differ by at most {self.stored:.1e}"
        )
        return (
            f"{self.cells} {self.kind}: file and trained network differ by at most {self.largest:.1e} "
            f"(allowed {self.tolerance:.0e}){against}."
        )


def check(rebuilt: Rebuilt, runner: Runner, outputs: Sequence[str], tolerance: float = TOLERANCE) -> Agreement:
    """Run both on the same cells, in batches of several sizes.

    The trained network is asked as evaluation asks it, through the training's own preprocessing, where its cells
    are at hand.

    Raises:
        Disagrees: a probability differs by more than `tolerance`, or an output is missing or misshapen.
    """
    images, expected, stored, kind = _cells(rebuilt)
    count = len(next(iter(images.values())))
    largest, start, sizes = 0.0, 0, iter(_BATCHES)
    while start < count:
        stop = min(count, start + next(sizes, _BATCHES[-1]))
        try:
            answers = runner({m: x[start:stop] for m, x in images.items()})
        except Exception as error:  # a graph that fits one number of cells only fails in the runtime's own way
            raise Disagrees(
                f"The file does not run on {stop - start} cells: {error}. Nothing was written."
            ) from error
        for name in outputs:
            want = expected[name][start:stop]
            got = answers.get(name)
            if got is None or got.shape != want.shape:
                shape = "absent" if got is None else list(got.shape)
                raise Disagrees(
                    f"Expected output '{name}' {list(want.shape)}, but it is {shape}. Nothing was written."
                )
            difference = float(np.abs(got - want).max())
            largest = max(largest, difference if np.isfinite(difference) else float("inf"))
        start = stop
    if not largest <= tolerance:
        raise Disagrees(
            f"Expected the file to answer as the trained network does to within {tolerance:g}, but on {count} "
            f"{kind} they differ by up to {largest:.3g}. Nothing was written. Try another --format."
        )
    if stored is not None and not stored <= STORED:
        raise Disagrees(
            f"The network rebuilt from record {rebuilt.record.trial.id} differs from the record's own predictions "
            f"by up to {stored:.3g}: a component's code is not what it was when the record was made. Nothing was "
            "written."
        )
    return Agreement(count, kind, largest, stored, tolerance)


def _cells(rebuilt: Rebuilt) -> tuple[Arrays, Arrays, float | None, str]:
    """Raw images, what the trained network says of them, and how far that is from the record."""
    if rebuilt.bench is None:
        images = made_up(rebuilt, MADE_UP)
        with torch.no_grad():
            answers = rebuilt.network({m: torch.from_numpy(x) for m, x in images.items()})
        return images, {name: a.numpy() for name, a in answers.items()}, None, "made-up cells"
    from wbcbench.evaluation.predict import predict

    trial, bench = rebuilt.record.trial, rebuilt.bench
    ids = _complete(rebuilt, bench.split(trial).val)[:CELLS]
    if not len(ids):
        return _cells(_without_cells(rebuilt))
    cells = bench.cells(trial)
    found = predict(rebuilt.fusion, bench.resident(trial), torch.as_tensor(ids), trial.reads)
    expected = {PROBABILITIES: found.probabilities} | {f"{ROUTE}{r}": p for r, p in found.routes.items()}
    stored = _from_record(rebuilt, found)
    images = {m: np.ascontiguousarray(cells.images[m][ids]) for m in trial.reads}
    return images, {name: np.asarray(p) for name, p in expected.items()}, stored, "validation cells"


def _from_record(rebuilt: Rebuilt, found: Predictions) -> float:
    """Largest difference of a probability between the record's validation predictions and the network's."""
    recorded = rebuilt.record.predictions

    def apart(now: Predictions) -> float:
        place = {int(cell): row for row, cell in enumerate(recorded["val_cells"])}
        rows = [place[int(i)] for i in now.cells]
        return float(np.abs(recorded["val_probabilities"][rows] - now.probabilities).max())

    if not rebuilt.fusion.combines:
        return apart(found)
    from wbcbench.training.combiner import fit_combiner

    assert rebuilt.bench is not None
    trial, bench = rebuilt.record.trial, rebuilt.bench
    val = torch.as_tensor(bench.split(trial).val)
    # Recorded are those of combiners fitted on other cells; in records from before there was that, its own.
    crossed = fit_combiner(copy.deepcopy(rebuilt.fusion), bench.resident(trial), val, trial.reads)
    return min(apart(found), apart(crossed))


def _complete(rebuilt: Rebuilt, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the cells that have every modality: the files take no others."""
    assert rebuilt.bench is not None
    cells, trial = rebuilt.bench.cells(rebuilt.record.trial), rebuilt.record.trial
    if cells.present is None:
        return ids
    columns = [list(cells.images).index(m) for m in trial.reads]
    return ids[cells.present[ids][:, columns].all(1)]


def _without_cells(rebuilt: Rebuilt) -> Rebuilt:
    from dataclasses import replace

    return replace(rebuilt, bench=None)


def made_up(rebuilt: Rebuilt, count: int) -> dict[str, NDArray[Any]]:
    """Images of noise with the mean and spread of the training cells; the same ones for the same trial."""
    rng = np.random.default_rng(derive_seed(rebuilt.record.trial.seed, "made-up cells"))
    side, images = rebuilt.task.image_size, {}
    for m, s in rebuilt.statistics.items():
        kind = np.uint16 if s.bits == 16 else np.uint8
        mean, std = (np.array(v)[None, :, None, None] for v in (s.mean, s.std))
        noise = rng.standard_normal((count, len(s.mean), side, side)) * std * rng.uniform(0.5, 2, (count, 1, 1, 1))
        images[m] = (noise + mean).clip(0, np.iinfo(kind).max).astype(kind)
    return images


__all__ = ["CELLS", "STORED", "TOLERANCE", "Agreement", "Disagrees", "check", "made_up"]
