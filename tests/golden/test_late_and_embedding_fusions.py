"""Fusions of predictions and of embeddings: against independent formulas, by their identities and invariances."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor, nn
from wbcbench_plugins.fusions._modalities import mixture
from wbcbench_plugins.fusions.attention import masked_softmax
from wbcbench_plugins.fusions.best_single import macro_f1
from wbcbench_plugins.fusions.dempster_shafer import dempster
from wbcbench_plugins.fusions.embracenet import embrace
from wbcbench_plugins.fusions.film import film
from wbcbench_plugins.fusions.gmu import gates
from wbcbench_plugins.fusions.late_confidence import confidence, confidence_weights
from wbcbench_plugins.fusions.late_logit import product_of_experts
from wbcbench_plugins.fusions.late_temperature import fit_inverse, scaled_product
from wbcbench_plugins.fusions.late_weighted import fit_weights
from wbcbench_plugins.fusions.lmf import low_rank
from wbcbench_plugins.fusions.max import pool as pool_max
from wbcbench_plugins.fusions.mean import pool as pool_mean
from wbcbench_plugins.fusions.mfb import squeeze
from wbcbench_plugins.fusions.moe import balance, route
from wbcbench_plugins.fusions.multiplicative import interact
from wbcbench_plugins.fusions.stacking import fit_stacker
from wbcbench_plugins.fusions.sum import pool as pool_sum
from wbcbench_plugins.fusions.tfn import outer
from wbcbench_plugins.fusions.token_transformer import attend
from wbcbench_plugins.fusions.vote import majority

from wbcbench.contracts import Combiner, Fusion, Output, Outputs, Progress
from wbcbench.errors import IncompatibleError, UsageError
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.toys import build_toy, toy_batch, toy_task
from wbcbench.training.supervision import with_labels

LATE = (
    "late_prob", "late_logit", "late_temperature", "late_weighted", "late_confidence", "vote", "best_single",
    "stacking", "dempster_shafer",
)  # fmt: skip
POOLED = (
    "concat", "sum", "mean", "max", "attention", "gmu", "film", "tfn", "lmf", "mfb", "mfh", "embracenet",
    "token_transformer", "moe", "multiplicative",
)  # fmt: skip
NATIVE = ("sum", "mean", "max", "attention", "gmu", "lmf", "embracenet", "token_transformer", "moe")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_mask(cells: int, modalities: int) -> Tensor:
    """Every pattern of presence but the empty one, in turn."""
    patterns = [p for p in itertools.product((True, False), repeat=modalities) if any(p)]
    return torch.tensor([patterns[i % len(patterns)] for i in range(cells)])


def fusion_of(name: str, modalities: int = 2, classes: int = 3, **params: Any) -> Fusion:
    cls = component_class("fusion", name)
    fusion: Fusion = build_toy(cls, toy_task(modalities, classes), **params)
    return fusion.eval()


def outputs_of(logits: Tensor) -> Outputs:
    """[B, M, K] as what a fusion of `toy_task(M)` returns."""
    return {m: Output(z, reads=frozenset({m})) for m, z in zip("uvwxyz", logits.unbind(1), strict=False)}


def weights_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def validation(cells: int = 400, modalities: int = 3, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits [N, M, K] of networks of growing noise and overconfidence, and labels."""
    labels = torch.arange(cells) % classes
    signal = 2.0 * F.one_hot(labels, classes).double()[:, None]
    noise = torch.tensor([0.7, 1.5, 6.0], dtype=torch.float64)[:modalities, None]
    scale = torch.tensor([1.0, 3.0, 2.0])[:modalities, None]
    return (signal + noise * randn(cells, modalities, classes)) * scale, labels


# --- predictions ------------------------------------------------------------------------------------------------


def test_late_is_another_name_of_late_prob() -> None:
    assert registry().resolve("fusion", "late").component.name == "late_prob"


def test_late_prob_is_the_mean_of_the_softmaxes_there_are() -> None:
    z, mask = randn(7, 3, 4), some_mask(7, 3)
    p = fusion_of("late_prob", 3, 4).predict(outputs_of(z), mask)
    for row in range(7):
        expected = torch.stack([z[row, m].softmax(0) for m in range(3) if mask[row, m]]).mean(0)
        assert torch.allclose(p[row].double(), expected, atol=1e-6)


def test_late_logit_is_the_normalised_product_of_experts() -> None:
    z, mask = randn(7, 3, 4), some_mask(7, 3)
    p = product_of_experts(z, mask)
    for row in range(7):
        there = [z[row, m].softmax(0) for m in range(3) if mask[row, m]]
        product = math.prod(t ** (1 / len(there)) for t in there)
        assert torch.allclose(p[row], product / product.sum())


def test_mixture_loops_and_falls_back() -> None:
    p, mask, w = randn(7, 3, 4).softmax(2), some_mask(7, 3), torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
    mixed = mixture(p, w, mask)
    for row in range(7):
        own = [(w[m] if mask[row].any() else 1.0, p[row, m]) for m in range(3) if mask[row, m]]
        if sum(a for a, _ in own) == 0:
            own = [(1.0, q) for _, q in own]
        assert torch.allclose(mixed[row], sum(a * q for a, q in own) / sum(a for a, _ in own))  # type: ignore[arg-type]


