"""Valid records without training, for tests of stores and leaderboards: ours and plugin authors'."""

from __future__ import annotations

from typing import Any

import numpy as np

from wbcbench.evaluation.metrics import evaluate
from wbcbench.records.schema import ComparisonKey, Cost, Outcome, Used
from wbcbench.records.store import Record, Store
from wbcbench.spec import Component, Method, Protocol, Trial

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
    **protocol: Any,
) -> Trial:
    """A trial that no registry has to know; `protocol` overrides fields of its protocol."""
    fields: dict[str, Any] = {
        "dataset": Component(name="fake"), "modalities": modalities, "image_size": 16,
        "fingerprint": "f" * 16,
    }  # fmt: skip
    return Trial(
        protocol=Protocol(**(fields | protocol)),
        method=Method(
            fusion=Component(name=fusion),
            backbone=Component(name=backbone),
            policies=tuple(Component(name=p) for p in policies),
            distillers=(Component(name=kd),) if kd else (),
            routing=Component(name="matched") if kd else None,
            teachers=teachers,
        ),
        seed=seed,
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
) -> Outcome:
    """The outcome that these predictions would have had."""
    return Outcome(
        key=ComparisonKey.of(trial, fingerprint=trial.protocol.fingerprint, split=split, classes=CLASSES),
        **evaluate(predictions, CLASSES),
        cost=Cost(params=params, macs=2 * params, train_seconds=train_seconds, epochs_run=1, device="cpu"),
        components=[
            Used(kind="fusion", name=trial.method.fusion.name, provider=provider, version="0", sha256=None)
        ],
        pseudo_multimodal=pseudo_multimodal,
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
    **outcome: Any,
) -> Record:
    """Write a valid record and return it.

    Args:
        store: where to.
        trial: what pretended to run; by default `fake_trial(seed)`.
        seed: of the default trial and of the random predictions.
        predictions: instead of random ones.
        skill: how far random predictions lean towards the truth.
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
        history=[{"epoch": 0, "train_loss": 1.0, "val_macro_f1": 0.5}],
        environment={"python": "3.11"},
    )


__all__ = ["CLASSES", "fake_outcome", "fake_predictions", "fake_record", "fake_trial"]
