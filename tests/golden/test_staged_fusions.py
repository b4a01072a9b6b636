"""Fusions of stage maps, of tokens and inside one network: closed forms, identities, counts and invariances.

Everything here runs on a real backbone with batch norm (cellnet, 16 px), beside the toy of tests/contracts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.fusions._stages import (
    build_own_trunks,
    build_trunks,
    chosen_stages,
    concatenated,
    keep_stages,
    masked,
)
from wbcbench_plugins.fusions._tokens import attend
from wbcbench_plugins.fusions.cen import Exchanging, exchange, own_part
from wbcbench_plugins.fusions.centralnet import weighted_sum
from wbcbench_plugins.fusions.fusion_search import cell_stages, fusion_chain
from wbcbench_plugins.fusions.marker_excite import marker_gates
from wbcbench_plugins.fusions.mbt import shared_bottleneck
from wbcbench_plugins.fusions.mixmo import MixedOutput, Plan, loss_weights, mix, renormalised
from wbcbench_plugins.fusions.mmtm import Transfer, cross_gates
from wbcbench_plugins.fusions.token_fusion import substitute

from wbcbench.contracts import Backbone, BackboneFactory, Fusion, Outputs, Progress, Task
from wbcbench.errors import IncompatibleError
from wbcbench.testing import FusionContract
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import toy_batch, toy_draw, toy_task
from wbcbench.training.supervision import with_labels

STAGED = ("mid_concat", "mmtm", "se", "centralnet", "marker_excite", "fusion_search")
TOKENS = ("cross_attention", "mbt", "token_fusion")
SINGLE_NETWORK = ("mixmo", "shared_trunk", "cen", "packed", "thin_ensemble")
ALL = (*STAGED, *TOKENS, *SINGLE_NETWORK)
NATIVE = tuple(n for n in ALL if component_class("fusion", n).traits.missing == "native")
WIDTH, DIM = 4, 16
"""Channels of cellnet's first and last stage."""
K = 3


def factory(task: Task, backbone: str = "cellnet", **params: Any) -> BackboneFactory:
    cls = component_class("backbone", backbone)
    params = params or {"width": WIDTH}

    def build(in_chans: int, *, width: float = 1.0, modality: str | None = None) -> Backbone:
        net: Backbone = cls(in_chans, task.image_size, cls.Params(**params), width)
        return net

    return build


def build(
    name: str, modalities: int = 2, seed: int = 0, make: Callable[[Task], BackboneFactory] = factory, **params: Any
) -> Fusion:
    cls = component_class("fusion", name)
    task = toy_task(modalities)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fusion: Fusion = cls(task, make(task), cls.Params(**params))
    return fusion


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def net(channels: int, width: float = 1.0) -> Backbone:
    return factory(toy_task())(channels, width=width)


def images_of(fusion: Fusion, cells: int = 6) -> dict[str, Tensor]:
    return toy_batch(fusion.task, cells).images


def settled(fusion: Fusion) -> Fusion:
    """In eval, after batch norms have seen something other than their starting values."""
    fusion.train()
    with torch.no_grad():
        for _ in range(3):
            fusion(images_of(fusion))
    return fusion.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


# The whole contract, on a backbone with batch norm.


@pytest.mark.parametrize("fusion", ALL, scope="class")
class TestOnCellNet(FusionContract):
    @pytest.fixture(autouse=True)
    def _choose(self, fusion: str) -> None:
        type(self).fusion = fusion

    def build(self, task: Task | None = None, seed: int = 0) -> Fusion:
        return build(self.cls.name, len((task or self.task()).modalities), seed)

    # What a fusion can express does not depend on the backbone: tests/contracts has shown it on a quicker one.
    test_solves_the_problems_that_it_promises_to_solve = None  # type: ignore[assignment]

    def _train(self, fusion: Fusion, steps: int) -> float:
        # Boxes cut from a few cells and exchanged tokens take longer to learn from than anything else here.
        return super()._train(fusion, steps if self.cls.name in ("mixmo", "token_fusion") else min(steps, 60))


# Pure functions against loops.


def test_cross_gates_is_the_papers_formula() -> None:
    s, w, b = [normal(5, 3), normal(5, 4, seed=1)], normal(6, 7, seed=2), normal(6, seed=3)
    out = [(normal(3, 6, seed=4), normal(3, seed=5)), (normal(4, 6, seed=6), normal(4, seed=7))]
    for gain in (1.0, 2.0):
        got = cross_gates(s, (w, b), out, gain)
        for i in range(5):
            z = (w @ torch.cat([s[0][i], s[1][i]]) + b).clamp(min=0)
            for m in range(2):
                assert torch.allclose(got[m][i], gain / (1 + torch.exp(-(out[m][0] @ z + out[m][1]))))


