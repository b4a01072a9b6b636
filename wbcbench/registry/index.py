"""What each plugin file offers and declares, found by importing it once and cached as JSON.

An entry is valid for the files that it was made from: the plugin's own, those of the classes that its components
inherit from, and the helpers in its folder. The index of the built-in components is shipped (`builtin.json`, made
by `python -m wbcbench.registry.index`), others are in the cache folder. Failures are not cached: the cause may be
outside the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcbench.files import cache_root
from wbcbench.registry.provenance import BUILTIN_PACKAGE, PluginSource, builtin_folder, helper_digest_of, sha256_of
from wbcbench.registry.registry import BUILTIN_PROVIDER, KINDS, plural

if TYPE_CHECKING:
    from wbcbench.registry.probe import Failure

log = logging.getLogger("wbcbench")

Entry = dict[str, Any]
"""`files` (path -> SHA-256), `helpers`, `observes`, `skipped`, `outdated` and `components`."""
FORMAT = 2
SHIPPED = Path(__file__).with_name("builtin.json")


class Index:
    """Looks plugins up, and probes those that are new or were edited."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._helpers: dict[Path, str] = {}

    def look_up(self, sources: Sequence[PluginSource]) -> list[Entry | Failure]:
        """What each plugin offers, or why that is not known. Imports nothing in this process."""
        found: dict[PluginSource, Entry | Failure] = {}
        for source in sources:
            entry = self._known(source)
            if entry is not None:
                found[source] = entry
        unknown = [s for s in dict.fromkeys(sources) if s not in found]
        for source in unknown:  # if more follow, torch is imported once for all of them
            found[source] = self._probe(source, more=len(unknown) > 1)
        return [found[s] for s in sources]

    def _known(self, source: PluginSource) -> Entry | None:
        entry = shipped().get(source.value) if source.how == "module" else None
        if entry is None or not self._holds(source, entry):
            entry = _read(source)
        return entry if entry is not None and self._holds(source, entry) else None

    def _holds(self, source: PluginSource, entry: Entry) -> bool:
        for name, digest in entry["files"].items():
            if name not in self._files:
                self._files[name] = sha256_of(builtin_folder() / name)
            if self._files[name] != digest:
                return False
        return bool(entry["helpers"] == self._helpers_of(source))

    def _helpers_of(self, source: PluginSource) -> str:
        path = source.path
        if path is None:
            return ""
        if path.name == "__init__.py":
            return helper_digest_of(path)
        if path.parent not in self._helpers:  # the same for all files of a folder
            self._helpers[path.parent] = helper_digest_of(path)
        return self._helpers[path.parent]

    def _probe(self, source: PluginSource, more: bool) -> Entry | Failure:
        from wbcbench.registry.probe import PROBE, Failure

        started, helpers = time.time(), self._helpers_of(source)
        entry = PROBE.run(source, more)
        if isinstance(entry, Failure):
            return entry
        entry["helpers"] = helpers
        settled = all(_older(builtin_folder() / name, started) for name in entry["files"])
        if settled and not any("error" in c["declared"] for c in entry["components"]):
            _write(source, entry)
        return entry


def names_before(source: PluginSource) -> frozenset[str]:
    """What the plugin offered when it was last imported, even if it was edited or broken since."""
    entry = _read(source)
    return frozenset(n for c in entry["components"] for n in (c["name"], *c["aliases"])) if entry else frozenset()


def builtin_sources() -> list[PluginSource]:
    """One for each file of the built-in components."""
    folder = builtin_folder()
    return [
        PluginSource(BUILTIN_PROVIDER, f"{BUILTIN_PACKAGE}.{plural(kind)}.{path.stem}", "module")
        for kind in KINDS
        for path in sorted((folder / plural(kind)).glob("*.py"))
        if not path.stem.startswith("_")
    ]


def build() -> dict[str, Any]:
    """The index of the built-in components, made by importing them in this process."""
    from wbcbench.registry.probe import survey

    index = Index()
    plugins = {s.value: survey(s) | {"helpers": index._helpers_of(s)} for s in builtin_sources()}
    return {"format": FORMAT, "contracts": contracts_digest(), "sha256": _digest(plugins), "plugins": plugins}


def as_text(index: dict[str, Any]) -> str:
    """The shipped file: a line per plugin, so that a change of one is a change of one line."""
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in index["plugins"].items())
    head = json.dumps({k: v for k, v in index.items() if k != "plugins"})[1:-1]
    return f'{{{head}, "plugins": {{\n{lines}\n}}}}\n'


@lru_cache(maxsize=1)
def shipped() -> dict[str, Entry]:
    """Module -> entry, as shipped; empty if the file is damaged or was made for other contracts."""
    try:
        index = json.loads(SHIPPED.read_bytes())
        if (index["format"], index["contracts"]) != (FORMAT, contracts_digest()):
            return {}
        if index["sha256"] == _digest(index["plugins"]):
            return dict(index["plugins"])
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError):
        pass
    log.warning("%s is damaged; the built-in components are read from their files.", SHIPPED)
    return {}


@lru_cache(maxsize=1)
def contracts_digest() -> str:
    """Digest of the files that define what components declare, and the defaults."""
    folder = Path(__file__).parents[1] / "contracts"
    digests = [sha256_of(folder / f"{name}.py") for name in (*KINDS, "needs", "params", "previous")]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _place(source: PluginSource) -> Path:
    key = hashlib.sha256(f"{source.how}\0{source.provider}\0{source.value}".encode()).hexdigest()
    return cache_root() / "plugins" / f"{key[:32]}.json"


def _made_for() -> str:
    return f"{FORMAT} {contracts_digest()}"


def _digest(entries: dict[str, Any]) -> str:
    return hashlib.sha256(f"{_made_for()} {json.dumps(entries)}".encode()).hexdigest()


def _read(source: PluginSource) -> Entry | None:
    try:
        stored = json.loads(_place(source).read_bytes())
        entry: Entry = stored["entry"]
        if stored["sha256"] == _digest(entry):
            return entry
        if stored.get("made_for") != _made_for():
            return None  # by another version
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    log.warning("Cache file %s is damaged; the plugin is read again.", _place(source))
    return None


def _write(source: PluginSource, entry: Entry) -> None:
    """Write atomically. A cache that cannot be written only costs time."""
    path = _place(source)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.stem)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"made_for": _made_for(), "sha256": _digest(entry), "entry": entry}, file)
            os.replace(unfinished, path)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise


def _older(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime <= moment
    except OSError:
        return False


if __name__ == "__main__":
    SHIPPED.write_text(as_text(build()), encoding="utf-8")
