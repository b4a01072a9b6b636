"""Every way in which a plugin can go wrong is reported, rolled back, and leaves the others alone."""

from __future__ import annotations

import hashlib
import logging
import pickle
import sys

import pytest

from wbcbench.errors import ExitCode, NameClashError, PluginError, UnknownNameError, UsageError
from wbcbench.registry import qualified_name
from wbcbench.registry.loading import PluginOptions, load_plugins

GOOD = """
    from wbcbench.contracts import Fusion

    class Good(Fusion):
        "A good one."
        name = "good"
        aliases = ("fine",)
"""
HOOKED = """
    from wbcbench.hookspecs import hookimpl
    wbcbench_api = 1

    @hookimpl
    def wbcbench_register_fusions(register):
        register("hooked", "wbcbench_local.hooked:Hooked", summary="By hand.")
"""
BROKEN = {
    "import": ("from wbcbench.hookspecs import hookimpl\nimport not_installed_here", "not_installed_here"),
    "syntax": ("class X(Fusion:\n    name = 'lost'", "SyntaxError"),
    "exit": ("from wbcbench.hookspecs import hookimpl\nraise SystemExit(7)", "SystemExit: 7"),
    "signature": (
        """
        from wbcbench.hookspecs import hookimpl
        @hookimpl
        def wbcbench_register_fusions(registry): ...
        """,
        "registry",
    ),
    "misspelt": (
        """
        from wbcbench.hookspecs import hookimpl
        @hookimpl
        def wbcbench_register_fusion(register):
            register("lost", "a:B")
        """,
        "Did you mean 'wbcbench_register_fusions'",
    ),
    "unmarked": (
        """
        from wbcbench.hookspecs import hookimpl
        def wbcbench_register_fusions(register):
            register("lost", "a:B")
        """,
        "lacks the decorator @hookimpl",
    ),
    "api": ("from wbcbench.hookspecs import hookimpl\nwbcbench_api = 99", "API 99, but this wbcbench has 1"),
    "target": (
        """
        from wbcbench.hookspecs import hookimpl
        @hookimpl
        def wbcbench_register_fusions(register):
            register("first", "a:B")
            register("lost", 3)
        """,
        "but got 3",
    ),
    "twice": (
        """
        from wbcbench.hookspecs import hookimpl
        @hookimpl
        def wbcbench_register_fusions(register):
            register("lost", "a:B")
            register("lost", "a:C")
        """,
        "registered twice",
    ),
    "badname": (
        """
        from wbcbench.hookspecs import hookimpl
        @hookimpl
        def wbcbench_register_fusions(register):
            register("no spaces", "a:B")
        """,
        "'no spaces'",
    ),
    "empty": ("x = 1", "found neither"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_plugin_is_reported_and_the_others_load(load, case):
    source, reason = BROKEN[case]
    registry, report = load(aaa=GOOD, mid=source, zzz=GOOD.replace("good", "last").replace("fine", "end"))
    status = {p.provider: p for p in report.plugins}
    assert status["local.mid"].status == "failed"
    assert reason in status["local.mid"].reason
    assert "\n" not in status["local.mid"].reason
    assert "Traceback" in status["local.mid"].traceback
    assert registry.components(provider="local.mid") == []
    assert {"good", "last"} <= set(registry.names("fusion"))
    assert [p.provider for p in report.failed] == ["local.mid"]


@pytest.mark.parametrize("case", ["syntax", "misspelt", "unmarked", "target", "twice"])
def test_asking_for_a_failed_plugins_component_is_a_plugin_error_with_its_traceback(load, case):
    registry, _ = load(mid=BROKEN[case][0])
    for name in ("lost", "local.mid/lost"):
        with pytest.raises(PluginError, match="Traceback") as caught:
            registry.resolve("fusion", name)
        assert caught.value.exit_code == ExitCode.PLUGIN_FAILED
    with pytest.raises(UnknownNameError):
        registry.resolve("fusion", "something-else")


def test_a_plugin_that_failed_while_it_was_hooked_hears_nothing_later(load):
    _, report = load(
        mid="""
        from wbcbench.hookspecs import hookimpl
        heard = []
        @hookimpl
        def wbcbench_trial_started(trial):
            heard.append(trial)
        @hookimpl
        def wbcbench_register_fusions(register):
            raise RuntimeError("no")
        """
    )
    report.observers.trial_started("trial")
    assert report.failed
    assert "wbcbench_local.mid" not in sys.modules


def test_hooked_and_plain_files_are_offered_with_provider_origin_and_digest(load, tmp_path):
    registry, report = load(
        good=GOOD,
        hooked=HOOKED,
        _helper="raise ValueError",
        **{"pack/__init__": GOOD.replace("good", "from_a_package").replace("fine", "p")},
    )
    good = registry.get("fusion", "fine")
    path = tmp_path / "plugins" / "good.py"
    assert (good.name, good.provider, good.summary) == ("good", "local.good", "A good one.")
    assert good.origin == f"{path}:4"
    assert good.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert qualified_name(good) == "local.good/good"
    assert registry.get("fusion", "local.good/good") is good
    assert registry.get("fusion", "local.good/fine") is good
    assert registry.get("fusion", "hooked").origin.endswith("hooked.py:7")
    assert registry.get("fusion", "from_a_package").provider == "local.pack"
    assert {p.provider for p in report.plugins} == {"wbcbench", "local.good", "local.hooked", "local.pack"}
    assert "wbcbench_local.good" not in sys.modules


def test_loading_gives_the_real_class_once(load):
    registry, _ = load(good=GOOD)
    cls = registry.load(registry.get("fusion", "good"))
    assert cls is registry.load(registry.get("fusion", "fine"))
    assert cls is sys.modules["wbcbench_local.good"].Good


def test_loading_what_does_not_import_or_is_of_another_kind_is_a_plugin_error(load):
    registry, report = load(
        lagging="from wbcbench.contracts import Fusion\nimport not_installed_here\n"
        "class L(Fusion):\n    name = 'lagging'",
        wrong="""
        from wbcbench.contracts import Policy, hookimpl
        class W(Policy): ...
        @hookimpl
        def wbcbench_register_fusions(register):
            register("wrong", W)
            register("absent", "not_installed_here:X")
        """,
    )
    assert [p.provider for p in report.failed] == ["local.lagging"]
    with pytest.raises(PluginError, match="not_installed_here"):
        registry.get("fusion", "lagging")
    for name, message in (
        ("wrong", r"subclass of wbcbench\.contracts\.Fusion"),
        ("absent", r"not_installed_here.*--no-plugins=local\.wrong"),
    ):
        for read in (registry.load, registry.declaration):
            with pytest.raises(PluginError, match=message):
                read(registry.get("fusion", name))


def test_a_clash_refuses_the_bare_name_only(load):
    registry, report = load(one=GOOD, two=GOOD.replace("good", "other").replace('"fine"', '"good"'))
    with pytest.raises(NameClashError, match=r"local\.one.*one\.py:4.*local\.two.*two\.py:4") as caught:
        registry.resolve("fusion", "good")
    assert caught.value.exit_code == ExitCode.USAGE
    assert registry.get("fusion", "local.one/good").provider == "local.one"
    assert registry.get("fusion", "local.two/good").name == "other"
    assert registry.get("fusion", "fine").provider == "local.one"
    assert len(report.clashes) == 1
    assert "local.one/good" in registry.names("fusion")


def test_two_plugins_of_one_name(tmp_path):
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "same.py").write_text(
            "from wbcbench.contracts import Fusion\nclass X(Fusion):\n    name = 'x'"
        )
    registry, report = load_plugins(PluginOptions((tmp_path / "a", tmp_path / "b")))
    assert [p.status for p in report.plugins if p.provider == "local.same"] == ["ok", "failed"]
    assert registry.get("fusion", "x").origin.startswith(str(tmp_path / "a"))


def test_blocked_plugins_are_named_and_never_imported(load):
    sentinel = "from wbcbench.hookspecs import hookimpl\nimport sys\nsys.blocked_was_imported = True"
    registry, report = load(blocked=("one",), one=sentinel, two=GOOD)
    assert {p.provider: p.status for p in report.plugins} == {
        "wbcbench": "ok", "local.one": "blocked", "local.two": "ok",
    }  # fmt: skip
    assert not hasattr(sys, "blocked_was_imported")
    with pytest.raises(UsageError, match="blocked"):
        registry.resolve("fusion", "local.one/x")
    registry, report = load(block_all=True, one=sentinel, two=GOOD)
    assert [p.status for p in report.plugins] == ["ok", "blocked", "blocked"]
    assert registry.components(provider="local.two") == []


def test_options_from_the_environment(folder, monkeypatch, tmp_path):
    path = folder(good=GOOD, two=GOOD.replace("good", "x").replace("fine", "y"))
    monkeypatch.setenv("WBCBENCH_PLUGIN_PATH", f"{path}:{tmp_path / 'absent'}")
    monkeypatch.setenv("WBCBENCH_DISABLE_PLUGINS", "local_two , other")
    options = PluginOptions.from_environment(blocked=["third"])
    assert options.blocked == {"local_two", "other", "third"}
    assert pickle.loads(pickle.dumps(options)) == options
    _, report = load_plugins(PluginOptions.from_environment(blocked=["local.two"]))
    assert {p.provider: p.status for p in report.plugins if not p.builtin} == {
        "local.good": "ok", "local.two": "blocked", "local.absent": "failed",
    }  # fmt: skip


def test_observers_are_called_and_one_failure_stops_nobody(load, caplog):
    observer = """
        from wbcbench.hookspecs import hookimpl
        heard = []
        @hookimpl
        def wbcbench_trial_started(trial):
            {first}
            heard.append(trial)
        @hookimpl
        def wbcbench_trial_finished(record, trial):
            heard.append((trial, record))
    """
    _, report = load(
        aa=observer.format(first="pass"), bb=observer.format(first="1 / 0"), cc=observer.format(first="pass")
    )
    with caplog.at_level(logging.WARNING):
        report.observers.trial_started("t")
        report.observers.trial_finished("t", "r")
    heard = [sys.modules[f"wbcbench_local.{n}"].heard for n in ("aa", "bb", "cc")]
    assert heard == [["t", ("t", "r")], [("t", "r")], ["t", ("t", "r")]]
    assert "local.bb" in caplog.text


def test_unknown_names_kinds_and_providers(load):
    registry, _ = load(good=GOOD)
    with pytest.raises(UnknownNameError, match="Did you mean 'good'"):
        registry.resolve("fusion", "goood")
    with pytest.raises(UnknownNameError, match="list policies"):
        registry.resolve("policy", "goood")
    with pytest.raises(UsageError, match=r"No plugin is called 'local\.god'\. Did you mean 'local\.good'"):
        registry.resolve("fusion", "local.god/good")
    with pytest.raises(UsageError, match="kind"):
        registry.resolve("fusions", "good")


def test_a_loaded_registry_is_frozen(load):
    registry, _ = load(good=GOOD)
    with pytest.raises(RuntimeError, match="frozen"):
        registry.add(registry.get("fusion", "good"))