def test_an_undecided_gate_of_gain_2_changes_nothing() -> None:
    site = Transfer([4, 4], 4, 2.0)
    for layer in site.excite:
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    maps = {"u": torch.randn(2, 4, 3, 3), "v": torch.randn(2, 4, 3, 3)}
    assert all(torch.equal(site(maps)[m], maps[m]) for m in maps)


@pytest.mark.parametrize("ratio", [1, 4, 8])
def test_parameters_of_a_transfer_site(ratio: int) -> None:
    total = 128 + 64
    closed = 4 * total**2 // ratio + 2 * total // ratio + total
    assert size(Transfer([128, 64], ratio, 2.0)) == closed
    if ratio == 4:
        assert closed == 37152  # counted from the paper's official code


def test_se_is_mmtm_with_its_cross_terms_removed() -> None:
    joint, alone = Transfer([8, 8], 4, 2.0), [Transfer([8], 4, 2.0) for _ in range(2)]
    hidden = alone[0].squeeze.out_features
    with torch.no_grad():
        joint.squeeze.weight.zero_()
        for i, one in enumerate(alone):
            rows, columns = slice(i * hidden, (i + 1) * hidden), slice(i * 8, (i + 1) * 8)
            joint.squeeze.weight[rows, columns] = one.squeeze.weight
            joint.squeeze.bias[rows] = one.squeeze.bias
            gate, own = joint.excite[i], one.excite[0]
            assert isinstance(gate, nn.Linear)
            assert isinstance(own, nn.Linear)
            gate.weight.zero_()
            gate.weight[:, rows] = own.weight
            gate.bias.copy_(own.bias)
    maps = {m: torch.randn(3, 8, 4, 4) for m in "uv"}
    got = joint(maps)
    for i, m in enumerate("uv"):
        assert torch.allclose(got[m], alone[i]({m: maps[m]})[m], atol=1e-6)


def test_weighted_sum_over_the_terms_that_are_there() -> None:
    maps, a = [normal(4, 2, 3, 3, seed=i) for i in range(3)], normal(3, seed=9)
    seen = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)
    got = weighted_sum(maps, a, seen)
    for i in range(4):
        there = [t for t in range(3) if seen[i, t]]
        want = torch.stack([a[t] * maps[t][i] for t in there]).sum(0) * 3 / len(there)
        assert torch.allclose(got[i], want)
    order = [2, 0, 1]
    assert torch.allclose(got, weighted_sum([maps[t] for t in order], a[order], seen[:, order]))


def test_exchange_takes_the_mean_of_the_others() -> None:
    maps = [normal(2, 4, 3, 3, seed=i) for i in range(3)]
    gammas = [torch.tensor(g).double() for g in ([0.5, 0.01, -0.01, -0.5], [1, 1, 0.0, 1], [0.02, 1, 1, 1])]
    got = exchange(maps, gammas, 0.02)
    for m in range(3):
        for c in range(4):
            others = torch.stack([maps[n][:, c] for n in range(3) if n != m]).mean(0)
            want = maps[m][:, c] if abs(gammas[m][c]) >= 0.02 else others
            assert torch.allclose(got[m][:, c], want)
    assert all(torch.equal(a, b) for a, b in zip(exchange(maps, gammas, 0.0), maps, strict=True))


def test_of_two_modalities_each_is_penalised_on_its_own_half() -> None:
    gammas = [normal(6, seed=i).requires_grad_() for i in range(2)]
    value = own_part(gammas)
    assert torch.allclose(value, gammas[0][:3].abs().sum() + gammas[1][3:].abs().sum())
    value.backward()  # type: ignore[no-untyped-call]
    assert [g.grad.ne(0).tolist() for g in gammas if g.grad is not None] == [
        [True] * 3 + [False] * 3,
        [False] * 3 + [True] * 3,
    ]


def test_substitute_takes_the_mean_of_the_others() -> None:
    x, s = [normal(2, 5, 3, seed=i) for i in range(3)], [normal(2, 5, seed=i + 5).sigmoid() for i in range(3)]
    got = substitute(x, s, 0.5)
    for m in range(3):
        others = sum(x[n] for n in range(3) if n != m) / 2
        assert isinstance(others, Tensor)
        for b in range(2):
            for i in range(5):
                assert torch.allclose(got[m][b, i], x[m][b, i] if s[m][b, i] >= 0.5 else others[b, i])
    assert all(torch.equal(a, b) for a, b in zip(substitute(x, s, 0.0), x, strict=True))


