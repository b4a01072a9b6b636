"""Where source files are, their digests, and how they are imported.

A target names an object: `package.module:Class`, or `path/file.py::Class` for a file that belongs to no package.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wbcbench.registry.registry import Component
    from wbcbench.spec import Trial

BUILTIN_PACKAGE = "wbcbench_plugins"
ENTRY_POINT_GROUP = "wbcbench"
LOCAL_PACKAGE = "wbcbench_local"
"""Plugin files that belong to no package are imported as `wbcbench_local.<stem>`."""
_FILE = "::"
_DIGEST = "__wbcbench_digest__"
_local: dict[str, Path] = {}
"""Module name -> file, for the plugin files of this process."""


@dataclass(frozen=True)
class PluginSource:
    """One plugin, and how it is imported."""

    provider: str
    value: str
    """A path, a module, or the value of an entry point."""
    how: str = "file"
    """`file`, `module` (a built-in plugin) or `entry_point`."""

    @property
    def path(self) -> Path | None:
        """The plugin's own file; found without importing anything."""
        if self.how == "file":
            return Path(self.value)
        if self.how == "module":  # built in, and looked up often
            _, folder, stem = self.value.split(".")
            return builtin_folder() / folder / f"{stem}.py"
        return module_file(self.value.partition(":")[0].strip())

    def load(self) -> object:
        """Import it. Whatever it raises is passed on."""
        if self.how == "file":
            return import_file(Path(self.value))
        with output_to_stderr():
            if self.how == "module":
                return importlib.import_module(self.value)
            from importlib.metadata import EntryPoint

            return EntryPoint(self.provider, self.value, ENTRY_POINT_GROUP).load()


def file_target(path: Path, class_name: str) -> str:
    """The target of a class in a plugin file that belongs to no package."""
    return f"{path}{_FILE}{class_name}"


def split_target(target: str) -> tuple[str, str]:
    """Divide a target into (module name or path, attribute). Raises `ValueError`."""
    where, found, attribute = target.rpartition(_FILE if _FILE in target else ":")
    if not found or not where or not attribute.isidentifier():
        raise ValueError(f"Expected a target like 'package.module:Class', but got {target!r}.")
    return where, attribute


def source_file(target: str) -> Path | None:
    """The source file of the target's module; imports nothing. None if unknown. Raises `ValueError`."""
    where, _ = split_target(target)
    return Path(where) if _FILE in target else module_file(where)


def module_file(name: str) -> Path | None:
    """The source file of a module. Unlike `find_spec`, this does not import the parent packages."""
    origin = getattr(sys.modules.get(name), "__file__", None)
    if name in sys.modules:
        return Path(origin) if origin and origin.endswith(".py") else None
    top, *rest = name.split(".")
    if top == LOCAL_PACKAGE:
        path = _local.get(".".join((top, *rest[:1])))
        folders = [str(path.parent)] if path is not None and path.name == "__init__.py" else []
        rest = rest[1:]
    else:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
        path = Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
        folders = list(spec.submodule_search_locations or ()) if spec else []
    for part in rest:
        files = [p for f in folders for p in (Path(f, part, "__init__.py"), Path(f, f"{part}.py")) if p.is_file()]
        path = files[0] if files else None
        folders = [str(Path(f, part)) for f in folders]
    return path


def file_of(target: object) -> Path | None:
    """As `source_file`, but also for a class; None if `target` is not a target."""
    if isinstance(target, str):
        try:
            return source_file(target)
        except ValueError:
            return None
    file = getattr(sys.modules.get(getattr(target, "__module__", "")), "__file__", None)
    return Path(file) if file and isinstance(target, type) else None


def import_target(target: str) -> object:
    """Import the module and return the attribute. Whatever the module raises is passed on."""
    where, attribute = split_target(target)
    if _FILE in target:
        module = import_file(Path(where))
    else:
        above = ".".join(where.split(".")[:2])
        if above in _local:
            import_file(_local[above])
        with output_to_stderr():
            module = importlib.import_module(where)
    if not hasattr(module, attribute):
        raise AttributeError(f"{where} has no attribute '{attribute}'")
    return getattr(module, attribute)


