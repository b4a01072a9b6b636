"""Plugin folders made on the spot."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wbcbench.registry import Registry
from wbcbench.registry.loading import LoadReport, PluginOptions, load_plugins

Folder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the caller's plugins nor modules of the test before."""
    monkeypatch.delenv("WBCBENCH_PLUGIN_PATH", raising=False)
    monkeypatch.delenv("WBCBENCH_DISABLE_PLUGINS", raising=False)
    yield
    for name in [n for n in sys.modules if n.startswith("wbcbench_local")]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write `name=source` files into a plugin folder and return it."""

    def write(**sources: str) -> Path:
        for name, source in sources.items():
            path = tmp_path / "plugins" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        return tmp_path / "plugins"

    return write


@pytest.fixture
def load(folder: Folder) -> Callable[..., tuple[Registry, LoadReport]]:
    """Write a plugin folder and load it."""

    def load(
        blocked: tuple[str, ...] = (), block_all: bool = False, **sources: str
    ) -> tuple[Registry, LoadReport]:
        path = folder(**sources)
        return load_plugins(PluginOptions((path,), block_all, frozenset(blocked)))

    return load
