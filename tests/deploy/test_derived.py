"""Networks whose data set computes, stacks or frames their images: new cells are given as they come."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wbcbench.data.decode import WINDOWS, convert
from wbcbench.records.store import Store

Invoke = Callable[..., tuple[int, str, str]]
CELLS = 60


def made_module() -> Any:
    """Small files in the layouts of public sets."""
    spec = importlib.util.spec_from_file_location(
        "made_sets", Path(__file__).parents[1] / "plugins" / "datasets" / "made.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("made_sets", module)
    spec.loader.exec_module(module)
    return module


def smears(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """RGB [N, 16, 16, 3] whose colour tells the class a bit, and labels [N]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(CELLS) % 3
    base = np.array([[200, 120, 190], [150, 90, 170], [220, 150, 150]])[labels]
    return (base[:, None, None] + rng.normal(0, 20, (CELLS, 16, 16, 3))).clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def stained(training_on: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """(npz of RGB, store, record) of a network on haematoxylin, eosin and residual."""
    folder = tmp_path_factory.mktemp("stained")
    images, labels = smears()
    np.savez(folder / "rgb.npz", image=images, label=labels, classes=np.array(["x", "y", "z"]))
    store, record = training_on(
        folder, "--dataset", "stains", "--fusion", "independent", "--set",
        f"dataset.base_params.path={folder / 'rgb.npz'}",
    )  # fmt: skip
    return folder / "rgb.npz", store, record


@pytest.fixture
def predict(invoke: Invoke, tmp_path: Path) -> Callable[..., tuple[pd.DataFrame, dict[str, Any]]]:
    def call(store: Path, record: str, *args: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        out = tmp_path / "out.parquet"
        code, said, err = invoke("predict", record, "--store", str(store), *args, "-o", str(out), "--json")
        assert code == 0, err
        return pd.read_parquet(out), json.loads(said)

    return call


def rgb_folder(root: Path) -> Path:
    """The cells as lossless files in folders of their classes."""
    for i, (image, label) in enumerate(zip(*smears(), strict=True)):
        path = root / "xyz"[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def as_npz(root: Path, npz: Path) -> Path:
    return npz


def as_folder(root: Path, npz: Path) -> Path:
    return rgb_folder(root / "cells")


def as_zip(root: Path, npz: Path) -> Path:
    folder = rgb_folder(root / "cells")
    with zipfile.ZipFile(root / "cells.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, str(file.relative_to(folder)))
    return root / "cells.zip"


def as_table(root: Path, npz: Path) -> Path:
    files = sorted(rgb_folder(root / "cells").rglob("*.png"))
    with open(root / "list.csv", "w", newline="") as file:
        rows = [[str(f.relative_to(root)), f.parent.name, "fair"] for f in files]
        csv.writer(file).writerows([["file", "label", "weather"], *rows])
    return root / "list.csv"


def as_stains(root: Path, npz: Path) -> Path:
    """Computed beforehand: an array a modality, as the exported network wants them."""
    images, labels = smears()
    made = convert(images.transpose(0, 3, 1, 2), "hed")
    np.savez(root / "hed.npz", **made, label=labels, classes=np.array(["x", "y", "z"]))
    return root / "hed.npz"


@pytest.mark.parametrize("give", [as_npz, as_folder, as_zip, as_table, as_stains])
def test_colour_images_feed_a_network_on_stains(
    give: Callable[[Path, Path], Path], stained: tuple[Path, Path, str], predict: Any, tmp_path: Path
) -> None:
    npz, store, record = stained
    frame, document = predict(store, record, str(give(tmp_path, npz)), "--batch", "7")
    found = Store(store).load(record)
    cells = found.predictions["test_cells"]
    rows = frame["cell"].str.extract(r"(\d+)(?:\.png)?$")[0].astype(int).to_numpy()
    table = frame.set_index(rows)[[f"probability:{c}" for c in "xyz"]]
    np.testing.assert_allclose(table.loc[cells], found.predictions["test_probabilities"], atol=1e-6)
    assert document["labelled"] == document["cells"] == CELLS
    assert document["metrics"]["accuracy"] == pytest.approx((frame["label"] == frame["predicted"]).mean())
    assert not document["missing"]


def test_a_colour_image_that_is_missing_or_broken(
    stained: tuple[Path, Path, str], predict: Any, tmp_path: Path
) -> None:
    folder = rgb_folder(tmp_path / "cells")
    (folder / "x" / "0.png").write_bytes((folder / "x" / "0.png").read_bytes()[:90])
    frame, document = predict(*stained[1:], str(folder))
    assert document["errors"]["cells"] == 1
    assert "x/0.png cannot be decoded" in frame.set_index("cell").loc["x/0", "error"]
    assert any("computed from image" in note for note in document["notes"])


def test_what_is_no_colour_image_is_told_apart(
    stained: tuple[Path, Path, str], invoke: Invoke, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", grey=np.zeros((2, 16, 16), np.uint8))
    args = ("predict", stained[2], "--store", str(stained[1]), str(tmp_path / "x.npz"))
    code, _, err = invoke(*args, "-o", str(tmp_path / "o.csv"))
    assert code == 2
    assert "haematoxylin, eosin, residual (or image, which they are derived from)" in err
    assert "it has arrays grey" in err
    (tmp_path / "labels.csv").write_text("file,label\n")
    code, _, err = invoke(*args[:-1], str(tmp_path), "-o", str(tmp_path / "o.csv"))
    assert code == 2
    assert f"(give {tmp_path / 'x.npz'} or {tmp_path / 'labels.csv'} instead)" in err


def test_the_export_says_that_it_wants_stains(
    stained: tuple[Path, Path, str], invoke: Invoke, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    code, _, err = invoke(
        "export", stained[2], "--store", str(stained[1]), "--format", "safetensors", "-o", str(taken)
    )
    assert code == 0, err
    said = json.loads((taken / "inputs.json").read_text())
    assert said["derived_from"] == {m: {"image": 3} for m in WINDOWS["hed"]}
    for words in (said["resize"], (taken / "model_card.md").read_text().replace("\\", "")):
        assert "reads haematoxylin, eosin, residual, not the colour image" in words
        assert "skimage.color.rgb2hed of RGB / 255" in words
        assert "haematoxylin 0 to 0.2, eosin 0 to 0.2, residual 0 to 0.1" in words
    made = convert(smears()[0].transpose(0, 3, 1, 2), "hed")["eosin"]
    assert np.array_equal(made, by_recipe(smears()[0])), "the recipe is what `convert` does"


def by_recipe(images: np.ndarray) -> np.ndarray:
    """Eosin as `inputs.json` tells people to compute it."""
    from skimage.color import rgb2hed

    eosin = rgb2hed(images / 255)[..., 1]
    return np.rint(eosin.clip(0, 0.2) / 0.2 * 255).astype(np.uint8)[:, None]


def flow_set(made: Any, folder: Path) -> Path:
    """Cells of a flow cytometer, enough of them to be divided: 8 runs of 8."""
    for k in range(8):
        made.flow(folder / f"run{k}")
    return folder


@pytest.mark.parametrize("window", ["open", "said"])
def test_exported_flow_cells_are_framed_as_in_training(
    window: str, training_on: Any, predict: Any, invoke: Invoke, tmp_path: Path
) -> None:
    made = made_module()
    cells = flow_set(made, tmp_path / "cells")
    chosen = ["--set", "dataset.window=15"] if window == "said" else []
    store, record = training_on(
        tmp_path, "--dataset", "imaging_flow", "--set", f"dataset.path={cells}", "--image-size", "16",
        "--set", "dataset.channels.brightfield=3", "--set", "dataset.channels.pi=4", "--set",
        "dataset.channels.darkfield=6", "--set", "dataset.levels=group/class", "--fusion", "independent",
        "--set", "split.allow_leaks=true", *chosen,
    )  # fmt: skip
    found = Store(store).load(record)
    assert found.result.resolved == ({"window": 17} if window == "open" else {})
    small = made.flow(tmp_path / "new")
    for file in small.rglob("104_*"):
        file.unlink()  # the largest cell: its box must not decide the window of the others
    frame, document = predict(store, record, str(small))
    assert list(frame["cell"].str.split("/").str[-1].sort_values()) == [
        "100",
        "101",
        "102",
        "103",
        "97",
        "98",
        "99",
    ]
    assert frame.set_index("cell").loc["S/100", "missing"] == "darkfield"
    assert document["labelled"] == 7
    ids = [load_cells(cells, window).ids[i] for i in found.predictions["test_cells"]]  # type: ignore[index]
    table = frame.set_index("cell")[["probability:G1", "probability:S"]]
    seen = [(i, n.split("/", 1)[1]) for i, n in enumerate(ids) if n.split("/", 1)[1] in table.index]
    assert seen
    for row, name in seen:
        np.testing.assert_allclose(table.loc[name], found.predictions["test_probabilities"][row], atol=1e-6)
    taken = tmp_path / "taken"
    code, _, err = invoke("export", record, "--store", str(store), "--format", "safetensors", "-o", str(taken))
    assert code == 0, err
    side = 17 if window == "open" else 15
    assert f"window of {side} x {side} pixels" in json.loads((taken / "inputs.json").read_text())["resize"]
    assert "middle square" not in (taken / "model_card.md").read_text()


def load_cells(path: Path, window: str) -> Any:
    from wbcbench_plugins.datasets.imaging_flow import ImagingFlow

    side = 15 if window == "said" else 0
    return ImagingFlow(ImagingFlow.Params(path=str(path), levels="group/class", window=side)).load(16)


def test_an_old_record_of_flow_cells_asks_for_the_training_cells(
    training_on: Any, predict: Any, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wbcbench.deploy import network

    cells = flow_set(made_module(), tmp_path / "cells")
    store, record = training_on(
        tmp_path, "--dataset", "imaging_flow", "--set", f"dataset.path={cells}", "--image-size", "16",
        "--set", "dataset.levels=group/class", "--fusion", "independent", "--set", "split.allow_leaks=true",
    )  # fmt: skip
    whole, _ = predict(store, record, str(cells))
    real = network.rebuilt

    def older(record: Any, *args: Any) -> Any:
        result = record.result.model_copy(update={"resolved": {}})
        return real(type(record)(**{**vars(record), "result": result}), *args)

    monkeypatch.setattr(network, "rebuilt", older)
    out = ("-o", str(tmp_path / "o.parquet"))
    code, _, err = invoke("predict", record, "--store", str(store), str(cells), *out)
    assert code == 2
    assert "--set dataset.path=" in err
    frame, _ = predict(store, record, str(cells), "--set", f"dataset.path={cells}")
    pd.testing.assert_frame_equal(frame, whole)
    taken = tmp_path / "taken"
    code, _, err = invoke("export", record, "--store", str(store), "--format", "safetensors", "-o", str(taken))
    assert code == 0, err
    assert "not known here" in json.loads((taken / "inputs.json").read_text())["resize"]


def test_bsccm_is_read_unpacked_and_plane_by_plane(training_on: Any, predict: Any, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    from wbcbench_plugins.datasets.bsccm import Bsccm

    folder = many_bsccm(tmp_path / "bsccm")
    store, record = training_on(
        tmp_path, "--dataset", "bsccm", "--set", f"dataset.path={folder}", "--set", "dataset.group=none",
        "--modalities", "brightfield,darkfield", "--fusion", "independent",
    )  # fmt: skip
    cells = Bsccm(Bsccm.Params(path=str(folder))).load()
    want = Store(store).load(record).predictions
    columns = [f"probability:{c}" for c in cells.classes]
    frame, document = predict(store, record, str(folder))
    assert document["labelled"] == len(cells)
    np.testing.assert_allclose(
        frame[columns].to_numpy()[want["test_cells"]], want["test_probabilities"], atol=1e-6
    )
    planes = {"Brightfield": ("brightfield", 0), "DF_50": ("darkfield", 0), "DF_70": ("darkfield", 1),
              "DF_90": ("darkfield", 2)}  # fmt: skip
    for name, (m, k) in planes.items():
        (tmp_path / "planes" / name).mkdir(parents=True)
        for i in range(len(cells)):
            Image.fromarray(np.asarray(cells.images[m][i, k])).save(tmp_path / "planes" / name / f"{i:03d}.png")
    by_plane, _ = predict(store, record, str(tmp_path / "planes"))
    np.testing.assert_allclose(by_plane[columns], frame[columns], atol=1e-6)
    np.savez(tmp_path / "stacks.npz", **{m: cells.images[m] for m in ("brightfield", "darkfield")})
    by_stack, _ = predict(store, record, str(tmp_path / "stacks.npz"))
    np.testing.assert_allclose(by_stack[columns], frame[columns], atol=1e-6)
    (tmp_path / "planes" / "DF_70" / "003.png").unlink()
    lacking, _ = predict(store, record, str(tmp_path / "planes"))
    assert lacking.set_index("cell").loc["003", "missing"] == "darkfield"


def many_bsccm(folder: Path) -> Path:
    """The made set with every cell five times over, shifted a little, so that it can be divided."""
    made = made_module()
    made.GATE_OF_CELL = tuple(g for g in made.GATE_OF_CELL for _ in range(5))
    return made.bsccm(folder)  # type: ignore[no-any-return]


def test_labels_of_medmnist_are_numbers_of_its_classes(training_on: Any, predict: Any, tmp_path: Path) -> None:
    path = made_module().medmnist(tmp_path / "bloodmnist.npz", labels=tuple(range(8)))
    store, record = training_on(
        tmp_path, "--dataset", "medmnist", "--set", f"dataset.path={path}", "--set", "dataset.check_digest=false",
        "--fusion", "single",
    )  # fmt: skip
    frame, document = predict(store, record, str(path))
    assert document["labelled"] == len(frame) == 24
    assert set(frame["label"]) == set(Store(store).load(record).result.key.classes)


def test_a_data_set_of_ones_own_says_how_cells_are_prepared(tmp_path: Path, invoke: Invoke) -> None:
    """The contract's two hooks in a plugin file, used by `predict` through the registry."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "negatives.py").write_text(PLUGIN)
    store = tmp_path / "store"
    common = ("--store", str(store), "--plugins-dir", str(plugins), "--json")
    code, out, err = invoke(
        "run", "--dataset", "negatives", "--fusion", "single", "--kd", "none", "--backbone", "cellnet:width=4",
        "--device", "cpu", "--epochs", "1", *common,
    )  # fmt: skip
    assert code == 0, err
    (record,) = json.loads(out)["records"]
    (tmp_path / "cells.list").write_text("0 1 2")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "raw.npz", photo=255 - rng.integers(0, 255, (3, 16, 16), dtype=np.uint8))
    answers = {}
    for name in ("cells.list", "raw.npz"):
        code, out, err = invoke("predict", record["trial_id"], str(tmp_path / name), "-o",
                                str(tmp_path / "o.parquet"), *common)  # fmt: skip
        assert code == 0, err
        answers[name] = pd.read_parquet(tmp_path / "o.parquet")["confidence"]
    np.testing.assert_allclose(answers["cells.list"], answers["raw.npz"], atol=1e-6)
    np.savez(tmp_path / "ready.npz", negative=255 - np.load(tmp_path / "raw.npz")["photo"])
    code, _, err = invoke("predict", record["trial_id"], str(tmp_path / "ready.npz"), "--store", str(store), "-o",
                          str(tmp_path / "o.parquet"))  # fmt: skip
    assert code == 0, err
    assert "training data set is not installed here" in err
    np.testing.assert_allclose(
        pd.read_parquet(tmp_path / "o.parquet")["confidence"], answers["raw.npz"], atol=1e-6
    )


PLUGIN = '''
"""Negatives: photographs, inverted."""

import numpy as np

from wbcbench.contracts import Cells, Dataset, Description, Parameters, Preparation, param


class Negatives(Dataset):
    """Made-up photographs of which the network sees the negative."""

    name = "negatives"
    locations = ("path",)

    class Params(Parameters):
        path: str = param("", "A .list file.")

    def describe(self):
        return Description({"negative": 1}, ("a", "b"), 60, "f" * 64, 16)

    def load(self, image_size=None, progress=None):
        n = 3 if self.params.path else 60
        images = np.random.default_rng(0).integers(0, 255, (n, 1, 16, 16), dtype=np.uint8)
        return Cells({"negative": images}, np.arange(n) % 2, ("a", "b"), "f" * 64).check()

    def preparation(self, modalities):
        return Preparation(
            {"photo": 1}, derive=lambda raw: {"negative": 255 - raw["photo"]}, made_of={"negative": ("photo",)}
        )

    def reads(self, path):
        return path.suffix == ".list"
'''


def test_the_cells_of_pbc_that_a_part_left_over(
    stained: tuple[Path, Path, str], invoke: Invoke, tmp_path: Path
) -> None:
    """Both commands of configs/studies/whole_pbc.py, word for word, on a set made in the layout of PBC's."""
    images, labels = smears(1)
    rows = ["file,label,split,duplicate"]
    (tmp_path / "pbc").mkdir()
    with zipfile.ZipFile(tmp_path / "pbc" / "images.zip", "w") as archive:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            archive.writestr(f"{i}.png", buffer.getvalue())
            rows.append(f"{i}.png,{'xyz'[label]},train,{'drop' if i == 7 else ''}")
        rows.append("none.png,another class,train,")
    (tmp_path / "pbc" / "labels.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "part.csv").write_text("file,label\n" + "\n".join(f"{i}.png,{'xyz'[i % 3]}" for i in range(12)))
    script = Path(__file__).parents[2] / "configs" / "studies" / "whole_pbc.py"
    said = script.read_text().split('"""')[1]
    first, second = (line.strip() for line in said.splitlines() if line.startswith("    "))
    npz, store, record = stained
    words = {
        "data/pbc": str(tmp_path / "pbc"), "data/pbc_mini/labels.csv": str(tmp_path / "part.csv"),
        "configs/studies/whole_pbc.py": str(script), "RECORD": record,
    }  # fmt: skip
    run = [words.get(word, word) for word in shlex.split(first)]
    done = subprocess.run([sys.executable, *run[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("48 cells of x, y, z")
    args = [words.get(word, word) for word in shlex.split(second)[1:]]
    args = [str(tmp_path / a) if a.endswith((".npz", ".csv")) and "=" not in a else a for a in args]
    args[-1] = args[-1].split("=")[0] + f"={npz}"
    code, out, err = invoke(*args, "--store", str(store))
    assert code == 0, err
    assert "over 48 labelled cells" in out
    assert "macro_f1" in out
    frame = pd.read_csv(tmp_path / "answers.csv")
    assert f"{(frame['label'] == frame['predicted']).mean():.4f}" in out
