"""No recorded setting without an effect: another value gives another result, or is refused with a clear error.

Parameters of components are probed by their contracts (`test_every_parameter_has_an_effect`); here are the fields
of the protocol and the recipe, and what combinations ignore.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from wbcbench_plugins.datasets.synthetic import Synthetic

from wbcbench.contracts import Cells, Description
from wbcbench.data.splits import assign_sides
from wbcbench.data.views import ResidentCells, Views, epoch_order
from wbcbench.errors import UsageError
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.scheduling.settings import settled_split
from wbcbench.searches.declared import build_space
from wbcbench.spec import Augmentation, Recipe, Selection, SplitSpec, Trial
from wbcbench.spec.load import load_request
from wbcbench.testing.effects import alternatives
from wbcbench.testing.toys import CLASSES, ToyBoth, build_toy, toy_task
from wbcbench.training.loop import Job, fit, selection_score

Invoke = Callable[..., tuple[int, str, str]]
REGISTRY = load_plugins()[0]
SMALL = {"dataset.cells": 60, "dataset.image_size": 16}


def planned(*settings: str, **flags: str) -> Plan:
    return make_plan(load_request(None, flags, [*(f"{k}={v}" for k, v in SMALL.items()), *settings]), REGISTRY)


def student(*settings: str, **flags: str) -> Trial:
    return planned(*settings, **flags).trials[-1].trial


def cells(side: int = 16) -> Cells:
    random = np.random.default_rng(0)
    labels = np.arange(48) % 3
    images = {
        m: (random.integers(0, 200, (48, c, side, side)) + 10 * labels[:, None, None, None]).astype(np.uint8)
        for m, c in toy_task(2).channels.items()
    }
    split = np.array(["train", "train", "val", "test"])[np.arange(48) // 3 % 4]
    return Cells(images, labels, CLASSES, "f" * 64, split=split)


RESIDENT = ResidentCells(cells(), ("u", "v"), np.arange(36), torch.device("cpu"))


TRAIN = torch.tensor([i for i in range(36) if i % 3 < 2 or i % 2])
"""Of unequal classes."""


# The recipe: what two epochs of a network give


def trained(recipe: dict[str, Any]) -> torch.Tensor:
    """The trained weights, or the averaged ones, and the last loss."""
    base = student("training.lr=0.01")
    method = base.method.model_copy(update={"recipe": Recipe(**recipe)})
    protocol = base.protocol.model_copy(update={"modalities": ("u", "v")})
    trial = Trial(protocol=protocol.model_copy(update={"budget": protocol.budget.model_copy(
        update={"epochs": 2, "batch_size": 12})}), method=method)  # fmt: skip
    fusion = build_toy(ToyBoth, toy_task(2))
    fusion.label_smoothing = method.recipe.label_smoothing
    job = Job(trial, RESIDENT, Views(RESIDENT, Augmentation(), 0), TRAIN, torch.arange(36, 48), fusion,
              score=lambda p: {"macro_f1": 0.5})  # fmt: skip
    state = fit(job)
    weights = (state.average or fusion.state_dict()).values()
    return torch.cat([*(w.double().flatten() for w in weights), torch.tensor([state.history[-1]["loss"]])])


@pytest.mark.parametrize("name", Recipe.model_fields)
def test_every_field_of_the_recipe_has_an_effect(name: str) -> None:
    context: dict[str, Any] = {"lr": 0.01} | ({"optimiser": "sgd"} if name == "momentum" else {})
    values = alternatives(Recipe, context)[name]
    if name == "precision":
        values = ["bfloat16"]  # `auto` and float32 are the same where bfloat16 is not native
    if name == "clip":
        values = [0.01]  # most gradients are shorter than 1
    plain = trained(context)
    assert any(not torch.equal(trained({**context, name: v}), plain) for v in values)


@pytest.mark.parametrize(
    ("settings", "flags", "says"),
    [
        (["training.momentum=0.5"], {}, "training.momentum = 0.5 .*optimiser = sgd, and optimiser is"),
        (["training.label_smoothing=0.1"], {"policy": "tmc"}, "label_smoothing = 0.1 .*policy 'tmc' replaces"),
        (["training.lr=0.01"], {"fusion": "majority"}, "training.lr = 0.01 .*'majority' is solved in"),
        (
            ["training.clip=1", "training.optimiser=sgd", "teacher.training.clip=0"],
            {"kd": "logits+dot"},
            "training.clip.*takes the optimiser",
        ),
        ([], {"kd": "lskd:weight=3+logits+dkd"}, "kd.weight = 3.0 of distiller 'lskd' has no effect"),
        ([], {"kd": "lskd:weight=3+logits:weight=2"}, "expected weight once, .* but got 3 and 2"),
        ([], {"kd": "lskd:temperature=3+logits+dkd"}, "kd.temperature = 3.0 of .*'lskd' .*adds_loss is false"),
        (["training.optimiser=sgd"], {"kd": "logits+dot:weight=2"}, "kd.weight = 2.0 of distiller 'dot'"),
        ([], {"kd": "none:weight=2"}, "kd.weight = 2.0 of distiller 'none'"),
        ([], {"kd": "logits:weight=0:temperature=2"}, "kd.temperature = 2.0 .*its weight is 0"),
        ([], {"kd": "cc_td:kernel=bilinear:gamma=1"}, "gamma = 1.0 .*kernel = gaussian, and kernel is bilinear"),
        ([], {"fusion": "independent:rho=0.2", "modalities": "nucleus"}, "rho = 0.2 .*modalities > 1, and modal"),
        ([], {"fusion": "mixmo:patch=0:decay=0.5"}, "fusion.decay = 0.5 .*patch != 0"),
        ([], {"policy": "ogm_ge:until=0:noise=2", "fusion": "late_prob"}, "policy.noise = 2.0 .*until is 0"),
        ([], {"policy": "cutmix:rate=0:alpha=0.5"}, "policy.alpha = 0.5 .*rate is 0"),
        *(
            ([], {"kd": "logits", "routing": r, "fusion": "early", "modalities": "nucleus"}, f"'{r}' combines the")
            for r in ("aekd", "ebkd", "ca_mkd", "mean", "all_to_all", "recruit")
        ),
        (["routing.fallback=nucleus"], {"kd": "logits"}, "routing.fallback = nucleus has no effect"),
        (["augmentation.rotate=30"], {}, "augmentation.rotate = 30.0 has no effect: with interpolate off"),
        (["augmentation.shift=0.02"], {}, "augmentation.shift = 0.02 has no effect.*0.02 of 16 pixels"),
        (["augmentation.interpolate=true", "augmentation.rotate=0", "augmentation.shift=0"], {}, "te = True"),
        (["augmentation.noise.dapi=0.1"], {}, "augmentation.noise has values for dapi, but the modalities are"),
    ],
)  # fmt: skip
def test_what_a_combination_ignores_is_refused_while_planning(
    settings: list[str], flags: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        planned(*settings, **flags)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "flags", "same"),
    [
        (["split.scheme=stratified"], {}, []),  # there is no official split
        (["training.lr=0.01"], {"fusion": "early,majority"}, [{"fusion": "majority"}]),
        ([], {"fusion": "early,majority", "backbone": "cellnet:width=8"}, [{"fusion": "majority"}]),
        (["kd.temperature=3"], {"kd": "lskd+logits"}, []),
        (["fusion.rho=0.2"], {"fusion": "independent,mixmo", "modalities": "nucleus,granule"}, []),
    ],
)
def test_a_setting_that_only_some_trials_use_makes_no_new_trial_of_the_others(
    settings: list[str], flags: dict[str, str], same: list[dict[str, str]]
) -> None:
    trials = [p.trial for p in planned(*settings, **flags).trials if p.role == "student"]
    found = {t.method.fusion.name: t for t in trials}
    for one in same or ([flags] if "scheme" in str(settings) else []):
        assert student(**one).id in {t.id for t in found.values()}
    if "kd" in flags:  # it reached the one that reads it
        lskd, logits = found["independent"].method.distillers
        assert (lskd.params["temperature"], logits.params["temperature"]) == (2.0, 3.0)


@pytest.mark.parametrize("unit", ["cell", "group"])
def test_a_unit_of_cells_without_groups_is_refused(unit: Any) -> None:
    description = Description({"u": 1}, CLASSES, 48, "f" * 64, 16)
    with pytest.raises(UsageError, match=f"split.unit = {unit} has no effect: the data set has no groups"):
        settled_split(SplitSpec(unit=unit, scheme="kfold"), description)
    grouped = Description({"u": 1}, CLASSES, 48, "f" * 64, 16, groups=True)
    assert settled_split(SplitSpec(unit=unit), grouped)[0].unit == unit


def test_a_search_proposes_nothing_that_has_no_effect() -> None:
    def space(**flags: str) -> dict[str, dict[str, Any]]:
        request = load_request(None, flags, [f"{k}={v}" for k, v in SMALL.items()])
        reads = len(student(**flags).reads)
        return {d.name: d.when for d in build_space(request, REGISTRY, None, {"modalities": reads}).dimensions}

    assert not {"distiller.lskd.weight", "distiller.lskd.temperature"} & set(space(kd="lskd+logits"))
    assert {"distiller.lskd.weight", "distiller.lskd.temperature"} <= set(space(kd="lskd+at"))
    assert space(kd="cc_td")["distiller.gamma"] == {"distiller.kernel": ("gaussian",)}
    assert "distiller.gamma" not in space(kd="cc_td:kernel=bilinear")
    assert "fusion.rho" in space(fusion="independent")
    assert "fusion.rho" not in space(fusion="independent", modalities="nucleus")
    request = load_request(None, {}, [])
    with pytest.raises(UsageError, match=r"training.momentum: it has no effect here, only where optimiser = sgd"):
        build_space(request, REGISTRY, {"training.momentum": "uniform(0.5,0.9)"})


# The protocol


def views(**changed: Any) -> torch.Tensor:
    seen = Views(RESIDENT, Augmentation(**changed), 0).epoch(0)
    return torch.cat([seen(m, torch.arange(12)).flatten() for m in ("u", "v")])


@pytest.mark.parametrize(
    ("name", "context", "value"),
    [
        ("flip", {}, False), ("rotate", {}, 90.0), ("scale", {"interpolate": True}, 0.2), ("shift", {}, 0.2),
        ("intensity", {}, 0.3), ("intensity", {}, {"u": 0.15}), ("noise", {}, 0.1), ("noise", {}, {"v": 0.03}),
        ("cutout", {}, 0.3), ("interpolate", {}, True),
    ],
)  # fmt: skip
def test_every_field_of_the_augmentation_changes_images(name: str, context: dict[str, Any], value: Any) -> None:
    assert not torch.equal(views(**context), views(**{**context, name: value}))


@pytest.mark.parametrize("changed", [{"rotate": 45.0}, {"rotate": 20.0}, {"shift": 0.03}])
def test_what_planning_refuses_of_the_augmentation_changes_no_image(changed: dict[str, Any]) -> None:
    assert torch.equal(views(**changed), views(**dict.fromkeys(changed, 0.0)))


OFFICIAL = {
    "whole": np.repeat(["train", "val", "test"], 20),
    "without val": np.repeat(["train", "train", "test"], 20),
    "none": None,
}


@pytest.mark.parametrize("official", OFFICIAL)
@pytest.mark.parametrize(("name", "value"), [("scheme", "stratified"), ("val", 0.3), ("test", 0.4), ("seed", 1)])
def test_every_field_of_the_split_has_an_effect_or_is_refused(
    official: str, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.arange(60) % 3

    def sides(spec: SplitSpec) -> list[str]:
        return list(assign_sides(labels, CLASSES, None, OFFICIAL[official], spec)[1])

    changes = sides(SplitSpec(**{name: value})) != sides(SplitSpec())
    side = OFFICIAL[official]
    counts = None if side is None else {n: int((side == n).sum()) for n in ("train", "val", "test")}
    real = Synthetic.describe
    monkeypatch.setattr(Synthetic, "describe", lambda self: _with_split(real(self), counts))
    usual = student().id
    if changes or counts is None:
        assert (student(f"split.{name}={value}").id != usual) == changes
    else:
        with pytest.raises(UsageError, match=f"split.{name} = {value} has no effect"):
            student(f"split.{name}={value}")


def _with_split(description: Any, counts: dict[str, int] | None) -> Any:
    from dataclasses import replace

    return replace(description, split_sizes=counts)


def test_the_other_fields_of_the_protocol_have_an_effect() -> None:
    train = torch.arange(30)
    assert len(epoch_order(train, 8, 0, 0)) != len(epoch_order(train, 16, 0, 0))
    metrics = {"macro_f1": 0.5, "balanced_accuracy": 0.6, "nll": 0.7}
    chosen = [selection_score(m, metrics, 3) for m in ("macro_f1", "balanced_accuracy", "nll", "last")]
    assert len(set(chosen)) == len(chosen) == len(get_args(Selection.model_fields["metric"].annotation))
    ids = {
        student(s).id for s in ("epochs=6", "epochs=5", "batch_size=32", "image_size=24", "selection.metric=nll")
    }
    assert len(ids) == 5


@pytest.mark.parametrize("name", Synthetic.Params.model_fields)
def test_every_parameter_of_the_synthetic_set_changes_its_cells(name: str) -> None:
    def rendered(**changed: Any) -> list[Any]:
        made = Synthetic(Synthetic.Params(**{"cells": 40, "image_size": 16, **changed})).load(None)
        return [*(a.tobytes() for a in made.images.values()), made.labels.tobytes(), made.classes,
                None if made.groups is None else made.groups.tobytes()]  # fmt: skip

    values = [v for v in alternatives(Synthetic.Params, {"cells": 40, "image_size": 16})[name] if v < 400]
    assert any(rendered(**{name: v}) != rendered() for v in values)


# A policy that mixes images which teachers have answered for

POLICY = '''
"""A policy of a user's."""
import torch
from wbcbench.contracts import Policy, PolicyTraits


