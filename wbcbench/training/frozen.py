"""Networks of which only the heads are trained: embeddings are computed once per view, and stored like answers.

A frozen network's embedding of a view is a function of (network, stream), as a teacher's answer is: see
`teachers`. Where all networks of a trial are frozen, it trains on stored embeddings, of a few views per cell.
Where those of a teacher are, its answers are computed from stored embeddings too, which any other head on the
same network reads back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wbcbench.contracts import Backbone, Features, Fusion, Output, SolvedOnce, content_digest
from wbcbench.data.views import EpochViews, ResidentCells, Views
from wbcbench.registry.provenance import cached_helper_digest
from wbcbench.spec import Augmentation, Trial, digest
from wbcbench.training.teachers import Replay

if TYPE_CHECKING:
    from wbcbench.training.loop import Job
    from wbcbench.training.workbench import Workbench


def views_of(fusion: Fusion, asked: int = 0) -> int:
    """How many views of each cell are shown in training, after which they repeat; 0: a new one in every epoch.

    As many as `asked` for (0: no limit), and of networks that are all frozen no more than they declare.
    """
    counts = [m.frozen_views for m in fusion.modules() if isinstance(m, Backbone)]
    limits = [n for n in (asked, max(counts) if counts and all(counts) else 0) if n]
    return min(limits, default=0)


class Source:
    """A frozen network as `Replay` asks it: its embeddings of one modality."""

    def __init__(self, modality: str, network: Backbone) -> None:
        self.reads = (modality,)
        self.network = network

    def source(self, views: Any, maps: bool) -> Any:
        return views

    @torch.no_grad()
    def answer(self, views: EpochViews, cells: Tensor, present: Tensor | None, maps: bool) -> Output:
        """[B, D] embeddings, as the only tensor."""
        images = views(self.reads[0], cells).contiguous(memory_format=torch.channels_last)
        # its own forward, also within `Embeddings.reading`
        embedding = type(self.network).forward(self.network, images).embedding.float()
        return Output(logits=embedding[:, :0], embedding=embedding)


class Plain:
    """The unaugmented images of cells, in the form of `Views`."""

    def __init__(self, cells: ResidentCells) -> None:
        self.cells = cells

    def epoch(self, epoch: int) -> Callable[[str, Tensor], Tensor]:
        return lambda modality, cells: self.cells.images(cells, modality)


class Embeddings:
    """Stored embeddings [B, D, 1, 1] of some cells, in the form of `Views`: in the place of images."""

    keeps = False
    """As of `EpochViews`."""

    def __init__(self, networks: Mapping[str, Backbone], replays: Mapping[str, Replay]) -> None:
        """Modality -> its network, and its embeddings, all of the same cells."""
        self.networks, self.replays = networks, replays
        first = next(iter(replays.values()))
        self._row = torch.zeros(len(first.views.cells), dtype=torch.int64, device=first.train.device)
        self._row[first.train] = torch.arange(len(first.train), device=first.train.device)
        self._epoch = -1
        self._tables: dict[str, Tensor] = {}

    def epoch(self, epoch: int) -> Embeddings:
        """Those of an epoch's views, loaded, or computed and stored."""
        if self._epoch != epoch:
            self._tables = {m: r.tensors(epoch)["embedding"] for m, r in self.replays.items()}
            self._epoch = epoch
        return self

    def __call__(self, modality: str, cells: Tensor) -> Tensor:
        """[B, D, 1, 1], of the epoch that was last asked for."""
        return self._tables[modality][self._row[cells]][:, :, None, None]

    def reading(self) -> AbstractContextManager[None]:
        """Within it the networks return what they are given, instead of reading images."""
        return _passing(self.networks.values())


class Embedded:
    """What a trial trains on, and is validated on, instead of images.

    It is to `predict` what `ResidentCells` is, for validation cells only.
    """

    def __init__(self, cells: ResidentCells, train: Embeddings, val: Embeddings) -> None:
        self.train = train
        self.labels = cells.labels
        self._cells, self._val = cells, val

    def images(self, cells: Tensor, modality: str) -> Tensor:
        """[B, D, 1, 1] of validation cells."""
        return self._val.epoch(0)(modality, cells)

    def present(self, cells: Tensor, modalities: tuple[str, ...]) -> Tensor | None:
        return self._cells.present(cells, modalities)

    def reading(self) -> AbstractContextManager[None]:
        """See `Embeddings`."""
        return self.train.reading()


@contextmanager
def _passing(networks: Iterable[Backbone]) -> Iterator[None]:
    for network in networks:
        network.__dict__["forward"] = _pass
    try:
        yield
    finally:
        for network in networks:
            del network.__dict__["forward"]


