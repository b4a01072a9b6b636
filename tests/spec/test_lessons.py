"""Who teaches whom."""

from __future__ import annotations

import pytest

from wbcbench.errors import IncompatibleError
from wbcbench.spec.lessons import Lesson, pair, route_names

A, B, PI = frozenset("a"), frozenset("b"), frozenset({"pi"})


def test_own_teacher_first_and_everyone_for_the_joint_route() -> None:
    assert pair(("joint", "a", "b"), (A, B), "own") == (
        Lesson("joint", (0, 1)),
        Lesson("a", (0,)),
        Lesson("b", (1,)),
    )


def test_a_head_without_its_own_teacher_gets_all_or_the_fallback() -> None:
    assert pair(("a", "b"), (A, PI), "own") == (Lesson("a", (0,)), Lesson("b", (0, 1)))
    assert pair(("a", "b"), (A, PI), "own", fallback="pi")[1] == Lesson("b", (1,))


def test_an_ensemble_of_one_modality_teaches_together() -> None:
    assert pair(("a",), (A, A, B), "own") == (Lesson("a", (0, 1)),)


def test_pairing_all() -> None:
    assert pair(("a", "b"), (A, B), "all") == (Lesson("a", (0, 1)), Lesson("b", (0, 1)))


def test_refusals() -> None:
    with pytest.raises(IncompatibleError, match="at least one teacher"):
        pair(("a",), (), "own")
    with pytest.raises(IncompatibleError, match="fallback"):
        pair(("a",), (A,), "own", fallback="c")


def test_route_names() -> None:
    assert route_names(("joint", "modality"), ("x", "y")) == ("joint", "x", "y")
    assert route_names(("joint",), ("x", "y")) == ("joint",)
    assert route_names(("modality",), ("x", "y")) == ("x", "y")
