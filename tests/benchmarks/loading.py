"""Reading image files for training: the project's `folder` data set beside torchvision's ImageFolder.

    python tests/benchmarks/loading.py

One RGB image a cell, PNG, a folder per class, batches of 64 ready to train on. The project decodes once,
keeps integers in memory and makes batches from them; torchvision decodes every image in every epoch. `first`
is what a user waits for before the first epoch is over, decoding and both libraries' caches included; `later`
any other epoch.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import STILL
from measuring import Options, Part, interleaved, speedup
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader

from wbcbench.data.views import ResidentCells, Views, epoch_order
from wbcbench.spec import Augmentation
from wbcbench.testing.components import component_class

BATCH = 64


def write_images(folder: Path, count: int, size: int) -> None:
    """A folder per class of smooth random images, and a manifest of them."""
    rng = np.random.default_rng(0)
    lines = ["image,label"]
    for i in range(count):
        name = f"{'abcde'[i % 5]}/{i:05d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / name)
        lines.append(f"{name},{name[0]}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Decoded images go here, so that the first time is a first time."""
    before = os.environ.get("WBCBENCH_CACHE")
    os.environ["WBCBENCH_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WBCBENCH_CACHE"]
        else:
            os.environ["WBCBENCH_CACHE"] = before


class Ours:
    """The project's data set and views."""

    def __init__(self, folder: Path, size: int, augmentation: Augmentation) -> None:
        cls = component_class("dataset", "folder")
        cells = cls(cls.Params(path=str(folder))).load(size)
        everything = np.arange(len(cells))
        self.resident = ResidentCells(cells, tuple(cells.images), everything, torch.device("cpu"))
        self.views = Views(self.resident, augmentation, 0)

    def epoch(self, number: int) -> float:
        """Seconds of one epoch of batches."""
        start = time.perf_counter()
        views, (modality,) = self.views.epoch(number), self.resident.modalities
        for ids in epoch_order(torch.arange(len(self.resident)), BATCH, 0, number):
            views(modality, ids).contiguous(memory_format=torch.channels_last)
        return time.perf_counter() - start


class Torchvision:
    """ImageFolder behind a DataLoader that keeps its workers."""

    def __init__(self, folder: Path, workers: int, augmentation: Augmentation) -> None:
        from torchvision import transforms as T
        from torchvision.datasets import ImageFolder

        a, moved = augmentation, []
        if a.rotate:
            bilinear = T.InterpolationMode.BILINEAR
            affine = T.RandomAffine(
                a.rotate, (a.shift, a.shift), (1 - a.scale, 1 + a.scale), interpolation=bilinear
            )
            moved = [T.RandomHorizontalFlip(), affine, T.ColorJitter(brightness=0.15)]
        transform = T.Compose([*moved, T.ToTensor(), T.Normalize([0.5] * 3, [0.25] * 3)])
        self.loader: Any = DataLoader(
            ImageFolder(str(folder), transform),
            BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def epoch(self, number: int) -> float:
        """Seconds of one epoch of batches."""
        start = time.perf_counter()
        for images, _ in self.loader:
            images.contiguous(memory_format=torch.channels_last)
        return time.perf_counter() - start


def loading_part(options: Options) -> Part:
    """First and later epochs, with and without augmentation."""
    part = Part(
        "loading", "PNG files of 64 px. Ours decodes once; ImageFolder + DataLoader in each epoch, in processes."
    )
    count, size = options.pick((3000, 64), (500, 64), (20, 16))
    workers = (0,) if options.tiny else (0, options.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        write_images(folder, count, size)
        for name, augmentation in (("augmented", Augmentation()), ("still", STILL)):
            makers: dict[str, Callable[[], Any]] = {"ours": lambda a=augmentation: Ours(folder, size, a)}  # type: ignore[misc]
            for n in workers:
                makers[f"torchvision, {n} loaders"] = lambda n=n, a=augmentation: Torchvision(folder, n, a)  # type: ignore[misc]
            first, readers = {}, {}
            with own_cache(Path(place) / f"cache-{name}"):
                for who, make in makers.items():
                    start = time.perf_counter()
                    readers[who] = make()
                    readers[who].epoch(0)
                    first[who] = time.perf_counter() - start
            later = interleaved({who: r.epoch for who, r in readers.items()}, options.pick(5, 2, 1), warm=0)
            best = min((w for w in later if w != "ours"), key=lambda w: min(later[w]))
            part.ratios.append(speedup(f"{name}: first epoch, ours / {best}", [first[best]], [first["ours"]]))
            part.ratios.append(speedup(f"{name}: later epochs, ours / {best}", later[best], later["ours"]))
            part.seconds |= {f"{name}: {who}, first": [s] for who, s in first.items()}
            part.seconds |= {f"{name}: {who}, later": s for who, s in later.items()}
            part.facts += [
                {
                    "images": name,
                    "reader": who,
                    "first_s": first[who],
                    "images_per_second": count / min(later[who]),
                }
                for who in makers
            ]
    return part


def main() -> None:
    part = loading_part(Options())
    print(tabulate(part.facts, headers="keys", floatfmt=".2f"))


if __name__ == "__main__":
    main()
