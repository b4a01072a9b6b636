"""Golden values of the methods that need hooks of their own: closed forms, or a second route in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from wbcbench_plugins.distillers.jacobian import direction_gap
from wbcbench_plugins.policies.opm import drop_rates
from wbcbench_plugins.policies.relearning import purity

from wbcbench.contracts import Evaluated, Output, Progress
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import ToyJoint, build_toy, policy_step, set_up, toy_batch, toy_draw, toy_task

START = Progress(0, 1, 0, 1)


def test_funmatch_mixes_by_uniform_shares() -> None:
    """x_i <- l_i x_i + (1 - l_i) x_p(i), l uniform (mean 1/2, variance 1/12), p a permutation; labels do not
    count."""
    cls = component_class("policy", "funmatch")
    policy, draw = cls(cls.Params()), toy_draw()
    fusion = build_toy(ToyJoint, toy_task(2))
    set_up(policy, fusion)
    batch = toy_batch(fusion.task, cells=6)
    before = {m: x.numpy().copy() for m, x in batch.images.items()}
    left = draw.uniform(6, "funmatch").numpy()
    partner = draw.permutation(6, "funmatch:partner").numpy()
    after = policy.images(batch, draw)
    for m, x in before.items():
        share = left[:, None, None, None]
        assert np.allclose(after.images[m], share * x + (1 - share) * x[partner], atol=1e-6)
    many = draw.uniform(100_000, "funmatch")
    assert many.mean().item() == pytest.approx(1 / 2, abs=0.005)
    assert many.var().item() == pytest.approx(1 / 12, abs=0.002)
    out = Output(torch.randn(6, 3), reads=frozenset("uv"), labels=batch.labels)
    terms = policy.task_terms({"joint": torch.ones(6)}, {"joint": out}, after, START)
    assert terms["joint"].tolist() == [0.0] * 6


def test_jacobian_of_linear_networks() -> None:
    """For z = W x the gradient of z[c] is row c of W: the loss is 2 - 2 cos of the rows, whatever x is, and its
    gradient in a row s is -2 (t/|t| - cos s/|s|) / |s|."""
    cls = component_class("distiller", "jacobian")
    distiller = cls(cls.Params())
    random = torch.Generator().manual_seed(0)
    s, t, x = (torch.randn(n, 12, generator=random, dtype=torch.float64) for n in (4, 4, 3))
    s.requires_grad_()
    x = x.view(3, 3, 2, 2).requires_grad_()
    student, teacher = (Output(x.flatten(1) @ w.T, reads=frozenset("u"), inputs={"u": x}) for w in (s, t))
    (loss,) = distiller.terms(student, teacher, START).values()
    first = teacher.logits.argmax(1)
    cos = F.cosine_similarity(s.detach(), t)
    assert torch.allclose(loss, 2 - 2 * cos[first])
    loss.sum().backward()
    wanted = torch.zeros_like(s)
    for c in first.tolist():
        row = s.detach()[c]
        wanted[c] += -2 * (t[c] / t[c].norm() - cos[c] * row / row.norm()) / row.norm()
    assert s.grad is not None
    assert torch.allclose(s.grad, wanted)
    assert direction_gap(s, 3 * s).abs().max().item() < 1e-12, "only directions count"
    assert torch.allclose(direction_gap(s, -s), torch.full((4,), 4.0, dtype=torch.float64))
    assert direction_gap(0 * s, s).tolist() == pytest.approx([1.0] * 4), "a row that the route was not shown"


@pytest.mark.parametrize(
    ("scores", "rates"),
    [
        ((2.0, 1.0), (0.4 * (1 + 0.5 * np.tanh(1.0)), 0.0)),
        ((1.0, 1.0), (0.0, 0.0)),
        ((3.0, 2.0, 1.0), (0.4 * (1 + 0.5 * np.tanh(1.25)), 0.4 * (1 + 0.5 * np.tanh(1 / 3)), 0.0)),
    ],
)
def test_opm_drops_what_is_ahead(scores: tuple[float, ...], rates: tuple[float, ...]) -> None:
    """q (1 + lambda tanh(mean ratio - 1)) by hand, with q = 0.4 and lambda = 0.5."""
    assert drop_rates(torch.tensor(scores), 0.4, 0.5).tolist() == pytest.approx(rates)


def test_opm_in_a_step_of_concat() -> None:
    """Joint logits on W_u h_u + W_v h_v + b with whole embeddings of rows dropped and the rest divided by the
    expected share, recomputed in numpy from the networks' own embeddings; dropped rows are in no loss."""
    cls = component_class("policy", "opm")
    policy = cls(cls.Params(execute=1.0, start=0.0, rate=0.6))
    fusion = build_toy(component_class("fusion", "concat"), toy_task(2)).train()
    fusion.head.weight.data[:, : fusion.encoders.dims[0]] *= 20  # `u` says much
    set_up(policy, fusion)
    batch = toy_batch(fusion.task, cells=12)
    batch.labels = fusion(batch.images)["joint"].logits.argmax(1)  # and `u` is right
    batch.present = torch.tensor([[True, True]] * 9 + [[True, False]] * 3)
    draw = toy_draw()
    with torch.no_grad():
        h = {m: net(batch.images[m]).embedding.numpy() for m, net in fusion.encoders.backbones.items()}
    w, b = fusion.head.weight.detach().numpy(), fusion.head.bias.detach().numpy()
    d, y, there = fusion.encoders.dims, batch.labels.numpy(), batch.present.numpy()

    def right(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max(1, keepdims=True))
        return e[np.arange(12), y] / e.sum(1)

    parts = [h["u"] @ w[:, : d[0]].T, h["v"] @ w[:, d[0] :].T]
    s = [right(z + b / 2)[there[:, i]].mean() for i, z in enumerate(parts)]
    assert s[0] > s[1], "the case is about dropping `u`"
    q = 0.6 * (1 + 0.5 * np.tanh(s[0] / s[1] - 1))
    kept = draw.uniform(12, "opm:u").numpy() >= q
    logits = (parts[0] * kept[:, None] + parts[1]) / (1 - q * d[0] / sum(d)) + b
    shown = kept | there[:, 1]
    assert 0 < kept.mean() < 1
    assert shown.mean() < 1
    terms, outputs, _ = policy_step(fusion, [policy], batch, Progress(0, 1, 0, 1, draw))
    assert np.allclose(outputs["joint"].logits.detach().numpy(), logits, atol=1e-4)
    assert terms["joint"].item() == pytest.approx(-np.log(right(logits))[shown].mean(), rel=1e-4)


