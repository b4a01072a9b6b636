"""Training speed as ratios from one run: the project's loop, a bare PyTorch loop, torchdistill.

    python tests/benchmarks/loop.py [--threads 2] [--epochs 3] [--cells 1200] [--json]

Same cells, same networks, same first weights, same number of threads, interleaved so that a machine that
slows down slows all of them. All contenders are first shown to have the same loss on one batch. A step is the
median time from one step of the optimiser to the next; an epoch has validation and the keeping of weights in
it.

`loop` has small teachers, so that what is not the network would show. `rival` has three ResNet-50 teachers,
with augmentation and (`rival, still images`) without: torchvision's transforms work image by image in loader
processes, the project's in batches in the training process, and only the second of the two compares nothing
but the step.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import rival
import torch
from contenders import STILL, Bare, Bench, Clocked, Ours, Setting
from measuring import Goal, Options, Part, Ratio, interleaved, speedup
from tabulate import tabulate

from wbcbench.spec import ComponentSpec

AS_BARE = Goal(">=", 0.97)
REPLAY = Goal(">=", 3.0)
BIG = ComponentSpec(name="timm", params={"model": "resnet50"})
SMALLEST = Setting(
    cells=24, size=16, batch=8, student=ComponentSpec(name="cellnet", params={"width": 4}),
    teacher=ComponentSpec(name="cellnet", params={"width": 6}),
)  # fmt: skip


def run(contenders: dict[str, Any], epochs: int) -> dict[str, Clocked]:
    """Interleaved epochs, after one that does not count."""
    clocked = {name: Clocked(c) for name, c in contenders.items()}
    interleaved(clocked, epochs)
    return clocked


def agree(bench: Bench, contenders: dict[str, Any]) -> None:
    """Raise unless all have the same loss on a first epoch of one step without augmentation."""
    found = {}
    for name, contender in contenders.items():
        contender.epoch(0)
        found[name] = contender.loss
    if not all(math.isclose(v, next(iter(found.values())), rel_tol=1e-3) for v in found.values()):
        raise SystemExit(f"The contenders do not compute the same loss: {found}")


def check(setting: Setting, with_rival: bool) -> None:
    """The contenders of a setting agree: same weights, same cells, one step."""
    with tempfile.TemporaryDirectory() as folder:
        one = replace(setting, cells=32, batch=32, augmentation=STILL)
        bench = Bench(one, Path(folder))
        same: dict[str, Any] = {"ours, live": Ours(bench, "live"), "ours, replay": Ours(bench, "replay")}
        same |= {"bare, live": Bare(bench, "live"), "bare, replay": Bare(bench, "replay")}
        if with_rival:
            same["torchdistill"] = rival.TorchDistill(bench, 0, Path(folder))
        agree(bench, same)


def rows(runs: dict[str, Clocked], setting: Setting) -> list[dict[str, Any]]:
    """Speeds for people: ratios are what is compared."""
    return [
        {
            "contender": name,
            "step_ms": run.median("step") * 1e3,
            "train_images_per_second": setting.cells / run.median("train"),
            "epoch_seconds": run.median("epoch"),
        }
        for name, run in runs.items()
    ]


def raw(runs: dict[str, Clocked]) -> dict[str, list[float]]:
    """Seconds of every counted repetition."""
    return {f"{name}, {what}": r.counted(what) for name, r in runs.items() for what in ("step", "train", "epoch")}


def beside(name: str, slow: Clocked, fast: Clocked, goal: Goal | None, *what: str) -> list[Ratio]:
    """How many times as fast `fast` is, by each of `step`, `train`, `epoch`, `cpu`."""
    return [speedup(f"{name}, {w}", slow.counted(w), fast.counted(w), goal) for w in what]


def loop_part(options: Options, epochs: int | None = None, cells: int | None = None, device: str = "cpu") -> Part:
    """The project's loop beside a bare one, without KD and with small teachers."""
    setting = options.pick(Setting(), Setting(cells=320), SMALLEST)
    setting = replace(setting, device=device, cells=cells or setting.cells)
    part = Part(
        "loop", "A student (CellNet-16) of three heads, three CellNet-32 teachers, batch 64 of 64 px; ours / bare."
    )
    check(setting, with_rival=False)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(setting, Path(folder))
        kinds = ("none", "replay", "live")
        contenders: dict[str, Any] = {}
        for how in kinds:  # ours first: it stores the answers that the bare loop reads
            contenders |= {f"ours, {how}": Ours(bench, how), f"bare, {how}": Bare(bench, how)}
        runs = run(contenders, epochs or options.pick(5, 2))
    for how, said in zip(kinds, ("no KD", "KD by replay", "KD live"), strict=True):
        part.ratios += beside(
            f"{said}: ours / bare", runs[f"bare, {how}"], runs[f"ours, {how}"], AS_BARE, "step", "train"
        )
        part.ratios += beside(
            f"{said}: ours / bare", runs[f"bare, {how}"], runs[f"ours, {how}"], None, "epoch", "cpu"
        )
    part.ratios += beside("replay / no KD", runs["ours, none"], runs["ours, replay"], None, "epoch")
    part.ratios += beside("replay / live", runs["ours, live"], runs["ours, replay"], None, "epoch")
    part.seconds = raw(runs)
    part.facts = rows(runs, setting)
    return part


