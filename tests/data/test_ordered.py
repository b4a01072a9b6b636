"""Classes in an order: what a data set declares, what boards and records then show, and the loss that uses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import cohen_kappa_score
from wbcbench_plugins.policies.sord import SORD, soft_labels

import wbcbench
from wbcbench.boards import Options, report
from wbcbench.contracts import Progress
from wbcbench.errors import DataError
from wbcbench.records.schema import ComparisonKey
from wbcbench.records.store import Store
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.policies import policy_step
from wbcbench.testing.records import fake_record, fake_trial
from wbcbench.testing.toys import build_toy, set_up, toy_batch, toy_draw, toy_task
from wbcbench.training.supervision import with_labels

STAGES = ["myelocyte", "band", "segmented"]


def npz(folder: Path, labels: np.ndarray, **more: Any) -> Path:
    path = folder / "cells.npz"
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8, 2), dtype=np.uint8)
    np.savez(path, image=images, label=labels, **more)
    return path


def dataset(name: str, **params: Any) -> Any:
    cls = component_class("dataset", name)
    return cls(cls.Params(**params))


@pytest.mark.parametrize("coded", [False, True])
def test_an_npz_file_is_sorted_by_the_order_that_is_stated(coded: bool, tmp_path: Path) -> None:
    words = np.array(STAGES * 6)
    names = sorted(STAGES)
    labels = np.array([names.index(w) for w in words]) if coded else words
    path = npz(tmp_path, labels, **({"classes": np.array(names)} if coded else {}))
    plain, ordered = dataset("npz", path=str(path)), dataset("npz", path=str(path), classes_order=STAGES)
    assert (plain.describe().classes, plain.describe().ordered) == (tuple(names), False)
    assert (ordered.describe().classes, ordered.describe().ordered) == (tuple(STAGES), True)
    cells = ordered.load()
    assert cells.ordered
    assert [cells.classes[k] for k in cells.labels] == words.tolist()
    assert plain.describe().fingerprint != ordered.describe().fingerprint == cells.fingerprint
    assert "classes_order" not in plain.public_params(), "trial ids stay"
    assert ordered.public_params()["classes_order"] == STAGES


def test_a_manifest_too_and_numbers_as_classes(tmp_path: Path) -> None:
    from PIL import Image

    lines = ["image,label"]
    for i in range(6):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 3}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    plain = dataset("folder", path=str(tmp_path))
    ordered = dataset("folder", path=str(tmp_path), classes_order=[2, 0, 1])
    assert ordered.describe().classes == ("2", "0", "1")
    assert ordered.load().labels.tolist() == [1, 2, 0, 1, 2, 0]
    assert plain.describe().fingerprint != ordered.describe().fingerprint == ordered.load().fingerprint


def test_an_order_of_other_classes_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, np.array(STAGES * 6))
    for wrong in (STAGES[:2], [*STAGES, "blast"], [*STAGES, "band"]):
        with pytest.raises(DataError, match=r"Expected dataset\.classes_order as all classes"):
            dataset("npz", path=str(path), classes_order=wrong).describe()


def ordered_store(folder: Path) -> Store:
    store = Store(folder / "store")
    for seed in (0, 1):
        for fusion, skill in (("gated", 2.0), ("independent", 1.0)):
            fake_record(store, fake_trial(seed, fusion=fusion), seed, skill=skill, ordered=True)
    return store


def test_boards_and_records_of_ordered_classes_have_the_metrics_of_the_order(tmp_path: Path) -> None:
    store = ordered_store(tmp_path)
    (board,) = report([store], Options(resamples=200)).boards
    assert [m.name for m in board.more_metrics] == ["quadratic_kappa", "ordinal_mae"]
    row = board.rows[0]
    assert row.metrics["quadratic_kappa"].low < row.metrics["quadratic_kappa"].mean
    frame = wbcbench.load_records(store.root).frame()
    record = wbcbench.load_records(store.root)[0]
    arrays = record.predictions
    kappa = cohen_kappa_score(arrays["test_labels"], arrays["test_probabilities"].argmax(1), weights="quadratic")
    assert frame.loc[0, "test_quadratic_kappa"] == pytest.approx(kappa)
    assert {"val_quadratic_kappa", "test_ordinal_mae"} <= set(frame.columns)
    (ranked,) = wbcbench.leaderboard(store.root, by="ordinal_mae", resamples=100).boards
    means = [r.metrics["ordinal_mae"].mean for r in ranked.rows]
    assert means == sorted(means)
    assert len(ranked.more_metrics) == 2


def test_the_key_of_unordered_classes_is_what_it_was() -> None:
    told: dict[str, Any] = {"fingerprint": "f" * 16, "split": "s" * 16, "classes": ("a", "b")}
    trial = fake_trial(0)
    plain, ordered = (ComparisonKey.of(trial, **told, ordered=o) for o in (False, True))
    assert "ordered" not in plain.model_dump()
    assert plain.digest != ordered.digest
    assert plain.diff(ordered) == ["ordered: False != True"]


def test_soft_labels_in_closed_form() -> None:
    """Equation 1 of Diaz and Marathe: exp(-phi(t, i)) / sum_k exp(-phi(t, k))."""
    found = soft_labels(3, 2.0, 2.0)
    e = np.exp
    first = np.array([1, e(-2), e(-8)]) / (1 + e(-2) + e(-8))
    middle = np.array([e(-2), 1, e(-2)]) / (1 + 2 * e(-2))
    np.testing.assert_allclose(found.numpy(), [first, middle, first[::-1]], rtol=1e-6)
    torch.testing.assert_close(soft_labels(4, 200.0, 1.0), torch.eye(4))


@pytest.mark.parametrize("name", ["early", "late", "centralnet", "moe"])
def test_the_loss_is_the_cross_entropy_with_soft_labels(name: str) -> None:
    task = toy_task(2, classes=4)
    fusion = build_toy(component_class("fusion", name), task).train()
    policy = SORD(SORD.Params(alpha=0.7, power=1.0))
    set_up(policy, fusion)
    batch = toy_batch(task)
    outputs = with_labels(fusion(batch.images), batch)
    plain = fusion.task_terms(outputs, batch, Progress(0, 2, 0, 1))
    found = policy.task_terms(plain, outputs, batch, Progress(0, 2, 0, 1))
    assert set(found) == set(plain)
    for route, term in found.items():
        if route not in outputs:
            assert term is plain[route]
            continue
        targets = soft_labels(4, 0.7, 1.0)[batch.labels]
        expected = F.cross_entropy(outputs[route].logits, targets, reduction="none")
        hard = F.cross_entropy(outputs[route].logits, batch.labels, reduction="none")
        factor = (plain[route] / hard).mean().detach()  # that the fusion has on this route
        torch.testing.assert_close(term, factor * expected)


def test_rows_that_show_nothing_are_left_out() -> None:
    task = toy_task(2)
    fusion = build_toy(component_class("fusion", "late"), task).train()
    batch = toy_batch(task)
    batch.present = torch.tensor([[True, i % 2 == 0] for i in range(8)])
    policy = SORD(SORD.Params())
    set_up(policy, fusion)
    terms, outputs, _ = policy_step(fusion, [policy], batch, Progress(0, 2, 0, 1, toy_draw()))
    route = task.modalities[1]
    targets = soft_labels(3, 2.0, 2.0)[batch.labels]
    each = F.cross_entropy(outputs[route].logits, targets, reduction="none")
    torch.testing.assert_close(terms[route], each[::2].mean())


def test_without_an_order_it_is_refused_and_with_one_trained(
    train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    method = ("--fusion", "early", "--kd", "none", "--policy", "sord", "--backbone", "cellnet:width=4")
    said = train(*method, code=2)["stderr"]
    assert "--set dataset.classes_order=[" in said
    hint = said.rpartition("--set ")[2].split()[0]
    done = train(*method, "--set", hint)
    assert done["records"][-1]["status"] == "done"
    (record,) = wbcbench.load_records(tmp_path / "store")
    assert record.result.key.ordered
    said = train(*method, "--set", hint, "--set", "training.label_smoothing=0.1", code=2)["stderr"]
    assert "label_smoothing" in said
    assert "'sord' replaces every loss" in said


def test_it_is_offered_by_name() -> None:
    assert registry().get("policy", "soft_ordinal").name == "sord"