def plugin_stem(path: Path) -> str:
    """The name of a plugin file: `gated` for `gated.py` and for `gated/__init__.py`."""
    return path.parent.name if path.name == "__init__.py" else path.stem


def local_module(path: Path) -> str:
    """The name under which a plugin file is imported. Remembered, so that targets can use it before the import."""
    name = f"{LOCAL_PACKAGE}.{re.sub(r'[^0-9A-Za-z_]', '_', plugin_stem(path))}"
    _local[name] = path
    return name


def import_file(path: Path) -> ModuleType:
    """Import a plugin file as `wbcbench_local.<stem>`. A second call returns the same module, unless the file (or
    another file of a plugin that is a folder) was edited since, as is common in a notebook."""
    path = path.resolve()
    name = local_module(path)
    digest = _content(path)
    known = sys.modules.get(name)
    if known is not None and getattr(known, _DIGEST, None) == (str(path), digest):
        return known
    if LOCAL_PACKAGE not in sys.modules:
        parent = ModuleType(LOCAL_PACKAGE)
        parent.__path__ = []
        sys.modules[LOCAL_PACKAGE] = parent
    folder = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python source file")
    for stale in [n for n in sys.modules if n.startswith(f"{name}.")]:
        del sys.modules[stale]
    module = importlib.util.module_from_spec(spec)
    setattr(module, _DIGEST, (str(path), digest))
    # Before exec: dataclasses, pydantic and pickle look up their module by name.
    sys.modules[name] = module
    try:
        with output_to_stderr():
            # Not with the loader: its bytecode cache misses an edit of the same length within a second.
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@cache
def builtin_folder() -> Path:
    """Where the built-in components are."""
    init = module_file(BUILTIN_PACKAGE)
    assert init is not None
    return init.parent


def short(path: Path) -> str:
    """A path as the index stores it: relative to the package for files of the built-in components."""
    folder = builtin_folder()
    return path.relative_to(folder).as_posix() if folder in path.parents else str(path)


@contextlib.contextmanager
def output_to_stderr() -> Iterator[None]:
    """Redirect what a plugin prints while it is imported, so that it does not end up in a document on stdout."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def sha256_of(path: Path | None) -> str:
    """SHA-256 of a file's content; empty if there is no such file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
    except OSError:
        return ""


def components_of(trial: Trial) -> Iterator[tuple[str, str]]:
    """Kind and name, as requested, of every component of a trial, without its teachers."""
    method = trial.method
    yield "dataset", trial.protocol.dataset.name
    yield "fusion", method.fusion.name
    yield from (("backbone", name) for name in dict.fromkeys(b.name for b in method.backbones.values()))
    if method.routing is not None:
        yield "routing", method.routing.name
    yield from (("policy", p.name) for p in method.policies)
    yield from (("distiller", d.name) for d in method.distillers)


def helper_digest(component: Component) -> str:
    """Current digest of the helper files that a component may import from its folder; empty if there are none."""
    path = file_of(component.target) if isinstance(component.target, str) else None
    return helper_digest_of(path) if path is not None and path.is_file() else ""


def helper_digest_of(path: Path) -> str:
    """As `helper_digest`. For a plugin that is a folder: all of its files; for a file: the folder's `_x.py`."""
    folder = path.name == "__init__.py"
    found = path.parent.rglob("*.py") if folder else path.parent.glob("_*.py")
    files = sorted(p for p in found if p != path and (folder or p.name != "__init__.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest() if files else ""


@cache
def cached_helper_digest(component: Component) -> str:
    """`helper_digest` at its first call in this process."""
    return helper_digest(component)


def _content(path: Path) -> str:
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file}\0".encode() + file.read_bytes())
    return found.hexdigest()
