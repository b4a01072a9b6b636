"""Networks for a device: quantised graphs, and exported files on test cells, which boards show.

Quantised graphs are deterministic, exact in preprocessing, and compared with the float network.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.api.boards import leaderboard
from wbcbench.api.defaults import COSTS as COSTS_OFFERED
from wbcbench.api.defaults import DEPLOYED
from wbcbench.api.evaluating import Evaluations, evaluate
from wbcbench.boards import Options, report
from wbcbench.boards.figures.data import COSTS, pareto
from wbcbench.boards.formats import render
from wbcbench.boards.model import Board
from wbcbench.deploy import deployed as deploying
from wbcbench.deploy import export as exporting
from wbcbench.deploy.export import export
from wbcbench.deploy.formats import FORMATS, Format, read_onnx
from wbcbench.deploy.quantize import KINDS, Comparison, calibration_cells, quantize
from wbcbench.errors import RecordError, UsageError
from wbcbench.publishing.side_files import side_files
from wbcbench.records import deployed as records
from wbcbench.records.deployed import deployed_path, read_deployed
from wbcbench.records.evaluations import checksummed
from wbcbench.records.store import Store

Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def graph(winners: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`independent` as an ONNX graph in float32."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("float") / "taken"
    export(winners.rebuilt("independent"), "onnx", folder)
    return folder / "model.onnx"


@pytest.fixture
def ready(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of `independent` copy `graph`, since tracing takes seconds."""
    copied = Format("model.onnx", lambda rebuilt, network, outputs, path: shutil.copy(graph, path), read_onnx)
    monkeypatch.setitem(FORMATS, "onnx", copied)


