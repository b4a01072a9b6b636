"""`wbcbench export`: what is taken away answers as what was trained, or nothing is."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from wbcbench.deploy import export as checking
from wbcbench.deploy.card import run_lines
from wbcbench.deploy.export import Disagrees, check, export
from wbcbench.deploy.formats import NotExportable, compare, load_network, trace
from wbcbench.deploy.network import Network, dataset_of
from wbcbench.errors import RecordError, UsageError
from wbcbench.registry import Registry
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import make_plan
from wbcbench.spec.load import load_request


@functools.cache
def registry() -> Registry:
    return load_plugins()[0]


Invoke = Callable[..., tuple[int, str, str]]
FUSIONS = [name for name in registry().names("fusion") if name != "knn"]  # which needs trained weights
GRAPHS = ("cen", "handcrafted")
"""Fusions that are written as ONNX here, which takes seconds each: an exchange of maps, over which the exporter's
optimiser stumbles, and one that is not trained by gradient. WBCBENCH_TEST_EXPORT=onnx writes all (minutes)."""


@pytest.fixture(scope="module")
def onnx_folder(winners: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`independent` as ONNX."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folder: Path = tmp_path_factory.mktemp("taken") / "onnx"
    export(winners.rebuilt("independent"), "onnx", folder, store=winners.store)
    return folder


def images_of(winners: Any, rows: slice) -> dict[str, np.ndarray]:
    image = np.load(winners.cells)["image"][rows].transpose(0, 3, 1, 2)
    return {m: np.ascontiguousarray(image[:, i : i + 1]) for i, m in enumerate("uv")}


@pytest.mark.slow
def test_onnx_runtime_alone_gives_the_record_s_predictions(onnx_folder: Path, winners: Any) -> None:
    import onnxruntime

    record = winners.record("independent")
    test = record.predictions["test_cells"]
    image = np.load(winners.cells)["image"].transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(onnx_folder / "model.onnx")
    feed = {m: np.ascontiguousarray(image[test, i : i + 1]) for i, m in enumerate("uv")}
    assert {i.name: i.type for i in session.get_inputs()} == {"u": "tensor(uint8)", "v": "tensor(uint8)"}
    p, v = session.run(["probabilities", "route_v"], feed)
    np.testing.assert_allclose(p, record.predictions["test_probabilities"], atol=1e-5)
    np.testing.assert_allclose(v, record.predictions["test_route_v"], atol=1e-5)


@pytest.mark.slow
def test_the_card_s_code_runs_and_the_description_fits(onnx_folder: Path, winners: Any) -> None:
    assert {p.name for p in onnx_folder.iterdir()} == {
        "model.onnx", "inputs.json", "model_card.md", "reference.npz"
    }  # fmt: skip
    card = (onnx_folder / "model_card.md").read_text()
    code = run_lines(card)
    assert len(code.splitlines()) <= 10
    assert "wbcbench" not in code
    done = subprocess.run([sys.executable, "-c", code], cwd=onnx_folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads((onnx_folder / "inputs.json").read_text())
    assert done.stdout.count("'") == 10  # five names of classes
    assert [i["name"] for i in said["inputs"]] == ["u", "v"]
    assert said["inputs"][0]["shape"] == ["batch", 1, 16, 16]
    assert said["classes"] == ["a", "b", "c"]
    assert said["check"]["kind"] == "validation cells"
    assert said["check"]["largest_difference"] <= 1e-4
    for heading in ("Metrics", "Training data", "Intended use", "Limits", "Run it"):
        assert f"## {heading}" in card
    accuracy = winners.record("independent").result.metrics["test"]["accuracy"]
    assert f"| accuracy | {accuracy:.3f} (" in card
    front = yaml.safe_load(card.split("---\n")[1])  # what Hugging Face indexes
    scores = {m["type"]: m["value"] for m in front["model-index"][0]["results"][0]["metrics"]}
    assert front["pipeline_tag"] == "image-classification"
    assert scores["accuracy"] == round(accuracy, 4)


def test_an_exported_folder_compares_cells_with_those_of_training(winners: Any, tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    export(winners.rebuilt("independent"), "safetensors", folder)
    test = winners.record("independent").predictions["test_cells"]
    image = np.load(winners.cells)["image"].transpose(0, 3, 1, 2)
    images = {m: np.ascontiguousarray(image[test, i : i + 1]) for i, m in enumerate("uv")}
    held_out = compare(folder, images, registry())
    darker = compare(folder, {m: x // 2 for m, x in images.items()}, registry())
    assert (held_out.alarm, darker.alarm) == (False, True)
    everything = compare(folder, images_of(winners, slice(None)), registry())
    np.testing.assert_allclose(everything.distances[test], held_out.distances, rtol=1e-4)
    assert everything.cells == len(test)
    assert "`reference.npz` holds" in (folder / "model_card.md").read_text()
    (folder / "reference.npz").write_bytes(b"")
    with pytest.raises(RecordError, match="damaged"):
        compare(folder, images, registry())


@pytest.mark.slow
@pytest.mark.parametrize("fusion", GRAPHS)
def test_a_graph_agrees(fusion: str, winners: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    agreement = export(winners.rebuilt(fusion), "onnx", tmp_path / "taken")
    assert agreement.kind == "validation cells"
    assert agreement.largest <= 1e-4
    assert agreement.stored is not None
    assert agreement.stored <= 1e-4


@pytest.mark.parametrize("older", [False, True])
def test_a_combiner_is_compared_with_what_its_record_holds(
    older: bool, winners: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded validation predictions are cross-fitted, those of older records the combiner's own."""
    stacking = winners.rebuilt("stacking")
    before = {k: v.clone() for k, v in stacking.fusion.state_dict().items()}
    _, expected, stored, kind = checking._cells(stacking)
    own, recorded = expected["probabilities"], stacking.record.predictions["val_probabilities"]
    assert kind == "validation cells"
    assert np.abs(own - recorded[: len(own)]).max() > 1e-3, "else there is nothing to see here"
    if older:
        monkeypatch.setitem(stacking.record.predictions, "val_probabilities", own)
        stored = checking._cells(stacking)[2]
    assert stored is not None
    assert stored <= 1e-4
    assert all(torch.equal(v, before[k]) for k, v in stacking.fusion.state_dict().items())


