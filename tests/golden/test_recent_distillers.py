"""Distillers of 2023 to 2026 against NumPy and SciPy: values and gradients by a second route, and invariants.

Each loss is computed twice: by the component, and here by loops over plain probabilities, without logarithms or
torch. Gradients are compared with central differences of the second route. Inputs are the closed forms of
`wbcbench.testing.losses`. What is common to all distillers of logits is in `test_logits_family`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor
from wbcbench_plugins.distillers import (
    abkd,
    cankd,
    cat_kd,
    ikl,
    ldrld,
    luminet,
    mad,
    sdd,
    sortkd,
    unpaired,
    vkd,
    wkd_f,
    wkd_l,
    wttm,
)
from wbcbench_plugins.distillers._parts import cosine_decay, transport_plan
from wbcbench_plugins.distillers.logits import kd_loss
from wbcbench_plugins.distillers.sp import sp_loss
from wbcbench_plugins.distillers.swap import swapped

from wbcbench.contracts import Output, Progress
from wbcbench.errors import IncompatibleError
from wbcbench.testing import evaluate_distiller
from wbcbench.testing.components import component_class
from wbcbench.testing.distillers import shapes_of
from wbcbench.testing.losses import closed_forms

Array = NDArray[np.float64]
X = closed_forms()
N = {name: value.numpy() for name, value in X.items()}
Y = N["y"]
W_S, W_T = 0.5 * X["W1"][:, :3], X["W2"][:, :3]
"""Classifiers [5, 3] of the three channels of the maps."""
LATE = Progress(epoch=1, epochs=2, step=0, steps=1)


def softmax(z: Array) -> Array:
    powers: Array = np.exp(z)
    return powers / powers.sum(-1, keepdims=True)


def kl(p: Array, q: Array) -> float:
    return float((p * np.log(p / q)).sum())


def unit(x: Array) -> Array:
    normed: Array = x / np.sqrt((x * x).sum(-1, keepdims=True))
    return normed


def blocks(maps: Array, side: int) -> list[tuple[slice, slice]]:
    step = maps.shape[-1] // side
    return [
        (slice(i * step, (i + 1) * step), slice(j * step, (j + 1) * step))
        for i, j in product(range(side), repeat=2)
    ]


def sinkhorn(a: Array, b: Array, cost: Array, regularisation: float, iterations: int) -> Array:
    """The plan from scaling factors: rows of the kernel times columns, in plain numbers."""
    kernel, u = np.exp(-cost / regularisation), np.ones(len(a))
    v = np.ones(len(b))
    for _ in range(iterations):
        v = b / (kernel.T @ u)
        u = a / (kernel @ v)
    plan: Array = u[:, None] * kernel * v
    return plan


# The second routes. All return the mean over the batch of the summed, unweighted terms.


def of_wttm(s: Array) -> float:
    found = 0.0
    for z, t in zip(s, N["z_t"], strict=True):
        power = softmax(t) ** 0.2
        found += power.sum() * kl(power / power.sum(), softmax(z))
    return found / 4


def of_sortkd(s: Array) -> float:
    found = 0.0
    for z, t, y in zip(s, N["z_t"], Y, strict=True):
        sorted_ = np.empty(5)
        ranking = [y, *(c for c in sorted(range(5), key=lambda c: -t[c]) if c != y)]
        for value, c in zip(sorted(t, reverse=True), ranking, strict=True):
            sorted_[c] = value
        found += 16 * kl(softmax(sorted_ / 4), softmax(z / 4))
    return found / 4


def of_abkd(s: Array) -> float:
    p, q, a, b = softmax(N["z_t"] / 4), softmax(s / 4), 0.8, 0.3
    return float(-(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum() / (a * b) / 4)


def of_ikl(s: Array) -> float:
    found = 0.0
    for z, t in zip(s, N["z_t"], strict=True):
        w = softmax(t / 100)
        pairs = sum(w[j] * w[k] * ((t[j] - t[k]) - (z[j] - z[k])) ** 2 for j, k in product(range(5), repeat=2))
        found += 8 * pairs / 4 + kl(softmax(t / 4), softmax(z / 4))
    return found / 4


def of_luminet(s: Array) -> float:
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (s, N["z_t"]))
    return sum(kl(softmax(t / 4), softmax(z / 4)) for z, t in zip(a, b, strict=True)) / 4


def of_ldrld(s: Array) -> float:
    found = 0.0
    for z, t in zip(s, N["z_t"], strict=True):
        order = sorted(range(5), key=lambda c: -z[c])
        sets = [((i + 1, j + 1), [order[i], order[j]]) for i, j in combinations(range(3), 2)]
        terms = [16 * kl(softmax(t[order[:3]] / 4), softmax(z[order[:3]] / 4))]
        for (i, j), pair in sets:
            weight = 2 / (1.5 + abs(i - j)) * np.exp(-0.05 * (i + j))
            terms.append(weight * 16 * kl(softmax(t[pair] / 4), softmax(z[pair] / 4)))
        rest = 16 * kl(softmax(t[order[3:]] / 4), softmax(z[order[3:]] / 4))
        found += 10.5 * np.mean(terms) + 7 * rest
    return float(found / 4)


def of_wkd_l(s: Array) -> float:
    w = unit(N["W1"])
    costs, found = 1 - np.exp(-(1 - w @ w.T)), 0.0
    for z, t, y in zip(s, N["z_t"], Y, strict=True):
        rest = [c for c in range(5) if c != y]
        p, q, c = softmax(z[rest] / 2), softmax(t[rest] / 2), costs[np.ix_(rest, rest)]
        found += 30 * (sinkhorn(p, q, c, 0.05, 10) * c).sum() - softmax(t)[y] * np.log(softmax(z)[y])
    return float(found / 4)


def of_wkd_f(s: Array) -> float:
    found = 0.0
    for z, t in zip(s, N["F_t"], strict=True):
        for rows, columns in blocks(z, 2):
            a, b = (x[:, rows, columns].reshape(3, -1) for x in (z, t))
            d_s, d_t = (np.sqrt(x.var(1, ddof=1) + 1e-5) for x in (a, b))
            found += 4 * ((a.mean(1) - b.mean(1)) ** 2).sum() + ((d_s - d_t) ** 2).sum()
    return float(found / 4 / 4)


def of_sdd(s: Array) -> float:
    found = 0.0
    for z, t, y in zip(s, N["F_t"], Y, strict=True):
        whole = (W_T.numpy() @ t.mean((1, 2))).argmax() == y
        for rows, columns in (part for side in (1, 2, 4) for part in blocks(z, side)):
            a, b = (w.numpy() @ x[:, rows, columns].mean((1, 2)) for w, x in ((W_S, z), (W_T, t)))
            twice = 2 if (b.argmax() == y) != whole else 1
            found += twice * 16 * kl(softmax(b / 4), softmax(a / 4)) / 21
    return float(found / 4)


def of_cat_kd(s: Array) -> float:
    found = 0.0
    for z, t in zip(s, N["F_t"], strict=True):
        pooled = []
        for w, x in ((W_S, z), (W_T, t)):
            seen = np.einsum("kc,chw->khw", w.numpy(), x)
            pooled.append(unit(np.stack([seen[:, r, c].mean((1, 2)) for r, c in blocks(seen, 2)], 1)))
        found += ((pooled[0] - pooled[1]) ** 2).mean()
    return float(found / 4)


def of_mad(s: Array) -> float:
    p = softmax(N["z_t"])
    entropy = -(p * np.log(p)).sum(1)
    g_s, g_t = (unit(f @ f.T) for f in (s, N["f_t"]))
    return float(
        sum(entropy[j] / entropy.sum() * (g_s[i, j] - g_t[i, j]) ** 2 for i, j in product(range(4), repeat=2))
    )


def of_unpaired(s: Array) -> float:
    """The weight of the second cross-entropy is a constant for the gradient, and so has its value at the input."""
    labels = 0.0
    for z, f, at, y in zip(N["z_s"], s, N["f_s"], Y, strict=True):
        weight = softmax(N["W1"] @ at + 0.3)[y]
        labels += (-np.log(softmax(z)[y]) + weight * np.log(softmax(N["W1"] @ f + 0.3)[y])) / 4
    cost = 1 - unit(s) @ unit(N["f_t"]).T
    return float((sinkhorn(np.full(4, 0.25), np.full(4, 0.25), cost, 0.1, 100) * cost).sum() + labels)


def head(weights: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x @ weights.T + 0.3


Route = tuple[
    str, dict[str, Any], str, Callable[[Tensor], dict[str, Any]], dict[str, Any], Callable[[Array], float]
]
LOGITS = {"logits": X["z_t"]}
ROUTES: dict[str, Route] = {
    name: (name, params, "z_s", lambda z: {"logits": z}, teacher, route)
    for name, params, teacher, route in (
        ("wttm", {}, LOGITS, of_wttm),
        ("sortkd", {}, LOGITS, of_sortkd),
        ("abkd", {}, LOGITS, of_abkd),
        ("ikl", {"warmup": 0}, LOGITS, of_ikl),
        ("luminet", {"warmup": 0}, LOGITS, of_luminet),
        ("ldrld", {"top": 3}, LOGITS, of_ldrld),
        ("wkd_l", {}, {**LOGITS, "embedding": X["f_t"], "head": head(X["W1"])}, of_wkd_l),
    )
} | {
    "wkd_f": ("", {}, "F_s", lambda f: {"maps": [f]}, {}, of_wkd_f),
    "sdd": (
        "sdd", {}, "F_s",
        lambda f: {"maps": [f], "embedding": f.mean((2, 3)), "head": lambda x: x @ W_S.T},
        {"maps": [X["F_t"]], "embedding": X["F_t"].mean((2, 3)), "head": lambda x: x @ W_T.T}, of_sdd,
    ),
    "cat_kd": (
        "cat_kd", {}, "F_s",
        lambda f: {"maps": [f], "embedding": f.mean((2, 3)), "head": head(W_S)},
        {"maps": [X["F_t"]], "embedding": X["F_t"].mean((2, 3)), "head": head(W_T)}, of_cat_kd,
    ),
    "mad": ("mad", {}, "f_s", lambda f: {"embedding": f}, {**LOGITS, "embedding": X["f_t"]}, of_mad),
    "unpaired": (
        "unpaired", {}, "f_s", lambda f: {"embedding": f, "logits": X["z_s"]},
        {**LOGITS, "embedding": X["f_t"], "head": head(X["W1"])}, of_unpaired,
    ),
}  # fmt: skip
PURE: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "wkd_f": ("F_s", lambda f: wkd_f.gaussian_distance(f, X["F_t"], 4.0, 2)),
}
"""Losses whose class trains a layer: by their function."""


@pytest.mark.parametrize("name", ROUTES)
def test_value_and_gradient_by_a_second_route(name: str) -> None:
    component, params, given, student, teacher, route = ROUTES[name]
    x = X[given].clone().requires_grad_()
    if name in PURE:
        loss = PURE[name][1](x).mean()
    else:
        loss = evaluate_distiller(component, student(x), teacher, X["y"], LATE, **params)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(route(N[given]), rel=1e-9)
    assert x.grad is not None
    gradient = x.grad.numpy().ravel()
    picked = np.linspace(0, gradient.size - 1, min(gradient.size, 12)).astype(int)
    for i in picked:
        step = np.zeros(gradient.size)
        step[i] = 1e-6
        step = step.reshape(N[given].shape)
        slope = (route(N[given] + step) - route(N[given] - step)) / 2e-6
        assert gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert np.abs(gradient).sum() > 0


CHECKED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "wttm": ("z_s", lambda z: wttm.transformed_loss(z, X["z_t"], 0.3)),
    "abkd": ("z_s", lambda z: abkd.alpha_beta_divergence(z, X["z_t"], 0.8, 0.3, 2.0)),
    "sortkd": ("z_s", lambda z: kd_loss(z, sortkd.label_first(X["z_t"], X["y"]), 4.0)),
    "ikl": ("z_s", lambda z: ikl.pair_differences(z, X["z_t"], 10.0)),
    "luminet": ("z_s", lambda z: kd_loss(luminet.perception(z), luminet.perception(X["z_t"]), 4.0)),
    "ldrld": ("z_s", lambda z: ldrld.local_relations(z, X["z_t"], X["z_t"].topk(3).indices, 4.0)),
    "wkd_l": ("z_s", lambda z: wkd_l.transport_cost(z, X["z_t"], COSTS, 2.0, 0.1, 5)),
    "cat_kd": ("F_s", lambda f: cat_kd.attention_transfer(f, X["F_t"], 2)),
    "sdd": ("z_s", lambda z: sdd.part_loss(z.view(2, 2, 5), X["z_t"].view(2, 2, 5), X["y"][:2], 4.0)),
    "vkd": ("f_s", lambda f: vkd.projected_loss(f, X["f_t"])),
    "vkd basis": ("f_s", lambda f: vkd.orthonormal(f.T)),
    "cankd": ("F_s", lambda f: cankd.standardised_distance(f, X["F_t"])),
    "cankd attention": ("F_s", lambda f: cankd.attended(f, X["F_t"], X["F2_t"])),
    "mad": ("f_s", lambda f: mad.weighted_similarity_loss(f, X["f_t"], mad.uncertainty_shares(X["z_t"]))),
    "unpaired": ("f_s", lambda f: unpaired.feature_transport(f, X["f_t"], 0.2, 20)),
    **PURE,
}
COSTS = wkd_l.class_costs(X["W1"], 1.0)


@pytest.mark.parametrize("name", CHECKED)
def test_gradient_check(name: str) -> None:
    given, loss = CHECKED[name]
    x = X[given][:2] if given.startswith("F") else X[given]
    fixed = {k: X[k] for k in ("F_t", "F2_t")}
    try:
        if given.startswith("F"):
            X.update({k: v[:2] for k, v in fixed.items()})
        assert torch.autograd.gradcheck(loss, (x.clone().requires_grad_(),))
    finally:
        X.update(fixed)


# Identities and invariants.


def test_transformed_teacher_is_a_power_and_no_transformation_is_plain_matching() -> None:
    s, t = X["z_s"], X["z_t"]
    assert torch.allclose(wttm.transformed_loss(s, t, 1.0), kd_loss(s, t, 1.0))
    assert wttm.transformed_loss(0.3 * t + 2, t, 0.3).abs().max() < 1e-12
    flat, sure = torch.zeros(1, 5, dtype=s.dtype), torch.tensor([[99.0, 0, 0, 0, 0]], dtype=s.dtype)
    for teacher, mass in ((flat, 5**0.8), (sure, 1.0)):
        softened = (0.2 * teacher).softmax(1)
        plain = (softened * (softened.log() - s[:1].log_softmax(1))).sum()
        assert torch.allclose(wttm.transformed_loss(s[:1], teacher, 0.2)[0] / plain, torch.tensor(mass).double())


def test_sorting_puts_the_label_first_and_moves_only_what_was_above_it() -> None:
    teacher, label = torch.tensor([[3.0, 1.0, 4.0, 2.0]]), torch.tensor([3])
    assert sortkd.label_first(teacher, label).tolist() == [[2.0, 1.0, 3.0, 4.0]]
    assert swapped(teacher, label).tolist() == [[3.0, 1.0, 2.0, 4.0]], "swapping exchanges two alone"
    found = sortkd.label_first(X["z_t"], X["y"])
    assert torch.equal(found.argmax(1), X["y"])
    assert torch.equal(found.sort(1).values, X["z_t"].sort(1).values)
    assert torch.equal(sortkd.label_first(found, X["y"]), found)


def test_alpha_beta_divergence_lies_between_known_ones() -> None:
    s, t = X["z_s"], X["z_t"]
    p, q = t.softmax(1), s.softmax(1)
    assert torch.allclose(abkd.alpha_beta_divergence(s, t, 1.0, 1.0, 1.0), (p - q).square().sum(1) / 2)
    assert torch.allclose(abkd.alpha_beta_divergence(s, t, 1.0, 1e-6, 1.0), kd_loss(s, t, 1.0), rtol=1e-4)
    assert torch.allclose(abkd.alpha_beta_divergence(s, t, 1e-6, 1.0, 1.0), kd_loss(t, s, 1.0), rtol=1e-4)
    for a, b in ((0.8, 0.3), (0.3, 0.8)):
        forward = abkd.alpha_beta_divergence(s, t, a, b, 2.0)
        assert (forward > 0).all()
        assert torch.allclose(forward, abkd.alpha_beta_divergence(t, s, b, a, 2.0)), "dual to (b, a)"


def test_standing_out_of_the_batch_ignores_location_and_scale_of_a_class() -> None:
    scale, shift = torch.tensor([0.5, 1, 2, 3, 4]).double(), torch.arange(5).double()
    assert torch.allclose(luminet.perception(scale * X["z_s"] + shift), luminet.perception(X["z_s"]), rtol=1e-3)


def test_pairs_of_high_and_near_ranks_count_most() -> None:
    weights = {(i, j): ldrld.pair_weight(i, j) for i, j in combinations(range(1, 8), 2)}
    assert max(weights, key=lambda pair: weights[pair]) == (1, 2)
    assert min(weights, key=lambda pair: weights[pair]) == (1, 7)
    assert weights[1, 2] == pytest.approx(2 * np.exp(-0.15) / 2.5)


@pytest.mark.parametrize("name", ["abkd", "ikl", "ldrld", "luminet", "sortkd", "wttm"])
def test_the_order_of_the_classes_changes_nothing(name: str) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    params = {"warmup": 0} if name in ("ikl", "luminet") else {}
    moved = torch.stack([(order == y).nonzero()[0, 0] for y in X["y"]])
    before, after = (
        evaluate_distiller(name, {"logits": s}, {"logits": t}, labels=y, **params)
        for s, t, y in ((X["z_s"], X["z_t"], X["y"]), (X["z_s"][:, order], X["z_t"][:, order], moved))
    )
    assert torch.allclose(before, after)


def exact_transport(a: Array, b: Array, cost: Array) -> float:
    """The linear programme: the cheapest plan with these row and column sums."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]))
    return float(found.fun)


