"""A plugin whose names are taken: the fusion `gmu` is built in, the distiller `softer` is another package's."""

from __future__ import annotations

from wbcbench.contracts import Register, hookimpl

wbcbench_api = 1


@hookimpl
def wbcbench_register_fusions(register: Register) -> None:
    register("gmu", f"{__name__}.methods:Gmu")


@hookimpl
def wbcbench_register_distillers(register: Register) -> None:
    register("softer", f"{__name__}.methods:Softer")
