"""Typed parameters of a component, with validity range and search space declared next to the default.

One description serves validation, `wbcbench show`, the docs, Optuna and Ray. Imports no torch.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

SEARCH_KEY = "wbcbench_search"
DIGEST_KEY = "wbcbench_digest_of"
LATER_KEY = "wbcbench_later"
WHEN_KEY = "wbcbench_when"
PAPER_KEY = "wbcbench_paper"
SIZES_KEY = "wbcbench_sizes"


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
    when: str = "",
    paper: float | Literal["default", "none"] = "default",
    sizes: bool = False,
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
        when: what must hold for the parameter to have an effect, such as `kernel = gaussian` or `modalities > 1`:
            conditions on the component's other parameters or on `FACTS`, joined by `and`. Where it does not hold,
            another value than the default is refused while planning, and no search proposes one.
        paper: of a distiller's weight, what `weight=paper` means if that is not the default: a number, or `none`
            if the paper has no single one.
        sizes: of a backbone's whole number with `ge` and `le`: a larger one makes a larger network. Where a budget
            is given instead (`--max-macs`, `--max-params`, `--max-latency-ms`), the largest that fits is chosen.
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
    if when:
        extra = {**extra, WHEN_KEY: " and ".join(" ".join(map(str, c)) for c in _conditions(when))}
    if paper != "default":
        extra = {**extra, PAPER_KEY: None if paper == "none" else paper}
    if sizes:
        if ge is None or le is None:
            raise ValueError("Expected `ge` and `le` of a parameter with `sizes`: the search needs both ends.")
        extra = {**extra, SIZES_KEY: True}
    return Field(default, description=doc, ge=ge, gt=gt, le=le, lt=lt, json_schema_extra=extra or None)


FACTS = {
    "modalities": "how many modalities the trial reads",
    "adds_loss": "true for a distiller with a loss of its own, false where it only changes what others read",
}
"""What `when` may refer to besides the component's own parameters."""

_SIGNS = {"=": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt}
_CONDITION = re.compile(r"\s*(\w+)\s*(!=|=|>|<)\s*(\S*)\s*")


def _conditions(when: str) -> list[tuple[str, str, str]]:
    found = [_CONDITION.fullmatch(part) for part in when.split(" and ")]
    if not all(found):
        raise ValueError(f"Expected `when` as in 'kernel = gaussian' or 'modalities > 1', but got {when!r}.")
    return [(m[1], m[2], m[3]) for m in found if m]


def condition_of(field: Any) -> str:
    """The `when` of a parameter's pydantic field, or empty."""
    extra = field.json_schema_extra
    return str(extra.get(WHEN_KEY, "")) if isinstance(extra, dict) else ""


def sizing(params: type[BaseModel]) -> tuple[str, int, int] | None:
    """The parameter that was declared with `sizes`, its least and its greatest value; None: there is none."""
    for name, field in params.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get(SIZES_KEY):
            low = next(m.ge for m in field.metadata if getattr(m, "ge", None) is not None)
            high = next(m.le for m in field.metadata if getattr(m, "le", None) is not None)
            return name, int(low), int(high)
    return None


def names_in(condition: str) -> list[str]:
    """The parameters and facts that a `when` refers to."""
    return [name for name, _, _ in _conditions(condition)] if condition else []


def holds(condition: str, known: Mapping[str, Any]) -> bool:
    """Whether a `when` holds; a condition on a name that is not in `known` does."""
    return not condition or all(
        name not in known or _compare(known[name], sign, text) for name, sign, text in _conditions(condition)
    )


def _compare(value: Any, sign: str, text: str) -> bool:
    if isinstance(value, bool):
        value, wanted = str(value).lower(), text.lower()
    elif isinstance(value, int | float):
        value, wanted = float(value), float(text)  # type: ignore[assignment]
    else:
        value, wanted = str(value), text
    return bool(_SIGNS[sign](value, wanted))


def without_effect(params: type[BaseModel], values: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, str]:
    """Parameter -> its `when`, for those that have no effect with these values and differ from their default."""
    default = params.model_construct().model_dump(mode="json")
    return {
        name: when
        for name, field in params.model_fields.items()
        if (when := condition_of(field)) and values.get(name, default[name]) != default[name]
        and not holds(when, {**default, **facts, **values})
    }  # fmt: skip


class DistillerParams(Parameters):
    """Parameters of every distiller. The core multiplies all of its terms by `weight`.

    Its default is what `weight=paper` means. A weight that the user does not give is `balanced`: the training sets
    it. A distiller always sees a number.
    """

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
    return {k: v for k, v in dumped.items() if not is_later(fields[k]) or v != default[k]}


def is_later(field: Any) -> bool:
    """Whether a parameter, by its pydantic field, was declared `later`: at its default it is in no identity."""
    extra = field.json_schema_extra
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