def test_reconboost_weighs_by_what_the_others_leave() -> None:
    """Term of m: (1 - s p_others(y)) CE(z_m); the last: CE of the sum. By numpy, with a cell that lacks `v`."""
    cls = component_class("policy", "reconboost")
    policy = cls(cls.Params(strength=0.5, rectify=2.0))
    fusion = build_toy(component_class("fusion", "late_logit"), toy_task(2)).train()
    for head in fusion.networks.heads.values():
        head.weight.data *= 20
    set_up(policy, fusion)
    batch = toy_batch(fusion.task, cells=4)
    batch.present = torch.tensor([[True, True]] * 3 + [[True, False]])
    terms, outputs, _ = policy_step(fusion, [policy], batch, START)
    z, y = {m: outputs[m].logits.detach().numpy() for m in "uv"}, batch.labels.numpy()

    def p(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(1, keepdims=True))
        return (e / e.sum(1, keepdims=True))[np.arange(4), y]

    weight_u = np.where(np.arange(4) < 3, 1 - 0.5 * p(z["v"]), 1.0)
    assert terms["u"].item() == pytest.approx(np.mean(-np.log(p(z["u"])) * weight_u), rel=1e-4)
    assert terms["v"].item() == pytest.approx(np.mean((-np.log(p(z["v"])) * (1 - 0.5 * p(z["u"])))[:3]), rel=1e-4)
    both = z["u"] + np.where(np.arange(4)[:, None] < 3, z["v"], 0.0)
    assert terms["reconboost"].item() == pytest.approx(2 * np.mean(-np.log(p(both))), rel=1e-4)
    names = {"u": terms["u"], "logits.kl.v": terms["v"], "reconboost": terms["reconboost"]}
    assert [list(policy.of_turn(t, names)) for t in policy.turns] == [["u"], ["logits.kl.v"], ["reconboost"]]


def test_purity_of_clusters() -> None:
    """Three far blobs: 1 if labels follow them, and the share of the majority in each if they do not."""
    blobs = torch.eye(3).repeat_interleave(4, 0) * 100 + torch.randn(12, 3)
    labels = torch.arange(3).repeat_interleave(4)
    assert purity(blobs, labels, 3) == 1.0
    mixed = torch.tensor([0, 0, 0, 1, 1, 1, 2, 0, 2, 2, 1, 1])  # majorities 3, 2 and 2
    assert purity(blobs, mixed, 3) == pytest.approx(7 / 12)


def test_relearning_goes_back_by_the_gap() -> None:
    """theta <- a theta(0) + (1 - a) theta, a = tanh(3 |P_train - P_val|), for the encoders alone."""
    cls = component_class("policy", "relearning")
    policy = cls(cls.Params(every=2))
    fusion = build_toy(component_class("fusion", "concat"), toy_task(2))
    set_up(policy, fusion)
    start = {n: p.detach().clone() for n, p in fusion.named_parameters()}
    for p in fusion.parameters():
        p.data += 1.0
    labels = torch.arange(3).repeat_interleave(4)
    blobs = torch.eye(3).repeat_interleave(4, 0) * 100
    train = Evaluated({"joint": Output(blobs, labels=labels)}, {"u": blobs, "v": blobs})
    mixed = torch.tensor([0, 0, 0, 1, 1, 1, 2, 0, 2, 2, 1, 1])
    gaps = {"u": 5 / 12, "v": 5 / 12}
    val = Evaluated({"joint": Output(blobs, labels=mixed)}, {"u": blobs, "v": blobs})
    policy.after_validation(fusion, val, lambda: train, Progress(0, 9, 0, 1))
    assert all(torch.equal(p, start[n] + 1) for n, p in fusion.named_parameters()), "not in the first epoch"
    policy.after_validation(fusion, val, lambda: train, Progress(1, 9, 0, 1))
    for name, p in fusion.named_parameters():
        m = next((m for m in gaps if f"backbones.{m}." in name), "")
        share = np.tanh(3 * gaps[m]) if m else 0.0
        assert torch.allclose(p, start[name] + (1 - share), atol=1e-5), name
    policy.after_validation(fusion, val, lambda: train, Progress(7, 9, 0, 1))
    assert torch.allclose(fusion.head.weight, start["head.weight"] + 1), "nor late in training"
