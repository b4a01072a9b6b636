"""What a plugin file offers, found by importing it in a separate process, so that a crash there is harmless."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pluggy

from wbcbench.contracts import hooks, previous
from wbcbench.errors import PluginError, did_you_mean
from wbcbench.registry.declaration import code_of, describe, summary_of
from wbcbench.registry.provenance import (
    LOCAL_PACKAGE,
    PluginSource,
    file_of,
    file_target,
    module_file,
    output_to_stderr,
    sha256_of,
    short,
)
from wbcbench.registry.registry import KINDS, Component, contract, load_class, plural

TIMEOUT_VARIABLE = "WBCBENCH_PLUGIN_TIMEOUT"
TIMEOUT = 60.0
"""Seconds that the import of one plugin may take."""
_PREFIX = "wbcbench_"
_FORKS = sys.platform == "linux"


@dataclass(frozen=True)
class Failure:
    """Why a plugin could not be loaded."""

    reason: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        message = textwrap.shorten(str(error), 400, placeholder=" ...") or "no message"
        return cls(f"{type(error).__name__}: {message}", traceback.format_exc())


def survey(source: PluginSource) -> dict[str, Any]:
    """Import a plugin in this process and return what it offers (see `wbcbench.registry.index`).

    Raises whatever the plugin raises, and `ValueError` for a plugin that offers nothing or has unknown hooks.
    """
    before = {p: sha256_of(p) for p in (source.path,)}  # before the import: the file may be edited meanwhile
    plugin = source.load()
    module = plugin if isinstance(plugin, ModuleType) else sys.modules[source.value.partition(":")[0].strip()]
    manager = new_manager()
    check_plugin(manager, plugin, source.provider)
    hooked = {c.name for c in manager.get_hookcallers(plugin) or ()}
    registering = hooked & {f"{_PREFIX}register_{plural(kind)}" for kind in KINDS}
    skipped: list[str] = []
    if registering:
        offered = collect_components(manager, plugin, source.provider)
    else:
        offered = list(class_components(module, source.provider, skipped))
    if not offered and not hooked and source.how != "entry_point":
        raise ValueError(
            "expected a hook marked @hookimpl, or a class such as `class Mine(Fusion)` with `name = 'mine'`, but "
            f"found neither{''.join(f'; {s}' for s in skipped)}; start the file's name with '_' if it is a helper"
        )
    files = {p: d for p, d in before.items() if p is not None}
    classes: set[type] = set()
    components = [_described(c, files, classes) for c in offered]
    for told in components if source.how == "module" else ():
        told["origin"] = short(Path(told["origin"]))
    if registering:
        left = [c for c in _own_classes(module) if "name" in vars(c) and c not in classes]
        skipped += [f"{_named(c)} is not offered: the plugin's hooks do not register it" for c in left]
    return {
        "files": {short(p): digest for p, digest in sorted(files.items())},
        "observes": sorted(hooked - registering),
        "skipped": skipped,
        "outdated": list(dict.fromkeys(note for cls in classes for note in previous.notes_of(cls))),
        "components": components,
    }


def class_components(module: ModuleType, provider: str, skipped: list[str]) -> Iterator[Component]:
    """The module's own classes that subclass a contract and state a name. All others are added to `skipped`."""
    taken: dict[tuple[str, str], type] = {}
    own = list(_own_classes(module))
    for cls in own:
        kind = _kind(cls)
        reason = _no_component(cls, own)
        if not reason and "name" not in vars(cls):
            continue  # a base class of others
        aliases = vars(cls).get("aliases", ())  # aliases are not inherited
        component = Component(
            kind=kind,
            name=getattr(cls, "name", ""),
            target=cls,
            provider=provider,
            origin=_place(cls),
            aliases=(aliases,) if isinstance(aliases, str) else tuple(aliases),
        )
        if not reason:
            try:
                component.check()
            except ValueError as error:
                reason = str(error)
        if not reason:
            twice = next((n for n in component.names if taken.setdefault((kind, n), cls) is not cls), None)
            reason = f"{kind} '{twice}' is {_named(taken[kind, twice])} already" if twice else ""
        if reason:
            skipped.append(f"{_named(cls)} is not offered: {reason}")
        else:
            yield component


def _no_component(cls: type, own: list[type]) -> str:
    """Why a class is not a component although it looks like one; empty if it is one, or a base class of others."""
    named = "name" in vars(cls)
    if cls.__name__.startswith("_"):
        return f"a class that starts with '_' is a base; call it {cls.__name__.lstrip('_')}" if named else ""
    if named or any(cls in other.__mro__[1:] for other in own):
        return ""
    inherited = getattr(cls, "name", None)
    said = f"its name '{inherited}' is that of its base class" if inherited else "it has no name"
    return f"{said}; give it a `name = ...` of its own, or call it _{cls.__name__} if it is only a base"


