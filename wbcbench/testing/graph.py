"""Which tensors a loss trains, read off the autograd graph, and which of them a module forgot to register."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from wbcbench.testing.promise import promise


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
        f"The loss has a gradient in {places}, which is not registered: the optimiser misses it and no "
        "checkpoint holds it.",
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


__all__ = ["check_registered", "trained_leaves"]
