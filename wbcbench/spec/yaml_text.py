"""YAML from people: one kind of error for all that can be wrong with it, and a limit to what aliases unfold to."""

from __future__ import annotations

from typing import Any

LARGEST = 100_000
"""Values in one document, those behind aliases counted each time: ten lines of them make a thousand million."""


def load_yaml(text: str) -> Any:
    """The document's value.

    Raises:
        ValueError: no YAML, a date or number that cannot be, nested too deeply, or too large.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    left, seen = [value], 0
    while left:
        inner = left.pop()
        seen += 1
        if seen > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} values (behind aliases each one counts every time)")
        if isinstance(inner, dict):
            left += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list | tuple | set):
            left += inner
    return value


__all__ = ["LARGEST", "load_yaml"]
