"""Policies of 2023 to 2025 that balance modalities: against numpy, closed forms and hand-made gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies.arl import ARL, asymmetry
from wbcbench_plugins.policies.dgl import DGL
from wbcbench_plugins.policies.inforeg import InfoReg, growth, restraint
from wbcbench_plugins.policies.lckd import LCKD
from wbcbench_plugins.policies.pmr import PMR, behind, similarities
from wbcbench_plugins.policies.smv import SMV, contributions, repeats

from wbcbench.contracts import Fusion, Policy, Progress, modality_logits
from wbcbench.errors import IncompatibleError
from wbcbench.testing.components import component_class
from wbcbench.testing.policies import policy_step
from wbcbench.testing.toys import ToyBoth, build_toy, set_up, toy_batch, toy_draw, toy_task

X = torch.sin(1.7 * torch.arange(24.0, dtype=torch.float64)).view(6, 4)
LABELS = torch.tensor([0, 2, 1, 2, 0, 1])


def progress(epoch: int = 0, epochs: int = 10, step: int = 0, steps: int = 1) -> Progress:
    return Progress(epoch, epochs, step, steps, toy_draw(step=epoch))


def pair(policy: type[Policy], fusion: Any, modalities: int = 2, **params: Any) -> tuple[Any, Any]:
    """A toy fusion in training mode and the policy set up around it."""
    net: Fusion = build_toy(component_class("fusion", fusion), toy_task(modalities)).train()
    made = policy(policy.Params(**params))
    set_up(made, net)
    return net, made


def gradients_of(loss: Tensor, net: Fusion) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True))


class TestPMR:
    def test_distances_are_numpys_and_smooth_enough(self) -> None:
        prototypes = torch.cos(torch.arange(12.0, dtype=torch.float64)).view(3, 4)
        known = torch.tensor([True, False, True])
        found = similarities(X, prototypes, known)
        for i, k in ((0, 0), (3, 2)):
            assert found[i, k].item() == pytest.approx(-np.linalg.norm(X[i].numpy() - prototypes[k].numpy()))
        assert (found.softmax(1)[:, 1] == 0).all(), "no class without prototype is predicted"
        point = X.clone().requires_grad_()
        all_known = torch.ones(3, dtype=torch.bool)
        assert torch.autograd.gradcheck(lambda x: similarities(x, prototypes, all_known), point)
        same = prototypes.clone().requires_grad_()
        similarities(same, prototypes, all_known).sum().backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(same.grad).all()  # type: ignore[arg-type]

    def test_only_those_behind_are_helped(self) -> None:
        assert behind(torch.tensor([2.0, 1.0, 2.0]), 0.5).tolist() == [0.0, 0.5, 0.0]
        assert behind(torch.ones(2), 0.5).tolist() == [0.0, 0.0]

    def test_the_first_epoch_uses_the_means_so_far_and_the_next_the_moved_ones(self) -> None:
        net, policy = pair(PMR, "late", momentum=0.25)
        means, losses = [], {}
        for epoch in range(3):
            batch = toy_batch(net.task, seed=epoch)
            terms, outputs, _ = policy_step(net, [policy], batch, progress(epoch))
            rows = {m: outputs[m].embedding.detach().double().numpy() for m in "uv"}
            labels = batch.labels.numpy()
            now = {m: np.stack([rows[m][labels == k].mean(0) for k in range(3)]) for m in "uv"}
            if epoch == 0:
                used = now
            probabilities = {}
            for m in "uv":
                far = np.linalg.norm(rows[m][:, None] - used[m][None], axis=2)
                likely = np.exp(-far) / np.exp(-far).sum(1, keepdims=True)
                probabilities[m] = likely[np.arange(8), labels]
                losses[m] = -np.log(probabilities[m]).mean()
            score = {m: p.sum() for m, p in probabilities.items()}
            for m, other in ("uv", "vu"):
                expected = losses[m] if score[m] < score[other] else 0.0
                assert terms[f"pmr.{m}"].item() == pytest.approx(expected, rel=1e-4), (epoch, m)
            means.append(now)
            used = now if epoch == 0 else {m: 0.75 * now[m] + 0.25 * used[m] for m in "uv"}
            policy.on_epoch(net, progress(epoch), {})
        assert np.allclose(policy.prototypes0.numpy(), used["u"], atol=1e-5)

    def test_it_ends(self) -> None:
        net, policy = pair(PMR, "concat", until=0.5)
        assert "pmr.u" in policy_step(net, [policy], toy_batch(net.task), progress(4))[0]
        assert "pmr.u" not in policy_step(net, [policy], toy_batch(net.task), progress(5))[0]

    def test_absent_modalities_make_no_prototypes(self) -> None:
        net, policy = pair(PMR, "concat")
        batch = toy_batch(net.task)
        batch.present = torch.tensor([[True, True]] * 4 + [[True, False]] * 4)
        policy_step(net, [policy], batch, progress())
        assert policy.counts.sum(1).tolist() == [8.0, 4.0]

    def test_refused_where_modalities_share_an_embedding(self) -> None:
        with pytest.raises(IncompatibleError, match="embedding of each modality"):
            pair(PMR, "independent")


class TestARL:
    def test_two_modalities_are_the_authors_formula(self) -> None:
        size, entropy, t = np.array([3.0, 1.5]), np.array([0.4, 0.9]), 8.0
        h = np.maximum(entropy / entropy.sum(), 0.3)
        certain = (1 / h) / (1 / h).sum()
        c = size / size.sum()
        raw = np.exp(t * np.array([c[1] * certain[0], c[0] * certain[1]]))
        found = asymmetry(torch.tensor(size), torch.tensor(entropy), t)
        assert np.allclose(found.numpy(), raw / raw.sum())

    def test_equal_modalities_get_equal_weights_and_surer_or_smaller_ones_more(self) -> None:
        one = torch.ones(3)
        assert torch.allclose(asymmetry(one, one, 8.0), one / 3)
        assert asymmetry(one, torch.tensor([0.5, 1.0, 1.0]), 8.0).argmax() == 0
        assert asymmetry(torch.tensor([0.5, 1.0, 1.0]), one, 8.0).argmax() == 0
        assert torch.isfinite(asymmetry(torch.zeros(2), torch.zeros(2), 8.0)).all()

    @pytest.mark.parametrize("fusion", ["concat", ToyBoth])
    def test_each_network_is_scaled_by_its_weight(self, fusion: Any) -> None:
        net, policy = pair(ARL, fusion, gamma=3.0, start=2)
        for epoch in (1, 2):
            net.zero_grad()
            batch = toy_batch(net.task)
            terms, outputs, _ = policy_step(net, [policy], batch, progress(epoch))
            gamma = 3.0 if epoch == 2 else 1.0
            z = modality_logits(net, outputs)
            loss = F.cross_entropy(outputs["joint"].logits, batch.labels)
            loss = loss + gamma * sum(F.cross_entropy(z[m], batch.labels) for m in "uv")
            assert sum(t.item() for t in terms.values()) == pytest.approx(loss.item(), rel=1e-5)
            p = {m: z[m].detach().double().softmax(1).numpy() for m in "uv"}
            entropy = np.array([-(p[m] * np.log(p[m])).sum(1).mean() for m in "uv"])
            size = np.array([z[m].detach().double().abs().sum(1).mean().item() for m in "uv"])
            w = asymmetry(torch.tensor(size), torch.tensor(entropy), 8.0)
            scale = {id(q): 1 + w[i] for i, m in enumerate("uv") for q in policy.own[m]} if epoch == 2 else {}
            fresh = build_toy(type(net), net.task).train()
            again = fresh(toy_batch(net.task).images)
            zs = modality_logits(fresh, again)
            plain = F.cross_entropy(again["joint"].logits, batch.labels)
            plain = plain + gamma * sum(F.cross_entropy(zs[m], batch.labels) for m in "uv")
            for q, g in zip(net.parameters(), gradients_of(plain, fresh), strict=True):
                assert torch.allclose(q.grad, g * scale.get(id(q), 1.0), atol=1e-6)  # type: ignore[arg-type, operator]


class TestDGL:
    @pytest.mark.parametrize(("fusion", "modalities"), [("concat", 3), (ToyBoth, 2), ("centralnet", 2)])
    def test_every_parameter_has_the_gradient_of_its_side(self, fusion: Any, modalities: int) -> None:
        net, policy = pair(DGL, fusion, modalities, alpha=2.0)
        batch = toy_batch(net.task)
        policy_step(
            net, [policy], batch, progress(), kd_terms=lambda o, b: 0.1 * o["joint"].logits.square().mean()
        )
        fresh = build_toy(type(net), net.task).train()
        outputs = fresh(toy_batch(net.task).images)
        z = modality_logits(fresh, outputs)
        own = 2.0 * sum(F.cross_entropy(v, batch.labels) for v in z.values())
        joint = F.cross_entropy(outputs["joint"].logits, batch.labels)
        kd = 0.1 * outputs["joint"].logits.square().mean()
        sides = [gradients_of(x, fresh) for x in (own, joint, kd)]  # type: ignore[arg-type]
        for (name, p), uni, together, extra in zip(net.named_parameters(), *sides, strict=True):
            mine = any(f".{m}." in f".{name}" for m in net.task.modalities)
            kept = (uni if mine else together) if uni is not None and together is not None else (
                uni if together is None else together
            )  # fmt: skip
            expected = kept + (0 if extra is None else extra)  # type: ignore[operator]
            assert torch.allclose(p.grad, expected, atol=2e-6), name  # type: ignore[arg-type]

    def test_the_joint_loss_does_not_reach_the_encoders(self) -> None:
        net, policy = pair(DGL, "concat")
        found = []
        for flip in (False, True):
            net.zero_grad()
            batch = toy_batch(net.task)
            original = net.task_terms
            if flip:  # another joint loss altogether
                net.task_terms = lambda o, b, p: {"joint": o["joint"].logits.square().sum(1)}
            policy_step(net, [policy], batch, progress())
            net.task_terms = original
            found.append([p.grad.clone() for p in net.encoders.parameters()])
            head = net.head.weight.grad.clone()
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))
        assert head.abs().sum() > 0

    @pytest.mark.parametrize(("fusion", "params"), [("early", {}), ("concat", {"hidden": 8})])
    def test_refused_where_modalities_cannot_be_told_apart(self, fusion: str, params: Any) -> None:
        net = build_toy(component_class("fusion", fusion), toy_task(2), **params)
        with pytest.raises(IncompatibleError):
            DGL(DGL.Params()).setup(net)


class TestInfoReg:
    def test_restraint_is_the_authors_for_two_and_falls_on_one_only(self) -> None:
        found = restraint(torch.tensor([3.0, 2.4]), 0.95)
        assert found.tolist() == [pytest.approx(0.95 * np.exp(np.tanh(0.6)), rel=1e-6), 0.0]
        assert restraint(torch.tensor([1.0, 4.0, 3.5]), 0.1)[1].item() == pytest.approx(0.1 * np.exp(np.tanh(0.5)))
        assert restraint(torch.ones(2), 0.95).tolist() == [0.0, 0.0]

    def test_growth_is_that_of_the_moving_average(self) -> None:
        trace = np.zeros((11, 1))
        trace[-3:, 0] = 4.0, 2.0, 1.0
        now, before = trace[1:].mean(), trace[:-1].mean()
        assert growth(torch.tensor(trace)).item() == pytest.approx((now - before) / now)
        assert growth(torch.ones(11, 2)).tolist() == [0.0, 0.0]
        assert torch.isfinite(growth(torch.zeros(11, 2))).all()

    @pytest.mark.parametrize("fusion", ["concat", ToyBoth])
    def test_the_modality_ahead_is_pulled_to_the_start_of_the_epoch(self, fusion: Any) -> None:
        net, policy = pair(InfoReg, fusion, factor=0.5)
        starts = [p.detach().clone() for p in net.parameters()]
        policy_step(net, [policy], toy_batch(net.task), progress(0, step=0, steps=2))
        plain = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.sign(p))
        _, outputs, batch = policy_step(net, [policy], toy_batch(net.task), progress(0, step=1, steps=2))
        z = modality_logits(net, outputs)
        score = torch.stack([z[m].softmax(1).gather(1, batch.labels[:, None]).sum() for m in "uv"])
        ahead = "uv"[int(score.argmax())]
        beta = 0.5 * torch.exp(torch.tanh((score[0] - score[1]).abs()))
        loss = F.cross_entropy(outputs["joint"].logits, batch.labels)
        loss = loss + sum(F.cross_entropy(z[m], batch.labels) for m in "uv")
        fresh = build_toy(type(net), net.task).train()
        fresh.load_state_dict(net.state_dict())
        again = fresh(toy_batch(net.task).images)
        zs = modality_logits(fresh, again)
        same = F.cross_entropy(again["joint"].logits, batch.labels) + sum(
            F.cross_entropy(zs[m], batch.labels) for m in "uv"
        )
        assert same.item() == pytest.approx(loss.item(), rel=1e-5)
        own = {id(p) for p in policy.own[ahead]}
        expected = gradients_of(same, fresh)
        for p, g, start in zip(net.parameters(), expected, starts, strict=True):
            pulled = beta * (p - start) if id(p) in own else 0.0
            assert torch.allclose(p.grad, g + pulled, atol=1e-5)  # type: ignore[operator]
        assert any(not torch.allclose(a, p.grad) for a, p in zip(plain, net.parameters(), strict=True))

    def test_the_window_closes_when_information_stops_growing(self) -> None:
        net, policy = pair(InfoReg, "concat")
        for epoch in range(12):
            policy.fisher.fill_(1.0)
            policy.on_epoch(net, progress(epoch), {})
            assert policy.window.tolist() == [epoch < 10] * 2, epoch


class TestSMV:
    def test_two_modalities_are_the_authors_table(self) -> None:
        cases = [(a, b, both) for a in (0, 1) for b in (0, 1) for both in (0, 1)]
        right = {
            frozenset({0}): torch.tensor([a == 1 for a, _, _ in cases]),
            frozenset({1}): torch.tensor([b == 1 for _, b, _ in cases]),
            frozenset({0, 1}): torch.tensor([c == 1 for _, _, c in cases]),
        }
        found = contributions(right, 2)
        table = {0.5: 1, 0.0: 2, -0.5: 3, 1.0: 0, 1.5: 0}
        for i, (a, b, both) in enumerate(cases):
            expected = (a + 2 * both - b) / 2, (b + 2 * both - a) / 2
            assert found[:, i].tolist() == pytest.approx(expected)
            assert repeats(found[:, i]).tolist() == [table[v] for v in expected]

    def test_contributions_of_three_add_up(self) -> None:
        generator = torch.Generator().manual_seed(0)
        subsets = [frozenset(i for i in range(3) if bits >> i & 1) for bits in range(1, 8)]
        right = {s: torch.rand(20, generator=generator) < 0.5 for s in subsets}
        whole = 3.0 * right[frozenset(range(3))]
        assert torch.allclose(contributions(right, 3).sum(0), whole, atol=1e-6)

    @pytest.mark.parametrize("fusion", ["concat", "late", ToyBoth])
    def test_what_is_added_are_the_losses_of_the_cells_shown_again(self, fusion: Any) -> None:
        net, policy = pair(SMV, fusion, warmup=1)
        assert "smv.u" not in policy_step(net, [policy], toy_batch(net.task), progress(0))[0]
        batch = toy_batch(net.task)
        terms, _, _ = policy_step(net, [policy], batch, progress(1))
        images, labels = toy_batch(net.task).images, batch.labels
        net.eval()
        alone: dict[str, Tensor] = {}
        right = {}
        for name in ("u", "v", "uv"):
            shown = {m: x if m in name else torch.zeros_like(x) for m, x in images.items()}
            present = torch.tensor([m in name for m in "uv"]).expand(8, -1)
            outputs = net(shown, present)
            right[name] = net.predict(outputs, present).argmax(1) == labels
            routes = [r for r in outputs if r in ("joint", name)]
            alone[name] = torch.stack(
                [F.cross_entropy(outputs[r].logits, labels, reduction="none") for r in routes]
            ).sum(0) if routes else torch.zeros(8)  # fmt: skip
        v = {k: len(k) * r.double() for k, r in right.items()}
        for m, other in ("uv", "vu"):
            phi = (v[m] + v["uv"] - v[other]) / 2
            expected = (2 * (1 - phi)).clamp(min=0) * alone[m]
            assert terms[f"smv.{m}"].item() == pytest.approx(expected.mean().item(), rel=1e-4)

    def test_incomplete_rows_are_not_valued(self) -> None:
        net, policy = pair(SMV, "concat", warmup=0)
        batch = toy_batch(net.task)
        batch.present = torch.tensor([[True, False]] * 8)
        terms, _, _ = policy_step(net, [policy], batch, progress())
        assert terms["smv.u"].item() == terms["smv.v"].item() == 0


class TestLCKD:
    def test_the_best_on_validation_cells_teaches_the_others(self) -> None:
        net, policy = pair(LCKD, "late", 3, weight=0.3)
        terms = policy_step(net, [policy], toy_batch(net.task), progress())[0]
        assert all(terms[f"lckd.{m}"] == 0 for m in "uvw"), "nobody is elected yet"
        policy.on_epoch(net, progress(), {"u": 0.9, "v": 0.4, "w": 0.5})
        net.zero_grad()
        terms, outputs, _ = policy_step(net, [policy], toy_batch(net.task), progress(1))
        h = {m: outputs[m].embedding.detach().double().numpy() for m in "uvw"}
        for m in "uvw":
            assert terms[f"lckd.{m}"].item() == pytest.approx(0.3 * np.abs(h["v"] - h[m]).mean(), abs=1e-6)
        assert terms["lckd.v"] == 0
        fresh = build_toy(type(net), net.task).train()
        policy_step(fresh, [], toy_batch(net.task), progress(1))
        for (name, p), q in zip(net.named_parameters(), fresh.parameters(), strict=True):
            taught = ".u." in name or ".w." in name
            changed = not torch.allclose(p.grad, q.grad, atol=1e-7)
            assert changed == (taught and "heads" not in name), name

    def test_absent_teachers_and_other_cells_teach_nothing(self) -> None:
        net, policy = pair(LCKD, "late")
        policy.on_epoch(net, progress(), {"u": 0.1, "v": 0.4})
        batch = toy_batch(net.task)
        batch.present = torch.tensor([[True, True]] * 3 + [[False, True]] * 5)
        terms, outputs, _ = policy_step(net, [policy], batch, progress(1))
        apart = (outputs["u"].embedding - outputs["v"].embedding).abs()[:3].mean()
        assert terms["lckd.v"].item() == pytest.approx(0.1 * apart.item(), rel=1e-4)

    def test_refused_where_modalities_share_an_embedding(self) -> None:
        with pytest.raises(IncompatibleError, match="embedding of each modality"):
            pair(LCKD, "independent")
