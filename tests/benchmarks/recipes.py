"""The recipe study: which training recipe does least harm on unlike sets of cells.

    python tests/benchmarks/recipes.py DATA OUT [--only NAME,NAME] [--shard 0/2]     train (resumes)
    python tests/benchmarks/recipes.py DATA OUT --table                              conditions x recipes

DATA holds `jurkat_ifc`, `pbc_mini` and `pbc`. Each recipe differs from `centre` in one factor. Each condition
is an .npz that this script writes; every trial is a record in OUT, so the study can be interrupted. Beside the
recipes stand baselines that use nothing of wbcbench (`plain.py`). The score is macro-F1 on test cells, mean
over seeds. The official test cells of the sets are left out: what is chosen here must not have seen what boards
report.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
SEEDS = (0, 1)
BATCH, STEPS = 32, 1000


def jurkat(data: Path, channels: list[int], train: int | None = None) -> Arrays:
    """Label-gated T cells, 40 px; `train` limits the training cells."""
    z = np.load(data / "jurkat_ifc" / "data.npz", allow_pickle=False)
    keep = np.isin(z["split"], ("train", "val"))
    return _split(
        {"image": z["image"][keep][:, channels], "label": z["label"][keep], "classes": z["classes"]}, train
    )


def pbc_mini(data: Path, train: int | None = None) -> Arrays:
    """Stained leukocytes, RGB 64 px, five balanced classes."""
    z = np.load(data / "pbc_mini" / "data.npz", allow_pickle=False)
    keep = np.isin(z["split"], ("train", "val"))
    return _split({"image": z["image"][keep], "label": z["label"][keep], "classes": z["classes"]}, train)


def pbc(data: Path, side: int, train: int) -> Arrays:
    """Stained leukocytes, eight unequal classes, from the whole set; `train` cells to train on."""
    import pandas as pd
    from PIL import Image

    table = pd.read_csv(data / "pbc" / "labels.csv")
    table = table[~table["duplicate"].isin(["drop", "conflict"])]
    there = np.flatnonzero(table["split"].isin(["train", "val"]).to_numpy())
    table = table.iloc[np.sort(np.random.default_rng(0).choice(there, 2 * train, replace=False))]
    with zipfile.ZipFile(data / "pbc" / "images.zip") as archive:
        names = {Path(n).name: n for n in archive.namelist()}

        def picture(file: str) -> NDArray[np.uint8]:
            image = Image.open(io.BytesIO(archive.read(names[Path(file).name]))).convert("RGB")
            return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))

        images = np.stack([picture(f) for f in table["file"]])
    classes, label = np.unique(table["label"].to_numpy().astype(str), return_inverse=True)
    return _split({"image": images, "label": label, "classes": classes}, train)


def synthetic(data: Path, **params: Any) -> Arrays:
    """Rendered cells with donors; the split is drawn by donor."""
    from wbcbench.testing.components import component_class

    cls = component_class("dataset", "synthetic")
    cells = cls(cls.Params(**params)).load()
    return {
        "image": np.concatenate([cells.images[m] for m in cells.images], axis=1), "label": cells.labels,
        "group": cells.groups, "classes": np.array(cells.classes),
    }  # fmt: skip


def _split(found: Arrays, train: int | None) -> Arrays:
    """With a split of 60, 15 and 25 %, of which `train` training and a quarter as many validation cells stay."""
    from sklearn.model_selection import train_test_split

    label = found["label"]
    rest, test = train_test_split(np.arange(len(label)), test_size=0.25, stratify=label, random_state=7)
    fit, val = train_test_split(rest, test_size=0.2, stratify=label[rest], random_state=7)
    rng = np.random.default_rng(0)
    if train is not None:
        fit, val = rng.permutation(fit)[:train], rng.permutation(val)[: max(60, train // 4)]
    side = np.full(len(label), "none", dtype="<U5")
    side[fit], side[val], side[test] = "train", "val", "test"
    keep = side != "none"
    return {"image": found["image"][keep], "label": label[keep], "split": side[keep], "classes": found["classes"]}


def by_donor(found: Arrays, shift: float, cells: int = 500, donors: int = 6) -> Arrays:
    """Some cells with made-up donors, of which each has a gain and offset of up to `shift` (in sd) a channel."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(found["label"]))[:cells]
    image = found["image"][rows].astype(np.float64)
    if image.shape[-1] == 3:
        image = image.transpose(0, 3, 1, 2)
    group = np.arange(cells) % donors
    mean, sd = image.mean((0, 2, 3), keepdims=True), image.std((0, 2, 3), keepdims=True)
    gain, offset = 1 + shift * rng.uniform(-1, 1, (2, donors, image.shape[1], 1, 1))
    image = (image - mean) * gain[group] + mean + (offset[group] - 1) * sd
    image = image.clip(0, 255).round().astype(np.uint8)
    return {"image": image, "label": found["label"][rows], "group": group, "classes": found["classes"]}


