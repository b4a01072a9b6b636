"""The command line: what it prints, what it imports, how it exits; the last two in fresh interpreters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from wbcbench.cli.group import VERBS
from wbcbench.errors import UnknownNameError
from wbcbench.registry import KINDS, plural
from wbcbench.registry.loading import PluginOptions, load_plugins

PLUGIN = """
    import torch
    from wbcbench.contracts import Backbone, Distiller, DistillerParams, Fusion, FusionTraits
    from wbcbench.contracts import Needs, Parameters, param

    class Zoo(Backbone):
        "Many models."
        name = "zoo"
        family = "wbcbench_plugins.backbones._timm_names:timm_model_names"
        class Params(Parameters):
            model: str = param("resnet18", "Which.")

    class Gated(Fusion):
        '''Weigh each modality by its confidence.

        Longer text with [brackets].
        '''
        name = "gated"
        aliases = ("gt",)
        source = "Someone 2020, eq. 3"
        traits = FusionTraits(emits=("joint", "modality"), arity=(2, None), missing="native")

    class Soft(Distiller):
        "Match softened predictions."
        name = "soft"
        needs = Needs(labels=True, teacher=("logits", "maps"))
        class Params(DistillerParams):
            temperature: float = param(4.0, "Softens both.", gt=0, search=(1, 20), log=True)
            mode: str = param("a", "Which.", search=["a", "b"])
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plugins that no test changes: they are imported once."""
    path = tmp_path_factory.mktemp("commands")
    (path / "mine.py").write_text(textwrap.dedent(PLUGIN))
    (path / "sad.py").write_text("import not_here\nfrom wbcbench.hookspecs import hookimpl\n"
                                 "def f(register):\n    register('gone', 'a:B')\n")  # fmt: skip
    return path


def environment(folder: Path | None = None, **more: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("WBCBENCH_") or k == "WBCBENCH_CACHE"}
    if folder is not None:
        env["WBCBENCH_PLUGIN_PATH"] = str(folder)
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def wbcbench(
    invoke: Callable[..., tuple[int, str, str]], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """A command in this process, with the shared plugins."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("WBCBENCH_PLUGIN_PATH", str(shared))
    return lambda *args: Done(*invoke(*args))


