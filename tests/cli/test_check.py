"""`wbcbench check`: what it takes, what it says, how it exits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wbcbench_plugins

from wbcbench.scaffold import write_file, write_package

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound distiller; the working folder is the one above its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WBCBENCH_PLUGIN_PATH", raising=False)
    write_file("distiller", "mine", Path("plugins"))
    return Path("plugins/mine.py")


def change(plugin: Path, old: str, new: str) -> None:
    text = plugin.read_text()
    assert old in text
    plugin.write_text(text.replace(old, new))


def test_a_line_per_promise_and_what_to_mend(plugin: Path, invoke: Invoke) -> None:
    change(plugin, ".square().sum(1)", ".square()")
    code, out, err = invoke("check", str(plugin), "--only", "loss")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("distiller local.mine/mine (plugins/mine.py:")
    failed = next(i for i, line in enumerate(lines) if line.startswith("  FAIL"))
    assert lines[failed].startswith("  FAIL  Each loss has a name")
    method = (
        plugin.read_text().splitlines().index(next(x for x in plugin.read_text().splitlines() if "def terms" in x))
    )
    assert (
        lines[failed + 1].strip().startswith(f"plugins/mine.py:{method + 1}: Term 'distance' has the shape [6, 4]")
    )
    assert lines[failed + 2].strip().startswith("Fix: Return [B]")
    kept = sum(line.startswith("  ok") for line in lines)
    broken = sum(line.startswith("  FAIL") for line in lines)
    assert lines[-1] == f"{kept} of {kept + broken} promises kept."
    assert "Traceback" not in out


def test_an_exception_is_told_with_the_plugin_s_own_line(plugin: Path, invoke: Invoke) -> None:
    change(plugin, "student.logits, teacher", "student.logit, teacher")
    code, out, _ = invoke("check", str(plugin), "--json", "--only", "each loss", "--verbose")
    assert code == 1
    (component,) = json.loads(out)["components"]
    (_, verdict) = component["promises"]
    line = next(i for i, x in enumerate(plugin.read_text().splitlines(), 1) if "student.logit," in x)
    assert verdict["where"] == f"{plugin.resolve()}:{line}"
    assert "AttributeError" in verdict["found"]
    assert "Traceback" in verdict["traceback"]
    assert not component["ok"]


def test_a_name_a_qualified_name_and_a_package_folder(plugin: Path, invoke: Invoke) -> None:
    package = Path("plugins/pack")
    package.mkdir()
    (package / "__init__.py").write_text(plugin.read_text().replace('"mine"', '"packed"'))
    for args in (
        ("mine", "--plugins-dir", "plugins"),
        ("local.pack/packed", "--plugins-dir", "plugins"),
        ("plugins/pack",),
        ("mean", "--kind", "routing"),
    ):
        code, out, err = invoke("check", *args, "--only", "does not train")
        assert code == 0, (args, out + err)
        assert "2 of 2 promises kept." in out


def test_a_promise_that_no_contract_has_can_be_meant(plugin: Path, invoke: Invoke) -> None:
    for words in ("its name", "Its NAME is"):
        code, out, err = invoke("check", str(plugin), "--only", words)
        assert (code, err) == (0, "")
        assert out.splitlines()[1:] == ["  ok    Its name is unique.", "1 of 1 promises kept."]


def test_the_package_that_new_wrote_and_a_file_of_it(tmp_path: Path, plugin: Path, invoke: Invoke) -> None:
    write_package("distiller", "gated", Path())
    for place in (
        "wbcbench-gated",
        "wbcbench-gated/src/wbcbench_gated",
        "wbcbench-gated/src/wbcbench_gated/__init__.py",
        "wbcbench-gated/src/wbcbench_gated/gated.py",
    ):
        code, out, err = invoke("check", place, "--only", "does not train")
        assert code == 0, (place, out + err)
        assert out.startswith("distiller local.wbcbench_gated/gated (wbcbench-gated/src/wbcbench_gated/")
        assert "2 of 2 promises kept." in out
    # a clash with somebody else's stays one
    write_file("distiller", "gated", Path("plugins"))
    code, out, _ = invoke("check", "wbcbench-gated", "--plugins-dir", "plugins", "--only", "its name")
    assert code == 1
    assert "offered by local.gated" in out
    # what is no plugin says what would be one
    Path("wbcbench-gated/pyproject.toml").write_text("[project]\nname = 'x'\n")
    code, _, err = invoke("check", "wbcbench-gated")
    assert code == 2
    assert "entry points of wbcbench" in err


def test_a_file_that_is_installed_in_place_goes_by_its_own_name(invoke: Invoke) -> None:
    dkd = Path(wbcbench_plugins.__file__).parent / "distillers" / "dkd.py"
    code, out, err = invoke("check", str(dkd), "--only", "its name")
    assert code == 0, out + err
    assert out.startswith("distiller dkd (")


def test_parameters_to_test_with(plugin: Path, invoke: Invoke) -> None:
    change(plugin, "        return {", "        assert self.params.temperature != 7\n        return {")
    assert invoke("check", str(plugin), "--only", "each loss")[0] == 0
    code, out, _ = invoke("check", str(plugin), "--only", "each loss", "--set", "temperature=7")
    assert code == 1
    assert "FAIL" in out
    code, _, err = invoke("check", str(plugin), "--set", "temprature=7")
    assert code == 2
    assert "Did you mean 'temperature'" in err


def test_a_taken_name_is_a_broken_promise(plugin: Path, invoke: Invoke) -> None:
    change(plugin, 'name = "mine"', 'name = "dkd"')
    code, out, _ = invoke("check", str(plugin), "--only", "each loss")
    assert code == 1
    assert "FAIL  Its name is unique." in out
    assert "offered by wbcbench" in out


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("mien", "--plugins-dir", "plugins"), 2, "Did you mean 'mine'"),
        (("plugins/absent.py",), 2, "does not exist"),
        (("plugins/test_mine.py",), 2, "helper or a test"),
        (("mean",), 2, "Say which: --kind fusion"),
        (("plugins/mine.py", "--kind", "fusion"), 2, "Expected a fusion in plugins/mine.py"),
        (("plugins/mine.py", "--only", "colour"), 2, "'colour' is in none of: Its name is unique."),
        (("mine", "--kind", "fusoin"), 2, "Did you mean 'fusion'"),
    ],
)
def test_usage(args: tuple[str, ...], code: int, says: str, plugin: Path, invoke: Invoke) -> None:
    got, out, err = invoke("check", *args)
    assert got == code, out
    assert says in err


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import not_installed_here\n", "not_installed_here"),
        ("import sys\nsys.exit(3)\n", "sys.exit(3)"),
        ("def broken(:\n", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_imported(source: str, says: str, plugin: Path, invoke: Invoke) -> None:
    text = plugin.read_text().replace("from __future__ import annotations\n", "")
    plugin.write_text(source + text)
    code, _, err = invoke("check", str(plugin))
    assert code == 4, err
    assert says in err


def test_without_pytest_it_says_how_to_get_it(
    plugin: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *a: None if name == "pytest" else find(name, *a))
    code, _, err = invoke("check", str(plugin))
    assert code == 2
    assert "pip install pytest" in err


def test_the_user_s_own_pytest_set_up_is_left_out(
    plugin: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    Path("conftest.py").write_text("raise RuntimeError('conftest')\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option-either")
    before = dict(os.environ), sys.stdout
    code, out, err = invoke("check", str(plugin), "--only", "each loss")
    assert code == 0, out + err
    assert {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"} == {
        k: v for k, v in before[0].items() if k != "PYTEST_CURRENT_TEST"
    }
    assert sys.stdout is before[1]


@pytest.mark.slow
def test_watch_checks_again_when_the_file_changes(plugin: Path) -> None:
    words = [sys.executable, "-m", "wbcbench", "check", str(plugin), "--watch", "--only", "each loss"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert next(line for line in lines if "kept" in line or "Error" in line).startswith("2 of 2")
        change(plugin, ".square().sum(1)", ".square()")
        assert any(line.startswith("  FAIL  Each loss") for line in lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_what_cannot_be_watched_is_refused(plugin: Path, invoke: Invoke) -> None:
    for args, wrong in (((str(plugin), "--json"), "--json"), (("logits",), "'logits'")):
        code, _, err = invoke("check", *args, "--watch")
        assert code == 2
        assert wrong in err
