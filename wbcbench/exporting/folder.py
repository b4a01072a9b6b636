"""The folder that is taken away: the model, what it expects, and a card that says what it is good for."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from wbcbench import __version__
from wbcbench.contracts import Preparation
from wbcbench.errors import DataError, UsageError, did_you_mean
from wbcbench.exporting.card import model_card
from wbcbench.exporting.check import TOLERANCE, Agreement, check, made_up
from wbcbench.exporting.formats import FORMATS, need
from wbcbench.inference.network import Network, deployed
from wbcbench.inference.rebuild import Rebuilt
from wbcbench.records.atomic import atomic_folder, json_text, write_synced
from wbcbench.records.store import Store

VERSION = 1


def export(
    rebuilt: Rebuilt, format_name: str, folder: Path, *, store: Store | None = None, tolerance: float = TOLERANCE
) -> Agreement:
    """Write `model.*`, `inputs.json` and `model_card.md` into a new folder, checked, whole or not at all.

    Args:
        rebuilt: the network.
        format_name: a key of `FORMATS`.
        folder: must not hold anything yet.
        store: where the card looks for the same method's other seeds.
        tolerance: largest difference of a probability that is let through.

    Raises:
        UsageError: an unknown format, a missing package, or a folder that holds something.
        NotExportable: the format cannot express the network. Nothing is written.
        Disagrees: what was written answers otherwise than the trained network. Nothing is left.
    """
    if format_name not in FORMATS:
        raise UsageError(
            f"No format is called '{format_name}'.{did_you_mean(format_name, FORMATS)} "
            f"There are: {', '.join(FORMATS)}."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"Expected a new folder, but {folder} is there already. Name another one with -o.")
    if format_name == "onnx":
        need("onnx", "onnxscript", "onnxruntime")
    form = FORMATS[format_name]
    # Weights alone are of the whole network; a graph is of what inference runs of it.
    body = rebuilt.fusion if format_name == "safetensors" else deployed(rebuilt.fusion)
    network = Network(body, rebuilt.statistics).eval()
    outputs = _outputs(rebuilt, network)
    with atomic_folder(folder) as place:
        form.write(rebuilt, network, outputs, place / form.file)
        agreement = check(rebuilt, form.read(rebuilt, place / form.file), outputs, tolerance)
        _sync(place / form.file)
        inputs = document(rebuilt, format_name, outputs, agreement, _sha256(place / form.file))
        write_synced(place / "inputs.json", json_text(inputs).encode())
        write_synced(place / "model_card.md", model_card(rebuilt, inputs, store).encode())
        if format_name == "safetensors":
            write_synced(place / "spec.json", (rebuilt.record.path / "spec.json").read_bytes())
    return agreement


def document(
    rebuilt: Rebuilt, format_name: str, outputs: tuple[str, ...], agreement: Agreement, sha256: str
) -> dict[str, Any]:
    """`inputs.json`: everything a program must know to feed the model and to read its answer."""
    result, side = rebuilt.record.result, rebuilt.task.image_size
    classes = list(rebuilt.task.classes)
    inputs = [
        {
            "name": m,
            "shape": ["batch", len(s.mean), side, side],
            "dtype": f"uint{s.bits}",
            "range": [0, 2**s.bits - 1],
            "mean": list(s.mean),
            "std": list(s.std),
            "brightness": [list(v) for v in s.brightness],
            "contrast": [list(v) for v in s.contrast],
        }
        for m, s in rebuilt.statistics.items()
    ]
    return {
        "version": VERSION,
        "wbcbench": __version__,
        "format": format_name,
        "model": FORMATS[format_name].file,
        "sha256": sha256,
        "trial_id": result.trial_id,
        "record_digest": result.digest,
        "method": result.title,
        "inputs": inputs,
        **_prepared(rebuilt),
        "outputs": [{"name": name, "shape": ["batch", len(classes)]} for name in outputs],
        "classes": classes,
        "missing_modalities": "every input is needed; `wbcbench predict` knows what to do about missing ones",
        "check": {
            "cells": agreement.cells,
            "kind": agreement.kind,
            "largest_difference": agreement.largest,
            "against_record": agreement.stored,
            "tolerance": agreement.tolerance,
            "statistics_from": rebuilt.statistics_from,
        },
    }


def _prepared(rebuilt: Rebuilt) -> dict[str, Any]:
    """How images become inputs, as the data set of training says it."""
    side = rebuilt.task.image_size
    try:
        found = rebuilt.preparation()
        words = found.words
    except DataError as error:  # the network is sound without it, and an old record may not know
        found, words = Preparation(rebuilt.task.channels), f"How images were prepared is not known here: {error}"
    document: dict[str, Any] = {
        "resize": f"Pixels as stored, {side} x {side}. {words} Normalisation is part of the model."
    }
    if found.derive is not None:
        document["derived_from"] = {
            m: {name: found.raw[name] for name in found.parts(m)} for m in rebuilt.statistics
        }
    return document


def _outputs(rebuilt: Rebuilt, network: Network) -> tuple[str, ...]:
    with torch.no_grad():
        return tuple(network({m: torch.from_numpy(x) for m, x in made_up(rebuilt, 2).items()}))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


__all__ = ["VERSION", "document", "export"]
