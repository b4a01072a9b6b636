"""Files are imported once, elsewhere, whatever they do; what was found is kept and never believed too long."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wbcbench.errors import ExitCode, PluginError
from wbcbench.registry import LoadReport, PluginOptions, Registry, index, load_plugins
from wbcbench.registry.probe import PROBE
from wbcbench.registry.provenance import PluginSource, builtin_folder

Load = Callable[..., tuple[Registry, LoadReport]]
Folder = Callable[..., Path]

GOOD = """
    import os, pathlib
    from wbcbench.contracts import Fusion, FusionTraits
    with open({log!r}, "a") as file:
        file.write("imported\\n")
    class Good(Fusion):
        "Good."
        name = "good"
        traits = FusionTraits(arity=(2, {high}))
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "imports.log"


def arity(folder: Path) -> tuple[int, int | None]:
    return load_plugins(PluginOptions((folder,)))[0].declared("fusion", "good").fusion_traits.arity


def kept(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache" / "plugins").iterdir()
    return file


def test_a_file_is_imported_once_and_again_when_it_was_edited(folder: Folder, log: Path) -> None:
    path = folder(good=GOOD.format(log=str(log), high=2))
    assert [arity(path), arity(path)] == [(2, 2), (2, 2)]
    assert log.read_text().count("imported") == 1
    folder(good=GOOD.format(log=str(log), high=3))
    assert [arity(path), arity(path)] == [(2, 3), (2, 3)]
    assert log.read_text().count("imported") == 2
    (path / "_helper.py").write_text("")
    assert arity(path) == (2, 3)
    assert log.read_text().count("imported") == 3, "it may import the new helper"


def test_an_edited_base_in_another_file_is_seen(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = "from wbcbench.contracts import Fusion\nclass Base(Fusion):\n    arity = (2, {})\n"
    (tmp_path / "bases_of_mine.py").write_text(base.format(2))
    monkeypatch.syspath_prepend(str(tmp_path))
    path = folder(good="from bases_of_mine import Base\nclass Good(Base):\n    name = 'good'")
    assert arity(path) == (2, 2)
    # longer: Python takes a file of the same size, edited within a second, for the one whose bytecode it kept
    (tmp_path / "bases_of_mine.py").write_text(base.format(3) + "\n")
    assert arity(path) == (2, 3)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"sha256": "", "entry": {}}', None])
def test_a_damaged_index_is_made_anew(tmp_path: Path, folder: Folder, log: Path, damage: str | None) -> None:
    path = folder(good=GOOD.format(log=str(log), high=2))
    assert arity(path) == (2, 2)
    text = kept(tmp_path).read_text()
    kept(tmp_path).write_text(text.replace("[2, 2]", "[2, 9]") if damage is None else damage)
    assert arity(path) == (2, 2)
    assert kept(tmp_path).read_text() == text
    assert log.read_text().count("imported") == 2


def test_an_index_of_other_contracts_is_made_anew(
    folder: Folder, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(good=GOOD.format(log=str(log), high=2))
    assert arity(path) == (2, 2)
    monkeypatch.setattr(index, "contracts_digest", lambda: "another")
    assert arity(path) == (2, 2)
    assert log.read_text().count("imported") == 2


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, folder: Folder, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WBCBENCH_CACHE", str(tmp_path / "file" / "below"))
    path = folder(good=GOOD.format(log=str(log), high=2))
    assert [arity(path), arity(path)] == [(2, 2), (2, 2)]
    assert log.read_text().count("imported") == 2


def test_a_plugin_that_fails_since_it_was_edited_is_still_known_by_its_names(load: Load) -> None:
    source = "from wbcbench.contracts import Fusion\nclass Good(Fusion):\n    name = 'go' + 'od'\n"
    load(good=source)
    registry, report = load(good=f"{source}1 / 0\n")
    assert report.failed
    with pytest.raises(PluginError, match=r"local\.good.*ZeroDivisionError"):
        registry.get("fusion", "good")


def test_two_processes_at_once(tmp_path: Path, folder: Folder, log: Path) -> None:
    path = folder(good=GOOD.format(log=str(log), high=2))
    command = [sys.executable, "-m", "wbcbench", "show", "fusion", "good", "--json", "--plugins-dir", str(path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [json.loads(p.communicate(timeout=100)[0])["arity"] for p in both] == [[2, 2], [2, 2]]
    assert [p.suffix for p in kept(tmp_path).parent.iterdir()] == [".json"]


HOSTILE = {
    "leaves": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "dies": ("import os; os._exit(0)", "ended the process that ran it with exit code 0"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "by signal 11"),
    "hangs": ("while True: pass", "took longer than 2 s"),
    "sleeps": ("import time; time.sleep(1000)", "took longer than 2 s"),
    "asks": ("input()", "EOFError"),
    "raises": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_whatever_an_import_does_is_that_plugins_failure(
    load: Load, how: str, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setenv("WBCBENCH_PLUGIN_TIMEOUT", "2")
    code, reason = HOSTILE[how]
    registry, report = load(
        bad=f"from wbcbench.contracts import Fusion\nclass Bad(Fusion):\n    name = 'bad'\n{code}\n",
        good="from wbcbench.contracts import Fusion\nclass Good(Fusion):\n    name = 'good'\n",
    )
    (failed,) = report.failed
    assert failed.provider == "local.bad"
    assert reason in failed.reason
    assert registry.declared("fusion", "good").name == "good"
    if how in ("hangs", "sleeps"):
        assert "bad.py" in failed.traceback, "where it was when its time was over"
    exit_code, out, err = invoke("show", "fusion", "bad", "--plugins-dir", str(Path(failed.origin).parent))
    assert (exit_code, out) == (ExitCode.PLUGIN_FAILED, "")
    assert "local.bad" in err
    assert "--no-plugins=local.bad" in err


def test_what_leaves_only_while_it_is_used_ends_with_4_too(folder: Folder) -> None:
    path = folder(
        late="""
        import os, sys
        from wbcbench.contracts import Fusion
        if os.environ.get("NOW"): sys.exit(0)
        class Late(Fusion):
            name = "leaver"
        """
    )
    registry, _ = load_plugins(PluginOptions((path,)))
    assert registry.get("fusion", "leaver")
    done = wbcbench("check", "leaver", "--plugins-dir", str(path), NOW="1")
    assert done.returncode == ExitCode.PLUGIN_FAILED
    assert "local.late" in done.stderr


def test_what_a_plugin_prints_is_no_part_of_the_document(folder: Folder, cells_file: Path) -> None:
    path = folder(
        loud="""
        import os, sys
        from wbcbench_plugins.fusions.early import Early
        print("from print")
        os.write(1, b"from a library\\n") if os.environ.get("DEEP") else None
        class Loud(Early):
            name = "loud"
        """
    )
    for number, args in enumerate((["show", "fusion", "loud"], ["list"], ["plugins"])):
        done = wbcbench(*args, "--json", "--plugins-dir", str(path), DEEP="1")
        json.loads(done.stdout)
        imported = number == 0  # later it is in the index
        assert ("from print" in done.stderr) == ("from a library" in done.stderr) == imported
    done = wbcbench(
        "run", "--json", "--plugins-dir", str(path), "--fusion", "loud", "--kd", "none", "--dataset", "npz",
        "--set", f"dataset.path={cells_file}", "--epochs", "1", "--backbone", "cellnet:width=4", "--device", "cpu",
        "--store", str(path.parent / "store"),
    )  # fmt: skip
    assert [r["status"] for r in json.loads(done.stdout)["records"]] == ["done"]
    assert "from print" in done.stderr


def test_an_edited_builtin_is_read_as_anyones_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "wbcbench_plugins"
    shutil.copytree(builtin_folder(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    mean = copy / "fusions" / "mean.py"
    mean.write_text(mean.read_text().replace("FusionTraits(", "FusionTraits(arity=(2, 7), "))
    (copy / "fusions" / "concat.py").write_text("1 / 0\nname = 'concat'")
    code = (
        "import json, sys\nfrom wbcbench.registry import *\nregistry, report = load_plugins(PluginOptions())\n"
        "failed = [(p.provider, p.origin, p.reason) for p in report.failed]\n"
        "arity = registry.declared('fusion', 'mean').fusion_traits.arity\n"
        "print(json.dumps([arity, failed, len(registry.components()), "
        "'torch' in sys.modules]))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, failed, count, torch = json.loads(done.stdout)
    assert found == [2, 7]
    assert failed == [["wbcbench", str(copy / "fusions" / "concat.py"), "ZeroDivisionError: division by zero"]]
    assert count == len(load_plugins(PluginOptions(block_all=True))[0].components()) - 1
    assert not torch


def test_the_process_that_imports_may_be_gone(folder: Folder, log: Path) -> None:
    path = folder(good=GOOD.format(log=str(log), high=2))
    assert arity(path) == (2, 2)
    assert PROBE._process is not None
    PROBE._process.kill()
    PROBE._process.wait()
    folder(good=GOOD.format(log=str(log), high=3))
    assert arity(path) == (2, 3)


def test_without_forks_each_plugin_has_a_process(
    folder: Folder, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.platform = 'elsewhere'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WBCBENCH_PLUGIN_TIMEOUT", "20")
    path = folder(
        bad="import os; os._exit(3)", good=GOOD.format(log=str(log), high=2), zzz="import sys; sys.exit('bye')"
    )
    PROBE.close()
    try:
        registry, report = load_plugins(PluginOptions((path,)))
    finally:
        PROBE.close()
    assert registry.declared("fusion", "good").fusion_traits.arity == (2, 2)
    assert [p.reason for p in report.failed] == [
        "its import ended the process that ran it with exit code 3", "SystemExit: bye",
    ]  # fmt: skip


def test_a_source_is_found_without_importing_the_packages_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly" / "inner").mkdir(parents=True)
    for folder in ("deadly", "deadly/inner"):
        (tmp_path / folder / "__init__.py").write_text("raise SystemExit(1)")
    (tmp_path / "deadly" / "inner" / "leaf.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (
        PluginSource("x", "deadly.inner.leaf:plugin", "entry_point").path
        == tmp_path / "deadly" / "inner" / "leaf.py"
    )
    assert PluginSource("x", "deadly.inner", "entry_point").path == tmp_path / "deadly" / "inner" / "__init__.py"
    assert PluginSource("x", "deadly.none:plugin", "entry_point").path is None


@pytest.mark.slow
def test_names_are_told_fast_and_without_torch(folder: Folder, log: Path) -> None:
    """Within 0.3 s of processor time, or 12 times what a bare interpreter takes on a slow machine."""
    path = folder(good=GOOD.format(log=str(log), high=2))
    mine = ("--plugins-dir", str(path))
    wbcbench("list", *mine)
    for args in (["list"], ["list", *mine], ["show", "fusion", "independent"], ["show", "fusion", "good", *mine]):
        took, bare = [], []
        while not took or (len(took) < 5 and min(took) >= 0.3):
            bare.append(seconds([sys.executable, "-c", "pass"]))
            took.append(seconds([sys.executable, "-m", "wbcbench", *args]))
        assert min(took) < max(0.3, 12 * min(bare)), (args, took, bare)
    assert log.read_text().count("imported") == 1


def seconds(command: list[str]) -> float:
    """Of processor time, which other processes change little."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def wbcbench(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wbcbench", *args], capture_output=True, text=True, env={**os.environ, **env}
    )
