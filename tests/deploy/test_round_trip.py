"""README's sequence, whatever one starts from: each verb is given what the last one wrote."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wbcbench.records.store import Store

Invoke = Callable[..., tuple[int, str, str]]
CELLS = 48


def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(CELLS) % 2
    return (rng.integers(0, 60, (CELLS, 16, 16, 3)) + 90 * labels[:, None, None, None]).astype(np.uint8), labels


def tree(root: Path) -> Path:
    for i, (image, label) in enumerate(zip(*images(), strict=True)):
        path = root / "tree" / "ab"[label] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root / "tree"


def table(root: Path) -> Path:
    """Two modalities, donors, headings of other people."""
    rows = ["bf path,fluo path,cell type,patient"]
    for i, path in enumerate(sorted(tree(root).rglob("*.png"))):
        fluo = root / "fluo" / path.name
        fluo.parent.mkdir(exist_ok=True)
        Image.open(path).convert("L").save(fluo)
        rows.append(f"{path.relative_to(root)},fluo/{path.name},{path.parent.name},p{i % 12}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    return root / "list.csv"


def arrays(root: Path) -> Path:
    image, label = images()
    image[1::16] = image[1]  # copies, so that not the file itself will do
    np.savez(root / "cells.npz", pixels=image, image=image, label=label)
    return root / "cells.npz"


def whole_arrays(root: Path) -> Path:
    image, label = images()
    np.savez(root / "cells.npz", x=image, celltype=np.array(["a", "b"])[label])
    return root / "cells.npz"


def medmnist(root: Path) -> Path:
    image, label = images()
    parts = {"train": slice(0, 30), "val": slice(30, 40), "test": slice(40, None)}
    np.savez(root / "bloodmnist.npz", **{f"{s}_images": image[at] for s, at in parts.items()},
             **{f"{s}_labels": label[at, None] for s, at in parts.items()})  # fmt: skip
    return root / "bloodmnist.npz"


def zipped(root: Path) -> Path:
    folder = tree(root)
    with zipfile.ZipFile(root / "cells.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, str(path.relative_to(folder)))
    return root / "cells.zip"


ARRAYS_SAY = ("--modality", "rgb=image")
SOURCES = [(tree, ()), (table, ()), (arrays, ARRAYS_SAY), (whole_arrays, ()), (medmnist, ()), (zipped, ())]


@pytest.mark.parametrize("copy", [(), ("--copy",)], ids=["there", "copied"])
@pytest.mark.parametrize(("make", "say"), SOURCES, ids=[make.__name__ for make, _ in SOURCES])
def test_what_import_writes_is_read_by_all(
    make: Callable[[Path], Path], say: tuple[str, ...], copy: tuple[str, ...], training_on: Any, invoke: Invoke,
    tmp_path: Path,
) -> None:  # fmt: skip
    source, cells = make(tmp_path), tmp_path / "cells"
    code, out, err = invoke("data", "import", str(source), "-o", str(cells), *say, *copy, "--json")
    assert code == 0, err
    kept = json.loads(out)["cells"]
    looked = {}
    for path in (cells, cells / "dataset.yaml"):
        for verb in ("audit", "inspect"):
            code, out, err = invoke("data", verb, str(path), "--json")
            assert code == 0, err
            looked[verb] = json.loads(out)
            assert looked[verb]["cells"] == kept
    assert looked["inspect"]["commands"] == [f"wbcbench run --config {cells / 'dataset.yaml'}"]
    store, record = training_on(tmp_path, "--config", str(cells / "dataset.yaml"), "--fusion", "best_single")
    found = Store(store).load(record)
    want = found.predictions["test_probabilities"]
    for path in (cells, cells / "dataset.yaml"):
        code, out, err = invoke("predict", record, str(path), "--store", str(store), "-o",
                                str(tmp_path / "o.parquet"), "--json")  # fmt: skip
        assert code == 0, err
        document = json.loads(out)
        assert document["cells"] == document["labelled"] == kept
        frame = pd.read_parquet(tmp_path / "o.parquet")
        got = frame[[f"probability:{c}" for c in found.result.key.classes]].to_numpy()
        np.testing.assert_allclose(got[found.predictions["test_cells"]], want, atol=1e-6)
    sizes = looked["audit"]["sizes"]
    assert sizes["test"] == len(want), "audit divides as the run did"


def test_options_win_over_what_the_config_says(invoke: Invoke, tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    assert invoke("data", "import", str(table(tmp_path)), "-o", str(cells))[0] == 0
    code, out, _ = invoke("data", "audit", str(cells), "--group", "-", "--json")
    assert code == 0
    assert json.loads(out)["groups"] is None
    assert json.loads(invoke("data", "audit", str(cells), "--json")[1])["groups"] == 12
    code, out, _ = invoke("data", "inspect", str(cells), "--modality", "f=fluo_path", "--json")
    assert [m["name"] for m in json.loads(out)["modalities"]] == ["f"]
    (tmp_path / "x.npz").write_bytes(b"")
    arrays(tmp_path)
    (tmp_path / "own.yaml").write_text(f"dataset: {{name: npz, path: {tmp_path / 'cells.npz'}}}\nepochs: 3\n")
    code, out, err = invoke("data", "inspect", str(tmp_path / "own.yaml"), "--modality", "p=pixels", "--json")
    assert code == 0, err
    assert [m["name"] for m in json.loads(out)["modalities"]] == ["p"]


def test_a_config_of_any_data_set_is_opened(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("dataset: {name: synthetic, cells: 60, image_size: 16}\nfusion: early\n")
    code, out, err = invoke("data", "inspect", str(tmp_path / "run.yaml"), "--json")
    assert code == 0, err
    assert json.loads(out)["cells"] == 60
    code, _, err = invoke("data", "inspect", str(tmp_path / "run.yaml"), "--label", "x")
    assert code == 2
    assert "read by the data set synthetic" in err
    (tmp_path / "none.yaml").write_text("fusion: early\n")
    code, _, err = invoke("data", "audit", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "Expected `dataset:`" in err


def test_predict_opens_a_config_by_its_data_set(training_on: Any, invoke: Invoke, tmp_path: Path) -> None:
    config = tmp_path / "dataset.yaml"
    config.write_text("dataset: {name: synthetic, cells: 80, image_size: 16}\n")
    store, record = training_on(tmp_path, "--config", str(config), "--fusion", "independent")
    found = Store(store).load(record)
    code, _, err = invoke(
        "predict", record, str(tmp_path), "--store", str(store), "-o", str(tmp_path / "o.parquet")
    )
    assert code == 0, err
    frame = pd.read_parquet(tmp_path / "o.parquet")
    got = frame[[f"probability:{c}" for c in found.result.key.classes]].to_numpy()
    np.testing.assert_allclose(
        got[found.predictions["test_cells"]], found.predictions["test_probabilities"], atol=1e-6
    )
