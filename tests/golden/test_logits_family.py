"""Distillers of logits against values of other implementations, their identities, and their edge cases.

Each golden row names the implementation that gave its value and sum of absolute gradients, on the closed
forms of `wbcbench.testing.toys`. Loss as in the formula: no outer weight, no task loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.distillers import (
    bkd,
    ctkd,
    deit_hard,
    dist,
    dist_plus,
    dkd,
    logit_mse,
    lskd,
    mlkd,
    nkd,
    ofa,
    rc,
    revision,
    rld,
    skd,
    swap,
    tf_kd,
    uskd,
    wsld,
)
from wbcbench_plugins.distillers.logits import kd_loss

from wbcbench.contracts import Output, Progress
from wbcbench.errors import IncompatibleError
from wbcbench.testing import evaluate_distiller
from wbcbench.testing.components import component_class
from wbcbench.testing.distillers import shapes_of
from wbcbench.testing.losses import closed_forms

C = closed_forms()
S, T, Y = C["z_s"], C["z_t"], C["y"]

GOLDEN: list[tuple[str, dict[str, Any], float, float]] = [
    # AberHu/Knowledge-Distillation-Zoo 65470c8, Logits
    ("logit_mse", {}, 2.6519012308, 2.86066137654),
    # Hao840/OFAKD f7bb896, BKD
    ("bkd", {}, 0.769590058381, 0.364254330779),
    # megvii mdistiller a08d46f, dkd_loss: the two parts alone, and together
    ("dkd", {"alpha": 1.0, "beta": 0.0, "temperature": 4.0, "warmup": 0}, 0.531549166954, 0.787527153234),
    ("dkd", {"alpha": 0.0, "beta": 1.0, "temperature": 4.0, "warmup": 0}, 0.920693592196, 1.11233577752),
    ("dkd", {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warmup": 0}, 7.89709790452, 9.32471797743),
    # yzd-v/cls_KD 1e5d48f, NKDLoss and WSLDLoss
    ("nkd", {"gamma": 1.5, "temperature": 1.0}, 2.90654120254, 1.65737324807),
    ("wsld", {"temperature": 2.0}, 4.44539109917, 0.844456571896),
    # hunto/image_classification_sota 6f7a70a, DIST
    ("dist", {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}, 2.15702346204, 1.62879806634),
    ("dist", {"beta": 1.0, "gamma": 1.0, "temperature": 4.0}, 35.43902538, 25.4108825047),
    # sunshangquan/logit-standardization-KD f6e5aa5, kd_loss
    ("lskd", {"temperature": 2.0}, 0.897193229285, 0.869060830903),
    # zju-SWJ/RLD d54578f, rld_loss: together, and the two parts alone
    ("rld", {"alpha": 1.0, "beta": 8.0, "warmup": 0}, 4.99983089806, 6.23111499306),
    ("rld", {"alpha": 1.0, "beta": 0.0, "warmup": 0}, 0.422032773886, 0.73523294012),
    ("rld", {"alpha": 0.0, "beta": 1.0, "warmup": 0}, 0.572224765522, 0.707828606207),
    # zju-SWJ/RLD d54578f, kd_loss(swap(.)), rc_loss, revision_loss
    ("swap", {"temperature": 4.0}, 1.13282949127, 1.32336244018),
    ("rc", {"temperature": 4.0}, 0.0706491374025, 0.301223205116),
    ("revision", {"right": 4.0, "wrong": 1.0, "eta": 0.8}, 15.2283341453, 14.3495650377),
    # Hao840/OFAKD f7bb896, ofa_loss
    ("ofa", {"exponent": 1.0, "temperature": 1.0, "exits": False}, 1.85290300224, 0.959168103429),
    ("ofa", {"exponent": 1.5, "temperature": 1.0, "exits": False}, 1.80319824003, 1.11466202089),
    # yoshitomo-matsubara/torchdistill 3e4373c, SKDInstanceLoss
    ("skd", {"temperature": 4.0, "direction": 0.0}, 0.076997605071, 0.0837166619692),
]

GOLDEN_PARTS: list[tuple[Callable[[Tensor], Tensor], float, float]] = [
    # torchdistill 3e4373c, SKDDirectionLoss, which follows the paper's equations
    (lambda z: skd.direction_loss(z, T, 0.1), 4.17084176468, 0.595306523031),
    # Jin-Ying/Multi-Level-Logit-Distillation 5ee473f and logit-standardization-KD f6e5aa5, bc_loss and cc_loss
    (lambda z: mlkd.batch_consistency(z, T, 4.0), 0.00106993664591, 0.000396385207972),
    (lambda z: mlkd.class_consistency(z, T, 4.0), 0.0193327152855, 0.0307074192451),
]

LOGITS_ONLY = (
    "abkd", "bkd", "ctkd", "deit_hard", "dist", "dkd", "ikl", "ldrld", "logit_mse", "lskd", "luminet", "mlkd",
    "nkd", "ofa", "rc", "revision", "rld", "skd", "sortkd", "swap", "tf_kd", "wsld", "wttm",
)  # fmt: skip
ALL = (*LOGITS_ONLY, "dist_plus", "uskd")
SETTINGS: dict[str, dict[str, Any]] = {
    "ofa": {"exits": False}, **{name: {"warmup": 0} for name in ("dkd", "ikl", "luminet", "rld")},
}  # fmt: skip
TOGETHER = Progress(epoch=5, epochs=10, step=0, steps=1)


def loss_of(name: str, student: Tensor, teacher: Tensor, labels: Tensor = Y, **params: Any) -> Tensor:
    given = {**SETTINGS.get(name, {}), **params}
    return evaluate_distiller(name, {"logits": student}, {"logits": teacher}, labels=labels, **given)


def value_and_gradient(name: str, params: dict[str, Any]) -> tuple[Tensor, Tensor]:
    student = S.clone().requires_grad_()
    loss = evaluate_distiller(name, {"logits": student}, {"logits": T}, labels=Y, **params)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    return loss.detach(), student.grad


@pytest.mark.parametrize(("name", "params", "value", "gradient"), GOLDEN)
def test_golden_value_and_gradient(name: str, params: dict[str, Any], value: float, gradient: float) -> None:
    loss, grad = value_and_gradient(name, params)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert grad.abs().sum().item() == pytest.approx(gradient, rel=1e-9)


@pytest.mark.parametrize(("part", "value", "gradient"), GOLDEN_PARTS)
def test_golden_parts(part: Callable[[Tensor], Tensor], value: float, gradient: float) -> None:
    student = S.clone().requires_grad_()
    loss = part(student).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert student.grad.abs().sum().item() == pytest.approx(gradient, rel=1e-9)


def test_golden_decoupled_loss_on_standardised_logits() -> None:
    """sunshangquan/logit-standardization-KD f6e5aa5, dkd_loss with logit_stand=True."""
    student = S.clone().requires_grad_()
    outer = lskd.LSKD(lskd.LSKD.Params())
    inner = dkd.DKD(dkd.DKD.Params(warmup=0))
    s, t = (outer.transform(Output(z, labels=Y)) for z in (student, T))
    loss = torch.stack([v.mean() for v in inner.terms(s, t, TOGETHER).values()]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert loss.item() == pytest.approx(5.91512068843, rel=1e-9)
    assert student.grad.abs().sum().item() == pytest.approx(8.0019655208, rel=1e-9)


@pytest.mark.parametrize(
    "name", ["abkd", "ctkd", "dkd", "ikl", "ldrld", "logit_mse", "lskd", "luminet", "mlkd", "skd"]
)
def test_zero_where_student_equals_teacher(name: str) -> None:
    assert loss_of(name, T, T).abs() < 1e-12


def test_correlation_of_equals_is_one_up_to_its_epsilon() -> None:
    assert 0 <= loss_of("dist", T, T) < 1e-3


@pytest.mark.parametrize("name", sorted({*LOGITS_ONLY} - {"logit_mse", "bkd", "luminet", "rc", "revision", "skd"}))
def test_a_constant_added_to_a_row_changes_nothing(name: str) -> None:
    shift = torch.arange(4.0, dtype=S.dtype)[:, None]
    assert torch.allclose(loss_of(name, S + shift, T - 3 * shift), loss_of(name, S, T), rtol=1e-9)


@pytest.mark.parametrize("name", LOGITS_ONLY)
def test_the_order_of_the_batch_changes_nothing(name: str) -> None:
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(loss_of(name, S[order], T[order], Y[order]), loss_of(name, S, T), rtol=1e-9)


@pytest.mark.parametrize("name", sorted({*LOGITS_ONLY} - {"skd", "mlkd"}))
def test_a_batch_shown_twice_has_the_same_loss(name: str) -> None:
    """mmrazor's decoupled loss is a sum over the batch whatever its reduction says."""
    twice = (torch.cat([z, z]) for z in (S, T, Y))
    assert torch.allclose(loss_of(name, *twice), loss_of(name, S, T), rtol=1e-6)


