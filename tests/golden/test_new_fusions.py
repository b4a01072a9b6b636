"""Fusions of 2021 to 2025: against numpy and second implementations, closed forms, and what they must not read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions import dmrnet, drfuse, flex_moe, shaspec
from wbcbench_plugins.fusions.mimonets import bind, key_penalty
from wbcbench_plugins.fusions.moe import route

from wbcbench.contracts import Fusion, Progress, modality_logits
from wbcbench.errors import IncompatibleError
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import build_toy, toy_batch, toy_draw, toy_factory, toy_task
from wbcbench.training.supervision import with_labels


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fusion_of(name: str, modalities: int = 2, **params: Any) -> Any:
    cls = component_class("fusion", name)
    fusion: Fusion = build_toy(cls, toy_task(modalities), **params)
    return fusion.eval()


def weights_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def array(x: Tensor) -> Any:
    return x.detach().double().numpy()


# --- sizes ------------------------------------------------------------------------------------------------------


def beyond_backbones(name: str, m: int, k: int, d: int, **p: Any) -> int:
    """Closed form of the parameters beyond the backbones, from the docstrings; D = 8, 16 places per map."""
    tokens = m * (9 * d + 16 * d)
    if name == "mmcosine":
        return m * 8 * k
    if name == "multi_head":
        return m * 9 * k + (8 * m + 1) * k
    if name == "perceiver":
        rounds = (4 * d * d + 5 * d) + (12 * d * d + 11 * d) + (12 * d * d + 13 * d)
        return tokens + 16 * d + rounds + 2 * d + (d + 1) * k
    if name == "shaspec":
        return (2 * 8 + 1) * 8 + 9 * m + (m * 8 + 1) * k
    if name == "drfuse":
        return m * (2 * 9 * d + (d + 1) * k) + (5 * d + 4) * d + 2 * (d + 1) * k + (d + 1) * (k + 2) * d
    if name == "dmrnet":
        return 2 * (8 * m + 3) * 8 * m + (8 * m + 1) * k
    if name == "flex_moe":
        experts = d * 16 + 16 * (4 * d * d + 3 * d)
        return m * 9 * d + m * d + 2**m * m * d + 4 * d * d + 5 * d + experts + (m * d + 1) * k
    assert name == "healnet"
    updates = 2 * m * (16 * d * d + 16 * d) * (2 if p.get("among") else 1)
    return tokens + 16 * d + updates + 2 * d + (d + 1) * k


@pytest.mark.parametrize(
    ("name", "params"),
    [("mmcosine", {}), ("multi_head", {}), ("perceiver", {}), ("perceiver", {"rounds": 4}), ("healnet", {}),
     ("healnet", {"among": True}), ("shaspec", {}), ("drfuse", {}), ("dmrnet", {}), ("flex_moe", {})],
)  # fmt: skip
def test_parameters_are_the_closed_form(name: str, params: dict[str, Any]) -> None:
    for modalities in (2, 3):
        fusion = fusion_of(name, modalities, **params)
        trunks = dict((getattr(fusion, "backbones", None) or fusion.encoders.backbones).items())
        trunks |= {"shared": fusion.shared} if name == "shaspec" else {}
        nets = sum(weights_of(t.net if hasattr(t, "net") else t) for t in trunks.values())
        assert weights_of(fusion) - nets == beyond_backbones(name, modalities, 3, 64, **params), modalities


def test_superposition_costs_about_one_network() -> None:
    fusion, single = fusion_of("mimonets", 3), fusion_of("early", 3)
    stems = sum(weights_of(s) for s in fusion.stem.each)
    first = weights_of(single.backbone.stage1)
    heads = weights_of(single) - weights_of(single.backbone)
    extra = stems - first + 3 * 8 + 3 * 9 * 8 + (9 * 3 - heads)
    assert weights_of(fusion) - weights_of(single) == extra


# --- cosine -----------------------------------------------------------------------------------------------------


def test_mmcosine_is_a_sum_of_cosines() -> None:
    fusion = fusion_of("mmcosine", 3, scale=7.0)
    images = toy_batch(fusion.task).images
    embeddings = [array(h) for h in fusion.encoders(images)]
    weights = np.split(array(fusion.head.weight), 3, axis=1)
    z = np.zeros((8, 3))
    for h, w in zip(embeddings, weights, strict=True):
        for i in range(8):
            for k in range(3):
                z[i, k] += 7.0 * h[i] @ w[k] / np.linalg.norm(h[i]) / np.linalg.norm(w[k])
    outputs = fusion(images)
    assert np.allclose(array(outputs["joint"].logits), z, atol=1e-5)
    assert torch.allclose(sum(modality_logits(fusion, outputs).values()), outputs["joint"].logits, atol=1e-5)  # type: ignore[arg-type]


def test_lengths_of_weights_decide_nothing() -> None:
    fusion = fusion_of("mmcosine")
    images = toy_batch(fusion.task).images
    before = fusion(images)["joint"].logits
    with torch.no_grad():
        fusion.head.weight[:, :8] *= 100
    assert torch.allclose(fusion(images)["joint"].logits, before, atol=1e-5)


# --- several heads ----------------------------------------------------------------------------------------------


def test_complete_cells_have_the_joint_head_and_others_their_own() -> None:
    fusion = fusion_of("multi_head", 3)
    images = toy_batch(fusion.task).images
    rows = [[True] * 3, [True, False, True], [False, False, True], [False] * 3]
    present = torch.tensor(rows * 2)
    outputs = fusion(images, present)
    p = array(fusion.predict(outputs, present))
    for i in range(8):
        each = [
            array(outputs[m].logits[i].softmax(0)) for m, there in zip("uvw", rows[i % 4], strict=True) if there
        ]
        if i % 4 == 0:
            each = [array(outputs["joint"].logits[i].softmax(0))]
        if i % 4 == 3:
            each = [array(outputs[m].logits[i].softmax(0)) for m in "uvw"]
        assert np.allclose(p[i], np.mean(each, 0), atol=1e-6), i
    assert fusion.routes == ("joint", "u", "v", "w")


# --- latents ----------------------------------------------------------------------------------------------------


def layer_norm(x: Any, norm: nn.LayerNorm) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return scaled * array(norm.weight) + array(norm.bias)


def linear(x: Any, layer: nn.Linear) -> Any:
    return x @ array(layer.weight).T + (0 if layer.bias is None else array(layer.bias))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def latent_attention(x: Any, tokens: Any, module: Any, temperature: float, slope: float) -> Any:
    """One head, of one cell, in numpy."""
    d = x.shape[1]
    q = layer_norm(x, module.norm) @ array(module.query.weight).T
    k, v = np.split(layer_norm(tokens, module.norm_context) @ array(module.key_value.weight).T, 2, 1)
    y = linear(softmax(q @ k.T / np.sqrt(d) / temperature) @ v, module.out)
    return np.where(y > 0, y, slope * y)


def gated(x: Any, module: Any, activation: Any) -> Any:
    a, b = np.split(linear(layer_norm(x, module.norm), module.expand), 2, 1)
    return linear(a * array(activation(torch.from_numpy(b))), module.reduce)


def transformer(x: Any, block: Any) -> Any:
    """A pre-norm layer of one head, of one cell."""
    y = layer_norm(x, block.norm1)
    k, v = np.split(linear(y, block.key_value), 2, 1)
    x = x + linear(softmax(linear(y, block.query) @ k.T / np.sqrt(x.shape[1])) @ v, block.out)
    hidden = F.gelu(torch.from_numpy(linear(layer_norm(x, block.norm2), block.mlp[0]))).numpy()
    return x + linear(hidden, block.mlp[2])


def tokens_of(fusion: Any, images: dict[str, Tensor], cell: int) -> dict[str, Any]:
    return {m: array(trunk(images[m])[cell]) for m, trunk in fusion.backbones.items()}


def test_perceiver_reads_all_tokens_at_once_with_the_same_weights_in_every_round() -> None:
    fusion = fusion_of("perceiver", 3, heads=1, rounds=3, dim=8, latents=4)
    images = toy_batch(fusion.task).images
    present = torch.tensor([[True] * 3, [True, False, True]] * 4)
    logits = array(fusion(images, present)["joint"].logits)
    for cell in (0, 1):
        tokens = tokens_of(fusion, images, cell)
        context = np.concatenate([tokens[m] for m, there in zip("uvw", present[cell], strict=True) if there])
        x = array(fusion.latents)
        for _ in range(3):
            x = x + latent_attention(x, context, fusion.cross, 1.0, 1.0)
            x = x + gated(x, fusion.feed, F.gelu)
            x = transformer(x, fusion.block)
        z = linear(layer_norm(x.mean(0), fusion.norm), fusion.head)
        assert np.allclose(logits[cell], z, atol=1e-5), cell


@pytest.mark.parametrize("among", [False, True])
def test_healnet_lets_each_modality_update_the_latents_in_turn(among: bool) -> None:
    fusion = fusion_of("healnet", 3, dim=8, latents=4, among=among)
    images = toy_batch(fusion.task).images
    present = torch.tensor([[True] * 3, [True, False, True]] * 4)
    logits = array(fusion(images, present)["joint"].logits)

    def update(x: Any, tokens: Any, module: Any) -> Any:
        x = x + latent_attention(x, tokens, module.attention, 0.5, 0.01)
        return x + gated(x, module.feed, F.selu)

    for cell in (0, 1):
        tokens = tokens_of(fusion, images, cell)
        x = array(fusion.latents)
        for number, layer in enumerate(fusion.layers):
            for m, there in zip("uvw", present[cell], strict=True):
                if there:
                    x = update(x, tokens[m], layer[f"of_{m}"])
                    x = update(x, x, fusion.own[number][f"of_{m}"]) if among else x
        z = linear(layer_norm(x.mean(0), fusion.norm), fusion.head)
        assert np.allclose(logits[cell], z, atol=1e-5), cell


def test_perceiver_reads_tokens_as_a_set() -> None:
    perceiver = fusion_of("perceiver")
    images = toy_batch(perceiver.task).images
    before = perceiver(images)["joint"].logits
    trunk = perceiver.backbones["u"]
    turn = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    original = trunk.forward
    trunk.forward = lambda x: original(x)[:, turn]
    assert torch.allclose(perceiver(images)["joint"].logits, before, atol=1e-5)


# --- superposition ----------------------------------------------------------------------------------------------


def test_binding_is_circular_convolution_by_fourier_transform() -> None:
    maps, keys = randn(3, 2, 8, 2, 3), randn(3, 8, seed=1)
    spectrum = np.fft.fft(maps.numpy(), axis=2) * np.fft.fft(keys.numpy(), axis=1)[:, None, :, None, None]
    assert np.allclose(bind(maps, keys).numpy(), np.fft.ifft(spectrum, axis=2).real.sum(0))
    one = torch.zeros(1, 8, dtype=torch.float64)
    one[0, 0] = 1
    assert torch.allclose(bind(maps[:1], one), maps[0])
    assert torch.autograd.gradcheck(
        bind, (maps[:2, :1, :4, :1, :1].clone().requires_grad_(), keys[:2, :4].clone().requires_grad_())
    )


def test_what_is_bound_can_be_unbound_the_better_the_wider() -> None:
    """Correlating with its key gives back a map, with noise of the others that falls with the width."""
    errors = []
    for width in (64, 4096):
        f = randn(2, 1, width, 1, 1) / width**0.5
        keys = randn(2, width, seed=3) / width**0.5
        spectrum = np.fft.fft(bind(f, keys).numpy()[0, :, 0, 0]) * np.conj(np.fft.fft(keys[0].numpy()))
        found, other = np.fft.ifft(spectrum).real, f[0, 0, :, 0, 0].numpy()
        errors.append(found @ other / np.linalg.norm(other) ** 2)
    assert abs(errors[1] - 1) < 0.1
    assert abs(errors[1] - 1) <= abs(errors[0] - 1)


def test_keys_that_are_orthonormal_cost_nothing() -> None:
    assert key_penalty(torch.eye(3, 5)).item() == pytest.approx(0, abs=1e-12)
    keys = randn(3, 6)
    a = keys.numpy()
    cosines = [
        (a[i] @ a[j] / np.linalg.norm(a[i]) / np.linalg.norm(a[j])) ** 2 for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    lengths = (np.linalg.norm(a, axis=1) - 1) ** 2
    assert key_penalty(keys).item() == pytest.approx(np.mean(cosines) + np.mean(lengths))
    assert torch.autograd.gradcheck(key_penalty, keys.clone().requires_grad_())
    assert torch.isfinite(key_penalty(keys[:1]))


def test_mimonets_with_one_modality_and_the_identity_key_is_the_backbone() -> None:
    fusion = fusion_of("mimonets", 1)
    images = toy_batch(fusion.task).images
    with torch.no_grad():
        fusion.stem.keys.zero_()
        fusion.stem.keys[0, 0] = 1
    x = fusion.stem.each[0](images["u"])
    x = fusion.backbone.norm(x).relu()
    h = fusion.backbone.stage(1, x).mean((2, 3))
    expected = fusion.head(fusion.unbind["u"](h).relu())
    assert torch.allclose(fusion(images)["u"].logits, expected, atol=1e-6)


# --- missing modalities -----------------------------------------------------------------------------------------

PATTERN = [[True, True, True], [True, False, True], [False, True, False], [True, True, False]]
PRESENT = torch.tensor(PATTERN * 2)


def terms_of(fusion: Any, batch: Any, epoch: int = 0) -> dict[str, Tensor]:
    outputs = with_labels(fusion(batch.images, batch.present), batch)
    return fusion.task_terms(outputs, batch, Progress(epoch, 20, 0, 1))  # type: ignore[no-any-return]


def test_alignment_is_over_neighbours_that_are_there() -> None:
    s = randn(4, 4, 5)
    mask = torch.tensor([[True] * 4, [True, True, False, True], [True, False, True, False], [False] * 4])
    found, a = shaspec.alignment(s, mask), s.numpy()
    for i in range(4):
        ring = [(0, 1), (1, 2), (2, 3), (3, 0)]
        pairs = [np.abs(a[i, m] - a[i, n]).mean() for m, n in ring if mask[i, m] and mask[i, n]]
        assert found[i].item() == pytest.approx(sum(pairs))
    two = shaspec.alignment(s[:, :2], mask[:, :2])[0]
    assert two.item() == pytest.approx(np.abs(a[0, 0] - a[0, 1]).mean()), "one pair, counted once"
    assert (shaspec.alignment(s[:, :1], mask[:, :1]) == 0).all()
    assert torch.autograd.gradcheck(lambda x: shaspec.alignment(x, mask), s.clone().requires_grad_())


def test_shaspec_fills_what_is_missing_with_the_mean_of_the_shared_features() -> None:
    fusion, batch = fusion_of("shaspec", 3), toy_batch(toy_task(3))
    batch.present = PRESENT
    out = fusion(batch.images, PRESENT)["joint"]
    weight = array(fusion.compose.weight)
    terms = terms_of(fusion, batch)
    for i in range(4):
        shared, specific = {}, {}
        for m, there in zip("uvw", PATTERN[i], strict=True):
            if there:
                x = batch.images[m][i : i + 1]
                place = "uvw".index(m)
                stem = fusion.shared.stage1.each[str(place)]
                first = fusion.shared.norm(stem(x)).relu()
                shared[m] = array(fusion.shared.stage(1, first).mean((2, 3))[0])
                specific[m] = array(fusion.backbones[m](x).embedding[0])
        mean = np.mean(list(shared.values()), 0)
        parts = [
            shared[m] + weight @ np.concatenate([shared[m], specific[m]]) + array(fusion.compose.bias)
            if m in shared else mean
            for m in "uvw"
        ]  # fmt: skip
        assert np.allclose(array(out.embedding[i]), np.concatenate(parts), atol=1e-5), i
        told = [
            -np.log(softmax(linear(specific[m], fusion.which))["uvw".index(m)]) for m in specific
        ]  # fmt: skip
        assert terms["tell"][i].item() == pytest.approx(0.02 * np.mean(told), rel=1e-4)
    assert np.allclose(array(out.logits), linear(array(out.embedding), fusion.head), atol=1e-5)


def test_the_mean_logit_is_that_of_the_mean_probability() -> None:
    h = 3 * randn(4, 3, 5)
    mask = torch.tensor(PATTERN)
    found = drfuse.mean_logit(h, mask)
    for i in range(4):
        p = torch.stack([h[i, m].sigmoid() for m in range(3) if mask[i, m]]).mean(0)
        assert torch.allclose(found[i], torch.log(p / (1 - p)))
    a, b = h[0, 0], h[0, 1]
    authors = torch.log(2 * torch.exp(a + b) + a.exp() + b.exp()) - torch.log(2 + a.exp() + b.exp())
    both = torch.ones(1, 2, dtype=torch.bool)
    assert torch.allclose(drfuse.mean_logit(h[:1, :2], both)[0], authors)
    assert torch.isfinite(drfuse.mean_logit(1e3 * h, mask)).all()
    assert torch.autograd.gradcheck(lambda x: drfuse.mean_logit(x, mask), h.clone().requires_grad_())


def test_divergence_and_ranking_are_loops() -> None:
    h, mask = randn(4, 3, 5), torch.tensor(PATTERN)
    p, found = h.sigmoid().numpy(), drfuse.divergence(h, mask)
    for i in range(4):
        total = 0.0
        for m, n in ((0, 1), (0, 2), (1, 2)):
            if mask[i, m] and mask[i, n]:
                middle = (p[i, m] + p[i, n]) / 2
                total += 0.5 * sum((q * np.log(q / middle)).sum() for q in (p[i, m], p[i, n]))
        assert found[i].item() == pytest.approx(total)
    assert torch.autograd.gradcheck(lambda x: drfuse.divergence(x, mask), h.clone().requires_grad_())
    w, losses = randn(4, 5, 3, seed=1).softmax(2), randn(4, 5, 3, seed=2).abs()
    each = []
    for m, n in ((0, 1), (0, 2), (1, 2)):
        wrong = [
            max(0.0, (-1 if losses[i, k, m] < losses[i, k, n] else 1) * float(w[i, k, m] - w[i, k, n]))
            for i in range(4) for k in range(5) if mask[i, m] and mask[i, n]
        ]  # fmt: skip
        positive = [x for x in wrong if x > 0]
        each.append(sum(positive) / max(1, len(positive)))
    assert drfuse.ranking(w, losses, mask).item() == pytest.approx(np.mean(each), rel=1e-5)


def test_drfuse_weighs_what_there_is_for_each_class() -> None:
    fusion, batch = fusion_of("drfuse", 3, width=6), toy_batch(toy_task(3))
    out = fusion(batch.images, PRESENT)
    for i in range(4):
        names = [m for m, there in zip("uvw", PATTERN[i], strict=True) if there]
        tokens = []
        shared = []
        for m in names:
            place = "uvw".index(m)
            h = array(fusion.encoders.backbones[m](batch.images[m][i : i + 1]).embedding[0])
            tokens.append(linear(h, fusion.to_distinct[place]))
            s = linear(h, fusion.to_shared[place])
            for number in (0, 2, 4):
                s = linear(s, fusion.project[number])
                s = np.maximum(s, 0) if number < 4 else s
            shared.append(1 / (1 + np.exp(-s)))
        common = np.mean(shared, 0)
        tokens.append(np.log(common / (1 - common)))
        parts = np.split(linear(np.stack(tokens), fusion.attend), 5, 1)  # q, v, and k of three classes
        q, v = parts[0].mean(0), parts[1]
        for k in range(3):
            w = softmax(parts[2 + k] @ q / np.sqrt(6))
            layer = fusion.head.layer
            z = array(layer.weight)[k] @ (w @ v) + array(layer.bias)[k]
            assert out["joint"].logits[i, k].item() == pytest.approx(z, abs=1e-4), (i, k)
    assert torch.allclose(fusion.head(out["joint"].embedding), out["joint"].logits)


def test_dmrnet_draws_all_combinations_alike_and_never_none() -> None:
    u = torch.rand(70_000, generator=torch.Generator().manual_seed(0))
    kept = dmrnet.drawn(u, 3)
    code, counts = dmrnet.combination(kept).unique(return_counts=True)
    assert code.tolist() == list(range(1, 8))
    assert torch.allclose(counts / 70_000, torch.full((7,), 1 / 7), atol=5e-3)
    fusion, batch = fusion_of("dmrnet", 2), toy_batch(toy_task(2), cells=64)
    batch.present = torch.tensor([[True, False]]).expand(64, -1)
    assert torch.equal(fusion.assemble(batch, toy_draw()).present, torch.tensor([[True, False]]).expand(64, -1))


def test_dmrnet_is_the_closed_form_of_a_gaussian_and_predicts_its_mean() -> None:
    mean, log_variance = randn(4, 5), randn(4, 5, seed=1)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(dmrnet.divergence(mean, log_variance), expected)
    assert torch.autograd.gradcheck(
        dmrnet.divergence, (mean.clone().requires_grad_(), log_variance.clone().requires_grad_())
    )
    fusion, batch = fusion_of("dmrnet", 2), toy_batch(toy_task(2))
    joined = torch.cat(fusion.encoders(batch.images), 1)
    assert torch.allclose(fusion(batch.images)["joint"].logits, fusion.head(fusion.to_mean(joined)), atol=1e-6)
    fusion.train()
    torch.manual_seed(0)
    sampled = fusion(batch.images)["joint"]
    torch.manual_seed(0)
    noise = torch.randn_like(sampled.mean)
    assert torch.allclose(sampled.embedding, sampled.mean + noise * sampled.log_variance.exp().sqrt(), atol=1e-5)


def test_the_hardest_combination_counts_more_after_the_warm_up() -> None:
    fusion, batch = fusion_of("dmrnet", 2, warmup=2).train(), toy_batch(toy_task(2))
    batch.present = torch.tensor([[True, True], [True, False], [False, True], [True, False]] * 2)
    spreads = np.zeros(3)
    for epoch in range(2):
        terms = terms_of(fusion, batch, epoch)
        assert "hard" not in terms
    assert fusion.counts.tolist() == [0, 8, 4, 4]
    spreads = (fusion.spread / fusion.counts).numpy()
    weak = 1 if spreads[1] > spreads[2] else 2
    assert fusion.hardest().item() == weak
    torch.manual_seed(0)
    terms = terms_of(fusion, batch, 2)
    chosen = dmrnet.combination(batch.present) == weak
    assert torch.allclose(terms["hard"], 0.5 * chosen * terms["joint"])
    assert fusion.counts.tolist() == [0, 8, 4, 4], "no longer counted"


def test_flex_moe_is_a_loop_over_tokens_and_experts() -> None:
    fusion = fusion_of("flex_moe", 3, dim=8, heads=1, experts=7, top=2)
    images = toy_batch(fusion.task).images
    out = fusion(images, PRESENT)["joint"]
    for i in range(4):
        missing = sum(2**j for j, there in enumerate(PATTERN[i]) if not there)
        assert out.code[i] == missing
        tokens = []
        for j, m in enumerate("uvw"):
            h = array(fusion.encoders.backbones[m](images[m][i : i + 1]).embedding[0])
            own = linear(h, fusion.projections[j]) if PATTERN[i][j] else array(fusion.bank[missing, j])
            tokens.append(own + array(fusion.positions[j]))
        x = np.stack(tokens)
        q, k, v = np.split(linear(layer_norm(x, fusion.norm1), fusion.query_key_value), 3, 1)
        x = x + linear(softmax(q @ k.T / np.sqrt(8)) @ v, fusion.out)
        y = layer_norm(x, fusion.norm2)
        for j in range(3):
            scores = y[j] @ array(fusion.router.weight).T
            best = np.argsort(-scores)[:2]
            for e, g in zip(best, softmax(scores[best]), strict=True):
                hidden = y[j] @ array(fusion.expand[e]) + array(fusion.inner[e])
                hidden = F.gelu(torch.from_numpy(hidden)).numpy()
                x[j] += g * (hidden @ array(fusion.reduce[e]) + array(fusion.outer[e]))
        assert np.allclose(array(out.embedding[i]), x.reshape(-1), atol=1e-4), i


def test_the_router_of_incomplete_cells_is_told_their_expert() -> None:
    scores, code = randn(6, 2, 4), torch.tensor([0, 1, 2, 0, 3, 0])
    gates = route(scores.flatten(0, 1), 2).unflatten(0, (6, 2))
    whole, less = gates[code == 0].sum((0, 1)).numpy(), gates[code > 0].sum((0, 1)).numpy()[1:]
    even = sum(x.var(ddof=1) / x.mean() ** 2 for x in (whole, less))
    told = [-np.log(softmax(scores[i, t].numpy())[code[i]]) for i in (1, 2, 4) for t in range(2)]
    assert flex_moe.gate_loss(scores, gates, code).item() == pytest.approx(even + np.mean(told), rel=1e-6)
    one = torch.zeros(6, dtype=torch.int64)
    assert torch.isfinite(flex_moe.gate_loss(scores, gates, one))
    assert flex_moe.uneven(torch.full((4,), 0.3)).item() == pytest.approx(0, abs=1e-6)


def test_flex_moe_wants_an_expert_per_combination() -> None:
    with pytest.raises(IncompatibleError, match="experts=15"):
        fusion_of("flex_moe", 4, experts=14)


# --- channel by channel -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("conditioner", "condition"), [("numbers", "v"), ("first", "u"), ("second", "v")])
def test_channels_are_scaled_after_every_stage(conditioner: str, condition: str) -> None:
    fusion = fusion_of("channelwise", conditioner=conditioner)
    images = toy_batch(fusion.task).images
    target = "u" if condition == "v" else "v"
    told = fusion.backbones[condition](images[condition]).embedding
    net, x = fusion.backbones[target], images[target]
    for stage in range(2):
        factors = told @ fusion.scales[stage].weight.T + fusion.scales[stage].bias
        x = torch.stack([f * m[:, None, None] for f, m in zip(net.stage(stage, x), factors, strict=True)])
    assert torch.allclose(fusion(images)["joint"].logits, fusion.head(x.mean((2, 3))), atol=1e-5)


def test_numbers_cannot_be_scaled_by_channels() -> None:
    task = replace(toy_task(2), vectors=frozenset("u"))
    cls = component_class("fusion", "channelwise")
    assert cls(task, toy_factory(task), cls.Params()).condition == "u"
    with pytest.raises(IncompatibleError, match="conditioner=numbers"):
        cls(task, toy_factory(task), cls.Params(conditioner="second"))
