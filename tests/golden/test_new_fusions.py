"""Fusions of 2021 to 2025: against numpy and second implementations, closed forms, and what they must not read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions.mimonets import bind, key_penalty

from wbcbench.contracts import Fusion, modality_logits
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import build_toy, toy_batch, toy_task


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
    assert name == "healnet"
    updates = 2 * m * (16 * d * d + 16 * d) * (2 if p.get("among") else 1)
    return tokens + 16 * d + updates + 2 * d + (d + 1) * k


@pytest.mark.parametrize(
    ("name", "params"),
    [("mmcosine", {}), ("multi_head", {}), ("perceiver", {}), ("perceiver", {"rounds": 4}), ("healnet", {}),
     ("healnet", {"among": True})],
)  # fmt: skip
def test_parameters_are_the_closed_form(name: str, params: dict[str, Any]) -> None:
    for modalities in (2, 3):
        fusion = fusion_of(name, modalities, **params)
        trunks = getattr(fusion, "backbones", None) or fusion.encoders.backbones
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
