"""Distillers of embeddings and of relations against values of the reference implementations, and their invariants.

Golden values are of the closed forms of `wbcbench.testing.toys` (float64), computed with the
implementation named beside each. Those features have rank 2, so the properties are tested on others of full rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from wbcbench_plugins.distillers import crd as crd_file
from wbcbench_plugins.distillers.cc_gaussian import cc_loss, gaussian_kernel
from wbcbench_plugins.distillers.cc_rd import successive_loss
from wbcbench_plugins.distillers.cc_td import kernel_distance
from wbcbench_plugins.distillers.crd import contrast_loss, log_constant, negatives, remembered, similarities
from wbcbench_plugins.distillers.crd_inbatch import info_nce
from wbcbench_plugins.distillers.dcd import consistency_loss, discriminative_loss
from wbcbench_plugins.distillers.dcd import similarities as dcd_similarities
from wbcbench_plugins.distillers.ega import edge_loss, node_loss
from wbcbench_plugins.distillers.fitnet_pooled import hint_loss
from wbcbench_plugins.distillers.irg import graph, transformation
from wbcbench_plugins.distillers.itrd import correlation_loss, information_loss
from wbcbench_plugins.distillers.pad_l2 import pad_loss
from wbcbench_plugins.distillers.pkt import pkt_loss
from wbcbench_plugins.distillers.rkd import angle_loss, distance_loss, edges
from wbcbench_plugins.distillers.rrd import rrd_loss
from wbcbench_plugins.distillers.sp import sp_loss
from wbcbench_plugins.distillers.sp_td import sp_l1_loss
from wbcbench_plugins.distillers.srd import log_power_loss
from wbcbench_plugins.distillers.srrl import mean_square

from wbcbench.contracts import Distiller, Output, PairShapes, Progress, ReplacesHead
from wbcbench.errors import IncompatibleError
from wbcbench.testing import closed_forms, evaluate_distiller
from wbcbench.testing.components import component_class
from wbcbench.testing.distillers import START, shapes_of

C = closed_forms()
F_S, F_T = C["f_s"], C["f_t"]
NAMES = (
    "fitnet_pooled", "rkd", "pkt", "sp", "sp_td", "cc_rd", "cc_gaussian", "cc_td", "crd_inbatch", "crd", "rrd",
    "dcd", "srd", "pad_l2", "srrl", "irg", "itrd", "simkd", "ega",
)  # fmt: skip
PLAIN = ("fitnet_pooled", "rkd", "pkt", "sp", "sp_td", "cc_rd", "cc_gaussian", "cc_td", "srrl", "irg")
"""No learned part where widths agree, and zero at student = teacher."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(noise(size, size, seed=9))[0]


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([v.mean() for v in terms.values()]).sum()


# --- golden values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "value", "gradient"),
    [
        ("fitnet_pooled", {}, 0.836452749441, 1.46330079944),  # RepDistiller HintLoss
        ("pkt", {}, 0.0132108377379, 0.055230808531),  # RepDistiller, mdistiller, torchdistill
        # RepDistiller, mdistiller, AberHu, mmrazor, torchdistill
        ("rkd", {"distance": 1, "angle": 0}, 0.00274439948456, 0.13108551088),
        ("rkd", {"distance": 0, "angle": 1}, 0.00503677245189, 0.145071500449),
        ("rkd", {}, 0.320448609708, 8.25483593406),  # RepDistiller, mdistiller
        ("sp", {}, 0.0919782067766, 0.489603955097),  # RepDistiller, mdistiller, AberHu
        ("sp_td", {}, 0.0296777618015, 0.120427802068),  # torchdistill SPKDLoss
        ("cc_gaussian", {}, 0.0278540116894, 0.210772643832),  # AberHu CC
        ("cc_td", {}, 0.186850375703, 1.18005700345),  # torchdistill CCKDLoss
        ("cc_td", {"kernel": "bilinear"}, 0.356373051018, 1.28213221168),  # torchdistill CCKDLoss
        ("cc_rd", {}, 3.9813875361, 8.62257533276),  # RepDistiller Correlation
        ("ega", {}, 3.88514137673, 2.19687135639),  # giakoumoglou/distillers EGA
    ],
)
def test_golden_value_and_gradient(name: str, params: dict[str, Any], value: float, gradient: float) -> None:
    student = F_S.clone().requires_grad_()
    check(evaluate_distiller(name, {"embedding": student}, {"embedding": F_T}, **params), student, value, gradient)


def check(loss: Tensor, student: Tensor, value: float, gradient: float) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert student.grad is not None
    assert student.grad.abs().sum().item() == pytest.approx(gradient, rel=1e-9)


