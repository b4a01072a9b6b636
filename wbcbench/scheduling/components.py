"""From a choice in a request to a component with every parameter written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from wbcbench.contracts.params import DIGEST_KEY, identity
from wbcbench.data.cache import file_digest
from wbcbench.errors import UsageError, did_you_mean
from wbcbench.registry import Registry, qualified_name
from wbcbench.spec import Component
from wbcbench.spec.imputers import IMPUTE, chosen_imputer
from wbcbench.spec.load import validate
from wbcbench.spec.request import Choice, Request


def component(
    registry: Registry,
    kind: str,
    choice: Choice,
    request: Request,
    siblings: Any = (),
    section: str | None = None,
) -> Component:
    """A component with all parameters written out: its defaults, then inline ones, then `--set`."""
    resolved = registry.resolve(kind, choice.name)
    declared = registry.declaration(resolved.component)
    params_class = declared.params
    overrides = request.overrides.get(section or kind, {})
    imputer: dict[str, str] = {}
    if kind == "fusion" and IMPUTE not in params_class.model_fields:
        everywhere = {IMPUTE: overrides[IMPUTE]} if IMPUTE in overrides and declared.missing == "impute" else {}
        inline = {**choice.params, **everywhere}
        imputer = chosen_imputer(inline, choice.name, declared.missing)
        overrides = {k: v for k, v in overrides.items() if k != IMPUTE}
        choice = Choice(name=choice.name, params={k: v for k, v in choice.params.items() if k != IMPUTE})
    mine = {k: v for k, v in overrides.items() if k in params_class.model_fields}
    for key in overrides:
        if key not in params_class.model_fields and not _someone_has(registry, kind, siblings, key):
            known = sorted(params_class.model_fields)
            raise UsageError(
                f"--set {section or kind}.{key}: {kind} '{choice.name}' has no such parameter."
                f"{did_you_mean(key, known)} It has: {', '.join(known) or 'none'}."
            )
    given = {**resolved.params, **choice.params, **mine}
    params: BaseModel = validate(params_class, given, f"{kind} {choice.name}")
    params = _with_digests(params, f"{kind} {choice.name}")
    named = identity(params) | imputer
    return Component(name=qualified_name(resolved.component), params=named)


def _with_digests(params: BaseModel, where: str) -> BaseModel:
    """Fill in parameters that are declared to hold the digest of a file that another one names."""
    found: dict[str, str] = {}
    for name, field_info in type(params).model_fields.items():
        extra = field_info.json_schema_extra
        source = extra.get(DIGEST_KEY) if isinstance(extra, dict) else None
        path = getattr(params, str(source)) if source else ""
        if path:
            if not Path(path).is_file():
                raise UsageError(f"{where}: expected a file, but {source}={path} is none. Check the path.")
            found[name] = file_digest(Path(path))
    return params.model_copy(update=found)


def _someone_has(registry: Registry, kind: str, siblings: Any, key: str) -> bool:
    """Whether another of the listed components has the parameter, so that this one may skip it."""
    return any(key in registry.declared(kind, s.name).params.model_fields for s in siblings)
