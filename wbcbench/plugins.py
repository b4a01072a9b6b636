"""Find plugins, load each on its own, and report what became of every one of them.

Order: built-in, entry points by name, plugin folders. A plugin that fails is rolled back whole and
reported; the others go on. pluggy's own entry-point loader stops at the first failure, hence our loop.
"""

from __future__ import annotations

import importlib
import os
import textwrap
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pluggy

from wbcbench import __version__, hookspecs
from wbcbench.collecting import check_plugin, collect_components, scanned_components
from wbcbench.importing import import_file, plugin_stem, source_file
from wbcbench.observers import Observers
from wbcbench.registry import BUILTIN_PROVIDER, Component, Missing, Registry
from wbcbench.scan import guess_names

ENTRY_POINT_GROUP = "wbcbench"
BUILTIN_PACKAGE = "wbcbench_plugins"
PATH_VARIABLE = "WBCBENCH_PLUGIN_PATH"
DISABLE_VARIABLE = "WBCBENCH_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginOptions:
    """Which plugins to look for. Picklable, so that a worker process can load the same ones."""

    folders: tuple[Path, ...] = ()
    block_all: bool = False
    """Leave out every plugin that is not built in."""
    blocked: frozenset[str] = frozenset()

    @classmethod
    def from_environment(
        cls, folders: Iterable[Path | str] = (), block_all: bool = False, blocked: Iterable[str] = ()
    ) -> PluginOptions:
        """What was asked for, plus `WBCBENCH_PLUGIN_PATH` and `WBCBENCH_DISABLE_PLUGINS`."""
        more = [p for p in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if p]
        names = [n.strip() for n in os.environ.get(DISABLE_VARIABLE, "").split(",")]
        paths = dict.fromkeys(Path(p).expanduser().resolve() for p in (*folders, *more))
        return cls(tuple(paths), block_all, frozenset(n for n in (*blocked, *names) if n))

    def block_reason(self, *names: str) -> str:
        """Why a third-party plugin of any of these names is blocked, or an empty string."""
        if self.block_all:
            return "all third-party plugins are blocked"
        blocked = {_plain(n) for n in self.blocked}
        hit = next((n for n in names if _plain(n) in blocked), "")
        return f"'{hit}' is blocked by --no-plugins or {DISABLE_VARIABLE}" if hit else ""


@dataclass(frozen=True)
class PluginStatus:
    """What became of one plugin."""

    provider: str
    version: str
    origin: str
    status: str
    """`ok`, `blocked` or `failed`."""
    reason: str = ""
    traceback: str = ""
    components: int = 0
    builtin: bool = False


@dataclass
class LoadReport:
    """What became of every plugin, and the observers among them."""

    plugins: list[PluginStatus] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)
    observers: Observers = field(default_factory=Observers)

    @property
    def failed(self) -> list[PluginStatus]:
        return [p for p in self.plugins if p.status == "failed"]


@dataclass(frozen=True)
class _Candidate:
    """A plugin that was found and not yet loaded."""

    provider: str
    version: str
    origin: str
    load: Callable[[], object] | None
    """Imports the plugin; None for a plain file, whose components are only scanned."""
    source: Path | None
    other_names: tuple[str, ...] = ()
    builtin: bool = False


def load_plugins(options: PluginOptions | None = None) -> tuple[Registry, LoadReport]:
    """Load everything that the options let through. Never raises because of a plugin."""
    options = options if options is not None else PluginOptions.from_environment()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    registry, report = Registry(), LoadReport(observers=Observers(manager))
    for candidate in _find(options, report, registry):
        _admit(candidate, options, manager, registry, report)
    registry.freeze()
    report.clashes = registry.clashes()
    return registry, report


def is_plugin_file(path: Path) -> bool:
    """Whether a file of a plugin folder is a plugin by its name: neither a helper (`_x.py`) nor pytest's."""
    stem = plugin_stem(path)
    return not stem.startswith(("_", ".", "test_")) and stem != "conftest"