@pytest.mark.slow
@pytest.mark.parametrize("how", KINDS)
def test_a_quantised_graph_is_smaller_repeatable_and_exact_in_preprocessing(
    how: str, graph: Path, winners: Any, tmp_path: Path
) -> None:
    import onnx

    found = winners.rebuilt("independent")
    digests = set()
    for name in "ab":
        quantize(found, how, graph, tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    weights, tensors = {}, {}
    for path in (graph, tmp_path / "a"):
        model = onnx.load(path)
        assert {i.name: i.type.tensor_type.elem_type for i in model.graph.input} == dict.fromkeys(
            "uv", onnx.TensorProto.UINT8
        )
        arrays = [onnx.numpy_helper.to_array(i) for i in model.graph.initializer]
        tensors[path] = arrays
        weights[path] = sum(a.nbytes for a in arrays)
    assert weights[tmp_path / "a"] < (0.6 if how == "fp16" else 0.45) * weights[graph]
    for m in "uv":
        wanted = getattr(found.network.normaliser, f"scale_{m}").numpy().ravel()
        held = [a for a in tensors[tmp_path / "a"] if a.dtype == np.float32 and a.size == wanted.size]
        assert any(np.array_equal(a.ravel(), wanted) for a in held), "normalisation is not what it was"


@pytest.mark.slow
@pytest.mark.parametrize("how", KINDS)
def test_the_file_is_the_quantised_one_and_is_described(
    how: str, ready: None, winners: Any, tmp_path: Path, invoke: Invoke, graph: Path
) -> None:
    args = (*winners.where, "--format", "onnx", "--quantize", how, "-o", str(tmp_path / "taken"), "--json")
    code, out, err = invoke("export", winners.ids["independent"], *args)
    assert code == 0, err
    said = json.loads(out)["check"]["quantised"]
    path = tmp_path / "taken" / "model.onnx"
    assert said["size"] == [graph.stat().st_size, path.stat().st_size]
    assert (said["kind"], said["calibration"] > 0) == ("validation cells", how == "int8")
    inputs = json.loads((path.parent / "inputs.json").read_text())
    assert inputs["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert inputs["quantised"] == said
    assert "The file is quantised" in (path.parent / "model_card.md").read_text()
    found = winners.rebuilt("independent")
    trial = found.record.trial
    val = found.bench.split(trial).val
    image = np.load(winners.cells)["image"].transpose(0, 3, 1, 2)[val]
    runner, batch = read_onnx(found, path), KINDS[how].batch
    parts = [
        runner({m: np.ascontiguousarray(image[i : i + batch, k : k + 1]) for k, m in enumerate("uv")})
        for i in range(0, len(val), batch)
    ]
    now, was = np.concatenate([p["probabilities"] for p in parts]), found.record.predictions["val_probabilities"]
    assert said["agreement"] == (now.argmax(1) == was.argmax(1)).mean()
    assert said["largest"] == pytest.approx(np.abs(now - was).max(), abs=1e-5)
    assert 0 < said["largest"] < 0.2


def test_calibration_cells_are_of_training_and_of_all_classes(winners: Any) -> None:
    found = winners.rebuilt("early")
    trial = found.record.trial
    ids, train = calibration_cells(found, 20), found.bench.split(trial).train
    assert len(set(ids.tolist())) == 20
    assert set(ids.tolist()) <= set(train.tolist())
    counts = np.bincount(found.bench.cells(trial).labels[ids])
    assert counts.max() - counts.min() <= 1
    assert (calibration_cells(found, 20) == ids).all()
    assert sorted(calibration_cells(found, 10_000)) == sorted(train)


@pytest.mark.parametrize(
    ("macro_f1", "words"), [((0.8, 0.795), ""), (None, ""), ((0.789, 0.741), "costs 0.048 of macro-F1")]
)
def test_a_loss_is_said_with_what_to_do(macro_f1: tuple[float, float] | None, words: str) -> None:
    advice = Comparison("int8", 9, "validation cells", 0.9, 0.1, macro_f1, (10, 3), 256).advice()
    assert words in advice
    assert bool(advice) == bool(words)
    assert "--quantize int8" not in advice


def test_wrong_requests_are_messages(winners: Any, invoke: Invoke, tmp_path: Path) -> None:
    for args, message in (
        (("--format", "safetensors", *winners.where), "Expected --format onnx for --quantize"),
        (("--format", "onnx", "--store", str(winners.root)), "--set dataset.path="),
    ):
        more = ("--quantize", "int8", "-o", str(tmp_path / "x"))
        code, _, err = invoke("export", winners.ids["early"], *args, *more)
        assert (code, message in err) == (2, True), err
    assert not (tmp_path / "x").exists()


def test_a_graph_that_gives_nothing_usable_is_refused(
    winners: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    from wbcbench.deploy.formats import NotExportable
    from wbcbench.deploy.quantize import compare

    one = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "uy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["u"], ["y"])], "g", one[:1], one[1:])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset]), tmp_path / "g")
    found = winners.rebuilt("early")
    with pytest.raises(NotExportable, match=r"no layer with weights. Leave --quantize out"):
        quantize(found, "dynamic", tmp_path / "g", tmp_path / "q")
    images = exporting.made_up(found, 3)

    def runner(value: float) -> Any:
        return lambda given: {"probabilities": np.full((len(given["u"]), 3), value, np.float32)}

    without = replace(found, bench=None)
    assert compare(without, "fp16", runner(0.3), runner(0.3), images, (2, 1), 0).macro_f1 is None
    with pytest.raises(NotExportable, match="no finite probabilities"):
        compare(without, "fp16", runner(0.3), runner(np.nan), images, (2, 1), 0)


@pytest.fixture
def store(winners: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    def at_once(once: Callable[[], None], seconds: float) -> float:
        once()
        return 0.002

    monkeypatch.setattr(deploying, "least_seconds", at_once)
    shutil.copytree(winners.root, tmp_path / "store")
    return Store(tmp_path / "store")


def run(store: Store, winners: Any, *kinds: str) -> Evaluations:
    where = {"dataset.path": str(winners.cells)}
    return evaluate(winners.ids["independent"], deployed=kinds, store=store.root, set=where, progress=False)


@pytest.mark.slow
def test_boards_show_what_is_deployed_and_rank_as_before(
    ready: None, winners: Any, store: Store, tmp_path: Path
) -> None:
    def board() -> Board:
        return max(report([store], Options(resamples=200)).boards, key=lambda b: len(b.rows))

    before = board()
    assert "deployed" not in before.rows[0].model_dump()
    done = run(store, winners, "onnx", "onnx-int8")
    whole, small = done.files
    record = winners.record("independent")
    assert whole.cells == record.predictions["test_cells"].tolist()
    assert whole.metrics == pytest.approx(record.result.metrics["test"], abs=1e-4)
    assert whole.trained == small.trained == record.result.metrics["test"]
    assert small.size < whole.size
    assert (whole.calibration, small.calibration > 0) == (0, True)
    after = board()
    assert [(r.method_id, r.rank, r.metrics) for r in after.rows] == [
        (r.method_id, r.rank, r.metrics) for r in before.rows
    ]
    (row,) = (r for r in after.rows if r.deployed)
    one, other = row.deployed
    assert (one.kind, other.kind, one.n, other.timing.threads) == ("onnx", "onnx-int8", 1, 1)
    assert other.value.mean == small.metrics["macro_f1"]
    assert other.change == pytest.approx(small.metrics["macro_f1"] - row.metrics["macro_f1"].mean)  # type: ignore[operator]
    assert (other.size, other.timing.latency_ms, other.timing.throughput) == (small.size, 2.0, 32_000)
    for file in row.deployed:
        assert file.value.low < file.value.mean < file.value.high
        assert file.change_low <= file.change <= file.change_high
    assert one.change_high - one.change_low < one.value.high - one.value.low, "the same cells"  # type: ignore[operator]
    cheapest = leaderboard(store.root, sort="onnx-int8:size", resamples=200)
    (sorted_board,) = (b for b in cheapest.boards if b.digest == after.digest)
    assert sorted_board.rows[0].method_id == row.method_id
    assert sorted_board.rows[1:] == tuple(r for r in after.rows if r is not row)
    assert any(f"that of {len(after.rows) - 1} rows, the last ones, is unknown" in n for n in sorted_board.notes)
    drawn = pareto(after, "onnx-int8:size")
    assert drawn is not None
    assert [(p.row, p.cost, p.value) for p in drawn.points] == [(row, small.size, other.value.mean)]
    assert pareto(after, "onnx-fp16:latency") is None
    for style in ("plain", "markdown", "csv", "json", "html"):
        assert b"onnx-int8" in render(report([store], Options(resamples=200)), style), style
    files = side_files([record], [store.root], tmp_path)
    assert {f"deployed/{k}/{record.trial.id}.json" for k in ("onnx", "onnx-int8")} <= set(files)


@pytest.mark.slow
def test_what_is_there_is_not_computed_again_unless_it_is_damaged(ready: None, winners: Any, store: Store) -> None:
    (document,) = run(store, winners, "onnx").files
    path = deployed_path(store.root, "onnx", document.trial)
    again = run(store, winners, "onnx")
    assert (again.new, again.rows()[0]["state"]) == (set(), "found")
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "metrics": ({"metrics": {"macro_f1": 1.0}}, "but its predictions give"),
        "probabilities": ({"probabilities": "AAAA"}, "probabilities for"),
        "cells": ({"cells": [0]}, "of different cells"),
        "kind": ({"kind": "onnx-int8"}, "it was renamed"),
        "digest": ({"digest": "f" * 64}, "of another record"),
    }
    for change, message in changes.values():
        path.write_text(json.dumps(checksummed(document.model_dump(mode="json") | change)))
        with pytest.raises(RecordError, match=message):
            read_deployed(path, document.digest)
    assert any(
        "of another record" in n for b in report([store], Options(statistics=False)).boards for n in b.notes
    )
    redone = run(store, winners, "onnx")
    assert redone.new == {f"onnx/{document.trial}"}
    assert any("Evaluated again" in line for line in redone.notes())


def test_wrong_evaluations_are_messages(winners: Any, invoke: Invoke) -> None:
    where = ("--store", str(winners.root))
    for args, message in (
        ((), "got neither"),
        (("--deployed", "onnx", "--dataset", "synthetic"), "got both"),
        (("--deployed", "onnx", "--name", "x"), "--name is for --dataset"),
        (("--deployed", "onnx", "--device", "cuda"), "--device cuda is for --dataset"),
        (("--deployed", "onx"), "'onx' is not one of"),
    ):
        code, _, err = invoke("evaluate", winners.ids["early"], *args, *where)
        assert (code, message in err) == (2, True), err
    with pytest.raises(UsageError, match="Did you mean 'macs'"):
        leaderboard(winners.root, sort="mac", resamples=200)
    with pytest.raises(UsageError, match="Did you mean 'onnx'"):
        evaluate(winners.ids["early"], deployed="onx", store=winners.root)
    code, _, err = invoke("evaluate", winners.ids["early"], "--deployed", "onnx", *where)
    assert code != 0
    assert "--set dataset.path=" in err, "the test cells were not named"


def test_what_is_offered_is_what_there_is() -> None:
    assert DEPLOYED == records.KINDS == ("onnx", *(f"onnx-{how}" for how in KINDS))
    assert tuple(COSTS) == COSTS_OFFERED