def test_standardised_logits_forget_location_and_scale() -> None:
    assert torch.allclose(lskd.standardise(3.7 * S + 11), lskd.standardise(S), rtol=1e-6)
    assert torch.allclose(loss_of("lskd", 0.2 * S - 1, 5 * T + 2), loss_of("lskd", S, T), rtol=1e-6)
    assert torch.allclose(lskd.standardise(S).std(1), torch.ones(4, dtype=S.dtype), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_softened_loss_is_target_part_plus_weighted_rest(temperature: float) -> None:
    p_y = T.div(temperature).softmax(1).gather(1, Y[:, None])[:, 0]
    parts = dkd.target_class_kd(S, T, Y, temperature), dkd.non_target_class_kd(S, T, Y, temperature)
    assert torch.allclose(parts[0] + (1 - p_y) * parts[1], kd_loss(S, T, temperature))


def test_with_two_classes_there_is_no_rest() -> None:
    y = Y.clamp(max=1)
    assert dkd.non_target_class_kd(S[:, :2], T[:, :2], y, 4.0).abs().max() < 1e-12
    assert torch.allclose(dkd.target_class_kd(S[:, :2], T[:, :2], y, 4.0), kd_loss(S[:, :2], T[:, :2], 4.0))


def test_normalised_loss_is_the_non_target_part_plus_an_entropy() -> None:
    at_equal = nkd.non_target_cross_entropy(T, T, Y, 2.0)
    assert torch.allclose(
        nkd.non_target_cross_entropy(S, T, Y, 2.0) - at_equal, dkd.non_target_class_kd(S, T, Y, 2.0)
    )


def test_the_rest_is_right_where_the_label_rounds_to_certainty() -> None:
    """log(1 - p) of a float32 p = 1 is -inf in implementations that sum probabilities first."""
    sure, flat, label = torch.tensor([[200.0, 0.0, 0.0]]), torch.zeros(1, 3), torch.tensor([0])
    loss = dkd.target_class_kd(sure, flat, label, 1.0).item()
    assert loss == pytest.approx(math.log(1 / 3) / 3 + 2 / 3 * (math.log(2 / 3) + 200 - math.log(2)), rel=1e-6)


def test_sample_weights_are_constant_and_fall_as_the_student_catches_up() -> None:
    student = S.clone().requires_grad_()
    weights = wsld.sample_weights(student, T, Y)
    assert not weights.requires_grad
    right = 50.0 * F.one_hot(Y, 5).to(S.dtype)
    assert wsld.sample_weights(right, T, Y).max() < 1e-9
    assert wsld.sample_weights(-right, right, Y).min() > 1 - 1e-9


def test_a_right_teacher_makes_refined_parts_the_decoupled_ones() -> None:
    right = swap.swapped(T, Y)
    assert torch.allclose(rld.sample_confidence(S, right, Y, 2.0), dkd.target_class_kd(S, right, Y, 2.0))
    assert torch.allclose(rld.masked_correlation(S, right, Y, 4.0), dkd.non_target_class_kd(S, right, Y, 4.0))


def test_a_label_that_the_teacher_ranks_last_teaches_no_correlation() -> None:
    last = T.argmin(1)
    student = S.clone().requires_grad_()
    loss = rld.masked_correlation(student, T, last, 4.0)
    assert torch.equal(loss, torch.zeros_like(loss))
    loss.sum().backward()
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(S))


