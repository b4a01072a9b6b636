"""Training policies against closed forms, and the traps that published code has fallen into."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies._evidence import combine, dirichlet_loss, evidence
from wbcbench_plugins.policies._mixing import beta, boxes
from wbcbench_plugins.policies._modalities import labels_of
from wbcbench_plugins.policies.agm import AGM, leads, shapley
from wbcbench_plugins.policies.agm import coefficients as coefficients_of_agm
from wbcbench_plugins.policies.aux_heads import AuxHeads
from wbcbench_plugins.policies.batch_repetition import BatchRepetition
from wbcbench_plugins.policies.cml import CML, confidence_rise
from wbcbench_plugins.policies.contrastive import Contrastive, info_nce
from wbcbench_plugins.policies.cross_modal_mixup import CrossModalMixup
from wbcbench_plugins.policies.cutmix import CutMix
from wbcbench_plugins.policies.etmc import ETMC
from wbcbench_plugins.policies.gradient_blending import GradientBlending, blend
from wbcbench_plugins.policies.mmpareto import MMPareto, min_norm, reconcile
from wbcbench_plugins.policies.modality_dropout import ModalityDropout, drop_modalities
from wbcbench_plugins.policies.ogm_ge import OGMGE, coefficients, discrepancy_ratios
from wbcbench_plugins.policies.qat import QAT, int8_weight, uint8_input
from wbcbench_plugins.policies.qmf import QMF, energy_weighted, ranking_loss
from wbcbench_plugins.policies.tmc import TMC

from wbcbench.contracts import Batch, Fusion, Output, Policy, Progress, modality_logits
from wbcbench.errors import IncompatibleError
from wbcbench.scheduling.plan import make_plan
from wbcbench.spec.request import Request
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.policies import policy_step
from wbcbench.testing.toys import ToyBoth, ToyJoint, build_toy, set_up, toy_batch, toy_draw, toy_task
from wbcbench.training.supervision import task_loss

ROW, COLUMN = torch.meshgrid(
    torch.arange(6.0, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64), indexing="ij"
)
LOGITS = torch.stack([2 * torch.sin(1.7 * ROW + 0.9 * COLUMN + v) for v in range(3)])
"""[3 views, 6 rows, 4 classes]."""
LABELS = torch.tensor([0, 3, 1, 2, 2, 0])


def progress(epoch: int = 0, epochs: int = 10) -> Progress:
    return Progress(epoch, epochs, 0, 1, toy_draw(step=epoch))


def pair(policy: type[Policy], fusion: Any, modalities: int = 2, **params: Any) -> tuple[Fusion, Any]:
    """A toy fusion in training mode and the policy set up around it."""
    net = build_toy(component_class("fusion", fusion), toy_task(modalities)).train()
    made = policy(policy.Params(**params))
    set_up(made, net)
    return net, made


def gradients(net: Fusion) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def plain_gradients(fusion: Any, modalities: int = 2) -> list[Tensor | None]:
    net = build_toy(component_class("fusion", fusion), toy_task(modalities)).train()
    policy_step(net, [], toy_batch(net.task), progress())
    return gradients(net)


class TestModalityDropout:
    def test_rates_are_exact_and_a_row_is_never_left_without(self) -> None:
        n, rates = 200_000, torch.tensor([0.5, 0.3, 0.8])
        draw = toy_draw()
        chance, keep = (torch.stack([draw.uniform(n, f"{w}{m}") for m in range(3)], 1) for w in "ab")
        left = drop_modalities(torch.ones(n, 3, dtype=torch.bool), chance, rates, keep)
        assert left.any(1).all()
        expected = rates - rates.prod() / 3
        assert torch.allclose((~left).float().mean(0), expected, atol=5e-3)

    def test_what_is_absent_stays_absent(self) -> None:
        present = torch.tensor([[True, False], [False, False], [False, True]])
        left = drop_modalities(present, torch.zeros(3, 2), torch.ones(2), torch.rand(3, 2))
        assert torch.equal(left, present)

    @pytest.mark.parametrize("fusion", ["early", "late", "independent"])
    def test_a_dropped_image_changes_nothing_and_teaches_nothing(self, fusion: str) -> None:
        net, policy = pair(ModalityDropout, fusion, rates={"u": 1.0}, rate=0.0)
        batch = toy_batch(net.task)
        noisy = toy_batch(net.task)
        noisy.images = {**batch.images, "u": torch.randn_like(batch.images["u"])}
        a, b = (policy_step(net, [policy], x, progress())[0] for x in (batch, noisy))
        assert all(torch.equal(v, b[k]) for k, v in a.items())
        if fusion != "early":
            assert a["u"] == 0

    def test_loss_is_the_mean_over_the_rows_shown(self) -> None:
        net, policy = pair(ModalityDropout, "late", rate=0.5)
        terms, outputs, shown = policy_step(net, [policy], toy_batch(net.task), progress())
        assert shown.present is not None
        out, mask = outputs["u"], shown.present[:, 0]
        assert out.labels is not None
        assert terms["u"].item() == pytest.approx(F.cross_entropy(out.logits[mask], out.labels[mask]).item())

    def test_rates_of_unknown_modalities_are_refused(self) -> None:
        with pytest.raises(IncompatibleError, match="infrared"):
            pair(ModalityDropout, "late", rates={"infrared": 0.5})


class TestOGMGE:
    def test_ratio_of_two_is_the_papers_and_of_more_the_mean(self) -> None:
        assert torch.allclose(discrepancy_ratios(torch.tensor([3.0, 2.0])), torch.tensor([1.5, 2 / 3]))
        three = discrepancy_ratios(torch.tensor([4.0, 2.0, 1.0]))
        assert torch.allclose(three, torch.tensor([3.0, 1.25, 0.375]))
        assert torch.allclose(discrepancy_ratios(torch.full((5,), 0.2)), torch.ones(5))

    def test_coefficients(self) -> None:
        rho = torch.tensor([2.0, 1.0, 0.5])
        jump = torch.tensor([1 - torch.tensor(0.6).tanh().item(), 1.0, 1.0])
        smooth = torch.tensor([1 - torch.tensor(0.3).tanh().item(), 1.0, 1.0])
        assert torch.allclose(coefficients(rho, 0.3, "jump"), jump)
        assert torch.allclose(coefficients(rho, 0.3, "smooth"), smooth)

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_exactly_the_modality_ahead_is_slowed(self, modalities: int) -> None:
        net, policy = pair(OGMGE, "late", modalities, noise=0, alpha=0.3)
        _, outputs, _ = policy_step(net, [policy], toy_batch(net.task), progress())
        scores = torch.stack([o.logits.softmax(1).gather(1, o.labels[:, None]).mean() for o in outputs.values()])
        scale = coefficients(discrepancy_ratios(scores), 0.3, "jump")
        fresh = build_toy(type(net), net.task).train()
        policy_step(fresh, [], toy_batch(net.task), progress())
        for i, m in enumerate(net.task.modalities):
            for part in ("backbones", "heads"):
                for p, q in zip(
                    getattr(net.networks, part)[m].parameters(),
                    getattr(fresh.networks, part)[m].parameters(),
                    strict=True,
                ):
                    k = scale[i] if part == "backbones" and p.ndim > 1 else 1.0
                    assert torch.allclose(p.grad, q.grad * k), (m, part, p.shape)
        assert scale.min() < 1

    def test_noise_is_on_the_weights_of_encoders_alone(self) -> None:
        """As in the authors' code: neither on biases and norms nor on heads, with the gradient's own deviation."""
        net, policy = pair(OGMGE, "late", noise=1.0, alpha=0.0)
        policy_step(net, [policy], toy_batch(net.task), progress())
        differs = {
            (name.split(".")[1], p.ndim > 1): not torch.allclose(found, plain)
            for (name, p), found, plain in zip(
                net.named_parameters(), gradients(net), plain_gradients("late"), strict=True
            )
        }
        assert differs == {
            (part, weight): part == "backbones" and weight
            for part in ("backbones", "heads")
            for weight in (True, False)
        }

    def test_only_heads_can_be_told_apart_in_one_trunk(self) -> None:
        net, policy = pair(OGMGE, "independent")
        weights = {id(p) for p in net.heads.parameters() if p.ndim > 1}  # type: ignore[union-attr]
        assert {id(p) for ps in policy.own.values() for p in ps} == weights

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_the_papers_setting_is_one_joint_head_over_concatenated_embeddings(self, modalities: int) -> None:
        net, policy = pair(OGMGE, "concat", modalities, noise=0, alpha=0.3)
        _, outputs, batch = policy_step(net, [policy], toy_batch(net.task), progress())
        scores = []
        for i, m in enumerate(net.task.modalities):
            h = net.encoders.backbones[m](batch.images[m]).embedding  # type: ignore[index,operator,union-attr]
            own = net.head.weight[:, 8 * i : 8 * (i + 1)]  # type: ignore[index,union-attr]
            z = h @ own.T + net.head.bias / modalities  # type: ignore[operator,union-attr]
            assert torch.allclose(modality_logits(net, outputs)[m], z, atol=1e-6)
            scores.append(z.softmax(1).gather(1, batch.labels[:, None]).mean())
        parts = torch.stack(list(modality_logits(net, outputs).values()))
        assert torch.allclose(parts.sum(0), outputs["joint"].logits, atol=1e-6), "they add up to the joint logits"
        scale = coefficients(discrepancy_ratios(torch.stack(scores)), 0.3, "jump")
        plain = plain_gradients("concat", modalities)
        assert scale.min() < 1
        for (name, p), found, before in zip(net.named_parameters(), gradients(net), plain, strict=True):
            its = [scale[i] for i, m in enumerate(net.task.modalities) if f".{m}." in name and p.ndim > 1]
            k = its or [torch.ones(())]
            assert torch.allclose(found, before * k[0], atol=1e-7), name  # type: ignore[arg-type,operator]

    @pytest.mark.parametrize(
        ("fusion", "params", "words"),
        [
            ("early", {}, "belong to one modality"),
            (ToyJoint, {}, "none of their own"),
            ("concat", {"hidden": 8}, "concat:hidden=0"),
        ],
    )
    def test_refused_where_modalities_cannot_be_told_apart(self, fusion: Any, params: Any, words: str) -> None:
        net = build_toy(component_class("fusion", fusion), toy_task(2), **params)
        with pytest.raises(IncompatibleError, match=words):
            OGMGE(OGMGE.Params()).setup(net)


class TestAGM:
    def test_shapley_values_add_up_and_are_fair(self) -> None:
        worth = torch.tensor([1.0, 2.0, 4.0])
        subsets = [frozenset(i for i in range(3) if b >> i & 1) for b in range(8)]
        additive = {s: worth[list(s)].sum()[None, None] for s in subsets}
        assert torch.allclose(shapley(additive, 3)[:, 0, 0], worth)
        together = {s: torch.tensor([[float(len(s) == 3)]]) for s in subsets}
        assert torch.allclose(shapley(together, 3)[:, 0, 0], torch.full((3,), 1 / 3))
        random = {s: torch.randn(5, 4, dtype=torch.float64) for s in subsets}
        total = random[frozenset(range(3))] - random[frozenset()]
        assert torch.allclose(shapley(random, 3).sum(0), total)

    def test_leads_multiply_to_one(self) -> None:
        found = leads(torch.tensor([0.5, 1.0, 2.5]))
        assert found.prod().item() == pytest.approx(1.0)
        assert found.argmax() == 0

    def test_golden_coefficients(self) -> None:
        """By hand: exp(alpha min(tau - r, 10)), r and tau the exponentials of the other's loss minus one's own."""
        now, mean = torch.tensor([1.0, 1.5]), torch.tensor([0.4, 0.2])
        expected = [math.exp(0.5 * (math.exp(d) - math.exp(e))) for d, e in ((-0.2, 0.5), (0.2, -0.5))]
        assert coefficients_of_agm(now, mean, 0.5).tolist() == pytest.approx(expected, rel=1e-6)
        far = coefficients_of_agm(torch.tensor([1.0, 0.8]), torch.tensor([0.02, 6.0]), 1.0)
        assert far.tolist() == pytest.approx([math.exp(10), math.exp(math.exp(-5.98) - math.exp(0.2))], rel=1e-5)

    def test_the_reference_is_the_mean_before_the_batch(self) -> None:
        """Its first value is 1: with no batch before it, no modality is ahead."""
        net, policy = pair(AGM, "late")
        means = torch.zeros(2)
        for step in range(3):
            net.zero_grad()
            _, outputs, _ = policy_step(net, [policy], toy_batch(net.task, seed=step), progress())
            fresh = build_toy(type(net), net.task).train()
            policy_step(fresh, [], toy_batch(net.task, seed=step), progress())
            now = torch.stack([F.cross_entropy(o.logits, o.labels) for o in outputs.values()]).detach()
            for m, k in zip("uv", coefficients_of_agm(now, means, 1.0), strict=True):
                for p, q in zip(
                    net.networks.backbones[m].parameters(), fresh.networks.backbones[m].parameters(), strict=True
                ):  # type: ignore[index,union-attr]
                    assert torch.allclose(p.grad, q.grad * k, rtol=1e-4, atol=1e-7)
            means += (now - means) / (step + 1)
            assert torch.allclose(policy.mean, means)

    def test_a_hopeless_cell_keeps_the_gradient_finite(self) -> None:
        """Losses of 100 in one modality made the exponent infinite, and a difference of two not a number."""
        net, policy = pair(AGM, "late")
        batch = toy_batch(net.task)
        sure = torch.full((len(batch), net.task.n_classes), -200.0)
        for wrong in (0, 1, 0):
            labels = torch.zeros(2, len(batch), dtype=torch.int64)
            right = torch.where(torch.arange(net.task.n_classes) == 0, 200.0, sure)
            responses = torch.stack([-right if m == wrong else right for m in range(2)])
            batch.extras["agm"] = responses, labels
            for p in net.parameters():
                p.grad = torch.ones_like(p)
            policy.after_backward(net, {}, batch, progress())
            assert all(torch.isfinite(g).all() for g in gradients(net))  # type: ignore[union-attr]


class TestAuxHeads:
    @pytest.mark.parametrize("fusion", ["late", "independent", ToyBoth, ToyJoint])
    def test_weighted_cross_entropy_of_the_rows_shown(self, fusion: Any) -> None:
        net, policy = pair(AuxHeads, fusion, 3, weight=0.5)
        terms, outputs, batch = policy_step(net, [policy], toy_batch(net.task), progress())
        for m, out in policy.embeddings(outputs, batch).items():
            loss = F.cross_entropy(policy.heads[m](out.embedding), out.labels)
            assert terms[f"aux_heads.{m}"].item() == pytest.approx(0.5 * loss.item(), rel=1e-5)
        assert all(p.grad is not None for p in policy.parameters())

    @pytest.mark.parametrize("heads_first", [True, False])
    def test_the_second_look_of_another_policy_is_not_theirs(self, heads_first: bool) -> None:
        net, heads = pair(AuxHeads, ToyJoint)
        alone = policy_step(net, [heads], toy_batch(net.task), progress())[0]
        other = CML(CML.Params())
        other.setup(net)
        both = policy_step(
            net, [heads, other] if heads_first else [other, heads], toy_batch(net.task), progress()
        )[0]
        assert all(torch.equal(v, both[k]) for k, v in alone.items())

    def test_refused_without_embeddings_of_modalities(self) -> None:
        with pytest.raises(IncompatibleError, match="embedding"):
            pair(AuxHeads, "early")


@pytest.mark.parametrize("fusion", ["late", "independent"])
def test_every_cell_is_repeated_equally_often(fusion: str) -> None:
    net, policy = pair(BatchRepetition, fusion, repeats=3)
    _, outputs, batch = policy_step(net, [policy], toy_batch(net.task), progress())
    for out in outputs.values():
        assert len(out.logits) == 3 * len(batch)
        assert torch.equal(out.labels, batch.labels[out.index - 100])  # type: ignore[operator]
        assert torch.equal(out.index.unique(return_counts=True)[1], torch.full((len(batch),), 3))  # type: ignore[union-attr]
    if fusion == "independent":
        rows = batch.rows["u"].view(3, -1), batch.rows["v"].view(3, -1)  # type: ignore[index]
        assert not torch.equal(rows[0][0], rows[0][1]), "repeats have partners of their own"


def test_every_repeat_is_mixed_by_a_plan_of_its_own() -> None:
    net, policy = pair(BatchRepetition, "mixmo", 3, repeats=3)
    once = build_toy(type(net), net.task).train()
    _, alone, _ = policy_step(once, [], toy_batch(net.task), progress())
    _, outputs, _ = policy_step(net, [policy], toy_batch(net.task), progress())
    for m, out in outputs.items():
        shares, first = out.weight.view(3, 8), alone[m]  # type: ignore[attr-defined]
        assert torch.allclose(shares[0], first.weight), "the first repeat is the batch as it was"  # type: ignore[attr-defined]
        assert torch.allclose(out.logits[:8], first.logits, atol=1e-6)
        assert shares.std() > 0.05, "rows are mixed"
        assert not torch.equal(shares[1], shares[2])


class TestMixing:
    @pytest.mark.parametrize("policy", [CrossModalMixup, CutMix])
    def test_loss_is_the_cross_entropy_with_the_soft_target(self, policy: Any) -> None:
        net, made = pair(policy, "late")
        net.label_smoothing = 0.1
        terms, outputs, batch = policy_step(net, [made], toy_batch(net.task), progress())
        assert set(terms) == {"u", "v"}, "one objective per route"
        for route, out in outputs.items():
            mix = batch.extras[made.name][route]
            own, other = F.one_hot(labels_of(out), 3), F.one_hot(mix.labels, 3)
            soft = mix.share[:, None] * own + (1 - mix.share)[:, None] * other
            expected = F.cross_entropy(out.logits, soft, label_smoothing=0.1)
            assert terms[route].item() == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("policy", [CrossModalMixup, CutMix])
    def test_a_row_that_is_sure_of_itself_still_hears_its_partner(self, policy: Any) -> None:
        net, made = pair(policy, "late", rate=1.0)
        _, outputs, batch = policy_step(net, [made], toy_batch(net.task), progress())
        sure = {r: replace(o, logits=200.0 * F.one_hot(labels_of(o), 3)) for r, o in outputs.items()}
        terms = task_loss(net, [made], sure, batch, torch.ones(3), progress())
        mix = batch.extras[made.name]["u"]
        wrong = (mix.labels != labels_of(outputs["u"])).float()
        assert F.cross_entropy(sure["u"].logits, labels_of(sure["u"])).item() == 0
        assert terms["u"].item() == pytest.approx((200 * wrong * (1 - mix.share)).mean().item())
        assert terms["u"] > 0

    @pytest.mark.parametrize(("fusion", "route"), [("mixmo", "u"), ("centralnet", "v")])
    def test_both_parts_keep_the_weight_that_the_fusion_gives_the_row(self, fusion: str, route: str) -> None:
        net, made = pair(CutMix, fusion)
        if fusion == "centralnet":
            net.params = net.params.model_copy(update={"unimodal": 0.3})
        _, outputs, batch = policy_step(net, [made], toy_batch(net.task), progress())
        out, mix = outputs[route], batch.extras["cutmix"][route]
        weight = getattr(out, "weight", 0.3)
        own, other = (F.cross_entropy(out.logits, y, reduction="none") for y in (labels_of(out), mix.labels))
        expected = (weight * (mix.share * own + (1 - mix.share) * other)).mean()
        found = task_loss(net, [made], outputs, batch, torch.ones(3), progress())[route]
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)

    def test_absent_modalities_have_no_part_in_the_loss(self) -> None:
        present = torch.tensor([[True, True]] * 5 + [[True, False]] * 2 + [[False, False]])
        for fusion in ("late", "early"):
            net, made = pair(CrossModalMixup, fusion, shared=False)
            batch = toy_batch(net.task)
            batch.present = present
            terms, outputs, batch = policy_step(net, [made], batch, progress())
            mixes = batch.extras[made.name]
            for route, out in outputs.items():
                parts = []
                for row in range(7 if route != "v" else 5):
                    there = [m for m in sorted(out.reads) if present[row, "uv".index(m)]]
                    losses = []
                    for m in there:
                        left, z = mixes[m].share[row], out.logits[row]
                        own, other = labels_of(out)[row], mixes[m].labels[row]
                        losses.append(left * F.cross_entropy(z, own) + (1 - left) * F.cross_entropy(z, other))
                    parts.append(torch.stack(losses).mean())
                assert terms[route].item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)

    @pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 2.0])
    def test_beta_has_its_mean_and_variance(self, alpha: float) -> None:
        x = beta(20_000, alpha, toy_draw(), "x")
        assert ((x >= 0) & (x <= 1)).all()
        assert x.mean().item() == pytest.approx(0.5, abs=0.02)
        assert x.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)

    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize("policy", [CrossModalMixup, CutMix])
    @pytest.mark.parametrize("fusion", ["late", "independent", "early"])
    def test_every_part_has_the_weight_of_its_own_class(self, fusion: str, policy: Any, shared: bool) -> None:
        net, made = pair(policy, fusion, shared=shared)
        _, outputs, batch = policy_step(net, [made], toy_batch(net.task), progress())
        weights = torch.tensor([0.5, 1.0, 2.0])
        terms = task_loss(net, [made], outputs, batch, weights, progress())
        mixes = batch.extras[made.name]
        for route, out in outputs.items():
            loss = torch.zeros(())
            for m in sorted(out.reads):
                mix, none = mixes[m], "none"
                assert out.labels is not None
                own = F.cross_entropy(out.logits, out.labels, reduction=none) * weights[out.labels]
                other = F.cross_entropy(out.logits, mix.labels, reduction=none) * weights[mix.labels]
                loss = loss + (mix.share * own + (1 - mix.share) * other).mean() / len(out.reads)
            assert terms[route].item() == pytest.approx(loss.item(), rel=1e-5)

    def test_partners_are_those_of_the_rows_shown(self) -> None:
        net, policy = pair(CrossModalMixup, "independent", shared=False)
        _, outputs, batch = policy_step(net, [policy], toy_batch(net.task), progress())
        for m, mix in batch.extras[policy.name].items():
            assert torch.equal(mix.labels, outputs[m].labels[mix.partner])  # type: ignore[index]
        assert not torch.equal(batch.extras[policy.name]["u"].share, batch.extras[policy.name]["v"].share)

    def test_a_square_has_its_area_and_the_share_is_what_is_left(self) -> None:
        centre = torch.full((2, 2), 0.5)
        assert torch.allclose(
            boxes(64, torch.tensor([0.75, 1.0]), centre).float().mean((1, 2)), torch.tensor([0.25, 0])
        )
        net, policy = pair(CutMix, "late", rate=1.0)
        batch = toy_batch(net.task)
        before = dict(batch.images)
        _, _, batch = policy_step(net, [policy], batch, progress())
        changed = {m: (batch.images[m] != before[m]).any(1) for m in before}
        assert torch.equal(changed["u"], changed["v"]), "modalities stay registered"
        mix = batch.extras["cutmix"]["u"]
        moved = mix.partner != torch.arange(8)
        assert torch.allclose(1 - changed["u"].float().mean((1, 2))[moved], mix.share[moved])

    def test_cells_are_not_mixed_with_cells_that_lack_the_modality(self) -> None:
        net, policy = pair(CrossModalMixup, "late")
        batch = toy_batch(net.task)
        batch.present = torch.tensor([[True, True]] * 7 + [[True, False]])
        before = batch.images["u"]
        _, _, batch = policy_step(net, [policy], batch, progress())
        assert torch.equal(batch.images["u"][7], before[7])


class TestContrastive:
    def test_log_of_the_number_of_candidates_without_information(self) -> None:
        same = torch.eye(6, dtype=torch.bool)
        ones, usable = torch.ones(6, 4), torch.ones(6, dtype=torch.bool)
        assert torch.allclose(info_nce(ones, ones, same, usable, 0.1), torch.full((6,), 6.0).log())
        usable[0] = False
        found = info_nce(ones, ones, same, usable, 0.1)
        assert found[0] == 0, "no positive"
        assert torch.allclose(found[1:], torch.full((5,), 5.0).log())

    def test_repeated_cells_are_all_positives(self) -> None:
        same = torch.ones(6, 6, dtype=torch.bool)
        usable = torch.ones(6, dtype=torch.bool)
        assert info_nce(LOGITS[0], LOGITS[1], same, usable, 0.5).abs().max() < 1e-12

    def test_gradient_check(self) -> None:
        a, b = (LOGITS[i].clone().requires_grad_() for i in (0, 1))
        same, usable = torch.eye(6, dtype=torch.bool), torch.tensor([True] * 5 + [False])
        assert torch.autograd.gradcheck(lambda x, y: info_nce(x, y, same, usable, 0.5), (a, b))

    def test_refused_where_modalities_share_an_embedding(self) -> None:
        for fusion in ("early", "independent"):
            with pytest.raises(IncompatibleError, match="embedding of each modality"):
                pair(Contrastive, fusion)


class TestGradientBlending:
    def test_gain_over_squared_growth_of_the_gap(self) -> None:
        before = torch.full((2,), 1.0), torch.full((2,), 1.0)
        found = blend(torch.tensor([0.5, 0.2]), torch.tensor([0.7, 0.6]), *before)
        raw = torch.tensor([0.3 / 0.2**2, 0.4 / 0.4**2])
        assert torch.allclose(found, 2 * raw / raw.sum())

    def test_equal_routes_get_one_and_one_that_got_worse_nothing(self) -> None:
        one = torch.ones(3)
        assert torch.allclose(blend(one * 0.5, one * 0.8, one, one), one)
        assert blend(one * 0.5, torch.tensor([1.2, 0.8, 0.8]), one, one)[0] == 0
        assert torch.equal(blend(one * 0.5, one * 1.2, one, one), one)

    def test_weights_wait_for_something_to_compare_with(self) -> None:
        net, policy = pair(GradientBlending, "late", every=1)
        for epoch, val in enumerate([{"u": 1.0, "v": 1.0}, {"u": 0.5, "v": 0.9}]):
            assert torch.equal(policy.weights, torch.ones(2))
            policy_step(net, [policy], toy_batch(net.task), progress(epoch))
            policy.on_epoch(net, progress(epoch), val)
        assert policy.weights.sum().item() == pytest.approx(2.0)
        assert not torch.equal(policy.weights, torch.ones(2))
        terms, outputs, _ = policy_step(net, [policy], toy_batch(net.task), progress(2))
        plain = F.cross_entropy(outputs["u"].logits, outputs["u"].labels)  # type: ignore[arg-type]
        assert terms["u"].item() == pytest.approx((plain * policy.weights[0]).item(), rel=1e-6)

    @pytest.mark.parametrize("epochs", [6, 8, 10])
    def test_a_short_training_is_weighted_after_the_first_super_epoch(self, epochs: int) -> None:
        net, policy = pair(GradientBlending, "late")
        changed = []
        for epoch in range(epochs):
            policy_step(net, [policy], toy_batch(net.task), progress(epoch))
            changed.append(not torch.equal(policy.weights, torch.ones(2)))
            policy.on_epoch(net, progress(epoch), {"u": 1 / (epoch + 1), "v": 1 / (epoch + 2)})
        assert changed == [epoch >= 5 for epoch in range(epochs)]

    def test_a_budget_in_which_it_never_acts_is_refused_while_planning(self) -> None:
        def plan(epochs: int, policy: str) -> None:
            request = {"fusion": "late_prob", "policy": policy, "budget": {"epochs": epochs}}
            make_plan(Request.model_validate(request), registry())

        plan(6, "gradient_blending")
        plan(5, "gradient_blending:every=4")
        with pytest.raises(IncompatibleError, match=r"first 5 epochs, but the budget is 5\. Use --set"):
            plan(5, "gradient_blending")


class TestMMPareto:
    def test_min_norm_is_orthogonal_to_the_difference(self) -> None:
        g = torch.tensor([[1.0, 0.0], [-0.5, 1.0]])
        direction = min_norm(g @ g.T) @ g
        assert (direction @ (g[0] - g[1])).abs() < 1e-6
        assert torch.equal(min_norm(torch.tensor([[1.0, 2.0], [2.0, 9.0]])), torch.tensor([1.0, 0.0]))

    def test_frank_wolfe_finds_the_closed_form(self) -> None:
        g = torch.tensor([[1.0, 0.0], [-0.5, 1.0], [8.0, 8.0]], dtype=torch.float64)
        three, two = min_norm(g @ g.T, 500) @ g, min_norm(g[:2] @ g[:2].T) @ g[:2]
        assert torch.allclose(three, two, atol=1e-2)

    def test_sum_without_conflict_and_its_length_with(self) -> None:
        friends = torch.tensor([[1.0, 0.2], [0.2, 2.0]])
        assert torch.equal(reconcile(friends, 1.5), torch.tensor([1.5, 1.5]))
        g = torch.tensor([[1.0, 0.0], [-0.5, 1.0]])
        new = reconcile(g @ g.T, 1.0) @ g
        assert new.norm().item() == pytest.approx(g.sum(0).norm().item(), rel=1e-5)
        assert (g @ new > 0).all(), "a descent direction for both losses"

    def test_blocks_of_a_network_with_auxiliary_heads(self) -> None:
        net, heads = pair(AuxHeads, ToyJoint)
        policy = MMPareto(MMPareto.Params(gamma=1.0))
        policy.setup(net)
        policy_step(net, [heads, policy], toy_batch(net.task), progress())
        found = gradients(net)
        head = net.head.weight.grad.clone()  # type: ignore[union-attr,operator]
        net.zero_grad()
        _, _, _ = policy_step(net, [heads], toy_batch(net.task), progress())
        assert torch.allclose(head, net.head.weight.grad)  # type: ignore[arg-type,union-attr]
        for m in "uv":
            block = [i for i, (n, _) in enumerate(net.named_parameters()) if n.startswith(f"backbones.{m}.")]
            plain = torch.cat([gradients(net)[i].flatten() for i in block])  # type: ignore[union-attr]
            new = torch.cat([found[i].flatten() for i in block])  # type: ignore[union-attr]
            assert new.norm().item() == pytest.approx(plain.norm().item(), rel=1e-4)
        assert all(p.grad is not None for p in heads.parameters())

    @pytest.mark.parametrize(
        ("fusion", "penalty", "before"),
        [("cen", "sparsity", []), ("independent", "cml", [CML]), ("shared_trunk", "contrastive", [Contrastive])],
    )
    def test_penalties_are_added_as_they_are(self, fusion: str, penalty: str, before: list[Any]) -> None:
        def gradient(scale: float, routes: bool = True) -> Tensor:
            """With the penalty in the loss so many times, with or without the losses of the routes."""
            torch.manual_seed(0)
            net, policy = pair(MMPareto, fusion)
            policies = [made(made.Params()) for made in before]
            for made in policies:
                made.setup(net)
            reconciled = policy.backward

            def scaled(terms: dict[str, Tensor], rest: Tensor, given: Fusion) -> bool:
                value = scale * terms[penalty]
                if routes:
                    return bool(reconciled(terms | {penalty: value}, rest, given))
                value.backward()  # type: ignore[no-untyped-call]
                return True

            policy.backward = scaled
            policy_step(net, [*policies, policy], toy_batch(net.task), progress())
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
            return torch.cat([g.flatten() for g in grads])

        alone = gradient(100.0, routes=False)
        assert alone.abs().max() > 1e-4
        assert torch.allclose(gradient(100.0) - gradient(0.0), alone, atol=1e-5)

    def test_the_two_halves_of_a_mixture_are_one_objective(self) -> None:
        net, mixing = pair(CutMix, "late")
        policy = MMPareto(MMPareto.Params())
        policy.setup(net)
        with pytest.raises(IncompatibleError, match="aux_heads"):
            policy_step(net, [mixing, policy], toy_batch(net.task), progress())

    def test_a_penalty_alone_gives_nothing_to_reconcile(self) -> None:
        net, policy = pair(MMPareto, "moe")
        with pytest.raises(IncompatibleError, match="aux_heads"):
            policy_step(net, [policy], toy_batch(net.task), progress())

    def test_refused_where_no_losses_meet(self) -> None:
        net, policy = pair(MMPareto, "late")
        with pytest.raises(IncompatibleError, match="aux_heads"):
            policy_step(net, [policy], toy_batch(net.task), progress())


class TestCML:
    def test_only_a_rise_counts(self) -> None:
        full, less = torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([[0.5, 0.5], [0.2, 0.8]])
        assert torch.allclose(confidence_rise(full, less), torch.tensor([0.0, 0.2]))

    def test_removes_one_present_modality_per_row(self) -> None:
        net, policy = pair(CML, "late", 3)
        batch = toy_batch(net.task)
        batch.present = torch.tensor([[True, True, False]] * 7 + [[True, False, False]])
        terms, _, shown = policy_step(net, [policy], batch, progress())
        _, less, usable = shown.extras["cml"]
        assert torch.equal(less.sum(1), torch.tensor([1] * 7 + [0]))
        assert torch.equal(usable, torch.tensor([True] * 7 + [False]))
        assert "cml" in terms


class TestQMF:
    def test_weighted_logits(self) -> None:
        there = torch.tensor([[True] * 6, [False] * 6, [True] * 6])
        found = energy_weighted(LOGITS, there, 0.1)
        expected = sum(0.1 * LOGITS[i].exp().sum(1).log()[:, None] * LOGITS[i] for i in (0, 2))
        assert torch.allclose(found, expected)  # type: ignore[arg-type]

    def test_weights_are_constants_for_the_gradient(self) -> None:
        """d/dz sum_k w z_k = w; the authors' code for image and text detaches the energies."""
        z = LOGITS.clone().requires_grad_()
        energy_weighted(z, torch.ones(3, 6, dtype=torch.bool), 0.1).sum().backward()
        assert z.grad is not None
        assert torch.allclose(z.grad, (0.1 * LOGITS.exp().sum(2, keepdim=True).log()).expand_as(z))

    def test_the_harder_cell_must_be_less_sure_by_the_margin(self) -> None:
        every = torch.ones(2, dtype=torch.bool)
        found = ranking_loss(torch.tensor([1.0, 0.9]), torch.tensor([0.8, 0.3]), every)
        assert torch.allclose(found, torch.tensor([0.6, 0.6]))
        assert ranking_loss(torch.tensor([0.0, 0.9]), torch.tensor([0.8, 0.3]), every).abs().max() == 0
        assert ranking_loss(torch.tensor([0.0, 5.0]), torch.tensor([0.5, 0.5]), every).abs().max() == 0

    @pytest.mark.parametrize("fusion", ["late", "independent"])
    def test_history_is_by_cell_and_not_by_row(self, fusion: str) -> None:
        net, policy = pair(QMF, fusion)
        _, outputs, _ = policy_step(net, [policy], toy_batch(net.task), progress())
        for i, m in enumerate("uv"):
            out = outputs[m]
            assert out.index is not None
            assert out.labels is not None
            loss = F.cross_entropy(out.logits, out.labels, reduction="none")
            assert torch.allclose(policy.sums[i][out.index], loss)
            assert policy.counts[i].sum() == 8
            assert policy.counts[i][:100].sum() == 0

    def test_first_sight_of_a_cell_ranks_nothing(self) -> None:
        net, policy = pair(QMF, "late")
        first, second = (policy_step(net, [policy], toy_batch(net.task), progress(e))[0] for e in (0, 1))
        assert first["qmf.rank.u"] == 0
        assert second["qmf.rank.u"] > 0


