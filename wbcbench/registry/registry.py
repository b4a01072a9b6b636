"""Maps names to components. Uses neither pluggy nor torch; imports a component only to `load` it."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from wbcbench.errors import NameClashError, PluginError, UnknownNameError, UsageError, did_you_mean
from wbcbench.isolation import contained
from wbcbench.registry.declaration import Declaration, describe, summary_of
from wbcbench.registry.provenance import import_target, split_target

KINDS = ("dataset", "backbone", "fusion", "policy", "distiller", "routing", "metric", "corruption")
BUILTIN_PROVIDER = "wbcbench"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


def plural(kind: str) -> str:
    """`fusion` -> `fusions`, `policy` -> `policies`."""
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


def kind_of(word: str) -> str:
    """The kind that a user means by a singular or plural word. Raises `UsageError`."""
    words = {kind: kind for kind in KINDS} | {plural(kind): kind for kind in KINDS}
    if word.lower() not in words:
        raise UsageError(
            f"Expected a kind of component ({', '.join(words)}), but got '{word}'.{did_you_mean(word, words)}"
        )
    return words[word.lower()]


@dataclass(frozen=True)
class Component:
    """A name, who offers it, and where the real class is."""

    kind: str
    name: str
    target: str | type | Callable[[], type]
    """`package.module:Class`, `path/file.py::Class`, the class itself, or a function that returns it."""
    summary: str = ""
    provider: str = BUILTIN_PROVIDER
    provider_version: str = ""
    origin: str = ""
    """`file:line`."""
    aliases: tuple[str, ...] = ()
    builtin: bool = False
    sha256: str = ""
    """SHA-256 of the file that contains the class; empty if there is no such file."""
    declared: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """What the index contains about the class; None: read it from the class."""

    def check(self) -> None:
        """Raise `ValueError` if what a plugin registered cannot be a component."""
        if self.kind not in KINDS:
            raise ValueError(f"expected a kind of {KINDS}, but got {self.kind!r}")
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(
                    f"expected a {self.kind} name of letters, digits, '_', '-' and '.', but got {name!r}"
                )
        if isinstance(self.target, str):
            split_target(self.target)
        elif not callable(self.target):
            raise ValueError(
                f"expected {self.kind} '{self.name}' as a class or 'package.module:Class', but got {self.target!r}"
            )

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


@dataclass(frozen=True)
class Resolved:
    """What a name resolves to: a component, and parameters that the name itself fixes."""

    component: Component
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Missing:
    """A provider that was not loaded, and the names that it would have offered, as far as known."""

    provider: str
    reason: str
    traceback: str = ""
    blocked: bool = False
    names: frozenset[str] = frozenset()


def qualified_name(component: Component) -> str:
    """The name used in a trial's identity: bare for a built-in, else `provider/name`."""
    return component.name if component.builtin else f"{component.provider}/{component.name}"


def contract(kind: str) -> type:
    """The base class of all components of this kind (imports torch, except for data sets and metrics)."""
    cls: type = getattr(importlib.import_module(f"wbcbench.contracts.{kind}"), kind.capitalize())
    return cls


def load_class(component: Component) -> type:
    """The real class, checked against its contract. Raises `PluginError`."""
    who = f"{component.kind} '{qualified_name(component)}' ({component.origin or component.provider})"
    target = component.target
    try:
        with nullcontext() if component.builtin else contained():
            if isinstance(target, type):
                cls: object = target
            else:
                cls = import_target(target) if isinstance(target, str) else target()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"Expected to import {who}, but its code raised {type(error).__name__}: {error}. "
            f"{_advice(component.provider)}\n\n{traceback.format_exc()}"
        ) from error
    expected = contract(component.kind)
    if not isinstance(cls, type) or not issubclass(cls, expected):
        raise PluginError(
            f"Expected {who} to be a subclass of wbcbench.contracts.{expected.__name__}, but got {cls!r}."
        )
    if hasattr(expected, "traits") or hasattr(expected, "needs"):
        from wbcbench.contracts import previous

        previous.adopt(cls)  # what was set on it since it was made, by a decorator say
    return cls


def _advice(provider: str) -> str:
    if provider == BUILTIN_PROVIDER:
        return "Undo the changes to this file, or reinstall wbcbench."
    return f"Fix it, or disable it with --no-plugins={provider}."


