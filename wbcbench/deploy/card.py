"""The model card: the network, its metrics, training data, intended use and limits, and how to run it.

Headings follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019 (arXiv 1810.03993).
"""

from __future__ import annotations

from typing import Any

import yaml

from wbcbench.boards.text import markdown
from wbcbench.deploy.network import Rebuilt
from wbcbench.deploy.quantize import KINDS, Comparison
from wbcbench.deploy.report import metric_intervals, other_seeds, properties_of
from wbcbench.records.schema import Result
from wbcbench.records.store import Store

MISSING = {
    "native": "the fusion itself leaves out a missing modality",
    "impute": "a missing image is imputed (by the training mean, unless the method specifies otherwise)",
    "refuse": "the fusion needs every modality",
}

REFERENCE = (
    "- `{}` holds what cells are compared with: means and spread of the training cells in the network's feature "
    "space and in statistics of images, distances of validation cells, digests of pixels; no image. With the "
    "format safetensors, `wbcbench.deploy.formats.compare(folder, images)` compares."
)

RUN = {
    "onnx": """import json
import numpy as np
import onnxruntime

spec = json.load(open("inputs.json", encoding="utf-8"))
session = onnxruntime.InferenceSession("model.onnx")
images = {i["name"]: np.zeros([5, *i["shape"][1:]], i["dtype"]) for i in spec["inputs"]}  # your cells
wanted = {i.name for i in session.get_inputs()}
(probabilities,) = session.run(["probabilities"], {m: x for m, x in images.items() if m in wanted})
print([spec["classes"][k] for k in probabilities.argmax(1)])""",
    "torch-export": """import json
import numpy as np
import torch

spec = json.load(open("inputs.json", encoding="utf-8"))
network = torch.export.load("model.pt2").module()
images = {i["name"]: np.zeros([5, *i["shape"][1:]], i["dtype"]) for i in spec["inputs"]}  # your cells
probabilities = network({m: torch.from_numpy(x) for m, x in images.items()})["probabilities"]
print([spec["classes"][k] for k in probabilities.argmax(1)])""",
    "safetensors": """import json
import numpy as np
import torch
from wbcbench.deploy.formats import load_network

spec = json.load(open("inputs.json", encoding="utf-8"))
network = load_network(".")
images = {i["name"]: np.zeros([5, *i["shape"][1:]], i["dtype"]) for i in spec["inputs"]}  # your cells
with torch.no_grad():
    probabilities = network({m: torch.from_numpy(x) for m, x in images.items()})["probabilities"]
print([spec["classes"][k] for k in probabilities.argmax(1)])""",
}
"""How to run each format; executed by the tests."""


def _values(spec: dict[str, Any]) -> str:
    """The values of an input: a range of pixels, or the names of numbers."""
    if "features" in spec:
        return f"NaN where missing: {', '.join(markdown(name) for name in spec['features'])}"
    return f"{spec['range'][0]} to {spec['range'][1]}"