def test_entropic_transport_has_its_row_sums_and_nears_the_exact_one() -> None:
    p, q = X["z_s"].log_softmax(1), X["z_t"].log_softmax(1)
    costs = COSTS.expand(4, -1, -1)
    blurred = transport_plan(p, q, costs, 0.05, 10)
    assert torch.allclose(blurred.sum(2), p.exp())
    near = (transport_plan(p, q, costs, 0.005, 4000) * costs).sum((1, 2))
    for i in range(4):
        exact = exact_transport(p[i].exp().numpy(), q[i].exp().numpy(), COSTS.numpy())
        assert near[i].item() == pytest.approx(exact, abs=2e-3)
        settled = transport_plan(p[i], q[i], COSTS, 0.05, 1000)
        assert torch.allclose(settled.sum(0), q[i].exp())
        assert (settled * COSTS).sum().item() > exact


def test_transport_between_uniform_batches_nears_the_best_assignment() -> None:
    cost = 1 - unit(N["f_s"]) @ unit(N["f_t"]).T
    best = cost[linear_sum_assignment(cost)].mean()
    found = unpaired.feature_transport(X["f_s"], X["f_t"], 0.005, 2000)
    assert found.mean().item() == pytest.approx(best, abs=2e-3)
    shuffled = unpaired.feature_transport(X["f_s"], X["f_t"][[2, 0, 3, 1]], 0.1, 50)
    assert torch.allclose(shuffled, unpaired.feature_transport(X["f_s"], X["f_t"], 0.1, 50)), "no pairs"
    longer = unpaired.feature_transport(3 * X["f_s"], X["f_t"] * 0.2, 0.1, 50)
    assert torch.allclose(shuffled, longer)