def test_temperatures_are_at_the_minimum_and_match_a_grid() -> None:
    z, y = validation()
    inverse = fit_inverse(z, y).requires_grad_()
    everything = torch.ones(z.shape[:2], dtype=torch.bool)
    loss = F.nll_loss(scaled_product(z, inverse, everything).log(), y)
    (gradient,) = torch.autograd.grad(loss, inverse)
    assert gradient.abs().max() < 1e-4
    alone = fit_inverse(z[:, 1:2], y)
    grid = torch.linspace(0.01, 3, 3000, dtype=torch.float64)
    best = grid[torch.stack([F.cross_entropy(z[:, 1] * b, y) for b in grid]).argmin()]
    assert abs(float(alone) - float(best)) < 2e-3


@pytest.mark.parametrize("combine", ["product", "mean"])
def test_temperatures_survive_and_scale_each_modality(combine: str) -> None:
    z, y = validation()
    fusion = fusion_of("late_temperature", 3, 4, combine=combine)
    before = F.nll_loss(fusion.predict(outputs_of(z)).log(), y)
    fusion.fit_combiner(outputs_of(z), y)
    after = F.nll_loss(fusion.predict(outputs_of(z)).log(), y)
    assert after < before
    twin = fusion_of("late_temperature", 3, 4, combine=combine)
    twin.load_state_dict(fusion.state_dict())
    assert torch.equal(twin.predict(outputs_of(z)), fusion.predict(outputs_of(z)))
    # a network that multiplies its logits by c gets c times the temperature: the prediction stays
    scaled = z * torch.tensor([1.0, 2.0, 0.5])[:, None]
    twin.fit_combiner(outputs_of(scaled), y)
    assert torch.allclose(twin.predict(outputs_of(scaled)), fusion.predict(outputs_of(z)), atol=1e-3)


def test_an_unfitted_temperature_product_is_late_logit() -> None:
    z = randn(5, 3, 4)
    p = fusion_of("late_temperature", 3, 4).predict(outputs_of(z))
    assert torch.allclose(p, fusion_of("late_logit", 3, 4).predict(outputs_of(z)), atol=1e-6)


@pytest.mark.parametrize("prior", [0.0, 5.0])
def test_mixture_weights_are_the_maximum_on_the_simplex(prior: float) -> None:
    z, y = validation()
    like = z.softmax(2)[torch.arange(len(y)), :, y]
    w = fit_weights(like, prior)
    assert float(w.sum()) == pytest.approx(1)
    # the objective is concave: these conditions of Karush, Kuhn and Tucker hold at its maximum and nowhere else
    slope = (like / (like @ w)[:, None]).sum(0) + prior / w.clamp_min(1e-300)
    level = len(y) + 3 * prior
    assert (slope <= level * (1 + 1e-6)).all()
    assert torch.allclose(slope[w > 1e-6], torch.full_like(slope[w > 1e-6], level))
    assert torch.allclose(fit_weights(like, 1e9), torch.full((3,), 1 / 3, dtype=torch.float64), atol=1e-4)


def test_mixture_weights_match_softmax_weights_found_by_scipy() -> None:
    z, y = validation()
    like = z.softmax(2)[torch.arange(len(y)), :, y]

    def loss(v: np.ndarray) -> float:
        w = torch.from_numpy(v).softmax(0)
        return -float((like @ w).log().sum() + 5.0 * w.log().sum())

    found = torch.from_numpy(minimize(loss, np.zeros(3), method="BFGS").x).softmax(0)
    assert torch.allclose(fit_weights(like, 5.0), found, atol=1e-4)


def test_late_weighted_prefers_the_better_network_and_renormalises() -> None:
    z, y = validation()
    fusion = fusion_of("late_weighted", 3, 4)
    fusion.fit_combiner(outputs_of(z), y)
    w = fusion.weights
    assert isinstance(w, Tensor)
    assert w.argmax() != 2
    assert w.argmin() == 2
    without = torch.tensor([[False, True, True]]).expand(len(y), -1)
    p = z.float().softmax(2)
    expected = (w[1] * p[:, 1] + w[2] * p[:, 2]) / (w[1] + w[2])
    assert torch.allclose(fusion.predict(outputs_of(z), without), expected, atol=1e-6)


def test_confidence_measures() -> None:
    z = randn(5, 3, 4)
    entropy = torch.distributions.Categorical(logits=z).entropy()
    assert torch.allclose(confidence(z, "entropy"), -entropy)
    assert torch.allclose(confidence(z, "energy"), z.exp().sum(2).log())
    assert torch.allclose(confidence(z, "maximum"), z.softmax(2).max(2).values)


