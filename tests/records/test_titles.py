"""Titles are for readers: they name boards, and no trial, key or record depends on them."""

from __future__ import annotations

import pytest

from wbcbench.boards import Options, report
from wbcbench.errors import RecordError
from wbcbench.publishing.merging import merge
from wbcbench.records.store import Store
from wbcbench.records.titles import TITLES, add_titles, read_titles, titles_of
from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.scheduling.plan import make_plan
from wbcbench.scheduling.source import Outcome, keep_titles
from wbcbench.spec.load import load_request
from wbcbench.testing.records import fake_record, fake_trial

FAST = Options(statistics=False, details=False)


@pytest.mark.parametrize("settings", [
    ["dataset.title=Cells"], ["title=Fusions of cells"], ["dataset.title=Cells", "title=Fusions of cells"],
])  # fmt: skip
def test_trials_do_not_depend_on_titles(settings: list[str]) -> None:
    registry, _ = load_plugins(PluginOptions())
    titled = load_request(settings=settings)
    assert titled.title or titled.dataset_title
    ids = [[p.trial.id for p in make_plan(r, registry).trials] for r in (load_request(), titled)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("dataset", ["synthetic:title=Cells", {"name": "synthetic", "title": "Cells"}])
def test_a_data_set_has_a_title_among_its_parameters(dataset: object) -> None:
    request = load_request(flags={"dataset": dataset})
    assert (request.dataset.params, request.dataset_title) == ({}, "Cells")
    assert load_request(settings=["dataset_title=", "dataset.title=Cells"]).dataset_title == "Cells"
    assert type(request).model_validate(request.model_dump(mode="json")) == request


@pytest.mark.parametrize(("titles", "name"), [
    ({}, "made: a + b"), ({"dataset_title": "Cells"}, "Cells: a + b"), ({"title": "A part"}, "A part"),
    ({"dataset_title": "Cells", "title": "A part"}, "A part"),
])  # fmt: skip
def test_boards_show_titles(tmp_path, titles: dict[str, str], name: str) -> None:
    store = Store(tmp_path)
    trial = fake_trial(0)
    record = fake_record(store, trial)
    before = report([store], FAST).boards[0]
    request = load_request(flags={"store": str(tmp_path), **titles})
    planned = type("Planned", (), {"trial": trial, "role": "student"})()
    keep_titles(request, [Outcome(planned, "cached", record)])
    (board,) = report([store], FAST).boards
    key = board.key
    assert board.name == name.replace("made", key.dataset).replace("a + b", " + ".join(key.modalities))
    assert board.model_copy(update={"title": ""}) == before
    assert ("title" in board.model_dump()) == bool(titles)


def test_a_merge_keeps_the_titles_that_are_there(tmp_path) -> None:
    stores = [Store(tmp_path / name) for name in "ab"]
    keys = [fake_record(s, fake_trial(i)).result.key for i, s in enumerate(stores)]
    for store, text in zip(stores, ("first", "second"), strict=True):
        add_titles(store.root, titles_of(keys, text, ""))
    merge([s.root for s in stores], tmp_path / "c")
    assert set(read_titles(tmp_path / "c").values()) == {"first"}


@pytest.mark.parametrize("text", ["[1]", "{", '{"no digest": "x"}', '{"0123456789abcdef": ""}'])
def test_another_document_is_an_error(tmp_path, text: str) -> None:
    (tmp_path / TITLES).write_text(text)
    with pytest.raises(RecordError, match=r"titles\.json"):
        read_titles(tmp_path)