def _own_classes(module: ModuleType) -> Iterator[type]:
    """Subclasses of contracts that the module (or a module of its folder) defines, in order."""
    seen: set[type] = set()
    for value in vars(module).values():
        inside = isinstance(value, type) and f"{value.__module__}.".startswith(f"{module.__name__}.")
        if inside and value not in seen and _kind(value):
            seen.add(value)
            yield value


def _kind(cls: type) -> str:
    """The kind of contract that a class subclasses, or an empty string."""
    modules = {b.__module__ for b in cls.__mro__ if b.__name__.lower() in KINDS}
    return next((k for k in KINDS if f"wbcbench.contracts.{k}" in modules), "")


def _named(cls: type) -> str:
    return f"class {cls.__name__} ({_place(cls)})"


def _place(cls: type) -> str:
    """`file:line`."""
    try:
        line = inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):  # made by a call of `type`
        line = 1
    return f"{file_of(cls)}:{line}"


def _target(cls: type) -> str | None:
    """How to find the class again; None if it is not an attribute of its module."""
    home = sys.modules.get(cls.__module__)
    attribute = next((n for n, v in vars(home).items() if v is cls), None) if home is not None else None
    if home is None or attribute is None:
        return None
    path = file_of(cls)
    top, _, module = cls.__module__.partition(".")
    if path is not None and top == LOCAL_PACKAGE and "." not in module:
        return file_target(path, attribute)  # by path: another file may have the same name
    return f"{cls.__module__}:{attribute}"


def _described(component: Component, files: dict[Path, str], classes: set[type]) -> dict[str, Any]:
    """The component as stored in the index. What it is made from is added to `files` and `classes`."""
    target = component.target if isinstance(component.target, str) else _target(component.target)  # type: ignore[arg-type]
    path, summary = file_of(component.target), component.summary
    try:
        cls = load_class(component)
        declared = describe(cls, component.kind, f"{component.kind} '{component.name}' ({component.origin})")
    except PluginError as error:
        declared = {"error": str(error)}
    else:
        classes.add(cls)
        path = path or file_of(cls)
        summary = summary or summary_of(declared["doc"])
        for base in code_of(cls):
            if (file := module_file(base)) is not None:
                files.setdefault(file, sha256_of(file))
    if path is not None:
        files.setdefault(path, sha256_of(path))
    return {
        "kind": component.kind,
        "name": component.name,
        "aliases": list(component.aliases),
        "summary": summary,
        "target": target,
        "file": short(path) if path is not None else "",
        "origin": component.origin,
        "declared": declared,
    }


def registered_class(source: PluginSource, kind: str, name: str) -> type:
    """A class that only a plugin's own registration hook can return, because it is in no module."""
    plugin, manager = source.load(), new_manager()
    check_plugin(manager, plugin, source.provider)
    offered = collect_components(manager, plugin, source.provider)
    return next(load_class(c) for c in offered if (c.kind, c.name) == (kind, name))


def new_manager() -> pluggy.PluginManager:
    """A plugin manager with our hooks."""
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    return manager


def check_plugin(manager: pluggy.PluginManager, plugin: object, provider: str) -> None:
    """Register the plugin with pluggy. Raises if it is written for another API version, or has an unknown hook.

    pluggy itself leaves a plugin with a wrong signature half registered, and accepts a misspelt hook
    as one that another version may know.
    """
    stated = getattr(plugin, f"{_PREFIX}api", hooks.HOOK_API)
    if stated != hooks.HOOK_API:
        raise ValueError(
            f"the plugin is written for hook API {stated}, but this wbcbench has {hooks.HOOK_API}; "
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
            known = [n for n in vars(hooks) if n.startswith(_PREFIX)]
            raise ValueError(
                f"there is no hook '{hook.name}'.{did_you_mean(hook.name, known)} The hooks are {', '.join(known)}"
            )


def collect_components(manager: pluggy.PluginManager, plugin: object, provider: str) -> list[Component]:
    """Call the registration hooks of this plugin only."""
    components: list[Component] = []
    for kind in KINDS:
        hook = getattr(manager.hook, f"{_PREFIX}register_{plural(kind)}")
        for impl in hook.get_hookimpls():
            if impl.plugin is plugin:
                register = _register(kind, provider, components)
                with output_to_stderr():
                    impl.function(*[register for _ in impl.argnames])
    return components


def _register(kind: str, provider: str, into: list[Component]) -> Callable[..., None]:
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
            origin=origin or f"{caller.f_code.co_filename}:{caller.f_lineno}",
            aliases=(aliases,) if isinstance(aliases, str) else tuple(aliases),
        )
        component.check()  # here, so that the traceback ends at the plugin's own line
        into.append(component)

    return register


