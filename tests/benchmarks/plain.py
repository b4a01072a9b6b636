"""Baselines of the recipe study that use nothing of wbcbench: two networks in a plain loop, a forest on features.

What a PhD student would write on an afternoon: flips and quarter turns, Adam, cosine schedule, the best epoch by
validation. Each function takes the arrays of a condition and a seed, and returns macro-F1 on the test cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score
from torch import Tensor, nn

Arrays = dict[str, NDArray[Any]]
STEPS, BATCH = 2000, 32


def sides(arrays: Arrays) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Indices of training, validation and test cells."""
    found = [np.flatnonzero(arrays["split"] == s) for s in ("train", "val", "test")]
    return found[0], found[1], found[2]


def pictures(arrays: Arrays) -> Tensor:
    """[N, C, S, S] float32, channels first."""
    image = arrays["image"]
    if image.shape[1] == image.shape[2] and image.shape[-1] != image.shape[2]:
        image = image.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(image)).float()


class Small(nn.Module):
    """Four convolutions of 16 to 64 channels: about 72,000 parameters."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((channels, 16), (16, 32), (32, 48), (48, 64)):
            layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x).mean((2, 3)))
        return out


def small_cnn(arrays: Arrays, seed: int) -> float:
    """The small network in the plain loop."""
    return loop(arrays, seed, lambda c, k: Small(c, k), 2e-3)


def resnet18(arrays: Arrays, seed: int) -> float:
    """timm's ResNet-18 from nothing, in the plain loop."""
    import timm

    return loop(arrays, seed, lambda c, k: timm.create_model("resnet18", in_chans=c, num_classes=k), 1e-3)


def loop(arrays: Arrays, seed: int, make: Any, lr: float) -> float:
    """Train for `STEPS` steps and test the weights of the best validation."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    x, y = pictures(arrays), torch.from_numpy(arrays["label"]).long()
    train, val, test = sides(arrays)
    mean, sd = x[train].mean((0, 2, 3), keepdim=True), x[train].std((0, 2, 3), keepdim=True) + 1e-6
    x = (x - mean) / sd
    net = make(x.shape[1], len(arrays["classes"]))
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=STEPS, pct_start=0.1)
    best, kept, step = -1.0, None, 0
    while step < STEPS:
        net.train()
        order = rng.permutation(train)
        for i in range(0, len(order) - 1, BATCH):
            ids = torch.from_numpy(order[i : i + BATCH])
            if len(ids) < 2 or step >= STEPS:
                continue
            images = torch.rot90(x[ids], int(rng.integers(4)), (2, 3))
            if rng.random() < 0.5:
                images = images.flip(3)
            loss = F.cross_entropy(net(images), y[ids])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
        value = f1(net, x, y, val)
        if value >= best:
            best, kept = value, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    return f1(net, x, y, test)


@torch.no_grad()
def f1(net: nn.Module, x: Tensor, y: Tensor, rows: NDArray[Any]) -> float:
    """Macro-F1 on some cells."""
    net.eval()
    said = torch.cat([net(x[part]).argmax(1) for part in torch.from_numpy(rows).split(256)])
    return float(f1_score(y[rows].numpy(), said.numpy(), average="macro"))


def forest(arrays: Arrays, seed: int) -> float:
    """A random forest on histograms, moments and radial profiles of each channel."""
    train, _, test = sides(arrays)
    features = np.stack([_features(image) for image in pictures(arrays).numpy()])
    model = RandomForestClassifier(500, class_weight="balanced", random_state=seed, n_jobs=1)
    model.fit(features[train], arrays["label"][train])
    return float(f1_score(arrays["label"][test], model.predict(features[test]), average="macro"))


def _features(image: NDArray[Any]) -> NDArray[Any]:
    size = image.shape[-1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    ring = np.minimum((np.hypot(x, y) / (size / 2) * 6).astype(int), 5)
    found = []
    for channel in image:
        found += list(np.histogram(channel, 16, (0, 256))[0] / channel.size)
        found += [channel.mean(), channel.std(), *np.percentile(channel, (5, 25, 50, 75, 95))]
        found += [channel[ring == r].mean() for r in range(6)] + [channel[ring == r].std() for r in range(6)]
        found.append(np.abs(np.diff(channel)).mean())
    return np.array(found)


BASELINES = {"plain small CNN": small_cnn, "plain resnet18": resnet18, "forest": forest}