def test_golden_irg() -> None:
    """AberHu's IRG with weights 1; the gradient is of the embedding alone."""
    student = F_S.clone().requires_grad_()
    loss = evaluate_distiller(
        "irg",
        {"logits": C["z_s"], "embedding": student, "maps": [C["F_s"], C["F2_s"]]},
        {"logits": C["z_t"], "embedding": F_T, "maps": [C["F_t"], C["F2_t"]]},
        vertex=1, edge=1, transformation=1,
    )  # fmt: skip
    check(loss, student, 2.92693788153, 0.0469875334962)


def crd_first(student: Tensor, teacher: Tensor) -> Tensor:
    loss = torch.zeros((), dtype=student.dtype)
    for f, memory in ((student, C["mem_t"]), (teacher, C["mem_s"])):
        logits = similarities(F.normalize(f, dim=1), memory, C["crd_idx"], 0.07)
        loss = loss + contrast_loss(logits - log_constant(logits, 8), 8).mean()
    return loss


def dcd_first(student: Tensor, teacher: Tensor) -> Tensor:
    s = dcd_similarities(student, teacher, torch.tensor(math.e, dtype=student.dtype))
    return discriminative_loss(s).mean() + 0.5 * consistency_loss(s).mean()


def rrd_first(student: Tensor, teacher: Tensor) -> Tensor:
    n_s, n_t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    return rrd_loss(n_s, n_t, C["queue"], 0.02, 0.1).mean()


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [
        (lambda s, t: info_nce(s, t, 0.07).mean(), 8.74712160814, 14.3921724234),  # giakoumoglou, alpha 0
        (dcd_first, 2.24626595325, 2.37772890972),  # giakoumoglou DCDLoss, defaults
        (rrd_first, 32.6732309965, 54.8183813445),  # giakoumoglou RRD_FifoMemory_Loss
        (crd_first, 28.094845194, 17.269890717),  # AberHu CRD, torchdistill CRDLoss, giakoumoglou
        (lambda s, t: log_power_loss(s, t, 4.0), 7.55753505931, 5.11964980412),  # torchdistill SRDLoss
        (lambda s, t: pad_loss(s, t, C["logvar"]).mean(), 0.902846396881, 1.60705000716),  # torchdistill PADL2Loss
    ],
)  # fmt: skip
def test_golden_value_of_functions_behind_learned_projections(
    loss: Callable[[Tensor, Tensor], Tensor], value: float, gradient: float
) -> None:
    student = F_S.clone().requires_grad_()
    check(loss(student, F_T), student, value, gradient)


# --- every function's gradient ---------------------------------------------------------------------------------

A, B = noise(5, 4), noise(5, 4, seed=1)
MEMORY = F.normalize(noise(7, 4, seed=2), dim=1)
PICKED = torch.tensor([[0, 1, 2], [1, 6, 0], [2, 5, 4], [3, 4, 1], [4, 0, 6]])
MAPS = [noise(5, *shape, seed=i) for i, shape in enumerate([(2, 4, 4), (4, 2, 2)])]


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: hint_loss(x, B),
        lambda x: distance_loss(edges(x)[0], edges(B)[0]),
        lambda x: angle_loss(edges(x)[1], edges(B)[1]),
        lambda x: pkt_loss(x, B),
        lambda x: sp_loss(x, B),
        lambda x: sp_l1_loss(x, B),
        lambda x: successive_loss(x, B),
        lambda x: cc_loss(x, B, 0.4, 2),
        lambda x: kernel_distance(x @ x.T, B @ B.T),
        lambda x: info_nce(x, B, 0.07),
        lambda x: contrast_loss(similarities(x, MEMORY, PICKED, 0.5), 7),
        lambda x: rrd_loss(F.normalize(x, dim=1), F.normalize(B, dim=1), MEMORY, 0.1, 0.2),
        lambda x: discriminative_loss(dcd_similarities(x, B, torch.tensor(2.0))),
        lambda x: consistency_loss(dcd_similarities(x, B, torch.tensor(2.0))),
        lambda x: log_power_loss(x, B, 4.0),
        lambda x: pad_loss(x, B, 0.3 * A * B),
        lambda x: pad_loss(A, B, x),
        lambda x: mean_square(x, B),
        lambda x: graph(x),
        lambda x: transformation(x[:, None, :, None] * MAPS[0], MAPS[1]),
        lambda x: correlation_loss(x, B, 1.5),
        lambda x: information_loss(x, B),
        lambda x: node_loss(x, B),
        lambda x: edge_loss(x, B),
    ],
)
def test_gradient_check(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, (A.clone().requires_grad_(),))


# --- the distillers as the core runs them ----------------------------------------------------------------------


