"""Valid records and packs without training, ways to tamper with them, and a small file of cells, for tests."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wbcbench.evaluation.metrics import evaluate
from wbcbench.publishing.verdict import Judge
from wbcbench.records.schema import FILES, ComparisonKey, Cost, Outcome, Pull, Result, Used, content_digest
from wbcbench.records.store import Record, Store
from wbcbench.spec import ComponentSpec, Method, Protocol, Trial


def write_cells(path: Path, cells: int = 96, classes: int = 3, size: int = 16, seed: int = 0) -> Path:
    """Write an .npz with `image` [N, S, S, 2], `label`, `classes` and an official `split`.

    Each of the two channels shows the class by its brightness, so any network learns it.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(cells) % classes
    image = rng.integers(0, 60, (cells, size, size, 2), dtype=np.uint8)
    image += (labels * (180 // classes)).astype(np.uint8)[:, None, None, None]
    split = np.array(["train", "train", "train", "val", "test", "test"])[(np.arange(cells) // classes) % 6]
    names = np.array(list("abcdefgh"))[:classes]
    np.savez(path, image=image, label=labels, split=split, classes=names)
    return path


CLASSES = ("basophil", "eosinophil", "lymphocyte")


def fake_trial(
    seed: int = 0,
    *,
    fusion: str = "independent",
    backbone: str = "tiny",
    modalities: tuple[str, ...] = ("brightfield", "dapi"),
    teachers: tuple[Trial, ...] = (),
    kd: str | None = None,
    policies: tuple[str, ...] = (),
    fold: int | None = None,
    **protocol: Any,
) -> Trial:
    """A trial whose components need not be registered; `protocol` overrides fields of its protocol."""
    fields: dict[str, Any] = {
        "dataset": ComponentSpec(name="fake"), "modalities": modalities, "image_size": 16,
        "fingerprint": "f" * 16,
    }  # fmt: skip
    return Trial(
        protocol=Protocol(**(fields | protocol)),
        method=Method(
            fusion=ComponentSpec(name=fusion),
            backbone=ComponentSpec(name=backbone),
            policies=tuple(ComponentSpec(name=p) for p in policies),
            distillers=(ComponentSpec(name=kd),) if kd else (),
            routing=ComponentSpec(name="matched") if kd else None,
            teachers=teachers,
        ),
        seed=seed,
        fold=fold,
    )


def fake_predictions(
    seed: int = 0, *, cells: int = 30, routes: tuple[str, ...] = (), skill: float = 1.0
) -> dict[str, np.ndarray[Any, Any]]:
    """Random predictions of `CLASSES` that lean towards the truth by `skill` (0: guessing)."""
    rng = np.random.default_rng(seed)
    k = len(CLASSES)
    labels = np.arange(cells, dtype=np.int64) % k

    def guess() -> np.ndarray[Any, Any]:
        z = rng.normal(size=(cells, k)) + skill * np.eye(k)[labels]
        p = np.exp(z)
        return np.asarray(p / p.sum(axis=1, keepdims=True), dtype=np.float32)

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for offset, side in ((1000, "test"), (2000, "val")):
        arrays |= {
            f"{side}_probabilities": guess(),
            f"{side}_labels": labels,
            f"{side}_cells": np.arange(cells, dtype=np.int64) + offset,
        }
    return arrays | {f"test_route_{name}": guess() for name in routes}


def fake_outcome(
    trial: Trial,
    predictions: dict[str, np.ndarray[Any, Any]],
    *,
    params: int = 1000,
    train_seconds: float = 1.0,
    provider: str = "wbcbench",
    pseudo_multimodal: bool = False,
    split: str = "s" * 16,
    ordered: bool = False,
    pulls: Mapping[str, Pull] | None = None,
) -> Outcome:
    """The outcome that these predictions would have had."""
    return Outcome(
        key=ComparisonKey.of(
            trial, fingerprint=trial.protocol.fingerprint, split=split, classes=CLASSES, ordered=ordered
        ),
        **evaluate(predictions, CLASSES),
        cost=Cost(params=params, macs=2 * params, train_seconds=train_seconds, epochs_run=1, device="cpu"),
        components=[
            Used(kind="fusion", name=trial.method.fusion.name, provider=provider, version="0", sha256=None)
        ],
        pseudo_multimodal=pseudo_multimodal,
        pulls=dict(pulls or {}),
        selected_epoch=0,
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:00:01+00:00",
    )


def fake_record(
    store: Store,
    trial: Trial | None = None,
    seed: int = 0,
    *,
    predictions: dict[str, np.ndarray[Any, Any]] | None = None,
    skill: float = 1.0,
    validation: Sequence[float] = (0.5,),
    **outcome: Any,
) -> Record:
    """Write a valid record and return it.

    Args:
        store: where to write it.
        trial: what is recorded as run; by default `fake_trial(seed)`.
        seed: of the default trial and of the random predictions.
        predictions: instead of random ones.
        skill: how far random predictions lean towards the truth.
        validation: macro-F1 of every epoch.
        outcome: passed to `fake_outcome`.
    """
    import torch

    trial = fake_trial(seed) if trial is None else trial
    if predictions is None:
        predictions = fake_predictions(seed, skill=skill, routes=trial.protocol.modalities)
    return store.write(
        trial,
        fake_outcome(trial, predictions, **outcome),
        predictions=predictions,
        model={"head.weight": torch.full((3, 4), float(seed))},
        history=[{"epoch": i, "train_loss": 1.0, "val_macro_f1": v} for i, v in enumerate(validation)],
        environment={"python": "3.11"},
    )


Files = dict[str, bytes]


def taught(store: Store, seed: int = 0, **kwargs: Any) -> Record:
    """A student, and its teacher in the same store."""
    teacher = fake_trial(7, fusion="single", backbone="large", modalities=("dapi",))
    if not store.has(teacher.id):
        fake_record(store, teacher, 70 + seed)
    return fake_record(store, fake_trial(seed, teachers=(teacher,), kd="logits"), seed, **kwargs)


def unzip(pack: Path) -> Files:
    with zipfile.ZipFile(pack) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(pack: Path, files: Files, *, honest: bool = True, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write the files again; `honest`: with a manifest that has their SHA-256 and digests, as a forger would."""
    if honest:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {n: hashlib.sha256(d).hexdigest() for n, d in files.items() if n != "manifest.json"}
        for trial_id in manifest["records"]:
            result = json.loads(files[f"records/{trial_id}/result.json"])
            manifest["records"][trial_id] = result.get("digest", "")
        files = {**files, "manifest.json": json.dumps(manifest).encode()}
    with zipfile.ZipFile(pack, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return pack


def forge(files: Files, trial_id: str, changes: dict[str, Any] | None = None) -> None:
    """Change fields of a result (`cost.macs` for nested ones) and recompute every digest, as a forger would."""
    at = f"records/{trial_id}/"
    document = json.loads(files[at + "result.json"])
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        inner = document
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    for name in FILES:
        if name != "result.json" and at + name in files:
            document["files"][name] = hashlib.sha256(files[at + name]).hexdigest()
    document["digest"] = content_digest(document["trial_id"], document["files"])
    document["checksum"] = ""
    document["checksum"] = Result.model_validate_json(json.dumps(document)).own_checksum()
    files[at + "result.json"] = json.dumps(document).encode()


def blamed(judge: Judge, level: str = "refuse") -> set[str]:
    """Names of the checks that found something of this level."""
    return {f.check for f in judge.findings if f.level == level}


def said(judge: Judge, check: str) -> str:
    """What one check refused."""
    return " ".join(f.text for f in judge.findings if f.check == check and f.level == "refuse")


def with_file(name: str, data: bytes) -> Callable[[Files, str], None]:
    """A change for `reforged`: another content of one file of the record."""
    return lambda files, at: files.update({at + name: data})


def reforged(
    pack: Path,
    record: Record,
    change: Callable[[Files, str], None] | None = None,
    claims: dict[str, Any] | None = None,
) -> Path:
    """Apply `change` to the pack's files and the prefix of the record's names, then recompute every digest."""
    files = unzip(pack)
    if change is not None:
        change(files, f"records/{record.trial.id}/")
    forge(files, record.trial.id, claims)
    return rezip(pack, files)
