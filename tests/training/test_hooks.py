"""What few methods need of the training loop: each hook, on toy networks, and what is refused while planning."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wbcbench.contracts import (
    Cells,
    ChangesFeatures,
    Fusion,
    Parameters,
    Policy,
    PolicyTraits,
    Progress,
    ReadsValidation,
    StepsInTurn,
)
from wbcbench.contracts.needs import RouteTeachers
from wbcbench.data.views import ResidentCells, Views
from wbcbench.errors import WbcbenchError
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.spec import Augmentation, Recipe
from wbcbench.spec.request import Request
from wbcbench.testing.components import component_class, registry
from wbcbench.testing.distillers import Matched
from wbcbench.testing.toys import build_toy, policy_step, set_up, toy_batch, toy_draw, toy_task
from wbcbench.training.distillation import Distillation
from wbcbench.training.loop import losses, take_step
from wbcbench.training.supervision import pair_shapes, total
from wbcbench.training.teachers import Teacher, TeacherBank

PLAIN = {
    "dataset": "synthetic", "fusion": "late_prob", "kd": "logits", "modalities": "brightfield,nucleus",
    "image_size": 32,
}  # fmt: skip


def planned(**choices: Any) -> Plan:
    """What is planned on synthetic cells."""
    return make_plan(Request.model_validate({**PLAIN, **choices}), registry())


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ({"policy": "cutmix", "kd": "dkd"}, "reads labels or ids of cells, but policy 'cutmix'"),
        ({"policy": "cutmix", "kd": "crd"}, "reads labels or ids of cells"),
        ({"policy": "mixup", "kd": "dml"}, "compares heads"),
        ({"policy": "funmatch", "kd": "none"}, "Policy 'funmatch' needs a teacher"),
        ({"policy": "funmatch", "teacher": {"image_size": 24}}, "have 32 px, but a teacher reads 24 px"),
        (
            {"policy": "cutmix", "teacher_modalities": "brightfield,nucleus,granule", "fusion": "early"},
            "a teacher reads granule, which the student is not shown",
        ),
        (
            {"policy": "cutmix", "fusion": "early", "routing": "ca_mkd"},
            "Routing 'ca_mkd' may weigh teachers by labels",
        ),
        ({"policy": "opm", "kd": "none"}, "Policy 'opm' needs a joint route"),
        (
            {"policy": "opm", "kd": "none", "fusion": "centralnet"},
            "embeddings that only a head reads, which fusion",
        ),
        ({"policy": "opm", "kd": "none", "fusion": "sum"}, "needs logits of each modality"),
        ({"policy": "reconboost,mmpareto,aux_heads", "kd": "none"}, "which leaves none to 'mmpareto'"),
        (
            {"policy": "reconboost", "kd": "logits+dot", "training": {"optimiser": "sgd"}},
            "changes gradients or takes steps, but distiller 'dot'",
        ),
        ({"policy": "cutmix", "teacher": {"views": "weak"}}, "but teacher.views = weak shows them others"),
        (
            {"teacher": {"views": "weak"}, "augmentation": {"intensity": 0, "noise": 0}},
            "teacher.views = weak has no effect",
        ),
        ({"kd": "jacobian", "teacher": {"image_size": 24}}, "Distiller 'jacobian' lets teachers answer"),
        (
            {"kd": "jacobian", "routing": "mean"},
            "route 'brightfield' of fusion 'late_prob' has a teacher that reads",
        ),
        ({"kd": "jacobian+simkd"}, "differentiates the student's logits, but with 'simkd'"),
    ],
)
def test_what_cannot_be_combined_is_refused_while_planning(choices: dict[str, Any], why: str) -> None:
    with pytest.raises(WbcbenchError, match=why):
        planned(**choices)


# Teachers that answer for the images of the step


class Dim(Policy):
    """Halves every image, for teachers too."""

    name = "toy_dim"
    traits = PolicyTraits(acts_on="images", live_teachers=True)

    def images(self, batch, draw):  # type: ignore[no-untyped-def]
        batch.images = {m: 0.5 * x for m, x in batch.images.items()}
        return batch


def gap(policy: Any, live: str, **params: Any) -> float:
    """The KL between a student and teachers with its own weights, in a step in which every modality of a row shows
    another cell: zero if both read the same images."""
    fusion = build_toy(component_class("fusion", "late_prob"), toy_task(2, classes=5)).train()
    for head in fusion.networks.heads.values():
        head.weight.data *= 10
    cls = component_class("policy", policy)
    acting = cls(cls.Params(**params))
    set_up(acting, fusion)
    logits = component_class("distiller", "logits")
    single = component_class("fusion", "single")

    def alone(m: str) -> Fusion:
        """The student's network of one modality."""
        task = toy_task(2, classes=5)
        one = build_toy(single, type(task)({m: task.channels[m]}, task.classes, task.image_size))
        one.backbone.load_state_dict(fusion.networks.backbones[m].state_dict())
        one.head.load_state_dict(fusion.networks.heads[m].state_dict())
        return one

    batch = toy_batch(fusion.task, cells=8)
    batch.rows = {"u": torch.arange(8), "v": torch.arange(8).roll(3)}

    class Views:
        """Each cell's own view, as nobody has changed it."""

        keeps = False
        cells = type("Cells", (), {"present": lambda self, cells, reads: None, "__len__": lambda self: 200})()
        images = dict(batch.images)

        def epoch(self, epoch: int) -> Any:
            seen: Any = lambda m, cells: self.images[m][cells - 100]  # noqa: E731
            seen.reading = nullcontext
            return seen

    bank = TeacherBank(
        [Teacher((m,), "", lambda m=m: alone(m)) for m in "uv"],  # type: ignore[misc]
        None, Views(), torch.arange(100, 108), False, live,
    )  # type: ignore[arg-type]  # fmt: skip
    bank.start_epoch(0)
    lessons = (RouteTeachers("u", (0,)), RouteTeachers("v", (1,)))
    with torch.no_grad():
        out = deepcopy(fusion)(batch.images)["u"]
    kd = Distillation(lambda: [logits(logits.Params())], lambda: Matched(Parameters()), lessons, ("u", "v"))
    kd.setup(fusion, lambda route, source: pair_shapes(out, out, 5, torch.arange(8), batch.labels))
    found = []

    def taught(outputs: Any, batch: Any) -> torch.Tensor:
        found.append(total(kd.terms(outputs, bank, batch, progress, {})))
        return found[0]

    progress = Progress(0, 1, 0, 1, toy_draw())
    policy_step(fusion, [acting], batch, progress, taught)
    return found[0].item()