@pytest.mark.slow
def test_a_torch_program_needs_torch_alone(winners: Any, invoke: Invoke, tmp_path: Path) -> None:
    code, out, err = invoke(
        "export",
        winners.ids["early"],
        *winners.where,
        "--format",
        "torch-export",
        "-o",
        str(tmp_path / "t"),
        "--json",
    )
    assert code == 0, err
    assert json.loads(out)["check"]["cells"] > 0
    images = {m: torch.from_numpy(x) for m, x in images_of(winners, slice(0, 5)).items()}
    answer = torch.export.load(tmp_path / "t" / "model.pt2").module()(images)["probabilities"]
    with torch.no_grad():
        torch.testing.assert_close(answer, winners.rebuilt("early").network(images)["probabilities"])


@pytest.fixture(scope="module")
def every(training: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every fusion there is, after one epoch."""
    return training(tmp_path_factory.mktemp("every"), "--fusion", ",".join(FUSIONS), cells=48)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_is_taken_away(fusion: str, every: Any, tmp_path: Path) -> None:
    form = os.environ.get("WBCBENCH_TEST_EXPORT", "safetensors")
    found = every.rebuilt(fusion)
    agreement = export(found, form, tmp_path / "taken")
    assert agreement.kind == "validation cells"
    assert agreement.largest <= 1e-4
    assert agreement.stored is not None
    assert agreement.stored <= 1e-4
    if form != "safetensors":
        return
    network = load_network(tmp_path / "taken", registry())
    images = {m: torch.from_numpy(x) for m, x in images_of(every, slice(0, 7)).items() if m in network.modalities}
    with torch.no_grad():
        answers = network(images)
        whole = found.network(images)
    assert set(answers) == set(whole)
    for name, value in answers.items():
        torch.testing.assert_close(value, whole[name])


def test_without_cells_the_check_is_on_made_up_ones(winners: Any, tmp_path: Path, invoke: Invoke) -> None:
    out = tmp_path / "taken"
    args = ("--store", str(winners.root), "--format", "safetensors", "-o", str(out))
    code, said, err = invoke("export", winners.ids["early"], *args)
    assert code == 0, err
    assert "made-up cells" in said
    assert "The cells it was trained on were not" in err
    assert "unknown (the cells were not available" in (out / "model_card.md").read_text()


def test_a_network_that_disagrees_leaves_nothing(winners: Any, tmp_path: Path, monkeypatch: Any) -> None:
    found = winners.rebuilt("early")

    def wrong(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            answers = found.network({m: torch.from_numpy(x) for m, x in images.items()})
        return {name: a.numpy() + 2e-4 for name, a in answers.items()}

    with pytest.raises(Disagrees, match=r"differ by up to 0\.0002"):
        check(found, wrong, ("probabilities",))
    assert check(found, wrong, ("probabilities",), tolerance=1e-3).largest == pytest.approx(2e-4, rel=0.01)
    monkeypatch.setattr(checking, "STORED", -1.0)
    with pytest.raises(Disagrees, match="has changed since"):
        export(found, "safetensors", tmp_path / "taken")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_one_fixed_batch_is_refused(winners: Any) -> None:
    found = winners.rebuilt("majority")

    def three(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"probabilities": np.full((3, 3), 1 / 3, np.float32)}

    with pytest.raises(Disagrees, match=r"\[3, 3\]"):
        check(found, three, ("probabilities",))


@pytest.mark.slow
def test_what_cannot_be_traced_is_refused_in_words(winners: Any) -> None:
    found = winners.rebuilt("majority")

    class Peeking(torch.nn.Module):
        def forward(self, images: dict[str, torch.Tensor]) -> torch.Tensor:
            return images["u"] if images["u"].sum() > 3 else images["v"]

    with pytest.raises(NotExportable, match="Choose --format safetensors"):
        trace(found, Network(Peeking(), found.statistics))


def test_a_folder_that_holds_something_is_left_alone(winners: Any, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    args = (*winners.where, "--format", "safetensors", "-o", str(tmp_path))
    code, _, err = invoke("export", winners.ids["early"], *args)
    assert code == 2
    assert "Expected a new folder" in err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_records_are_found_by_beginning_folder_and_name(winners: Any, invoke: Invoke, tmp_path: Path) -> None:
    id_ = winners.ids["handcrafted"]
    for number, text in enumerate((id_[:7], str(winners.root / "records" / id_), "handcrafted")):
        out = tmp_path / str(number)
        code, _, err = invoke("export", text, *winners.where, "--format", "safetensors", "-o", str(out))
        assert code == 0, err
        assert json.loads((out / "inputs.json").read_text())["trial_id"] == id_
    for text, says in (("handcraftet", "Did you mean 'handcrafted'"), ("", "is ''")):
        code, _, err = invoke("export", text, *winners.where, "--format", "safetensors", "-o", str(tmp_path / "x"))
        assert code == 2
        assert says in err


def test_only_the_place_of_the_cells_may_be_set(winners: Any, invoke: Invoke, tmp_path: Path) -> None:
    out = ("--store", str(winners.root), "--format", "safetensors", "-o", str(tmp_path / "x"))
    for setting, says in (
        ("training.lr=1", "with dataset.* only"),
        ("dataset.label=other", "dataset.path"),
        ("dataset.path=/nowhere.npz", "missing"),
    ):
        code, _, err = invoke("export", winners.ids["early"], *out, "--set", setting)
        assert code == 2
        assert says in err


def test_weights_of_another_file_are_not_loaded(winners: Any, tmp_path: Path) -> None:
    from wbcbench.errors import RecordError

    export(winners.rebuilt("early"), "safetensors", tmp_path / "taken")
    with open(tmp_path / "taken" / "model.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(RecordError, match=r"does not match inputs\.json"):
        load_network(tmp_path / "taken")


def test_cells_within_another_data_sets_parameters_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "rgb.npz"
    images = rng.integers(0, 255, (60, 16, 16, 3), dtype=np.uint8)
    np.savez(path, image=images, label=np.arange(60) % 3)
    values = {"dataset.base_params": {"path": str(path), "modalities": {"x": [0, 1, 2]}}}
    request = load_request(None, {"dataset": "stains", "fusion": "early", "kd": "none"}, values)
    trial = make_plan(request, registry()).trials[0].trial
    assert str(path) not in trial.model_dump_json()
    found = dataset_of(trial, registry(), [f"dataset.base_params.path={path}"])
    assert found.describe().fingerprint == trial.protocol.fingerprint
    with pytest.raises(UsageError, match="Only paths may be set"):
        dataset_of(trial, registry(), [f"dataset.base_params.path={path}", "dataset.space=hsv"])