@pytest.mark.parametrize("name", ["dkd", "ikl", "luminet", "rld"])
def test_warm_up_is_linear_in_the_share_of_training(name: str) -> None:
    full = loss_of(name, S, T)
    for epoch, share in ((0, 0.0), (1, 0.25), (2, 0.5), (4, 1.0), (9, 1.0)):
        loss = evaluate_distiller(
            name, {"logits": S}, {"logits": T}, labels=Y, progress=Progress(epoch, 10, 0, 1), warmup=0.4
        )
        assert torch.allclose(loss, share * full)


def test_exponent_one_is_soft_cross_entropy() -> None:
    floor = ofa.ofa_loss(T, T, Y, 1.0, 1.0)
    assert torch.allclose(ofa.ofa_loss(S, T, Y, 1.0, 1.0) - floor, kd_loss(S, T, 1.0))


def test_a_larger_exponent_leans_on_the_label() -> None:
    student = S.clone().requires_grad_()
    pulls = []
    for exponent in (1.0, 1.5, 2.0):
        (grad,) = torch.autograd.grad(ofa.ofa_loss(student, T, Y, exponent, 1.0).sum(), student)
        pulls.append(-grad.gather(1, Y[:, None]))
    assert (pulls[0] < pulls[1]).all()
    assert (pulls[1] < pulls[2]).all()