def test_equal_costs_make_the_distance_that_cost() -> None:
    costs = torch.full((5, 5), 0.4, dtype=torch.float64)
    assert torch.allclose(
        wkd_l.transport_cost(X["z_s"], X["z_t"], costs, 2.0, 0.05, 3), torch.full((4,), 0.4, dtype=torch.float64)
    )
    assert COSTS.diagonal().abs().max() < 1e-12
    assert torch.allclose(COSTS, COSTS.T)
    assert (wkd_l.class_costs(X["W1"], 4.0) >= COSTS - 1e-12).all()


def test_labels_are_aligned_by_both_classifiers() -> None:
    """By hand: -log p_S(y) + p_T(y) log p_T(y), where the weight p_T(y) is a constant for the gradient."""
    own, seen = (X[k].clone().requires_grad_() for k in ("z_s", "z_t2"))
    loss = unpaired.label_alignment(own, seen, X["y"])
    p_s, p_t = (softmax(N[k])[range(4), Y] for k in ("z_s", "z_t2"))
    assert loss.tolist() == pytest.approx((-np.log(p_s) + p_t * np.log(p_t)).tolist())
    loss.sum().backward()
    assert seen.grad is not None
    one_hot = np.eye(5)[Y]
    assert np.allclose(seen.grad.numpy(), p_t[:, None] * (one_hot - softmax(N["z_t2"])))


