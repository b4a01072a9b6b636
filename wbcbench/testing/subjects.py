"""What a path refers to: a plugin file, a package or part of one, or the folder that a package is built from."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from wbcbench.errors import NameClashError, PluginError, UnknownNameError, UsageError, did_you_mean
from wbcbench.registry import KINDS, Component, Registry, Resolved, clash_sentence
from wbcbench.registry.loading import PluginOptions, is_plugin_file, load_plugins
from wbcbench.registry.provenance import ENTRY_POINT_GROUP, builtin_folder, file_of, plugin_stem

_INIT = "__init__.py"


@dataclass(frozen=True)
class Place:
    """Where components are searched for, and what has to be loaded to find them."""

    path: Path
    """The file, or the folder with everything below it."""
    plugin: Path
    """The file that is loaded: `path`, or the `__init__.py` of the package that it is a part of."""
    installed_as: frozenset[str] = frozenset()
    """Entry points under which the same package may be installed."""

    @property
    def folder(self) -> Path:
        """The plugin folder that the plugin would be in."""
        return self.plugin.parent.parent if self.plugin.name == _INIT else self.plugin.parent

    @property
    def in_package(self) -> bool:
        return self.plugin.name == _INIT

    def holds(self, file: Path | None) -> bool:
        """Whether that file is the path, or is below it."""
        return file is not None and (file == self.path or self.path in file.parents)


def find_places(which: str) -> list[Place]:
    """The places that a path refers to; none if it is not the path of a plugin. Raises `UsageError`."""
    path = Path(which).expanduser().resolve()
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"Expected a plugin file, but {path} does not exist.")
        return [_place(path)]
    if (path / _INIT).is_file():
        return [_place(path)]
    points = _entry_points(path)
    modules = {value.partition(":")[0] for value in points.values()}
    places = [_place(found) for module in sorted(modules) if (found := _below(path, module)) is not None]
    if points and not places:
        raise UsageError(
            f"Expected the package {' or '.join(sorted(modules))} below {path} or its src/, where its "
            "pyproject.toml declares the plugin, but it is in neither."
        )
    return places


def _place(path: Path) -> Place:
    if path.name == _INIT:
        path = path.parent
    package = _package_of(path)
    if package is None and path.is_dir():
        package = path
    if package is None and not is_plugin_file(path):
        raise UsageError(
            f"Expected a plugin file, but {path.name} is a helper or a test by its name, which is never "
            "loaded. Name the plugin itself; run tests with pytest."
        )
    top = package or path
    points = {**_entry_points(top.parent), **_entry_points(top.parent.parent)}
    own = {name for name, value in points.items() if value.partition(":")[0].split(".")[0] == top.stem}
    return Place(path, package / _INIT if package else path, frozenset(own))


def _package_of(path: Path) -> Path | None:
    """The outermost package around the path that offers components by hooks, or wbcbench's own."""
    found = None
    for folder in (path, *path.parents):
        if folder == builtin_folder().resolve():
            return folder
        if not (folder / _INIT).is_file():
            if folder != path:
                break
        elif "hookimpl" in (folder / _INIT).read_text(encoding="utf-8", errors="replace"):
            found = folder
    return found


def _entry_points(folder: Path) -> dict[str, str]:
    """Name -> `module` or `module:object`, of the pyproject.toml in the folder."""
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
        points = project.get("entry-points", {}).get(ENTRY_POINT_GROUP, {})
        return {str(name): str(value) for name, value in points.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _below(folder: Path, module: str) -> Path | None:
    for base in (folder / "src", folder):
        place = base.joinpath(*module.split("."))
        if (place / _INIT).is_file():
            return place
        if place.with_suffix(".py").is_file():
            return place.with_suffix(".py")
    return None


@dataclass(frozen=True)
class Subject:
    """A component to be checked, and the registry that it is in."""

    registry: Registry
    resolved: Resolved
    clashes: tuple[str, ...] = ()
    """One sentence for each of its names that another plugin offers too."""


def find_subjects(which: str, options: PluginOptions, kind: str = "") -> list[Subject]:
    """The components in a plugin file, a package's folder or the folder that it is built from, or that of a name.

    Args:
        which: `plugins/gated.py`, `plugins/gated/`, `wbcbench-gated/`, `gated` or `provider/gated`.
        options: which other plugins to load.
        kind: search for this kind only; empty for all.

    Raises:
        UsageError: nothing matches, or more than one kind does.
        PluginError: the plugin failed to load.
    """
    places = find_places(which)
    if not places:
        return [_named(which, options, kind)]
    found = [s for place in places for s in _in_place(place, options)]
    if kind:
        found = [s for s in found if s.resolved.component.kind == kind]
    if not found:
        raise UsageError(f"Expected a {kind or 'component'} in {which}, but there is none.")
    return found


def _in_place(place: Place, options: PluginOptions) -> list[Subject]:
    options = replace(options, block_all=False, blocked=frozenset())
    if place.in_package:  # built in, or installed in editable mode: it is registered already
        registry, _ = load_plugins(options)
        known = [c for c in registry.components() if place.holds(file_of(c.target))]
        if known:
            return [Subject(registry, Resolved(c), _clashes(registry, c)) for c in known]
    folders = (place.folder, *(f for f in options.folders if f != place.folder))
    registry, report = load_plugins(replace(options, folders=folders))
    provider = f"local.{plugin_stem(place.plugin)}"
    status = next(p for p in report.plugins if p.provider == provider and p.origin == str(place.plugin))
    if status.status != "ok":
        raise PluginError(
            f"Expected to load {place.plugin}, but it failed: {status.reason}. Fix that first.\n\n"
            f"{status.traceback}".rstrip()
        )
    offered = [c for c in registry.components(provider=provider) if place.holds(file_of(c.target))]
    return [Subject(registry, Resolved(c), _clashes(registry, c, place.installed_as)) for c in offered]


def _clashes(registry: Registry, component: Component, own: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """One sentence per name that another component has too.

    Components of the same file, and those of a provider in `own` (an installed copy), are not other ones.
    """
    sentences = []
    for name in component.names:
        others = [
            c for c in registry.components(component.kind)
            if c is not component and name in c.names and c.provider not in own
            and file_of(c.target) != file_of(component.target)
        ]  # fmt: skip
        if others:
            sentences.append(clash_sentence(component.kind, name, [*others, component]))
    return tuple(sentences)


def _named(name: str, options: PluginOptions, kind: str) -> Subject:
    registry, _ = load_plugins(options)
    hits: list[Resolved] = []
    failures: list[PluginError] = []
    for one in [kind] if kind else KINDS:
        try:
            hits.append(registry.resolve(one, name))
        except NameClashError:
            raise
        except PluginError as error:
            failures.append(error)
        except UsageError:
            continue
    if len(hits) > 1:
        kinds = " and a ".join(h.component.kind for h in hits)
        raise UsageError(f"'{name}' is a {kinds}. Say which: --kind {hits[0].component.kind}.")
    if hits:
        return Subject(registry, hits[0])
    if failures:
        raise failures[0]
    if kind:
        raise UnknownNameError(kind, name, registry.names(kind))
    known = {n for k in KINDS for n in registry.names(k)}
    raise UsageError(
        f"Expected the path of a plugin file (ending in .py), of a package's folder (with an __init__.py, or a "
        f"pyproject.toml with entry points of wbcbench), or the name of a component, but got '{name}'."
        f"{did_you_mean(name, known)} `wbcbench list` shows names; --plugins-dir adds a folder."
    )


__all__ = ["Place", "Subject", "find_places", "find_subjects"]