class TestTrustedEvidence:
    def test_loss_against_its_digamma_formula(self) -> None:
        e = evidence(LOGITS[0], "softplus")
        alpha = e + 1
        fit = (F.one_hot(LABELS, 4) * (torch.digamma(alpha.sum(1, keepdim=True)) - torch.digamma(alpha))).sum(1)
        wrong = torch.where(F.one_hot(LABELS, 4).bool(), 1.0, alpha)
        flat = torch.distributions.Dirichlet(torch.ones(6, 4, dtype=torch.float64))
        kl = torch.distributions.kl_divergence(torch.distributions.Dirichlet(wrong), flat)
        for annealing in (0.0, 0.3, 1.0):
            assert torch.allclose(dirichlet_loss(e, LABELS, annealing), fit + annealing * kl)

    def test_combination_is_dempsters_rule_view_by_view(self) -> None:
        e = evidence(LOGITS, "softplus")
        k = 4

        def opinion(x: Tensor) -> tuple[Tensor, Tensor]:
            s = x.sum(1, keepdim=True) + k
            return x / s, k / s

        b, u = opinion(e[0])
        for view in e[1:]:
            c, v = opinion(view)
            conflict = b.sum(1, keepdim=True) * c.sum(1, keepdim=True) - (b * c).sum(1, keepdim=True)
            b, u = (b * c + b * v + c * u) / (1 - conflict), u * v / (1 - conflict)
        assert torch.allclose(combine(e), b * k / u)

    def test_order_of_views_and_empty_views_change_nothing(self) -> None:
        e = evidence(LOGITS, "softplus")
        for order in permutations(range(3)):
            assert torch.allclose(combine(e[list(order)]), combine(e))
        assert torch.allclose(combine(torch.cat([e, torch.zeros_like(e[:1])])), combine(e))
        assert torch.allclose(combine(e[:1]), e[0])

    def test_gradient_check_and_extremes(self) -> None:
        z = LOGITS.clone().requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: dirichlet_loss(combine(evidence(x, "softplus")), LABELS, 0.5), (z,)
        )
        for how in ("softplus", "relu", "exp"):
            x = (LOGITS * 1e4).float().requires_grad_()
            loss = dirichlet_loss(combine(evidence(x, how)), LABELS, 1.0)
            loss.sum().backward()
            assert torch.isfinite(loss).all()
            assert torch.isfinite(x.grad).all()  # type: ignore[arg-type]

    def test_annealed_by_epoch_and_rows_of_different_cells_are_not_combined(self) -> None:
        net, policy = pair(TMC, "independent", annealing=4)
        batch = toy_batch(net.task)
        first, outputs, _ = policy_step(net, [policy], batch, progress(0))
        u, v = outputs["u"], outputs["v"]
        assert u.index is not None
        assert v.index is not None
        same = u.index == v.index
        assert same.any()
        assert not same.all()
        e = combine(torch.stack([evidence(o.logits, "softplus") for o in (u, v)]))
        assert u.labels is not None
        expected = dirichlet_loss(e, u.labels, 0.0)[same].mean()
        assert first["tmc.combined"].item() == pytest.approx(expected.item(), rel=1e-5)
        later = [policy_step(net, [policy], toy_batch(net.task), progress(e))[0]["u"] for e in (4, 8)]
        plain = dirichlet_loss(evidence(u.logits, "softplus"), u.labels, 1.0).mean()
        assert later[1] > 0
        net2, again = pair(TMC, "independent", annealing=0)
        full = policy_step(net2, [again], toy_batch(net.task), progress(0))[0]["u"]
        assert full.item() == pytest.approx(plain.item(), rel=1e-5)
        assert full > first["u"]