def test_attend_is_torchs_multi_head_attention() -> None:
    mha = nn.MultiheadAttention(8, 2, batch_first=True).double()
    q, k = normal(3, 5, 8), normal(3, 7, 8, seed=1)
    wq, wk, wv = mha.in_proj_weight.chunk(3)
    allowed = torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) > 0.4
    for mask in (None, allowed):
        got = mha.out_proj(attend(q @ wq.T, k @ wk.T, k @ wv.T, 2, mask))
        want, _ = mha(q, k, k, key_padding_mask=None if mask is None else ~mask)
        assert torch.allclose(got, want)


def test_masked_keys_change_nothing_and_no_key_at_all_gives_zero() -> None:
    q, k, v = normal(2, 3, 8), normal(2, 4, 8, seed=1), normal(2, 4, 8, seed=2)
    allowed = torch.tensor([[True, False, True, False], [False] * 4])
    before = attend(q, k, v, 2, allowed)
    hole = ~allowed[:, :, None]
    assert torch.equal(before, attend(q, torch.where(hole, 1e3, k), torch.where(hole, -1e9, v), 2, allowed))
    assert torch.equal(before[1], torch.zeros_like(before[1]))


def test_bottlenecks_are_the_mean_over_modalities_present() -> None:
    copies = [normal(3, 2, 4, seed=i) for i in range(3)]
    seen = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0]], dtype=torch.float64)
    got = shared_bottleneck(copies, seen)
    for i in range(3):
        assert torch.allclose(
            got[i], torch.stack([c[i] for c, s in zip(copies, seen[i], strict=True) if s]).mean(0)
        )


def test_fusion_chain_is_the_papers_recursion() -> None:
    cells = [[normal(2, 3), normal(2, 3, seed=1)], [normal(2, 4, seed=2), normal(2, 4, seed=3)]]
    layers = [(normal(5, 6, seed=4), normal(5, seed=5)), (normal(5, 13, seed=6), normal(5, seed=7))]
    got = fusion_chain(cells, layers, "sigmoid")
    for i in range(2):
        h = torch.sigmoid(layers[0][0] @ torch.cat([cells[0][0][i], cells[0][1][i]]) + layers[0][1])
        h = torch.sigmoid(layers[1][0] @ torch.cat([cells[1][0][i], cells[1][1][i], h]) + layers[1][1])
        assert torch.allclose(got[i], h)


def test_marker_gates_read_the_availability_vector() -> None:
    inner, outer = (normal(5, 3), normal(5, seed=1)), (normal(4, 5, seed=2), normal(4, seed=3))
    seen = torch.tensor([[1.0, 0, 1], [0, 1, 0]]).double()
    for row, got in zip(seen, marker_gates(seen, inner, outer), strict=True):
        hidden = (inner[0][:, row > 0].sum(1) + inner[1]).clamp(min=0)
        assert torch.allclose(got, (outer[0] @ hidden + outer[1]).sigmoid())