@pytest.mark.parametrize(
    ("args", "forbidden"),
    [
        (["--help"], {"numpy", "pydantic", "pluggy", "yaml", "rich"}),
        (["--version"], {"numpy", "pydantic", "pluggy"}),
        (["list"], {"numpy"}),
        (["list", "distillers", "--json"], {"numpy"}),
        (["show", "distiller", "soft"], {"numpy"}),
        (["show", "fusions", "gt", "--json"], {"numpy"}),
        (["show", "backbone", "local.mine/vit_tiny_patch16_224"], {"numpy"}),
        (["plugins"], {"numpy", "pydantic"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_read_verbs_import_nothing_heavy(args, forbidden, shared):
    code = (
        "import sys\nfrom wbcbench.cli import execute\n"
        f"code = execute({args!r})\nprint(code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(shared), check=True
    )
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0"
    assert "click" in modules
    assert not {"torch", "timm", "ray", "pandas", "sklearn", *forbidden} & set(modules)


def test_help_names_every_verb_and_version_is_the_packages(wbcbench):
    import wbcbench as package

    done = wbcbench("--help")
    assert done.returncode == 0
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)
    assert package.__version__ in wbcbench("--version").stdout


def test_list_json_shape(wbcbench):
    document = json.loads(wbcbench("list", "--json").stdout)
    assert list(document) == [plural(kind) for kind in KINDS]
    gated = next(row for row in document["fusions"] if row["name"] == "gated")
    assert gated == {
        "name": "gated",
        "qualified_name": "local.mine/gated",
        "summary": "Weigh each modality by its confidence.",
        "provider": "local.mine",
        "aliases": ["gt"],
        "source": "Someone 2020, eq. 3",
        "emits": ["joint", "modality"],
        "arity": [2, None],
        "missing": "native",
        "solves": ["redundant", "unique"],
        "offers": None,
    }
    soft = next(row for row in document["distillers"] if row["name"] == "soft")
    assert soft["replayable"] is False
    assert soft["needs"]["teacher"] == ["logits", "maps"]


def test_list_for_people_is_plain_where_there_is_no_terminal(wbcbench, shared, monkeypatch):
    monkeypatch.delenv("WBCBENCH_PLUGIN_PATH")
    done = wbcbench("list", "fusions", "--wide", "--plugins-dir", str(shared))
    row = next(line for line in done.stdout.splitlines() if line.startswith("gated"))
    assert "joint+modality; takes 2+; missing: native" in row
    assert "local.mine  Weigh each modality by its confidence." in row
    assert "\x1b" not in done.stdout
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Warning: plugin 'local.sad' was not loaded: ModuleNotFoundError")


@pytest.mark.parametrize("words", [(), ("distillers",), ("fusions",)])
def test_short_lists_fit_100_columns_and_break_no_word(invoke, words):
    code, out, _ = invoke("list", *words)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    named = {"distillers": "mean_teacher", "fusions": "token_transformer"}
    for name in [named[w] for w in words] or named.values():
        assert any(name in line.replace(",", " ").split() for line in out.splitlines())


def test_show_says_parameters_with_range_and_search_space(wbcbench, shared):
    done = wbcbench("show", "distillers", "soft", "--json")
    document = json.loads(done.stdout)
    assert document["kind"] == "distiller"
    assert [p["name"] for p in document["params"]] == ["weight", "temperature", "mode"]
    temperature = document["params"][1]
    assert (temperature["default"], temperature["range"]) == (4.0, "> 0")
    assert temperature["search"] == {"low": 1, "high": 20, "log": True}
    assert len(document["sha256"]) == 64
    assert document["origin"].startswith(str(shared / "mine.py"))
    text = wbcbench("show", "distiller", "soft").stdout
    member = wbcbench("show", "backbone", "local.mine/vit_tiny_patch16_224", "--json")
    assert json.loads(member.stdout)["preset"] == {"model": "vit_tiny_patch16_224"}
    assert "1 .. 20 (log)" in text
    assert "a | b" in text
    assert "Longer text with [brackets]." in wbcbench("show", "fusion", "gated").stdout


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["lst"], 2, "Did you mean 'list'"),
        (["list", "--jsn"], 2, "--json"),
        (["list", "fusoins"], 2, "Did you mean 'fusions'"),
        (["show", "fusion", "gatd"], 2, "Did you mean 'gated'"),
        (["show", "fusion", "gone"], 4, "not_here"),
        (["show", "fusion", "local.sad/x"], 4, "not_here"),
        (["show", "fusion", "gated", "--save", "x.png"], 2, "dataset only"),
        (["list", "--plugins-dir", "/no/such/folder"], 2, "/no/such/folder"),
        (["show", "fusion"], 2, "NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_user_errors_are_messages_with_an_exit_code(args, code, message, wbcbench):
    done = wbcbench(*args)
    assert done.returncode == code
    assert "Error: " in done.stderr
    assert message in done.stderr
    assert 'cli/__init__.py"' not in done.stderr, "our own traceback is shown"
    assert done.stdout == ""


@pytest.mark.parametrize(("args", "env"), [(["--traceback"], {}), ([], {"WBCBENCH_TRACEBACK": "1"})])
def test_the_traceback_is_there_on_request(args, env, wbcbench, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnknownNameError):  # which Python then prints
        wbcbench("show", "fusion", "nobody", *args)


def test_plugins_exits_zero_with_status_of_each(wbcbench):
    done = wbcbench("plugins", "--json", "--no-plugins=mine")
    assert done.returncode == 0
    rows = {row["provider"]: row for row in json.loads(done.stdout)["plugins"]}
    assert {k: v["status"] for k, v in rows.items()} == {
        "wbcbench": "ok", "local.mine": "blocked", "local.sad": "failed",
    }  # fmt: skip
    assert wbcbench("plugins").returncode == 0


DATASET = """
    from wbcbench.contracts import Dataset, Parameters, param
    class Tiny(Dataset):
        "Tiny."
        name = "tiny"
        class Params(Parameters):
            cells: int = param(3, "How many.", ge=1)
        def describe(self): ...
        def load(self, image_size=None, progress=None): return {"cells": self.params.cells}
"""


def test_save_loads_the_data_set_with_parameters_and_writes_a_sheet(tmp_path, wbcbench, monkeypatch):
    (tmp_path / "tiny.py").write_text(textwrap.dedent(DATASET))
    monkeypatch.setenv("WBCBENCH_PLUGIN_PATH", str(tmp_path))
    monkeypatch.setattr("wbcbench.data.survey.contact_sheet", lambda cells, path: path.write_text(repr(cells)))
    out = tmp_path / "sheet.png"

    def show(*args: str) -> Done:
        return wbcbench("show", "dataset", "tiny", *args)

    done = show("--save", str(out), "--set", "cells=7")
    assert done.returncode == 0, done.stderr
    assert out.read_text() == "{'cells': 7}"
    for setting, message in (
        ("cell=7", "Did you mean 'cells'"),
        ("cells=0", "cells"),
        ("cells", "KEY=VALUE"),
    ):
        done = show("--save", str(out), "--set", setting)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert show("--set", "cells=7").returncode == 2


def test_a_closed_pipe_is_quiet(tmp_path):
    rows = "\n".join(f"class C{i}(Fusion):\n    'S{'x' * 500}'\n    name = 'c{i}'" for i in range(300))
    (tmp_path / "many.py").write_text(f"from wbcbench.contracts import Fusion\n{rows}")
    load_plugins(PluginOptions((tmp_path,)))  # imported here, so that the command need not import torch for it
    process = subprocess.Popen(
        [sys.executable, "-m", "wbcbench", "list", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    process.wait(20)
    assert stderr == b""


def test_interrupt_exits_130(tmp_path):
    started, folder = tmp_path / "started", tmp_path / "plugins"
    folder.mkdir()
    (folder / "slow.py").write_text(
        "from wbcbench.hookspecs import hookimpl\nimport pathlib, time\n"
        f"pathlib.Path({str(started)!r}).touch()\ntime.sleep(30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "wbcbench", "plugins"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder),
        # a shell's background job ignores SIGINT, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
