"""Export formats of a network: weights with their specification, a PyTorch program, an ONNX graph."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from wbcbench.contracts import Fusion
from wbcbench.deploy.network import PROBABILITIES, Network, Rebuilt, task_from
from wbcbench.errors import RecordError, WbcbenchError, missing_extra
from wbcbench.evaluation.shift import Judged, Reference, measure, pixel_digests
from wbcbench.records.schema import InputStatistics
from wbcbench.registry import Registry
from wbcbench.registry.loading import load_plugins
from wbcbench.spec import Trial
from wbcbench.training.build import fusion_of

Arrays = dict[str, NDArray[Any]]
Runner = Callable[[Arrays], Arrays]
"""Raw images [B, C, S, S], or numbers [B, F], by modality -> outputs by name [B, K]."""

REFERENCE = "reference.npz"
"""What other cells are compared with, beside the network."""
LARGEST = 65_536
"""Largest number of cells in a batch."""
INSTEAD = "Choose --format safetensors, which keeps the weights and runs with wbcbench."
_EXAMPLE = 3


class NotExportable(WbcbenchError):
    """The format cannot represent the network."""


@dataclass(frozen=True)
class Format:
    """One export format."""

    file: str
    write: Callable[[Rebuilt, Network, tuple[str, ...], Path], None]
    """(trained network, its deployed part, names of the outputs, file)."""
    read: Callable[[Rebuilt, Path], Runner]
    """Loads the exported network from its file alone (`safetensors`: from the file and the specification)."""


def write_safetensors(rebuilt: Rebuilt, network: Network, outputs: tuple[str, ...], path: Path) -> None:
    """Write the weights and the normalisation, named as in the `Network`'s state dict."""
    from safetensors.torch import save_file

    # Cloned, because safetensors refuses tensors that share memory.
    state = {name: t.detach().cpu().contiguous().clone() for name, t in rebuilt.network.state_dict().items()}
    save_file(state, path, metadata={"trial_id": rebuilt.record.trial.id})


def read_safetensors(rebuilt: Rebuilt, path: Path) -> Runner:
    """A copy of the network with the weights of the file."""
    import copy

    from safetensors.torch import load_file

    network = copy.deepcopy(rebuilt.network)
    for tensor in network.state_dict().values():
        tensor.zero_()  # so that a tensor missing from the file is detected
    network.load_state_dict(load_file(path))
    return _torch_runner(network)


def write_program(rebuilt: Rebuilt, network: Network, outputs: tuple[str, ...], path: Path) -> None:
    """Write a program for `torch.export.load`, which needs only PyTorch."""
    torch.export.save(trace(rebuilt, network), path)


def read_program(rebuilt: Rebuilt, path: Path) -> Runner:
    return _torch_runner(torch.export.load(path).module())


def write_onnx(rebuilt: Rebuilt, network: Network, outputs: tuple[str, ...], path: Path) -> None:
    """Write a graph for ONNX Runtime, with inputs named by modality, in one file with its weights."""
    need("onnx", "onnxscript")
    modalities = list(network.modalities)
    program = trace(rebuilt, network)
    with quietly("ONNX"):
        how: dict[str, Any] = {
            "input_names": modalities, "output_names": list(outputs), "dynamo": True, "verbose": False,
            "dynamic_shapes": ({m: {0: "batch"} for m in modalities},),
        }  # fmt: skip
        try:
            found = torch.onnx.export(program, **how)
        except Exception:
            # The optimiser fails on some valid graphs (onnxscript 0.7: SplitToSequence).
            found = torch.onnx.export(program, **how, optimize=False)
    assert found is not None
    for node in found.model.graph.all_nodes():
        node.metadata_props.clear()  # where in Python each comes from: an eighth of a small network's file
    found.save(path, external_data=False)


def read_onnx(rebuilt: Rebuilt, path: Path) -> Runner:
    return onnx_runner(path)


def onnx_runner(path: Path, threads: int = 0) -> Runner:
    """An ONNX graph on the CPU; `threads`: 0 is ONNX Runtime's choice."""
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}

    def run(images: Arrays) -> Arrays:
        feed = {m: x for m, x in images.items() if m in wanted}
        return dict(zip(names, session.run(None, feed), strict=True))

    return run


