import math

import numpy as np
import pytest
from sklearn import metrics as sk

from wbcbench.evaluation.metrics import METRICS, ece, reliability, score

ABC = ("a", "b", "c")


def test_hand_computed():
    p = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]
    s = score(p, np.array([0, 1, 1, 2]), ABC)
    assert set(s.summary) == set(METRICS)
    assert s.summary["accuracy"] == 0.75
    assert s.summary["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert s.summary["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert s.summary["nll"] == pytest.approx((3 * math.log(2) + math.log(4)) / 4)
    right, wrong = 0.5**2 + 2 * 0.25**2, 0.75**2 + 0.5**2 + 0.25**2
    assert s.summary["brier"] == pytest.approx((3 * right + wrong) / 4)
    assert s.summary["ece"] == pytest.approx(0.25)
    assert s.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert s.per_class["b"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2.0}


@pytest.mark.parametrize("seed", range(20))
def test_against_sklearn(seed: int) -> None:
    """Any number of classes, one of them perhaps without cells or never predicted, and tied probabilities."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(2, 7)), int(rng.integers(5, 200))
    names, ks = tuple("abcdef"[:k]), list(range(k))
    p = rng.dirichlet(np.full(k, 0.3), n).round(int(rng.integers(1, 5))).astype(np.float32) + 1e-6
    p = (p / p.sum(1, keepdims=True)).astype(np.float32)
    y = rng.integers(0, max(2, k - seed % 2), n)
    y[:2] = 0, 1
    s = score(p, y, names)
    q = p.astype(float) / p.astype(float).sum(1, keepdims=True)
    guess, here = q.argmax(1), np.unique(y).tolist()
    expected = {
        "accuracy": sk.accuracy_score(y, guess),
        "balanced_accuracy": sk.recall_score(y, guess, labels=here, average="macro", zero_division=0),
        "macro_f1": sk.f1_score(y, guess, labels=ks, average="macro", zero_division=0),
        "auroc": np.mean([sk.roc_auc_score(y == c, q[:, c]) for c in here]),
        "nll": sk.log_loss(y, q, labels=ks),
    }
    assert {m: s.summary[m] for m in expected} == pytest.approx(expected, abs=1e-12)
    assert s.confusion == sk.confusion_matrix(y, guess, labels=ks).tolist()
    each = np.array([[c[m] for m in ("precision", "recall", "f1", "support")] for c in s.per_class.values()])
    theirs = np.array(sk.precision_recall_fscore_support(y, guess, labels=ks, zero_division=0))
    assert np.allclose(each.T, theirs, atol=1e-12)


def test_absent_class_counts_in_f1_only():
    p = np.eye(3)[[0, 1, 0, 1]] * 0.7 + 0.1
    s = score(p, np.array([0, 1, 0, 1]), ABC).summary
    assert (s["balanced_accuracy"], s["auroc"]) == (1.0, 1.0)
    assert s["macro_f1"] == pytest.approx(2 / 3)


def test_one_class_has_no_auroc():
    assert score([[0.9, 0.1]], np.array([0]), ("a", "b")).summary["auroc"] is None


@pytest.mark.parametrize(
    ("p", "y"),
    [
        ([[0.5, 0.2, 0.2]], [0]), ([[np.nan, 0.5, 0.5]], [0]), ([[1.5, -0.5, 0.0]], [0]),
        ([[1.0, 0.0, 0.0]], [3]), ([[1.0, 0.0, 0.0]], [0.0]), ([[1.0, 0.0]], [0]), (np.zeros((0, 3)), []),
    ],
)  # fmt: skip
def test_refuses(p, y):
    with pytest.raises(ValueError, match="Expected"):
        score(p, np.array(y), ABC)


def test_ece_closed_form():
    p = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    y = np.array([0] * 7 + [1] * 3 + [0] * 6 + [1] * 4)
    assert ece(p, y) == pytest.approx(0.5 * 0.2)
    r = reliability(p, y)
    assert r.counts.sum() == 20
    assert r.accuracy[r.counts > 0] == pytest.approx([0.6, 0.7])
    assert ece(np.array([[1.0, 0.0]]), np.array([0])) == 0