CONDITIONS: dict[str, Callable[[Path], Arrays]] = {
    "jurkat_bf": lambda d: jurkat(d, [0]),
    "jurkat_all": lambda d: jurkat(d, [0, 1, 2]),
    "jurkat_bf_df": lambda d: jurkat(d, [0, 2]),
    "jurkat_300": lambda d: jurkat(d, [0, 2], 300),
    "jurkat_1000": lambda d: jurkat(d, [0, 2], 1000),
    "jurkat_pi_300": lambda d: jurkat(d, [1], 300),
    "pbc_mini": pbc_mini,
    "pbc_mini_300": lambda d: pbc_mini(d, 300),
    "pbc_64": lambda d: pbc(d, 64, 2000),
    "pbc_96": lambda d: pbc(d, 96, 1000),
    "synthetic": lambda d: synthetic(d, cells=2000),
    "jurkat_pi_donors": lambda d: by_donor(jurkat(d, [1]), 0.0),
    "jurkat_pi_shifted": lambda d: by_donor(jurkat(d, [1]), 0.5),
    "jurkat_shifted": lambda d: by_donor(jurkat(d, [0, 2]), 0.5),
    "pbc_donors": lambda d: by_donor(pbc_mini(d), 0.0),
    "pbc_shifted": lambda d: by_donor(pbc_mini(d), 0.5),
    "synthetic_400": lambda d: synthetic(d, cells=400, donors=6),
    "synthetic_hard_400": lambda d: synthetic(d, cells=400, donors=6, noise=0.6, difficulty=0.6),
}
"""Conditions of the study, from truly unlike cells, numbers and sizes."""

CENTRAL = (
    "jurkat_300",
    "jurkat_pi_300",
    "jurkat_bf_df",
    "pbc_mini_300",
    "pbc_64",
    "synthetic_hard_400",
)
"""Conditions on which every recipe is tried; on the others the first four."""

GEOMETRY: dict[str, Any] = {"augmentation.intensity": 0.0, "augmentation.noise": 0.0}
STILL: dict[str, Any] = {
    "augmentation.flip": False,
    "augmentation.rotate": 0.0,
    "augmentation.shift": 0.0,
} | GEOMETRY
RECIPES: dict[str, dict[str, Any]] = {
    "centre": {},
    "old default": {"epochs": 6, "batch": 64, "augmentation.intensity": 0.15, "augmentation.noise": 0.03},
    "+ intensity": {"augmentation.intensity": 0.15},
    "steps 2000": {"steps": 2000},
    "auto": {"auto": True},
    "last of 2000": {"steps": 2000, "selection.metric": "last"},
    "ema in 2000": {"steps": 2000, "training.ema": 0.99},
    "last epoch": {"selection.metric": "last"},
    "batch 16": {"batch": 16},
    "no augmentation": STILL,
    "unweighted": {"training.class_weighting": "none"},
    "steps 400": {"steps": 400},
    "lr 5e-3": {"training.lr": 5e-3},
    "no shift": {"augmentation.shift": 0.0},
    "half side": {"half": True},
    "lr 1e-3": {"training.lr": 1e-3},
    "ema": {"training.ema": 0.99},
    "+ noise": {"augmentation.noise": 0.05},
    "batch 64": {"batch": 64},
    "+ cutout": {"augmentation.cutout": 0.3},
    "wide": {"backbone": "cellnet:width=32"},
    "any angle": {"augmentation.interpolate": True, "augmentation.scale": 0.1},
    "smoothing": {"training.label_smoothing": 0.1},
    "inverse weights": {"training.class_weighting": "inverse"},
}
"""What each recipe changes in the centre: 1,000 steps of 32 cells, lr 2e-3, geometric augmentation only."""


def training_cells(arrays: Arrays) -> int:
    """Number of training cells; about, where the split is drawn."""
    if "split" in arrays:
        return int((arrays["split"] == "train").sum())
    return round(len(arrays["label"]) * 0.6)


