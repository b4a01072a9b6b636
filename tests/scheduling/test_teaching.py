"""What a request says of distillers' weights and of teachers' seeds, and what the trials then contain."""

from __future__ import annotations

import pytest

from wbcbench.errors import UsageError
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.spec import Trial
from wbcbench.spec.load import load_request

REGISTRY, _ = load_plugins()


def planned(*settings: str, **flags: str) -> Plan:
    given = {"fusion": "early", "modalities": "nucleus", **flags}
    return make_plan(
        load_request(None, given, ("dataset.cells=100", "dataset.image_size=16", *settings)), REGISTRY
    )


def students(plan: Plan) -> list[Trial]:
    return [p.trial for p in plan.trials if p.role == "student"]


@pytest.mark.parametrize(
    ("kd", "expected"),
    [
        ("logits", {"logits": "balanced"}),
        ("logits:weight=balanced", {"logits": "balanced"}),
        ("logits:weight=2", {"logits": 2.0}),
        ("dkd:weight=paper", {"dkd": 1.0}),
        ("dist:weight=paper", {"dist": 2.0}),
        ("simkd", {"simkd": 1.0}),  # no task gradient to compare with
        ("mean_teacher", {"mean_teacher": 100.0}),  # no gradient of its own at the start
        ("lskd", {"lskd": "balanced"}),
        ("lskd+logits", {"lskd": 9.0, "logits": "balanced"}),  # unused, so at its default
        ("lskd:weight=9:temperature=2+logits", {"lskd": 9.0, "logits": 9.0}),
        ("lskd+logits:weight=9:temperature=2", {"lskd": 9.0, "logits": 9.0}),
    ],
)
def test_one_rule_for_all_weights_that_nobody_gave(kd: str, expected: dict[str, object]) -> None:
    (trial,) = students(planned(kd=kd))
    assert {d.name: d.params["weight"] for d in trial.method.distillers} == expected


def test_two_ways_of_writing_are_one_trial() -> None:
    ids = [
        [students(planned(kd=kd))[0].id for kd in pair]
        for pair in (
            ("logits", "logits:weight=balanced"),
            ("sp:weight=paper", "sp:weight=3000"),
            ("lskd:weight=3+logits", "lskd+logits:weight=3"),
        )
    ]
    assert all(a == b for a, b in ids)
    assert len({a for a, _ in ids}) == 3


@pytest.mark.parametrize(
    ("settings", "kd", "says"),
    [
        ([], "logits:weight=blanced", "expected weight as a number, paper or balanced"),
        ([], "at_paper:weight=paper", "its paper has no single number"),
        ([], "simkd:weight=balanced", "cannot have weight=balanced: with it the task loss trains nothing"),
        ([], "mean_teacher:weight=balanced", "does not differ at the start"),
        (["training.task_weight=0"], "logits:weight=balanced", "task_weight is 0"),
        (["teacher.seeds=all"], "logits", "expected 'student' or whole numbers"),
    ],
)
def test_words_without_a_meaning_are_refused(settings: list[str], kd: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        planned(*settings, kd=kd)


@pytest.mark.parametrize(
    ("seeds", "teachers"), [("student", [[0], [1]]), ("[0]", [[0], [0]]), ("[0,1]", [[0, 1], [0, 1]])]
)
def test_teachers_have_the_students_seed_unless_seeds_are_given(seeds: str, teachers: list[list[int]]) -> None:
    found = students(planned(f"teacher.seeds={seeds}", kd="logits", seeds="0,1"))
    assert [[t.seed for t in trial.method.teachers] for trial in found] == teachers
    assert len({trial.method_id() for trial in found}) == 1
    assert all(trial == Trial.model_validate_json(trial.model_dump_json()) for trial in found)


def test_arrangements_of_teachers_are_methods_of_their_own() -> None:
    ids = {
        students(planned(f"teacher.seeds={s}", kd="logits"))[0].method_id() for s in ("student", "[0]", "[0,1]")
    }
    assert len(ids) == 3


def test_chains_of_teachers_have_the_students_seed_too() -> None:
    chain = {"teacher": "cellnet:width=4,cellnet:width=6", "routing": "assistant"}
    found = students(planned(kd="logits", seeds="0,1", **chain))
    assert [[t.method.teachers[0].seed for t in trial.method.teachers] for trial in found] == [[0], [1]]
    assert len({trial.method_id() for trial in found}) == 1
