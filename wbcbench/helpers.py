"""The code that stands beside a component's own file: what else of its folder can change what it does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from wbcbench.importing import file_of
from wbcbench.registry import Component
from wbcbench.spec import Trial


def components_of(trial: Trial) -> Iterator[tuple[str, str]]:
    """Kind and name, as it was asked for, of all that takes part in a trial, its teachers aside."""
    method = trial.method
    yield "dataset", trial.protocol.dataset.name
    yield "fusion", method.fusion.name
    yield "backbone", method.backbone.name
    if method.routing is not None:
        yield "routing", method.routing.name
    yield from (("policy", p.name) for p in method.policies)
    yield from (("distiller", d.name) for d in method.distillers)


def helpers(component: Component) -> str:
    """Digest of the files that a component may import from beside it, as they are now; empty if there are none.

    For a plugin that is a folder, all of its files; for a file, the folder's helpers (`_x.py`).
    """
    path = file_of(component.target) if isinstance(component.target, str) else None
    if path is None or not path.is_file():
        return ""
    folder = path.name == "__init__.py"
    found = path.parent.rglob("*.py") if folder else path.parent.glob("_*.py")
    files = sorted(p for p in found if p != path and (folder or p.name != "__init__.py"))
    return _digest(files) if files else ""


@cache
def kept_helpers(component: Component) -> str:
    """`helpers` as this process found them first."""
    return helpers(component)


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


__all__ = ["components_of", "helpers", "kept_helpers"]