class Registry:
    """All components that can be requested by name."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], list[Component]] = {}
        self._components: list[Component] = []
        self._taken: dict[tuple[str, str, str], Component] = {}
        self._missing: list[Missing] = []
        self._loaded: dict[int, type] = {}
        self._declared: dict[int, Declaration] = {}
        self._frozen = False

    def add(self, *components: Component) -> None:
        """Add all of them, or none if one is invalid (`ValueError`).

        Two providers may offer the same name: then only the qualified names resolve.
        """
        if self._frozen:
            raise RuntimeError("The registry is frozen: plugins may register only while they are loaded.")
        new: dict[tuple[str, str, str], Component] = {}
        for component in components:
            component.check()
            for name in component.names:
                key = (component.kind, component.provider, name)
                first = self._taken.get(key) or new.setdefault(key, component)
                if first is not component:
                    raise ValueError(
                        f"{component.kind} '{name}' is registered twice: {first.origin} and {component.origin}"
                    )
        self._taken |= new
        for component in components:
            self._components.append(component)
            for name in dict.fromkeys(component.names):
                self._by_name.setdefault((component.kind, name), []).append(component)

    def add_missing(self, missing: Missing) -> None:
        """Remember a blocked or failed provider, so that requesting its components reports why."""
        self._missing.append(missing)

    def freeze(self) -> None:
        """Refuse further components."""
        self._frozen = True

    def components(self, kind: str | None = None, provider: str | None = None) -> list[Component]:
        """Components by kind and name; built-ins and others alike."""
        chosen = [c for c in self._components if kind in (None, c.kind) and provider in (None, c.provider)]
        return sorted(chosen, key=lambda c: (KINDS.index(c.kind), c.name, not c.builtin, c.provider))

    def names(self, kind: str) -> list[str]:
        """Names that `resolve` accepts (without aliases and family members); qualified where bare names clash."""
        return sorted(
            c.name if len(self._by_name[kind, c.name]) == 1 else f"{c.provider}/{c.name}"
            for c in self.components(kind)
        )

    def clashes(self) -> list[str]:
        """One sentence per name that more than one provider offers."""
        return [clash_sentence(k, n, cs) for (k, n), cs in sorted(self._by_name.items()) if len(cs) > 1]

    def get(self, kind: str, name: str) -> Component:
        """As `resolve`, for callers that do not need preset parameters."""
        return self.resolve(kind, name).component

    def resolve(self, kind: str, name: str) -> Resolved:
        """What `name`, an alias, `provider/name` or the name of a family's member resolves to.

        Raises `UnknownNameError`, `NameClashError`, or `PluginError` if its plugin failed.
        """
        if kind not in KINDS:
            raise UsageError(f"Expected a kind of {KINDS}, but got '{kind}'.")
        provider, slash, rest = name.rpartition("/")
        bare = rest if slash else name
        offered = self._by_name.get((kind, bare), [])
        if slash:
            offered = [c for c in offered if c.provider == provider]
        if len(offered) > 1:
            raise NameClashError(clash_sentence(kind, bare, offered))
        if offered:
            return Resolved(offered[0])
        self._explain_missing(kind, provider, bare)
        members: list[str] = []
        for component in self.components(kind, provider if slash else None):
            names = self._family(component)
            if bare in names:
                return Resolved(component, {"model": bare})
            members += names
        if slash and not self.components(provider=provider):
            providers = {c.provider for c in self._components}
            raise UsageError(
                f"No plugin is called '{provider}'.{did_you_mean(provider, providers)} "
                "`wbcbench plugins` shows what was found."
            )
        aliases = [n for k, n in self._by_name if k == kind]
        raise UnknownNameError(kind, bare, {*self.names(kind), *aliases, *members})

    def declared(self, kind: str, name: str) -> Declaration:
        """What the component of that name declares. Raises what `resolve` and `declaration` raise."""
        return self.declaration(self.resolve(kind, name).component)

    def declaration(self, component: Component) -> Declaration:
        """What the component declares; known without importing it if it was found by `load_plugins`.

        Raises `PluginError` if it cannot be imported, or declares what its contract does not know.
        """
        known = self._declared.get(id(component))
        if known is None:
            stored = component.declared
            if stored is None:
                who = f"{component.kind} '{qualified_name(component)}'"
                stored = describe(self.load(component), component.kind, who)
            if "error" in stored:
                raise PluginError(stored["error"])
            summary = component.summary or summary_of(stored["doc"])
            known = Declaration(
                component.kind, component.name, component.aliases, summary, stored, lambda: self.load(component)
            )
            self._declared[id(component)] = known
        return known

    def load(self, component: Component) -> type:
        """The real class, imported once and checked against its contract. Raises `PluginError`."""
        if id(component) not in self._loaded:
            self._loaded[id(component)] = load_class(component)
            if component.kind == "dataset":
                from wbcbench.contracts.dataset import find_registered_by

                find_registered_by(lambda name: self.load(self.get("dataset", name)))
        return self._loaded[id(component)]

    def _family(self, component: Component) -> list[str]:
        """Names of the models of a family; empty for an ordinary component."""
        if component.kind != "backbone":
            return []
        try:
            family = self.declaration(component).family
            if not family:
                return []
            lister = import_target(family)
            return [str(name) for name in lister()] if callable(lister) else []
        except PluginError:
            return []  # a broken family must not block lookups of other names
        except Exception as error:
            raise PluginError(
                f"Expected `family` of backbone '{qualified_name(component)}' to list model names, "
                f"but it raised {type(error).__name__}: {error}.\n\n{traceback.format_exc()}"
            ) from error

    def _explain_missing(self, kind: str, provider: str, name: str) -> None:
        for missing in self._missing:
            named = provider == missing.provider
            offers = name in missing.names
            if missing.blocked and named:
                raise UsageError(
                    f"Plugin '{provider}' is blocked ({missing.reason}), so its {kind} '{name}' "
                    "is not available. Remove the block to use it."
                )
            if not missing.blocked and (named or (offers and not provider)):
                raise PluginError(
                    f"Expected {kind} '{name}' from plugin '{missing.provider}', but that plugin failed: "
                    f"{missing.reason}. {_advice(missing.provider)}\n\n{missing.traceback}".rstrip()
                )


def clash_sentence(kind: str, name: str, components: Iterable[Component]) -> str:
    """Which providers offer the name, and what to write instead."""
    offers = " and by ".join(
        f"{c.provider}{f' {c.provider_version}' if c.provider_version else ''} ({c.origin})" for c in components
    )
    ways = " or ".join(f"'{c.provider}/{c.name}'" for c in components)
    return f"The {kind} '{name}' is offered by {offers}. Write {ways}."