def pair(
    rows: int, classes: int = 4, same: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Output, Output]:
    """A student that wants gradients and a teacher; of other widths and stages unless `same`."""
    shapes = [(3, 10, 10), (5, 5, 5)]
    deeper = shapes if same else [(4, 20, 20), (6, 10, 10), (8, 5, 5)]

    def side(width: int, maps: list[tuple[int, int, int]], seed: int) -> Output:
        tensors = [noise(rows, *m, seed=seed + i) for i, m in enumerate(maps)]
        out = Output(noise(rows, classes, seed=seed), noise(rows, width, seed=seed + 7), tuple(tensors))
        out = replace(
            out,
            logits=out.logits.to(dtype),
            embedding=out.embedding.to(dtype),  # type: ignore[union-attr]
            maps=tuple(m.to(dtype) for m in out.maps),
        )
        out.head = partial(F.linear, weight=noise(classes, width, seed=5).to(dtype))
        out.labels, out.index = torch.arange(rows) % classes, torch.arange(rows)
        return out

    student, teacher = side(6, shapes, 1), side(6 if same else 9, deeper, 40)
    return wanting(student), teacher


def wanting(out: Output) -> Output:
    for x in tensors_of(out):
        x.requires_grad_()
    return out


def tensors_of(out: Output) -> list[Tensor]:
    assert out.embedding is not None
    return [out.logits, out.embedding, *out.maps]


def changed(out: Output, change: Callable[[Tensor], Tensor]) -> Output:
    """A fresh leaf of every tensor, changed."""
    new = Output(
        change(out.logits.detach()).clone(),
        change(out.embedding.detach()).clone(),  # type: ignore[union-attr]
        tuple(change(m.detach()).clone() for m in out.maps),
    )
    new.head, new.labels, new.index = out.head, out.labels, out.index
    return new


