"""Reading `--format safetensors` back: the specification builds the network, the weights fill it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from wbcbench.contracts import Task
from wbcbench.errors import RecordError
from wbcbench.inference.network import Network
from wbcbench.records.schema import InputStatistics
from wbcbench.registry import Registry
from wbcbench.registry.loading import load_plugins
from wbcbench.spec import Trial
from wbcbench.training.trial import fusion_of


def load_network(folder: Path | str, registry: Registry | None = None) -> Network:
    """The network of an exported folder, on the CPU, in eval mode: raw images in, probabilities out.

    Args:
        folder: with `model.safetensors`, `inputs.json` and `spec.json`.
        registry: where components come from; by default everything that is installed.

    Raises:
        RecordError: the folder is not what `wbcbench export` wrote.
    """
    from safetensors.torch import load

    folder = Path(folder)
    try:
        said = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
        data = (folder / said["model"]).read_bytes()
        if said["format"] != "safetensors" or hashlib.sha256(data).hexdigest() != said["sha256"]:
            raise ValueError(f"{said['model']} is not the file that inputs.json speaks of")
        trial = Trial.model_validate_json((folder / "spec.json").read_text(encoding="utf-8"))
        statistics = {i["name"]: _statistics(i) for i in said["inputs"]}
        classes = tuple(map(str, said["classes"]))
        weights = load(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"Expected a folder of `wbcbench export --format safetensors`, but {error}.") from error
    task = Task({m: len(s.mean) for m, s in statistics.items()}, classes, trial.protocol.image_size)
    body = {k.removeprefix("body."): v for k, v in weights.items() if k.startswith("body.")}
    fusion = fusion_of(trial, task, registry or load_plugins()[0], body)
    network = Network(fusion.requires_grad_(False), statistics).eval()
    network.load_state_dict(weights)
    return network


def _statistics(said: dict[str, object]) -> InputStatistics:
    return InputStatistics.model_validate_json(
        json.dumps(
            {name: said[name] for name in ("mean", "std", "brightness", "contrast")}
            | {"bits": 16 if said["dtype"] == "uint16" else 8}
        )
    )


__all__ = ["load_network"]