class Mine(Policy):
    """Changes images."""

    name = "mine"
    traits = PolicyTraits(acts_on="images")

    def images(self, batch, draw):
        rows = len(batch.cells)
        batch.images = {m: %s for m, x in batch.images.items()}
        return batch
'''


@pytest.mark.parametrize(
    ("expression", "refused"),
    [
        ("0.7 * x + 0.3 * x[draw.permutation(rows, 'mix')]", True),
        ("torch.where(draw.uniform(rows, 'a')[:, None, None, None] < 0.2, x.flip(0), x)", True),
        ("x + 0.1", False),  # the student sees noise, but of its own cell
        ("x.clone()", False),
    ],
)
@pytest.mark.parametrize("kd", ["logits", "none"])
def test_a_policy_that_mixes_taught_images_is_refused_before_training(
    expression: str, refused: bool, kd: str, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text(POLICY % expression)
    code, _, err = invoke(
        "run", "--dataset", "synthetic", "--set", "dataset.cells=60", "--set", "dataset.image_size=16",
        "--epochs", "1",
        "--policy", "mine", "--plugins-dir", str(tmp_path / "plugins"), "--fusion", "early", "--kd", kd,
        "--backbone", "cellnet:width=4", "--teacher", "cellnet:width=4", "--store", str(tmp_path / "store"),
        "--device", "cpu", "--modalities", "nucleus",
    )  # fmt: skip
    if refused and kd != "none":
        assert code == 2, err
        assert "Policy 'mine' shows the student images that are mixed from several cells" in err
        assert not list((tmp_path / "store").glob("records/*"))
    else:
        assert code == 0, err


def test_check_finds_a_policy_that_forgot_to_say_that_it_blends(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(POLICY % "0.7 * x + 0.3 * x.roll(1, 0)")
    code, out, _ = invoke("check", str(path), "--only", "blends_cells", "--json")
    assert code == 1
    assert "does not declare it" in json.dumps(json.loads(out))
