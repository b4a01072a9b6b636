"""What a path stands for: a plugin file, a package or part of one, or the folder that a package is built from."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from wbcbench.errors import UsageError
from wbcbench.registry.loading import is_plugin_file
from wbcbench.registry.provenance import ENTRY_POINT_GROUP, builtin_folder

_INIT = "__init__.py"


@dataclass(frozen=True)
class Place:
    """Where components are looked for, and what has to be loaded to find them."""

    path: Path
    """The file, or the folder with everything below it."""
    plugin: Path
    """The file that is loaded: `path`, or the `__init__.py` of the package that it is a part of."""
    installed_as: frozenset[str] = frozenset()
    """Entry points under which the same package may be installed."""

    @property
    def folder(self) -> Path:
        """The plugin folder that the plugin would lie in."""
        return self.plugin.parent.parent if self.plugin.name == _INIT else self.plugin.parent

    @property
    def in_package(self) -> bool:
        return self.plugin.name == _INIT

    def holds(self, file: Path | None) -> bool:
        """Whether a component of that file is meant."""
        return file is not None and (file == self.path or self.path in file.parents)


def find_places(which: str) -> list[Place]:
    """The places that a path means; none if it is no path of a plugin. Raises `UsageError`."""
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
            "pyproject.toml says that the plugin is, but it is in neither."
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


__all__ = ["Place", "find_places"]