def test_confidence_temperature_runs_from_the_surest_to_the_mean() -> None:
    z = randn(6, 3, 4)
    mask = some_mask(6, 3)
    sure = confidence(z, "entropy")
    cold = confidence_weights(sure, mask, 1e-4)
    chosen = torch.where(mask, sure, -torch.inf).argmax(1)
    assert torch.allclose(cold, F.one_hot(chosen, 3).double(), atol=1e-6)
    hot = confidence_weights(sure, mask, 1e9)
    assert torch.allclose(hot, mask / mask.sum(1, keepdim=True).double(), atol=1e-6)
    assert torch.allclose(confidence_weights(sure, mask, 0.5).sum(1), torch.ones(6, dtype=torch.float64))


def test_votes_decide_and_ties_go_by_mean_probability() -> None:
    p = torch.tensor(
        [
            [[0.4, 0.3, 0.3], [0.4, 0.35, 0.25], [0.0, 1.0, 0.0]],  # two weak votes beat one sure one
            [[0.5, 0.1, 0.4], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]],  # a tie: the mean decides
        ]
    )
    everything = torch.ones(2, 3, dtype=torch.bool)
    voted = majority(p, everything)
    assert voted.argmax(1).tolist() == [0, 1]
    assert torch.allclose(voted.sum(1), torch.ones(2))
    p, mask = randn(200, 3, 4, seed=1).softmax(2), some_mask(200, 3)
    for row, guess in enumerate(majority(p, mask).argmax(1).tolist()):
        there = [p[row, m] for m in range(3) if mask[row, m]]
        votes = [sum(int(q.argmax() == k) for q in there) for k in range(4)]
        mean = torch.stack(there).mean(0)
        assert guess == max(range(4), key=lambda k: (votes[k], float(mean[k])))


def test_macro_f1_is_scikit_learn_s() -> None:
    y, guess = torch.arange(50) % 4, (torch.arange(50) * 7 % 11) % 4
    assert float(macro_f1(guess, y, 6)) == pytest.approx(f1_score(y, guess, average="macro"))


