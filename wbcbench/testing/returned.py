"""Whether a component is built and returns what it should, told as a beginner would want to read it.

Without these a missing `return`, a tensor in place of a dict, or a forgotten `super().__init__()` would end as an
error of Python's inside the tests, once for every promise.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from wbcbench.testing.promise import BrokenPromise, promise

LAST_RETURN = r"^\s*return\b"
TENSORS = "Return the tensor itself, without .item(), float() or numpy: they cut it from the graph."


def made(cls: Any, arguments: str, *given: Any) -> Any:
    """`cls(*given)`; raises `BrokenPromise` if it leaves its parent's `__init__(arguments)` out.

    Args:
        cls: subclass of a contract, whose `__init__` sets `self.params`.
        arguments: names of what is given, as the author of the class writes them.
        given: to the class.
    """
    unwritten = [n for n in dir(cls) if getattr(getattr(cls, n, None), "__isabstractmethod__", False)]
    promise(
        not unwritten,
        f"`{cls.__name__}` lacks {' and '.join(f'`{n}`' for n in unwritten)}.",
        "Write it, spelt and with the arguments as in the contract that the class inherits from.",
    )
    new = cls.__new__(cls)
    try:
        new.__init__(*given)
    except (AttributeError, TypeError):
        if _inherited(new):
            raise
    promise(
        _inherited(new),
        f"`__init__` does not get through `super().__init__({arguments})`.",
        f"Write `super().__init__({arguments})` as its first line.",
        "__init__",
    )
    return new


def _inherited(new: object) -> bool:
    """Whether the contract's own `__init__` ran."""
    return "params" in vars(new) and (not isinstance(new, nn.Module) or "_modules" in vars(new))


def returned(value: Any, kind: type, method: str, wanted: str, mend: str) -> Any:
    """The value that a method returned; raises `BrokenPromise` unless it is of the kind, `wanted` in words."""
    if not isinstance(value, kind):
        mend = "Add the `return` that is missing." if value is None else mend
        raise BrokenPromise(
            f"`{method}` returned {described(value)} where {wanted} was expected.", mend, method, LAST_RETURN
        )
    return value


def held(value: Any, kind: type | tuple[type, ...], what: str, method: str, wanted: str, mend: str) -> None:
    """Raise `BrokenPromise` unless a part of what a method returned, named by `what`, is of the kind."""
    if not isinstance(value, kind):
        raise BrokenPromise(
            f"{what} is {described(value)} where {wanted} was expected.", mend, method, LAST_RETURN
        )


def returned_terms(value: Any, method: str) -> dict[str, Tensor]:
    """The losses that a method returned; raises `BrokenPromise` unless they are a dict name -> tensor."""
    mend = 'Return a dict of named losses, as {"distance": loss}.'
    terms: dict[str, Tensor] = returned(value, dict, method, "a dict of name -> loss", mend)
    for name, term in terms.items():
        held(name, str, f"The name {name!r} of a loss", method, "a string", mend)
        held(term, Tensor, f"Loss '{name}'", method, "a tensor", TENSORS)
    return terms


def described(value: object) -> str:
    """What came, in few words: `None`, `a tensor of shape [8, 3]`, `a float`."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


__all__ = ["TENSORS", "described", "held", "made", "returned", "returned_terms"]