def test_exits_are_trained_on_any_stage_shapes() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(4, c, side, side, requires_grad=True) for c, side in ((16, 20), (32, 10))]
    student = {"logits": S.float().requires_grad_(), "maps": maps}
    evaluate_distiller("ofa", student, {"logits": T.float()}, labels=Y).backward()  # type: ignore[no-untyped-call]
    for m in maps:
        assert m.grad is not None
        assert m.grad.abs().sum() > 0
    for name in ("ofa", "uskd"):
        with pytest.raises(IncompatibleError, match="backbone"):
            evaluate_distiller(name, {"logits": S}, {"logits": T}, labels=Y)


def test_exits_have_the_authors_layers() -> None:
    """Hao840/OFAKD f7bb896: two depthwise and pointwise pairs per halving, channels doubled, the widest embedding
    last; a 1x1 convolution after the last stage. Parameters counted by hand."""
    doubling = 4 * 9 + 4 * 4 + 2 * 4 + 4 * 9 + 4 * 8 + 2 * 8
    widening = 8 * 9 + 8 * 8 + 2 * 8 + 8 * 9 + 8 * 10 + 2 * 10
    for given, following, expected in ((4, 2, doubling + widening), (8, 1, widening), (16, 0, 16 * 10 + 10)):
        network = ofa.exit_of(given, following, 10, 3)
        assert sum(p.numel() for p in network.parameters()) == expected + 10 * 3 + 3
        assert network[:-3](torch.zeros(2, given, 8, 8)).shape == (2, 10, 8 >> following, 8 >> following)
    student = Output(S.float(), torch.zeros(4, 8), maps=tuple(torch.zeros(4, c, 8, 8) for c in (4, 8)))
    distiller = ofa.OFA(ofa.OFA.Params())
    distiller.setup(shapes_of(student, Output(T.float(), torch.zeros(4, 12))))
    assert [leave[-1].in_features for leave in distiller.exits] == [12, 12]


def test_swapping_makes_the_teacher_right_and_keeps_its_logits() -> None:
    right = swap.swapped(T, Y)
    assert torch.equal(right.argmax(1), Y)
    assert torch.equal(right.sort(1).values, T.sort(1).values)
    assert torch.equal(swap.swapped(right, Y), right)
    assert torch.allclose(loss_of("swap", S, right), loss_of("logits", S, right, temperature=4.0))


def test_rectified_logits_are_constant() -> None:
    student = S.clone().requires_grad_()
    assert not rc.rectified(student, Y).requires_grad
    changed = rc.rectified(student, Y) - S
    assert torch.allclose(changed.gather(1, Y[:, None]), S.amax(1, keepdim=True))
    assert torch.allclose(changed.sum(1), S.amax(1))


