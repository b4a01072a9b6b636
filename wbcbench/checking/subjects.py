"""Which components a user means by the path of a plugin or by a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from wbcbench.errors import NameClashError, PluginError, UnknownNameError, UsageError, did_you_mean
from wbcbench.importing import plugin_stem
from wbcbench.plugins import PluginOptions, is_plugin_file, load_plugins
from wbcbench.registry import KINDS, Registry, Resolved


@dataclass(frozen=True)
class Subject:
    """A component to be checked, and the registry that it lives in."""

    registry: Registry
    resolved: Resolved
    clashes: tuple[str, ...] = ()
    """One sentence per name of it that another plugin offers too."""


def find_subjects(which: str, options: PluginOptions, kind: str = "") -> list[Subject]:
    """The components in a plugin file or package folder, or the one of a name.

    Args:
        which: `plugins/gated.py`, `plugins/gated/`, `gated` or `provider/gated`.
        options: which other plugins to load.
        kind: look at this kind only; empty for all.

    Raises:
        UsageError: nothing, or nothing unambiguous, is meant.
        PluginError: the plugin failed to load.
    """
    path = Path(which).expanduser()
    if path.suffix == ".py" or (path / "__init__.py").is_file():
        found = _in_file(path.resolve(), options)
        if kind:
            found = [s for s in found if s.resolved.component.kind == kind]
        if not found:
            raise UsageError(f"Expected a {kind or 'component'} in {which}, but there is none.")
        return found
    return [_named(which, options, kind)]


def _in_file(path: Path, options: PluginOptions) -> list[Subject]:
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"Expected a plugin file, but {path} does not exist.")
    if not is_plugin_file(file):
        raise UsageError(
            f"Expected a plugin file, but {path.name} is a helper or a test by its name, which is never loaded. "
            "Name the plugin itself; run tests with pytest."
        )
    folder = file.parent.parent if path.is_dir() else file.parent
    folders = (folder, *(f for f in options.folders if f != folder))
    registry, report = load_plugins(replace(options, folders=folders, block_all=False, blocked=frozenset()))
    provider, origin = f"local.{plugin_stem(file)}", str(file)
    status = next(p for p in report.plugins if p.provider == provider and p.origin == origin)
    if status.status != "ok":
        raise PluginError(
            f"Expected to load {path}, but it failed: {status.reason}. Mend that first.\n\n"
            f"{status.traceback}".rstrip()
        )
    return [
        Subject(registry, Resolved(c), tuple(x for x in report.clashes if f"{provider}/{c.name}'" in x))
        for c in registry.components(provider=provider)
    ]


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
        f"Expected the path of a plugin file (ending in .py) or the name of a component, but got '{name}'."
        f"{did_you_mean(name, known)} `wbcbench list` shows names; --plugins-dir adds a folder."
    )


__all__ = ["Subject", "find_subjects"]
