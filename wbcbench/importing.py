"""Targets: `package.module:Class` and `path/file.py::Class`, to a source file or to the real object."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

LOCAL_PACKAGE = "wbcbench_local"
_FILE = "::"
_DIGEST = "__wbcbench_digest__"


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
    """Where the target's module is written, without importing that module; None if unknown."""
    where, _ = split_target(target)
    if _FILE in target:
        return Path(where)
    module = sys.modules.get(where)
    origin: str | None = getattr(module, "__file__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(where)
        except Exception:  # a parent package that cannot be imported: the real import will tell
            return None
        origin = spec.origin if spec else None
    return Path(origin) if origin and origin.endswith(".py") else None


def file_of(target: str | type) -> Path | None:
    """As `source_file`, for a class as well; None also for what is no target."""
    if isinstance(target, str):
        try:
            return source_file(target)
        except ValueError:
            return None
    file = getattr(sys.modules.get(getattr(target, "__module__", "")), "__file__", None)
    return Path(file) if file else None


def import_target(target: str) -> object:
    """Import the module and return the attribute. Whatever the module raises passes through."""
    where, attribute = split_target(target)
    module = import_file(Path(where)) if _FILE in target else importlib.import_module(where)
    if not hasattr(module, attribute):
        raise AttributeError(f"{where} has no attribute '{attribute}'")
    return getattr(module, attribute)


def plugin_stem(path: Path) -> str:
    """What a plugin file is called: `gated` for `gated.py` and for `gated/__init__.py`."""
    return path.parent.name if path.name == "__init__.py" else path.stem


def import_file(path: Path) -> ModuleType:
    """Import a plugin file as `wbcbench_local.<stem>`; a second call returns the same module, unless the file (or
    one beside it, of a plugin that is a folder) was edited since, as one does in a notebook."""
    path = path.resolve()
    name = f"{LOCAL_PACKAGE}.{re.sub(r'[^0-9A-Za-z_]', '_', plugin_stem(path))}"
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
    # Before exec: dataclasses, pydantic and pickle look their module up by name.
    sys.modules[name] = module
    try:
        # Not by the loader: its bytecode cache misses an edit of the same length within a second.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _content(path: Path) -> str:
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file}\0".encode() + file.read_bytes())
    return found.hexdigest()