@pytest.mark.parametrize("policy", ["cutmix", "cross_modal_mixup", "funmatch", Dim])
def test_live_teachers_answer_for_the_very_images_of_the_rows(policy: Any) -> None:
    own = {"rate": 1.0, "shared": False} if policy in ("cutmix", "cross_modal_mixup") else {}
    assert gap(policy, "policy", **own) == pytest.approx(0, abs=1e-6)
    assert gap(policy, "", **own) > 1e-3, "the teachers' answers for unchanged images are others"


def test_the_plan_says_what_live_teachers_cost() -> None:
    plan = planned(
        policy="funmatch", budget={"epochs": 3}, split={"scheme": "stratified", "val": 0.2, "test": 0.3}
    )
    (note,) = [n for n in plan.notes if "images of each step" in n]
    cells = round(plan.description.cells * 0.5) * 3
    assert f"each of 2 reads {cells} images or more" in note
    assert not any("images of each step" in n for n in planned(policy="aux_heads").notes)
    assert any("jacobian adds a second backward pass" in n for n in planned(kd="logits+jacobian").notes)


def test_a_distiller_of_input_gradients_in_whole_trials(train: Callable[..., dict[str, Any]]) -> None:
    """Rows of a fusion that shows other cells in each modality, and cells that lack one, included."""
    args = ("--kd", "logits+jacobian", "--epochs", "1", "--set", "teacher.epochs=1")
    document = train(*args, "--fusion", "independent", "--policy", "modality_dropout")
    student = document["records"][-1]
    assert (student["status"], student["cost"]["teacher_replayed"]) == ("done", False)


# Embeddings changed on their way to the head


class Louder(ChangesFeatures, Policy):
    """Doubles the first modality's embedding."""

    name = "toy_louder"
    traits = PolicyTraits(wants=("features",))

    def features(self, embeddings, outputs, batch, progress):  # type: ignore[no-untyped-def]
        first = next(iter(embeddings))
        return {first: 2 * embeddings[first]}


def test_changed_embeddings_reach_the_head_and_train_the_networks_which_run_once() -> None:
    fusion = build_toy(component_class("fusion", "concat"), toy_task(2)).train()
    policy, networks = Louder(Parameters()), dict(fusion.encoders.backbones.items())
    set_up(policy, fusion)
    calls = []
    for m, net in networks.items():
        net.stage1.register_forward_hook(lambda net, args, out, m=m: calls.append(m))
    batch = toy_batch(fusion.task)
    _, outputs, _ = policy_step(fusion, [policy], batch, Progress(0, 1, 0, 1, toy_draw()))
    assert calls == ["u", "v"]
    twin = build_toy(component_class("fusion", "concat"), toy_task(2)).train()
    width = twin.encoders.dims[0]
    twin.head.weight.data[:, :width] *= 2
    _, same, _ = policy_step(twin, [], batch, Progress(0, 1, 0, 1, toy_draw()))
    assert torch.allclose(outputs["joint"].logits, same["joint"].logits, atol=1e-6)
    for mine, theirs in zip(fusion.encoders.parameters(), twin.encoders.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)  # type: ignore[arg-type]
    fusion.eval()
    twin.head.weight.data[:, :width] /= 2
    assert torch.equal(fusion(batch.images)["joint"].logits, twin.eval()(batch.images)["joint"].logits)


