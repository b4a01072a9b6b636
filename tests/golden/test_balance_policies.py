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
from wbcbench_plugins.policies.pmr import PMR, behind, similarities

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