@pytest.mark.parametrize("eta", [0.3, 0.8, 0.99])
def test_a_revised_teacher_is_a_distribution_with_the_label_first(eta: float) -> None:
    wanted = revision.revised(3 * T, Y, eta)
    assert torch.allclose(wanted.sum(1), torch.ones(4, dtype=S.dtype))
    assert (wanted >= 0).all()
    assert torch.equal(wanted.argmax(1), Y)


def test_revision_depends_on_whether_the_teacher_is_right() -> None:
    right = swap.swapped(T, Y)
    expected = F.cross_entropy(S, Y) + 4 * F.mse_loss(S, right)
    assert torch.allclose(loss_of("revision", S, right), expected)
    wrong = right.roll(1, 1)
    expected = F.mse_loss(S.softmax(1), revision.revised(wrong, Y, 0.8))
    assert torch.allclose(loss_of("revision", S, wrong), expected)


def test_gram_matrices_ignore_the_length_of_a_row() -> None:
    lengths = torch.tensor([0.5, 2.0, 7.0, 1.0], dtype=S.dtype)[:, None]
    assert torch.allclose(skd.direction_loss(lengths * S, T, 0.1), skd.direction_loss(S, T, 0.1))
    rotation = torch.linalg.qr(torch.sin(torch.arange(25.0, dtype=S.dtype).view(5, 5) ** 2)).Q
    assert skd.direction_loss(T @ rotation, T, 0.1).abs().max() < 1e-6


def test_hard_label_is_the_decision_of_the_teacher() -> None:
    assert torch.allclose(loss_of("deit_hard", S, T), F.cross_entropy(S, T.argmax(1)))
    assert torch.allclose(loss_of("deit_hard", S, 100 * T), loss_of("deit_hard", S, T))


def test_virtual_teacher_has_the_probability_asked_for() -> None:
    virtual = tf_kd.virtual_teacher(S, Y, 0.9)
    p = virtual.softmax(1)
    assert torch.allclose(p.gather(1, Y[:, None]), torch.full((4, 1), 0.9, dtype=S.dtype))
    assert torch.allclose(p.sum(1), torch.ones(4, dtype=S.dtype))
    assert torch.allclose(p.sort(1).values[:, :4], torch.full((4, 4), 0.025, dtype=S.dtype))
    assert loss_of("tf_kd", virtual + 3, T, correct=0.9).abs() < 1e-12


def test_temperature_is_learned_against_the_student() -> None:
    distiller = ctkd.CTKD(ctkd.CTKD.Params(lowest=1.0, span=20.0, warmup=0.5))
    student, teacher = Output(S), Output(T)
    distiller.setup(shapes_of(student, teacher))

    def pull(epoch: int) -> float:
        loss = distiller.terms(student, teacher, Progress(epoch, 100, 0, 1))["kl"].mean()
        (grad,) = torch.autograd.grad(loss, distiller.theta)
        return float(grad)

    fixed = torch.ones((), requires_grad=True)
    temperature = 1 + 20 * fixed.sigmoid()
    expected = ctkd.softened_kl(S, T, temperature).mean()
    (straight,) = torch.autograd.grad(expected, fixed)
    assert torch.allclose(distiller.terms(student, teacher, TOGETHER)["kl"].mean(), expected)
    assert abs(straight) > 0
    assert pull(0) == 0
    assert pull(25) == pytest.approx(-0.5 * straight.item(), rel=1e-6)
    assert pull(50) == pytest.approx(-straight.item(), rel=1e-6)
    assert pull(99) == pull(50)