def test_gaussians_ignore_the_order_of_positions() -> None:
    order = torch.tensor([(5 * i) % 16 for i in range(16)])
    moved = X["F_s"].flatten(2)[:, :, order].view_as(X["F_s"])
    assert torch.allclose(
        wkd_f.gaussian_distance(moved, X["F_t"], 4.0), wkd_f.gaussian_distance(X["F_s"], X["F_t"], 4.0)
    )
    assert wkd_f.gaussian_distance(X["F_t"], X["F_t"], 4.0, 4).abs().max() == 0
    shifted = wkd_f.gaussian_distance(X["F_t"] + 0.5, X["F_t"], 4.0)
    assert torch.allclose(shifted, torch.full((4,), 4 * 3 * 0.25, dtype=torch.float64))
    assert wkd_f.cuts(5, 2) == [(0, 3), (2, 5)], "as adaptive pooling has them"
    assert wkd_f.cuts(2, 4) == [(0, 1), (1, 2)]


def test_one_scale_is_the_loss_on_the_logits_and_disagreeing_parts_count_twice() -> None:
    s, t, y = X["z_s"][:, None], X["z_t"][:, None], X["y"]
    assert torch.allclose(sdd.part_loss(s, t, y, 4.0), kd_loss(s[:, 0], t[:, 0], 4.0))
    right, wrong = swapped(X["z_t"], y), -swapped(X["z_t"], y)
    for whole, part, weight in ((right, right, 1), (right, wrong, 2), (wrong, right, 2), (wrong, wrong, 1)):
        found = sdd.part_loss(X["z_s"][:, None].expand(-1, 2, -1), torch.stack([whole, part], 1), y, 4.0)
        assert torch.allclose(2 * found, kd_loss(X["z_s"], whole, 4.0) + weight * kd_loss(X["z_s"], part, 4.0))
    maps = X["F_s"]
    assert torch.allclose(sdd.parts_of(maps, 3)[:, 0], maps.mean((2, 3)))
    assert sdd.parts_of(maps, 3).shape == (4, 21, 3)