def settings(recipe: dict[str, Any], cells: int, side: int) -> tuple[dict[str, Any], int | None, str]:
    """The settings of `wbcbench.run`, its epochs and its backbone; `auto` sets nothing, as a new user does."""
    own = dict(recipe)
    if own.pop("auto", False):
        return {}, None, "cellnet"
    batch = own.pop("batch", BATCH)
    steps = own.pop("steps", STEPS)
    per_epoch = max(1, -(-cells // batch))
    epochs = own.pop("epochs", max(1, round(steps / per_epoch)))
    backbone = own.pop("backbone", "cellnet")
    sized = {"image_size": side // 2} if own.pop("half", False) else {}
    return {"budget.batch_size": batch, **GEOMETRY, **sized, **own}, epochs, backbone


def drawn(path: Path, arrays: Arrays) -> Arrays:
    """With the split that wbcbench draws, if it has none, so that baselines see the same cells."""
    if "split" in arrays:
        return arrays
    from wbcbench.data.splits import make_split
    from wbcbench.spec.trial import SplitSpec
    from wbcbench.testing.components import component_class

    cls = component_class("dataset", "npz")
    found = make_split(
        cls(cls.Params(path=str(path))).load(), SplitSpec(unit="group" if "group" in arrays else None)
    )
    side = np.full(len(arrays["label"]), "none ")
    side[found.train], side[found.val], side[found.test] = "train", "val", "test"
    return {**arrays, "split": side}


def train(
    data: Path, out: Path, only: list[str], shard: tuple[int, int], chosen: list[str], seeds: list[int]
) -> None:
    """Run what is missing: every condition, recipe and seed, and the baselines."""
    import plain

    import wbcbench

    names = (*list(RECIPES)[:3], "forest", "plain small CNN", *list(RECIPES)[3:], "plain resnet18")
    names = tuple(n for n in names if not chosen or n in chosen)
    jobs = [
        (c, r, s) for s in seeds for i, r in enumerate(names) for c in CONDITIONS
        if (c in only if only else i < 5 or c in CENTRAL)
    ]  # fmt: skip
    for condition, name, seed in jobs[shard[0] :: shard[1]]:
        path = out / "data" / f"{condition}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{shard[0]}.tmp.npz")
            np.savez(temporary, **CONDITIONS[condition](data))
            temporary.replace(path)
        with np.load(path, allow_pickle=False) as z:
            arrays = {k: z[k] for k in z.files}
        target = out / "scores" / condition / f"{name}@{seed}.json"
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in plain.BASELINES:
            found = plain.BASELINES[name](drawn(path, arrays), seed)
        else:
            chosen, epochs, backbone = settings(RECIPES[name], training_cells(arrays), arrays["image"].shape[2])
            done = wbcbench.run(
                dataset={"name": "npz", "path": str(path)}, fusion="early", kd="none", backbone=backbone,
                epochs=epochs, seeds=[seed], store=out / "store", executor="inline", device="cpu",
                set={"threads": 1, **chosen}, progress=False,
            )  # fmt: skip
            found = float(done.outcomes[0].record.result.metrics["test"]["macro_f1"])
        target.write_text(json.dumps(found))
        print(condition, name, seed, f"{found:.3f}", flush=True)


def table(out: Path) -> None:
    """Print the means, and how far each recipe is from the condition's best; the worst case decides."""
    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted((out / "scores").glob("*/*.json")):
        found.setdefault(path.parent.name, {}).setdefault(path.stem.rpartition("@")[0], []).append(
            json.loads(path.read_text())
        )
    scores = {c: {name: statistics.fmean(values) for name, values in row.items()} for c, row in found.items()}
    names = list(dict.fromkeys([*RECIPES, *(k for s in scores.values() for k in s)]))
    conditions = [c for c in CONDITIONS if c in scores]
    print(f"{'':18}", *(f"{c[:10]:>10}" for c in conditions), f"{'worst loss':>10}")
    for name in names:
        row = [scores[c].get(name) for c in conditions]
        lost = [max(scores[c].values()) - v for c, v in zip(conditions, row, strict=True) if v is not None]
        shown = (f"{v:10.3f}" if v is not None else f"{'':10}" for v in row)
        print(f"{name:18}", *shown, f"{max(lost):10.3f}" if lost else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--recipes", default="")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if given.table:
        table(given.out)
    else:
        first, count = map(int, given.shard.split("/"))
        only, chosen = ([n for n in text.split(",") if n] for text in (given.only, given.recipes))
        train(given.data, given.out, only, (first, count), chosen, given.seeds)