@pytest.mark.parametrize("criterion", ["macro_f1", "nll"])
def test_best_single_deploys_one_network_and_falls_back(criterion: str) -> None:
    z, y = validation()
    z = z[:, [2, 0, 1]]  # the second is the best
    fusion = fusion_of("best_single", 3, 4, criterion=criterion)
    images = toy_batch(fusion.task).images
    late = fusion_of("late_prob", 3, 4)
    late.load_state_dict(fusion.state_dict(), strict=False)
    assert torch.allclose(fusion.predict(fusion(images)), late.predict(late(images)), atol=1e-6), (
        "unfitted: the mean"
    )
    assert weights_of(fusion.deploy()) == weights_of(fusion)
    fusion.fit_combiner(outputs_of(z), y)
    p = fusion.predict(fusion(images))
    assert torch.allclose(p, fusion(images)["v"].logits.softmax(1), atol=1e-6)
    networks = fusion.networks
    assert isinstance(networks, nn.Module)
    one = weights_of(networks.backbones["v"]) + weights_of(networks.heads["v"])  # type: ignore[index, operator]
    deployed = fusion.deploy().eval()
    assert weights_of(deployed) == one
    assert torch.allclose(deployed({"v": images["v"]}), p, atol=1e-6)
    absent = torch.tensor([[True, False, True]]).expand(8, -1)
    others = (fusion(images)["u"].logits.softmax(1) + fusion(images)["w"].logits.softmax(1)) / 2
    assert torch.allclose(fusion.predict(fusion(images), absent), others, atol=1e-6)
    assert torch.allclose(fusion.deploy(("u", "w"))(images), others, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("balanced", [False, True])
def test_stacking_is_scikit_learn_s_regression(classes: int, balanced: bool) -> None:
    z, y = validation(classes=classes)
    kept = torch.arange(len(y)) < torch.tensor([400, 250, 150, 80])[y]  # classes of unequal size
    z, y = z[kept], y[kept]
    fusion = fusion_of("stacking", 3, classes, balanced=balanced)
    mean = fusion.predict(outputs_of(z))
    assert torch.allclose(mean.double(), z.softmax(2).mean(1), atol=1e-6), "unfitted: the mean"
    fusion.fit_combiner(outputs_of(z), y)
    features = z.softmax(2).flatten(1).numpy()
    model = LogisticRegression(max_iter=5000, tol=1e-8, class_weight="balanced" if balanced else None)
    expected = torch.from_numpy(model.fit(features, y.numpy()).predict_proba(features))
    assert torch.allclose(fusion.predict(outputs_of(z)).double(), expected, atol=1e-3)
    twin = fusion_of("stacking", 3, classes)
    twin.load_state_dict(fusion.state_dict())
    assert torch.equal(twin.predict(outputs_of(z)), fusion.predict(outputs_of(z)))


def test_stacking_with_classes_that_no_validation_cell_has() -> None:
    z, y = validation()
    kept = y < 2
    weight, bias = fit_stacker(z[kept].softmax(2).flatten(1), y[kept], 4, 1.0, False)
    p = (z[kept].softmax(2).flatten(1).float() @ weight.T + bias).softmax(1)
    assert p[:, 2:].max() < 1e-9
    fusion = fusion_of("stacking", 3, 4)
    fusion.fit_combiner(outputs_of(z[y == 1]), y[y == 1])
    assert not bool(fusion.fitted), "one class says nothing: the mean stays"


def pairwise_dempster(evidences: list[Tensor]) -> Tensor:
    """TMC's rule for two opinions, repeated; one cell, evidence [K] each. Returns alpha / S."""
    k = len(evidences[0])
    belief, doubt = None, None
    for e in evidences:
        strength = e.sum() + k
        b, u = e / strength, k / strength
        if belief is None or doubt is None:
            belief, doubt = b, u
            continue
        conflict = sum(belief[i] * b[j] for i in range(k) for j in range(k) if i != j)
        belief, doubt = (belief * b + belief * u + doubt * b) / (1 - conflict), doubt * u / (1 - conflict)
    assert belief is not None
    assert doubt is not None
    strength = k / doubt
    return (belief * strength + 1) / strength


def test_dempster_is_the_pairwise_rule_in_any_order() -> None:
    evidence = F.softplus(3 * randn(5, 4, 3))
    p = dempster(evidence)
    for row in range(5):
        for order in itertools.permutations(range(4)):
            assert torch.allclose(p[row], pairwise_dempster([evidence[row, m] for m in order]))
    assert torch.allclose(p, dempster(evidence[:, [2, 0, 3, 1]]))


def test_no_evidence_changes_nothing_and_all_of_none_is_uniform() -> None:
    evidence = F.softplus(randn(5, 2, 3))
    silent = torch.cat([evidence, torch.zeros(5, 1, 3, dtype=torch.float64)], 1)
    assert torch.allclose(dempster(silent), dempster(evidence))
    assert torch.allclose(dempster(torch.zeros(2, 3, 4)), torch.full((2, 4), 0.25))
    one = evidence[:, :1]
    assert torch.allclose(dempster(one), (one[:, 0] + 1) / (one[:, 0] + 1).sum(1, keepdim=True)), "Dirichlet mean"
    assert torch.isfinite(dempster(torch.full((1, 6, 3), 1e13))).all()


@pytest.mark.parametrize("evidence", ["softplus", "relu", "exp"])
def test_dempster_shafer_leaves_absent_networks_out(evidence: str) -> None:
    z, fusion = randn(4, 3, 3), fusion_of("dempster_shafer", 3, evidence=evidence)
    present = torch.tensor([[True, False, True]]).expand(4, -1)
    two = fusion_of("dempster_shafer", 2, evidence=evidence).predict(outputs_of(z[:, [0, 2]]))
    assert torch.allclose(fusion.predict(outputs_of(z), present), two, atol=1e-6)


@pytest.mark.parametrize("name", LATE)
def test_late_fusions_cost_m_networks_and_deploy_fewer(name: str) -> None:
    fusion = fusion_of(name, 3)
    k = fusion.task.n_classes
    combiner = (3 * k + 1) * k if name == "stacking" else 0  # of the others it is M numbers in a buffer, or none
    assert weights_of(fusion) == weights_of(fusion_of("late_prob", 3)) + combiner
    if fusion.traits.missing != "native":
        return
    images = toy_batch(fusion.task).images
    present = torch.tensor([[False, True, True]]).expand(8, -1)
    few = fusion.deploy(("v", "w")).eval()
    assert weights_of(few) < weights_of(fusion)
    kept = {m: images[m] for m in ("v", "w")}
    assert torch.allclose(few(kept), fusion.predict(fusion(images), present), atol=1e-6)
    assert tuple(fusion(images)) == ("u", "v", "w"), "deploying changes nothing in the fusion"


@pytest.mark.parametrize("name", [n for n in LATE if n != "stacking"])
def test_predictions_do_not_depend_on_the_order_of_modalities(name: str) -> None:
    z, y = validation()
    mask = some_mask(len(y), 3)
    fusion, turned = fusion_of(name, 3, 4), fusion_of(name, 3, 4)
    if isinstance(fusion, Combiner):
        fusion.fit_combiner(outputs_of(z), y)
        turned.fit_combiner(outputs_of(z[:, [1, 2, 0]]), y)
    p, q = fusion.predict(outputs_of(z), mask), turned.predict(outputs_of(z[:, [1, 2, 0]]), mask[:, [1, 2, 0]])
    assert torch.allclose(p, q, atol=1e-4)
    assert torch.allclose(p.sum(1), torch.ones(len(y)), atol=1e-5)


# --- embeddings -------------------------------------------------------------------------------------------------


def beyond_backbones(name: str, dims: list[int], k: int, **p: Any) -> int:
    """Closed form of the parameters beyond M (P + S), written from the docstrings."""
    m, joined, d = len(dims), sum(dims), max(dims)
    w = p.get("width") or d
    if name == "concat":
        h = p.get("hidden", 0)
        return (joined + 1) * h + (h + 1) * k if h else (joined + 1) * k
    if name in ("sum", "mean", "max", "embracenet"):
        return (joined + m) * w + (w + 1) * k
    if name == "attention":
        return (joined + 1) * m + (joined + m) * w + (w + 1) * k
    if name == "gmu":
        return (joined + m) * w + m * (joined + 1) * w + (w + 1) * k
    if name == "film":
        return 2 * (dims[0] + 1) * dims[1] + (dims[1] + 1) * k
    if name == "tfn":
        return (joined + m) * 16 + (17**m + 1) * 64 + 65 * k
    if name == "lmf":
        return 4 * (joined + m) * 64 + 4 + 64 + 65 * k
    if name == "mfb":
        return (joined + m) * 5 * 128 + 129 * k
    if name == "mfh":
        return 2 * (joined + m) * 5 * 128 + (2 * 128 + 1) * k
    if name == "token_transformer":
        h, layers = 64, p.get("layers", 1)
        return (joined + m) * h + h + layers * (12 * h * h + 13 * h) + 2 * h + (h + 1) * k
    if name == "moe":
        return (joined + 1) * 4 + 4 * (joined + 1) * 64 + 65 * k
    assert name == "multiplicative"
    if p.get("dim", 64) == 0:
        return dims[0] * dims[1] * 64 + (joined + 1) * 64 + 65 * k
    return (joined + m) * 64 + (64 * 64 + 2 * 64 + 1) * 64 + 65 * k


@pytest.mark.parametrize(
    ("name", "params"),
    [(n, {}) for n in POOLED]
    + [
        ("concat", {"hidden": 5}), ("sum", {"width": 6}), ("attention", {"width": 6}), ("gmu", {"width": 6}),
        ("token_transformer", {"layers": 2}), ("multiplicative", {"dim": 0}),
    ],
)  # fmt: skip
def test_parameters_are_the_closed_form(name: str, params: dict[str, Any]) -> None:
    _, high = component_class("fusion", name).traits.arity
    for modalities in {2, min(3, high or 3)}:
        fusion = fusion_of(name, modalities, **params)
        encoders = fusion.encoders
        assert isinstance(encoders, nn.Module)
        extra = weights_of(fusion) - weights_of(encoders)
        assert extra == beyond_backbones(name, [8] * modalities, 3, **params), modalities


def test_attention_has_the_size_of_torchmultimodal_s() -> None:
    # 264,706 weights for two embeddings of 512 to 256, without head
    assert beyond_backbones("attention", [512, 512], 0, width=256) == 264_706


def test_pools_are_loops() -> None:
    x, mask = randn(7, 3, 4), some_mask(7, 3)
    for row in range(7):
        there = x[row][mask[row]]
        assert torch.allclose(pool_sum(x, mask)[row], there.sum(0))
        assert torch.allclose(pool_mean(x, mask)[row], there.mean(0))
        assert torch.allclose(pool_max(x, mask)[row], there.max(0).values)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 4)])
