"""What a distiller's weight can be besides a number: the words `paper` and `balanced`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wbcbench.contracts.params import PAPER_KEY, Parameters
from wbcbench.errors import UsageError

PAPER, BALANCED = "paper", "balanced"


def weight_word(given: Mapping[str, Any], params: type[Parameters], name: str) -> float | str | None:
    """The weight in the identity of a distiller whose user wrote a word; None if a number or nothing was written.

    `paper` is a number in the identity, so that both ways of writing it are one trial. `balanced` stays a word:
    its number is known only once the training has begun.

    Args:
        given: parameters as the user wrote them.
        params: of the distiller.
        name: of the distiller.

    Raises:
        UsageError: another word, or a paper without a weight.
    """
    word = given.get("weight")
    if not isinstance(word, str) or _is_number(word):
        return None
    if word == BALANCED:
        return BALANCED
    if word != PAPER:
        raise UsageError(
            f"distiller {name}: expected weight as a number, {PAPER} or {BALANCED} (its gradient starts as large "
            f"as the task loss's), but got '{word}'."
        )
    field = params.model_fields["weight"]
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    published = extra.get(PAPER_KEY, field.default)
    if published is None:
        raise UsageError(
            f"distiller {name}: weight={PAPER} was requested, but its paper has no single number. Give one, or "
            "leave weight out."
        )
    return float(published)  # type: ignore[arg-type]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


__all__ = ["BALANCED", "PAPER", "weight_word"]