def test_loss_weights_follow_the_share() -> None:
    shares = torch.tensor([[0.2, 0.8], [0.5, 0.5]], dtype=torch.float64)
    assert torch.allclose(loss_weights(shares, 1.0), 2 * shares)
    assert torch.allclose(loss_weights(shares, 1e6), torch.ones(2, 2, dtype=torch.float64), atol=1e-5)
    root = 0.2 ** (1 / 3), 0.8 ** (1 / 3)
    assert torch.allclose(loss_weights(shares, 3.0)[0, 0], torch.tensor(2 * root[0] / sum(root)).double())


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_mixing_weights_sum_to_m_at_every_place(count: int) -> None:
    n = 40
    draw = toy_draw()
    plan = Plan(
        first=torch.arange(n) % count,
        kappa=draw.uniform(n, "k"),
        boxed=torch.arange(n) % 2 == 0,
        x=draw.uniform(n, "x"),
        y=draw.uniform(n, "y"),
    )
    weights = plan.weights(count, 64)
    assert torch.allclose(weights.sum(1), torch.full((n, 64, 64), float(count)), atol=1e-5)
    assert (weights >= 0).all()
    # what each modality got, over the picture, is its share; the box's edge is rounded to pixels
    assert torch.allclose(weights.mean((2, 3)) / count, plan.shares(count), atol=0.035)
    boxed = weights[::2][torch.arange(n // 2), plan.first[::2]]
    if count > 1:
        assert set(boxed.unique().tolist()) <= {0.0, float(count)}


def test_mix_of_two_is_the_papers_formula() -> None:
    f, box = [normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)], normal(2, 4, 4, seed=2) > 0
    w = 2 * torch.stack([box, ~box], 1).double()
    assert torch.allclose(mix(f, w), 2 * torch.where(box[:, None], f[0], f[1]))


def test_renormalised_falls_back_to_what_is_there() -> None:
    seen = torch.tensor([[1.0, 0.0, 1.0]])
    assert torch.allclose(renormalised(torch.tensor([[0.2, 0.0, 0.6]]), seen), torch.tensor([[0.25, 0, 0.75]]))
    assert torch.allclose(renormalised(torch.zeros(1, 3), seen), torch.tensor([[0.5, 0, 0.5]]))


def test_concatenated_keeps_the_size_of_the_sum() -> None:
    h = [torch.ones(2, 4), torch.ones(2, 4)]
    present = torch.tensor([[True, True], [False, True]])
    assert torch.equal(concatenated(h, present).sum(1), torch.tensor([8.0, 8.0]))
    assert torch.equal(masked(torch.full((2, 3), float("nan")), present, 0)[1], torch.zeros(3))


GRADIENTS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "cross_gates": (
        lambda a, b, w, v: cross_gates([a, b], (w, w[:, 0]), [(v, v[:, 0]), (v, v[:, 1])], 2.0),
        (normal(2, 2), normal(2, 3), normal(4, 5), normal(3, 4)),
    ),
    "marker_gates": (
        lambda s, w, v: marker_gates(s, (w, w[:, 0]), (v, v[:, 0])), (normal(2, 3), normal(4, 3), normal(5, 4)),
    ),
    "weighted_sum": (
        lambda a, b, w: weighted_sum([a, b], w, torch.tensor([[1.0, 1], [0, 1]]).double()),
        (normal(2, 2, 2, 2), normal(2, 2, 2, 2, seed=1), normal(2)),
    ),
    "exchange": (
        lambda a, b: exchange([a, b], [torch.tensor([1.0, 0]), torch.tensor([0.0, 1])], 0.1),
        (normal(2, 2, 2, 2), normal(2, 2, 2, 2, seed=1)),
    ),
    "substitute": (
        lambda a, b: substitute([a, b], [normal(2, 3).sigmoid(), normal(2, 3, seed=1).sigmoid()], 0.5),
        (normal(2, 3, 2), normal(2, 3, 2, seed=1)),
    ),
    "attend": (
        lambda q, k, v: attend(q, k, v, 2, torch.tensor([[True, False, True]])),
        (normal(1, 2, 4), normal(1, 3, 4, seed=1), normal(1, 3, 4, seed=2)),
    ),
    "shared_bottleneck": (
        lambda a, b: shared_bottleneck([a, b], torch.tensor([[1.0, 1], [0, 1]]).double()),
        (normal(2, 2, 3), normal(2, 2, 3, seed=1)),
    ),
    "fusion_chain": (
        lambda a, b, w: fusion_chain([[a, b]], [(w, w[:, 0])], "sigmoid"),
        (normal(2, 2), normal(2, 2, seed=1), normal(3, 4)),
    ),
    "mix": (lambda a, b, w: mix([a, b], w), (normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1), normal(2, 2, 3, 3))),
    "loss_weights": (lambda s: loss_weights(s, 3.0), (normal(2, 3).softmax(1),)),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    function, inputs = GRADIENTS[name]
    assert torch.autograd.gradcheck(function, tuple(x.clone().requires_grad_() for x in inputs))


# Parameter counts.


def block(dim: int) -> int:
    return 12 * dim**2 + 13 * dim


