"""A component that stands for many models: its members' names resolve to it, with the model preset."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest
from wbcbench_plugins.backbones import _timm_names as timm_names

from wbcbench.errors import PluginError, UnknownNameError

FAMILY = """
    import torch
    from wbcbench.contracts import Backbone, Parameters, param

    class Zoo(Backbone):
        "Many."
        name = "zoo"
        family = "{family}"
        class Params(Parameters):
            model: str = param("lion", "Which.")
"""


def lion_names() -> list[str]:
    return ["lion", "tiger"]


@pytest.fixture
def zoo(load, monkeypatch):
    import sys
    import types

    module = types.ModuleType("zoo_names")
    module.lion_names = lion_names
    monkeypatch.setitem(sys.modules, "zoo_names", module)
    return load(zoo=FAMILY.format(family="zoo_names:lion_names"))[0]


def test_members_resolve_with_a_preset(zoo):
    for name in ("tiger", "local.zoo/tiger"):
        resolved = zoo.resolve("backbone", name)
        assert (resolved.component.name, resolved.params) == ("zoo", {"model": "tiger"})
    assert zoo.resolve("backbone", "zoo").params == {}


def test_did_you_mean_knows_members(zoo):
    with pytest.raises(UnknownNameError, match="Did you mean 'tiger'"):
        zoo.resolve("backbone", "tigger")


def test_a_family_that_cannot_be_listed_is_a_plugin_error(load):
    registry, _ = load(zoo=FAMILY.format(family="no_such_module:names"))
    with pytest.raises(PluginError, match="no_such_module"):
        registry.resolve("backbone", "tiger")
    assert registry.resolve("backbone", "zoo").component.name == "zoo"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path / "cache"))
    timm_names.timm_model_names.cache_clear()
    return tmp_path / "cache" / f"timm-names-{importlib.metadata.version('timm')}.json"


def test_names_are_timms_own(cache):
    import timm

    names = timm_names.timm_model_names()
    assert names == sorted(timm.list_models())
    assert cache.is_file()
    assert os.listdir(cache.parent) == [cache.name]


def test_the_cache_is_used_and_a_broken_one_is_replaced(cache):
    cache.parent.mkdir()
    cache.write_text('["only"]')
    assert timm_names.timm_model_names() == ["only"]
    timm_names.timm_model_names.cache_clear()
    cache.write_text('["only')
    assert "resnet18" in timm_names.timm_model_names()
    assert cache.read_text() != '["only'


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path / "file" / "below"))
    timm_names.timm_model_names.cache_clear()
    assert "resnet18" in timm_names.timm_model_names()
