"""Reading requests: defaults < config file < flags < `--set`, and errors that name the key."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from wbcbench.errors import UsageError, did_you_mean
from wbcbench.spec.request import Request, load_yaml, parse_value

COMPONENT_SECTIONS = ("dataset", "fusion", "kd", "backbone", "routing", "policy")
SEARCH_SECTIONS = ("space", "search")
"""The section of a config file for `wbcbench search`; a plain run ignores it."""
_ALIASES = {
    "distiller": "kd",
    "policies": "policy",
    "epochs": "budget.epochs",
    "batch_size": "budget.batch_size",
}
ARGUMENTS = {
    "dataset": "dataset", "modalities": "modalities", "teacher_modalities": "teacher_modalities",
    "fusion": "fusion", "kd": "kd", "routing": "routing", "policy": "policy", "backbone": "backbone",
    "max_macs": "max_macs", "max_params": "max_params", "max_latency_ms": "max_latency_ms",
    "teacher": "teacher.backbone", "epochs": "epochs", "seeds": "seeds", "folds": "folds",
    "image_size": "image_size", "device": "device", "store": "store",
    "executor": "executor", "jobs": "jobs", "cpus_per_trial": "cpus_per_trial",
    "gpus_per_trial": "gpus_per_trial", "ray_address": "ray_address",
}  # fmt: skip
"""Flag of the command line, which is also an argument of `wbcbench.run`, -> key of the request. The flag wins over
the config file, `--set` wins over both."""

Settings = Mapping[str, Any] | Sequence[str]
"""`{"training.lr": 1e-3}`, or `key=value` as text, as for `--set`."""


def variable(name: str) -> str:
    """The environment variable that is used where a flag is not given: `WBCBENCH_EPOCHS`."""
    return f"WBCBENCH_{name.upper()}"


def keys_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Key of the request -> value, for those `ARGUMENTS` that are not None or whose variable is set."""
    found: dict[str, Any] = {}
    for name, key in ARGUMENTS.items():
        value = arguments.get(name)
        if value is None and name in arguments:
            value = os.environ.get(variable(name)) or None
        if value is not None:
            found[key] = str(value) if isinstance(value, Path) else value
    return found


def load_request(
    config: Path | None = None, flags: dict[str, Any] | None = None, settings: Settings = ()
) -> Request:
    """Merge a YAML file, flags (only those that were given) and `--set a.b=c` into a request.

    Args:
        config: a YAML file.
        flags: key of the request -> value.
        settings: any key; wins over both.

    Raises:
        UsageError: with file, key path and nearest name for anything unknown or out of range.
    """
    tree = read_yaml(config) if config is not None else {}
    return request_from(tree, flags, settings, str(config) if config else "command line")


def request_from(
    tree: dict[str, Any],
    flags: dict[str, Any] | None = None,
    settings: Settings = (),
    where: str = "command line",
) -> Request:
    """The same for a document that is already read, which is modified; errors name `where` it is from."""
    for section in SEARCH_SECTIONS:
        tree.pop(section, None)
    for alias, target in _ALIASES.items():
        if alias in tree:
            put(tree, target, tree.pop(alias))
    for key, value in (flags or {}).items():
        put(tree, _ALIASES.get(key, key), value)
    overrides: dict[str, dict[str, Any]] = {}
    for path, value in pairs(settings):
        section, _, rest = _ALIASES.get(path, path).partition(".")
        section = _ALIASES.get(section, section)
        if section in COMPONENT_SECTIONS and rest:
            put(overrides.setdefault(section, {}), rest, value)
        else:
            put(tree, f"{section}.{rest}" if rest else section, value)
    if overrides:
        tree["overrides"] = overrides
    return validate(Request, tree, where)


def pairs(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Key and value of each setting. Raises `UsageError`."""
    if isinstance(settings, Mapping):
        yield from settings.items()
        return
    for item in settings:
        path, sep, text = item.partition("=")
        if not sep or not path.strip():
            raise UsageError(f"Expected --set KEY=VALUE, but got '{item}'. Example: --set training.lr=1e-3")
        yield path.strip(), parse_value(text)


def component_params(cls: Any, preset: Mapping[str, Any], settings: Settings) -> Any:
    """A component's `Params`, from what its name fixes and settings without a prefix. Raises `UsageError`."""
    values: dict[str, Any] = dict(preset)
    for key, value in pairs(settings):
        if key not in cls.Params.model_fields:
            near = did_you_mean(key, cls.Params.model_fields)
            raise UsageError(f"{cls.name} has no parameter '{key}'.{near}")
        values[key] = value
    try:
        return cls.Params(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"Parameter '{where}' of {cls.name}: {first['msg']}, but got {first['input']!r}."
        ) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; numbers such as `1e-3`, which YAML 1.1 reads as text, are converted later by type."""
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Expected a config file, but {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # includes invalid UTF-8
        raise UsageError(f"Expected YAML in {path}, but it does not parse: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"Expected key: value pairs in {path}, but got a {type(tree).__name__}.")
    return tree


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set `a.b.c` in nested mappings."""
    *parents, last = path.split(".")
    for key in parents:
        child = tree.get(key)
        if not isinstance(child, dict):
            # `teacher: resnet18` in a file, then --set teacher.epochs=5: the scalar was a name
            child = {} if child is None else {"backbone" if key == "teacher" else "name": child}
            tree[key] = child
        tree = child
    tree[last] = value


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both nested mappings merged into a new one; `above` wins."""
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], tree: Any, where: str) -> M:
    """Build a model; pydantic's errors become one message per problem, with its path and the nearest name."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, e) for e in error.errors()]
        raise UsageError(f"{where}: " + "\n  ".join(lines)) from None


def _explain(model: type[BaseModel], error: Any) -> str:
    path = [str(p) for p in error["loc"]]
    key = ".".join(path) or "(top level)"
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        if not known:
            return f"'{key}' is not a known key." + ("" if path[:-1] else " It takes no parameters.")
        return f"'{key}' is not a known key.{did_you_mean(path[-1], known)} Known here: {', '.join(known)}."
    message = error["msg"].removeprefix("Value error, ")
    got = error.get("input")
    shown = "" if isinstance(got, dict | BaseModel) else f" (got {got!r})"
    return f"'{key}': {message}{shown}."


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return sorted(model.model_fields)