def test_activation_maps_ignore_the_bias_and_a_factor_on_a_class() -> None:
    plain, biased = (
        cat_kd.activation_maps(Output(X["z_s"], maps=(X["F_s"],), head=lambda x, b=b: x @ W_S.T + b))
        for b in (0.0, 7.0)
    )
    assert torch.allclose(plain, biased)
    assert torch.allclose(plain.mean((2, 3)), X["F_s"].mean((2, 3)) @ W_S.T), "they average to the logits"
    factors = torch.tensor([0.5, 1, 2, 3, 4]).double()[:, None, None]
    other = torch.einsum("kc,bchw->bkhw", W_T, X["F_t"])
    assert torch.allclose(
        cat_kd.attention_transfer(factors * plain, other, 2), cat_kd.attention_transfer(plain, other, 2)
    )
    assert cat_kd.attention_transfer(other, other, 2).abs().max() == 0


@pytest.mark.parametrize("name", ["sdd", "cat_kd"])
def test_refused_without_a_classifier_of_the_last_map(name: str) -> None:
    side = {"maps": [X["F_s"]], "embedding": X["F_s"].mean((2, 3)), "head": lambda x: x @ W_S.T}
    with pytest.raises(IncompatibleError, match="no single one"):
        evaluate_distiller(name, {k: v for k, v in side.items() if k != "head"}, side, labels=X["y"])
    with pytest.raises(IncompatibleError, match="3 channels, but the classifier reads 6 features"):
        evaluate_distiller(name, side, {**side, "embedding": X["f_t"]}, labels=X["y"])
    with pytest.raises(IncompatibleError, match="gives none"):
        evaluate_distiller(name, {**side, "maps": []}, side, labels=X["y"])