# Steps in turn


class Turns(StepsInTurn, Policy):
    """Trains one head after the other."""

    name = "toy_turns"
    turns = ("u", "v")  # type: ignore[assignment]

    def of_turn(self, turn, losses):  # type: ignore[no-untyped-def]
        return {turn: losses[turn]}


def test_each_turn_sees_what_the_one_before_has_left() -> None:
    """Against plain torch: a step on the losses of `u`, then one on those of `v`, on a fusion whose heads share a
    trunk."""
    fusion = build_toy(component_class("fusion", "independent"), toy_task(2)).train()
    twin, batch = deepcopy(fusion), toy_batch(fusion.task)
    policy = Turns(Parameters())
    set_up(policy, fusion)
    recipe = Recipe(optimiser="sgd", lr=0.5, momentum=0.0, weight_decay=0.0)
    method = SimpleNamespace(recipe=recipe)
    job: Any = SimpleNamespace(
        fusion=fusion, policies=[policy], distillation=None, trial=SimpleNamespace(method=method),
        device=torch.device("cpu"), maps=False, inputs=False,
    )  # fmt: skip
    state: Any = SimpleNamespace(optimiser=torch.optim.SGD(fusion.parameters(), 0.5))
    progress = Progress(0, 1, 0, 1, toy_draw())
    for turn in policy.turns:
        take_step(job, state, losses(job, batch, torch.ones(3), progress), batch, progress, turn)
    for turn in ("u", "v"):
        loss = F.cross_entropy(twin(batch.images)[turn].logits, batch.labels)
        params = [
            p for n, p in twin.named_parameters() if not n.startswith(f"heads.{'v' if turn == 'u' else 'u'}")
        ]
        with torch.no_grad():
            for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
                p -= 0.5 * g
    for (name, mine), (_, theirs) in zip(fusion.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6), name


def test_reconboost_in_whole_trials_with_a_teacher(train: Callable[..., dict[str, Any]]) -> None:
    args = ("--policy", "reconboost", "--kd", "logits", "--epochs", "1", "--set", "teacher.epochs=1")
    document = train(*args, "--fusion", "late_logit")
    assert document["records"][-1]["status"] == "done"
    assert any("takes several optimiser steps for each batch" in note for note in document["notes"])


# What networks make of validation cells


class Reader(ReadsValidation, Policy):
    """Keeps what it is told."""

    name = "toy_reader"
    seen: ClassVar[list[Any]] = []

    def after_validation(self, fusion, validation, training, progress):  # type: ignore[no-untyped-def]
        self.seen.append((progress.epoch, validation, training()))


class ReadingRouting(ReadsValidation, Matched):
    """The same, as a routing."""

    name = "toy_reading"
    after_validation = Reader.after_validation
    seen = Reader.seen


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_policies_and_routings_see_validation_and_training_cells(
    train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, ema: float
) -> None:
    """The outputs are those of the weights that are judged: of the epoch, or of their average."""
    from wbcbench.training import loop

    Reader.seen.clear()
    judged: list[Any] = []
    real_fit, real_judge = loop.train_epoch, loop.judge

    def with_reader(job: Any, state: Any, *args: Any) -> Any:
        if not any(isinstance(p, Reader) for p in job.policies) and job.trial.method.distillers:
            job.policies.append(Reader(Parameters()))
            for routing in job.distillation.routings.values():
                routing.__class__ = ReadingRouting
        return real_fit(job, state, *args)

    def judge(job: Any, state: Any) -> Any:
        found = real_judge(job, state)
        if job.trial.method.distillers:
            judged.append(found[2])
        return found

    monkeypatch.setattr(loop, "train_epoch", with_reader)
    monkeypatch.setattr(loop, "judge", judge)
    train("--fusion", "late_prob", "--kd", "logits", "--epochs", "2", "--set", "teacher.epochs=1",
          "--set", f"training.ema={ema}")  # fmt: skip
    assert len(Reader.seen) == 2 * 3, "a policy and a routing of each route, in each epoch"
    for epoch, validation, training in Reader.seen:
        said = judged[epoch]
        for route, out in validation.outputs.items():
            assert torch.equal(out.labels, torch.from_numpy(said.labels))
            assert torch.equal(out.index, torch.from_numpy(said.cells))
            assert np.allclose(out.logits.softmax(1), said.routes[route], atol=1e-6)
            assert torch.equal(validation.features[route], out.embedding)
        assert not set(training.outputs["u"].index.tolist()) & set(said.cells.tolist())
        assert len(training.features["u"]) == len(training.outputs["u"].labels) > len(said.labels)


