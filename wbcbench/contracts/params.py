"""Typed parameters of a component, with validity range and search space declared next to the default.

One description serves validation, `wbcbench show`, the docs, Optuna and Ray. Imports no torch.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

SEARCH_KEY = "wbcbench_search"
DIGEST_KEY = "wbcbench_digest_of"
LATER_KEY = "wbcbench_later"


class Parameters(BaseModel):
    """Base of every component's `Params`: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def param(
    default: Any,
    doc: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    search: tuple[float, float] | list[Any] | None = None,
    log: bool = False,
    digest_of: str = "",
    later: bool = False,
) -> Any:
    """Declare one parameter.

    Args:
        default: the value used if the user gives none (the paper's, if there is a paper).
        doc: one sentence; units and meaning of the extremes.
        ge, gt, le, lt: bounds of valid values.
        search: values that a search may try: `(low, high)` for numbers, a list for categories. Leave it
            out for parameters that a search must not touch.
        log: search a numeric range on a logarithmic scale.
        digest_of: name of a parameter that holds a file's path. The planner fills this one with the file's
            SHA-256, so that the trial's identity depends on the content and not on the path.
        later: added to a component that already has records: at its default it is not part of a trial's identity,
            so that these records keep their ids.
    """
    extra: dict[str, Any] = {}
    if isinstance(search, list):
        extra = {SEARCH_KEY: {"choices": search}}
    elif search is not None:
        extra = {SEARCH_KEY: {"low": search[0], "high": search[1], "log": log}}
    if digest_of:
        extra = {**extra, DIGEST_KEY: digest_of}
    if later:
        extra = {**extra, LATER_KEY: True}
    return Field(default, description=doc, ge=ge, gt=gt, le=le, lt=lt, json_schema_extra=extra or None)


class DistillerParams(Parameters):
    """Parameters of every distiller. The core multiplies all of its terms by `weight`."""

    weight: float = param(
        1.0,
        "Factor on the whole loss, which is added to a task loss of weight `task_weight`.",
        ge=0,
        search=(0.1, 10.0),
        log=True,
    )


def identity(params: BaseModel) -> dict[str, Any]:
    """The parameters in a trial's identity: all, except those added later that have their default."""
    dumped = params.model_dump(mode="json")
    fields = type(params).model_fields
    default = type(params).model_construct().model_dump(mode="json")
    return {k: v for k, v in dumped.items() if not _is_later(fields[k].json_schema_extra) or v != default[k]}


def _is_later(extra: Any) -> bool:
    return isinstance(extra, dict) and bool(extra.get(LATER_KEY))


def describe_params(params: type[BaseModel]) -> list[dict[str, Any]]:
    """List a Params class as rows: name, type, default, doc, range, search (JSON-able)."""
    schema = params.model_json_schema()
    rows = []
    for name, field in params.model_fields.items():
        prop = schema.get("properties", {}).get(name, {})
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        rows.append(
            {
                "name": name,
                "type": _type_name(field.annotation),
                "required": field.is_required(),
                "default": _jsonable(default),
                "range": _range(prop),
                "search": _jsonable(extra.get(SEARCH_KEY)),
                "doc": field.description or "",
            }
        )
    return rows


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _jsonable(value: Any) -> Any:
    return to_jsonable_python(value, inf_nan_mode="strings")


_BOUNDS: tuple[tuple[Literal["ge", "gt", "le", "lt"], str], ...] = (
    ("ge", "minimum"), ("gt", "exclusiveMinimum"), ("le", "maximum"), ("lt", "exclusiveMaximum"),
)  # fmt: skip


def _range(prop: dict[str, Any]) -> str:
    options = [prop, *prop.get("anyOf", [])]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    parts = [f"{signs[key]} {o[name]:g}" for key, name in _BOUNDS for o in options if name in o]
    if "enum" in prop:
        parts.append("one of " + ", ".join(map(str, prop["enum"])))
    return ", ".join(parts)
