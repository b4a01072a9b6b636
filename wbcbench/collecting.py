"""One plugin's hooks checked, called, and turned into components that know where they come from."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType

import pluggy

from wbcbench import hookspecs
from wbcbench.errors import did_you_mean
from wbcbench.hookspecs import HOOK_API
from wbcbench.importing import file_of, file_target
from wbcbench.registry import KINDS, Component, plural
from wbcbench.scan import scan

_PREFIX = "wbcbench_"


def check_plugin(manager: pluggy.PluginManager, plugin: object, provider: str) -> None:
    """Register the plugin with pluggy. Raises if it is of another API, or has a hook that none is.

    pluggy itself leaves a plugin with a wrong signature half registered, and takes a misspelt hook
    for one that another version may know; the caller unregisters after a failure.
    """
    stated = getattr(plugin, f"{_PREFIX}api", HOOK_API)
    if stated != HOOK_API:
        raise ValueError(
            f"the plugin is written for hook API {stated}, but this wbcbench has {HOOK_API}; "
            "install versions that agree"
        )
    manager.register(plugin, name=provider)
    for name, function in vars(plugin).items() if hasattr(plugin, "__dict__") else ():
        own = isinstance(function, FunctionType) and function.__module__ == getattr(plugin, "__name__", None)
        if name.startswith(_PREFIX) and own and manager.parse_hookimpl_opts(plugin, name) is None:
            raise ValueError(f"function '{name}' lacks the decorator @hookimpl, so it would never be called")
    for hook in manager.get_hookcallers(plugin) or ():
        impls = [i for i in hook.get_hookimpls() if i.plugin is plugin]
        if not hook.has_spec() and not all(i.optionalhook for i in impls):
            known = [n for n in vars(hookspecs) if n.startswith(_PREFIX)]
            raise ValueError(
                f"there is no hook '{hook.name}'.{did_you_mean(hook.name, known)} The hooks are {', '.join(known)}"
            )


def collect_components(
    manager: pluggy.PluginManager, plugin: object, *, provider: str, version: str, builtin: bool
) -> list[Component]:
    """Call this plugin's registration hooks, and no other plugin's."""
    components: list[Component] = []
    for kind in KINDS:
        hook = getattr(manager.hook, f"{_PREFIX}register_{plural(kind)}")
        for impl in hook.get_hookimpls():
            if impl.plugin is plugin:
                register = _register(kind, provider, version, builtin, components)
                impl.function(*[register for _ in impl.argnames])
    return components


def _register(kind: str, provider: str, version: str, builtin: bool, into: list[Component]) -> Callable[..., None]:
    def register(
        name: str,
        target: str | type,
        *,
        summary: str = "",
        aliases: tuple[str, ...] = (),
        origin: str = "",
    ) -> None:
        caller = sys._getframe(1)
        component = Component(
            kind=kind,
            name=name,
            target=target,
            summary=summary,
            provider=provider,
            provider_version=version,
            origin=origin or f"{caller.f_code.co_filename}:{caller.f_lineno}",
            aliases=(aliases,) if isinstance(aliases, str) else tuple(aliases),
            builtin=builtin,
            sha256=_sha256(file_of(target)),
        )
        component.check()  # here, so that the traceback ends at the plugin's own line
        into.append(component)

    return register


def scanned_components(path: Path, provider: str) -> list[Component]:
    """Components of a plain file, which says what it is by its classes alone. Raises `ValueError`
    if there are none, `SyntaxError` if the file is no Python."""
    ast.parse(path.read_text(encoding="utf-8"), str(path))  # the scan does not look at whole files
    components = [
        Component(
            kind=found.kind,
            name=found.name,
            target=file_target(path, found.class_name),
            summary=found.summary,
            provider=provider,
            origin=f"{path}:{found.line}",
            aliases=found.aliases,
            sha256=_sha256(path),
        )
        for found in scan(path)
    ]
    if not components:
        raise ValueError(
            "expected a hook marked @hookimpl, or a class such as `class Mine(Fusion)` with a literal "
            "`name = 'mine'`, but found neither; start the file's name with '_' if it is only a helper"
        )
    return components


def _sha256(path: Path | None) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
    except OSError:
        return ""
