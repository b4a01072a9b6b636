"""Run, inspect, audit, import and predict read one input alike: random manifests and arrays, read in five ways."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from wbcbench_plugins.datasets.folder import Folder
from wbcbench_plugins.datasets.npz import Npz

from tests.cases.conftest import picture, table
from wbcbench.contracts import Cells, Dataset
from wbcbench.data.csv_table import ColumnChoices
from wbcbench.data.intake import audit, plan_intake, write_intake
from wbcbench.data.labels import SPLIT_WORDS, sanitise, split_sizes
from wbcbench.data.reading import survey_path
from wbcbench.data.splits import make_split, resolved
from wbcbench.deploy.cell_files import manifest_cells
from wbcbench.deploy.cells import Kind, Order, npz_cells
from wbcbench.spec import SplitSpec

SEEDS = range(6)
SPEC = SplitSpec(allow_leaks=True)


@dataclass
class Input:
    """An input, and the data set that a run reads it with."""

    path: Path
    dataset: Dataset
    asked: ColumnChoices


def opened(name: str, settings: dict[str, Any]) -> Dataset:
    return {"folder": Folder, "npz": Npz}[name](
        {"folder": Folder, "npz": Npz}[name].Params(**{k: v for k, v in settings.items() if k != "name"})
    )


def split_words(rng: np.random.Generator, n: int) -> list[str]:
    """Sides by any of their words, in any case; some cells are of none."""
    sides = ["train", "train", "val", "test"]
    words = [str(rng.choice(SPLIT_WORDS[sides[i % 4]])) for i in range(n)]
    cased = [w.upper() if rng.random() < 0.3 else w.capitalize() if rng.random() < 0.3 else w for w in words]
    return [f" {w} " if rng.random() < 0.2 else w for w in cased[:-2]] + ["", "discard"]


def manifest(folder: Path, seed: int) -> Input:
    rng = np.random.default_rng(seed)
    n, bits = 24, [int(b) for b in rng.choice([8, 16], 2)]
    names = [["Bright field", "DAPI"], ["bf", "pi (DNA)"], ["image"]][seed % 3]
    side = int(rng.integers(9, 14))
    height = side if seed % 2 else side - 2
    label, group = [("label", "group"), ("cell type", "donor")][seed // 2 % 2]
    header = [*names, label, *([group] if seed % 4 else []), *(["split"] if seed % 3 else []), "keep"]
    words, rows = split_words(rng, n), []
    for i in range(n):
        row = []
        for m, name in enumerate(names):
            path = f"{sanitise(name)}/{i}.png"
            picture(folder / path, 100 * seed + 1000 * m + i, side, bits[m], height)
            row.append("" if m and i % 7 == 3 else f".\\{path}".replace("/", "\\") if i % 5 == 0 else path)
        row += [f" {'xyz'[i % 3]} ", *([f"d{i // 2 % 11}"] if seed % 4 else [])]
        row += [*([words[i]] if seed % 3 else []), "no" if i % 9 == 4 else "yes"]
        rows.append(",".join(row))
    path = table(folder / "m.csv", ",".join(header), rows)
    settings = {"path": str(path), "label": label, "leave_out": {"keep": ["no"]}, "window": 8 * (seed % 2)}
    settings |= {"group": group} if group in header else {}
    return Input(path, opened("folder", settings), ColumnChoices(leave_out={"keep": ["no"]}))


def arrays(folder: Path, seed: int) -> Input:
    rng = np.random.default_rng(seed)
    n, side = 32, 10
    images = rng.integers(0, 250, (n, side, side, 2)).astype([np.uint8, np.uint16][seed % 2])
    more: dict[str, Any] = {"channels": np.array(["Bright field", "pi (DNA)"])} if seed % 3 else {}
    more |= {"split": np.array(split_words(rng, n))} if seed % 4 else {}
    more |= {"group": np.arange(n) // 2 % 11} if seed % 5 else {}
    labels = np.array([f" {'xyz'[i % 3]}" for i in range(n)]) if seed % 2 else np.arange(n) % 3
    np.savez(folder / "c.npz", image=images, label=labels, **more)
    settings = {"path": str(folder / "c.npz"), "window": 6 * (seed % 2)}
    return Input(folder / "c.npz", opened("npz", settings), ColumnChoices())


def table_of(cells: Cells) -> dict[str, Any]:
    """Everything that must agree, by the cells' order."""
    groups = None if cells.groups is None else [cells.group_names[g] for g in cells.groups]
    return {
        "labels": [cells.classes[c] for c in cells.labels], "groups": groups, "modalities": cells.modalities,
        "classes": cells.classes, "split": None if cells.split is None else cells.split.tolist(),
        "bits": {m: x.dtype.itemsize * 8 for m, x in cells.images.items()},
        "present": None if cells.present is None else cells.present.tolist(),
    }  # fmt: skip


@pytest.mark.parametrize("make", [manifest, arrays])
def test_five_readers_agree(tmp_path: Path, make: Any) -> None:
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        given = make(folder, seed)
        said = given.dataset.describe()
        side = said.image_size or 8
        run = given.dataset.load(side)
        expected = table_of(run)
        assert said.accounts == run.accounts, seed
        # inspect
        survey = survey_path(given.path, given.asked, opened)
        assert survey.labels == expected["labels"], seed
        assert survey.groups == expected["groups"], seed
        assert survey.classes == expected["classes"], seed
        assert (None if survey.split is None else survey.split.tolist()) == expected["split"], seed
        assert {m: (f.channels, f.bits) for m, f in survey.modalities.items()} == {
            m: (c, expected["bits"][m]) for m, c in expected["modalities"].items()
        }, seed
        assert survey.accounts == run.accounts, seed
        if not given.dataset.params.window:
            assert survey.side == said.image_size, seed
        # audit
        spec = resolved(SPEC, run.groups is not None, split_sizes(run.split))
        split, found = make_split(run, spec), audit(survey, SPEC)
        assert found.scheme == split.scheme
        for name in ("train", "val", "test"):
            np.testing.assert_array_equal(np.flatnonzero(found.side == name), getattr(split, name), str(seed))
        # import, then run
        dest = folder / "in"
        write_intake(survey, plan_intake(survey, "drop"), dest, copy=bool(seed % 2))
        settings = yaml.safe_load((dest / "dataset.yaml").read_text())["dataset"]
        settings["window"] = given.dataset.params.window
        brought = opened(settings["name"], settings).load(side)
        assert table_of(brought) == expected, seed
        for m, images in run.images.items():
            np.testing.assert_array_equal(brought.images[m], images, str(seed))
        # predict, which classifies every cell, of whichever side
        preparation = given.dataset.preparation(run.modalities)
        kinds = {m: Kind(c, (expected["bits"][m],)) for m, c in run.modalities.items()}
        order = Order(kinds, side, run.classes, preparation, preparation.square, len(kinds) == 1)
        read = manifest_cells if make is manifest else npz_cells
        source = read(given.path, order, preparation.names)
        assert not source.errors, seed
        images = source.read(0, len(source.names))
        name_of = [f"row {i}" for i in range(40)] if make is arrays else source.names
        ids = {name: i for i, name in enumerate(name_of)}
        rows = [ids[name] for name in (run.ids or ())]
        assert source.labels is not None
        assert [source.labels[row] for row in rows] == expected["labels"], seed
        for m in run.images:
            np.testing.assert_array_equal(images[m][rows], run.images[m], str(seed))
        assert source.accounts()[0].seen == run.accounts[0].seen, seed