def test_attention_weights_sum_to_one_over_what_is_there(shape: tuple[int, ...]) -> None:
    scores, mask = randn(*shape), some_mask(7, 3)
    a = masked_softmax(scores, mask)
    assert torch.allclose(a.sum(1), torch.ones_like(a.sum(1)))
    assert (a[~mask] == 0).all()
    assert torch.allclose(a[mask.all(1)], scores[mask.all(1)].softmax(1))


def test_gates_sum_to_one_and_two_are_the_paper_s_sigmoid() -> None:
    scores, mask = randn(7, 3, 4), some_mask(7, 3)
    z = gates(scores, mask, "softmax")
    assert torch.allclose(z.sum(1), torch.ones(7, 4, dtype=torch.float64))
    both = torch.ones(7, 2, dtype=torch.bool)
    sigma = torch.sigmoid(scores[:, 0] - scores[:, 1])
    assert torch.allclose(gates(scores[:, :2], both, "softmax"), torch.stack([sigma, 1 - sigma], 1))
    assert torch.allclose(gates(scores, mask, "sigmoid"), scores.sigmoid() * mask[..., None])


def test_gmu_is_the_paper_s_unit() -> None:
    fusion = fusion_of("gmu")
    images = toy_batch(fusion.task).images
    f: Any = fusion
    x, y = f.encoders(images)
    z = torch.sigmoid(f.gates[0](torch.cat([x, y], 1)) - f.gates[1](torch.cat([x, y], 1)))
    h = z * torch.tanh(f.projections[0](x)) + (1 - z) * torch.tanh(f.projections[1](y))
    assert torch.allclose(fusion(images)["joint"].logits, f.head(h), atol=1e-6)


def test_film_is_the_identity_at_zero_and_reads_the_right_one() -> None:
    h, g, b = randn(3, 4), randn(3, 4, seed=1), randn(3, 4, seed=2)
    assert torch.equal(film(h, torch.zeros_like(h), torch.zeros_like(h)), h)
    assert torch.allclose(film(h, g, b), torch.stack([(1 + g[i]) * h[i] + b[i] for i in range(3)]))
    for conditioner, target in (("first", 1), ("second", 0)):
        fusion: Any = fusion_of("film", conditioner=conditioner)
        nn.init.zeros_(fusion.modulation.weight)
        nn.init.zeros_(fusion.modulation.bias)
        images = toy_batch(fusion.task).images
        assert torch.allclose(fusion(images)["joint"].embedding, fusion.encoders(images)[target], atol=1e-6)


