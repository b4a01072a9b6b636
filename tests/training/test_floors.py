"""The floors of a leaderboard: most frequent class, chance, a linear model on hand-made features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from wbcbench_plugins.fusions.handcrafted import PER_CHANNEL, Handcrafted, channel_features
from wbcbench_plugins.fusions.knn import FLOOR, Knn
from wbcbench_plugins.fusions.random_guess import RandomGuess

from wbcbench.records.store import Record, Store
from wbcbench.testing.toys import build_toy, toy_batch, toy_task

Train = Callable[..., dict[str, Any]]


def record_of(document: dict[str, Any]) -> Record:
    (row,) = document["records"]
    assert row["status"] == "done", row["error"]
    return Store(Path(row["path"]).parents[1]).load(row["trial_id"], verify="full")


def test_majority_says_the_same_of_every_cell(train: Train) -> None:
    record = record_of(train("--fusion", "majority"))
    probabilities = record.predictions["test_probabilities"]
    assert (probabilities == probabilities[0]).all()
    summary = record.result.metrics["test"]
    assert summary["balanced_accuracy"] == pytest.approx(1 / probabilities.shape[1])
    assert record.result.cost.params == 0
    assert record.result.cost.epochs_run == 1


def test_chance_follows_the_seed_and_the_frequencies() -> None:
    task = toy_task(2, classes=3)
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    images = toy_batch(task, cells=4000).images
    said = []
    for seed in (0, 0, 1):
        fusion = build_toy(RandomGuess, task, seed).eval()
        fusion.solve(fusion.features(images, None), labels, torch.ones(3))
        probabilities = fusion.predict(fusion(images))
        assert torch.allclose(probabilities.sum(1), torch.ones(4000))
        said.append(probabilities.argmax(1))
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])
    shares = torch.bincount(said[0]).float() / 4000
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)  # 4 standard errors


def test_features_are_those_documented() -> None:
    x = torch.randn(5, 12, 12, dtype=torch.float64)
    found = channel_features(x)
    assert found.shape == (5, PER_CHANNEL)
    flat = x.flatten(1).numpy()
    assert np.allclose(found[:, 0], flat.mean(1))
    assert np.allclose(found[:, 1], flat.std(1, ddof=1))
    assert np.allclose(found[:, 3:8], np.quantile(flat, [0.1, 0.25, 0.5, 0.75, 0.9], axis=1).T)
    y, z = np.diff(x.numpy(), axis=1)[:, :, :-1], np.diff(x.numpy(), axis=2)[:, :-1]
    assert np.allclose(found[:, 8], np.hypot(y, z).mean((1, 2)))
    bright = torch.zeros(1, 12, 12, dtype=torch.float64)
    bright[:, 5:7, 5:7] = 1  # all in the innermost ring
    rings = channel_features(bright)[0, -4:]
    assert rings[0] > 0
    assert (rings[1:] == 0).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_handcrafted_is_scikit_learns_logistic_regression(classes: int) -> None:
    task = toy_task(2, classes=classes)
    batch = toy_batch(task, cells=90)
    weights = torch.linspace(0.5, 1.5, classes)
    fusion = build_toy(Handcrafted, task).eval()
    features = fusion.features(batch.images, None)
    fusion.solve(features, batch.labels, weights)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1000, class_weight=dict(enumerate(weights.tolist())))
    ).fit(features.double().numpy(), batch.labels.numpy())
    expected = model.predict_proba(features.double().numpy())
    assert np.allclose(fusion.predict(fusion(batch.images)).detach().numpy(), expected, atol=1e-4)


def test_a_class_without_training_cells_is_never_said() -> None:
    task = toy_task(1, classes=3)
    batch = toy_batch(task, cells=40)
    fusion = build_toy(Handcrafted, task).eval()
    fusion.solve(fusion.features(batch.images, None), batch.labels * 0 + (batch.labels > 0) * 2, torch.ones(3))
    assert (fusion.predict(fusion(batch.images)).argmax(1) != 1).all()


def test_a_floor_takes_neither_distiller_nor_policy(train: Train) -> None:
    assert "nothing to teach" in train("--fusion", "handcrafted", "--kd", "logits", code=2)["stderr"]
    assert "nothing to change" in train("--fusion", "majority", "--policy", "aux_heads", code=2)["stderr"]


def test_a_floor_is_a_record_like_any_other(train: Train) -> None:
    first = record_of(train("--fusion", "handcrafted", store="a"))
    again = record_of(train("--fusion", "handcrafted", store="b"))
    assert first.result.digest == again.result.digest
    assert record_of(train("--fusion", "random_guess")).result.cost.params == 0


@pytest.mark.parametrize("k", [1, 5, 500])
def test_knn_votes_as_in_dino(k: int) -> None:
    """Softmax of cosine similarity / temperature over the k nearest, times class weights; stored with cells."""
    task = toy_task(1, classes=3)
    batch = toy_batch(task, cells=40)
    weights = torch.tensor([1.0, 0.5, 2.0])
    fusion = build_toy(Knn, task, k=k).eval()
    bank = fusion.features(batch.images, None)
    fusion.solve(bank, batch.labels, weights)
    images = toy_batch(task, cells=9, seed=3).images
    similar = (fusion.features(images, None) @ bank.T).double().numpy()
    expected = np.zeros((9, 3))
    for row, values in enumerate(similar):
        for i in np.argsort(-values)[:k]:
            expected[row, batch.labels[i]] += np.exp(values[i] / 0.07) * float(weights[batch.labels[i]])
    expected = np.maximum(expected / expected.sum(1, keepdims=True), FLOOR)
    expected /= expected.sum(1, keepdims=True)
    again = build_toy(Knn, task, k=k).eval()
    again.load_state_dict(fusion.state_dict())
    for one in (fusion, again):
        assert np.allclose(one.predict(one(images)).numpy(), expected, atol=1e-4)


def test_knn_refuses_random_weights(train: Train) -> None:
    said = train("--fusion", "knn", code=2)["stderr"]
    assert "trains no backbone, but 'cellnet' starts from random weights" in said