def test_projection_is_a_product_of_reflections_and_keeps_angles() -> None:
    reflectors = X["f_s"].T  # [6, 4]
    expected = np.eye(6)
    for k in range(4):
        v = np.r_[np.zeros(k), 1.0, N["f_s"].T[k + 1 :, k]]
        expected = expected @ (np.eye(6) - 2 * np.outer(v, v) / (v @ v))
    basis = vkd.orthonormal(reflectors)
    assert np.allclose(basis.numpy(), expected[:, :4])
    assert torch.allclose(basis.T @ basis, torch.eye(4, dtype=torch.float64))
    short = X["z_s"][:, :4]
    assert torch.allclose((short @ basis.T) @ (short @ basis.T).T, short @ short.T)


def test_projection_stays_orthogonal_under_weight_decay_and_can_be_learned() -> None:
    """torch's own parametrisation keeps signs in a decaying diagonal, whose columns then vanish."""
    torch.manual_seed(0)
    student, teacher = {"embedding": X["f_s"].float()}, {"embedding": torch.cat([X["f_t"], X["f_t2"]], 1).float()}
    distiller = vkd.VkD(vkd.VkD.Params())
    outputs = [Output(X["z_s"].float(), x["embedding"]) for x in (student, teacher)]
    distiller.setup(shapes_of(*outputs))
    optimiser = torch.optim.AdamW(distiller.parameters(), lr=0.05, weight_decay=1.0)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = distiller.terms(outputs[0], outputs[1], LATE)["feature"].mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    basis = vkd.orthonormal(distiller.reflectors)
    assert torch.allclose(basis.T @ basis, torch.eye(6), atol=1e-5)
    assert losses[-1] < losses[0]


