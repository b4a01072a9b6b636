"""Several policies: one set is one method, whatever the order in which it is given, and it trains."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wbcbench_plugins.policies._evidence import dirichlet_loss, evidence
from wbcbench_plugins.policies._modalities import labels_of

from wbcbench.contracts import Batch, Outputs, Policy, Progress
from wbcbench.contracts.needs import POLICY_ORDER, PolicyTraits
from wbcbench.errors import IncompatibleError
from wbcbench.publishing.rerun import misfits
from wbcbench.scheduling.compatibility import in_order
from wbcbench.scheduling.plan import make_plan
from wbcbench.spec import ComponentSpec, Trial
from wbcbench.spec.request import Request
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.policies import policy_step
from wbcbench.testing.toys import build_toy, set_up, toy_batch, toy_draw, toy_task

FUSION = "centralnet"
"""It has routes of every kind, embeddings and parameters of each modality, and losses that meet."""
ANNEALED = 1 / 50
"""How far tmc's annealing is in the second epoch of `step`."""
POLICIES = sorted(c.name for c in registry().components("policy") if c.builtin)


def planned(*policies: str, fusion: str = FUSION) -> Trial:
    """The trial that the planner makes of policies in this order."""
    request = Request.model_validate({"fusion": fusion, "policy": ",".join(policies), "budget": {"epochs": 9}})
    (only,) = make_plan(request, registry()).trials
    return only.trial


def trial_or_refusal(*policies: str) -> Trial | str:
    """The trial, or why there is none."""
    try:
        return planned(*policies)
    except IncompatibleError as refusal:
        return str(refusal)


def step(names: list[str], incomplete: bool = False) -> tuple[dict[str, Tensor], Outputs, Batch]:
    """One step of these policies in this order, with finite terms and gradients."""
    torch.manual_seed(0)
    fusion = build_toy(component_class("fusion", FUSION), toy_task(2, classes=5)).train()
    classes: list[type[Policy]] = [component_class("policy", name) for name in names]
    policies = [cls(cls.Params()) for cls in classes]
    for policy in policies:
        set_up(policy, fusion)
    batch = toy_batch(fusion.task, cells=10)
    if incomplete:
        batch.present = torch.tensor([[True, True]] * 8 + [[True, False], [False, True]])
    terms, outputs, batch = policy_step(fusion, policies, batch, Progress(1, 9, 0, 1, toy_draw()))
    grads = [p.grad for p in fusion.parameters() if p.grad is not None]
    assert all(torch.isfinite(t).all() for t in (*terms.values(), *grads)), (names, terms)
    return terms, outputs, batch


@pytest.mark.parametrize("first", POLICIES)
def test_every_pair_is_one_trial_in_either_order_and_trains(first: str) -> None:
    for second in POLICIES[POLICIES.index(first) + 1 :]:
        tried = [trial_or_refusal(first, second), trial_or_refusal(second, first)]
        if isinstance(tried[0], str):
            assert tried[0] == tried[1]
            continue
        assert isinstance(tried[1], Trial)
        assert tried[0].id == tried[1].id
        names = [p.name for p in tried[0].method.policies]
        assert set(names) == {first, second}
        step(names)
        step(names, incomplete=True)


def test_any_number_of_them_is_one_trial() -> None:
    names = ("batch_repetition", "modality_dropout", "tmc", "gradient_blending", "mmpareto")
    assert len({planned(*order).id for order in permutations(names)}) == 1
    assert tuple(p.name for p in planned(*names[::-1]).method.policies) == names


def test_a_pack_with_another_order_is_refused() -> None:
    trial, description = planned("tmc", "modality_dropout"), make_plan(Request(), registry()).description
    turned = trial.method.model_copy(update={"policies": trial.method.policies[::-1]})
    assert list(misfits(trial, description, registry())) == []
    ((verdict, why),) = misfits(Trial(protocol=trial.protocol, method=turned), description, registry())
    assert verdict == "refuse"
    assert "policies in an order" in why


def test_rows_come_before_images_losses_weights_and_gradients() -> None:
    kinds = {
        n: registry().declaration(registry().resolve("policy", n).component).policy_traits.acts_on
        for n in POLICIES
    }
    assert set(kinds.values()) == set(POLICY_ORDER)
    for a, b in combinations(POLICIES, 2):
        names = [p.name for p in in_order(registry(), [ComponentSpec(name=b), ComponentSpec(name=a)])]
        places = [POLICY_ORDER.index(kinds[n]) for n in names]  # type: ignore[arg-type]
        assert places[0] < places[1] or (places[0] == places[1] and names == [a, b])


@pytest.mark.parametrize("loss", ["tmc", "cutmix"])
def test_a_loss_is_the_mean_over_the_rows_shown_whatever_replaced_it(loss: str) -> None:
    """Dropout masks a route's loss, what replaces it masks it anew: together that is one mask, not two."""
    names = [p.name for p in planned(loss, "modality_dropout").method.policies]
    assert names == ["modality_dropout", loss]
    terms, outputs, batch = step(names, incomplete=True)
    assert batch.present is not None
    there, z, y = batch.present[:, 0], outputs["u"].logits, labels_of(outputs["u"])
    assert 0 < there.float().mean() < 0.9
    if loss == "tmc":
        each = dirichlet_loss(evidence(z, "softplus"), y, ANNEALED)
    else:
        mix = batch.extras["cutmix"]["u"]
        own, other = (F.cross_entropy(z, labels, reduction="none") for labels in (y, mix.labels))
        each = mix.share * own + (1 - mix.share) * other
    assert terms["u"].item() == pytest.approx(each[there].mean().item(), rel=1e-5)


def test_a_policy_that_acts_on_nothing_known_is_refused() -> None:
    with pytest.raises(ValueError, match="`acts_on` to be one of 'rows', 'images'"):
        PolicyTraits(acts_on="nothing")  # type: ignore[arg-type]
