"""Find plugins, look up what each one offers, and report the status of each.

Order: built-in, entry points by name, plugin folders. A plugin that fails is left out completely and reported; the
others load.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcbench import __version__
from wbcbench.isolation import contained
from wbcbench.registry.index import Entry, Index, builtin_sources, names_before
from wbcbench.registry.provenance import (
    BUILTIN_PACKAGE,
    ENTRY_POINT_GROUP,
    PluginSource,
    builtin_folder,
    local_module,
    output_to_stderr,
    plugin_stem,
)
from wbcbench.registry.registry import BUILTIN_PROVIDER, Component, Missing, Registry

if TYPE_CHECKING:
    import pluggy

    from wbcbench.registry.probe import Failure
    from wbcbench.spec import Trial

log = logging.getLogger(__name__)

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
        """The given options, plus `WBCBENCH_PLUGIN_PATH` and `WBCBENCH_DISABLE_PLUGINS`."""
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
    """The status of one plugin."""

    provider: str
    version: str
    origin: str
    status: str
    """`ok`, `blocked` or `failed`."""
    reason: str = ""
    traceback: str = ""
    components: int = 0
    builtin: bool = False
    skipped: tuple[str, ...] = ()
    """Classes that look like components but are not, each with the reason."""
    outdated: tuple[str, ...] = ()
    """Classes in a form that the next release will not read, each with what to write."""


class Observers:
    """Notifies plugins that a trial starts or has finished. What they raise is logged and changes nothing.

    The plugins are imported on the first notification; one that fails does not stop the others.
    """

    def __init__(self, plugins: Iterable[PluginSource] = ()) -> None:
        self._plugins = list(plugins)
        self._manager: pluggy.PluginManager | None = None

    def trial_started(self, trial: Trial) -> None:
        """Call every `wbcbench_trial_started`."""
        self._notify("wbcbench_trial_started", trial=trial)

    def trial_finished(self, trial: Trial, record: object) -> None:
        """Call every `wbcbench_trial_finished`."""
        self._notify("wbcbench_trial_finished", trial=trial, record=record)

    def _notify(self, hook: str, **values: Any) -> None:
        if not self._plugins:
            return
        self._manager = self._manager or self._imported()
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                with contained():
                    impl.function(*[values[a] for a in impl.argnames])
            except Exception:
                text = "Plugin '%s' failed in %s; the trial continues."
                log.warning(text, impl.plugin_name, hook, exc_info=True)

    def _imported(self) -> pluggy.PluginManager:
        from wbcbench.registry.probe import new_manager

        manager = new_manager()
        for source in self._plugins:
            try:
                manager.register(source.load(), name=source.provider)
            except (Exception, SystemExit):
                text = "Plugin '%s' could not be imported; it is not notified of trials."
                log.warning(text, source.provider, exc_info=True)
        return manager


@dataclass
class LoadReport:
    """The status of every plugin, and the observers among them."""

    plugins: list[PluginStatus] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)
    observers: Observers = field(default_factory=Observers)

    @property
    def failed(self) -> list[PluginStatus]:
        return [p for p in self.plugins if p.status == "failed"]


@dataclass(frozen=True)
class _Candidate:
    """A plugin that was found but not yet looked up."""

    source: PluginSource
    version: str
    origin: str
    other_names: tuple[str, ...] = ()
    missing: bool = False
    """It was requested but does not exist."""

    @property
    def builtin(self) -> bool:
        return self.source.how == "module"


def load_plugins(options: PluginOptions | None = None) -> tuple[Registry, LoadReport]:
    """Load every plugin that the options do not block. Never raises because of a plugin."""
    options = options if options is not None else PluginOptions.from_environment()
    registry, report = Registry(), LoadReport()
    chosen: dict[str, tuple[_Candidate, str]] = {}
    refused: list[tuple[_Candidate, str]] = []
    for candidate in _found(options):
        provider = candidate.source.provider
        if provider in chosen or provider == BUILTIN_PROVIDER:
            refused.append((candidate, f"another plugin is also called '{provider}'; rename one of them"))
        else:
            chosen[provider] = candidate, options.block_reason(provider, *candidate.other_names)
    allowed = [c for c, reason in chosen.values() if not reason and not c.missing]
    builtin = builtin_sources()
    entries = Index().look_up([*builtin, *(c.source for c in allowed)])
    _admit_builtin(registry, report, builtin, entries[: len(builtin)])
    told = dict(zip((c.source for c in allowed), entries[len(builtin) :], strict=True))
    observing: list[PluginSource] = []
    for candidate, reason in chosen.values():
        if reason:
            registry.add_missing(Missing(candidate.source.provider, reason, blocked=True))
            report.plugins.append(_status(candidate, "blocked", reason))
        elif candidate.missing:
            _fail(registry, report, candidate, f"plugin folder {candidate.source.value} does not exist")
        elif _admit(registry, report, candidate, told[candidate.source]):
            observing.append(candidate.source)
    for candidate, reason in refused:
        # The first plugin of that name is loaded, so this one's error must not be reported for its components.
        report.plugins.append(_status(candidate, "failed", reason))
    registry.freeze()
    report.clashes = registry.clashes()
    report.observers = Observers(observing)
    return registry, report


def is_plugin_file(path: Path) -> bool:
    """Whether a file of a plugin folder is a plugin by its name: neither a helper (`_x.py`) nor a pytest file."""
    stem = plugin_stem(path)
    return not stem.startswith(("_", ".", "test_")) and stem != "conftest"


def _found(options: PluginOptions) -> list[_Candidate]:
    """All plugins except the built-in ones."""
    points = entry_points(group=ENTRY_POINT_GROUP)
    candidates = [_entry_point(p) for p in sorted(points, key=lambda p: (p.name, p.value))]
    for folder in options.folders:
        if folder.is_dir():
            files = sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")])
            candidates += [_local(f) for f in files if is_plugin_file(f)]
        else:
            candidates.append(_local(folder, missing=True))
    return candidates


def _entry_point(point: EntryPoint) -> _Candidate:
    source = PluginSource(point.name, point.value, "entry_point")
    if point.dist is None:
        return _Candidate(source, "", point.value)
    return _Candidate(source, point.dist.version, f"{point.dist.name} ({point.value})", (point.dist.name,))


def _local(path: Path, missing: bool = False) -> _Candidate:
    stem = plugin_stem(path)
    # A dot, because ':' is special in shells, in Windows paths and in targets.
    return _Candidate(PluginSource(f"local.{stem}", str(path)), "", str(path), (stem,), missing)


def _admit_builtin(
    registry: Registry, report: LoadReport, sources: list[PluginSource], entries: list[Entry | Failure]
) -> None:
    whole = _Candidate(PluginSource(BUILTIN_PROVIDER, BUILTIN_PACKAGE, "module"), __version__, BUILTIN_PACKAGE)
    count, skipped = 0, []
    for source, entry in zip(sources, entries, strict=True):
        candidate = _Candidate(source, __version__, str(source.path))
        try:
            if not isinstance(entry, dict):
                _fail(registry, report, candidate, entry.reason, entry.traceback)
                continue
            components = _components(candidate, entry)
            registry.add(*components)
        except ValueError as error:
            _fail(registry, report, candidate, f"ValueError: {error}", traceback.format_exc())
            continue
        count += len(components)
        skipped += entry["skipped"]
    report.plugins.insert(0, _status(whole, "ok", components=count, skipped=tuple(skipped)))


def _admit(registry: Registry, report: LoadReport, candidate: _Candidate, entry: Entry | Failure) -> bool:
    """Add what a plugin offers, or report why not. Returns whether it observes trials."""
    if not isinstance(entry, dict):
        _fail(registry, report, candidate, entry.reason, entry.traceback)
        return False
    if candidate.source.how == "file":
        local_module(Path(candidate.source.value))
    try:
        components = _components(candidate, entry)
        registry.add(*components)
    except ValueError as error:
        _fail(registry, report, candidate, f"ValueError: {error}", traceback.format_exc())
        return False
    skipped, outdated = tuple(entry["skipped"]), tuple(entry["outdated"])
    report.plugins.append(_status(candidate, "ok", components=len(components), skipped=skipped, outdated=outdated))
    return bool(entry["observes"])


def _components(candidate: _Candidate, entry: Entry) -> list[Component]:
    from_hook = partial(_registered, candidate.source)
    return [
        Component(
            kind=told["kind"],
            name=told["name"],
            target=told["target"] or partial(from_hook, told["kind"], told["name"]),
            summary=told["summary"],
            provider=candidate.source.provider,
            provider_version=candidate.version,
            origin=str(builtin_folder() / told["origin"]) if candidate.builtin else told["origin"],
            aliases=tuple(told["aliases"]),
            builtin=candidate.builtin,
            sha256=entry["files"].get(told["file"], ""),
            declared=told["declared"],
        )
        for told in entry["components"]
    ]


def _registered(source: PluginSource, kind: str, name: str) -> type:
    from wbcbench.registry.probe import registered_class

    with output_to_stderr():
        return registered_class(source, kind, name)


def _fail(registry: Registry, report: LoadReport, candidate: _Candidate, reason: str, trace: str = "") -> None:
    names = _guess_names(candidate.source.path) | names_before(candidate.source)
    registry.add_missing(Missing(candidate.source.provider, reason, trace, names=names))
    report.plugins.append(_status(candidate, "failed", reason, traceback=trace))


def _guess_names(path: Path | None) -> frozenset[str]:
    """What a plugin that cannot be imported may have offered, so that requesting it reports why it is missing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if path is not None else ""
    except OSError:
        return frozenset()
    stated = r"""\bregister\(\s*(["'])(.+?)\1|^\s+name\b[^=\n]*=\s*(["'])(.+?)\3"""
    return frozenset(m[2] or m[4] for m in re.finditer(stated, text, re.MULTILINE))


def _status(candidate: _Candidate, status: str, reason: str = "", **more: Any) -> PluginStatus:
    source = candidate.source
    return PluginStatus(
        source.provider, candidate.version, candidate.origin, status, reason, builtin=candidate.builtin, **more
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
