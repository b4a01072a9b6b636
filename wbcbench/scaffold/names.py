"""Which names a new plugin may have: a file's, a module's and a component's at once, and nobody else's."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys

from wbcbench.errors import NameClashError, PluginError, UnknownNameError, UsageError
from wbcbench.registry import Registry, qualified_name

LONGEST = 40
RESERVED = frozenset({"all", "auto", "conftest", "contract", "default", "joint", "none", "plugin", "plugins"})
"""Words that mean something else on the command line, in a route's name or to pytest."""


def check_name(kind: str, name: str, registry: Registry) -> None:
    """Raise `UsageError` unless a new component of this kind may be called `name`."""
    plain = _plain(name)
    if name != plain or len(name) > LONGEST:
        raise UsageError(
            f"Expected a name of at most {LONGEST} lower-case letters, digits and '_', that begins with a letter, "
            f"but got '{name}'.{f' Write {plain[:LONGEST]!r}.' if plain else ''}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in RESERVED:
        raise UsageError(f"'{name}' is a reserved word. Choose another name, such as '{name}_{kind}'.")
    if name.startswith("test_") or name.endswith("_test"):
        raise UsageError(f"'{name}' would be taken for a test by pytest. Choose a name without 'test'.")
    if _is_module(name):
        raise UsageError(
            f"'{name}' is the name of a Python module that is installed here, which a file {name}.py would hide. "
            f"Choose another name, such as '{name}_{kind}'."
        )
    try:
        taken = registry.resolve(kind, name).component
    except UnknownNameError:
        return
    except (NameClashError, PluginError) as error:
        raise UsageError(f"'{name}' is taken: {str(error).splitlines()[0]} Choose another name.") from error
    who = "built in" if taken.builtin else f"offered by {taken.provider}"
    raise UsageError(
        f"A {kind} '{qualified_name(taken)}' is {who} ({taken.origin}). Choose another name, such as 'my_{name}'."
    )


def class_name(name: str) -> str:
    """`gated_mean` -> `GatedMean`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _plain(name: str) -> str:
    """The nearest name that is allowed, or an empty string."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", snake)).strip("_0123456789") if not _fine(name) else name


def _fine(name: str) -> bool:
    return re.fullmatch(r"[a-z](_?[a-z0-9]+)*", name) is not None


def _is_module(name: str) -> bool:
    if name in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return True
    return spec is not None and spec.origin is not None  # a folder of that name here is none


__all__ = ["LONGEST", "RESERVED", "check_name", "class_name"]
