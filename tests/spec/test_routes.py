"""Who teaches whom."""

from __future__ import annotations

import pytest

from wbcbench.contracts.needs import RouteTeachers, assign_teachers, route_names
from wbcbench.errors import IncompatibleError

A, B, PI = frozenset("a"), frozenset("b"), frozenset({"pi"})


def test_own_teacher_first_and_everyone_for_the_joint_route() -> None:
    assert assign_teachers(("joint", "a", "b"), (A, B), "own") == (
        RouteTeachers("joint", (0, 1)),
        RouteTeachers("a", (0,)),
        RouteTeachers("b", (1,)),
    )


def test_a_head_without_its_own_teacher_gets_all_or_the_fallback() -> None:
    assert assign_teachers(("a", "b"), (A, PI), "own") == (RouteTeachers("a", (0,)), RouteTeachers("b", (0, 1)))
    assert assign_teachers(("a", "b"), (A, PI), "own", fallback="pi")[1] == RouteTeachers("b", (1,))


def test_an_ensemble_of_one_modality_teaches_together() -> None:
    assert assign_teachers(("a",), (A, A, B), "own") == (RouteTeachers("a", (0, 1)),)


def test_pairing_all() -> None:
    assert assign_teachers(("a", "b"), (A, B), "all") == (RouteTeachers("a", (0, 1)), RouteTeachers("b", (0, 1)))


def test_refusals() -> None:
    with pytest.raises(IncompatibleError, match="at least one teacher"):
        assign_teachers(("a",), (), "own")
    with pytest.raises(IncompatibleError, match="fallback"):
        assign_teachers(("a",), (A,), "own", fallback="c")


def test_route_names() -> None:
    assert route_names(("joint", "modality"), ("x", "y")) == ("joint", "x", "y")
    assert route_names(("joint",), ("x", "y")) == ("joint",)
    assert route_names(("modality",), ("x", "y")) == ("x", "y")
