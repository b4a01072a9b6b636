"""Modalities that are numbers: how they are read, standardised, planned, trained on, examined and taken away."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wbcbench
from wbcbench.contracts import Cells, Task
from wbcbench.contracts.dataset import Dataset, indicated
from wbcbench.data.views import ResidentCells, Views
from wbcbench.deploy.export import made_up
from wbcbench.deploy.formats import load_network
from wbcbench.deploy.network import rebuilt
from wbcbench.errors import DataError, UsageError
from wbcbench.evaluation.corrupters import standard
from wbcbench.records.schema import InputStatistics
from wbcbench.records.store import Store
from wbcbench.registry.loading import load_plugins
from wbcbench.scheduling.plan import Plan, make_plan
from wbcbench.spec import Augmentation, ComponentSpec, digest
from wbcbench.spec.load import load_request
from wbcbench.testing.components import component_class
from wbcbench.training.build import Imputer
from wbcbench.training.report import unusual_images

REGISTRY, _ = load_plugins()
NAN = np.nan
MARKERS = np.array([[1, 200], [3, NAN], [NAN, NAN], [5, 400], [7, 900], [100, 100]], np.float32)


def table(folder: Path, rows: list[list[Any]] | None = None) -> Path:
    """A manifest of `MARKERS`, without images."""
    path = folder / "cells.csv"
    given = rows or [
        ["" if np.isnan(v) else v for v in row] for row in MARKERS.tolist() if not np.isnan(row).all()
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["cd3", "cd19", "label"], *([*row, "ab"[i % 2]] for i, row in enumerate(given))]
        )
    return path


def opened(name: str, path: Path, **params: Any) -> Dataset:
    cls: Any = component_class("dataset", name)
    dataset: Dataset = cls(cls.Params(path=str(path), **params))
    return dataset


def arrays(folder: Path, markers: np.ndarray = MARKERS, **more: Any) -> Path:
    """An .npz of `markers` and black images."""
    path = folder / "cells.npz"
    np.savez(
        path, image=np.zeros((len(markers), 8, 8), np.uint8), label=np.arange(len(markers)) % 2, markers=markers
    )
    return path


NAMED = {"modalities": {"image": [0], "markers": "markers"}}


def test_numbers_of_arrays_and_columns_are_read_as_they_are(tmp_path: Path) -> None:
    dataset = opened("npz", arrays(tmp_path), **NAMED)
    cells, said = dataset.load(), dataset.describe()
    assert np.array_equal(cells.images["markers"], MARKERS, equal_nan=True)
    assert cells.present is not None
    assert cells.present.tolist() == [[True, row != 2] for row in range(6)]
    assert said.modalities == cells.modalities == {"image": 1, "markers": 2}
    assert said.features == cells.features == {"markers": ("markers_1", "markers_2")}
    assert (said.incomplete, said.image_size, said.vectors) == (("markers",), 8, {"markers"})

    dataset = opened("folder", table(tmp_path), modalities={"markers": ["cd3", "cd19"]})
    cells, said = dataset.load(), dataset.describe()
    assert np.array_equal(cells.images["markers"], np.delete(MARKERS, 2, 0), equal_nan=True)
    assert said.features == cells.features == {"markers": ("cd3", "cd19")}
    assert (said.incomplete, said.image_size) == ((), None)
    assert said.fingerprint == cells.fingerprint


def test_the_fingerprint_is_of_every_number_and_of_its_name(tmp_path: Path) -> None:
    def fingerprint(header: str, rows: list[list[Any]], **params: Any) -> str:
        path = table(tmp_path, rows)
        path.write_text(path.read_text().replace("cd3", header))
        return opened("folder", path, modalities={"markers": [header, "cd19"]}, **params).describe().fingerprint

    rows = [[1, 2], [3, 4], [5, ""], [7, 8]]
    found = [
        fingerprint("cd3", rows),
        fingerprint("cd4", rows),
        fingerprint("cd3", [*rows[:3], [7, 8.5]]),
        fingerprint("cd3", [*rows[:2], [5, 0], rows[3]]),
        fingerprint("cd3", rows, indicators=True),
    ]
    assert len(set(found)) == len(found)
    assert found[0] == fingerprint("cd3", rows)


def test_indicators_are_further_numbers(tmp_path: Path) -> None:
    flags = [[0, 0], [0, 1], [NAN, NAN], [0, 0], [0, 0], [0, 0]]
    cells = opened("npz", arrays(tmp_path), indicators=True, **NAMED).load()
    assert np.array_equal(cells.images["markers"], np.hstack([MARKERS, flags]), equal_nan=True)
    assert cells.features["markers"][2:] == ("markers_1 missing", "markers_2 missing")
    assert np.array_equal(indicated(MARKERS), cells.images["markers"], equal_nan=True)


@pytest.mark.parametrize(
    ("rows", "columns", "says"),
    [
        ([[1, 2], ["high", 3], [4, 5]], ["cd3", "cd19"], r"line 3: has 'high' in column 'cd3', .*not a number"),
        ([[1, 2], [1, 3], [4, "1e99"]], ["cd3", "cd19"], r"line 4: has '1e99' in column 'cd19'"),
        ([[1, 2], ["", "NA"], [4, 5]], ["cd3", "cd19"], r"line 3: has no image or number of any modality"),
        ([[1, 2], [1, 3], [4, 5]], ["cd3", "cd20"], r"Expected column 'cd20' .*Did you mean 'cd3' or 'cd19'"),
        ([[1, 2], [1, 3], [4, 5]], ["cd3", "cd3"], r"distinct columns"),
    ],
)
def test_columns_that_are_not_numbers_are_refused(
    tmp_path: Path, rows: list[list[Any]], columns: list[str], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        opened("folder", table(tmp_path, rows), modalities={"markers": columns}).describe()


@pytest.mark.parametrize(
    ("array", "features", "says"),
    [
        (MARKERS.astype(np.float64), (), "as float32"),
        (MARKERS[:4], (), r"\[N=6, F\]"),
        (np.where(np.isnan(MARKERS), np.inf, MARKERS), (), "cell 1 has an infinite markers_2"),
        (MARKERS, ("cd3",), "names of 2 numbers of markers, but got 1"),
    ],
)
def test_vectors_of_plugins_are_checked(array: np.ndarray, features: tuple[str, ...], says: str) -> None:
    named = {"markers": features} if features else {}
    with pytest.raises(DataError, match=says):
        Cells({"markers": array}, np.arange(6) % 2, ("a", "b"), "", features=named).check()


def resident(train: tuple[int, ...] = (0, 1, 2, 3)) -> ResidentCells:
    images = np.zeros((6, 1, 8, 8), np.uint8)
    cells = Cells({"image": images, "markers": MARKERS}, np.arange(6) % 2, ("a", "b"), "").check()
    return ResidentCells(cells, ("image", "markers"), np.array(train), torch.device("cpu"))


def test_numbers_are_standardised_and_imputed_by_training_cells() -> None:
    cells = resident()
    m = cells.modalities["markers"]
    assert m.median is not None
    assert m.mean.tolist() == m.median.tolist() == [3, 300]  # of 1, 3, 5 and of 200, 400
    torch.testing.assert_close(m.std, torch.tensor([(8 / 3) ** 0.5, 100.0]))
    found = cells.images(torch.arange(6), "markers")
    expected = (np.where(np.isnan(MARKERS), [3, 300], MARKERS) - [3, 300]) / [(8 / 3) ** 0.5, 100]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))  # cell 2 has none: the mean, 0
    assert cells.task(("image", "markers")) == Task(
        {"image": 1, "markers": 2}, ("a", "b"), 8, frozenset({"markers"})
    )


def test_large_numbers_that_vary_little_keep_their_digits() -> None:
    values = (1e6 + np.arange(6)[:, None]).astype(np.float32)
    cells = Cells({"m": values}, np.arange(6) % 2, ("a", "b"), "").check()
    found = ResidentCells(cells, ("m",), np.arange(6), torch.device("cpu")).images(torch.arange(6), "m")
    expected = (torch.arange(6.0) - 2.5) / torch.arange(6.0).std(correction=0)
    torch.testing.assert_close(found[:, 0], expected)


def test_views_of_numbers_have_noise_only_where_asked_for() -> None:
    cells, ids = resident(), torch.tensor([0, 1, 2, 3])
    plain = cells.images(ids, "markers")
    strong = Augmentation(intensity=0.5, noise=0.5, cutout=0.3)
    assert torch.equal(Views(cells, strong, 0).epoch(0)("markers", ids), plain)
    noisy = Augmentation(vector_noise={"markers": 0.25})
    views = Views(cells, noisy, 0)
    first = views.epoch(0)("markers", ids)
    assert torch.equal(first[[2]], torch.zeros(1, 2)), "an absent vector stays the mean"
    moved = (first - plain)[[0, 1, 3]]
    assert 0 < float(moved.abs().min()) <= float(moved.abs().max()) < 1.5
    assert torch.equal(Views(cells, noisy, 0).epoch(0)("markers", ids.flip(0)), first.flip(0))
    assert not torch.equal(views.epoch(1)("markers", ids), first)
    assert digest(Augmentation(vector_noise=0)) == digest(Augmentation())
    assert digest(noisy) != digest(Augmentation())


def test_corruptions_of_numbers() -> None:
    corruptions = {c.name: c for c in standard() if c.fits(vector=True)}
    assert list(corruptions) == ["noise", "drop", "miscalibration"]
    imputed = torch.zeros(2)
    x, ids = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)), torch.arange(400)
    for name, corrupt in corruptions.items():
        for strength in (0.2, 1.0):
            changed = corrupt(x, ids, strength, 0, imputed)
            assert torch.equal(changed[100:], corrupt(x[100:], ids[100:], strength, 0, imputed)), name
            if name == "drop":
                share = float((changed != x).float().mean())
                assert share == pytest.approx(strength, abs=0.05)
                assert float(changed[changed != x].abs().max()) == 0
            else:
                assert 0 < float((changed - x).abs().mean()) < 2 * strength


def test_fills_of_absent_vectors() -> None:
    cells = resident()
    imputer = Imputer(cells.task(("image", "markers")), "zero")
    imputer.measure(cells)
    x = {"image": torch.ones(2, 1, 8, 8), "markers": torch.ones(2, 2)}
    found = imputer(x, torch.tensor([[True, True], [False, False]]))
    raw_zero = -cells.modalities["markers"].mean / cells.modalities["markers"].std
    torch.testing.assert_close(found["markers"], torch.stack([torch.ones(2), raw_zero]))


def test_unusual_numbers_are_named() -> None:
    s = InputStatistics(bits=32, mean=(0, 0), std=(1, 1), brightness=((0, 1), (0, 10)), contrast=(),
                        median=(0, 0), features=("cd3", "cd19"))  # fmt: skip
    values = np.array([[0.5, 5], [2.5, NAN], [-3, 30]], np.float32)
    found = unusual_images({"m": values}, np.ones((3, 1), np.bool_), {"m": s})
    assert found == [[], ["m cd3 high"], ["m cd3 low", "m cd19 high"]]


def planned(*settings: str, **flags: Any) -> Plan:
    cells = ("dataset.cells=60", "dataset.image_size=16", "dataset.markers=4")
    request = load_request(None, {"modalities": "brightfield,markers", **flags}, (*cells, *settings))
    return make_plan(request, REGISTRY)


def backbones(plan: Plan) -> list[Any]:
    def named(one: Any) -> Any:
        return one.name if isinstance(one, ComponentSpec) else {m: b.name for m, b in one.items()}

    return [named(p.trial.method.backbone) for p in plan.trials]


def test_a_backbone_for_each_kind_is_chosen_and_stated() -> None:
    plan = planned(backbone="cellnet", fusion="concat")
    assert backbones(plan) == [{"brightfield": "cellnet", "markers": "mlp"}]
    assert any("--backbone brightfield=cellnet,markers=mlp" in note for note in plan.notes)
    written = planned(backbone="brightfield=cellnet,markers=mlp", fusion="concat")
    assert [p.trial.id for p in written.trials] == [p.trial.id for p in plan.trials]
    assert not any("markers=mlp" in note for note in written.notes)
    assert backbones(planned(fusion="single")) == ["cellnet", "mlp"]
    assert backbones(planned(fusion="single", modalities="markers", backbone="ft_transformer")) == [
        "ft_transformer"
    ]
    (trial,) = planned("backbone.hidden=32", "backbone.width=8", fusion="concat").trials
    specs = trial.trial.method.backbones
    assert (specs["markers"].params["hidden"], specs["brightfield"].params["width"]) == (32, 8)


def test_the_default_fusion_takes_numbers() -> None:
    plan = planned()
    assert [p.trial.method.fusion.name for p in plan.trials] == ["late_prob"]
    assert ("fusion", "late_prob") in [(c.key, c.value) for c in plan.chosen]
    images = planned(modalities="brightfield,nucleus", teacher_modalities="markers", kd="logits")
    assert images.trials[-1].trial.method.fusion.name == "independent"
    assert backbones(images)[0] == "mlp"
    assert any("--teacher markers=mlp" in note for note in images.notes)


@pytest.mark.parametrize(
    ("settings", "flags", "says"),
    [
        ((), {"fusion": "independent"}, r"'independent' joins pixels or maps.*concat.*--modalities"),
        ((), {"fusion": "mmtm"}, r"'mmtm' joins pixels or maps.*late_prob"),
        (
            (),
            {"fusion": "concat", "backbone": "mlp"},
            r"'mlp' reads numbers, but 'brightfield' is images.*markers=mlp",
        ),
        ((), {"fusion": "concat", "backbone": "brightfield=cellnet,markers=cellnet"}, r"'markers' is numbers"),
        ((), {"fusion": "concat", "policy": "cutmix"}, r"'cutmix' changes images"),
        ((), {"fusion": "single", "modalities": "brightfield", "backbone": "mlp"}, r"'brightfield' is images"),
        (("teacher.fusion=early",), {"fusion": "concat", "kd": "logits"}, r"'early' joins pixels"),
        (("augmentation.vector_noise=0.1",), {"modalities": "brightfield"}, r"no modality is numbers"),
        (("augmentation.noise={markers: 0.1}",), {}, r"noise.*markers"),
    ],
)
def test_what_cannot_be_is_refused_while_planning(settings: tuple[str, ...], flags: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        planned(*settings, **flags)


def test_ft_transformer_equals_the_layers_of_torch() -> None:
    cls: Any = component_class("backbone", "ft_transformer")
    torch.manual_seed(0)
    net = cls(3, 0, cls.Params(dim=8, heads=2, blocks=1)).eval()
    block, x = net.blocks[0], torch.randn(5, 3)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    attention.load_state_dict(
        {"in_proj_weight": block.query_key_value.weight, "in_proj_bias": block.query_key_value.bias,
         "out_proj.weight": block.out.weight, "out_proj.bias": block.out.bias}
    )  # fmt: skip
    tokens = torch.stack(
        [net.cls[0].expand(5, -1), *(net.bias[j] + x[:, j, None] * net.weight[j] for j in range(3))], 1
    )
    tokens = tokens + attention(tokens, tokens, tokens)[0]  # no norm before the first attention
    hidden = torch.nn.functional.linear(block.norm(tokens), block.into.weight, block.into.bias)
    tokens = tokens + block.back(hidden[..., :10] * hidden[..., 10:].relu())
    torch.testing.assert_close(net(x).embedding, net.norm(tokens[:, 0]).relu())


def test_a_teacher_on_numbers_and_a_network_that_is_taken_away(tmp_path: Path) -> None:
    """Student on images, teacher on markers; then a student on both: exported, loaded, and used on new rows."""
    common: dict[str, Any] = {
        "dataset": "synthetic:cells=60:image_size=16:markers=3", "backbone": "cellnet:width=4", "epochs": 1,
        "store": tmp_path / "store", "device": "cpu", "executor": "inline",
    }  # fmt: skip
    taught = wbcbench.run(
        modalities="brightfield", teacher_modalities="markers", fusion="single", kd="logits", **common
    )
    store = Store(tmp_path / "store")
    (student,) = (r for r in taught.records if r.trial.method.distillers)
    (teacher,) = student.trial.method.teachers
    assert (teacher.reads, teacher.method.backbone_name) == (("markers",), "mlp")
    assert (student.trial.reads, student.result.backbone) == (("brightfield",), "cellnet")

    (record,) = wbcbench.run(modalities="brightfield,markers", fusion="late_prob", **common).records
    statistics = record.result.inputs["markers"]
    assert (statistics.bits, statistics.features) == (32, ("markers_1", "markers_2", "markers_3"))
    out = tmp_path / "out"
    wbcbench.export(record.trial.id, out, format="safetensors", store=tmp_path / "store")
    network, found = load_network(out), rebuilt(record, store, REGISTRY)
    images = {m: torch.from_numpy(x) for m, x in made_up(found, 5).items()}
    assert images["markers"].isnan().any()
    filled = {**images, "markers": torch.where(images["markers"].isnan(), torch.tensor(statistics.median),
                                              images["markers"])}  # fmt: skip
    answers = [n(x)["probabilities"] for n, x in ((network, images), (found.network, images), (network, filled))]
    for other in answers[1:]:
        torch.testing.assert_close(answers[0], other)

    # a table of the same numbers, whose cells have no image; and arrays, whose cells have both
    with (tmp_path / "new.csv").open("w", newline="") as file:
        rows = [["" if np.isnan(v) else v for v in row] for row in images["markers"].tolist()]
        csv.writer(file).writerows([statistics.features, *rows, ["", 1, "many"]])
    np.savez(tmp_path / "new.npz", **{m: x.numpy() for m, x in images.items()})
    told = wbcbench.predict(
        record.trial.id, [tmp_path / "new.csv", tmp_path / "new.npz"], store=tmp_path / "store"
    )
    frame = told.cells
    assert frame["error"].tolist()[5] == "has 'many' in column 'markers_3', which is not a number"
    assert frame["missing"].tolist()[:5] == ["brightfield"] * 5
    columns = [c for c in frame if c.startswith("probability:")]
    np.testing.assert_allclose(frame[columns].to_numpy()[6:], answers[0].numpy(), atol=1e-5)
    alone = network(images, torch.tensor([[False, True]]).expand(5, -1))["probabilities"]
    np.testing.assert_allclose(frame[columns].to_numpy()[:5], alone.numpy(), atol=1e-5)
