"""Who teaches whom: a pure function of names, used while planning and while training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wbcbench.errors import IncompatibleError, did_you_mean


@dataclass(frozen=True)
class RouteTeachers:
    """One student route and the teachers (positions in the teacher list) that teach it."""

    route: str
    teachers: tuple[int, ...]


JOINT = "joint"


def route_names(emits: Sequence[str], modalities: Sequence[str]) -> tuple[str, ...]:
    """Expand a fusion's `emits` into route names: `joint`, the modalities, or both (joint first)."""
    names: list[str] = [JOINT] if "joint" in emits else []
    return (*names, *modalities) if "modality" in emits else tuple(names)


def assign_teachers(
    routes: Sequence[str],
    reads: Sequence[frozenset[str]],
    pairing: Literal["own", "all"],
    fallback: str = "",
) -> tuple[RouteTeachers, ...]:
    """Assign teachers to routes.

    Args:
        routes: the student's routes, `joint` or modality names.
        reads: per teacher, the modalities it reads.
        pairing: `own`: the teachers that read exactly the route's modality (for `joint`: those that read
            several); a route without one gets the fallback or all. `all`: every teacher teaches every route.
        fallback: a modality whose teacher serves the routes without one of their own.

    Raises:
        IncompatibleError: there is no teacher at all, or nobody reads `fallback`.
    """
    if not reads:
        raise IncompatibleError("A distiller needs at least one teacher, but there is none to ask.")
    everyone = tuple(range(len(reads)))
    stand_in = everyone
    if fallback:
        stand_in = tuple(i for i in everyone if reads[i] == frozenset({fallback}))
        if not stand_in:
            known = sorted({m for r in reads for m in r})
            raise IncompatibleError(
                f"routing.fallback names '{fallback}', but no teacher reads just that."
                f"{did_you_mean(fallback, known)} Teachers read: {', '.join(known)}."
            )
    found = []
    for route in routes:
        own = tuple(i for i in everyone if (len(reads[i]) > 1 if route == JOINT else reads[i] == {route}))
        found.append(RouteTeachers(route, everyone if pairing == "all" else (own or stand_in)))
    return tuple(found)
