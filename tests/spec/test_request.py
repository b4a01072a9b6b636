"""Requests: precedence, grammar, and errors that name file, key and nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from wbcbench.contracts.params import Parameters
from wbcbench.errors import UsageError
from wbcbench.spec.load import load_request, validate
from wbcbench.spec.request import Choice, parse_value, split_list


def names(choices: tuple[Choice, ...]) -> list[str]:
    return [c.name for c in choices]


def test_precedence_file_then_flags_then_set(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("epochs: 3\nimage_size: 40\nfusion: [early, late]\ntraining: {lr: 1e-3}\n")
    request = load_request(config)
    assert (request.budget.epochs, request.training.lr) == (3, 0.001)
    assert names(request.fusion) == ["early", "late"]
    request = load_request(config, {"epochs": 5, "fusion": "single"}, ("budget.epochs=7", "training.lr=5e-4"))
    assert (request.budget.epochs, request.image_size, request.training.lr) == (7, 40, 0.0005)
    assert names(request.fusion) == ["single"]


def test_component_grammar() -> None:
    request = load_request(None, {"fusion": "early,independent:rho=0.2:repeats=2", "kd": "none,logits+at"})
    assert request.fusion[1] == Choice(name="independent", params={"rho": 0.2, "repeats": 2})
    assert [names(c) for c in request.kd] == [["none"], ["logits", "at"]]
    assert load_request(None, {"seeds": "0,1,2"}).seeds == (0, 1, 2)
    assert load_request(None, {"modalities": "a,b"}).modalities == ("a", "b")


def test_set_reaches_components_and_nested_mappings() -> None:
    request = load_request(
        None, {"dataset": "npz"}, ("dataset.path=x.npz", "dataset.modalities.brightfield=[0]", "kd.temperature=2")
    )
    assert request.overrides == {
        "dataset": {"path": "x.npz", "modalities": {"brightfield": [0]}},
        "kd": {"temperature": 2},
    }


def test_a_teacher_may_be_a_name_or_a_section(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("teacher: {backbone: resnet18, epochs: 4}\n")
    assert load_request(config).teacher.epochs == 4
    assert load_request(config, {"teacher.backbone": "resnet34"}).teacher.backbone[0].name == "resnet34"
    config.write_text("teacher: resnet18\n")
    assert load_request(config, {}, ("teacher.epochs=2",)).teacher.backbone[0].name == "resnet18"
    assert load_request(config).teacher.backbone[0].name == "resnet18"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("3", 3), ("0.5", 0.5), ("true", True), ("on", "on"), ("[0, 1]", [0, 1]), ("10:30", "10:30"),
     ("{a: 1}", {"a": 1}), ("abc", "abc"), ("1.10", 1.1), ("null", None)],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_commas_inside_brackets_do_not_split() -> None:
    assert split_list("a:x=[1,2],b") == ["a:x=[1,2]", "b"]


@pytest.mark.parametrize(
    ("flags", "sets", "parts"),
    [
        ({}, ("training.lrr=1",), ("training.lrr", "Did you mean 'lr'", "command line")),
        ({}, ("augmentaton.noise=1",), ("augmentaton", "Did you mean 'augmentation'")),
        ({}, ("training.lr=0",), ("training.lr", "greater than 0", "got 0")),
        ({}, ("training.lr",), ("KEY=VALUE",)),
        ({"seeds": "a"}, (), ("seeds",)),
        ({"fusion": ""}, (), ("fusion",)),
        ({"fusion": "early:x"}, (), ("name:key=value",)),
        ({}, ("split.val=0.6", "split.test=0.5"), ("val + test",)),
    ],
)
def test_errors_say_where_and_what(flags: dict[str, str], sets: tuple[str, ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as error:
        load_request(None, flags, sets)
    for part in parts:
        assert part in str(error.value)
    assert error.value.exit_code == 2


def test_what_takes_no_parameters_says_so() -> None:
    class Bare(Parameters):
        pass

    with pytest.raises(UsageError, match=r"^fusion early: 'stem' is not a known key. It takes no parameters\.$"):
        validate(Bare, {"stem": 2}, "fusion early")


def test_config_files_that_cannot_be_read(tmp_path: Path) -> None:
    for content, part in (("a: [", "does not parse"), ("- a\n", "key: value"), ("nope: 1", "'nope'")):
        path = tmp_path / "c.yaml"
        path.write_text(content)
        with pytest.raises(UsageError, match=part) as error:
            load_request(path)
        assert str(path) in str(error.value)
    with pytest.raises(UsageError, match="cannot be read"):
        load_request(tmp_path / "missing.yaml")


def test_a_value_may_have_colons() -> None:
    choice = Choice.parse("resnet18:checkpoint=C:\\w.pth:freeze=stages:2:lr_decay=0.75")
    assert choice.params == {"checkpoint": "C:\\w.pth", "freeze": "stages:2", "lr_decay": 0.75}
    with pytest.raises(ValueError, match="expected name:key=value, but got 'resnet18:frozen'"):
        Choice.parse("resnet18:frozen")
