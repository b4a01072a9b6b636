"""Diagnose an installation, a machine and a store, and suggest fixes. Changes nothing."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement

import wbcbench
from wbcbench.errors import did_you_mean
from wbcbench.records.environment import version_of

if TYPE_CHECKING:
    from wbcbench.records.store import Store
    from wbcbench.registry.loading import PluginOptions


State = Literal["ok", "note", "problem"]
"""note: for information; nothing fails because of it."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    about: str
    state: State
    text: str
    fix: str = ""
    """What to do; a problem always has one."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


Findings = Iterator[Finding]


IMPORTED = ("torch", "torchvision", "timm", "ray", "optuna", "pandas", "sklearn")
"""Packages to import, since they may be installed but fail to load: built for another torch, or a library is
missing."""
_OWN_VARIABLES = ("STORE", "CACHE", "PLUGIN_PATH", "DISABLE_PLUGINS", "PLUGIN_TIMEOUT", "TRACEBACK", "DATA")


def python() -> Findings:
    """The interpreter, and whether it is in a virtual environment."""
    own = sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if own:
        yield Finding("Python", "ok", text)
    else:
        fix = f"python3 -m venv .venv && .venv/bin/pip install {_requirement()}"
        yield Finding("Python", "note", f"{text}, not in a virtual environment", fix)


def packages() -> Findings:
    """Every requirement is installed in a suitable version, and loads."""
    try:
        needed = [Requirement(text) for text in metadata.requires("wbcbench") or []]
    except metadata.PackageNotFoundError:
        text = "wbcbench runs from a source folder and is not installed"
        yield Finding("packages", "problem", text, f"pip install {_requirement()}")
        return
    wrong = False
    for one in needed:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        have = version_of(one.name)
        if have is None or not one.specifier.contains(have, prereleases=True):
            wrong = True
            state = "is not installed" if have is None else f"is {have}"
            wanted = f"{one.name}{one.specifier}"
            yield Finding(
                "packages", "problem", f"{one.name} {state}, {wanted} is needed", f"pip install '{wanted}'"
            )
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:
            wrong = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            fix = "pip install --force-reinstall torch torchvision timm" if "torch" in reason + name else (
                f"pip install --force-reinstall {name}")  # fmt: skip
            yield Finding("packages", "problem", f"{name} is installed but does not load: {reason}", fix)
    if not wrong:
        shown = ", ".join(f"{n} {version_of(n)}" for n in ("wbcbench", "torch", "timm", "ray", "optuna"))
        yield Finding("packages", "ok", shown)


def extras() -> Findings:
    """Which extras are installed."""
    if version_of("wbcbench") is None:
        return  # reported by `packages`
    have: dict[str, bool] = {}
    for text in metadata.requires("wbcbench") or []:
        one = Requirement(text)
        named = re.search(r"""extra == ["']([^"']+)["']""", str(one.marker))
        if named is not None:
            have[named[1]] = have.get(named[1], True) and version_of(one.name) is not None
    there = sorted(e for e, whole in have.items() if whole)
    missing = sorted(e for e, whole in have.items() if not whole)
    text = f"installed: {', '.join(there) or 'none'}"
    if missing:
        text += f"; not installed: {', '.join(missing)}"
    yield Finding("extras", "ok", text, f"pip install {_requirement(missing)}" if missing else "")


def _requirement(extras: Sequence[str] = ()) -> str:
    """The requirement for pip: wbcbench from the same source as this installation, which may be a folder."""
    named = f"[{','.join(extras)}]" if extras else ""
    try:
        origin = json.loads(metadata.distribution("wbcbench").read_text("direct_url.json") or "{}")
        path = Path(unquote(urlsplit(str(origin.get("url", ""))).path)) if "dir_info" in origin else None
        editable = bool(origin.get("dir_info", {}).get("editable"))
    except metadata.PackageNotFoundError:
        path, editable = Path(wbcbench.__file__).parents[1], True
    if path is None or not path.is_dir():
        return f"'wbcbench{named}'" if named else "wbcbench"
    where = "." if path == Path.cwd() else str(path)
    return ("-e " if editable else "") + (f"'{where}{named}'" if named or " " in where else where)


def loaded(options: PluginOptions) -> Findings:
    """The status of every plugin."""
    from wbcbench.registry.loading import load_plugins

    _, report = load_plugins(options)
    for plugin in report.failed:
        fix = f"`wbcbench plugins --verbose` shows the traceback; --no-plugins={plugin.provider} disables it"
        yield Finding("plugins", "problem", f"{plugin.provider} was not loaded: {plugin.reason}", fix)
    for plugin in report.plugins:
        if plugin.status == "blocked":
            yield Finding("plugins", "note", f"{plugin.provider} is blocked: {plugin.reason}")
    for note in (n for p in report.plugins for n in (*p.skipped, *p.outdated)):
        yield Finding("plugins", "note", note)
    for clash in report.clashes:
        yield Finding("plugins", "note", f"name clash: {clash}")
    fine = [p for p in report.plugins if p.status == "ok"]
    total = sum(p.components for p in fine)
    yield Finding("plugins", "ok", f"{len(fine)} loaded, {total} components")


def variables() -> Findings:
    """`WBCBENCH_*` variables: their values, and unknown ones."""
    from wbcbench.spec.load import ARGUMENTS, variable

    known = {*map(variable, (*ARGUMENTS, "track")), *(f"WBCBENCH_{n}" for n in _OWN_VARIABLES)}
    given = sorted(n for n in os.environ if n.startswith("WBCBENCH_"))
    for name in given:
        if name not in known:
            text = f"{name} is set, but wbcbench does not use it.{did_you_mean(name, sorted(known))}"
            yield Finding("variables", "problem", text, f"unset {name}")
    shown = ", ".join(f"{n}={os.environ[n]}" for n in given if n in known)
    yield Finding("variables", "ok", shown or "none set")


GIB = 2**30
RAY_SESSION = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""What Ray appends to its temp folder; a socket's path may have 107 characters (macOS: 103)."""


