"""How a contract test fails, and what it checks: returned values, reads of device tensors, the autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class BrokenPromise(AssertionError):
    """A promise of a contract that a component does not keep. `str` is `found` and `fix`, two sentences or more.

    Attributes:
        found: what the test saw.
        fix: what the author of the component can do.
        method: the method of the component's class to look at; empty for the class.
        line: regular expression of the method's line to look at (the last such); empty for its first.
    """

    def __init__(self, found: str, fix: str, method: str = "", line: str = "") -> None:
        super().__init__(f"{found} {fix}")
        self.found, self.fix, self.method, self.line = found, fix, method, line


def promise(holds: object, found: str, fix: str, method: str = "") -> None:
    """Raise `BrokenPromise` unless `holds` is true."""
    if not holds:
        raise BrokenPromise(found, fix, method)


LAST_RETURN = r"^\s*return\b"
TENSORS = "Return the tensor itself, without .item(), float() or numpy: they cut it from the graph."


def made(cls: Any, arguments: str, *given: Any) -> Any:
    """`cls(*given)`; raises `BrokenPromise` if it does not call its parent's `__init__(arguments)`.

    Args:
        cls: subclass of a contract, whose `__init__` sets `self.params`.
        arguments: names of what is given, as the author of the class writes them.
        given: to the class.
    """
    unwritten = [n for n in dir(cls) if getattr(getattr(cls, n, None), "__isabstractmethod__", False)]
    promise(
        not unwritten,
        f"`{cls.__name__}` lacks {' and '.join(f'`{n}`' for n in unwritten)}.",
        "Write it with the name and arguments of the contract that the class inherits from.",
    )
    new = cls.__new__(cls)
    try:
        new.__init__(*given)
    except (AttributeError, TypeError):
        if _inherited(new):
            raise
    promise(
        _inherited(new),
        f"`__init__` does not reach `super().__init__({arguments})`.",
        f"Write `super().__init__({arguments})` as its first line.",
        "__init__",
    )
    return new


def _inherited(new: object) -> bool:
    """Whether the contract's own `__init__` ran."""
    return "params" in vars(new) and (not isinstance(new, nn.Module) or "_modules" in vars(new))


def returned(value: Any, kind: type, method: str, wanted: str, fix: str) -> Any:
    """The value that a method returned; raises `BrokenPromise` unless it is of type `kind` (`wanted` in words)."""
    if not isinstance(value, kind):
        fix = "Add the `return` that is missing." if value is None else fix
        raise BrokenPromise(
            f"`{method}` returned {described(value)} where {wanted} was expected.", fix, method, LAST_RETURN
        )
    return value


def held(value: Any, kind: type | tuple[type, ...], what: str, method: str, wanted: str, fix: str) -> None:
    """Raise `BrokenPromise` unless a part of what a method returned, named by `what`, is of type `kind`."""
    if not isinstance(value, kind):
        raise BrokenPromise(f"{what} is {described(value)} where {wanted} was expected.", fix, method, LAST_RETURN)


def returned_terms(value: Any, method: str) -> dict[str, Tensor]:
    """The losses that a method returned; raises `BrokenPromise` unless they are a dict name -> tensor."""
    fix = 'Return a dict of named losses, such as {"distance": loss}.'
    terms: dict[str, Tensor] = returned(value, dict, method, "a dict of name -> loss", fix)
    for name, term in terms.items():
        held(name, str, f"The name {name!r} of a loss", method, "a string", fix)
        held(term, Tensor, f"Loss '{name}'", method, "a tensor", TENSORS)
    return terms