def rival_part(options: Options, still: bool = False) -> Part:
    """Against torchdistill, three ResNet-50 teachers and a small student."""
    name = "rival, still images" if still else "rival"
    part = Part(
        name,
        "Three ResNet-50 teachers (timm), a CellNet-16 student, batch 64 of 64 px. `stored` adds the time "
        "in which replay's answers were computed: they are computed once and serve every student of that seed. "
        + (
            "Augmentation off."
            if still
            else "torchdistill: flip, affine by torchvision; ours: those, gain and noise."
        ),
    )
    setting = options.pick(
        Setting(cells=512, teacher=BIG), Setting(cells=64, batch=32, size=32, teacher=BIG), SMALLEST
    )
    if still:
        setting = replace(setting, augmentation=STILL)
    known = rival.installed()
    if not known:
        part.skipped = "torchdistill is not installed: pip install 'wbcbench[bench]'"
    check(setting, with_rival=known)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bench = Bench(setting, folder)
        ours = Ours(bench, "replay")
        contenders: dict[str, Any] = {"ours, replay": ours, "ours, live": Ours(bench, "live")}
        contenders["bare, live"] = Bare(bench, "live")
        if known:
            workers = (0,) if still or options.tiny else (0, options.threads)
            contenders |= {f"torchdistill, {n} loaders": rival.TorchDistill(bench, n, folder) for n in workers}
        runs = run(contenders, options.pick(2 if still else 3, 1))
    part.seconds = raw(runs)
    part.seconds["storing answers"] = ours.stored[1:]
    part.facts = rows(runs, setting)
    replay, live = runs["ours, replay"], runs["ours, live"]
    part.ratios += beside("live: ours / bare", runs["bare, live"], live, AS_BARE, "train")
    if known:
        rivals = {n: r for n, r in runs.items() if n.startswith("torchdistill")}
        best = min(rivals, key=lambda n: rivals[n].median("train"))  # its own best way of loading
        part.ratios += beside("replay / torchdistill", rivals[best], replay, REPLAY, "train")
        part.ratios += beside("replay / torchdistill", rivals[best], replay, None, "epoch")
        part.ratios += beside("live / torchdistill", rivals[best], live, None, "step", "train", "epoch")
        whole = [a + b for a, b in zip(replay.counted("train"), ours.stored[1:], strict=True)]
        part.ratios.append(speedup("replay, stored / torchdistill, train", rivals[best].counted("train"), whole))
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--epochs", type=int, default=3, help="counted epochs, after one to warm up")
    parser.add_argument("--cells", type=int, default=1200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    part = loop_part(Options(threads=given.threads), given.epochs, given.cells)
    if given.json:
        print(json.dumps(part.as_dict(), indent=2))
        return
    print(tabulate(part.facts, headers="keys", floatfmt=".2f"))
    print(tabulate([r.as_dict() for r in part.ratios], headers="keys", floatfmt=".3f"))


if __name__ == "__main__":
    main()