def _pass(x: Tensor, maps: bool = False) -> Features:
    return Features(x.flatten(1))


def stream_of(student: Trial, side: int, split_hash: str, augmentation: Augmentation) -> dict[str, Any]:
    """What determines the views that a network of this image side gets of a student's training cells, if they vary
    by this much.

    How many there are before they repeat is no part of it: the first are the same ones.
    """
    protocol = student.protocol
    stream = {
        "data": protocol.fingerprint,
        "split": split_hash,
        "image_size": side,
        "augmentation": augmentation.model_dump(mode="json", exclude={"views"}),
        "seed": student.seed if augmentation.random else None,
    }
    if side != protocol.image_size and not augmentation.interpolate:
        stream["student_side"] = protocol.image_size  # whose whole pixels the shifts are
    return stream


def embedded(job: Job, bench: Workbench, split_hash: str) -> Embedded | None:
    """What the job can train on instead of images; None if it needs them."""
    kd = job.distillation
    others = job.policies or job.readers or job.maps or job.inputs or (kd is not None and kd.average is not None)
    if others or not bench.replay:
        return None
    networks = networks_of(job.fusion, job.trial, job.cells, job.train[:2])
    if not networks:
        return None
    protocol, plain = job.trial.protocol, Plain(job.cells)
    stream = stream_of(job.trial, protocol.image_size, split_hash, protocol.augmentation)
    still = {**stream, "augmentation": None, "seed": None}
    once = isinstance(job.fusion, SolvedOnce)
    return Embedded(
        job.cells,
        embeddings(networks, job.trial, bench, plain, job.train, {**still, "cells": "train"})
        if once
        else embeddings(networks, job.trial, bench, job.views, job.train, stream),
        embeddings(networks, job.trial, bench, plain, job.val, still),
    )


def embeddings(
    networks: Mapping[str, Backbone],
    trial: Trial,
    bench: Workbench,
    views: Views | Plain,
    ids: Tensor,
    stream: Mapping[str, Any],
) -> Embeddings:
    """The stored embeddings of some cells, in folders named by all that determines them.

    Args:
        networks: modality -> its frozen network.
        trial: whose networks they are.
        bench: with the store.
        views: what they see.
        ids: [n] of the cells, ascending.
        stream: what determines the views.
    """
    digests: dict[int, str] = {}
    replays = {}
    for modality, network in networks.items():
        if id(network) not in digests:
            state = sorted(network.state_dict().items())
            digests[id(network)] = content_digest(*(part for n, t in state for part in (n, t.cpu().numpy())))
        spec = trial.method.backbones.get(modality) or trial.method.backbones[""]
        component = bench.registry.get("backbone", spec.name)
        key = {
            "network": digests[id(network)],
            "code": [component.name, component.sha256, cached_helper_digest(component)],
            "modality": modality,
            **stream,
        }
        folder, source = bench.store.replay_dir(digest(key, length=24)), Source(modality, network)
        replays[modality] = Replay(folder, source, views, ids, kinds=("embedding",))  # type: ignore[arg-type]
    return Embeddings(networks, replays)


@torch.no_grad()
def networks_of(fusion: Fusion, trial: Trial, cells: ResidentCells, ids: Tensor) -> dict[str, Backbone]:
    """Modality -> its network, if all are frozen, nothing else sees an image, and each sees those of one modality.

    Found by showing the cells `ids` to the fusion, and then their embeddings: both must give the same outputs.
    """
    if not views_of(fusion):
        return {}
    fusion.to(cells.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    images = {m: cells.images(ids, m) for m in trial.reads}
    read: dict[str, Backbone] = {}
    calls: list[str | None] = []

    def look(network: Backbone, args: tuple[Any, ...]) -> None:
        found = [m for m, x in images.items() if x.shape == args[0].shape and torch.equal(x, args[0])]
        calls.append(found[0] if len(found) == 1 else None)
        read[str(calls[-1])] = network

    def shown(x: dict[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(fusion, SolvedOnce):
            return {"": fusion.features(x, None)}
        return {route: out.logits for route, out in fusion(x).items()}

    networks = [m for m in fusion.modules() if isinstance(m, Backbone)]
    hooks = [n.register_forward_pre_hook(look) for n in networks]
    whole = shown(images)
    for hook in hooks:
        hook.remove()
    if sorted(map(str, calls)) != sorted(images) or len(networks) != len(images):
        return {}
    given = {m: read[m](x).embedding[:, :, None, None] for m, x in images.items()}
    try:
        with _passing(networks):
            through = shown(given)
    except (RuntimeError, ValueError, IndexError):  # it looks at images in another way
        return {}
    same = all(torch.allclose(out, through[r], atol=1e-4, rtol=1e-4) for r, out in whole.items())
    return read if same else {}
