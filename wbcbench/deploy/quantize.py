"""Quantised ONNX graphs, and how far their predictions are from those of the float network.

Only what lies between the first and the last layer with weights is quantised: normalisation, softmax and the
combination of heads stay in float32, so that the input remains the raw image and preprocessing stays exact. With
int8 the layers that read the image stay, too: 256 values with one range for all channels are too few for images of
which one has a long tail, such as a DNA stain's. So do gates, sums and activation functions between layers, which
hold no weights: in 8 bits they cost a mobilenet accuracy and save nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wbcbench.data.counter import derive_seed
from wbcbench.deploy.formats import Arrays, NotExportable, Runner, quietly
from wbcbench.deploy.network import HINT, PROBABILITIES, Rebuilt
from wbcbench.errors import UsageError
from wbcbench.evaluation.metrics import score

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION = 256
"""Training cells that ranges of activations are taken from, in equal numbers of each class as far as there are."""
LOSS = 0.01
"""Loss of macro-F1 on validation cells above which a warning is given."""
BATCH = 64
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Kind(NamedTuple):
    """One way of quantising."""

    doc: str
    batch: int
    """Largest batch in which it is evaluated."""


KINDS = {
    "int8": Kind("weights and activations in 8 bits, scales per channel, ranges from training cells", BATCH),
    # Ranges are of the whole batch, so that a cell's prediction depends on the other cells in it.
    "dynamic": Kind("weights in 8 bits, ranges of activations computed for every batch", 1),
    "fp16": Kind("weights and activations in half precision", BATCH),
}


@dataclass(frozen=True)
class Comparison:
    """A quantised graph beside the float network, on the same cells."""

    how: str
    cells: int
    kind: str
    """`validation cells` or `made-up cells`."""
    agreement: float
    """Share of cells to which both give the same class."""
    largest: float
    """Largest difference of a probability."""
    macro_f1: tuple[float, float] | None
    """Before and after; None for made-up cells, which have no labels."""
    size: tuple[int, int]
    """Bytes of the float file and of the quantised one."""
    calibration: int
    """Number of training cells; 0: needs none."""

    @property
    def loss(self) -> float:
        """Of macro-F1; 0 if it is unknown."""
        return 0.0 if self.macro_f1 is None else self.macro_f1[0] - self.macro_f1[1]

    def sentence(self) -> str:
        """The comparison as a sentence."""
        f1 = "" if self.macro_f1 is None else "; macro-F1 {:.3f} before, {:.3f} after".format(*self.macro_f1)
        source = f", calibrated on {self.calibration} training cells" if self.calibration else ""
        return (
            f"{self.how}{source}: {self.cells} {self.kind}, the same class as the float network for "
            f"{self.agreement:.1%}, probabilities differ by at most {self.largest:.2g}{f1}; "
            f"{self.size[0] / 1e3:.0f} kB before, {self.size[1] / 1e3:.0f} kB after."
        )

    def advice(self) -> str:
        """What to do about a loss above `LOSS`; empty if there is none."""
        if self.loss <= LOSS:
            return ""
        others = " or ".join(f"--quantize {name}" for name in KINDS if name != self.how)
        return (
            f"Quantisation costs {self.loss:.3f} of macro-F1 on validation cells. Try {others}, leave --quantize "
            "out, or choose a wider student or one without depthwise convolutions."
        )


def check_kind(how: str, rebuilt: Rebuilt) -> None:
    """Raise `UsageError` for an unknown kind, or if it needs training cells that are not available."""
    if how not in KINDS:
        raise UsageError(f"Expected --quantize {', '.join(KINDS)}, but got '{how}'.")
    if how == "int8" and rebuilt.bench is None:
        raise UsageError(
            f"int8 is calibrated on training cells, which are not available: {rebuilt.without} {HINT}"
        )


def quantize(rebuilt: Rebuilt, how: str, graph: Path, target: Path) -> int:
    """Write a quantised copy of an exported graph; the same record and packages give the same network.

    Args:
        rebuilt: the network of the graph, with its cells for int8.
        how: one of `KINDS`.
        graph: as written by `write_onnx`.
        target: the file to write.

    Returns:
        Number of training cells that it was calibrated on.

    Raises:
        NotExportable: ONNX Runtime cannot quantise the graph.
    """
    import onnx
    from onnxruntime import quantization as ort

    ids = calibration_cells(rebuilt) if how == "int8" else np.zeros(0, np.int64)
    advice = "Leave --quantize out, which keeps it in float32."
    with quietly(f"a quantised graph ({how})", advice), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            ort.quant_pre_process(graph, prepared)
        except Exception:  # symbolic shapes are not inferred for every operation
            ort.quant_pre_process(graph, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        inner, outer, first = _parts(model)
        if not inner:
            raise ValueError("it has no layer with weights")
        if how == "fp16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            onnx.save(convert_float_to_float16(model, keep_io_types=True, node_block_list=outer), target)
        elif how == "dynamic":
            # ConvInteger has kernels for unsigned weights with one scale only.
            ort.quantize_dynamic(model, target, weight_type=ort.QuantType.QUInt8, nodes_to_exclude=outer)
        else:
            ort.quantize_static(
                model, target, _Reader(rebuilt, ids, [i.name for i in model.graph.input]), per_channel=True,
                activation_type=ort.QuantType.QUInt8, weight_type=ort.QuantType.QInt8,
                nodes_to_exclude=[*outer, *first], op_types_to_quantize=sorted(WEIGHTED),
            )  # fmt: skip
    return len(ids)


def _parts(model: ModelProto) -> tuple[list[str], list[str], list[str]]:
    """Names of the nodes between the first and the last layer with weights, those included, and of the others;
    and of the first layers with weights, unless all are."""
    nodes = model.graph.node
    for number, node in enumerate(nodes):
        node.name = node.name or f"node_{number}"
    after: set[str] = set()
    first: list[str] = []
    for node in nodes:  # in topological order
        if node.op_type in WEIGHTED or after.intersection(node.input):
            first += [] if after.intersection(node.input) else [node.name]
            after.update(node.output)
    before: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in WEIGHTED or before.intersection(node.output):
            before.update(node.input)
    inner: list[str] = []
    outer: list[str] = []
    for node in nodes:
        between = bool(after.intersection(node.input)) and bool(before.intersection(node.output))
        (inner if node.op_type in WEIGHTED or between else outer).append(node.name)
    more = any(node.op_type in WEIGHTED and node.name not in first for node in nodes)
    return inner, outer, first if more else []


def calibration_cells(rebuilt: Rebuilt, count: int = CALIBRATION) -> NDArray[np.int64]:
    """Complete training cells in a fixed random order of the trial's seed, classes in turn, at most `count`."""
    assert rebuilt.bench is not None
    trial = rebuilt.record.trial
    ids = complete(rebuilt, rebuilt.bench.split(trial).train)
    labels = rebuilt.bench.cells(trial).labels[ids]
    mixed = np.random.default_rng(derive_seed(trial.seed, "calibration")).permutation(len(ids))
    turn = np.zeros(len(ids), np.int64)
    for label in np.unique(labels):
        of_class = mixed[labels[mixed] == label]
        turn[of_class] = np.arange(len(of_class))
    place = np.argsort(mixed)
    return ids[np.lexsort((place, turn))[:count]]


