"""torchdistill, driven as its image-classification example is.

An installed package: `pip install 'wbcbench[bench]'`.

A configuration makes the box; the box's loader, its frozen teacher and its `KDLoss` terms, fed by forward
hooks, do the rest. Our student has three heads and three teachers, so there are three terms, each between one
head and one teacher; alpha = 1/2 and weight 2 make each of them cross-entropy + T^2 KL, the loss of the other
contenders. The epoch is its script's: the package's own `MetricLogger`, the loss read back at every step, an
evaluation, a checkpoint where it is better.

It has no stored answers: teachers run at every step. Networks are channels last in memory here as elsewhere.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path
from typing import Any

import torch
from contenders import CHANNELS, MODALITIES, TEMPERATURE, Bench, Laps, Timing
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler, SequentialSampler

from wbcbench.contracts import Fusion


def installed() -> bool:
    """Whether the package can be found."""
    return importlib.util.find_spec("torchdistill") is not None


class Split(nn.Module):
    """A fusion that takes the modalities as the channels of one image and gives one tensor."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, x: Tensor) -> Tensor:
        """[B, 5, S, S] -> [B, K] probabilities."""
        parts = dict(zip(MODALITIES, x.split(list(CHANNELS.values()), 1), strict=True))
        return self.fusion.predict(self.fusion(parts))


class Three(nn.Module):
    """Three teachers as one module, for a package whose box takes one teacher."""

    def __init__(self, nets: dict[str, Fusion]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(nets)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, 5, S, S] -> each teacher's logits [B, K]."""
        parts = zip(MODALITIES, x.split(list(CHANNELS.values()), 1), strict=True)
        return [self.nets[m]({m: part})[m].logits for m, part in parts]


class Images(Dataset[tuple[Tensor, int]]):
    """Cells as a torchvision data set: one image of five channels and its class, through `transform`."""

    def __init__(self, bench: Bench, ids: Tensor, transform: Any) -> None:
        self.pixels = torch.cat([bench.resident.modalities[m].images[ids.cpu()] for m in MODALITIES], 1)
        self.labels = bench.resident.labels[ids].tolist()
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[index]), self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


def transforms(bench: Bench) -> tuple[Any, Any]:
    """torchvision's transforms that are nearest to our augmentation, and those without any.

    Geometry only: torchvision has no gain, offset and noise for five channels, which spares the rival that work.
    """
    from torchvision import transforms as T

    a, parts = bench.setting.augmentation, [bench.resident.modalities[m] for m in MODALITIES]
    mean = torch.cat([p.mean for p in parts]).cpu() / 255
    std = torch.cat([p.std for p in parts]).cpu() / 255
    plain = [T.ConvertImageDtype(torch.float32), T.Normalize(mean.tolist(), std.tolist())]
    moved: list[Any] = [T.RandomHorizontalFlip(0.5)] if a.flip else []
    if a.rotate or a.scale or a.shift:
        bilinear = T.InterpolationMode.BILINEAR
        moved.append(
            T.RandomAffine(a.rotate, (a.shift, a.shift), (1 - a.scale, 1 + a.scale), interpolation=bilinear)
        )
    return T.Compose([*moved, *plain]), T.Compose(plain)


def configuration(batch: int, workers: int) -> dict[str, Any]:
    """What the YAML file of such a run says under `train`."""

    def loader(name: str, sampler: Any) -> dict[str, Any]:
        kwargs = {"batch_size": batch, "num_workers": workers, "drop_last": False}
        return {"dataset_id": name, "sampler": {"class_or_func": sampler, "kwargs": None}, "kwargs": kwargs}

    def term(modality: str) -> dict[str, Any]:
        paths = {
            "student_module_path": f"fusion.heads.{modality}", "student_module_io": "output",
            "teacher_module_path": f"nets.{modality}.head", "teacher_module_io": "output",
        }  # fmt: skip
        kwargs = {**paths, "temperature": TEMPERATURE, "alpha": 0.5, "reduction": "batchmean"}
        return {"criterion": {"key": "KDLoss", "kwargs": kwargs}, "weight": 2.0}

    return {
        "log_freq": 1000,
        "num_epochs": 100,
        "train_data_loader": loader("train", RandomSampler),
        "val_data_loader": {**loader("val", SequentialSampler), "requires_supp": False},
        "teacher": {
            "sequential": [], "requires_grad": False, "forward_proc": "forward_batch_only",
            "forward_hook": {"input": [], "output": [f"nets.{m}.head" for m in MODALITIES]},
        },
        "student": {
            "adaptations": {}, "sequential": [], "requires_grad": True, "forward_proc": "forward_batch_only",
            "forward_hook": {"input": [], "output": [f"fusion.heads.{m}" for m in MODALITIES]},
        },
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 2e-3, "weight_decay": 0.05, "fused": True}},
        "criterion": {
            "key": "WeightedSumLoss", "kwargs": {"sub_terms": {m: term(m) for m in MODALITIES}},
        },
    }  # fmt: skip


class TorchDistill:
    """A student trained by torchdistill, with `workers` processes that load."""

    def __init__(self, bench: Bench, workers: int, folder: Path) -> None:
        from torchdistill.core.distillation import get_distillation_box

        logging.getLogger("torchdistill").setLevel(logging.ERROR)
        self.path, self.device = folder / f"torchdistill-{workers}.pt", bench.resident.device
        self.student = Split(bench.student())
        moved, plain = transforms(bench)
        sets = {"train": Images(bench, bench.train, moved), "val": Images(bench, bench.val, plain)}
        config = configuration(bench.setting.batch, workers)
        teacher = Three(bench.nets).eval()
        self.box = get_distillation_box(teacher, self.student, sets, config, self.device, None, False, 1)
        self.laps = Laps(self.box.optimizer)
        self.best, self.loss = -1.0, float("nan")

    def epoch(self, number: int) -> Timing:
        """Train, evaluate, keep the best: the order of its example."""
        from torchdistill.common.main_util import save_ckpt
        from torchdistill.misc.log import MetricLogger, SmoothedValue

        box, device = self.box, self.device
        start = time.perf_counter()
        box.pre_epoch_process(epoch=number)
        meters = MetricLogger(delimiter="  ")
        meters.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        for batch, targets, extra in meters.log_every(box.train_data_loader, 1000, f"Epoch: [{number}]"):
            batch, targets = batch.to(device), targets.to(device)
            loss = box.forward_process(batch, targets, extra)
            box.post_forward_process(loss=loss)
            meters.update(loss=loss.item(), lr=box.optimizer.param_groups[0]["lr"])
        self.loss = meters.meters["loss"].global_avg
        trained = time.perf_counter()
        right = self._evaluate()
        if right > self.best:
            self.best = right
            save_ckpt(self.student, box.optimizer, box.lr_scheduler, right, None, str(self.path))
        box.post_epoch_process()
        return Timing(trained - start, time.perf_counter() - start, self.laps.take())

    @torch.inference_mode()
    def _evaluate(self) -> float:
        self.student.eval()
        right = total = 0
        for images, targets in self.box.val_data_loader:
            right += int((self.student(images.to(self.device)).argmax(1) == targets.to(self.device)).sum())
            total += len(targets)
        return right / total
