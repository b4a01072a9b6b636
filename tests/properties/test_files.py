"""Manifests, records, space expressions: read as they are, or refused as an error of ours."""

from __future__ import annotations

import csv
import io
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcbench.data.csv_table import ColumnChoices, Columns, ManifestFile, recognise
from wbcbench.data.labels import Problems, is_missing
from wbcbench.errors import UsageError, WbcbenchError
from wbcbench.records.schema import Result
from wbcbench.records.store import Store
from wbcbench.searches.space import Range, parse_range
from wbcbench.testing.records import CLASSES, fake_predictions, fake_record, fake_trial


def named(error: WbcbenchError, what: str) -> None:
    """A refusal says what it is about."""
    assert len(str(error)) > 10
    assert what in str(error)


FIELDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "NA", "nan", "null", "a.png", 'b "c", d.png', "x\ny.png", "=1+1", "ü;é"]),
)


@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=5),
    st.lists(st.lists(FIELDS, min_size=1, max_size=6), min_size=0, max_size=6),
    st.sampled_from(",;\t"),
    st.booleans(),
)
def test_a_manifest_is_read_as_it_was_written_or_refused(
    header: list[str], rows: list[list[str]], delimiter: str, signature: bool
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows(rows)
    data = buffer.getvalue().encode("utf-8-sig" if signature else "utf-8", "surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.csv"
        path.write_bytes(data)
        try:
            file = ManifestFile(path)
            recognised, said = recognise(file, ColumnChoices())
        except WbcbenchError as error:
            named(error, str(path))
            return
        assert [name for name, _ in said] == file.header
        read(file, recognised)


LABELLED = st.lists(
    st.tuples(
        st.sampled_from(["a.png", "dir/b b.png", 'q"uote.png', "comma,.png", "zeile\num.png", "ü.PNG", ""]),
        st.sampled_from(["basophil", 'lymph "x"', "a,b", "日本", "NA", ""]),
        st.sampled_from(["train", "val", "test", ""]),
    ),
    min_size=1,
    max_size=8,
)


@given(LABELLED, st.sampled_from(",;\t"), st.permutations(["image", "label", "split"]))
def test_every_row_is_a_cell_or_a_problem_that_names_its_line(
    rows: list[tuple[str, str, str]], delimiter: str, order: list[str]
) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerow(order)
    for row in rows:
        named = dict(zip(("image", "label", "split"), row, strict=True))
        writer.writerow([named[name] for name in order])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.csv"
        path.write_text(buffer.getvalue(), newline="")
        file = ManifestFile(path)
        found, problems = read(file, Columns(label="label", modalities={"image": "image"}, split="split"))
    sided = [r for r in rows if r[2]]
    good = [r for r in sided if r[0] and not is_missing(r[1])]
    assert found == [(p.strip(), label.strip()) for p, label, _ in good]
    assert len(found) + problems == len(sided)


def read(file: ManifestFile, columns: Columns) -> tuple[list[tuple[str, str]], int]:
    problems = Problems()
    try:
        listing = file.select(columns, {}, problems)
    except WbcbenchError as error:
        named(error, "")
        return [], len(problems)
    paths = next(iter(listing.paths.values()))
    return list(zip(paths, listing.labels, strict=True)), len({n for n, _ in problems.found()})


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(allow_nan=True).map(str),
    st.sampled_from(["1e-4", "1e400", "x", ""]),
)
WORDS = st.sampled_from(["uniform", "log", "int", "logint", "choice", "fixed", "Log", "chance"])


@given(st.builds(lambda w, a: f"{w}({','.join(a)})", WORDS, st.lists(NUMBERS, max_size=4)), st.booleans())
def test_a_range_is_understood_and_printed_so_that_it_is_understood_again(text: str, whole: bool) -> None:
    try:
        found = parse_range("x", text, whole)
    except UsageError as error:
        named(error, "x: ")
        return
    if found.kind in ("float", "int"):
        assert found.low < found.high
        assert math.isfinite(found.low)
        assert math.isfinite(found.high)
    again = parse_range("x", str(found), whole)
    assert str(again) == str(found)
    if found.kind in ("float", "int"):
        assert (again.kind, again.log) == (found.kind, found.log)
        assert (again.low, again.high) == (found.low, found.high), "printing must not round"


@given(
    st.one_of(st.text(max_size=30), st.lists(st.one_of(st.text(), st.floats(), st.none(), st.lists(st.text()))))
)
def test_any_other_expression_is_a_range_or_a_usage_error(value: Any) -> None:
    try:
        assert isinstance(parse_range("x", value), Range)
    except UsageError as error:
        named(error, "x: ")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@given(
    seed=st.integers(0, 2**31 - 1),
    cells=st.integers(2, 40),
    skill=st.floats(0, 9),
    seconds=st.floats(0, 1e9),
    params=st.integers(0, 10**12),
    name=st.text("abc[]:=+é ", min_size=1, max_size=12),
)
def test_a_record_that_was_stored_is_read_as_it_was(
    root: Path, seed: int, cells: int, skill: float, seconds: float, params: int, name: str
) -> None:
    with tempfile.TemporaryDirectory(dir=root) as folder:
        store = Store(folder)
        arrays = fake_predictions(seed, cells=cells, skill=skill)
        trial = fake_trial(seed, fusion=name)
        written = fake_record(store, trial, predictions=arrays, train_seconds=seconds, params=params)
        read = store.load(trial.id, verify="full")
        assert read.result == written.result
        assert read.trial.id == trial.id
        assert read.result.cost.train_seconds == seconds
        assert Result.model_validate_json(read.result.model_dump_json()) == read.result
        for array, values in arrays.items():
            assert np.array_equal(read.predictions[array], values)
        assert set(read.result.per_class) == set(CLASSES)
