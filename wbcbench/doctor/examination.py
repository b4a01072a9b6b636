"""All checks, one after another; one that breaks is a finding itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from wbcbench.registry.loading import PluginOptions

State = Literal["ok", "note", "problem"]
"""note: worth knowing, nothing fails of it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    state: State
    text: str
    fix: str = ""
    """What to do; a problem always has one."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


Findings = Iterator[Finding]


def examine(store: Path, plugins: PluginOptions, digests: bool = True) -> list[Finding]:
    """Look at everything.

    Args:
        store: which store to look into; it need not exist.
        plugins: which plugins to load.
        digests: whether to read every file of the store's records.
    """
    from wbcbench.doctor import installation, machine, storage

    checks: list[tuple[str, Callable[[], Findings]]] = [
        ("Python", installation.python),
        ("packages", installation.packages),
        ("extras", installation.extras),
        ("plugins", lambda: installation.loaded(plugins)),
        ("variables", installation.variables),
        ("processor", machine.processor),
        ("GPU", machine.gpu),
        ("memory", machine.memory),
        ("Ray", machine.ray_needs),
        ("store", lambda: storage.store(store, digests)),
        ("cache", storage.cache),
    ]
    found: list[Finding] = []
    for about, check in checks:
        try:
            found += check()
        except Exception as error:
            text = f"could not be looked at: {type(error).__name__}: {error}"
            found.append(Finding(about, "problem", text, "Please report this with the output of --traceback."))
    return found


__all__ = ["Finding", "Findings", "State", "examine"]
