"""A plugin as others publish it: one distiller, named here and imported when it is used."""

from __future__ import annotations

from wbcbench.contracts import Register, hookimpl

wbcbench_api = 1


@hookimpl
def wbcbench_register_distillers(register: Register) -> None:
    register("softer", f"{__name__}.softer:Softer", aliases=("gentle",))
