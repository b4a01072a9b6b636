"""Which components a user means by the path of a plugin or by a name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from wbcbench.checking.places import Place, find_places
from wbcbench.errors import NameClashError, PluginError, UnknownNameError, UsageError, did_you_mean
from wbcbench.registry import KINDS, Component, Registry, Resolved, clash_sentence
from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.registry.provenance import file_of, plugin_stem


@dataclass(frozen=True)
class Subject:
    """A component to be checked, and the registry that it lives in."""

    registry: Registry
    resolved: Resolved
    clashes: tuple[str, ...] = ()
    """One sentence per name of it that another plugin offers too."""


def find_subjects(which: str, options: PluginOptions, kind: str = "") -> list[Subject]:
    """The components in a plugin file, a package's folder or the folder that it is built from, or that of a name.

    Args:
        which: `plugins/gated.py`, `plugins/gated/`, `wbcbench-gated/`, `gated` or `provider/gated`.
        options: which other plugins to load.
        kind: look at this kind only; empty for all.

    Raises:
        UsageError: nothing, or nothing unambiguous, is meant.
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
    if place.in_package:  # built in, or installed so that edits count: it has a name and a provider already
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

    Neither the same file found in two ways is another, nor what a provider in `own` offers: an installed copy.
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


__all__ = ["Subject", "find_subjects"]