def closed_form(name: str, m: int) -> int:
    """Parameters on cellnet:width=4 (stages of 4, 8, 16 channels), from the docstrings' formulas."""
    c = list(toy_task(m).channels.values())
    trunks = sum(size(net(x)) for x in c)
    whole = net(1)
    assert isinstance(whole.stages, nn.ModuleList)
    stages = [size(s) for s in whole.stages]
    shared = size(whole) - 9 * WIDTH  # without the stem's convolution
    stems = 9 * WIDTH * sum(c)
    norms = sum(size(x) for x in whole.modules() if isinstance(x, nn.BatchNorm2d))
    d, n, head = 8, 16, m * (DIM + 1) * K  # token width, tokens
    tokens = trunks + m * ((DIM + 1) * d + n * d) + (m * d + 1) * K
    gates = {
        "mmtm": lambda x: 4 * (m * x) ** 2 // 4 + 2 * m * x // 4 + m * x,
        "se": lambda x: m * (x**2 + x // 2 + x),
    }
    match name:
        case "mid_concat":
            private = trunks - m * sum(stages[1:])
            return private + (m * 4 + 1) * 4 + sum(stages[1:]) + (DIM + 1) * K
        case "mmtm" | "se":
            return trunks + gates[name](8) + gates[name](16) + (m * DIM + 1) * K
        case "centralnet":
            return trunks + sum(stages[1:]) + m + 2 * (m + 1) + (m + 1) * (DIM + 1) * K
        case "marker_excite":
            return size(net(sum(c))) + sum((m + 1) * 16 + 17 * x for x in (4, 8, 16)) + (DIM + 1) * K
        case "fusion_search":
            return trunks + (m * 8 + 1) * 64 + (m * 16 + 65) * 64 + 65 * K
        case "cross_attention":
            return tokens + m * (m - 1) * block(d)
        case "mbt":
            return tokens + m * 3 * block(d) + 4 * d
        case "token_fusion":
            return tokens + 2 * (12 * d**2 + 9 * d + m * (4 * d + (d + 1) * d // 2 + d // 2 + 1))
        case "mixmo":
            return shared + stems + head
        case "shared_trunk":
            return shared + stems + (m - 1) * norms + head
        case "cen":
            return shared + stems + (m - 1) * norms + head + m
    raise AssertionError(name)


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("name", [n for n in ALL if n not in ("packed", "thin_ensemble")])
def test_parameters_equal_their_closed_form(name: str, modalities: int) -> None:
    params = {"dim": 8, "heads": 2} if name in TOKENS else {}
    assert size(build(name, modalities, **params)) == closed_form(name, modalities)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_narrow_networks_together_are_as_big_as_they_say(modalities: int) -> None:
    def wide(task: Task) -> BackboneFactory:
        return factory(task, width=32)

    c = list(toy_task(modalities).channels.values())
    for name, width in (("thin_ensemble", modalities**-0.5), ("packed", 1 / modalities)):
        fusion = build(name, modalities, make=wide)
        thin = [wide(fusion.task)(x, width=width) for x in c]
        assert size(fusion) == sum(size(t) + (t.dim + 1) * K for t in thin)
    one = size(wide(toy_task())(sum(c)))
    assert size(build("thin_ensemble", modalities, make=wide)) == pytest.approx(one, rel=0.1)
    assert size(build("packed", modalities, make=wide)) == pytest.approx(one / modalities, rel=0.15)
    assert size(build("packed", modalities, make=wide, width=2 / modalities)) == pytest.approx(
        4 * one / modalities, rel=0.15
    )


def test_what_does_not_run_is_not_there() -> None:
    task = toy_task()
    trunks, shapes = build_trunks(task, factory(task), 2)
    assert shapes == ((4, 16, 16), (8, 8, 8), (16, 4, 4))
    whole = net(3)
    assert isinstance(whole.stages, nn.ModuleList)
    assert size(trunks["u"]) == size(whole) - size(whole.stages[2])
    later = keep_stages(net(3), [2], shapes[1])
    assert size(later) == size(whole.stages[2])
    assert size(keep_stages(net(3), [], shapes[2])) == 0


# Identities between fusions.


def test_independent_with_equal_heads_on_one_cell_is_early_fusion() -> None:
    early, independent = build("early"), build("independent", seed=1, rho=1.0)
    independent.backbone.load_state_dict(early.backbone.state_dict())  # type: ignore[union-attr, operator]
    assert isinstance(independent.heads, nn.ModuleDict)
    for head in independent.heads.values():
        head.load_state_dict(early.head.state_dict())  # type: ignore[union-attr, operator]
    batch = independent.assemble(toy_batch(early.task), toy_draw())
    assert batch.rows is not None
    rows = list(batch.rows.values())
    assert torch.equal(rows[0], rows[1]), "with rho 1 all slots show one cell"
    settled(early)
    independent.backbone.load_state_dict(early.backbone.state_dict())  # type: ignore[union-attr, operator]
    a, b = early.eval()(batch.images), independent.eval()(batch.images)
    for out in b.values():
        assert torch.equal(out.logits, a["joint"].logits)
    assert torch.allclose(early.predict(a), independent.predict(b))


def test_mixmo_by_sum_is_one_convolution_of_the_concatenation() -> None:
    mixmo, independent = build("mixmo", 3), build("independent", 3, seed=1)
    state = mixmo.state_dict()
    state.pop("fraction")
    stems = [state.pop(f"backbone.stem.0.each.{i}.weight") for i in range(3)]
    independent.load_state_dict({**state, "backbone.stem.0.weight": torch.cat(stems, 1)})
    images = images_of(mixmo)
    a, b = mixmo.eval()(images), independent.eval()(images)
    for m in mixmo.task.modalities:
        assert torch.allclose(a[m].logits, b[m].logits, atol=1e-5)


def test_mixmo_mixes_in_training_only_and_weighs_its_losses() -> None:
    fusion = build("mixmo").train()
    batch = fusion.assemble(toy_batch(fusion.task), toy_draw())
    outputs = with_labels(fusion(batch.images), batch)
    assert all(isinstance(out, MixedOutput) for out in outputs.values()), "the subclass survives `with_labels`"
    weights = torch.stack([out.weight for out in outputs.values() if isinstance(out, MixedOutput)], 1)
    assert torch.allclose(weights.sum(1), torch.full((8,), 2.0))
    assert weights.std() > 0.05
    terms = fusion.task_terms(outputs, batch, Progress(0, 1, 0, 1))
    for i, (route, out) in enumerate(outputs.items()):
        assert out.labels is not None
        plain = F.cross_entropy(out.logits, out.labels, reduction="none")
        assert torch.allclose(terms[route], plain * weights[:, i])
    fusion.eval()
    alike = fusion(batch.images)
    assert all(torch.equal(out.weight, torch.ones(8)) for out in alike.values())
    copy.deepcopy(fusion)


@pytest.mark.parametrize(("fraction", "share"), [(0.0, 0.5), (0.9, 0.5), (23 / 24, 0.25), (1.0, 0.0)])
def test_boxes_stop_towards_the_end_of_training(fraction: float, share: float) -> None:
    fusion = build("mixmo").train()
    batch = toy_batch(fusion.task)
    outputs = with_labels(fusion(batch.images), batch)
    fusion.task_terms(outputs, batch, Progress(int(fraction * 24), 24, round(fraction * 240) % 10, 10))
    fusion.assemble(toy_batch(fusion.task, 2000), toy_draw())
    plan = fusion.plan
    assert isinstance(plan, Plan)
    assert float(plan.boxed.float().mean()) == pytest.approx(share, abs=0.03)


def test_shared_trunk_is_one_network_per_modality_with_tied_weights() -> None:
    fusion = settled(build("shared_trunk"))
    images = images_of(fusion)
    outputs = fusion(images)
    for i, (m, channels) in enumerate(fusion.task.channels.items()):
        alone = net(channels).eval()
        state = fusion.backbone.state_dict()  # type: ignore[union-attr, operator]
        own = {
            k.replace(f".each.{i}.", "."): v for k, v in state.items() if ".each." not in k or f".each.{i}." in k
        }
        alone.load_state_dict(own)
        assert torch.allclose(alone(images[m]).embedding, outputs[m].embedding, atol=1e-5)


def test_shared_trunk_normalises_every_modality_by_itself_in_training() -> None:
    fusion = build("shared_trunk").train()
    images = images_of(fusion)
    before = fusion(images)["u"].logits
    images["v"] = 100 * images["v"] + 7
    assert torch.allclose(before, fusion(images)["u"].logits, atol=1e-5)


def test_cen_without_exchange_is_a_shared_trunk() -> None:
    cen, shared = settled(build("cen", threshold=0.0)), build("shared_trunk", seed=1).eval()
    state = cen.state_dict()
    state.pop("alpha")
    shared.load_state_dict(state)
    images = images_of(cen)
    a, b = cen(images), shared(images)
    for m in cen.task.modalities:
        assert torch.allclose(a[m].logits, b[m].logits, atol=1e-6)
    assert torch.allclose(a["joint"].logits, torch.stack([o.logits for o in b.values()]).mean(0), atol=1e-6)


def test_cen_exchanges_below_the_threshold_only() -> None:
    cen = settled(build("cen"))
    images = images_of(cen)
    other = {**images, "v": torch.randn_like(images["v"])}
    assert torch.equal(cen(images)["u"].logits, cen(other)["u"].logits), "scales start at 1: nothing is exchanged"
    sites = [x for x in cen.modules() if isinstance(x, Exchanging)]
    assert len(sites) == 9
    with torch.no_grad():
        sites[0].gammas()[0][0] = 0.001
    assert not torch.equal(cen(images)["u"].logits, cen(other)["u"].logits)


def test_cens_joint_route_trains_its_weights_only() -> None:
    cen = build("cen").train()
    cen(images_of(cen))["joint"].logits.square().sum().backward()
    assert [n for n, p in cen.named_parameters() if p.grad is not None] == ["alpha"]
    batch = toy_batch(cen.task)
    terms = cen.task_terms(with_labels(cen(batch.images), batch), batch, Progress(0, 1, 0, 1))
    norms = [x for x in cen.modules() if isinstance(x, Exchanging)]
    ones = sum(len(s.gammas()[0]) for s in norms)  # scales start at 1; half of each of two
    assert float(terms["sparsity"].detach()) == pytest.approx(2e-4 * ones)


def test_packed_is_late_fusion_of_separate_thin_networks_and_one_grouped_convolution() -> None:
    packed = settled(build("packed", make=lambda task: factory(task, width=16)))
    images = images_of(packed)
    outputs = packed(images)
    assert isinstance(packed.backbones, nn.ModuleDict)
    for m, c in packed.task.channels.items():
        thin = factory(packed.task, width=16)(c, width=0.5).eval()
        thin.load_state_dict(packed.backbones[m].state_dict())
        assert torch.equal(thin(images[m]).embedding, outputs[m].embedding)
    # why separate networks are grouped convolutions
    x, w = normal(2, 6, 5, 5), normal(8, 3, 3, 3, seed=1)
    halves = [F.conv2d(a, b, padding=1) for a, b in zip(x.chunk(2, 1), w.chunk(2, 0), strict=True)]
    assert torch.allclose(F.conv2d(x, w, padding=1, groups=2), torch.cat(halves, 1))


def test_mid_concat_after_the_last_stage_has_no_common_trunk() -> None:
    fusion = build("mid_concat", stage=3)
    assert size(fusion.trunk) == 0  # type: ignore[arg-type]
    assert [tuple(x.shape[1:]) for x in fusion(images_of(fusion), maps=True)["joint"].maps] == [(16, 4, 4)]


def test_without_layers_in_common_bottlenecks_carry_the_news() -> None:
    # the second fused layer is the first in which one modality's tokens depend on the other's image
    mbt = settled(build("mbt", dim=8, heads=2, layers=2, fusion_layer=0))
    images = images_of(mbt)
    other = {**images, "v": torch.randn_like(images["v"])}
    a, b = (mbt(x)["joint"].embedding[:, :8] for x in (images, other))
    assert not torch.equal(a, b)
    with pytest.raises(IncompatibleError, match="no information passes"):
        build("mbt", layers=2, fusion_layer=1)
    assert size(build("mbt", shared=True)) < size(build("mbt"))


def test_token_fusion_without_substitution_keeps_modalities_apart() -> None:
    images = images_of(build("token_fusion"))
    other = {**images, "v": torch.randn_like(images["v"])}
    for threshold, apart in ((0.0, True), (0.55, False)):
        fusion = settled(build("token_fusion", dim=8, heads=2, threshold=threshold))
        a, b = (fusion(x)["joint"].embedding[:, :8] for x in (images, other))
        assert torch.equal(a, b) is apart
    fusion.train()
    batch = toy_batch(fusion.task)
    terms = fusion.task_terms(with_labels(fusion(batch.images), batch), batch, Progress(0, 1, 0, 1))
    assert terms["sparsity"].shape == (8,)
    assert ((terms["sparsity"] > 0) & (terms["sparsity"] < 1e-2 * 4)).all()  # 2 layers, 2 modalities


def test_centralnet_predicts_with_its_central_head_and_weighs_the_others() -> None:
    fusion = build("centralnet", unimodal=0.5)
    batch = toy_batch(fusion.task)
    outputs = with_labels(fusion.eval()(batch.images), batch)
    assert torch.equal(fusion.predict(outputs), outputs["joint"].logits.softmax(1))
    terms = fusion.task_terms(outputs, batch, Progress(0, 1, 0, 1))
    for route, out in outputs.items():
        plain = F.cross_entropy(out.logits, batch.labels, reduction="none")
        assert torch.allclose(terms[route], plain * (1.0 if route == "joint" else 0.5))


# Missing modalities.


@pytest.mark.parametrize("name", NATIVE)
def test_absent_modalities_of_three_change_nothing(name: str) -> None:
    fusion = settled(build(name, 3))
    images = images_of(fusion)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 1, 0], [1, 1, 0], [1, 0, 0]]).bool()
    noisy = {m: torch.where(present[:, i, None, None, None], x, 1e3) for i, (m, x) in enumerate(images.items())}

    def answer(given: dict[str, Tensor]) -> Tensor:
        outputs: Outputs = fusion(given, present)
        return fusion.predict(outputs, present)

    plain = answer(images)
    assert torch.isfinite(plain).all()
    assert torch.equal(plain, answer(noisy))
    everything = torch.ones_like(present)
    assert torch.allclose(
        fusion.predict(fusion(images, everything), everything), fusion.predict(fusion(images)), atol=1e-6
    )