def onnx_predictions(deployed: torch.nn.Module, images: dict[str, Tensor], path: Path) -> Tensor:
    """What a deployed network predicts [B, K] after it was written as an ONNX graph and read again.

    Args:
        deployed: normalised images by modality -> probabilities, in eval mode.
        images: [B, C, S, S] each, B >= 2.
        path: of the file to write.

    Raises:
        NotExportable: the format cannot represent the network.
    """
    need("onnx", "onnxscript", "onnxruntime")
    batch = torch.export.Dim("batch", min=2, max=LARGEST)
    with quietly("ONNX"), torch.no_grad():
        program = torch.export.export(deployed, (images,), dynamic_shapes=({m: {0: batch} for m in images},))
        found = torch.onnx.export(program, input_names=list(images), dynamo=True, verbose=False, optimize=False)
        assert found is not None
        found.save(path, external_data=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    return torch.from_numpy(session.run(None, {m: x.numpy() for m, x in images.items() if m in wanted})[0])


FORMATS = {
    "safetensors": Format("model.safetensors", write_safetensors, read_safetensors),
    "onnx": Format("model.onnx", write_onnx, read_onnx),
    "torch-export": Format("model.pt2", write_program, read_program),
}


def trace(rebuilt: Rebuilt, network: Network) -> torch.export.ExportedProgram:
    """The network as a graph for any number of cells.

    Raises:
        NotExportable: PyTorch cannot trace the network, or only for one number of cells.
    """
    kinds = {8: torch.uint8, 16: torch.uint16, 32: torch.float32}
    images = {
        m: torch.zeros(_EXAMPLE, *rebuilt.task.shape(m), dtype=kinds[s.bits])
        for m, s in rebuilt.statistics.items()
    }
    # From 2: the tracer specialises on a batch of 1. That a single cell runs is checked afterwards.
    batch = torch.export.Dim("batch", min=2, max=LARGEST)
    # The slower, strict mode supports Python such as len(x), which the other mode treats as a constant. `AUTO`
    # accepts graphs that the tracer cannot prove valid for every number of cells; the check then tries several.
    ways = [(batch, False), (torch.export.Dim.AUTO, False), (batch, True), (torch.export.Dim.AUTO, True)]
    with quietly("a graph"):
        for number, (size, strict) in enumerate(ways, 1):
            try:
                shapes = ({m: {0: size} for m in images},)
                program = torch.export.export(network, (images,), dynamic_shapes=shapes, strict=strict)
            except Exception:
                if number == len(ways):
                    raise
                continue
            if _any_batch(program):
                return program
        raise ValueError("it works for one fixed number of cells only.")
    raise AssertionError  # not reached: `quietly` converts every exception


def _any_batch(program: torch.export.ExportedProgram) -> bool:
    """Whether the graph accepts any number of cells."""
    given = set(program.graph_signature.user_inputs)
    sizes = [n.meta["val"].shape[0] for n in program.graph.nodes if n.op == "placeholder" and n.name in given]
    return any(isinstance(size, torch.SymInt) for size in sizes)


def need(*packages: str) -> None:
    """Raise `MissingExtraError` if an optional package is not installed, before any work is done."""
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise missing_extra(error) or error from None


def _torch_runner(network: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Runner:
    def run(images: Arrays) -> Arrays:
        with torch.no_grad():
            answers = network({m: torch.from_numpy(x) for m, x in images.items()})
        return {name: value.numpy() for name, value in answers.items()}

    return run


@contextmanager
def quietly(what: str, advice: str = INSTEAD) -> Iterator[None]:
    """Silence the exporters' output, and convert their exceptions to `NotExportable`.

    Args:
        what: the network would be written as.
        advice: what to do if it cannot be.
    """
    loggers = [
        logging.getLogger(name) for name in ("torch", "torch.onnx", "torch._guards", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    from contextlib import redirect_stderr, redirect_stdout

    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the exporters raise almost any exception
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        reason = next((line.strip() for line in str(root).splitlines() if line.strip()), type(root).__name__)
        raise NotExportable(f"This network cannot be written as {what}: {reason.rstrip('.')}. {advice}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load_network(folder: Path | str, registry: Registry | None = None) -> Network:
    """The network of an exported folder, on the CPU, in eval mode: raw images in, probabilities out.

    Args:
        folder: with `model.safetensors`, `inputs.json` and `spec.json`.
        registry: where components come from; by default everything that is installed.

    Raises:
        RecordError: the folder was not written by `wbcbench export`, or was changed.
    """
    from safetensors.torch import load

    folder = Path(folder)
    try:
        spec = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
        data = (folder / spec["model"]).read_bytes()
        if spec["format"] != "safetensors" or hashlib.sha256(data).hexdigest() != spec["sha256"]:
            raise ValueError(f"{spec['model']} does not match inputs.json (its format or SHA-256 differs)")
        trial = Trial.model_validate_json((folder / "spec.json").read_text(encoding="utf-8"))
        statistics = {i["name"]: _statistics(i) for i in spec["inputs"]}
        classes = tuple(map(str, spec["classes"]))
        weights = load(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"Expected a folder of `wbcbench export --format safetensors`, but {error}.") from error
    task = task_from(statistics, classes, trial.protocol.image_size)
    body = {k.removeprefix("body."): v for k, v in weights.items() if k.startswith("body.")}
    fusion = fusion_of(trial, task, registry or load_plugins()[0], body)
    network = Network(fusion.requires_grad_(False), statistics).eval()
    network.load_state_dict(weights)
    return network


@torch.no_grad()
def compare(folder: Path | str, images: Arrays, registry: Registry | None = None) -> Judged:
    """How far cells are from the training cells of an exported network.

    Args:
        folder, registry: as for `load_network`.
        images: modality -> [B, C, S, S], as stored.

    Raises:
        RecordError: as `load_network`, or the folder has no intact `reference.npz`.
    """
    folder, network = Path(folder), load_network(folder, registry)
    try:
        reference = Reference.of_bytes((folder / REFERENCE).read_bytes())
    except OSError as error:
        raise RecordError(f"{folder / REFERENCE} cannot be read ({error.strerror or error}).") from error
    images = {m: images[m] for m in network.modalities}
    seen = network.normalised({m: torch.from_numpy(x) for m, x in images.items()})
    assert isinstance(network.body, Fusion)
    answers, outputs = network.measured(network.body, seen)
    evidence = measure(seen, outputs, answers[PROBABILITIES], None)
    return reference.judge(evidence, reference.used_for(pixel_digests(images)))


def _statistics(spec: dict[str, object]) -> InputStatistics:
    return InputStatistics.model_validate_json(
        json.dumps(
            {name: spec[name] for name in ("mean", "std", "brightness", "contrast")}
            | {name: spec[name] for name in ("median", "features") if name in spec}
            | {"bits": {"uint8": 8, "uint16": 16, "float32": 32}[str(spec["dtype"])]}
        )
    )


__all__ = [
    "FORMATS",
    "LARGEST",
    "PROBABILITIES",
    "REFERENCE",
    "Arrays",
    "Format",
    "NotExportable",
    "Runner",
    "compare",
    "load_network",
    "need",
    "onnx_runner",
    "quietly",
    "trace",
]
