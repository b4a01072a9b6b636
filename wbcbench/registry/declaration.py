"""What a component declares: read from its class once, kept as JSON, and read from there without torch."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from wbcbench.errors import PluginError

if TYPE_CHECKING:
    from wbcbench.contracts.needs import FusionTraits, Needs, PolicyTraits
    from wbcbench.contracts.params import Parameters

_CONTRACTS = "wbcbench.contracts"
_TRAITS = ("traits", "needs")
"""Attributes that hold what planning reads, as an object of `wbcbench.contracts.needs`."""
_PLAIN: dict[str, Any] = {
    "any": Any, "bool": bool, "float": float, "int": int, "none": type(None), "str": str,
}  # fmt: skip
_CONTAINERS: dict[str, Any] = {"dict": dict, "list": list, "set": set, "tuple": tuple}
_BOUNDS = ("ge", "gt", "le", "lt")


class _Attributes:
    """The class attributes that planning reads: for each kind those of its contract, which has their defaults."""

    chain: bool
    family: str
    labels: bool | None
    min_teachers: int
    needs: Needs
    pairing: Literal["own", "all"]
    reads: Literal["images", "vectors", "both"]
    scalable: bool
    source: str
    student: tuple[str, ...]
    teacher: tuple[str, ...]

    attributes: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.attributes:
            raise AttributeError(name)
        return self.attributes[name]


@dataclass(frozen=True)
class Declaration(_Attributes):
    """What a component declares; class attributes, inherited ones included, are attributes of this too."""

    kind: str
    name: str
    aliases: tuple[str, ...]
    summary: str
    stored: Mapping[str, Any]
    """What `describe` made."""
    load: Callable[[], type]
    """The real class."""

    @property
    def doc(self) -> str:
        return str(self.stored["doc"])

    @cached_property
    def attributes(self) -> Mapping[str, Any]:  # type: ignore[override]
        """Class attributes of the contract, with this class's values; sequences are tuples."""
        values = {name: _tuples(value) for name, value in self.stored["attributes"].items()}
        for name in [n for n in _TRAITS if n in values]:
            values[name] = _traits_class(self.kind)(**values[name])
        return values

    @property
    def extras(self) -> frozenset[str]:
        """Names of the contracts' optional base classes that it has, such as `Combiner`."""
        return frozenset(self.stored["extras"])

    @property
    def param_rows(self) -> list[dict[str, Any]]:
        """The parameters as rows of `describe_params`."""
        ours = ("annotation", "bounds", "extra")
        return [{k: v for k, v in row.items() if k not in ours} for row in self.stored["params"]["rows"]]

    @cached_property
    def params(self) -> type[Parameters]:
        """The typed parameters; may be a copy of the real class's `Params`, which validates and dumps the same."""
        if not self.stored["params"]["plain"]:
            params: type[Parameters] = self.load().Params  # type: ignore[attr-defined]
            return params
        return _twin(self.stored["params"])

    @property
    def fusion_traits(self) -> FusionTraits:
        traits: FusionTraits = self.attributes["traits"]
        return traits

    @property
    def solved_once(self) -> bool:
        """Whether a fusion has no training loop, so that nothing can change it."""
        return "SolvedOnce" in self.extras

    @property
    def role(self) -> str:
        """What a distiller does: `loss`, `transform` (of logits) or `optimiser` (it takes the step)."""
        roles = {"TransformsLogits": "transform", "TakesStep": "optimiser"}
        return next((role for base, role in roles.items() if base in self.extras), "loss")

    @property
    def replaces_head(self) -> bool:
        """Whether a distiller's route answers through the teacher's classifier."""
        return "ReplacesHead" in self.extras

    @property
    def policy_traits(self) -> PolicyTraits:
        traits: PolicyTraits = self.attributes["traits"]
        return traits

    @property
    def touches_gradients(self) -> bool:
        """Whether a policy changes gradients or makes them, and so needs the core to do the backward pass."""
        return bool({"ChangesGradients", "DoesBackward", "StepsInTurn"} & self.extras)