def model_card(rebuilt: Rebuilt, inputs: dict[str, Any], store: Store | None) -> str:
    """The card in Markdown; text from the record is escaped."""
    record, result = rebuilt.record, rebuilt.record.result
    key = result.key
    outside = [f"{markdown(t.name)} (answers of SHA-256 {t.digest[:12]})" for t in result.outside]
    teachers = [*result.teachers, *outside]
    licence = _licence(rebuilt)
    lines = [
        "---",
        yaml.safe_dump(_front(rebuilt), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {markdown(result.title)}: {', '.join(map(markdown, key.classes))}",
        "",
        f"A classifier of cell images, trained and evaluated with wbcbench (trial `{result.trial_id}`, record "
        f"`{result.digest[:16]}`). `{inputs['model']}` contains the network with its preprocessing; `inputs.json` "
        "specifies its inputs and outputs.",
        "",
        "## Inputs and outputs",
        "",
        "| input | shape | values |",
        "| --- | --- | --- |",
        *(
            f"| {markdown(i['name'])} | [batch, {', '.join(map(str, i['shape'][1:]))}] | {i['dtype']}, "
            f"{_values(i)} |"
            for i in inputs["inputs"]
        ),
        "",
        f"{markdown(inputs['resize'])} Outputs: {', '.join(markdown(o['name']) for o in inputs['outputs'])}, each "
        f"[batch, {len(key.classes)}], in the order {', '.join(map(markdown, key.classes))}. `route_...` are the "
        "predictions of the network's individual heads.",
        "",
        "## Metrics",
        "",
        *_metrics(rebuilt, store),
        "",
        "## Training data",
        "",
        f"- data set: {markdown(key.dataset)}, content `{key.fingerprint[:16]}`, split `{key.split[:16]}`",
        f"- licence: {markdown(licence)}",
        f"- modalities: {', '.join(map(markdown, key.modalities))}"
        + (" (pseudo-modalities, computed from one image)" if result.pseudo_multimodal else ""),
        "- "
        + (f"images of {key.image_size} x {key.image_size} pixels; " if key.image_size else "")
        + f"statistics of the inputs are from {rebuilt.statistics_from}",
        *(f"- {markdown(note)}" for note in result.notes),
        "",
        "## Method",
        "",
        f"- fusion {markdown(result.fusion)}, backbone {markdown(result.backbone)}, distillation "
        f"{markdown(result.kd)}" + (f" from teachers {', '.join(teachers)}" if teachers else ""),
        f"- {result.cost.params:,} parameters"
        + (f", {result.cost.macs:,} MACs per cell" if result.cost.macs else ""),
        f"- {key.budget.epochs} epochs of batch {key.budget.batch_size}, seed {result.seed}; "
        f"of the epochs, {key.kept} was kept",
        *(f"- {c.kind} {markdown(c.provider)}/{markdown(c.name)} {markdown(c.version or '')}".rstrip()
          for c in result.components),
        "",
        "## Intended use",
        "",
        "Research on cells of the kind above, imaged in the same way. It is not a medical device and has not been "
        "validated for diagnosis.",
        "",
        "## Limits",
        "",
        *_missed(result),
        f"- It always predicts one of {len(key.classes)} classes, whatever the image shows; debris, doublets and "
        "other cells get a class, too.",
        "- Predictions may be worse with other microscopes, stains, exposure times or donors than in training. "
        "`wbcbench predict` reports cells that are unlike the training cells.",
        *([REFERENCE.format(inputs["reference"]["file"])] if "reference" in inputs else []),
        f"- Missing modalities: {MISSING[rebuilt.fusion.traits.missing]}; the exported file requires every input.",
        f"- Expected calibration error on test cells: {_ece(rebuilt)}; probabilities are not calibrated further.",
        *(["- The donors of test cells are unknown: the intervals assume independent cells."]
          if "test_groups" not in record.predictions else []),
        *([f"- It was distilled from teachers with their own data and licences: {', '.join(teachers)}."]
          if teachers else []),
        "",
        "## Check",
        "",
        f"{inputs['check']['cells']} {inputs['check']['kind']}: {'float ' * ('quantised' in inputs)}file and "
        f"trained network differ by at most {inputs['check']['largest_difference']:.2g} (allowed "
        f"{inputs['check']['tolerance']:g}).",
        *_quantised(inputs),
        "",
        "## Run it",
        "",
        f"With {_packages(inputs['format'])}, in this folder:",
        "",
        "```python",
        RUN[inputs["format"]],
        "```",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _front(rebuilt: Rebuilt) -> dict[str, Any]:
    """The metadata by which Hugging Face indexes a card; of the network's licence nothing is known here."""
    result = rebuilt.record.result
    key = result.key
    scores = {n: v for n, v in result.metrics.get("test", {}).items() if v is not None}
    task = {"type": "image-classification", "name": "Classification of cell images"}
    return {
        "license": "unknown",
        "library_name": "wbcbench",
        "pipeline_tag": "image-classification",
        "tags": ["microscopy", "white-blood-cells", "multimodal-fusion", "knowledge-distillation"],
        "model-index": [
            {
                "name": result.title,
                "results": [
                    {
                        "task": task,
                        "dataset": {"type": key.dataset, "name": key.dataset, "split": "test"},
                        "metrics": [{"type": n, "value": round(v, 4)} for n, v in scores.items()],
                    }
                ]
                if scores
                else [],
            }
        ],
    }


MISSED = 0.1
"""F1 below which a card warns that a class is practically not found."""


def _missed(result: Result) -> list[str]:
    """A warning for each class that the network practically does not find."""
    return [
        f"- **It practically does not find {markdown(name)}**: F1 {s['f1']:.3f} on {s['support']:.0f} test cells."
        for name, s in result.per_class.items()
        if s["f1"] < MISSED
    ]


def _quantised(inputs: dict[str, Any]) -> list[str]:
    """What quantisation changed; the metrics of a card are the float network's."""
    if "quantised" not in inputs:
        return []
    found = Comparison(**inputs["quantised"])
    return [
        "",
        f"The file is quantised ({KINDS[found.how].doc}). The metrics above are those of the float network. "
        f"{found.sentence()}",
        *([found.advice()] if found.advice() else []),
    ]


def _metrics(rebuilt: Rebuilt, store: Store | None) -> list[str]:
    result = rebuilt.record.result
    found = metric_intervals(rebuilt.record)
    if not found:
        return ["The trial is from a search and has validation results only:", ""] + [
            f"- {name}: {value:.3f}" for name, value in result.metrics["val"].items() if value is not None
        ]
    per_class = [
        f"| {markdown(name)} | {s['precision']:.3f} | {s['recall']:.3f} | {s['f1']:.3f} | {s['support']:.0f} |"
        for name, s in result.per_class.items()
    ]
    seeds = other_seeds(rebuilt.record, store)
    told = (
        f"Seed {result.seed} only: other seeds may be better or worse."
        if seeds is None
        else f"This is seed {result.seed}. Test macro-F1 over seeds {', '.join(map(str, seeds.seeds))}: "
        f"{seeds.mean:.3f}, standard deviation {seeds.sd:.3f}."
    )
    return [
        "| metric | test (95 % interval over cells) | better |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {interval.text()} | {'higher' if properties_of(name).higher_is_better else 'lower'} |"
            for name, interval in found.items()
        ),
        "",
        told,
        "",
        "| class | precision | recall | F1 | test cells |",
        "| --- | --- | --- | --- | --- |",
        *per_class,
    ]


def _licence(rebuilt: Rebuilt) -> str:
    if rebuilt.bench is None:
        return "unknown (the cells were not available when this card was written)"
    licence = rebuilt.bench.cells(rebuilt.record.trial).licence
    return licence if licence != "unknown" else "unknown: not stated by the data set; ask the images' authors"


def _ece(rebuilt: Rebuilt) -> str:
    value = rebuilt.record.result.metrics.get("test", {}).get("ece")
    return "unknown" if value is None else f"{value:.3f}"


def _packages(format_name: str) -> str:
    return {"onnx": "onnxruntime and numpy", "torch-export": "torch and numpy", "safetensors": "wbcbench"}[
        format_name
    ]


def run_lines(card: str) -> str:
    """The code in a card."""
    return card.split("```python\n", 1)[1].split("\n```", 1)[0]


__all__ = ["MISSING", "RUN", "model_card", "run_lines"]
