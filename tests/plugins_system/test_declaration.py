"""The static reading equals the real class, imports nothing heavy, and gives way when it cannot know."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from wbcbench.contracts.needs import Needs
from wbcbench.contracts.params import describe_params
from wbcbench.declaration import scan_file
from wbcbench.errors import PluginError
from wbcbench.plugins import PluginOptions, load_plugins
from wbcbench.quick_class import quick_attributes
from wbcbench.registry import KINDS, contract
from wbcbench.static_class import ATTRIBUTES

BUILTIN = load_plugins(PluginOptions(block_all=True))[0]


@pytest.mark.parametrize("component", BUILTIN.components(), ids=lambda c: f"{c.kind}-{c.name}")
def test_every_builtin_is_declared_statically_and_truly(component):
    declared = BUILTIN.declaration(component)
    cls = BUILTIN.load(component)
    assert declared.static, "this file needs an import to be listed: keep its declaration to literals"
    assert_equal(declared, cls)
    assert declared.summary, "give the class a docstring"


def assert_equal(declared, cls):
    for name in ATTRIBUTES:
        if hasattr(cls, name):
            default = getattr(contract(declared.kind), name, None)
            assert declared.attributes.get(name, default) == getattr(cls, name), name
    assert describe_params(declared.params) == describe_params(cls.Params)
    assert declared.params().model_dump(mode="json") == cls.Params().model_dump(mode="json")


STATIC = {
    "literals": """
        import torch
        from wbcbench.contracts import Fusion
        class X(Fusion):
            "Say."
            name = "x"
            emits = ("joint", "modality")
            arity = (2, 3)
            missing = "native"
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
            arity = (_least, twice(_least))
            class Params(contracts.Parameters):
                mode: Mode = contracts.param(Mode.soft, "Mode.")
                width: int = contracts.param(twice(2), "Width.")
                @field_validator("width")
                @classmethod
                def even(cls, value: int) -> int:
                    if value % 2: raise ValueError("odd")
                    return value
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
    """,
}  # fmt: skip

DYNAMIC = {
    "changed after the class": """
        from wbcbench.contracts import Fusion
        class X(Fusion):
            name = "x"
        X.emits = ("modality",)
    """,
    "a heavy name": """
        import torch
        from wbcbench.contracts import Fusion, Parameters, param
        class X(Fusion):
            name = "x"
            arity = (torch.tensor(2).item(), 5)
            class Params(Parameters):
                a: float = param(torch.pi, "Pi.")
    """,
    "computed in the class body": """
        from wbcbench.contracts import Fusion
        class X(Fusion):
            name = "x"
            if True:
                missing = "refuse"
    """,
    "bound twice": """
        from wbcbench.contracts import Fusion
        A = ("joint",)
        A += ("modality",)
        class X(Fusion):
            name = "x"
            emits = A
    """,
    "a decorator": """
        from wbcbench.contracts import Fusion
        def change(cls):
            cls.missing = "native"
            return cls
        @change
        class X(Fusion):
            name = "x"
    """,
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "static"),
    [*((s, True) for s in STATIC.values()), *((s, False) for s in DYNAMIC.values())],
    ids=[*STATIC, *DYNAMIC],
)
def test_reading_equals_the_real_class(folder, source, static):
    path = folder(m=source) / "m.py"
    hooked = f"""
        from wbcbench.hookspecs import hookimpl
        @hookimpl
        def wbcbench_register_{"distillers" if "Distiller" in source else "fusions"}(register):
            register("x", {str(path)!r} + "::X")
    """
    registry, report = load_plugins(PluginOptions((folder(hooked=hooked),), blocked=frozenset({"m"})))
    assert not report.failed
    component = next(c for c in registry.components() if c.name == "x")
    declared = registry.declaration(component)
    assert declared.static is static
    assert ("wbcbench_local.m" in sys.modules) is not static
    assert_equal(declared, registry.load(component))


def test_every_declared_value_differs_from_the_default_where_it_says_so(load):
    registry, _ = load(m=STATIC["literals"])
    declared = registry.declaration(registry.get("fusion", "x"))
    assert (declared.emits, declared.arity, declared.missing) == (("joint", "modality"), (2, 3), "native")
    assert (declared.summary, declared.pairing, declared.family, declared.scalable) == (
        "Say.",
        "own",
        "",
        True,
    )


def test_contract_defaults_are_those_of_the_accessors(load):
    source = "".join(f"class {k.title()}X({k.title()}):\n    name = 'plain'\n" for k in KINDS)
    registry, _ = load(m=source)
    for kind in KINDS:
        declared = registry.declaration(registry.get(kind, "plain"))
        cls = contract(kind)
        for name in ("emits", "arity", "missing", "needs", "pairing", "family", "scalable"):
            if hasattr(cls, name):
                assert getattr(declared, name) == getattr(cls, name), (kind, name)
        assert declared.params is cls.Params


def test_static_validators_still_bite(load):
    registry, _ = load(m=STATIC["validators, enums and functions of the file"])
    params = registry.declaration(registry.get("fusion", "x")).params
    with pytest.raises(ValueError, match="odd"):
        params(width=3)


def test_params_of_another_base_are_a_plugin_error(load):
    registry, _ = load(
        m="from wbcbench.contracts import Distiller, Parameters\nclass X(Distiller):\n    name = 'x'\n"
        "    class Params(Parameters): ..."
    )
    with pytest.raises(PluginError, match="subclass of DistillerParams"):
        _ = registry.declaration(registry.get("distiller", "x")).params


def test_reading_a_file_that_imports_torch_imports_no_torch(folder):
    path = folder(**{f"m{i}": s.replace('"x"', f'"x{i}"') for i, s in enumerate(STATIC.values())})
    code = f"""