def _find(options: PluginOptions, report: LoadReport, registry: Registry) -> list[_Candidate]:
    candidates = [
        _Candidate(
            BUILTIN_PROVIDER, __version__, BUILTIN_PACKAGE,
            lambda: importlib.import_module(BUILTIN_PACKAGE), None, builtin=True,
        )
    ]  # fmt: skip
    points = entry_points(group=ENTRY_POINT_GROUP)
    candidates += [_entry_point(p) for p in sorted(points, key=lambda p: (p.name, p.value))]
    for folder in options.folders:
        if folder.is_dir():
            files = sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")])
            candidates += [_local(f) for f in files if is_plugin_file(f)]
        else:
            _fail(report, registry, _local(folder), f"plugin folder {folder} does not exist", "", frozenset())
    return candidates


def _entry_point(point: EntryPoint) -> _Candidate:
    dist = point.dist
    try:
        source = source_file(f"{point.module}:module")
    except Exception:  # a malformed entry point; loading it will say how
        source = None
    origin = f"{dist.name} ({point.value})" if dist else point.value
    names = (dist.name,) if dist else ()
    return _Candidate(point.name, dist.version if dist else "", origin, point.load, source, names)


def _local(path: Path) -> _Candidate:
    stem = plugin_stem(path)
    # A dot, because ':' has a meaning in shells, in Windows paths and in the targets above.
    return _Candidate(f"local.{stem}", "", str(path), None, path, (stem,))


def _admit(
    candidate: _Candidate,
    options: PluginOptions,
    manager: pluggy.PluginManager,
    registry: Registry,
    report: LoadReport,
) -> None:
    provider = candidate.provider
    reason = "" if candidate.builtin else options.block_reason(provider, *candidate.other_names)
    if reason:
        registry.add_missing(Missing(provider, reason, blocked=True))
        report.plugins.append(PluginStatus(provider, candidate.version, candidate.origin, "blocked", reason))
        return
    text = ""
    try:
        text = candidate.source.read_text(encoding="utf-8") if candidate.source else ""
        if any(p.provider == provider for p in report.plugins):
            raise ValueError(f"another plugin is called '{provider}' too; rename one of them")
        components = _components(candidate, text, manager)
        registry.add(*components)
    except (Exception, SystemExit) as error:  # a plugin that calls sys.exit must not end the command
        if manager.has_plugin(provider) and not any(p.provider == provider for p in report.plugins):
            manager.unregister(name=provider)
        message = textwrap.shorten(str(error), 400, placeholder=" ...") or "no message"
        short = f"{type(error).__name__}: {message}"
        _fail(report, registry, candidate, short, traceback.format_exc(), frozenset(guess_names(text)))
        return
    report.plugins.append(
        PluginStatus(
            provider, candidate.version, candidate.origin, "ok",
            components=len(components), builtin=candidate.builtin,
        )
    )  # fmt: skip


def _components(candidate: _Candidate, text: str, manager: pluggy.PluginManager) -> list[Component]:
    load, path = candidate.load, candidate.source
    if load is None and path is not None:
        if "hookimpl" not in text:
            return scanned_components(path, candidate.provider)
        load = partial(import_file, path)
    assert load is not None
    plugin = load()
    check_plugin(manager, plugin, candidate.provider)
    return collect_components(
        manager, plugin, provider=candidate.provider, version=candidate.version, builtin=candidate.builtin
    )


def _fail(
    report: LoadReport,
    registry: Registry,
    candidate: _Candidate,
    reason: str,
    trace: str,
    names: frozenset[tuple[str | None, str]],
) -> None:
    # Two plugins of one name: the first is fine, so questions about it must not be answered by this one.
    if not any(p.provider == candidate.provider and p.status == "ok" for p in report.plugins):
        registry.add_missing(Missing(candidate.provider, reason, trace, names=names))
    report.plugins.append(
        PluginStatus(
            candidate.provider, candidate.version, candidate.origin, "failed",
            reason, trace, builtin=candidate.builtin,
        )
    )  # fmt: skip


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
