"""What a component says of itself, without building it and, where possible, without importing it.

The static reading gives the same values as the class's own attributes or it gives up; then the real
class is imported, which is slower and never wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.errors import PluginError
from wbcbench.importing import source_file, split_target
from wbcbench.quick_class import quick_attributes
from wbcbench.registry import Component, qualified_name
from wbcbench.scan import first_line, scan_file
from wbcbench.static_class import ATTRIBUTES, NotStaticError, StaticClass

if TYPE_CHECKING:
    from wbcbench.contracts.needs import Needs
    from wbcbench.contracts.params import Parameters

__all__ = ["Declaration", "read_declaration", "scan_file"]


@dataclass(frozen=True)
class Declaration:
    """A component's class attributes, with the contract's defaults where it says nothing."""

    name: str
    kind: str
    aliases: tuple[str, ...]
    summary: str
    doc: str
    source: str
    attributes: dict[str, Any]
    """Only those that the class itself (or a base in its file) states."""
    static: bool
    """Whether it was read without importing the class."""
    read_params: Callable[[], type[Parameters]]

    @cached_property
    def params(self) -> type[Parameters]:
        """The typed parameters; may be a twin of the real class's `Params`, equal in every field."""
        return self.read_params()

    @property
    def needs(self) -> Needs:
        from wbcbench.contracts.needs import Needs

        needs = self.attributes.get("needs", Needs())
        if not isinstance(needs, Needs):
            raise PluginError(f"Expected `needs` of {self.kind} '{self.name}' to be a Needs, but got {needs!r}.")
        return needs

    @property
    def role(self) -> str:
        return str(self.attributes.get("role", "loss"))

    @property
    def chain(self) -> bool:
        return bool(self.attributes.get("chain", False))

    @property
    def matches(self) -> str:
        return str(self.attributes.get("matches", "logits"))

    @property
    def emits(self) -> tuple[str, ...]:
        return tuple(self.attributes.get("emits", ("joint",)))

    @property
    def arity(self) -> tuple[int, int | None]:
        low, high = self.attributes.get("arity", (1, None))
        return low, high

    @property
    def solves(self) -> tuple[str, ...]:
        """The two-modality problems that a fusion promises to solve."""
        return tuple(self.attributes.get("solves", ("redundant", "unique")))

    @property
    def stage_maps(self) -> bool:
        return bool(self.attributes.get("stage_maps", True))

    @property
    def scales(self) -> str:
        """Name of a fusion's parameter that is a factor on the backbone's channels; empty: none is."""
        return str(self.attributes.get("scales", ""))

    @property
    def missing(self) -> str:
        return str(self.attributes.get("missing", "impute"))

    @property
    def acts_on(self) -> str:
        """The stage of a training step that a policy changes."""
        return str(self.attributes.get("acts_on", "losses"))

    @property
    def wants(self) -> tuple[str, ...]:
        return tuple(self.attributes.get("wants", ()))

    @property
    def offers(self) -> tuple[str, ...] | None:
        """What policies find in a fusion; None where it says nothing."""
        offers = self.attributes.get("offers")
        return None if offers is None else tuple(offers)

    @property
    def pairing(self) -> Literal["own", "all"]:
        return "all" if self.attributes.get("pairing", "own") == "all" else "own"

    @property
    def family(self) -> str:
        return str(self.attributes.get("family", ""))

    @property
    def scalable(self) -> bool:
        return bool(self.attributes.get("scalable", True))


def read_declaration(component: Component, load: Callable[[Component], type]) -> Declaration:
    """Read it from the source, or by `load` where the source alone does not tell. Raises `PluginError`."""
    if isinstance(component.target, str):
        try:
            return _static(component, load)
        except NotStaticError:
            pass
    return _dynamic(component, load)


def _static(component: Component, load: Callable[[Component], type]) -> Declaration:
    assert isinstance(component.target, str)
    path = source_file(component.target)
    if path is None:
        raise NotStaticError("no source file")
    class_name = split_target(component.target)[1]
    try:
        quick = quick_attributes(path.read_text(encoding="utf-8"), class_name, ATTRIBUTES)
    except (OSError, UnicodeError) as error:
        raise NotStaticError(str(error)) from error
    whole = StaticClass.read(path, class_name) if quick is None else None

    def read_params() -> type[Parameters]:
        try:
            static = whole or StaticClass.read(path, class_name)
            params = static.evaluate(("Params",)).get("Params")
            return _check_params(component, params)
        except (NotStaticError, PluginError):
            return _dynamic(component, load).params

    if whole is not None:
        return _declaration(component, whole.evaluate(ATTRIBUTES), whole.doc, True, read_params)
    assert quick is not None
    return _declaration(component, quick[1], quick[0], True, read_params)


def _dynamic(component: Component, load: Callable[[Component], type]) -> Declaration:
    cls = load(component)
    own = [base for base in cls.__mro__ if not base.__module__.startswith("wbcbench.contracts")]
    attributes = {n: getattr(cls, n) for n in ATTRIBUTES if any(n in vars(base) for base in own)}

    def read_params() -> type[Parameters]:
        return _check_params(component, getattr(cls, "Params", None))

    return _declaration(component, attributes, cls.__doc__ or "", False, read_params)


def _declaration(
    component: Component,
    attributes: dict[str, Any],
    doc: str,
    static: bool,
    read_params: Callable[[], type[Parameters]],
) -> Declaration:
    doc = inspect.cleandoc(doc)
    return Declaration(
        name=component.name,
        kind=component.kind,
        aliases=tuple(attributes.get("aliases", component.aliases)),
        summary=component.summary or first_line(doc),
        doc=doc,
        source=str(attributes.get("source", "")),
        attributes=attributes,
        static=static,
        read_params=read_params,
    )


def _check_params(component: Component, params: Any) -> type[Parameters]:
    from wbcbench.contracts.params import DistillerParams, Parameters

    expected = DistillerParams if component.kind == "distiller" else Parameters
    if params is None:
        return expected
    if not isinstance(params, type) or not issubclass(params, expected):
        raise PluginError(
            f"Expected `Params` of {component.kind} '{qualified_name(component)}' ({component.origin}) "
            f"to be a subclass of {expected.__name__}, but got {params!r}."
        )
    return params
