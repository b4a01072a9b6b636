"""`--set KEY=VALUE` of verbs that build one component: values for its `Params`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def given_params(cls: Any, preset: Mapping[str, Any], settings: Iterable[str]) -> Any:
    """The component's `Params` from what its name fixes and from `KEY=VALUE` texts. Raises `UsageError`."""
    import pydantic

    from wbcbench.errors import UsageError, did_you_mean
    from wbcbench.spec.request import load_yaml

    values: dict[str, Any] = dict(preset)
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found:
            raise UsageError(f"Expected --set KEY=VALUE, but got '{setting}'.")
        if key not in cls.Params.model_fields:
            near = did_you_mean(key, cls.Params.model_fields)
            raise UsageError(f"{cls.name} has no parameter '{key}'.{near}")
        try:
            values[key] = load_yaml(text)
        except ValueError as error:
            raise UsageError(f"Expected a YAML value for '{key}', but got '{text}': {error}.") from error
    try:
        return cls.Params(**values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"Parameter '{where}' of {cls.name}: {first['msg']}, but got {first['input']!r}."
        ) from error