def describe(cls: type, kind: str, who: str) -> dict[str, Any]:
    """A class's declaration, JSON-able: docstring, attributes, optional bases, parameters. `who` is for messages.

    Raises:
        PluginError: an attribute or a parameter is not of the type that its contract requires.
    """
    stated = next(b for b in cls.__mro__ if (b.__module__, b.__name__) == (f"{_CONTRACTS}.{kind}", kind.title()))
    ours = [b for b in cls.__mro__ if b.__module__.startswith(f"{_CONTRACTS}.")]
    doc = next((b.__doc__ for b in cls.__mro__ if b.__doc__ and b not in ours and issubclass(b, stated)), "")
    names = [n for n in attribute_names(stated) if hasattr(cls, n)]
    return {
        "doc": inspect.cleandoc(doc),
        "attributes": {n: _stored(n, getattr(cls, n), kind, who) for n in names},
        "extras": [b.__name__ for b in ours if not issubclass(stated, b)],
        "params": _describe_params(getattr(cls, "Params", None), kind, who),
    }


def attribute_names(contract: type) -> list[str]:
    """The class attributes that a contract states, in its order."""
    stated = inspect.get_annotations(contract)
    return [n for n, a in stated.items() if str(a).startswith("ClassVar[") and n != "Params"]


def summary_of(doc: str) -> str:
    """A docstring's first line."""
    return doc.strip().partition("\n")[0].strip()


def code_of(cls: type) -> set[str]:
    """Modules, other than those of wbcbench and its base libraries, that a class and its `Params` inherit from."""
    params = getattr(cls, "Params", None)
    bases = {*cls.__mro__, *(params.__mro__ if isinstance(params, type) else ())}
    foundations = {"wbcbench", "torch", "pydantic", "numpy", *sys.stdlib_module_names}
    return {b.__module__ for b in bases if b.__module__.partition(".")[0] not in foundations}


def _traits_class(kind: str) -> type[Any]:
    from wbcbench.contracts import needs

    return {"fusion": needs.FusionTraits, "policy": needs.PolicyTraits, "distiller": needs.Needs}[kind]


def _stored(name: str, value: Any, kind: str, who: str) -> Any:
    if name in _TRAITS:
        expected = _traits_class(kind)
        if not isinstance(value, expected):
            raise PluginError(f"Expected `{name}` of {who} to be a {expected.__name__}, but got {value!r}.")
        value = asdict(value)
    try:
        return _jsonable(value)
    except TypeError:
        raise PluginError(
            f"Expected `{name}` of {who} as text, a number, true or false, or a tuple of these, but got {value!r}."
        ) from None


def _jsonable(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, set | frozenset):
        return sorted(map(_jsonable, value))
    if isinstance(value, tuple | list):
        return [_jsonable(v) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: _jsonable(v) for k, v in value.items()}
    raise TypeError


def _tuples(value: Any) -> Any:
    """Make lists tuples: JSON has no tuples, the contracts have no lists."""
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def _describe_params(params: Any, kind: str, who: str) -> dict[str, Any]:
    from wbcbench.contracts.params import SEARCH_KEY, DistillerParams, Parameters, describe_params

    expected = DistillerParams if kind == "distiller" else Parameters
    if not isinstance(params, type) or not issubclass(params, expected):
        raise PluginError(
            f"Expected `Params` of {who} to be a subclass of {expected.__name__}, but got {params!r}."
        )
    rows = describe_params(params)
    stored = {"name": params.__name__, "base": expected.__name__, "rows": rows, "plain": False}
    try:
        for row in rows:
            info = params.model_fields[row["name"]]
            extra = dict(info.json_schema_extra or {})  # type: ignore[arg-type]
            if extra.pop(SEARCH_KEY, None) != row["search"]:
                raise TypeError
            row["annotation"] = _annotation(info.annotation)
            row["bounds"] = _bounds(info.metadata)
            row["extra"] = _jsonable(extra)
        alike = _alike(params, _twin(stored))
    except (TypeError, ValueError):  # some annotation, default or validator that only the class itself has
        alike = False
    if not alike:
        for row in rows:
            for key in ("annotation", "bounds", "extra"):
                row.pop(key, None)
    return stored | {"plain": alike}


