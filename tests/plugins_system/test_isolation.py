"""A plugin changes nothing for others, and can neither end the command nor spoil its output."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wbcbench.errors import PluginError
from wbcbench.isolation import TorchSettings, contained, reset

MESS = """
    import os, random, sys
    import numpy as np
    import torch
    random.seed(1); np.random.seed(1); torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    os.environ["WBCBENCH_MESS"] = "1"
    os.environ.pop("HOME", None)
    os.chdir("/")
    print("a mess")
"""
PLUGIN = '''"""Early fusion that {what}."""
from torch import nn
import torch
from wbcbench.contracts import Fusion, Output
{at_import}

class Messy(Fusion):
    """Early fusion with manners of its own."""

    name = "messy"

    def __init__(self, task, backbone, params):
        super().__init__(task, backbone, params)
{in_init}
        self.trunk = backbone(sum(task.channels.values()))
        self.head = nn.Linear(self.trunk.dim, task.n_classes)

    def forward(self, images, present=None, maps=False):
{in_forward}
        h = self.trunk(torch.cat([images[m] for m in self.task.modalities], 1)).embedding
        return {{"joint": Output(self.head(h), h, reads=frozenset(self.task.modalities), head=self.head)}}
'''
PLACES = ("at_import", "in_init", "in_forward")


def indented(code: str, place: str) -> str:
    lines = [line.strip() for line in code.strip().splitlines()]
    return "\n".join(("" if place == "at_import" else " " * 8) + line for line in lines)


def write(folder: Path, place: str, code: str) -> Path:
    folder.mkdir(exist_ok=True)
    parts = dict.fromkeys(PLACES, "")
    parts[place] = indented(code, place)
    (folder / "messy.py").write_text(PLUGIN.format(what="misbehaves", **parts))
    return folder


def test_what_is_global_is_put_back() -> None:
    def state() -> Any:
        return (
            random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
            TorchSettings.current(), dict(os.environ), os.getcwd(),
        )  # fmt: skip

    before = state()
    code = "\n".join(line.strip() for line in MESS.strip().splitlines())
    with pytest.raises(ZeroDivisionError), contained():
        exec(f"{code}\n1 / 0")
    assert state() == before


def test_what_is_printed_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with contained():
        print("a plugin's chatter")
    assert capsys.readouterr() == ("", "a plugin's chatter\n")


def test_exit_is_an_error_that_names_the_code() -> None:
    with pytest.raises(PluginError, match=r"test_isolation.*sys\.exit\(0\)"), contained():
        sys.exit(0)


def test_reset_is_a_function_of_the_seed() -> None:
    settings = TorchSettings.current()
    drawn = []
    for seed in (3, 3, 4):
        with contained():
            reset(settings, seed)
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "code"), [("at_import", 0), ("in_init", 1), ("in_forward", 1)])
def test_other_rows_are_the_same_beside_a_plugin_that_makes_a_mess(
    place: str, code: int, train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Another default type is the end of the plugin's own trial, where it is not undone before that begins."""
    folder = write(tmp_path / "plugins", place, MESS)
    alone = train("--fusion", "early", store="alone")
    beside = train("--plugins-dir", str(folder), "--fusion", "messy,early", store="beside", code=code)
    assert (tmp_path / "beside").is_dir(), "a relative store is resolved at the start"
    (early,) = [r for r in beside["records"] if r["fusion"] == "early"]
    assert early["digest"] == alone["records"][0]["digest"]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "expected"), [("at_import", 4), ("in_init", 4), ("in_forward", 1)])
def test_exit_in_a_plugin_fails_its_trial_or_the_command_by_name(
    place: str, expected: int, cells_file: Path, tmp_path: Path, invoke: Callable[..., tuple[int, str, str]]
) -> None:
    folder = write(tmp_path / "plugins", place, "import sys\nsys.exit(0)")
    words = (
        "--plugins-dir", str(folder), "--fusion", "messy,early", "--dataset", "npz",
        "--set", f"dataset.path={cells_file}", "--set", "dataset.modalities.a=[0]",
        "--set", "dataset.modalities.b=[1]", "--backbone", "cellnet:width=4", "--epochs", "1", "--device", "cpu",
        "--store", str(tmp_path / "store"), "--executor", "inline", "--json",
    )  # fmt: skip
    code, out, err = invoke("run", *words)
    assert code == expected, err
    assert "messy" in err
    assert "Traceback" not in err or place == "at_import"
    if expected == 1:
        statuses = {r["fusion"]: r["status"] for r in json.loads(out)["records"]}
        assert statuses["early"] == "done", "the other trials run"