def test_masks_choose_samples_and_classes_instead_of_scaling_the_mean() -> None:
    """With `reduce=False` commented out, the masks of other implementations multiply one scalar by 1/2."""
    both = [mlkd.MLKD(mlkd.MLKD.Params(mask=mask)).terms(Output(S), Output(T), TOGETHER) for mask in (True, False)]
    masked, whole = both
    sure = T.softmax(1).amax(1)
    chosen = sure <= sure.median()
    assert torch.equal(chosen, sure < sure.quantile(0.5))
    assert 0 < chosen.sum() < 4
    for key in ("kl", "batch"):
        assert torch.equal(masked[key], torch.where(chosen, whole[key], 0))
    weight = T.softmax(1).sum(0)
    rows = sum(mlkd.class_consistency(S, T, 2.0 + i) for i in range(5))
    assert torch.allclose(masked["classes"], torch.where(weight <= weight.quantile(0.5), rows, 0).mean())
    assert torch.allclose(whole["kl"], torch.stack([kd_loss(S, T, 2.0 + i) for i in range(5)]).sum(0))


def test_self_made_labels_follow_the_joint_rank_of_the_other_classes() -> None:
    """Zipf's law over probabilities; the authors' code ranks by a sum with log-probabilities."""
    weak = 3 * T
    student = S.clone().requires_grad_()
    loss = uskd.ranked_others_loss(student, weak.requires_grad_(), Y)
    for row in range(4):
        keep = [c for c in range(5) if c != int(Y[row])]
        p_s, p_w = (z[row, keep].softmax(0) for z in (S, 3 * T))
        order = sorted(range(4), key=lambda c, a=p_s, b=p_w: -float(a[c] + b[c]))  # type: ignore[misc]
        total = sum(1 / r for r in range(1, 5))
        expected = -sum(p_s[c].log() / (r * total) for r, c in enumerate(order, start=1))
        assert torch.allclose(loss[row], expected.detach())
    loss.sum().backward()
    assert weak.grad is None
    assert student.grad is not None


def test_self_made_target_is_the_label_on_average() -> None:
    assert torch.allclose(uskd.smoothed_target_loss(S[:1], Y[:1]), F.cross_entropy(S[:1], Y[:1]))
    assert torch.allclose(uskd.smoothed_target_loss(0 * S, Y), F.cross_entropy(0 * S, Y))
    factor = uskd.smoothed_target_loss(S, Y) / F.cross_entropy(S, Y, reduction="none")
    assert torch.allclose(factor.mean(), torch.ones((), dtype=S.dtype))


def test_channel_relation_falls_as_maps_agree() -> None:
    """torchdistill adds the correlation itself, which rewards maps for disagreeing."""
    same, opposite = (
        dist_plus.channel_relation(C["F_t"], C["F_t"]),
        dist_plus.channel_relation(-C["F_t"], C["F_t"]),
    )
    assert same.abs().max() < 1e-6
    assert torch.allclose(opposite, torch.full_like(opposite, 2.0))
    between = dist_plus.channel_relation(C["F_t"] + C["F_s"], C["F_t"])
    assert (same < between).all()
    assert (between < opposite).all()
    assert dist_plus.spatial_relation(C["F_t"], C["F_t"]).abs().max() < 1e-6
    assert torch.allclose(
        dist_plus.spatial_relation(2 * C["F_t"] + 1, C["F_t"]), torch.zeros(16, dtype=S.dtype), atol=1e-6
    )


def test_relation_of_maps_meets_on_any_shapes() -> None:
    torch.manual_seed(0)
    student = {"logits": S.float(), "maps": [torch.randn(4, 32, 10, 10, requires_grad=True)]}
    teacher = {"logits": T.float(), "maps": [torch.randn(4, 64, 40, 40), torch.randn(4, 256, 5, 5)]}
    loss = evaluate_distiller("dist_plus", student, teacher)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert student["maps"][0].grad.abs().sum() > 0  # type: ignore[union-attr]