def test_teacher_is_normalised_per_cell() -> None:
    wanted = (N["f_t"] - N["f_t"].mean(1, keepdims=True)) / np.sqrt(N["f_t"].var(1, keepdims=True) + 1e-5)
    apart = np.abs(N["f_s"] - wanted)
    expected = np.where(apart < 1, apart**2 / 2, apart - 0.5).mean(1)
    assert np.allclose(vkd.projected_loss(X["f_s"], X["f_t"]).numpy(), expected)
    assert torch.allclose(vkd.projected_loss(X["f_s"], 9 * X["f_t"] - 4), torch.tensor(expected), rtol=1e-4)


def test_each_position_reads_the_whole_map() -> None:
    q, k, v = (N[x].reshape(4, 3, 16) for x in ("F_s", "F_t", "F2_t"))
    expected = np.zeros((4, 3, 16))
    for b, i, j in product(range(4), range(16), range(16)):
        expected[b, :, i] += (q[b, :, i] @ k[b, :, j]) * v[b, :, j] / 16
    assert np.allclose(cankd.attended(X["F_s"], X["F_t"], X["F2_t"]).numpy().reshape(4, 3, 16), expected)


def test_cross_attention_starts_as_plain_distance_of_standardised_maps() -> None:
    expected = 0.0
    for s, t in zip(N["F_s"].reshape(12, 16), N["F_t"].reshape(12, 16), strict=True):
        a, b = ((x - x.mean()) / np.sqrt(x.var() + 1e-5) for x in (s, t))
        expected += ((a - b) ** 2).mean() / 2 / 12
    student, teacher = {"maps": [X["F_s"]]}, {"maps": [X["F_t"]]}
    assert evaluate_distiller("cankd", student, teacher).item() == pytest.approx(expected, rel=1e-9)
    assert cankd.standardised_distance(3 * X["F_t"] + 2, X["F_t"]).max() < 1e-4