def test_outer_product_is_a_loop_and_holds_every_product() -> None:
    a, b, c = randn(2, 2), randn(2, 3, seed=1), randn(2, 4, seed=2)
    product = outer([a, b, c])
    assert product.shape == (2, 3 * 4 * 5)
    one = [torch.cat([torch.ones(2, 1, dtype=torch.float64), t], 1) for t in (a, b, c)]
    for row in range(2):
        loop = [x * y * z for x in one[0][row] for y in one[1][row] for z in one[2][row]]
        assert torch.allclose(product[row], torch.stack(loop))


def test_lmf_is_tfn_contracted_with_its_factors() -> None:
    hs = [randn(5, d, seed=d) for d in (2, 3, 4)]
    factors = [randn(6, d + 1, 7, seed=10 + d) for d in (2, 3, 4)]
    weights, bias = randn(6, seed=20), randn(7, seed=21)
    dense = torch.einsum("r,rao,rbo,rco->abco", weights, *factors).reshape(-1, 7)
    assert torch.allclose(low_rank(hs, factors, weights, bias), outer(hs) @ dense + bias)


def test_lmf_full_rank_is_any_tensor_layer() -> None:
    # two modalities, one output: the layer's matrix by singular values, one factor pair each
    x, y, layer = randn(5, 2), randn(5, 3, seed=1), randn(3, 4, seed=2)
    u, s, v = torch.linalg.svd(layer, full_matrices=False)
    factors = [u.T[..., None], v[..., None]]
    bias = torch.zeros(1, dtype=torch.float64)
    assert torch.allclose(low_rank([x, y], factors, s, bias)[:, 0], outer([x, y]) @ layer.flatten())


def test_tfn_refuses_what_explodes() -> None:
    with pytest.raises(IncompatibleError, match="dim"):
        fusion_of("tfn", 4, dim=32)


def test_mfb_is_a_bilinear_form_of_rank_k_and_unit_length() -> None:
    x, y, u, v = randn(5, 3), randn(5, 4, seed=1), randn(3, 12, seed=2), randn(4, 12, seed=3)
    z = squeeze((x @ u) * (y @ v), 2)  # six outputs of rank two
    raw = torch.stack(
        [((x @ u[:, 2 * o : 2 * o + 2] @ v[:, 2 * o : 2 * o + 2].T) * y).sum(1) for o in range(6)], 1
    )
    expected = F.normalize(raw.sign() * raw.abs().sqrt(), dim=1)
    assert torch.allclose(z, expected, atol=1e-4)
    assert torch.allclose(z.norm(dim=1), torch.ones(5, dtype=torch.float64))
    at_zero = torch.zeros(2, 12, dtype=torch.float64, requires_grad=True)
    squeeze(at_zero, 2).sum().backward()  # type: ignore[no-untyped-call]
    assert at_zero.grad is not None
    assert torch.isfinite(at_zero.grad).all()


def test_mfh_of_order_one_is_mfb() -> None:
    one, mfb = fusion_of("mfh", order=1), fusion_of("mfb")
    renamed = {
        k.replace("blocks.0.0", "first").replace("blocks.0.1", "second"): v for k, v in one.state_dict().items()
    }
    mfb.load_state_dict(renamed)
    images = toy_batch(one.task).images
    assert torch.allclose(one(images)["joint"].logits, mfb(images)["joint"].logits, atol=1e-6)


def test_mfh_chains_its_products() -> None:
    fusion: Any = fusion_of("mfh")
    images = toy_batch(fusion.task).images
    x, y = fusion.encoders(images)
    first, second = ([layer(h) for layer, h in zip(block, (x, y), strict=True)] for block in fusion.blocks)
    e1 = first[0] * first[1]
    z = torch.cat([squeeze(e1, 5), squeeze(e1 * second[0] * second[1], 5)], 1)
    assert torch.allclose(fusion(images)["joint"].embedding, z, atol=1e-6)


def test_multiplicative_is_a_loop() -> None:
    x, z, w = randn(5, 2), randn(5, 3, seed=1), randn(3, 2, 4, seed=2)
    u, v, b = randn(3, 4, seed=3), randn(2, 4, seed=4), randn(4, seed=5)
    out = interact(x, z, w, u, v, b)
    for row, unit in itertools.product(range(5), range(4)):
        loop = sum(z[row, i] * w[i, j, unit] * x[row, j] for i in range(3) for j in range(2))
        loop = loop + z[row] @ u[:, unit] + x[row] @ v[:, unit] + b[unit]
        assert torch.allclose(out[row, unit], loop)
    # as a hypernetwork: the weights and bias that z makes, applied to x
    made = torch.einsum("bi,ijh->bjh", z, w) + v
    assert torch.allclose(out, torch.einsum("bj,bjh->bh", x, made) + z @ u + b)