def described(value: object) -> str:
    """A short description of a value: `None`, `a tensor of shape [8, 3]`, `a float`."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


_CALLS = {
    "item": ".item()", "tolist": ".tolist()", "numpy": ".numpy()", "cpu": ".cpu()", "__array__": "numpy",
    "__bool__": "bool() or `if`", "__float__": "float()", "__int__": "int()", "__index__": "an index or range()",
    "equal": "torch.equal", "allclose": "torch.allclose",
}  # fmt: skip
_OPERATIONS = {
    "_local_scalar_dense": "an index, slice or float() of it",
    "nonzero": "nonzero or one-argument torch.where",
    "masked_select": "masked_select",
}


@contextmanager
def no_reads(method: str = "") -> Iterator[None]:
    """Raise `BrokenPromise` where the block reads a tensor's value back into Python.

    Moving a tensor to another tensor's device passes: on a CPU it looks the same as moving it to the CPU.

    Args:
        method: of the component that runs in the block; named in the report.
    """
    operations = _Operations(method)
    with _Calls(method, operations), operations:
        yield


def _broken(what: str, method: str) -> BrokenPromise:
    return BrokenPromise(
        f"A training step reads a value back from the device ({what}): the program then waits for the "
        "accelerator in every step.",
        "Keep it a tensor: torch.where instead of `if`, `.detach()` instead of `.item()`, arithmetic with 0/1 "
        "masks instead of selecting rows.",
        method,
    )


class _Calls(TorchFunctionMode):
    def __init__(self, method: str, operations: _Operations) -> None:
        super().__init__()
        self.method, self.operations = method, operations

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _CALLS:
            raise _broken(_CALLS[name], self.method)
        if name == "to" and "cpu" in [a for a in (*args[1:], *kwargs.values()) if isinstance(a, str)]:
            raise _broken(".to('cpu')", self.method)
        if name == "one_hot" and (len(args) > 1 or kwargs.get("num_classes", -1) >= 0):
            with self.operations.paused():  # it checks its labels on a CPU, and nowhere else
                return func(*args, **kwargs)
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, method: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.method, self.active = method, True

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.active = False
        yield
        self.active = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if self.active and name in _OPERATIONS:
            raise _broken(_OPERATIONS[name], self.method)
        if self.active and name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
            raise _broken("rows chosen by a mask, x[mask]", self.method)
        return func(*args, **(kwargs or {}))


def trained_leaves(loss: Tensor) -> list[Tensor]:
    """Every leaf that a backward pass from `loss` would give a gradient, each once. Runs no backward pass."""
    found: dict[int, Tensor] = {}
    seen: set[object] = set()
    open_nodes: list[object] = [loss.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # of AccumulateGrad nodes alone
        if isinstance(leaf, Tensor):
            found[id(leaf)] = leaf
        open_nodes.extend(following for following, _ in getattr(node, "next_functions", ()))
    return list(found.values())


def check_registered(
    loss: Tensor, module: nn.Module, known: Iterable[Tensor] = (), method: str = "__init__"
) -> None:
    """Raise `BrokenPromise` if the loss trains a tensor that is neither the module's parameter nor in `known`.

    Args:
        loss: scalar.
        module: the component.
        known: tensors that others train.
        method: where the component makes its parameters.
    """
    if loss.grad_fn is None:
        return
    registered = {id(t) for t in (*module.parameters(), *known)}
    forgotten = [t for t in trained_leaves(loss) if id(t) not in registered]
    places = ", ".join(f"{_place(module, t)} of shape {list(t.shape)}" for t in forgotten)
    promise(
        not forgotten,
        f"The loss has a gradient in {places}, which is not registered: the optimiser does not see it and "
        "no checkpoint contains it.",
        "Assign an nn.Parameter or a module to an attribute of `self`; hold several in nn.ParameterList, "
        "nn.ParameterDict, nn.ModuleList or nn.ModuleDict instead of a list or dict.",
        method,
    )


def _place(module: nn.Module, tensor: Tensor) -> str:
    """`self.gates[0]`, or `a tensor` where no plain container of the module holds it."""
    for prefix, owner in module.named_modules():
        for name, value in vars(owner).items():
            if name.startswith("_"):
                continue
            inner = _inside(value, tensor, 3)
            if inner is not None:
                path = ".".join(filter(None, ("self", prefix, name)))
                return f"`{path}{inner}`"
    return "a tensor"


def _inside(value: object, tensor: Tensor, depth: int) -> str | None:
    if value is tensor:
        return ""
    if isinstance(value, nn.Module):
        return next((f".{n}" for n, p in value.named_parameters() if p is tensor), None)
    items: Iterable[tuple[object, object]] = ()
    if depth and isinstance(value, dict):
        items = value.items()
    elif depth and isinstance(value, list | tuple):
        items = enumerate(value)
    for key, inner in items:
        found = _inside(inner, tensor, depth - 1)
        if found is not None:
            return f"[{key!r}]{found}"
    return None


__all__ = [
    "TENSORS",
    "BrokenPromise",
    "check_registered",
    "described",
    "held",
    "made",
    "no_reads",
    "promise",
    "returned",
    "returned_terms",
    "trained_leaves",
]