class Probe:
    """Runs `survey` in a separate process, which is kept for the next plugin.

    On Linux, each plugin is imported in a fork of that process, so that torch is imported once and plugins do not
    affect each other. Elsewhere, where forking is not safe, each plugin gets a new process.
    """

    def __init__(self) -> None:
        self.idle = 30.0
        """Idle seconds after which the process that imports plugins exits."""
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._warm = False
        self._lock = threading.Lock()

    def run(self, source: PluginSource, more: bool = False) -> dict[str, Any] | Failure:
        """What a plugin offers, or why that is not known. Never raises because of the plugin.

        Args:
            source: the plugin.
            more: other plugins will follow, so importing torch beforehand saves time.
        """
        limit = time_limit()
        with self._lock, tempfile.TemporaryDirectory(prefix="wbcbench-plugin-") as folder:
            result, trace = Path(folder, "result.json"), Path(folder, "trace.txt")
            request = {
                "source": asdict(source), "result": str(result), "trace": str(trace), "limit": limit,
                "preload": more or self._warm, "path": sys.path, "folder": _cwd(), "environment": dict(os.environ),
            }  # fmt: skip
            self._warm = True
            code = self._ask(json.dumps(request), 2 * limit + 60)
            if result.is_file():
                found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
                return Failure(**found["failure"]) if "failure" in found else found
            hanging = trace.read_text(encoding="utf-8", errors="replace") if trace.is_file() else ""
        if hanging or code is None:
            return Failure(f"its import took longer than {limit:g} s ({TIMEOUT_VARIABLE})", hanging)
        ended = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
        return Failure(f"its import ended the process that ran it {ended}", "")

    def _ask(self, request: str, limit: float) -> int | None:
        """The exit code of the process that imported the plugin; None if it had to be stopped."""
        stopped = threading.Event()
        while True:
            process, fresh = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            timer = threading.Timer(limit, _stop, (process, stopped))
            timer.start()
            answer = ""
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(f"{request}\n")
                    process.stdin.flush()
                    answer = process.stdout.readline()
            except BaseException:
                self.close()
                raise
            finally:
                timer.cancel()
            if answer.strip():
                return int(answer)
            with contextlib.suppress(subprocess.TimeoutExpired):  # the pipe closes just before the process exits
                process.wait(10)
            self.close()
            if fresh or stopped.is_set():  # otherwise it had just exited because it was idle
                return None if stopped.is_set() else process.returncode

    def _running(self) -> tuple[subprocess.Popen[str], bool]:
        """The process, and whether it is new."""
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process, False
        self._owner = os.getpid()  # a forked worker must not share its parent's pipe
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({self.idle})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            start_new_session=True,  # keeps Ctrl-C from it; whatever a plugin starts can be stopped with it
        )
        return self._process, True

    def close(self) -> None:
        """Stop the process, if there is one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _stop(process: subprocess.Popen[str], stopped: threading.Event) -> None:
    stopped.set()
    _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):  # it has already exited
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


PROBE = Probe()
atexit.register(PROBE.close)


def time_limit() -> float:
    """Seconds that one plugin's import may take."""
    try:
        return float(os.environ.get(TIMEOUT_VARIABLE) or TIMEOUT)
    except ValueError:
        return TIMEOUT


def serve(idle: float) -> None:
    """Answer one request per line with the exit code of the process that imported the plugin, until there is none
    for `idle` seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what plugins print
    while not _FORKS or select.select([0], [], [], idle)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        if not _FORKS:
            _answer(request)
        if request["preload"]:
            _preload()
        child = os.fork()
        if not child:
            _answer(request)
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        answers.flush()


def _preload() -> None:
    try:
        for kind in KINDS:
            contract(kind)
    except Exception:  # torch is not installed: the plugins that need it will report that
        pass


def _answer(request: dict[str, Any]) -> None:
    """Write the result to a file and end the process, even if the plugin calls `sys.exit`."""
    with open(request["trace"], "w") as trace:
        faulthandler.dump_traceback_later(request["limit"], exit=True, file=trace)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.path[:] = request["path"]
        os.chdir(request["folder"])
        try:
            found = survey(PluginSource(**request["source"]))
            text = json.dumps(found)
        except BaseException as error:  # SystemExit too
            text = json.dumps({"failure": asdict(Failure.of(error))})
        faulthandler.cancel_dump_traceback_later()
    unfinished = Path(f"{request['result']}.part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, request["result"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return str(Path.home())


__all__ = ["PROBE", "Failure", "Probe", "class_components", "registered_class", "survey"]