def test_embrace_takes_each_unit_from_one_that_is_there() -> None:
    docked, mask = randn(7, 3, 400), some_mask(7, 3)
    uniform = torch.rand(7, 400, generator=torch.Generator().manual_seed(0))
    out = embrace(docked, mask, uniform)
    for row in range(7):
        there = [m for m in range(3) if mask[row, m]]
        turn = (uniform[row] * len(there)).floor().long().tolist()
        expected = torch.stack([docked[row, there[t], c] for c, t in enumerate(turn)])
        assert torch.equal(out[row], expected)
        shares = torch.tensor(turn).bincount(minlength=len(there)) / 400
        assert (shares - 1 / len(there)).abs().max() < 0.1
    nearly_one = torch.full((7, 400), 1 - 2**-24)
    last = [max(m for m in range(3) if mask[row, m]) for row in range(7)]
    assert torch.equal(embrace(docked, mask, nearly_one), torch.stack([docked[i, m] for i, m in enumerate(last)]))


def test_embrace_at_test_is_the_expectation() -> None:
    docked, mask = randn(7, 3, 4), some_mask(7, 3)
    draws = torch.rand(4000, 7, 4, generator=torch.Generator().manual_seed(0))
    average = torch.stack([embrace(docked, mask, u) for u in draws]).mean(0)
    assert (average - embrace(docked, mask)).abs().max() < 0.15
    assert torch.allclose(embrace(docked, mask), pool_mean(docked, mask))
    available = F.one_hot(torch.arange(7) % 3, 3).bool()  # a single modality: nothing left to draw
    assert torch.equal(embrace(docked, available, draws[0]), docked[torch.arange(7), torch.arange(7) % 3])


def test_embracenet_draws_in_training_only() -> None:
    fusion = fusion_of("embracenet").train()
    images = toy_batch(fusion.task).images
    torch.manual_seed(0)
    first, second = fusion(images)["joint"].logits, fusion(images)["joint"].logits
    torch.manual_seed(0)
    again = fusion(images)["joint"].logits
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_attention_of_tokens_is_pytorch_s() -> None:
    q, k, v = (randn(5, 2, 4, 3, seed=s) for s in range(3))
    keys = some_mask(5, 4)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=keys[:, None, None])
    assert torch.allclose(attend(q, k, v, keys), expected)


def test_block_is_pytorch_s_pre_norm_layer() -> None:
    fusion: Any = fusion_of("token_transformer", 3)
    ours = fusion.blocks[0]
    theirs = nn.TransformerEncoderLayer(64, 4, 256, 0.0, "gelu", batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_weight": ours.qkv.weight, "self_attn.in_proj_bias": ours.qkv.bias,
        "self_attn.out_proj.weight": ours.out.weight, "self_attn.out_proj.bias": ours.out.bias,
        "linear1.weight": ours.expand.weight, "linear1.bias": ours.expand.bias,
        "linear2.weight": ours.reduce.weight, "linear2.bias": ours.reduce.bias,
        "norm1.weight": ours.norm1.weight, "norm1.bias": ours.norm1.bias,
        "norm2.weight": ours.norm2.weight, "norm2.bias": ours.norm2.bias,
    }  # fmt: skip
    theirs.load_state_dict(names)
    tokens, keys = randn(5, 4, 64).float(), some_mask(5, 4)
    expected = theirs.train()(tokens, src_key_padding_mask=~keys)
    assert torch.allclose(ours(tokens, keys), expected, atol=1e-5)


def test_token_width_must_fit_its_heads() -> None:
    with pytest.raises(UsageError, match="multiple"):
        fusion_of("token_transformer", width=10, heads=4)


def test_routing_is_a_softmax_over_the_best() -> None:
    scores = randn(6, 5)
    g = route(scores, 2)
    assert torch.allclose(g.sum(1), torch.ones(6, dtype=torch.float64))
    assert ((g > 0).sum(1) == 2).all()
    for row in range(6):
        best = scores[row].argsort(descending=True)[:2]
        assert torch.allclose(g[row, best], scores[row, best].softmax(0))
    assert torch.allclose(route(scores, 5), scores.softmax(1))


def test_balance_is_the_switch_loss_from_one_to_e() -> None:
    scores = randn(12, 4)
    p = scores.softmax(1)
    share = F.one_hot(scores.argmax(1), 4).double().mean(0)
    assert torch.allclose(balance(scores, 1).mean(), 4 * (share * p.mean(0)).sum())
    even = 50 * torch.eye(4, dtype=torch.float64).repeat(3, 1)
    assert float(balance(even, 1).mean()) == pytest.approx(1)
    collapsed = torch.zeros(12, 4, dtype=torch.float64)
    collapsed[:, 0] = 50
    assert float(balance(collapsed, 1).mean()) == pytest.approx(4), "everything to one expert"