ALTERNATIVES: list[tuple[type[Policy], Any, dict[str, Any]]] = [
    (ModalityDropout, "late", {"rate": 0.6, "rates": {"u": 0.9}}),
    (OGMGE, "late", {"alpha": 1.0, "noise": 0.0, "until": 0.0, "onset": "smooth"}),
    (AGM, "late", {"alpha": 3.0}),
    (AGM, ToyJoint, {"alpha": 3.0}),
    (AuxHeads, ToyJoint, {"weight": 0.3}),
    (BatchRepetition, "independent", {"repeats": 2}),
    (CrossModalMixup, "late", {"alpha": 1.0, "rate": 0.5, "shared": False}),
    (CutMix, "late", {"alpha": 0.3, "rate": 0.9, "shared": False}),
    (Contrastive, "late", {"weight": 1.0, "temperature": 1.0, "width": 8}),
    (GradientBlending, "late", {"every": 1}),
    (MMPareto, "independent", {"gamma": 1.0}),
    (CML, "early", {"weight": 9.0}),
    (QMF, "late", {"scale": 0.3, "rank": 0.1}),
    (TMC, "late", {"annealing": 2, "evidence": "exp"}),
    (ETMC, ToyBoth, {"annealing": 2, "evidence": "relu"}),
]


@pytest.mark.parametrize(("policy", "fusion", "values"), ALTERNATIVES)
def test_every_parameter_acts(policy: type[Policy], fusion: Any, values: dict[str, Any]) -> None:
    assert set(values) == set(policy.Params.model_fields)

    def trained(**params: Any) -> Tensor:
        torch.manual_seed(0)
        net, made = pair(policy, fusion, **params)
        for epoch in range(3):
            net.zero_grad()
            policy_step(net, [made], toy_batch(net.task, seed=epoch), progress(epoch))
            made.on_epoch(net, progress(epoch), {r: 1 / (i + epoch + 1) for i, r in enumerate(net.routes)})
        return torch.cat([g.flatten() for g in gradients(net) if g is not None])

    default = trained()
    assert torch.equal(default, trained()), "the same twice"
    for name, value in values.items():
        assert not torch.allclose(default, trained(**{name: value}), rtol=1e-4), name


