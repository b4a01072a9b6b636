"""Networks of which only the heads are trained: embeddings are computed once per view, and stored like answers.

A frozen network's embedding of a view is a function of (network, stream), as a teacher's answer is: see
`teachers`. Where all networks of a trial are frozen, it trains on stored embeddings, of a few views per cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wbcbench.contracts import Backbone, Batch, Features, Fusion, Output, SolvedOnce, content_digest
from wbcbench.data.views import EpochViews, ResidentCells, Views
from wbcbench.registry.provenance import cached_helper_digest
from wbcbench.spec import digest
from wbcbench.training.teachers import Replay

if TYPE_CHECKING:
    from wbcbench.training.loop import Job
    from wbcbench.training.workbench import Workbench


def views_of(fusion: Fusion) -> int:
    """How many views of each cell are shown in training: 0, a new one in every epoch, unless all is frozen."""
    counts = [m.frozen_views for m in fusion.modules() if isinstance(m, Backbone)]
    return max(counts) if counts and all(counts) else 0


class Source:
    """A frozen network as `Replay` asks it: its embeddings of one modality."""

    def __init__(self, modality: str, network: Backbone) -> None:
        self.reads = (modality,)
        self.network = network

    def seen(self, views: Any) -> Any:
        return views

    @torch.no_grad()
    def answer(self, views: EpochViews, cells: Tensor, present: Tensor | None, maps: bool) -> Output:
        """[B, D] embeddings, as the only tensor."""
        images = views(self.reads[0], cells).contiguous(memory_format=torch.channels_last)
        embedding = self.network(images).embedding.float()
        return Output(logits=embedding[:, :0], embedding=embedding)


class Plain:
    """The unaugmented images of cells, in the form of `Views`."""

    def __init__(self, cells: ResidentCells) -> None:
        self.cells = cells

    def epoch(self, epoch: int) -> Callable[[str, Tensor], Tensor]:
        return lambda modality, cells: self.cells.images(cells, modality)


class Embedded:
    """The embeddings that a trial trains on and is validated on, in the place of images: [B, D, 1, 1].

    It is to `predict` what `ResidentCells` is, for validation cells only.
    """

    def __init__(self, job: Job, networks: dict[str, Backbone], stored: Callable[..., Path]) -> None:
        """`stored(modality, network, augmented)`: the folder of a network's embeddings."""
        self.job, self.networks = job, networks
        self.labels = job.cells.labels
        self._row = torch.zeros(len(job.cells), dtype=torch.int64, device=job.device)
        for ids in (job.train, job.val):
            self._row[ids] = torch.arange(len(ids), device=job.device)

        def replay(modality: str, views: Views | Plain, ids: Tensor) -> Replay:
            source = Source(modality, networks[modality])
            folder = stored(modality, source.network, views is job.views)
            return Replay(folder, source, views, ids, kinds=("embedding",))  # type: ignore[arg-type]

        self._train = {m: replay(m, job.views, job.train) for m in networks}
        self._val = {m: replay(m, Plain(job.cells), job.val) for m in networks}
        self._tables: dict[str, Tensor] = {}
        self._judged: dict[str, Tensor] = {}

    def start_epoch(self, epoch: int) -> None:
        """Load, or compute, the embeddings of all training cells in the views of an epoch, and of validation."""
        self._judged = self._judged or {m: r.tensors(0)["embedding"] for m, r in self._val.items()}
        self._tables = {m: r.tensors(epoch)["embedding"] for m, r in self._train.items()}

    def fill(self, batch: Batch) -> Batch:
        """Put what each row shows into the batch, as `fill_images` does."""
        for m, table in self._tables.items():
            rows = None if batch.rows is None else batch.rows.get(m)
            cells = batch.cells if rows is None else batch.cells[rows]
            batch.images[m] = table[self._row[cells]][:, :, None, None]
        return batch

    def images(self, cells: Tensor, modality: str) -> Tensor:
        """[B, D, 1, 1] of validation cells."""
        return self._judged[modality][self._row[cells]][:, :, None, None]

    def present(self, cells: Tensor, modalities: tuple[str, ...]) -> Tensor | None:
        return self.job.cells.present(cells, modalities)

    def reading(self) -> AbstractContextManager[None]:
        """Within it the networks return what they are given, instead of reading images."""
        return _passing(self.networks.values())


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


def embedded(job: Job, bench: Workbench, split_hash: str) -> Embedded | None:
    """What the job can train on instead of images; None if it needs them."""
    networks = _only_heads(job) if bench.replay and views_of(job.fusion) else {}
    if not networks:
        return None
    protocol, backbones = job.trial.protocol, job.trial.method.backbones
    digests: dict[int, str] = {}

    def stored(modality: str, network: Backbone, augmented: bool) -> Path:
        if id(network) not in digests:
            state = sorted(network.state_dict().items())
            digests[id(network)] = content_digest(*(part for n, t in state for part in (n, t.cpu().numpy())))
        spec = backbones.get(modality) or backbones[""]
        component = bench.registry.get("backbone", spec.name)
        stream = {
            "network": digests[id(network)],
            "code": [component.name, component.sha256, cached_helper_digest(component)],
            "data": protocol.fingerprint,
            "split": split_hash,
            "modality": modality,
            "image_size": protocol.image_size,
            "augmentation": protocol.augmentation.model_dump(mode="json") if augmented else None,
            "seed": job.trial.seed if augmented else None,
        }
        return bench.store.replay_dir(digest(stream, length=24))

    return Embedded(job, networks, stored)


@torch.no_grad()
def _only_heads(job: Job) -> dict[str, Backbone]:
    """Modality -> its network, if nothing but these networks sees an image, and each sees those of one modality.

    Found by showing two cells to the fusion, and then their embeddings: both must give the same outputs.
    """
    fusion, kd = job.fusion, job.distillation
    if (
        job.policies
        or job.readers
        or job.maps
        or job.inputs
        or isinstance(fusion, SolvedOnce)
        or (kd is not None and kd.average is not None)
    ):
        return {}
    fusion.to(job.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    ids = job.train[:2]
    images = {m: job.cells.images(ids, m) for m in job.trial.reads}
    read: dict[str, Backbone] = {}
    calls: list[str | None] = []

    def look(network: Backbone, args: tuple[Any, ...]) -> None:
        found = [m for m, x in images.items() if x.shape == args[0].shape and torch.equal(x, args[0])]
        calls.append(found[0] if len(found) == 1 else None)
        read[str(calls[-1])] = network

    networks = [m for m in fusion.modules() if isinstance(m, Backbone)]
    hooks = [n.register_forward_pre_hook(look) for n in networks]
    whole = fusion(images)
    for hook in hooks:
        hook.remove()
    if sorted(map(str, calls)) != sorted(images) or len(networks) != len(images):
        return {}
    given = {m: read[m](x).embedding[:, :, None, None] for m, x in images.items()}
    try:
        with _passing(networks):
            through = fusion(given)
    except (RuntimeError, ValueError, IndexError):  # it looks at images in another way
        return {}
    same = all(torch.allclose(out.logits, through[r].logits, atol=1e-4, rtol=1e-4) for r, out in whole.items())
    return read if same else {}
