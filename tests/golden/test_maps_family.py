"""Distillers of stage maps against values that public implementations agree on, and their invariants.

Golden values: inputs of `wbcbench.testing.toys`, float64, sums of absolute gradients with respect to
the student's (first) map. The oracle of each is named beside it; RD = RepDistiller, MD = mdistiller,
MR = MMRazor, TD = torchdistill, KZ = Knowledge-Distillation-Zoo.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wbcbench_plugins.distillers.ab import boundary_loss
from wbcbench_plugins.distillers.afd import attended_loss
from wbcbench_plugins.distillers.at import attention_loss, attention_map
from wbcbench_plugins.distillers.at_paper import attention_distance
from wbcbench_plugins.distillers.byot import exit_loss
from wbcbench_plugins.distillers.cwd import channel_divergence
from wbcbench_plugins.distillers.diffkd import ddim_step, noised, signal_share
from wbcbench_plugins.distillers.fitnet import hint_loss
from wbcbench_plugins.distillers.fsp import flow_column_loss, flow_loss, flow_matrix
from wbcbench_plugins.distillers.ft import factor_loss, spatial_factor_loss
from wbcbench_plugins.distillers.ickd import correlation_loss
from wbcbench_plugins.distillers.mgd import generation_loss, masked
from wbcbench_plugins.distillers.nst import selectivity_loss
from wbcbench_plugins.distillers.ofd import batch_norm_margins, mean_negative, partial_distance
from wbcbench_plugins.distillers.pkd import pearson_loss
from wbcbench_plugins.distillers.reviewkd import hierarchical_loss
from wbcbench_plugins.distillers.semckd import calibrated_loss, stage_attention
from wbcbench_plugins.distillers.vid import variational_loss

from wbcbench.contracts import Distiller, Output, Progress
from wbcbench.errors import IncompatibleError
from wbcbench.testing import evaluate_distiller
from wbcbench.testing.components import component_class
from wbcbench.testing.distillers import START, shapes_of
from wbcbench.testing.losses import closed_forms

X = closed_forms()
LATE = Progress(epoch=1, epochs=2, step=0, steps=1)
NAMES = (
    "fitnet", "at", "at_paper", "nst", "cwd", "pkd", "ickd", "fsp", "fsp_td", "vid", "ab", "ofd", "ft", "reviewkd",
    "mgd", "semckd", "afd", "byot", "diffkd",
)  # fmt: skip
Pure = Callable[[Tensor, Tensor], Tensor]
MARGINS = torch.full((3,), -0.5, dtype=torch.float64)
ATTENTION = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
PURE: dict[str, Pure] = {
    "fitnet": hint_loss,
    "at": attention_loss,
    "at p=4": lambda s, t: attention_loss(s, t, 4),
    "at_paper": attention_distance,
    "nst": selectivity_loss,
    "cwd": lambda s, t: channel_divergence(s, t, 2.0),
    "pkd": pearson_loss,
    "ickd": correlation_loss,
    "fsp": lambda s, t: flow_loss(flow_matrix(s, X["F2_s"]), flow_matrix(t, X["F2_s"])),
    "fsp_td": lambda s, t: flow_column_loss(flow_matrix(s, X["F2_s"]), flow_matrix(t, X["F2_s"])),
    "ft": factor_loss,
    "ft spatial": spatial_factor_loss,
    "reviewkd": hierarchical_loss,
    "afd": lambda s, t: attended_loss(s, t, ATTENTION.to(s)),
    "mgd": generation_loss,
    "vid": lambda s, t: variational_loss(s, t, torch.tensor([0.5, 1.0, 3.0]).to(s)),
    "ab": lambda s, t: boundary_loss(s, t, 0.5),
    "ofd": lambda s, t: partial_distance(s, t, MARGINS.to(s)),
}
"""Every pure loss of two maps of one shape."""
ZERO_AT_EQUALITY = [name for name in PURE if name not in ("vid", "ab", "ofd")]


def built(
    name: str, student: Output, teacher: Output, seed: int = 0, dtype: torch.dtype = torch.float32, **params: Any
) -> Distiller:
    cls = component_class("distiller", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        distiller: Distiller = cls(cls.Params(**params))
        distiller.setup(shapes_of(student, teacher))
    return distiller.to(dtype)


def outputs(
    rows: int = 3,
    student: tuple[tuple[int, int, int], ...] = ((4, 20, 20), (8, 10, 10)),
    teacher: tuple[tuple[int, int, int], ...] = ((6, 40, 40), (8, 20, 20), (12, 10, 10)),
    classes: int = 2,
    seed: int = 0,
) -> tuple[Output, Output]:
    """Maps of a student and a larger teacher; embeddings and logits as `byot` has them (of one network)."""
    g = torch.Generator().manual_seed(seed)

    def side(shapes: tuple[tuple[int, int, int], ...], grad: bool) -> Output:
        maps = tuple(torch.randn(rows, *shape, generator=g).requires_grad_(grad) for shape in shapes)
        embedding, logits = torch.randn(rows, 5, generator=g), torch.randn(rows, classes, generator=g)
        labels = torch.arange(rows) % classes
        return Output(logits.requires_grad_(grad), embedding.requires_grad_(grad), maps, labels=labels)

    return side(student, True), side(teacher, False)


def total(distiller: Distiller, student: Output, teacher: Output, progress: Progress = LATE) -> Tensor:
    return torch.stack([x.mean() for x in distiller.terms(student, teacher, progress).values()]).sum()


# Values that public implementations agree on.


@pytest.mark.parametrize(
    ("name", "params", "value", "gradient"),
    [
        ("fitnet", {}, 0.999177826883, 1.61046216991),  # fitnet.F: RD, MR
        ("at", {"power": 2}, 0.020843723462, 0.145898928112),  # at.p2: RD, MD, MR, TD
        ("at_paper", {}, 0.577021005826, 2.02158451053),  # at.paper: TD
        ("nst", {}, 1.43576793579, 0.859958951178),  # nst: RD, MD, KZ
        ("cwd", {"temperature": 1.0}, 0.40015136436, 0.69190220909),  # cwd.t1: MR
        ("pkd", {}, 0.931143633733, 1.26742589785),  # pkd: MR
        ("ickd", {}, 0.0163666627844, 0.201986296011),  # ickd: TD
        ("vid", {"adapter": "identity_if_equal"}, 0.904636738905, 0.161046216991),  # vid.v5: RD, MD, TD
        ("ab", {"adapter": "identity_if_equal"}, 70.8649040617, 94.1325772597),  # ab.m1: RD, MR, KZ, TD
    ],
)
def test_golden_values_of_one_stage(name: str, params: dict[str, Any], value: float, gradient: float) -> None:
    student = X["F_s"].clone().requires_grad_()
    check(evaluate_distiller(name, {"maps": [student]}, {"maps": [X["F_t"]]}, **params), student, value, gradient)


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [
        (hierarchical_loss, 0.774079967289, 1.27523554813),  # hcl: MD, TD
        (spatial_factor_loss, 0.126845232228, 0.568900894538),  # ft.rd: RD
        (factor_loss, 0.162878567592, 0.1379392686),  # ft.full: KZ, MR, TD
        (PURE["ofd"], 41.5710114657, 66.5560624391),  # ofd.m-0.5: MD, MR
    ],
)
def test_golden_values_of_functions(loss: Pure, value: float, gradient: float) -> None:
    """Those whose class always trains a layer, or finds its margins in the batch."""
    student = X["F_s"].clone().requires_grad_()
    check(loss(student, X["F_t"]).mean(), student, value, gradient)


@pytest.mark.parametrize(
    ("name", "value", "gradient", "gradient_of_second"),
    [
        ("fsp", 0.118537044141, 0.322487633578, 0.306535347652),  # fsp.mse: RD, KZ
        ("fsp_td", 1.69650082556, 2.51657482127, 2.41530742423),  # fsp.td: TD
    ],
)
def test_golden_values_of_flows(name: str, value: float, gradient: float, gradient_of_second: float) -> None:
    first, second = X["F_s"].clone().requires_grad_(), X["F2_s"].clone().requires_grad_()
    loss = evaluate_distiller(name, {"maps": [first, second]}, {"maps": [X["F_t"], X["F2_t"]]})
    check(loss, first, value, gradient)
    assert second.grad is not None
    assert second.grad.abs().sum().item() == pytest.approx(gradient_of_second, rel=1e-9)


def test_golden_margins() -> None:
    """ofd_margin: MD, OFD.init_ofd_modules."""
    margins = batch_norm_margins(X["bn_weight"], X["bn_bias"])
    assert margins.tolist() == pytest.approx([-0.603302316605, -1.11818833376, -0.9], rel=1e-9)


def check(loss: Tensor, student: Tensor, value: float, gradient: float) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert student.grad is not None
    assert student.grad.abs().sum().item() == pytest.approx(gradient, rel=1e-9)


@pytest.mark.parametrize("name", ["at", "at_paper", "nst", "pkd"])
def test_stages_add_up(name: str) -> None:
    student, teacher = ([X[f"F_{side}"], X[f"F2_{side}"]] for side in "st")
    parts = [evaluate_distiller(name, {"maps": [s]}, {"maps": [t]}) for s, t in zip(student, teacher, strict=True)]
    assert torch.allclose(evaluate_distiller(name, {"maps": student}, {"maps": teacher}), torch.stack(parts).sum())


@pytest.mark.parametrize("name", ["ab", "ofd"])
def test_stages_halve_towards_the_input(name: str) -> None:
    """As in the reference codes: stage i of n counts 2^(i - n + 1)."""
    one = {"adapter": "identity_if_equal"}
    alone = evaluate_distiller(name, {"maps": [X["F_s"]]}, {"maps": [X["F_t"]]}, **one)
    twice = evaluate_distiller(name, {"maps": [X["F_s"]] * 2}, {"maps": [X["F_t"]] * 2}, **one)
    assert torch.allclose(twice, 1.5 * alone)


# Invariants.


@pytest.mark.parametrize("name", PURE)
def test_gradient_check(name: str) -> None:
    student, teacher = X["F_s"][:2].clone().requires_grad_(), X["F_t"][:2]
    loss = PURE[name]
    if name.startswith("fsp"):
        student, teacher = X["F_s"].clone().requires_grad_(), X["F_t"]
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


@pytest.mark.parametrize("name", ZERO_AT_EQUALITY)
def test_zero_where_student_equals_teacher(name: str) -> None:
    assert PURE[name](X["F_t"], X["F_t"]).abs().max() < 1e-12


@pytest.mark.parametrize("name", [n for n in PURE if not n.startswith("fsp")])
def test_order_of_the_batch_changes_nothing(name: str) -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(PURE[name](X["F_s"], X["F_t"])[order], PURE[name](X["F_s"][order], X["F_t"][order]))


@pytest.mark.parametrize(
    "name", ["fitnet", "at", "nst", "ft", "ft spatial", "reviewkd", "vid", "ab", "ofd", "cwd"]
)
def test_each_sample_counts_alone(name: str) -> None:
    whole = PURE[name](X["F_s"], X["F_t"])
    assert torch.allclose(whole[1:2], PURE[name](X["F_s"][1:2], X["F_t"][1:2]))


def test_attention_ignores_order_sign_and_scale_of_channels() -> None:
    other = -3 * X["F_s"][:, [2, 0, 1]]
    assert torch.allclose(attention_map(X["F_s"]), attention_map(other))
    distance = attention_distance(X["F_s"], X["F_t"])
    assert torch.allclose(distance.pow(2) / 16, attention_loss(X["F_s"], X["F_t"]))
    assert distance.max() <= 2**0.5


def test_selectivity_is_the_discrepancy_of_channels_written_out() -> None:
    """As a broadcast over all channel pairs and positions, which other codes build in memory."""
    s, t = (F.normalize(x.flatten(2), dim=2) for x in (X["F_s"], X["F2_t"]))

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, :, None] * b[:, None]).sum(-1).pow(2).mean((1, 2))

    expected = mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t)
    assert torch.allclose(selectivity_loss(X["F_s"], X["F2_t"]), expected)
    scales = torch.tensor([2.0, -0.5, 1.0], dtype=torch.float64)[None, :, None, None]
    assert torch.allclose(selectivity_loss((X["F_s"] * scales)[:, [1, 2, 0]], X["F2_t"]), expected)


def test_channel_divergence_ignores_a_shift_of_a_channel() -> None:
    shift = torch.tensor([1.0, -2.0, 5.0])[None, :, None, None]
    loss = channel_divergence(X["F_s"], X["F_t"], 2.0)
    assert torch.allclose(loss, channel_divergence(X["F_s"] + shift, X["F_t"] - shift, 2.0))


def test_channel_divergence_at_high_temperature_is_half_the_variance_of_the_difference() -> None:
    difference = (X["F_s"] - X["F_t"]).flatten(2)
    limit = difference.var(2, unbiased=False).mean(1) / 2
    assert torch.allclose(channel_divergence(X["F_s"], X["F_t"], 1e4), limit, rtol=1e-3)


def test_pearson_is_one_minus_the_correlation() -> None:
    s, t = (x.transpose(0, 1).flatten(1) for x in (X["F_s"], X["F_t"]))
    correlation = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(s, t, strict=True)])
    n = s.shape[1]
    assert torch.allclose(
        pearson_loss(X["F_s"], X["F_t"]).mean(), (1 - correlation).mean() * (n - 1) / n, rtol=1e-5
    )
    scale = torch.tensor([2.0, 0.5, 7.0])[None, :, None, None]
    assert torch.allclose(
        pearson_loss(X["F_s"] * scale + 3, X["F_t"]), pearson_loss(X["F_s"], X["F_t"]), rtol=1e-4
    )


def test_channel_correlation_ignores_where_and_how_strong() -> None:
    moved = 4 * X["F_s"].flatten(2)[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    loss = correlation_loss(X["F_s"], X["F_t"])
    assert torch.allclose(loss, correlation_loss(moved.view_as(X["F_s"]), X["F_t"]))


def test_a_silent_channel_has_no_gradient_in_channel_correlation() -> None:
    student = X["F_s"].float().clone()
    student[:, 1] = 0
    student.requires_grad_()
    correlation_loss(student, X["F_t"].float()).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.abs().max() < 10


def test_flow_does_not_depend_on_resolution() -> None:
    fine = [F.interpolate(X[k], scale_factor=2, mode="nearest") for k in ("F_s", "F2_s")]
    coarse = flow_matrix(X["F_s"], X["F2_s"])
    assert torch.allclose(flow_matrix(*fine), coarse)
    assert torch.allclose(flow_matrix(fine[0], X["F2_s"]), coarse)


def test_flow_needs_two_stages() -> None:
    with pytest.raises(IncompatibleError, match="single stage"):
        evaluate_distiller("fsp", {"maps": [X["F_s"]]}, {"maps": [X["F_t"]]})


def test_boundaries_read_the_sign_of_the_teacher_alone() -> None:
    before = boundary_loss(X["F_s"], X["F_t"], 1.0)
    assert torch.equal(before, boundary_loss(X["F_s"], X["F_t"].relu(), 1.0))
    assert torch.equal(before, boundary_loss(X["F_s"], 9 * X["F_t"].tanh(), 1.0))
    assert boundary_loss(3 * X["F_t"].sign(), X["F_t"], 1.0).max() == 0


def test_boundaries_meet_beyond_the_margin() -> None:
    """Set A never leaves the margin; these do: (teacher, student) in all four regions, m = 1."""
    teacher = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0]).view(1, 1, 1, 5)
    student = torch.tensor([2.0, -3.0, -2.0, 0.5, 0.5]).view(1, 1, 1, 5)
    assert boundary_loss(student, teacher, 1.0).item() == 16 + 2.25 + 2.25


def test_boundaries_survive_a_larger_teacher_map_on_either_side_of_relu() -> None:
    student, teacher = outputs(student=((4, 8, 8),), teacher=((6, 16, 16),))
    distiller = built("ab", student, teacher)
    rectified = Output(teacher.logits, teacher.embedding, tuple(m.relu() for m in teacher.maps))
    assert torch.equal(total(distiller, student, teacher), total(distiller, student, rectified))


def test_partial_distance_in_its_regions() -> None:
    margin = torch.tensor([-0.5])
    teacher = torch.tensor([1.0, 1.0, -2.0, -2.0, -0.2]).view(1, 1, 1, 5)
    student = torch.tensor([3.0, -1.0, -4.0, 0.5, 0.0]).view(1, 1, 1, 5)
    assert partial_distance(student, teacher, margin).item() == pytest.approx(4 + 4 + 0 + 1 + 0.04)


def test_margins_of_a_batch_tend_to_those_of_the_normalisation() -> None:
    g = torch.Generator().manual_seed(0)
    weight, bias = X["bn_weight"][:2], X["bn_bias"][:2]
    normal = torch.randn(64, 2, 64, 64, generator=g, dtype=torch.float64)
    maps = normal * weight[:, None, None] + bias[:, None, None]
    assert torch.allclose(mean_negative(maps), batch_norm_margins(weight, bias), rtol=0.01)
    assert torch.equal(mean_negative(maps.relu()), torch.zeros(2, dtype=torch.float64))


def test_hierarchy_of_a_shift_and_of_a_single_position() -> None:
    assert torch.allclose(hierarchical_loss(X["F_t"] + 2, X["F_t"]), torch.tensor(4.0, dtype=torch.float64))
    point = X["F_t"][:, :, :1, :1]
    assert torch.allclose(hierarchical_loss(point + 1, point), hint_loss(point + 1, point))


def test_factors_ignore_scale() -> None:
    for loss in (factor_loss, spatial_factor_loss):
        assert torch.allclose(loss(5 * X["F_s"], X["F_t"]), loss(X["F_s"], 0.1 * X["F_t"]))


def test_the_mask_hides_the_share_asked_for() -> None:
    ones = torch.ones(8, 64, 16, 16)
    g = torch.Generator().manual_seed(0)
    for shape, axes in (((8, 1, 16, 16), (1,)), ((8, 64, 1, 1), (2, 3))):
        noise = torch.rand(shape, generator=g)
        shown = masked(ones, noise, 0.7)
        assert shown.mean().item() == pytest.approx(0.3, abs=0.06)
        assert torch.equal(shown.amin(axes), shown.amax(axes))
        assert torch.equal(masked(ones, noise, 0.0), ones)


@pytest.mark.parametrize(("unit", "axes"), [("channel", (2, 3)), ("position", (1,))])
def test_the_generator_sees_masked_maps(unit: str, axes: tuple[int, ...]) -> None:
    student, teacher = outputs(student=((6, 8, 8),), teacher=((6, 8, 8),))
    distiller = built("mgd", student, teacher, unit=unit, hidden=0.5)
    (generator,) = distiller.generators  # type: ignore[misc]
    seen = []
    generator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    total(distiller, student, teacher)
    hidden = seen[0] == 0
    assert 0.3 < hidden.float().mean() < 0.7
    assert torch.equal(hidden.float().amin(axes), hidden.float().amax(axes))


def test_attention_over_stages_is_a_convex_combination() -> None:
    g = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(4, 2, 8, generator=g), torch.randn(4, 3, 8, generator=g)
    attention = stage_attention(queries, keys)
    assert torch.allclose(attention.sum(2), torch.ones(4, 2))
    distances = torch.rand(4, 2, 3, generator=g)
    loss = calibrated_loss(attention, distances)
    assert (loss >= distances.amin(2)).all()
    assert (loss <= distances.amax(2)).all()
    uniform = calibrated_loss(stage_attention(queries * 0, keys), distances)
    assert torch.allclose(uniform, distances.mean(2))


def test_attended_distance_is_linear_in_the_attention() -> None:
    alone = [attended_loss(X["F_s"], X["F_t"], row[None]) for row in torch.eye(3, dtype=torch.float64)]
    mixed = sum(a * x for a, x in zip(ATTENTION[0], alone, strict=True))
    assert torch.allclose(attended_loss(X["F_s"], X["F_t"], ATTENTION), mixed)  # type: ignore[arg-type]


def test_exit_equal_to_the_deepest_has_only_its_cross_entropy() -> None:
    hard, soft, hint = exit_loss(X["z_t"], X["f_t"], X["z_t"], X["f_t"], X["y"], 3.0)
    assert torch.allclose(hard, F.cross_entropy(X["z_t"], X["y"], reduction="none"))
    assert soft.abs().max() < 1e-12
    assert hint.abs().max() == 0
    z, f = X["z_s"].clone().requires_grad_(), X["f_s"].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: exit_loss(a, b, X["z_t"], X["f_t"], X["y"], 3.0), (z, f))


def test_exits_of_a_network_carry_the_papers_shares() -> None:
    student, _ = outputs(student=((4, 8, 8), (6, 4, 4), (8, 2, 2)))
    teacher = student.detach()
    distiller = built("byot", student, teacher)
    terms = distiller.terms(student, teacher, LATE)
    assert len(distiller.exits) == 2  # type: ignore[arg-type]
    parts = [torch.zeros(3)] * 3
    for network, maps in zip(distiller.exits, student.maps, strict=False):  # type: ignore[arg-type]
        embedding, logits = network(maps)
        assert teacher.embedding is not None
        assert student.labels is not None
        found = exit_loss(logits, embedding, teacher.logits, teacher.embedding, student.labels, 3.0)
        parts = [a + b for a, b in zip(parts, found, strict=True)]
    for share, part, term in zip((0.7, 0.3, 0.03), parts, terms.values(), strict=True):
        assert torch.allclose(share * part, term)


def test_denoising_with_the_true_noise_gives_the_clean_code() -> None:
    signal = signal_share()
    assert (signal.diff() < 0).all()
    code, noise = X["F_t"], X["F_s"]
    dirty = noised(code, noise, signal[500].expand(4))
    one, clean = torch.ones((), dtype=torch.float64), signal[500]
    assert torch.allclose(ddim_step(dirty, noise, clean, one), code)
    half = ddim_step(dirty, noise, clean, signal[200])
    assert torch.allclose(half, noised(code, noise, signal[200].expand(4)))
    student = code.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ddim_step(x, noise, clean, one), (student,))


@pytest.mark.parametrize("name", PURE)
def test_rounding_to_bf16_moves_little(name: str) -> None:
    exact, rounded = (PURE[name](s, t).mean() for s, t in (
        (X["F_s"], X["F_t"]), (X["F_s"].bfloat16().double(), X["F_t"].bfloat16().double())
    ))  # fmt: skip
    assert torch.allclose(exact, rounded, rtol=1e-2)


# Whole distillers: any shapes, low precision, extremes, smallest batches.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_finite_with_gradients_for_any_shapes(name: str, scale: float) -> None:
    """Different widths, sizes and numbers of stages; zero, bf16-rounded and huge maps; the smallest batch."""
    rows = component_class("distiller", name).needs.min_batch
    student, teacher = outputs(rows)
    distiller = built(name, student, teacher)
    s, t = (replace(o, maps=tuple((m * scale).bfloat16() for m in o.maps)).float() for o in (student, teacher))
    if name == "byot":
        t = s.detach()
    loss = total(distiller, s, t)
    assert torch.isfinite(loss)
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [x.grad for x in (*student.maps, *distiller.parameters()) if x.grad is not None]
    assert grads
    assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", NAMES)
def test_finite_for_a_student_equal_to_its_teacher(name: str) -> None:
    student, _ = outputs(student=((4, 8, 8), (6, 4, 4)))
    distiller = built(name, student, student.detach())
    total(distiller, student, student.detach()).backward()  # type: ignore[no-untyped-call]
    grads = [m.grad for m in student.maps if m.grad is not None]
    assert grads
    assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_its_own_learns(name: str) -> None:
    """A parameter that gets no gradient is a bug (the variance of VID, in other libraries)."""
    student, teacher = outputs()
    if name == "byot":
        teacher = student.detach()
    distiller = built(name, student, teacher)
    total(distiller, student, teacher).backward()  # type: ignore[no-untyped-call]
    idle = [n for n, p in distiller.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize("name", NAMES)
def test_any_batch_size_will_do(name: str) -> None:
    """Built for one batch size, used with another (a last, smaller batch)."""
    student, teacher = outputs(rows=5)
    distiller = built(name, student, teacher)
    student, teacher = outputs(rows=2)
    assert torch.isfinite(total(distiller, student, student.detach() if name == "byot" else teacher))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_back_to_the_host(name: str) -> None:
    """Tensors without data: reading a value, or a shape that depends on one, raises."""
    student, teacher = outputs()
    distiller = built(name, student, teacher).to("meta")

    def bare(o: Output) -> Output:
        assert o.embedding is not None
        assert o.labels is not None
        maps, labels = tuple(m.to("meta") for m in o.maps), o.labels.to("meta")
        return Output(o.logits.to("meta"), o.embedding.to("meta"), maps, labels=labels)

    assert total(distiller, bare(student), bare(student if name == "byot" else teacher)).is_meta


@pytest.mark.parametrize("name", [n for n in NAMES if n != "byot"])
def test_the_smallest_maps(name: str) -> None:
    shapes = ((3, 2, 2), (4, 1, 1))
    student, teacher = outputs(rows=2, student=shapes, teacher=shapes)
    assert torch.isfinite(total(built(name, student, teacher), student, teacher))


# What other implementations got wrong, and what only training shows.


def test_variance_is_registered_and_finds_the_mean_squared_error() -> None:
    """mdistiller keeps it in a plain list: never trained, never saved, and VID is a scaled squared distance."""
    student, teacher = Output(X["z_s"], maps=(X["F_s"],)), Output(X["z_t"], maps=(X["F_t"],))
    distiller = built("vid", student, teacher, dtype=torch.float64, adapter="identity_if_equal", variance=1.0)
    names = [n for n, _ in distiller.named_parameters()]
    assert names == ["raw_variance.0"]
    assert names[0] in distiller.state_dict()
    optimiser = torch.optim.Adam(distiller.parameters(), 0.05)
    for _ in range(400):
        optimiser.zero_grad()
        total(distiller, student, teacher).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    (raw,) = distiller.parameters()
    error = (X["F_s"] - X["F_t"]).pow(2).mean((0, 2, 3))
    assert torch.allclose(F.softplus(distiller.start + raw), error, rtol=1e-3)


@pytest.mark.parametrize("variance", [0.01, 5.0])
def test_variance_starts_where_it_is_told(variance: float) -> None:
    student, teacher = Output(X["z_s"], maps=(X["F_s"],)), Output(X["z_t"], maps=(X["F_t"],))
    distiller = built("vid", student, teacher, variance=variance, adapter="identity_if_equal")
    (raw,) = distiller.parameters()
    assert torch.allclose(F.softplus(distiller.start + raw) + 1e-5, torch.full((3,), variance), rtol=1e-5)


def test_factors_train_apart() -> None:
    """The paraphraser learns from the reconstruction alone, the translator and the student from the factors."""
    student, teacher = outputs()
    distiller = built("ft", student, teacher)
    terms = distiller.terms(student, teacher, LATE)
    own = dict(distiller.named_parameters())
    for term, absent in (("factor", ("paraphraser", "restored")), ("reconstruction", ("translator",))):
        grads = torch.autograd.grad(terms[term].mean(), list(own.values()), allow_unused=True, retain_graph=True)
        for (n, _), g in zip(own.items(), grads, strict=True):
            assert (g is None) == n.startswith(absent), f"{term}: {n}"


def test_codes_train_apart_from_the_autoencoder() -> None:
    student, teacher = outputs()
    distiller = built("diffkd", student, teacher)
    terms = distiller.terms(student, teacher, LATE)
    own = dict(distiller.named_parameters())
    for term in ("match", "diffusion"):
        grads = torch.autograd.grad(terms[term].mean(), list(own.values()), allow_unused=True, retain_graph=True)
        assert all(g is None for n, g in zip(own, grads, strict=True) if n.startswith(("encode", "decode")))
    assert torch.autograd.grad(terms["match"].mean(), student.maps[-1])[0].abs().sum() > 0


@pytest.mark.parametrize("name", ["mgd", "diffkd"])
def test_random_parts_are_drawn_from_the_step(name: str) -> None:
    student, teacher = outputs()
    distiller = built(name, student, teacher)
    torch.manual_seed(1)
    first = total(distiller, student, teacher)
    torch.manual_seed(2)
    assert torch.equal(first, total(distiller, student, teacher))


def test_the_review_grows_in() -> None:
    student, teacher = outputs()
    distiller = built("reviewkd", student, teacher, warmup=0.5)
    quarter = Progress(epoch=1, epochs=8, step=2, steps=4)
    whole = total(distiller, student, teacher, LATE)
    assert total(distiller, student, teacher, START) == 0
    assert torch.allclose(total(distiller, student, teacher, quarter), whole * 3 / 8)
    always = built("reviewkd", student, teacher, warmup=0.0)
    assert torch.allclose(total(always, student, teacher, START), whole)


def test_the_hint_is_where_it_is_asked_for() -> None:
    student, teacher = outputs(
        student=((4, 8, 8), (5, 8, 8), (6, 4, 4)), teacher=((4, 8, 8), (5, 8, 8), (6, 4, 4))
    )
    for depth, stage in ((0.0, 0), (0.5, 1), (1.0, 2)):
        found = total(built("fitnet", student, teacher, depth=depth), student, teacher)
        assert torch.allclose(found, F.mse_loss(student.maps[stage], teacher.maps[stage]))


def test_adapters_stay_out_where_shapes_agree() -> None:
    student, teacher = Output(X["z_s"], maps=(X["F_s"],)), Output(X["z_t"], maps=(X["F_t"],))
    for name in ("fitnet", "cwd", "pkd", "ickd"):
        assert not list(built(name, student, teacher).parameters())
    for name in ("vid", "ab", "ofd"):
        learned = [m for m in built(name, student, teacher).modules() if isinstance(m, nn.Conv2d)]
        assert learned, "the paper always learns this layer"


def test_own_exits_need_a_shallow_stage() -> None:
    student, _ = outputs(student=((4, 8, 8),))
    with pytest.raises(IncompatibleError, match="1 stages"):
        built("byot", student, student.detach())


def test_signal_falls_to_almost_none() -> None:
    assert math.isclose(signal_share()[-1].item(), 4.0e-5, rel_tol=0.02)