@pytest.mark.parametrize(
    ("policies", "kd", "words"),
    [
        ("cutmix,cross_modal_mixup", "none", "both cross_modal_mixup and cutmix"),
        ("mmpareto", "none", "meet in some parameters"),
        ("cutmix,mmpareto", "none", "meet in some parameters"),
        ("cutmix,tmc", "none", "one label per image"),
        ("cutmix", "dkd", "reads labels or ids of cells"),
        ("mmpareto,mmpareto", "none", "given twice"),
        ("ogm_ge", "logits+dot", "takes the step by itself"),
    ],
)
def test_policies_that_do_not_go_together_are_refused_while_planning(policies: str, kd: str, words: str) -> None:
    training = {"optimiser": "sgd"} if "dot" in kd else {}
    request = Request.model_validate({"fusion": "late_prob", "policy": policies, "kd": kd, "training": training})
    with pytest.raises(IncompatibleError, match=words):
        make_plan(request, registry())
    for policies in ("tmc,ogm_ge", "aux_heads,mmpareto"):
        make_plan(Request.model_validate({"fusion": "late_prob", "policy": policies, "kd": "logits"}), registry())


def test_policies_are_applied_in_the_order_given() -> None:
    net = build_toy(component_class("fusion", "late"), toy_task(2)).train()
    seen: list[str] = []

    class Named(Policy):
        def __init__(self, label: str) -> None:
            super().__init__(Policy.Params())
            self.label = label

        def assemble(self, batch: Batch, draw: Any) -> Batch:
            seen.append(f"assemble {self.label}")
            return batch

        def task_terms(self, terms: Any, outputs: dict[str, Output], batch: Batch, progress: Any) -> Any:
            seen.append(f"terms {self.label}")
            return terms

    policy_step(net, [Named("a"), Named("b")], toy_batch(net.task), progress())
    assert seen == ["assemble a", "assemble b", "terms a", "terms b"]


