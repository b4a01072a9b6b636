"""What the index tells is what the class says; torch is not imported to read it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from wbcbench.contracts.needs import FusionTraits
from wbcbench.contracts.params import Parameters, describe_params, identity
from wbcbench.errors import PluginError
from wbcbench.registry import KINDS, Registry, contract
from wbcbench.registry.declaration import attribute_names
from wbcbench.registry.index import SHIPPED, as_text, build
from wbcbench.registry.loading import PluginOptions, load_plugins

BUILTIN = load_plugins(PluginOptions(block_all=True))[0]


def test_the_shipped_index_is_what_importing_gives():
    assert SHIPPED.read_text() == as_text(build()), "make it anew: python -m wbcbench.registry.index"


@pytest.mark.parametrize("component", BUILTIN.components(), ids=lambda c: f"{c.kind}-{c.name}")
def test_every_builtin_is_declared_truly(component):
    assert_equal(BUILTIN, component)
    assert BUILTIN.declaration(component).summary, "give the class a docstring"
    assert component.declared["params"]["plain"], "planning would import this class, and torch, for its Params"


def assert_equal(registry, component):
    declared, cls = registry.declaration(component), registry.load(component)
    for name in attribute_names(contract(component.kind)):
        assert (name in declared.attributes) == hasattr(cls, name)
        if hasattr(cls, name):
            assert declared.attributes[name] == getattr(cls, name), name
    assert declared.param_rows == describe_params(declared.params) == describe_params(cls.Params)
    ours, real = declared.params(), cls.Params()
    assert ours.model_dump(mode="json") == real.model_dump(mode="json")
    assert json.dumps(identity(ours)) == json.dumps(identity(real))
    for rubbish in ("x", -1e9, None, {"a": [1]}, float("nan"), True):
        for name in cls.Params.model_fields:
            assert outcome(declared.params, {name: rubbish}) == outcome(cls.Params, {name: rubbish})
    assert outcome(declared.params, {"no_such": 1}) == outcome(cls.Params, {"no_such": 1})


def outcome(params: type[Parameters], given: dict) -> object:
    try:
        return params(**given).model_dump(mode="json")
    except ValueError as error:
        return str(error)


PLAIN = {
    "literals": """
        import torch
        from wbcbench.contracts import Fusion, FusionTraits
        class X(Fusion):
            "Say."
            name = "x"
            traits = FusionTraits(emits=("joint", "modality"), arity=(2, 3), missing="native")
            def forward(self, images): return torch.zeros(1)
    """,
    "string annotations, constants, ClassVar": """
        from __future__ import annotations
        from typing import ClassVar, Literal
        import torch
        from torch import nn
        from wbcbench.contracts import Distiller, DistillerParams, Needs, param
        HOT: float = 4.0
        MODES = ("a", "b")
        class X(Distiller):
            name: ClassVar[str] = "x"
            needs: ClassVar[Needs] = Needs(labels=True, teacher=("logits", "maps"))
            class Params(DistillerParams):
                t: float = param(HOT, "Temperature.", gt=0, search=(1, 2 * HOT), log=True)
                mode: Literal["a", "b"] = param(MODES[0], "Which.", search=list(MODES))
            def setup(self, pair): self.layer = nn.Linear(1, 1)
    """,
    "types": """
        from typing import Annotated, Any, Literal, Optional
        from annotated_types import Ge, Lt
        from wbcbench.contracts import Fusion, Parameters, param
        class X(Fusion):
            name = "x"
            class Params(Parameters):
                a: int | None = param(None, "A.", ge=0)
                b: Optional[float] = param(0.5, "B.")
                c: dict[str, Annotated[float, Ge(0), Lt(1)]] = param({"x": 0.5}, "C.")
                d: list[int] = param([1, 2], "D.", later=True)
                e: Literal[1, "one", True, None] = param("one", "E.")
                f: Any = param([{"x": None}], "F.")
                path: str = param("", "Path.")
                digest: str = param("", "Digest.", digest_of="path")
    """,
    "a base class in the same file": """
        import torch
        from wbcbench.contracts import Distiller, DistillerParams, Needs, param
        class Base(Distiller):
            needs = Needs(index=True)
            class Params(DistillerParams):
                a: int = param(1, "A.")
        class X(Base):
            name = "x"
            source = "someone"
            class Params(Base.Params):
                weight: float = param(2.0, "Another default.", ge=0)
    """,
    "changed after the class": """
        from wbcbench.contracts import Fusion, FusionTraits
        class X(Fusion):
            name = "x"
        X.traits = FusionTraits(emits=("modality",))
    """,
    "a heavy name": """
        import torch
        from wbcbench.contracts import Fusion, FusionTraits, Parameters, param
        class X(Fusion):
            name = "x"
            traits = FusionTraits(arity=(torch.tensor(2).item(), 5))
            class Params(Parameters):
                a: float = param(torch.pi, "Pi.")
    """,
    "computed in the class body": """
        from wbcbench.contracts import Fusion, FusionTraits
        class X(Fusion):
            name = "x"
            if True:
                traits = FusionTraits(missing="refuse")
    """,
    "a decorator": """
        from wbcbench.contracts import Fusion, FusionTraits
        def change(cls):
            cls.traits = FusionTraits(missing="native")
            return cls
        @change
        class X(Fusion):
            name = "x"
    """,
}  # fmt: skip

OF_ITS_OWN = {
    "validators, enums and functions of the file": """
        from __future__ import annotations
        import enum
        import torch
        from pydantic import field_validator
        from wbcbench import contracts
        def twice(x): return 2 * x
        class Mode(enum.Enum):
            soft = "soft"
        class X(contracts.Fusion):
            name = "x"
            _least = 2
            traits = contracts.FusionTraits(arity=(_least, twice(_least)))
            class Params(contracts.Parameters):
                mode: Mode = contracts.param(Mode.soft, "Mode.")
                width: int = contracts.param(twice(2), "Width.")
                @field_validator("width")
                @classmethod
                def even(cls, value: int) -> int:
                    if value % 2: raise ValueError("odd")
                    return value
    """,
    "after validation": """
        from wbcbench.contracts import Fusion, Parameters, param
        class X(Fusion):
            name = "x"
            class Params(Parameters):
                a: int = param(2, "A.")
                def model_post_init(self, context):
                    if self.a % 2: raise ValueError("odd")
    """,
    "another way to dump": """
        from wbcbench.contracts import Fusion, Parameters, param
        class X(Fusion):
            name = "x"
            class Params(Parameters):
                a: int = param(2, "A.")
                def model_dump(self, **more): return {"a": "two"}
    """,
    "a configuration": """
        from pydantic import ConfigDict
        from wbcbench.contracts import Fusion, Parameters, param
        class X(Fusion):
            name = "x"
            class Params(Parameters):
                model_config = ConfigDict(str_to_upper=True)
                a: str = param("b", "A.")
    """,
    "a default that JSON has not": """
        from wbcbench.contracts import Fusion, Parameters, param
        class X(Fusion):
            name = "x"
            class Params(Parameters):
                a: tuple[int, int] = param((1, 2), "A.")
    """,
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "plain"),
    [*((s, True) for s in PLAIN.values()), *((s, False) for s in OF_ITS_OWN.values())],
    ids=[*PLAIN, *OF_ITS_OWN],
)
def test_reading_equals_the_real_class(load, source, plain):
    registry, report = load(m=source)
    assert not report.failed
    (component,) = registry.components(provider="local.m")
    declared = registry.declaration(component)
    assert declared.attributes["name"] == "x"
    assert "wbcbench_local.m" not in sys.modules
    assert declared.params is not None
    assert ("wbcbench_local.m" in sys.modules) is not plain, "only Params of its own kind need an import"
    assert_equal(registry, component)


def test_every_declared_value_differs_from_the_default_where_it_says_so(load):
    registry, _ = load(m=PLAIN["literals"])
    declared = registry.declaration(registry.get("fusion", "x"))
    assert declared.fusion_traits == FusionTraits(emits=("joint", "modality"), arity=(2, 3), missing="native")
    assert (declared.summary, declared.solved_once) == ("Say.", False)


def test_what_a_class_does_not_say_is_its_contracts_default(load):
    imports = f"from wbcbench.contracts import {', '.join(k.title() for k in KINDS)}\n"
    source = imports + "".join(f"class {k.title()}X({k.title()}):\n    name = 'plain'\n" for k in KINDS)
    registry, _ = load(m=source)
    for kind in KINDS:
        declared = registry.declaration(registry.get(kind, "plain"))
        cls = contract(kind)
        for name in ("traits", "needs", "pairing", "family", "scalable"):
            if hasattr(cls, name):
                assert declared.attributes[name] == getattr(cls, name), (kind, name)
        assert declared.params is cls.Params


def test_validators_still_bite(load):
    registry, _ = load(m=OF_ITS_OWN["validators, enums and functions of the file"])
    params = registry.declaration(registry.get("fusion", "x")).params
    with pytest.raises(ValueError, match="odd"):
        params(width=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("class Params(Parameters): ...", "subclass of DistillerParams"),
        ("Params = None", "subclass of DistillerParams"),
        ("needs = 'labels'", "to be a Needs, but got 'labels'"),
        ("source = object", "as text, a number"),
    ],
)
def test_a_declaration_of_another_type_is_a_plugin_error(load, line, message):
    registry, report = load(
        m=f"from wbcbench.contracts import Distiller, Parameters\nclass X(Distiller):\n    name = 'x'\n    {line}"
    )
    assert not report.failed
    with pytest.raises(PluginError, match=message):
        registry.declaration(registry.get("distiller", "x"))


def test_a_component_that_was_never_indexed_is_described_by_its_class():
    from wbcbench.contracts import Fusion
    from wbcbench.registry import Component

    class Mine(Fusion):
        "Mine."

        traits = FusionTraits(arity=(2, 2))

    registry = Registry()
    registry.add(Component("fusion", "mine", Mine))
    assert registry.declared("fusion", "mine").fusion_traits.arity == (2, 2)
    assert registry.declared("fusion", "mine").summary == "Mine."


def test_reading_a_file_that_imports_torch_imports_no_torch(folder):
    path = folder(**{f"m{i}": s.replace('"x"', f'"x{i}"') for i, s in enumerate(PLAIN.values())})
    code = textwrap.dedent(f"""
        import json, sys
        from pathlib import Path
        from wbcbench.registry.loading import PluginOptions, load_plugins
        registry, report = load_plugins(PluginOptions((Path({str(path)!r}),)))
        declared = [registry.declaration(c) for c in registry.components() if not c.builtin]
        names = sorted(d.name for d in declared if d.attributes and d.params)
        print(json.dumps([names, sorted({{"torch", "numpy"}} & set(sys.modules))]))
    """)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert json.loads(done.stdout) == [[f"x{i}" for i in range(len(PLAIN))], []]
