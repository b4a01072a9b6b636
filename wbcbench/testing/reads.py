"""Catch a training step that asks for the value of a tensor: on an accelerator the program would wait for it.

Works without an accelerator. Two nets are needed: `.cpu()` and `.to("cpu")` do nothing to a tensor that is on the
CPU already, so they are seen only as calls; indexing by a tensor is no call of a tensor's method, so it is seen
only as an operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from wbcbench.testing.promise import BrokenPromise

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

    Moving a tensor to another tensor's device passes: on a CPU it cannot be told from moving it to the CPU.

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


__all__ = ["no_reads"]
