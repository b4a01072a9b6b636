"""Plugins in the form of the release before still load, are checked and train, with a warning that says what to
write."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from wbcbench.contracts import (
    Combiner,
    DoesBackward,
    Fusion,
    FusionTraits,
    OwnHeads,
    PerCell,
    PolicyTraits,
    SolvedOnce,
)
from wbcbench.registry import Registry
from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.testing.components import component_class

Invoke = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.filterwarnings("default:.*only this release still reads")
FOLDER = Path(__file__).parent / "old_plugins"
NAMES = {"fusion": ["old_fusion"], "policy": ["old_backward", "old_after"],
         "distiller": ["old_transform", "old_step", "old_head"]}  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> tuple[Registry, dict[str, str]]:
    """The registry, and what is told of each plugin."""
    registry, report = load_plugins(PluginOptions((FOLDER,)))
    assert not report.failed
    assert not any(p.outdated for p in report.plugins if p.builtin), "no built-in component is in the old form"
    return registry, {p.provider: "\n".join(p.outdated) for p in report.plugins}


def told_of(loaded: tuple[Registry, dict[str, str]], file: str) -> str:
    note = loaded[1][f"local.{file}"]
    assert str(FOLDER / f"{file}.py") in note
    return note


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in NAMES.items() for n in names])
def test_they_are_listed_with_one_warning_each_on_stderr(invoke: Invoke, kind: str, name: str) -> None:
    code, out, err = invoke("list", kind, "--json", "--plugins-dir", str(FOLDER))
    assert code == 0
    assert name in [row["name"] for row in next(iter(json.loads(out).values()))]
    cls = name.title().replace("_", "")
    assert err.count(f"class {cls} ") == 1, err


def test_what_an_old_fusion_states_is_where_it_belongs(loaded: tuple[Registry, dict[str, str]]) -> None:
    registry = loaded[0]
    declared = registry.declared("fusion", "old_fusion")
    assert declared.fusion_traits == FusionTraits(
        emits=("joint", "modality"), missing="native", arity=(2, None), stage_maps=False,
        offers=("own_embedding", "own_parameters", "meeting_losses"),
    )  # fmt: skip
    cls = registry.load(registry.get("fusion", "old_fusion"))
    assert issubclass(cls, Combiner)
    assert issubclass(cls, OwnHeads)
    note = told_of(loaded, "old_fusion")
    assert "`class OldFusion(Combiner, OwnHeads, Fusion):`" in note
    assert "`traits = FusionTraits(emits=('joint', 'modality'), arity=(2, None), missing='native'," in note


def test_what_an_old_policy_states_is_where_it_belongs(loaded: tuple[Registry, dict[str, str]]) -> None:
    registry = loaded[0]
    declared = registry.declared("policy", "old_backward")
    assert declared.policy_traits == PolicyTraits(acts_on="gradients", arity=(2, None), wants=("own_parameters",))
    cls = registry.load(registry.get("policy", "old_backward"))
    assert issubclass(cls, DoesBackward)
    assert issubclass(cls, PerCell)
    assert cls.gradients == "combines"  # type: ignore[attr-defined]
    assert registry.declared("policy", "old_after").extras == {"ChangesGradients"}
    note = told_of(loaded, "old_policies")
    assert "`class OldBackward(DoesBackward, PerCell, Policy):`" in note
    assert "`traits = PolicyTraits(acts_on='gradients', arity=(2, None), wants=('own_parameters',))`" in note


def test_what_old_distillers_state_is_where_it_belongs(loaded: tuple[Registry, dict[str, str]]) -> None:
    registry = loaded[0]
    told = {n: registry.declared("distiller", n) for n in NAMES["distiller"]}
    assert {n: (d.role, d.replaces_head, d.needs.matched) for n, d in told.items()} == {
        "old_transform": ("transform", False, "logits"),
        "old_step": ("optimiser", False, "optimiser"),
        "old_head": ("loss", True, "relational"),
    }
    note = told_of(loaded, "old_distillers")
    assert (
        "`class OldTransform(TransformsLogits, Distiller):` (from wbcbench.contracts), because of `matches`"
        in note
    )
    assert (
        "`class OldStep(TakesStep, Distiller):` and `needs = Needs(student=(), teacher=(), optimiser='sgd'" in note
    )
    assert "`class OldHead(ReplacesHead, Distiller):` and `needs = Needs(student=('embedding',)" in note


def test_what_is_to_be_written_is_told_once_and_means_the_same() -> None:
    mean: Any = component_class("fusion", "mean")
    with pytest.warns(DeprecationWarning, match="only this release") as caught:

        class Old(mean):
            arity = [2, 3]
            trained = "once"

            def fit_combiner(self, val_outputs: Any, labels: Any) -> None: ...

    assert len(caught) == 1
    assert caught[0].filename == __file__
    text = str(caught[0].message)
    assert "`class Old(Combiner, SolvedOnce, Mean):`" in text
    assert "`traits = dataclasses.replace(Mean.traits, arity=(2, 3))`" in text
    assert Old.traits == replace(mean.traits, arity=(2, 3))
    assert issubclass(Old, SolvedOnce)
    assert issubclass(Old, Combiner)
    assert Old.missing == mean.traits.missing, "old code reads what it did not state"


def test_what_stands_beside_traits_is_told_too() -> None:
    with pytest.warns(
        DeprecationWarning, match=r"FusionTraits\(arity=\(2, 2\), missing='refuse'\)`.*because of `arity`"
    ):

        class Both(Fusion):
            traits = FusionTraits(missing="refuse")
            arity = (2, 2)

    assert Both.traits == FusionTraits(missing="refuse", arity=(2, 2))


def test_a_list_is_as_good_as_a_tuple() -> None:
    assert FusionTraits(emits=["joint", "modality"], arity=[2, 3]) == FusionTraits(  # type: ignore[arg-type]
        emits=("joint", "modality"), arity=(2, 3)
    )


def test_a_class_in_the_new_form_is_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class New(Fusion):
            traits = FusionTraits(missing="refuse")

            @property
            def scales(self) -> str:
                return "its own business"

        class Child(New):
            """Says nothing."""

    assert Child.traits.missing == "refuse"


@pytest.mark.parametrize(
    ("stated", "error", "text"),
    [
        ({"missing": "natve"}, ValueError, "`missing` to be one of 'native', 'impute', 'refuse', but got 'natve'"),
        ({"emits": "joint"}, TypeError, r"`emits` as a tuple, such as \('joint',\), but got 'joint'"),
        ({"offers": ("logit",)}, ValueError, "but got 'logit'"),
    ],
)
def test_a_wrong_word_is_refused_where_it_is_written(stated: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        FusionTraits(**stated)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in NAMES.items() for n in names])
def test_they_pass_their_check(invoke: Invoke, kind: str, name: str) -> None:
    code, out, err = invoke("check", name, "--plugins-dir", str(FOLDER))
    assert code == 0, out + err


@pytest.mark.parametrize(
    "flags",
    [
        ["--fusion", "old_fusion", "--policy", "old_backward"],
        ["--fusion", "concat", "--policy", "old_backward"],
        ["--fusion", "independent", "--policy", "old_after"],
        ["--fusion", "early", "--kd", "old_transform+logits"],
        ["--fusion", "early", "--kd", "old_step+logits", "--set", "training.optimiser=sgd"],
        ["--fusion", "independent", "--kd", "old_head"],
    ],
    ids=" ".join,
)
def test_they_train(invoke: Invoke, cells_file: Path, tmp_path: Path, flags: list[str]) -> None:
    code, out, err = invoke(
        "run", "--dataset", "npz", "--set", f"dataset.path={cells_file}", "--epochs", "1", *TINY, "--json",
        "--plugins-dir", str(FOLDER), "--store", str(tmp_path), *flags,
    )  # fmt: skip
    assert code == 0, err
    assert {r["status"] for r in json.loads(out)["records"]} == {"done"}


def test_what_an_old_form_says_is_known_while_planning(invoke: Invoke) -> None:
    code, out, err = invoke(
        "run", "--dry-run", "--plugins-dir", str(FOLDER), "--fusion", "early", "--kd", "old_head"
    )
    assert code == 2
    assert not out
    assert "old_head' takes over one teacher's classifier, but route 'joint'" in err