def complete(rebuilt: Rebuilt, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cells that have every modality; exported files accept no others."""
    assert rebuilt.bench is not None
    cells, trial = rebuilt.bench.cells(rebuilt.record.trial), rebuilt.record.trial
    if cells.present is None:
        return ids
    columns = [list(cells.images).index(m) for m in trial.reads]
    return ids[cells.present[ids][:, columns].all(1)]


def images_of(rebuilt: Rebuilt, ids: NDArray[np.int64]) -> Arrays:
    """Raw images of these cells, by modality."""
    assert rebuilt.bench is not None
    trial = rebuilt.record.trial
    cells = rebuilt.bench.cells(trial)
    return {m: np.ascontiguousarray(cells.images[m][ids]) for m in trial.reads}


def run(runner: Runner, images: Arrays, batch: int) -> Arrays:
    """All outputs [N, K] for N cells, in batches."""
    count = len(next(iter(images.values())))
    parts = [runner({m: x[i : i + batch] for m, x in images.items()}) for i in range(0, count, batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compare(
    rebuilt: Rebuilt,
    how: str,
    before: Runner,
    after: Runner,
    made_up: Arrays,
    size: tuple[int, int],
    calibration: int,
) -> Comparison:
    """Run both graphs on all complete validation cells, or on `made_up` ones where there are none.

    Raises:
        NotExportable: the quantised graph does not run, or gives other than probabilities.
    """
    images, labels, kind = made_up, None, "made-up cells"
    if rebuilt.bench is not None:
        trial = rebuilt.record.trial
        ids = complete(rebuilt, rebuilt.bench.split(trial).val)
        if len(ids):
            images, labels = images_of(rebuilt, ids), rebuilt.bench.cells(trial).labels[ids]
            kind = "validation cells"
    was = run(before, images, BATCH)[PROBABILITIES]
    try:
        now = run(after, images, KINDS[how].batch)[PROBABILITIES]
    except Exception as error:  # the runtime's error: an operation without a kernel, for example
        raise NotExportable(f"The quantised graph ({how}) does not run: {error}. Nothing was written.") from error
    if now.shape != was.shape or not np.isfinite(now).all():
        raise NotExportable(f"The quantised graph ({how}) gives no finite probabilities. Nothing was written.")
    f1 = None
    if labels is not None:
        found = [score(p, labels, rebuilt.task.classes).summary["macro_f1"] for p in (was, now)]
        f1 = (float(found[0] or 0), float(found[1] or 0))
    same = float((was.argmax(1) == now.argmax(1)).mean())
    return Comparison(how, len(was), kind, same, float(np.abs(was - now).max()), f1, size, calibration)


class _Reader:
    """Feeds calibration cells to ONNX Runtime, one batch at a time; an `onnxruntime` CalibrationDataReader."""

    def __init__(self, rebuilt: Rebuilt, ids: NDArray[np.int64], wanted: list[str]) -> None:
        self._images = {m: x for m, x in images_of(rebuilt, ids).items() if m in wanted}
        self._count = len(ids)
        self.rewind()

    def rewind(self) -> None:
        """Start again with the first batch."""
        self._batches: Iterator[Arrays] = (
            {m: x[i : i + BATCH] for m, x in self._images.items()} for i in range(0, self._count, BATCH)
        )

    def get_next(self) -> Arrays | None:
        """The next batch by input; None: there are no more."""
        return next(self._batches, None)

    def __len__(self) -> int:
        return -(-self._count // BATCH)


__all__ = [
    "CALIBRATION", "KINDS", "LOSS", "Comparison", "Kind", "calibration_cells", "check_kind", "compare", "complete",
    "images_of", "quantize", "run",
]  # fmt: skip