def test_qat_rounds_as_int8() -> None:
    """Weights to 255 values per channel, inputs to 256 that include 0; gradients go straight through."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 5, 5, generator=generator).requires_grad_()
    found = int8_weight(weight)
    scale = weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    whole = found.detach() / scale
    assert torch.allclose(whole, whole.round(), atol=1e-4)
    assert ((found - weight).abs() <= scale / 2 + 1e-7).all()
    x = (torch.rand(6, 3, 8, 8, generator=generator) * 5 - 1).requires_grad_()
    step = (x.max() - x.min()).item() / 255
    rounded = uint8_input(x)
    assert len(rounded.unique()) <= 257
    assert ((rounded - x).abs() <= step / 2 + 1e-6).all()
    assert torch.equal(uint8_input(x.clamp(min=0.5) * (x > 2)) == 0, x <= 2), "0 stays 0"
    (found.sum() + rounded.sum()).backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))  # type: ignore[arg-type]
    assert torch.equal(x.grad, torch.ones_like(x))  # type: ignore[arg-type]


def test_qat_begins_late_and_only_in_training() -> None:
    net, policy = pair(QAT, "early", start=0.5)
    plain = build_toy(component_class("fusion", "early"), toy_task(2)).train()
    images = toy_batch(net.task).images

    def logits(of: Fusion) -> Tensor:
        return of(images)["joint"].logits

    assert net.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(logits(net), logits(plain))
    policy.on_epoch(net, progress(3), {})
    assert torch.equal(logits(net), logits(plain))
    policy.on_epoch(net, progress(4), {})
    assert not torch.equal(logits(net), logits(plain))
    assert torch.allclose(logits(net), logits(plain), atol=0.1)
    assert torch.equal(logits(net.eval()), logits(plain.eval()))
    with pytest.raises(RuntimeError):
        net.train()({m: x[:, :, :, :1, None] for m, x in images.items()})
    assert all("weight" not in m.__dict__ for m in net.modules()), "also where a layer fails"
    with pytest.raises(IncompatibleError, match="nothing to round"):
        pair(QAT, "majority")