def test_relearning_in_a_whole_trial(train: Callable[..., dict[str, Any]]) -> None:
    document = train("--fusion", "concat", "--policy", "relearning:every=1", "--epochs", "2")
    assert document["records"][-1]["status"] == "done"
    assert any("'relearning' learns from the validation cells" in note for note in document["notes"])


# Weak views for teachers, strong ones for the student

ROUTING = '''
from wbcbench.contracts import Routing, each_teacher, weighted
import torch, torch.nn.functional as F

class Nearest(Routing):
    """Weighs teachers by how near their embeddings are."""
    name = "nearest"
    pairing = "all"
    min_teachers = 2
    labels = False
    student = ("%s",)
    teacher = ("embedding",)

    def teach(self, distillers, student, teachers, progress):
        width = min(t.embedding.shape[1] for t in (student, *teachers))
        near = [F.cosine_similarity(student.embedding[:, :width], t.embedding[:, :width]) for t in teachers]
        weights = torch.stack(near).detach().softmax(0)
        return weighted(each_teacher(distillers, student, teachers, progress), weights)
'''


def test_weak_views_keep_the_geometry_of_the_student_s() -> None:
    """Without intensity, noise and cutout, the student's own view is a turn, flip and shift: the teachers'."""
    rng = np.random.default_rng(0)
    cells = Cells(
        images={"u": rng.integers(0, 255, (12, 1, 16, 16), dtype=np.uint8)}, labels=np.arange(12) % 2,
        classes=("a", "b"), fingerprint="",
    )  # fmt: skip
    resident = ResidentCells(cells, ("u",), np.arange(12), torch.device("cpu"))
    ids = torch.arange(12)
    strong = Augmentation(intensity=0.5, noise=0.1, cutout=0.4)
    alone, weak = (Views(resident, a, 3).epoch(1)("u", ids) for a in (strong, strong.weak()))
    only_gain = strong.model_copy(update={"noise": 0.0, "cutout": 0.0})
    gained = Views(resident, only_gain, 3).epoch(1)("u", ids)
    assert (alone - weak).abs().amax((1, 2, 3)).min() > 0.1
    for one, two in zip(gained, weak, strict=True):  # each a line through the other's pixels
        assert np.corrcoef(one.flatten(), two.flatten())[0, 1] == pytest.approx(1, abs=1e-5)


def test_a_strong_student_is_taught_by_stored_answers_for_weak_views(
    train: Callable[..., dict[str, Any]], tmp_path: Any
) -> None:
    base = ("--fusion", "late_prob", "--kd", "logits", "--epochs", "1", "--set", "augmentation.cutout=0.4")
    args = (*base, "--set", "teacher.views=weak")
    first = train(*args)["records"][-1]
    assert first["cost"]["teacher_replayed"] is True
    folders = {p.name for p in (tmp_path / "store" / "replay").iterdir()}
    live = train(*args, "--set", "replay=never", store="live")["records"][-1]
    assert live["trial_id"] == first["trial_id"]
    p, q = (np.load(f"{r['path']}/predictions.npz")["test_probabilities"] for r in (first, live))
    assert np.allclose(p, q, atol=1e-4)
    same = train(*base)["records"][-1]
    assert same["trial_id"] != first["trial_id"]
    assert len({p.name for p in (tmp_path / "store" / "replay").iterdir()} - folders) == 2, "other answers"


@pytest.mark.parametrize("reads", ["embedding", "maps"])
def test_a_routing_gets_what_it_declares_to_read_or_is_refused(
    train: Callable[..., dict[str, Any]], tmp_path: Any, reads: str
) -> None:
    """A distiller of logits leaves it to the routing that embeddings are there; concat has no stage maps."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "nearest.py").write_text(ROUTING % reads)
    args = ("--fusion", "concat", "--kd", "logits", "--routing", "nearest", "--epochs", "1")
    refused = reads == "maps"
    document = train(*args, "--plugins-dir", str(tmp_path / "plugins"), code=2 if refused else 0)
    if refused:
        assert "nearest' reads the student's stage maps" in document["stderr"]
    else:
        assert document["records"][-1]["status"] == "done"
