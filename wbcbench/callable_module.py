"""`wbcbench.search` and `wbcbench.leaderboard` are packages, and verbs: calling one calls `wbcbench.api`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A package whose last name is a function of `wbcbench.api`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import wbcbench.api

        return getattr(wbcbench.api, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(name: str) -> None:
    """Let a package be called. Importing it puts it where the function of its name was found before."""
    sys.modules[name].__class__ = CallableModule