PURE: dict[str, Callable[[Tensor], Tensor]] = {
    "logit_mse": lambda z: logit_mse.logit_mse(z, T),
    "binary": lambda z: bkd.binary_kd_loss(z, T),
    "target": lambda z: dkd.target_class_kd(z, T, Y, 4.0),
    "non_target": lambda z: dkd.non_target_class_kd(z, T, Y, 4.0),
    "nkd_target": lambda z: nkd.target_cross_entropy(z, T, Y),
    "nkd_others": lambda z: nkd.non_target_cross_entropy(z, T, Y, 2.0),
    "wsld": lambda z: wsld.soft_cross_entropy(z, T, 2.0),
    "inter": lambda z: dist.inter_class(z, T, 2.0),
    "intra": lambda z: dist.intra_class(z, T, 2.0),
    "standardise": lskd.standardise,
    "confidence": lambda z: rld.sample_confidence(z, T, Y, 1.0),
    "correlation": lambda z: rld.masked_correlation(z, T, Y, 4.0),
    "ofa": lambda z: ofa.ofa_loss(z, T, Y, 1.5, 1.0),
    "swap": lambda z: kd_loss(z, swap.swapped(T, Y), 4.0),
    "rc": lambda z: kd_loss(z, rc.rectified(S, Y), 4.0),
    "revision": lambda z: (z.softmax(1) - revision.revised(T, Y, 0.8)).square().mean(1),
    "direction": lambda z: skd.direction_loss(z, T, 0.1),
    "hard": lambda z: deit_hard.hard_label_loss(z, T, 0.1),
    "virtual": lambda z: kd_loss(z, tf_kd.virtual_teacher(z, Y, 0.9), 20.0),
    "learned_student": lambda z: ctkd.softened_kl(z, T, torch.tensor(3.0, dtype=z.dtype)),
    "learned_temperature": lambda z: ctkd.softened_kl(S, T, z[0, 0] + 3),
    "batch": lambda z: mlkd.batch_consistency(z, T, 2.0),
    "classes": lambda z: mlkd.class_consistency(z, T, 2.0),
    "ranked": lambda z: uskd.ranked_others_loss(z, T, Y),
    "channel": lambda z: dist_plus.channel_relation(z.view(2, 5, 2, 1), T.view(2, 5, 2, 1)),
    "spatial": lambda z: dist_plus.spatial_relation(z.view(5, 2, 2, 1), T.view(5, 2, 2, 1)),
}


@pytest.mark.parametrize("function", PURE)
def test_gradient_check(function: str) -> None:
    student = S.clone().requires_grad_()
    assert torch.autograd.gradcheck(PURE[function], (student,))


def extremes(rows: int, classes: int) -> dict[str, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    a, b = (torch.randn(rows, classes, generator=g) for _ in range(2))
    zeros = torch.zeros(rows, classes)
    return {
        "rounded": (a.bfloat16().float(), b.bfloat16().float()),
        "equal": (b.clone(), b),
        "constant": (zeros, zeros.clone()),
        "constant student": (zeros, b),
        "large": (1e4 * a, 1e4 * b),
        "opposite": (1e4 * a, -1e4 * a),
    }


@pytest.mark.parametrize("case", list(extremes(1, 2)))
@pytest.mark.parametrize("name", ALL)
def test_values_and_gradients_are_finite_at_the_edges(name: str, case: str) -> None:
    needs = component_class("distiller", name).needs  # type: ignore[attr-defined]
    for rows, classes in ((needs.min_batch, needs.min_classes), (6, 5)):
        s, t = extremes(rows, classes)[case]
        maps = [torch.zeros(rows, 4, 8, 8) + s.mean(), torch.zeros(rows, 6, 4, 4) + s.mean()]
        student = Output(s.requires_grad_(), maps=tuple(m.detach().requires_grad_() for m in maps))
        teacher = Output(t, maps=tuple(m.detach().clone() for m in maps))
        loss = evaluate_distiller(name, student, teacher, labels=torch.arange(rows) % classes, progress=TOGETHER)
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss), (rows, classes)
        assert s.grad is not None
        for x in (s, *student.maps):
            assert x.grad is None or torch.isfinite(x.grad).all(), (rows, classes)


@pytest.mark.parametrize("name", sorted({*ALL} - {"rc", "tf_kd", "uskd", "ctkd", "mlkd"}))
def test_one_temperature_is_known_to_whoever_averages_teachers(name: str) -> None:
    cls = component_class("distiller", name)
    params = cls.Params()  # type: ignore[attr-defined]
    assert cls(params).temperature == getattr(params, "temperature", 1.0)  # type: ignore[call-arg]
