"""What a researcher writes first: variants of a method, several in a file, names made at import."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import TINY
from wbcbench.registry import LoadReport, Registry

Load = Callable[..., tuple[Registry, LoadReport]]
Invoke = Callable[..., tuple[int, str, str]]

VARIANTS = """
    from dataclasses import replace
    from wbcbench.contracts import Distiller, DistillerParams, Needs, hookimpl, param
    from wbcbench_plugins.distillers.logits import Logits
    from wbcbench_plugins.fusions.mean import Mean
    from torch import Tensor

    PREFIX = "my_"

    class MyMean(Mean):
        "A mean, times a factor."
        name = "my_mean"
        class Params(Mean.Params):
            factor: float = param(1.0, "Times the embedding.", gt=0, search=(0.5, 2.0))
        params: Params
        def forward(self, images, present=None, maps=False):
            scaled = {m: self.params.factor * x for m, x in images.items()}
            return super().forward(scaled, present, maps)

    class _Base(Mean):
        traits = replace(Mean.traits, arity=(2, 3))

    class Two(_Base):
        "Takes two or three."
        name = PREFIX + "two"

    class Softer(Logits):
        "Softer logits."
        name = "softer_logits"
"""


def test_variants_are_components_and_what_they_inherit_is_declared(load: Load) -> None:
    registry, report = load(variants=VARIANTS)
    found = {c.name: registry.declaration(c) for c in registry.components(provider="local.variants")}
    assert set(found) == {"my_mean", "my_two", "softer_logits"}
    assert [p.skipped for p in report.plugins if p.provider == "local.variants"] == [()]
    mean = registry.declared("fusion", "mean")
    assert [r["name"] for r in found["my_mean"].param_rows] == [*(r["name"] for r in mean.param_rows), "factor"]
    assert found["my_mean"].fusion_traits == mean.fusion_traits
    assert found["my_two"].fusion_traits == replace(mean.fusion_traits, arity=(2, 3))
    assert found["softer_logits"].needs == registry.declared("distiller", "logits").needs
    assert registry.get("fusion", "mean").builtin, "an imported class is no component of the importing file"
    for component in registry.components(provider="local.variants"):
        assert registry.load(component).__module__ == "wbcbench_local.variants"


@pytest.mark.slow
def test_variants_pass_their_check_and_train(
    folder: Callable[..., Path], invoke: Invoke, cells_file: Path
) -> None:
    path = folder(variants=VARIANTS)
    for name in ("my_mean", "my_two"):
        code, out, err = invoke("check", name, "--plugins-dir", str(path), "--only", "registered")
        assert code == 0, out + err
    code, out, err = invoke(
        "run", "--dataset", "npz", "--set", f"dataset.path={cells_file}", "--epochs", "1", *TINY, "--json",
        "--plugins-dir", str(path), "--fusion", "my_mean:factor=0.5,my_two", "--kd", "softer_logits",
        "--store", str(path.parent / "store"),
    )  # fmt: skip
    assert code == 0, err
    students = [r for r in json.loads(out)["records"] if r["role"] == "student"]
    assert {r["status"] for r in students} == {"done"}
    assert len(students) == 2
    refused = invoke("run", "--dry-run", "--plugins-dir", str(path), "--fusion", "my_mean:factor=0")
    assert refused[0] == 2
    assert "factor" in refused[2]


def test_components_by_hooks(load: Load) -> None:
    registry, report = load(
        hooked="""
        from wbcbench.contracts import FusionTraits, hookimpl
        from wbcbench_plugins.fusions.mean import Mean

        class ByName(Mean):
            "By name."
        class ByClass(Mean):
            "By class."
        class Forgotten(Mean):
            name = "forgotten"

        def of_arity(n):
            return type(f"Of{n}", (Mean,), {"traits": FusionTraits(arity=(n, n)), "__doc__": f"Of {n}."})

        @hookimpl
        def wbcbench_register_fusions(register):
            register("by_name", f"{__name__}:ByName", aliases=("b",))
            register("by_class", ByClass, summary="Said by the hook.")
            for n in (2, 3):
                register(f"of_{n}", of_arity(n))
        """
    )
    assert not report.failed
    declared = {c.name: registry.declaration(c) for c in registry.components(provider="local.hooked")}
    assert {n: d.summary for n, d in declared.items()} == {
        "by_name": "By name.", "by_class": "Said by the hook.", "of_2": "Of 2.", "of_3": "Of 3.",
    }  # fmt: skip
    assert declared["of_3"].fusion_traits.arity == (3, 3)
    assert registry.get("fusion", "b").name == "by_name"
    for component in registry.components(provider="local.hooked"):
        cls = registry.load(component)
        assert cls.__module__ == "wbcbench_local.hooked"
        assert cls.traits == declared[component.name].fusion_traits
    (skipped,) = next(p.skipped for p in report.plugins if p.provider == "local.hooked")
    assert "Forgotten" in skipped
    assert "hooks do not register it" in skipped


def test_a_plugin_that_only_observes_offers_its_classes_too(load: Load) -> None:
    registry, report = load(
        both="""
        from wbcbench.contracts import Fusion, hookimpl
        heard = []
        @hookimpl
        def wbcbench_trial_started(trial):
            heard.append(trial)
        class X(Fusion):
            name = "x"
        """
    )
    cls = registry.load(registry.get("fusion", "x"))
    report.observers.trial_started("t")
    assert __import__("sys").modules[cls.__module__].heard == ["t"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "class Nameless(Mean): ...",
            "its name 'mean' is that of its base class; give it a `name = ...` of its own",
        ),
        ("class Nameless(Fusion): ...", "it has no name; give it"),
        ("class _Hidden(Fusion):\n    name = 'hidden'", "starts with '_' is a base; call it Hidden"),
        ("class Again(Fusion):\n    name = 'good'", "fusion 'good' is class Good (PATH:3) already"),
        ("class Again(Fusion):\n    name = 'more'\n    aliases = ('good',)", "fusion 'good' is class Good"),
        ("class Odd(Fusion):\n    name = 'no spaces'", "'no spaces'"),
        ("class Odd(Fusion):\n    name = 3", "but got 3"),
    ],
)
def test_a_class_that_is_left_out_is_named_with_the_reason(
    load: Load, invoke: Invoke, line: str, reason: str
) -> None:
    good = "from wbcbench.contracts import Fusion\nfrom wbcbench_plugins.fusions.mean import Mean\n"
    good += "class Good(Fusion):\n    name = 'good'\n"
    _, report = load(m=good + line)
    status = next(p for p in report.plugins if p.provider == "local.m")
    assert (status.status, status.components) == ("ok", 1)
    (skipped,) = status.skipped
    assert reason.replace("PATH", status.origin) in skipped
    assert f"{status.origin}:5" in skipped
    folder = str(Path(status.origin).parent)
    assert f"Warning: {skipped}." in invoke("list", "--plugins-dir", folder)[2]
    assert skipped in invoke("plugins", "--plugins-dir", folder)[1]
    assert invoke("list", "--no-plugins")[2] == ""
    _, report = load(m=good.partition("class")[0] + line)
    if "good" not in line:
        assert [p.provider for p in report.failed] == ["local.m"]
        assert "not offered" in report.failed[0].reason


def test_bases_are_left_out_in_silence(load: Load) -> None:
    registry, report = load(
        m="""
        from wbcbench.contracts import Fusion
        class Shared(Fusion): ...
        class _Private(Fusion): ...
        class A(Shared):
            name = "a"
        """
    )
    assert [c.name for c in registry.components(provider="local.m")] == ["a"]
    assert not any(p.skipped for p in report.plugins)


def test_a_folder_offers_the_classes_that_it_imports_from_itself(load: Load) -> None:
    part = "from wbcbench.contracts import Fusion\nclass X(Fusion):\n    'In a part.'\n    name = 'x'\n"
    registry, report = load(
        **{"pack/__init__": "from wbcbench_local.pack.part import X\nfrom wbcbench.contracts import Fusion",
           "pack/part": part}
    )  # fmt: skip
    assert not report.failed
    component = registry.get("fusion", "x")
    assert component.origin.endswith("part.py:2")
    assert registry.load(component).__module__ == "wbcbench_local.pack.part"


def test_the_guide_to_hooks_is_one_import(load: Load) -> None:
    """Both ways to import `hookimpl` give the same marker."""
    from wbcbench import hookspecs
    from wbcbench.contracts import hookimpl
    from wbcbench.contracts.hooks import hookimpl as same

    assert hookimpl is same is hookspecs.hookimpl