def processor() -> Findings:
    """Cores that this process may use, and threads per trial."""
    import torch
    from joblib import cpu_count

    usable, whole = int(cpu_count()), os.cpu_count() or 1
    limited = "" if usable == whole else f" of {whole} (limited by a container or a job)"
    text = f"{usable} cores{limited}, torch uses {torch.get_num_threads()} threads"
    yield Finding("processor", "ok", text)


def gpu() -> Findings:
    """GPUs that torch can use; and a GPU that exists but cannot be used."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(count):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        yield Finding("GPU", "ok", f"cuda:{i} {name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free")
    if torch.backends.mps.is_available():
        yield Finding("GPU", "ok", "mps (Apple): one trial at a time, without Ray")
    elif not count and shutil.which("nvidia-smi"):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None:
            text = f"an NVIDIA driver is installed, but CUDA_VISIBLE_DEVICES={hidden!r} hides its GPUs"
            yield Finding("GPU", "problem", text, "unset CUDA_VISIBLE_DEVICES")
        else:
            text = f"an NVIDIA driver is installed, but torch {torch.__version__} finds no GPU"
            fix = "run `nvidia-smi`; if it shows one, install a torch for its CUDA version"
            yield Finding("GPU", "problem", text, fix)
    elif not count:
        yield Finding("GPU", "ok", "none: trials run on the processor")


def memory() -> Findings:
    """Free memory."""
    import psutil

    seen = psutil.virtual_memory()
    text = f"{seen.available / GIB:.1f} of {seen.total / GIB:.1f} GiB free"
    if seen.available < 2 * GIB:
        yield Finding(
            "memory", "problem", text, "Close other programs: a trial with its libraries takes about 1 GiB."
        )
    else:
        yield Finding("memory", "ok", text)


def ray_needs() -> Findings:
    """Shared memory, and a temp folder whose path is short enough for sockets."""
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        if free < GIB / 4:
            text = f"only {free / 2**20:.0f} MiB of shared memory (/dev/shm): Ray falls back to slow files"
            yield Finding("Ray", "note", text, "in Docker: --shm-size 2g")
    temp = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(temp + RAY_SESSION) > 103:
        text = f"the temp folder {temp} is too long for Ray's sockets; /tmp is used instead"
        yield Finding("Ray", "note", text, "export RAY_TMPDIR=/tmp")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        text = f"RAY_ADDRESS={address} is set, but ignored: wbcbench starts its own Ray"
        yield Finding("Ray", "note", text, f"--ray-address {address} joins that cluster")
    import ray

    yield Finding("Ray", "ok", f"{ray.__version__}; only started if several trials run at once")


LEAST = GIB
"""Free bytes below which a sweep may fail."""


def stored_records(root: Path, digests: bool = True) -> Findings:
    """The number of records, damaged ones by name, and failed and interrupted trials.

    Args:
        root: of the store.
        digests: read all files of all records; else only their results and specifications.
    """
    yield from _room("store", root)
    if not root.is_dir():
        yield Finding("store", "ok", f"{root} does not exist yet; the first run creates it")
        return
    from wbcbench.records.store import Store

    began = time.monotonic()
    good, bad = Store(root).scan(verify=digests)
    seconds = time.monotonic() - began
    for path, error in bad:
        fix = f"move {path} out of the store and run the same command again to retrain it"
        yield Finding("store", "problem", str(error), fix)
    yield from _beside(Store(root), {r.trial.id: r.result.digest for r in good})
    failures = sorted((root / "failures").glob("*")) if (root / "failures").is_dir() else []
    if failures:
        yield Finding("store", "note", f"{len(failures)} trials failed; the errors are in {root / 'failures'}",
                      "run the same command again to retry failed trials")  # fmt: skip
    done = {r.trial.id for r in good}
    work = [p for p in (root / "work").iterdir() if p.name not in done] if (root / "work").is_dir() else []
    if work:
        yield Finding("store", "note", f"{len(work)} trials were interrupted or are running",
                      "run the same command again to resume them from their last epoch")  # fmt: skip
    checked = f"digests checked in {seconds:.1f} s" if digests else "digests not checked (--quick)"
    yield Finding("store", "ok", f"{root}: {len(good)} records, {_size(root) / GIB:.1f} GiB, {checked}")


def _beside(store: Store, digests: dict[str, str]) -> Findings:
    """Invalid evaluations, references and studies; `digests` are those of valid records."""
    from wbcbench.errors import RecordError
    from wbcbench.records.deployed import read_deployed
    from wbcbench.records.evaluations import read_examination
    from wbcbench.records.external import read_external
    from wbcbench.searches.files import studies
    from wbcbench.training.report import read_reference

    for path in sorted((store.root / "evaluations").glob("*.json")):
        try:
            if path.stem in digests:
                read_examination(path, digests[path.stem])
        except RecordError as error:
            fix = f"delete {path} and run the same command with --evaluate full again"
            yield Finding("store", "problem", str(error), fix)
    for folder, read in (("evaluations", read_external), ("deployed", read_deployed)):
        for path in sorted((store.root / folder).glob("*/*.json")):
            try:
                if path.stem in digests:
                    read(path, digests[path.stem])
            except RecordError as error:
                yield Finding("store", "problem", str(error), f"delete {path} and run `wbcbench evaluate` again")
    for path in sorted((store.root / "references").glob("*.npz")):
        try:
            if path.stem in digests:
                read_reference(path, digests[path.stem])
        except RecordError as error:
            fix = f"delete {path}; `wbcbench predict` with the training cells makes it again"
            yield Finding("store", "problem", str(error), fix)
    for study in studies(store):
        try:
            study.check()
        except RecordError as error:
            fix = f"restore the file, or delete {study.path}; records are kept"
            yield Finding("store", "problem", str(error), fix)


def cache() -> Findings:
    """The cache of decoded images."""
    from wbcbench.files import cache_root

    root = cache_root()
    yield from _room("cache", root)
    size = _size(root) / GIB if root.is_dir() else 0.0
    yield Finding("cache", "ok", f"{root}: {size:.1f} GiB; may be deleted at any time")


def _room(about: str, folder: Path) -> Findings:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        yield Finding(about, "problem", f"{folder} cannot be created: {there} is a file", f"move {there} away")
        return
    if not os.access(there, os.W_OK):
        fix = f"chmod u+w {there}" if about == "store" else "export WBCBENCH_CACHE=<a folder of yours>"
        yield Finding(about, "problem", f"{there} is not writable", fix)
    free = shutil.disk_usage(there).free
    if free < LEAST:
        text = f"only {free / 2**20:.0f} MiB free on the disk of {folder}"
        fix = "--store on another disk" if about == "store" else f"rm -r {folder}"
        yield Finding(about, "problem", text, fix)


def _size(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue  # removed meanwhile
    return total


def examine(store: Path, plugins: PluginOptions, digests: bool = True) -> list[Finding]:
    """Run all checks.

    Args:
        store: the store to check; it need not exist.
        plugins: which plugins to load.
        digests: whether to read all files of the store's records.
    """
    checks: list[tuple[str, Callable[[], Findings]]] = [
        ("Python", python),
        ("packages", packages),
        ("extras", extras),
        ("plugins", lambda: loaded(plugins)),
        ("variables", variables),
        ("processor", processor),
        ("GPU", gpu),
        ("memory", memory),
        ("Ray", ray_needs),
        ("store", lambda: stored_records(store, digests)),
        ("cache", cache),
    ]
    found: list[Finding] = []
    for about, check in checks:
        try:
            found += check()
        except Exception as error:
            text = f"could not be checked: {type(error).__name__}: {error}"
            found.append(Finding(about, "problem", text, "Please report this with the output of --traceback."))
    return found


__all__ = ["Finding", "Findings", "State", "examine"]