def _twin(stored: Mapping[str, Any]) -> type[Parameters]:
    """A class that has the parameters of `rows`."""
    from pydantic import Field, create_model

    from wbcbench.contracts import params as contract

    base: type[Parameters] = getattr(contract, stored["base"])
    fields: dict[str, Any] = {}
    for row in stored["rows"]:
        search = {contract.SEARCH_KEY: row["search"]} if row["search"] is not None else {}
        default = {} if row["required"] else {"default": row["default"]}
        field: Any = Field(
            **default,
            **row["bounds"],
            description=row["doc"] or None,
            json_schema_extra=(search | row["extra"]) or None,
        )
        fields[row["name"]] = (_type(row["annotation"]), field)
    if stored["name"] == base.__name__:
        return base
    return create_model(stored["name"], __base__=base, __module__=__name__, **fields)


def _alike(a: type[Parameters], b: type[Parameters]) -> bool:
    """Whether two classes validate, dump and describe themselves the same.

    pydantic compiles a class to a schema that has everything which validation runs, own functions included;
    what remains are methods that replace pydantic's own.
    """
    from wbcbench.contracts.params import describe_params

    replaced = {n for base in a.__mro__ if base not in b.__mro__ for n in vars(base) if n.startswith("model_")}
    return (
        not replaced - {"model_config", "model_fields", "model_computed_fields"}
        and a.model_config == b.model_config
        and _core(a.__pydantic_core_schema__) == _core(b.__pydantic_core_schema__)
        and describe_params(a) == describe_params(b)
        and all(a.model_fields[n].json_schema_extra == f.json_schema_extra for n, f in b.model_fields.items())
    )


def _core(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: _core(v) for k, v in schema.items() if k not in ("cls", "ref", "metadata")}
    value = [_core(v) for v in schema] if isinstance(schema, list | tuple) else schema
    return type(schema).__name__, value  # because 1 == 1.0 == True


def _annotation(annotation: Any) -> Any:
    """A type as JSON. Raises `TypeError` for one that is not of the few that parameters usually have."""
    for name, plain in _PLAIN.items():
        if annotation is plain:
            return name
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ["literal", *_jsonable(list(args))]
    if origin is types.UnionType or origin is Union:
        return ["union" if origin is types.UnionType else "Union", *map(_annotation, args)]
    if origin is Annotated:
        return ["annotated", _annotation(args[0]), _bounds(args[1:])]
    for name, container in _CONTAINERS.items():
        if origin is container and Ellipsis not in args:
            return [name, *map(_annotation, args)]
    raise TypeError(str(annotation))


def _type(stored: Any) -> Any:
    """The type that `_annotation` was given."""
    if isinstance(stored, str):
        return _PLAIN[stored]
    what, *args = stored
    if what == "literal":
        return Literal[tuple(args)]
    if what == "annotated":
        import annotated_types

        bounds = [getattr(annotated_types, key.capitalize())(value) for key, value in args[1].items()]
        return Annotated[(_type(args[0]), *bounds)]
    inner = tuple(map(_type, args))
    if what == "union":
        return reduce(or_, inner)
    return Union[inner] if what == "Union" else _CONTAINERS[what][inner]  # noqa: UP007


def _bounds(metadata: Iterable[Any]) -> dict[str, float]:
    import annotated_types

    known = {getattr(annotated_types, key.capitalize()): key for key in _BOUNDS}
    bounds = {}
    for one in metadata:
        if type(one) not in known:
            raise TypeError(str(one))
        bounds[known[type(one)]] = _jsonable(getattr(one, known[type(one)]))
    return bounds
