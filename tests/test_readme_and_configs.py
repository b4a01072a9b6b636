"""What README and configs/ say is true: the plugin runs, the configs plan, the defaults are the defaults."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.scheduling.plan import make_plan
from wbcbench.spec.load import load_request
from wbcbench.spec.request import Request
from wbcbench.testing import FusionContract

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
(PLUGIN,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mean_embedding.py").write_text(PLUGIN)
    return tmp_path / "plugins"


def test_the_plugin_in_readme_trains(folder: Path, train: Callable[..., dict[str, Any]]) -> None:
    document = train("--plugins-dir", str(folder), "--fusion", "mean_embedding", "--kd", "logits", "--epochs", "1")
    student = document["records"][-1]
    assert student["status"] == "done"
    assert student["fusion"].endswith("/mean_embedding")


def test_the_plugin_in_readme_keeps_the_contract(folder: Path) -> None:
    registry, _ = load_plugins(PluginOptions(folders=(folder,)))
    contract = type(
        "Contract", (FusionContract,), {"fusion": registry.load(registry.get("fusion", "mean_embedding"))}
    )()
    checks = [name for name in dir(contract) if name.startswith("test_")]
    assert len(checks) > 8
    for name in checks:
        getattr(contract, name)()


def test_every_verb_and_flag_in_readme_exists(invoke: Callable[..., tuple[int, str, str]]) -> None:
    lines = re.findall(r"^    (?:.*bin/)?wbcbench (\w+)(.*)$", README, re.MULTILINE)
    assert len(lines) >= 8
    for verb, rest in lines:
        code, out, _ = invoke(verb, "--help")
        assert code == 0, verb
        below = rest.split()[:1]  # `leaderboard publish ...`
        if below and re.search(rf"^  {re.escape(below[0])}  ", out, re.MULTILINE):
            code, more, _ = invoke(verb, *below, "--help")
            assert code == 0, (verb, below)
            out += more
        for flag in re.findall(r"(--[a-z-]+)", rest.split("#")[0]):
            assert flag in out, f"{verb} has no {flag}"


def test_the_gate_runs_the_command_of_readme() -> None:
    gate = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in gate
    assert README.count("pip install -e '.[test]'") == 1


def test_default_yaml_is_the_code_s_defaults() -> None:
    written = load_request(ROOT / "configs" / "default.yaml")
    assert written == Request()
    keys = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    assert set(keys) == set(Request.model_fields) - {"overrides"}
    for section in ("split", "augmentation", "training", "selection", "budget", "teacher"):
        assert set(keys[section]) == set(type(getattr(Request(), section)).model_fields), section


def test_every_config_is_understood() -> None:
    files = sorted((ROOT / "configs").glob("*.yaml"))
    assert len(files) >= 6
    for file in files:
        load_request(file)


def test_the_paper_config_plans() -> None:
    plan = make_plan(load_request(ROOT / "configs" / "paper.yaml"), load_plugins()[0])
    teachers = [p for p in plan.trials if p.role == "teacher"]
    students = [p for p in plan.trials if p.role == "student"]
    assert len(teachers) == 3 * 3  # seeds x modalities
    assert len(students) == 3 * 2 * (5 + 3)  # seeds x kd x (five fusions, and single once per modality)
    seen: set[str] = set()
    for planned in plan.trials:
        assert set(planned.needs) <= seen, "a teacher comes after its student"
        seen.add(planned.trial.id)