def test_even_uncertainty_makes_it_the_similarity_loss() -> None:
    shares = mad.uncertainty_shares(torch.zeros(4, 5, dtype=torch.float64))
    assert torch.allclose(shares, torch.full((4,), 0.25, dtype=torch.float64))
    assert torch.allclose(mad.uncertainty_shares(1e4 * X["z_t"]), shares), "no uncertainty at all"
    found = mad.weighted_similarity_loss(X["f_s"], X["f_t"], shares).mean()
    assert torch.allclose(found, 4 * sp_loss(X["f_s"], X["f_t"]).mean())
    rotation = torch.linalg.qr(torch.sin(torch.arange(36).double().view(6, 6) ** 2)).Q
    assert torch.allclose(mad.weighted_similarity_loss(2 * X["f_s"] @ rotation, X["f_t"], shares).mean(), found)
    assert mad.weighted_similarity_loss(X["f_t"], X["f_t"], shares).abs().max() < 1e-12


def test_decay_is_half_a_cosine_over_the_rest_of_training() -> None:
    at = [cosine_decay(Progress(e, 8, 0, 1), 0.5) for e in (0, 4, 6, 8)]
    assert at == pytest.approx([1, 1, 0.5, 0])
    assert cosine_decay(Progress(8, 8, 0, 1), 1.0) == 1.0
    first, late = (
        evaluate_distiller("wkd_f", {"maps": [X["F_s"]]}, {"maps": [X["F_t"]]}, progress=p, decay_from=0.0)
        for p in (Progress(0, 2, 0, 1), LATE)
    )
    assert first > 0
    assert late.shape == ()


@pytest.mark.parametrize("case", ["zero", "constant", "large", "equal"])
@pytest.mark.parametrize("name", ["cankd", "cat_kd", "mad", "sdd", "unpaired", "vkd", "wkd_f", "wkd_l"])
def test_values_and_gradients_are_finite_at_the_edges(name: str, case: str) -> None:
    rows = component_class("distiller", name).needs.min_batch  # type: ignore[attr-defined]
    for batch, side in ((rows, 1), (6, 4)):
        student, teacher = (edge(case, batch, side, c) for c in (3, 3 if case == "equal" else 5))
        if case == "equal":
            student.maps, student.embedding, student.logits = teacher.maps, teacher.embedding, teacher.logits
            student.head = teacher.head
            student = student.detach()
        assert student.embedding is not None
        student.logits = student.logits.clone().requires_grad_()
        student.embedding = student.embedding.clone().requires_grad_()
        student.maps = tuple(m.clone().requires_grad_() for m in student.maps)
        loss = evaluate_distiller(name, student, teacher, student.labels, LATE)
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss), (batch, side)
        for x in (student.logits, student.embedding, *student.maps):
            assert x.grad is None or torch.isfinite(x.grad).all(), (batch, side)


def edge(case: str, batch: int, side: int, channels: int) -> Output:
    """An output with a map, its mean, and a classifier of four classes."""
    g = torch.Generator().manual_seed(channels)
    maps = torch.randn(batch, channels, side, side, generator=g)
    maps = {"zero": 0 * maps, "constant": 0 * maps + 3, "large": 1e4 * maps, "equal": maps}[case]
    weights, embedding = torch.randn(4, channels, generator=g), maps.mean((2, 3))
    labels = torch.arange(batch) % 4
    return Output(embedding @ weights.T, embedding, (maps,), labels=labels, head=lambda x: x @ weights.T)
