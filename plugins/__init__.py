"""The built-in components, offered through the same hooks as everyone's.

Each kind has a folder and each component a file that describes itself (see `wbcbench.scan`), so
adding a method means adding one file. Nothing is imported until it is used.
"""

from __future__ import annotations

from pathlib import Path

from wbcbench.hookspecs import Register, hookimpl
from wbcbench.scan import scan


def _offer(register: Register, kind: str, folder: str) -> None:
    for path in sorted((Path(__file__).parent / folder).glob("*.py")):
        if path.stem.startswith("_"):
            continue
        for found in scan(path):
            if found.kind == kind:
                register(
                    found.name,
                    f"{__name__}.{folder}.{path.stem}:{found.class_name}",
                    summary=found.summary,
                    aliases=found.aliases,
                    origin=f"{path}:{found.line}",
                )


@hookimpl
def wbcbench_register_datasets(register: Register) -> None:
    _offer(register, "dataset", "datasets")


@hookimpl
def wbcbench_register_backbones(register: Register) -> None:
    _offer(register, "backbone", "backbones")


@hookimpl
def wbcbench_register_fusions(register: Register) -> None:
    _offer(register, "fusion", "fusions")


@hookimpl
def wbcbench_register_policies(register: Register) -> None:
    _offer(register, "policy", "policies")


@hookimpl
def wbcbench_register_distillers(register: Register) -> None:
    _offer(register, "distiller", "distillers")


@hookimpl
def wbcbench_register_routings(register: Register) -> None:
    _offer(register, "routing", "routings")