import json, sys
from pathlib import Path
from wbcbench.plugins import PluginOptions, load_plugins
registry, report = load_plugins(PluginOptions((Path({str(path)!r}),)))
declared = [registry.declaration(c) for c in registry.components() if not c.builtin]
names = [d.name for d in declared if d.static and d.params]
print(json.dumps([names, sorted({{"torch", "numpy"}} & set(sys.modules))]))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert json.loads(done.stdout) == [["x0", "x2", "x1"], []]


def test_scan_finds_direct_subclasses_with_a_literal_name_only(folder):
    source = '''
        """Example:

        class Quoted(Fusion):
            name = "quoted"
        """
        class A(Fusion):
            name = "a"
            aliases = ["b"]
        class B(contracts.Distiller, Other):
            def f(self): ...
            name: str = "late"
        class C(Fusion):
            name = compute()
        class D(A):
            name = "grandchild"
        class E(Routing):
            class Params: ...
            name = "e"
        def f():
            class G(Fusion):
                name = "inner"
    '''
    path = folder(m=source) / "m.py"
    expected = [("fusion", "A", "a"), ("distiller", "B", "late"), ("routing", "E", "e")]
    assert scan_file(path) == expected


PLAIN = """
from wbcbench.contracts import Distiller, Needs
class X(Distiller):
    "Say."
    name = "x"
    needs: "ClassVar" = Needs(labels=True)
    class Params: ...
    def f(self):
        '''More.'''
        return 1
def g():
    return 2
"""


def test_the_top_of_a_plain_class_is_enough():
    doc, found = quick_attributes(PLAIN, "X", ATTRIBUTES)
    assert (doc, found) == ("Say.", {"name": "x", "needs": Needs(labels=True)})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("def g()", "X.needs = 1\ndef g()"),
        ("def g()", "    source = 'late'\ndef g()"),
        ("def g()", "    if 1: needs = 2\ndef g()"),
        ("class X", "@change\nclass X"),
        ("(Distiller):", "(Distiller, Other):"),
        ("(Distiller):", "(Base):"),
        ("import Distiller, Needs", "import Distiller\nfrom mine import Needs"),
        ("Needs(labels=True)", "Needs(labels=YES)"),
        ("Needs(labels=True)", "Needs(**{})"),
        ("return 2", "setattr(X, 'name', 'y')"),
        ("    class Params", "    name = 'again'\n    class Params"),
    ],
)  # fmt: skip
def test_a_doubt_means_the_whole_file_is_read(old, new):
    assert old in PLAIN
    assert quick_attributes(PLAIN.replace(old, new), "X", ATTRIBUTES) is None