def build(
    name: str, student: Output, teacher: Output, shapes: PairShapes | None = None, **params: Any
) -> Distiller:
    cls = component_class("distiller", name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        distiller: Distiller = cls(cls.Params(**params))
        distiller.setup(shapes or shapes_of(student, teacher))
    return distiller.to(student.logits.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_other_widths_and_stages(name: str) -> None:
    student, teacher = pair(8)
    loss = total(build(name, student, teacher).terms(student, teacher, START))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert any(x.grad is not None and x.grad.abs().sum() > 0 for x in tensors_of(student))


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "one": lambda x: x,
    "extreme": lambda x: x * 1e4,
    "tiny": lambda x: x * 1e-20,
    "bf16": lambda x: x.bfloat16().float(),
    "alike": lambda x: x[:1].expand_as(x),
    "relu": lambda x: x.clamp(min=0) * (torch.arange(len(x)) > 0).view(-1, *[1] * (x.ndim - 1)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("smallest", [False, True])
def test_finite_value_and_gradient(name: str, case: str, smallest: bool) -> None:
    needs = component_class("distiller", name).needs
    student, teacher = pair(needs.min_batch if smallest else 7, needs.min_classes, same=True)
    student = wanting(changed(student, CASES[case]))
    for given in (teacher, changed(teacher, CASES[case]), changed(student, lambda x: x)):
        distiller = build(name, student, given)
        loss = total(distiller.terms(student, given, START))
        assert torch.isfinite(loss)
        leaves = [*tensors_of(student), *distiller.parameters()]
        wanted = [x for x in leaves if x.requires_grad]
        for g in torch.autograd.grad(loss, wanted, allow_unused=True):
            assert g is None or torch.isfinite(g).all()


class NoSync(TorchDispatchMode):
    """Fails where a tensor's value is read by the host, or decides a shape."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"}, name
        if name == "index":
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "boolean-mask indexing"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device(name: str) -> None:
    student, teacher = pair(8)
    distiller = build(name, student, teacher)
    with NoSync():
        total(distiller.terms(student, teacher, START)).backward()  # type: ignore[no-untyped-call]


def test_the_watch_above_sees_a_read() -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoSync():
        torch.ones(2).sum().item()


@pytest.mark.parametrize("name", NAMES)
def test_everything_it_makes_is_on_the_students_device(name: str) -> None:
    """On the device without memory, an operation that meets the CPU fails (CRD elsewhere: cuda or nothing)."""
    student, teacher = pair(8)
    distiller = build(name, student, teacher).to("meta")
    sides = [changed(o, lambda x: x.to("meta")) for o in (wanting(student), teacher)]
    for out in sides:
        assert out.embedding is not None
        out.head = partial(F.linear, weight=torch.zeros(4, out.embedding.shape[1], device="meta"))
        out.labels, out.index = (torch.zeros(8, dtype=torch.int64, device="meta") for _ in "ab")
    loss = total(distiller.terms(wanting(sides[0]), sides[1], START))
    assert loss.device.type == "meta"
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", NAMES)
def test_everything_trainable_receives_a_gradient(name: str) -> None:
    """VID's variances in mdistiller are in no optimiser; RRD's teacher projection never has a gradient."""
    student, teacher = pair(8)
    distiller = build(name, student, teacher)
    total(distiller.terms(student, teacher, START)).backward()  # type: ignore[no-untyped-call]
    for key, parameter in distiller.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert all(x.grad is None for x in tensors_of(teacher))


@pytest.mark.parametrize("name", NAMES)
def test_exact_resume(name: str) -> None:
    """Two steps, a checkpoint, a third: the third is the same from the checkpoint."""
    batches = [pair(8), *(tuple(changed(o, lambda x: x.flip(0)) for o in pair(8)) for _ in "ab")]
    straight = build(name, *batches[0])
    for student, teacher in batches[:2]:
        straight.terms(student, teacher, START)
    resumed = build(name, *batches[0])
    for tensor in resumed.state_dict().values():
        tensor.fill_(0)
    resumed.load_state_dict(straight.state_dict())
    a, b = (d.terms(*batches[2], START) for d in (straight, resumed))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_changes_no_state(name: str) -> None:
    student, teacher = pair(8)
    distiller = build(name, student, teacher).eval()
    before = {k: v.clone() for k, v in distiller.state_dict().items()}
    distiller.terms(student, teacher, START)
    assert all(torch.equal(v, before[k]) for k, v in distiller.state_dict().items())


@pytest.mark.parametrize("name", PLAIN)
def test_zero_where_student_equals_teacher(name: str) -> None:
    student, _ = pair(8, same=True, dtype=torch.float64)
    student.head = partial(F.linear, weight=noise(4, 6, seed=3))
    student.logits = student.head(student.embedding).detach()  # type: ignore[arg-type]
    assert evaluate_distiller(name, student, student).abs() < 1e-10


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"crd", "cc_rd"}])
def test_order_of_the_batch_does_not_matter(name: str) -> None:
    student, teacher = pair(8, dtype=torch.float64)
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    values = [
        total(build(name, student, teacher).terms(s, t, START))
        for s, t in ((student, teacher), tuple(changed(o, lambda x: x[order]) for o in (student, teacher)))
    ]
    assert torch.allclose(values[0], values[1])


@pytest.mark.parametrize(
    ("name", "field", "other"),
    [
        ("rkd", "distance", 1.0), ("rkd", "angle", 1.0),
        ("cc_gaussian", "gamma", 1.0), ("cc_gaussian", "order", 5),
        ("cc_td", "kernel", "bilinear"), ("cc_td", "gamma", 1.0), ("cc_td", "order", 1),
        ("crd_inbatch", "temperature", 0.5), ("crd_inbatch", "dim", 16),
        ("crd", "temperature", 0.5), ("crd", "dim", 16), ("crd", "negatives", 2), ("crd", "momentum", 0.9),
        ("rrd", "student_temperature", 0.1), ("rrd", "teacher_temperature", 0.5), ("rrd", "queue", 16),
        ("rrd", "dim", 16), ("dcd", "consistency", 2.0), ("dcd", "dim", 16), ("srd", "exponent", 2.0),
        ("srd", "divergence", 0.0), ("srrl", "feature", 2.0), ("srrl", "classifier", 2.0), ("irg", "vertex", 1.0),
        ("irg", "edge", 1.0), ("irg", "transformation", 1.0), ("itrd", "correlation", 1.0),
        ("itrd", "information", 1.0), ("itrd", "alpha", 1.0), ("simkd", "factor", 1), ("ega", "node", 2.0),
        ("ega", "edge", 1.0),
    ],
)  # fmt: skip
def test_every_parameter_has_an_effect(name: str, field: str, other: Any) -> None:
    student, teacher = pair(8)
    values = []
    for params in ({}, {field: other}):
        distiller = build(name, student, teacher, **params)
        distiller.terms(student, teacher, START)
        values.append(total(distiller.terms(student, teacher, START)).item())
    assert values[0] != pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("name", ["crd", "crd_inbatch", "rrd", "dcd", "srd", "pad_l2", "itrd", "simkd", "ega"])
def test_a_student_without_embeddings_is_refused(name: str) -> None:
    student, teacher = pair(4)
    shapes = replace(shapes_of(student, teacher), student_embedding=None)
    with pytest.raises(IncompatibleError, match="embedding"):
        build(name, student, teacher, shapes)


# --- relations -------------------------------------------------------------------------------------------------


def rkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    (d_s, e_s), (d_t, e_t) = edges(student), edges(teacher)
    return distance_loss(d_s, d_t) + angle_loss(e_s, e_t)


@pytest.mark.parametrize(
    ("loss", "shift", "scale"),
    [
        (rkd_loss, True, True),
        (pkt_loss, False, True),
        (sp_loss, False, True),
        (sp_l1_loss, False, True),
        (partial(cc_loss, gamma=0.4, order=3), False, True),
        (information_loss, False, True),
        (lambda s, t: (graph(s) - graph(t)).pow(2), True, True),
        (lambda s, t: kernel_distance(s @ s.T, t @ t.T), False, False),
    ],
)
def test_rotation_shift_and_scale(loss: Callable[[Tensor, Tensor], Tensor], shift: bool, scale: bool) -> None:
    student, teacher = noise(7, 6), noise(7, 9, seed=1)
    value = loss(student, teacher)
    assert torch.allclose(loss(student @ rotation(6), teacher @ rotation(9)), value)
    assert torch.allclose(loss(student * 3, teacher * 0.1), value, rtol=1e-5) == scale
    assert torch.allclose(loss(student + 1, teacher), value) == shift


def test_rkd_is_the_definition_over_pairs_and_triples() -> None:
    f = {"s": noise(5, 3), "t": noise(5, 4, seed=1)}
    d = {k: torch.cdist(x, x) for k, x in f.items()}
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    mu = {k: sum(x[i, j] for i, j in pairs) / len(pairs) for k, x in d.items()}
    by_pair = sum(F.smooth_l1_loss(d["s"][i, j] / mu["s"], d["t"][i, j] / mu["t"]) for i, j in pairs) / 25
    assert torch.allclose(distance_loss(edges(f["s"])[0], edges(f["t"])[0]).mean(), torch.as_tensor(by_pair))

    def cosine(x: Tensor, i: int, j: int, k: int) -> Tensor:
        return F.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0)

    by_triple = sum(
        F.smooth_l1_loss(cosine(f["s"], i, j, k), cosine(f["t"], i, j, k))
        for i in range(5) for j in range(5) for k in range(5) if i not in {j, k}
    ) / 125  # fmt: skip
    assert torch.allclose(angle_loss(edges(f["s"])[1], edges(f["t"])[1]).mean(), torch.as_tensor(by_triple))


def test_rkd_keeps_its_precision_far_from_the_origin() -> None:
    """Distances from |a|^2 + |b|^2 - 2ab lose all digits in float32 when the features share a large mean."""
    near = noise(6, 4).float() + 3000
    exact, single = edges(near.double())[0], edges(near)[0]
    assert torch.allclose(exact.float(), single, rtol=1e-5)


def test_the_two_sp_differ_in_the_norm_of_the_rows() -> None:
    student, teacher = noise(6, 4), noise(6, 5, seed=1)
    for loss, p in ((sp_loss, 2), (sp_l1_loss, 1)):
        g_s, g_t = ((f @ f.T) / (f @ f.T).norm(p, 1, keepdim=True) for f in (student, teacher))
        assert torch.allclose(loss(student, teacher).mean(), (g_s - g_t).pow(2).sum() / 36)


def test_cc_rd_depends_on_the_order_of_the_batch_and_says_so() -> None:
    student = torch.tensor([[1.0], [0.0], [2.0], [0.0]])
    zero = torch.zeros_like(student)
    assert successive_loss(student, zero) == 0
    assert successive_loss(student[[0, 2, 1, 3]], zero) == pytest.approx(2 / 3)
    assert "order" in (component_class("distiller", "cc_rd").__doc__ or "")


def test_cc_series_converges_to_the_gaussian() -> None:
    f = noise(6, 4)
    distance = torch.cdist(F.normalize(f, dim=1), F.normalize(f, dim=1)).pow(2)
    assert torch.allclose(gaussian_kernel(f, 0.4, 12), (-0.4 * distance).exp())
    assert not torch.allclose(gaussian_kernel(f, 0.4, 2), (-0.4 * distance).exp(), rtol=1e-4)


def test_pkt_is_a_divergence_of_rows() -> None:
    student, teacher = noise(6, 4), noise(6, 5, seed=1)
    q_s, q_t = ((1 + F.cosine_similarity(f[:, None], f[None], dim=2)) / 2 for f in (student, teacher))
    q_s, q_t = (q / q.sum(1, keepdim=True) for q in (q_s, q_t))
    expected = F.kl_div(q_s.log(), q_t, reduction="none").sum(1) / 6
    assert torch.allclose(pkt_loss(student, teacher), expected, rtol=1e-4)


def test_irg_graph_and_transformation() -> None:
    x = noise(5, 7)
    square = torch.cdist(x, x).pow(2)
    assert torch.allclose(graph(x), square / square.max())
    first, second = noise(5, 4, 6, 6), noise(5, 2, 3, 3, seed=1)
    pooled = F.avg_pool2d(first, 2).view(5, 2, 2, 3, 3).mean(2)  # channels in contiguous groups
    moved = (pooled - second).pow(2).sum((1, 2, 3))
    assert torch.allclose(transformation(first, second), moved / moved.max())


def test_irg_with_one_stage_has_no_transformation() -> None:
    student, teacher = pair(4, same=True)
    student.maps, teacher.maps = student.maps[-1:], teacher.maps[-1:]
    assert set(build("irg", student, teacher).terms(student, teacher, START)) == {"vertex", "edge"}


def test_itrd_correlation() -> None:
    """Shift and positive scale of a feature do not matter; less correlation costs more; finite at the optimum."""
    student, teacher = noise(8, 5), noise(8, 5, seed=1)
    value = correlation_loss(student, teacher, 1.5)
    scaled = student * torch.tensor([1.0, 2, 3, 4, 5]) + 7
    assert torch.allclose(correlation_loss(scaled, teacher, 1.5), value, rtol=1e-6)
    steps = [correlation_loss(teacher + a * (student - teacher), teacher, 1.5) for a in (1.0, 0.5, 0.1, 0.0)]
    assert all(a > b for a, b in pairwise(steps))
    assert torch.allclose(steps[-1], torch.tensor(5 * (1 / 8) ** 3).log2().double(), rtol=1e-6)


def test_itrd_compares_raw_features_where_widths_agree() -> None:
    student, teacher = pair(6, same=True)
    assert student.embedding is not None
    assert teacher.embedding is not None
    term = build("itrd", student, teacher, information=1.0).terms(student, teacher, START)["information"]
    assert torch.equal(term, information_loss(student.embedding, teacher.embedding))


def test_ega_parts() -> None:
    student, teacher = noise(5, 6), noise(5, 6, seed=1)
    correlations = torch.corrcoef(torch.cat([teacher, student]))
    assert torch.allclose(node_loss(student, teacher), (correlations[:5, 5:] - torch.eye(5)).norm())
    assert torch.allclose(edge_loss(student, teacher), (correlations[:5, :5] - correlations[5:, 5:]).norm())
    assert edge_loss(teacher * 3 + 1, teacher) < 1e-10


# --- features --------------------------------------------------------------------------------------------------


def test_srd_turns_scale_into_a_constant() -> None:
    student, teacher = noise(5, 6), noise(5, 6, seed=1)
    value = log_power_loss(student, teacher, 4.0)
    assert torch.allclose(log_power_loss(student * 3, teacher * 3, 4.0), value + 8 * math.log(3))


def test_srd_is_finite_where_student_equals_teacher() -> None:
    student = noise(5, 6).requires_grad_()
    loss = log_power_loss(student, student.detach(), 4.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert student.grad.abs().max() == 0


def test_srd_normalises_both_sides_by_the_batch() -> None:
    student, teacher = pair(8, dtype=torch.float64)
    distiller = build("srd", student, teacher)
    scaled = changed(teacher, lambda x: x)
    scaled.embedding = scaled.embedding * 100 + 5  # type: ignore[operator]
    a, b = (distiller.terms(student, t, START)["feature"] for t in (teacher, scaled))
    assert torch.allclose(a, b, rtol=1e-3)


def test_pad_is_smallest_where_the_variance_is_the_squared_error() -> None:
    student, teacher = noise(5, 6), noise(5, 6, seed=1)
    best = (student - teacher).pow(2).log()
    at_best = pad_loss(student, teacher, best)
    assert (at_best < pad_loss(student, teacher, best + 0.1)).all()
    assert (at_best < pad_loss(student, teacher, best - 0.1)).all()
    assert torch.allclose(pad_loss(student, teacher, best * 0), hint_loss(student, teacher), rtol=1e-5)


def test_srrl_asks_the_teachers_classifier() -> None:
    student, teacher = pair(6, same=True)
    student.head = None
    weight = noise(4, 6, seed=8).float().requires_grad_()
    teacher.head = partial(F.linear, weight=weight.detach())
    terms = build("srrl", student, teacher).terms(student, teacher, START)
    assert student.embedding is not None
    expected = (F.linear(student.embedding, weight) - teacher.logits).pow(2).mean(1)
    assert torch.allclose(terms["classifier"], expected)
    terms["classifier"].sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None
    assert student.embedding.grad is not None
    assert student.embedding.grad.abs().sum() > 0


def test_simkd_answers_through_the_teachers_classifier() -> None:
    student, teacher = pair(6)
    distiller: Any = build("simkd", student, teacher)
    distiller.terms(student, teacher, START)
    distiller.eval()
    assert teacher.head is not None
    logits = distiller.replaced_head(student, teacher.head)
    assert torch.equal(logits, teacher.head(distiller.projector(student.embedding)))
    one = changed(student, lambda x: x[:1])
    assert torch.allclose(distiller.replaced_head(one, teacher.head), logits[:1], atol=1e-5)  # no batch statistics
    assert isinstance(distiller, ReplacesHead)


# --- contrast --------------------------------------------------------------------------------------------------


def test_info_nce_limits() -> None:
    student, teacher = noise(6, 4), noise(6, 4, seed=1)
    assert torch.allclose(info_nce(student, teacher, 1e9), torch.tensor(6.0).log().double())
    assert info_nce(teacher, teacher, 0.01).max() < 1e-3
    assert torch.allclose(info_nce(student * 5, teacher * 0.2, 0.07), info_nce(student, teacher, 0.07))


def test_dcd_bias_would_cancel_and_symmetric_comparison_is_consistent() -> None:
    s = noise(5, 5)
    for loss in (discriminative_loss, consistency_loss):
        assert torch.allclose(loss(s + 3.7), loss(s))
    assert consistency_loss(s + s.T).abs().max() < 1e-12
    assert consistency_loss(s).mean() > 0


def test_dcd_scale_is_learned_and_bounded() -> None:
    student, teacher = pair(6)
    distiller: Any = build("dcd", student, teacher)
    total(distiller.terms(student, teacher, START)).backward()  # type: ignore[no-untyped-call]
    assert distiller.log_scale.grad.abs() > 0
    values = []
    for log_scale in (math.log(10), 50.0):
        distiller.log_scale.data.fill_(log_scale)
        values.append(total(distiller.terms(student, teacher, START)))
    assert torch.allclose(values[0], values[1])


def test_rrd_is_smallest_at_the_teacher() -> None:
    teacher = F.normalize(noise(5, 4), dim=1)
    p = (teacher @ MEMORY.T / 0.1).softmax(1)
    entropy = -(p * p.log()).sum(1)
    assert torch.allclose(rrd_loss(teacher, teacher, MEMORY, 0.1, 0.1), entropy)
    other = F.normalize(noise(5, 4, seed=3), dim=1)
    assert (rrd_loss(other, teacher, MEMORY, 0.1, 0.1) > entropy).all()
    assert torch.allclose(
        rrd_loss(other, teacher, MEMORY.flip(0), 0.1, 0.1), rrd_loss(other, teacher, MEMORY, 0.1, 0.1)
    )


def test_rrd_queue_is_first_in_first_out_for_any_batch_size() -> None:
    student, teacher = pair(5)
    distiller: Any = build("rrd", student, teacher, queue=7)
    assert torch.allclose(distiller.queue.norm(dim=1), torch.ones(7)), "rows, not columns, have length 1"
    vectors = F.normalize(distiller.embed_t(teacher.embedding), dim=1)
    first = distiller.queue.clone()
    for rows in (5, 3):
        distiller.terms(*(changed(o, lambda x, n=rows: x[:n]) for o in (student, teacher)), START)  # type: ignore[misc]
    assert torch.allclose(distiller.queue, torch.cat([vectors[:3], vectors[:4]]), atol=1e-6)
    assert not torch.allclose(distiller.queue, first)
    small: Any = build("rrd", student, teacher, queue=2)
    assert torch.isfinite(total(small.terms(student, teacher, START)))
    assert torch.allclose(small.queue, vectors[:2], atol=1e-6)


# --- the memory bank -------------------------------------------------------------------------------------------

CELL_LABELS = torch.tensor([2, -1, 0, 1, -1, 0, 2, 2, 1, -1, 0, 0])
"""9 training cells of 12, ids 1, 4 and 9 belong to other splits."""


def banked(**params: Any) -> tuple[Any, Output, Output]:
    """CRD on 4 of the 9 training cells."""
    student, teacher = pair(4, 3)
    for out in (student, teacher):
        out.index = torch.tensor([0, 3, 10, 5])
        out.labels = CELL_LABELS[out.index]
    shapes = replace(shapes_of(student, teacher), n_cells=9, max_index=11, cell_labels=CELL_LABELS)
    return build("crd", student, teacher, shapes, **params), student, teacher


def test_crd_negatives_are_training_cells_of_other_classes_and_all_of_them() -> None:
    distiller, _, _ = banked()
    u = (torch.arange(900) / 900).expand(3, -1)
    drawn = negatives(u, torch.arange(3), distiller.order, distiller.start, distiller.count)
    for label in range(3):
        expected = {i for i, y in enumerate(CELL_LABELS.tolist()) if y not in (label, -1)}
        cells, counts = drawn[label].unique(return_counts=True)
        assert set(cells.tolist()) == expected
        assert counts.max() - counts.min() <= 2, "uniform"
    top = negatives(torch.full((3, 1), 1.0), torch.arange(3), distiller.order, distiller.start, distiller.count)
    assert (CELL_LABELS[top[:, 0]] != torch.arange(3)).all()


def test_crd_is_the_paper_s_estimator_over_gathered_vectors() -> None:
    """One product with the whole memory and a gather is the gather of each negative's vector."""
    f = F.normalize(noise(5, 4), dim=1)
    x = torch.einsum("bd,bkd->bk", f, MEMORY[PICKED]).div(0.07).exp()
    z = x.mean() * 7
    h = x / z / (x / z + 2 / 7)
    logits = similarities(f, MEMORY, PICKED, 0.07)
    expected = -(h[:, 0].log() + (1 - h[:, 1:]).log().sum(1))
    assert torch.allclose(contrast_loss(logits - log_constant(logits, 7), 7), expected, rtol=1e-5)


def test_crd_contrasts_each_side_with_the_memory_of_the_other() -> None:
    distiller, student, teacher = banked()
    distiller.eval()
    before = distiller.terms(student, teacher, START)
    distiller.memory_s.neg_()
    after = distiller.terms(student, teacher, START)
    assert torch.equal(after["student"], before["student"])
    assert not torch.allclose(after["teacher"], before["teacher"])


def test_crd_constant_comes_from_the_first_batch_and_stays() -> None:
    distiller, student, teacher = banked()
    assert distiller.log_z_s.isinf()
    distiller.terms(student, teacher, START)
    first = distiller.log_z_s.clone(), distiller.log_z_t.clone()
    assert all(z.isfinite() for z in first)
    distiller.terms(changed(student, torch.neg), teacher, START)
    assert (distiller.log_z_s, distiller.log_z_t) == first


def test_crd_memory_moves_only_where_cells_were_shown() -> None:
    distiller, student, teacher = banked(momentum=0.5)
    before = {k: distiller.get_buffer(k).clone() for k in ("memory_s", "memory_t")}
    assert before["memory_s"].shape == (12, 128)
    distiller.terms(student, teacher, START)
    shown = torch.zeros(12, dtype=torch.bool).index_fill_(0, student.index, True)  # type: ignore[arg-type]
    for key, out, embed in (
        ("memory_s", student, distiller.embed_s),
        ("memory_t", teacher, distiller.embed_t),
    ):
        after = distiller.get_buffer(key)
        assert torch.equal(after[~shown], before[key][~shown])
        f = F.normalize(embed(out.embedding), dim=1)
        expected = F.normalize(0.5 * before[key][out.index] + 0.5 * f, dim=1)
        assert torch.allclose(after[out.index], expected, atol=1e-6)
        assert torch.allclose(after.norm(dim=1), torch.ones(12))
        assert not after.requires_grad


def test_crd_memory_of_a_cell_shown_twice_does_not_depend_on_the_order_of_writes() -> None:
    f = F.normalize(noise(4, 4), dim=1)
    moved = remembered(MEMORY, torch.tensor([2, 5, 2, 2]), f, 0.5)
    assert torch.equal(moved[2], F.normalize(0.5 * MEMORY[2] + 0.5 * f[0], dim=0))
    assert torch.equal(moved[[0, 1, 3, 4, 6]], MEMORY[[0, 1, 3, 4, 6]])


def test_crd_draws_depend_on_the_pair_and_on_nothing_else() -> None:
    values = []
    for key in ("RGB/0", "RGB/0", "IR/0"):
        distiller, student, teacher = banked(negatives=3)
        distiller.key = key
        values.append(total(distiller.terms(student, teacher, START)))
    assert values[0] == values[1] != values[2]


def test_crd_without_cells_of_another_class_teaches_nothing() -> None:
    student, teacher = pair(4, 2)
    for out in (student, teacher):
        out.labels = torch.zeros(4, dtype=torch.int64)
    distiller = build("crd", student, teacher)
    terms = distiller.terms(student, teacher, START)
    assert all((v == 0).all() for v in terms.values())


def test_crd_never_draws_more_negatives_than_there_are_cells() -> None:
    assert banked()[0].drawn == 8
    assert banked(negatives=3)[0].drawn == 3


def test_crd_refuses_to_start_without_the_cells_labels() -> None:
    student, teacher = pair(4)
    with pytest.raises(IncompatibleError, match="labels"):
        build("crd", student, teacher, replace(shapes_of(student, teacher), cell_labels=None))


@pytest.mark.parametrize("temperature", [0.005, 0.07, 10.0])
def test_crd_is_finite_at_any_temperature(temperature: float) -> None:
    distiller, student, teacher = banked(temperature=temperature)
    loss = total(distiller.terms(student, teacher, Progress(0, 1, 0, 1)))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert student.embedding is not None
    assert student.embedding.grad is not None
    assert torch.isfinite(student.embedding.grad).all()


def test_crd_epsilon_is_the_reference_code_s() -> None:
    assert crd_file.EPS == 1e-7