# Backbones other than cellnet.


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_timm_backbones_train_whole_or_are_refused(name: str, model: str) -> None:
    refused = (name in STAGED and model == "test_vit") or (
        name == "cen" and model in ("test_convnext", "test_vit")
    )
    narrow = name in ("packed", "thin_ensemble")

    def build_timm() -> Fusion:
        cls = component_class("fusion", name)
        task = toy_task(2, size=32)
        fusion: Fusion = cls(task, factory(task, "timm", model=model), cls.Params())
        return fusion

    if refused or narrow:
        with pytest.raises(IncompatibleError):
            build_timm()
        return
    fusion = build_timm().train()
    batch = toy_batch(fusion.task, cells=4)
    outputs = with_labels(fusion(batch.images), batch)
    terms = fusion.task_terms(outputs, batch, Progress(0, 1, 0, 1))
    torch.stack([t.mean() for t in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    assert not [n for n, p in fusion.named_parameters() if p.requires_grad and p.grad is None]
    copied = copy.deepcopy(fusion).eval()
    assert all(
        torch.equal(a.logits, b.logits)
        for a, b in zip(copied(batch.images).values(), fusion.eval()(batch.images).values(), strict=True)
    )


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_autocast(name: str) -> None:
    fusion = build(name).train()
    batch = fusion.assemble(toy_batch(fusion.task), toy_draw())
    present = torch.ones(8, 2, dtype=torch.bool)
    present[0, 1] = False
    with torch.autocast("cpu", torch.bfloat16):
        outputs = fusion(batch.images, present)
    terms = fusion.task_terms(with_labels(outputs, batch), batch, Progress(0, 1, 0, 1))
    loss = torch.stack([t.mean() for t in terms.values()]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)


# Spellings.


def test_spellings_of_stages() -> None:
    assert chosen_stages("late", 3) == (1, 2)
    assert chosen_stages("all", 3) == (0, 1, 2)
    assert chosen_stages("last", 3) == (2,)
    assert chosen_stages("s3+1", 3) == (0, 2)
    assert cell_stages("last-2+last") == [2, 0]
    for wrong in ("s4", "s0", "", "x", "s1+x"):
        with pytest.raises(IncompatibleError, match="stages"):
            chosen_stages(wrong, 3)
    for wrong in ("", "last-", "first", "last1"):
        with pytest.raises(IncompatibleError, match="cells"):
            cell_stages(wrong)
    with pytest.raises(IncompatibleError, match="has 3"):
        build("mid_concat", stage=4)
    with pytest.raises(IncompatibleError, match="has 3"):
        build("fusion_search", cells="last-3+last")
    with pytest.raises(IncompatibleError, match="heads"):
        build("mbt", dim=10, heads=4)


def test_unequal_backbones_need_as_many_stages() -> None:
    """Each has maps of its own width."""
    task = Task({"u": 1, "v": 3}, ("x", "y"), 16)
    cls = component_class("backbone", "cellnet")

    def wider(channels: int, *, width: float = 1.0, modality: str | None = None) -> Backbone:
        return cls(channels, 16, cls.Params(width={"u": 4, "v": 6}[str(modality)]))

    _, shapes = build_own_trunks(task, wider)
    assert {m: own[-1][0] for m, own in shapes.items()} == {"u": 16, "v": 24}

    def deeper(channels: int, *, width: float = 1.0, modality: str | None = None) -> Backbone:
        net = wider(channels, modality=modality)
        if modality == "v":
            net.__class__ = type("Short", (cls,), {"stage_count": property(lambda _: 2)})
        return net

    with pytest.raises(IncompatibleError, match="but got u=3, v=2"):
        build_own_trunks(task, deeper)
