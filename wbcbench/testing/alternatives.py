"""Other valid values of a component's parameters, for tests that change one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from wbcbench.contracts.params import describe_params


def alternatives(params: type[BaseModel], given: dict[str, Any]) -> dict[str, list[Any]]:
    """For every parameter, valid values other than its default, from its search space or its type."""
    found: dict[str, list[Any]] = {}
    for row in describe_params(params):
        name, default, search = row["name"], given.get(row["name"], row["default"]), row["search"]
        options: list[Any] = []
        if search and "choices" in search:
            options = list(search["choices"])
        elif search:
            low, high = search["low"], search["high"]
            options = [(low * high) ** 0.5 if search["log"] else (low + high) / 2, low, high]
        if isinstance(default, bool):
            options = [not default]
        elif isinstance(default, int | float):
            options = [type(default)(v) for v in [*options, default * 2 + 1, default / 2, 2, 1]]
        found[name] = [v for v in options if v != default and _valid(params, {**given, name: v})]
    return {name: values for name, values in found.items() if values}


def _valid(params: type[BaseModel], values: dict[str, Any]) -> bool:
    try:
        params(**values)
    except ValidationError:
        return False
    return True


__all__ = ["alternatives"]