def test_moe_adds_its_balance_to_the_task() -> None:
    fusion = fusion_of("moe", balance=0.5).train()
    batch = toy_batch(fusion.task)
    outputs = with_labels(fusion(batch.images), batch)
    terms = fusion.task_terms(outputs, batch, Progress(0, 1, 0, 1))
    scores: Any = outputs["joint"]
    assert set(terms) == {"joint", "balance"}
    assert torch.allclose(terms["balance"], 0.5 * balance(scores.scores, 2))
    terms["balance"].mean().backward()  # type: ignore[no-untyped-call]
    router: Any = fusion.router
    assert router.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("top", [1, 2])
def test_the_task_teaches_the_router(top: int) -> None:
    fusion = fusion_of("moe", top=top).train()
    batch = toy_batch(fusion.task)
    outputs = with_labels(fusion(batch.images), batch)
    fusion.task_terms(outputs, batch, Progress(0, 1, 0, 1))["joint"].mean().backward()  # type: ignore[no-untyped-call]
    router: Any = fusion.router
    assert router.weight.grad.abs().sum() > 0


def test_a_single_expert_has_its_probability_among_all() -> None:
    scores = randn(12, 4)
    probability, best = scores.softmax(1).max(1)
    assert torch.equal(route(scores, 1), probability[:, None] * F.one_hot(best, 4))


def test_moe_is_a_loop_over_experts() -> None:
    fusion: Any = fusion_of("moe", 3)
    images = toy_batch(fusion.task).images
    joined = torch.cat(fusion.encoders(images), 1)
    g = route(fusion.router(joined), 2)
    fused = torch.zeros(8, 64)
    for e in range(4):
        rows = slice(64 * e, 64 * (e + 1))
        answer = (joined @ fusion.experts.weight[rows].T + fusion.experts.bias[rows]).relu()
        fused = fused + g[:, e : e + 1] * answer
    assert torch.allclose(fusion(images)["joint"].embedding, fused, atol=1e-5)


def test_concat_is_a_sum_of_slices() -> None:
    fusion: Any = fusion_of("concat", 3)
    images = toy_batch(fusion.task).images
    slices = fusion.head.weight.split(8, 1)
    z = sum(h @ w.T for h, w in zip(fusion.encoders(images), slices, strict=True)) + fusion.head.bias
    assert torch.allclose(fusion(images)["joint"].logits, z, atol=1e-6)


@pytest.mark.parametrize("name", NATIVE)
def test_native_fusions_survive_what_is_not_a_number(name: str) -> None:
    fusion = fusion_of(name, 3)
    images = toy_batch(fusion.task).images
    present = some_mask(8, 3)
    hurt = {m: torch.where(present[:, i, None, None, None], images[m], torch.nan) for i, m in enumerate("uvw")}
    out = fusion(hurt, present)["joint"].logits
    assert torch.equal(out, fusion(images, present)["joint"].logits)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NATIVE)
def test_a_cell_with_nothing_still_gets_a_finite_prediction(name: str) -> None:
    fusion = fusion_of(name, 2)
    nothing = torch.zeros(8, 2, dtype=torch.bool)
    assert torch.isfinite(fusion(toy_batch(fusion.task).images, nothing)["joint"].logits).all()


@pytest.mark.parametrize("name", POOLED)
def test_the_head_reads_the_embedding(name: str) -> None:
    fusion = fusion_of(name)
    out = fusion(toy_batch(fusion.task).images)["joint"]
    assert out.head is not None
    assert out.embedding is not None
    assert torch.equal(out.head(out.embedding), out.logits)
    assert out.reads == {"u", "v"}


def checked(function: Any, *inputs: Tensor) -> None:
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs])


def test_gradients() -> None:
    mask = some_mask(4, 3)
    z = randn(4, 3, 2)
    checked(lambda t: product_of_experts(t, mask), z.clone())
    checked(lambda t: dempster(F.softplus(t)), z.clone())
    checked(lambda t, b: scaled_product(t, b, mask), z.clone(), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    checked(lambda t: confidence_weights(confidence(t, "entropy"), mask, 0.5), z.clone())
    for pool in (pool_sum, pool_mean, pool_max):
        checked(lambda t, pool=pool: pool(t, mask), z.clone())
    checked(lambda t: masked_softmax(t, mask), z.clone())
    checked(lambda t: gates(t, mask, "sigmoid"), z.clone())
    checked(film, randn(3, 2), randn(3, 2, seed=1), randn(3, 2, seed=2))
    checked(lambda a, b: outer([a, b]), randn(2, 2), randn(2, 3, seed=1))
    checked(
        lambda a, b, f, g, w, c: low_rank([a, b], [f, g], w, c),
        randn(2, 2), randn(2, 3), randn(2, 3, 2), randn(2, 4, 2), randn(2), randn(2),
    )  # fmt: skip
    checked(lambda t: squeeze(t, 2), randn(2, 6))
    checked(interact, randn(2, 2), randn(2, 3), randn(3, 2, 2), randn(3, 2), randn(2, 2), randn(2))
    checked(lambda t: embrace(t, mask), z.clone())
    checked(lambda q, k, v: attend(q, k, v, some_mask(2, 3)), *(randn(2, 1, 3, 2, seed=s) for s in range(3)))
    checked(lambda t: route(t, 2), randn(3, 4))
