"""Frozen teachers: their outputs for a batch, computed live or looked up.

A frozen teacher's output for a training cell is a function of (teacher, stream), where a stream is what
determines the views: data, split, image side, augmentation, seed and epoch. It is computed once per epoch
of a stream, in large batches, and stored; every trial with the same teacher and stream reads it back.
"""

from __future__ import annotations

import io
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from wbcbench.contracts import Batch, Fusion, Output, Outputs
from wbcbench.data.views import EpochViews, Views, laid_out
from wbcbench.errors import DataError
from wbcbench.evaluation.predict import eval_batch
from wbcbench.files import TEMPORARY, atomic_write_bytes
from wbcbench.training.supervision import rows_of
from wbcbench.training.workbench import Answers

if TYPE_CHECKING:
    from wbcbench.training.frozen import Embeddings

log = logging.getLogger("wbcbench")

HALF = 65504.0  # the largest number in half precision


class Teacher:
    """One frozen teacher. Built on first use: a replayed teacher need not be in memory."""

    def __init__(
        self,
        reads: tuple[str, ...],
        digest: str,
        build: Callable[[], Fusion],
        views: Callable[[], Views] | None = None,
        embeds: Callable[[Fusion, Views], Embeddings | None] | None = None,
    ) -> None:
        """What it reads.

        Args:
            reads: its modalities.
            digest: see below.
            build: makes the network.
            views: the student's views at the teacher's own image side; None: it reads those of the student.
            embeds: stored embeddings of these views, if its networks are frozen and they fit.
        """
        self.reads = reads
        self._make_views = views
        self._views: Views | None = None
        self._embeds = embeds
        self._source: Views | Embeddings | None = None
        self.digest = digest
        """Digest of the teacher's record: weights and identity."""
        self._build = build
        self._fusion: Fusion | None = None

    @property
    def fusion(self) -> Fusion:
        """The network in eval mode, without gradients, independent of the student's mode."""
        if self._fusion is None:
            self._fusion = self._build().eval().requires_grad_(False)
        return self._fusion

    def seen(self, views: Views) -> Views:
        """What the teacher sees where its student sees `views`."""
        if self._make_views is None:
            return views
        if self._views is None:
            self._views = self._make_views()
        return self._views

    def source(self, views: Views, maps: bool) -> Views | Embeddings:
        """What its stored answers are computed from: `seen`, or the embeddings of that."""
        if maps or self._embeds is None:
            return self.seen(views)
        if self._source is None:
            self._source = self._embeds(self.fusion, self.seen(views)) or self.seen(views)
        return self._source

    def answer(self, views: EpochViews | Embeddings, cells: Tensor, present: Tensor | None, maps: bool) -> Output:
        """[B] rows, one per cell: the teacher's output for this epoch's views (of its `source`) of these cells."""
        images = {m: laid_out(views(m, cells)) for m in self.reads}
        with views.reading():
            return self.look(images, present, maps)

    def look(self, images: dict[str, Tensor], present: Tensor | None, maps: bool, inputs: bool = False) -> Output:
        """[R] rows: the teacher's output for these images, in its order of modalities; `inputs`: it can be
        differentiated in them."""
        with torch.set_grad_enabled(inputs), twice_differentiable(inputs):
            out = teacher_output(self.fusion, self.fusion(images, present, maps), present)
        return replace(out, inputs=images) if inputs else out


class FileTeacher:
    """A teacher from outside, in the place of a `Teacher` and of its `Replay`. It reads no image.

    With several views, a cell has the next one in every epoch, so that each is used equally often.
    """

    reads: tuple[str, ...] = ()
    seconds = 0.0

    def __init__(self, answers: Answers, train: Tensor) -> None:
        """`train`: [n] cell ids, ascending, on the device."""
        self.answers = answers
        self.train = train
        device = train.device
        self._rows = torch.from_numpy(answers.rows).to(device)
        self._logits = torch.from_numpy(answers.file.logits).to(device)
        embeddings = answers.file.embeddings
        self._embeddings = None if embeddings is None else torch.from_numpy(embeddings).to(device)

    def epoch(self, epoch: int) -> Output:
        """Its answers for every training cell [n, ...]."""
        return self._of(self.train, epoch)

    def seen(self, views: Views) -> Views:
        """Those of the student."""
        return views

    def answer(self, views: EpochViews, cells: Tensor, present: Tensor | None, maps: bool) -> Output:
        """Its answers for training cells [B], whatever their images show."""
        return self._of(cells, views.epoch)

    def _of(self, cells: Tensor, epoch: int) -> Output:
        rows, turn = self._rows[cells], epoch + cells
        embedding = None
        if self._embeddings is not None:
            embedding = self._embeddings[rows, turn % self._embeddings.shape[1]]
        return Output(
            logits=self._logits[rows, turn % self._logits.shape[1]],
            embedding=embedding,
            reads=frozenset(self.answers.teacher.reads),
        )


def twice_differentiable(wanted: bool) -> AbstractContextManager[None]:
    """Within it, attention is computed such that its gradient can be differentiated again, if `wanted`."""
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


def teacher_output(fusion: Fusion, outputs: Outputs, present: Tensor | None) -> Output:
    """A network's output as a teacher: its only route's output, or the logarithm of its prediction."""
    if len(outputs) == 1:
        return next(iter(outputs.values())).float()
    probs = fusion.predict(outputs, present)
    reads = frozenset().union(*(o.reads for o in outputs.values()))
    return Output(logits=probs.clamp_min(1e-12).log().float(), reads=reads)


class Replay:
    """Stored outputs of one teacher on one stream: a file per epoch and kind, each written atomically."""

    def __init__(
        self,
        folder: Path,
        teacher: Teacher,
        views: Views,
        train: Tensor,
        embedding: bool = False,
        maps: int = 0,
        kinds: tuple[str, ...] = (),
    ) -> None:
        """`kinds`: the fields of an output to store, by default its logits and, if `embedding`, that too.
        `maps`: number of stage maps to store as well, in half precision; 0: none."""
        self.folder = folder
        self.teacher = teacher
        self.views = views
        """The student's."""
        self.train = train
        """[n] cell ids, ascending; row i of a stored array belongs to cell train[i]."""
        self.kinds = kinds or (("logits", "embedding") if embedding else ("logits",))
        self.maps = tuple(f"map{i}" for i in range(maps))
        self.seconds = 0.0
        """Time spent on computing (not looking up) so far."""

    def epoch(self, epoch: int) -> Output:
        """Outputs for every training cell [n, ...] in one epoch, on the device."""
        tensors = self.tensors(epoch)
        return Output(
            logits=tensors["logits"],
            embedding=tensors.get("embedding"),
            maps=tuple(tensors[m] for m in self.maps),
            reads=frozenset(self.teacher.reads),
        )

    def tensors(self, epoch: int) -> dict[str, Tensor]:
        """The same by kind, as stored."""
        wanted = (*self.kinds, *self.maps)
        arrays = {kind: self._read(epoch, kind) for kind in wanted}
        if any(a is None for a in arrays.values()):
            self._compute(epoch)
            arrays = {kind: self._read(epoch, kind) for kind in wanted}
        lost = [kind for kind, a in arrays.items() if a is None]
        if lost:
            raise DataError(f"{self._path(epoch, lost[0])} cannot be read back. Is the disk full?")
        device = self.train.device
        # Copied into memory, except maps, which stay memory-mapped on a CPU.
        return {k: torch.from_numpy(a if k in self.maps else np.array(a)).to(device) for k, a in arrays.items()}

    def _path(self, epoch: int, kind: str) -> Path:
        return self.folder / f"{kind}_{epoch:04d}.npy"

    def _read(self, epoch: int, kind: str) -> np.ndarray | None:
        """The stored array; None if it is missing or damaged, and so must be computed again."""
        path = self._path(epoch, kind)
        try:
            content = np.memmap(path, np.uint8, "r")
            damaged = bytes(content[-len(SEAL) - 4 :]) != seal(content[: -len(SEAL) - 4].data)
            array: np.ndarray | None = None if damaged else np.load(path, mmap_mode="c", allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError):
            array = None
        form = (4, np.float16) if kind in self.maps else (2, np.float32)
        if array is not None and (array.ndim, array.dtype, len(array)) == (*form, len(self.train)):
            return array
        log.warning("Stored teacher outputs %s fail their checksum and are computed again.", path)
        return None

    def _compute(self, epoch: int) -> None:
        start = time.perf_counter()
        self._tidy()
        views = self.teacher.source(self.views, bool(self.maps)).epoch(epoch)
        parts: dict[str, list[Tensor]] = {kind: [] for kind in (*self.kinds, *self.maps)}
        for cells in torch.split(self.train, eval_batch(self.train.device)):
            present = self.views.cells.present(cells, self.teacher.reads)
            out = self.teacher.answer(views, cells, present, maps=bool(self.maps))
            for kind in self.kinds:
                found = getattr(out, kind)
                if found is None:
                    raise RuntimeError(f"A distiller reads the {kind} of a teacher that has none.")
                parts[kind].append(found)
            for kind, m in zip(self.maps, out.maps, strict=True):
                parts[kind].append(m.clamp(-HALF, HALF).half().contiguous().cpu())
        for kind, several in parts.items():
            array = torch.cat(several).cpu().numpy()
            content = npy_bytes(array)
            atomic_write_bytes(self._path(epoch, kind), content + seal(content))
        self.seconds += time.perf_counter() - start

    def _tidy(self) -> None:
        """Remove partial files of killed processes; a live process finishes a file within seconds."""
        for part in self.folder.glob(f"{TEMPORARY}*"):
            with suppress(OSError):  # its writer, or another reader, already removed it
                if time.time() - part.stat().st_mtime > 600:
                    part.unlink()


SEAL = b"crc32"
"""Starts the last nine bytes of a stored array, which readers of .npy files ignore: the checksum of all before."""


def seal(content: bytes | memoryview) -> bytes:
    """What ends a stored file with this content."""
    return SEAL + zlib.crc32(content).to_bytes(4, "big")


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


class TeacherBank:
    """All teachers of a trial, queried once per step."""

    def __init__(
        self,
        teachers: Sequence[Teacher | FileTeacher],
        replays: Sequence[Replay | FileTeacher] | None,
        views: Views,
        train: Tensor,
        maps: bool,
        live: str = "",
        inputs: bool = False,
    ) -> None:
        """`replays`: of each teacher's stored outputs; None: they are computed in each step. `live`: why they are
        for the images of the step, as policies have changed them; empty: they are for each cell's own view.
        `inputs`: they can be differentiated in these images."""
        self.teachers = teachers
        self.replays = replays
        self.views = views
        self.views.keeps = replays is None and not live
        self.maps = maps
        self.live, self.inputs = live, inputs
        self.heads: list[Callable[[Tensor], Tensor] | None] = [None] * len(teachers)
        """Each teacher's classifier, embedding [B, D] -> logits [B, K], if a distiller calls it."""
        self._epoch = -1
        self._answers: list[Output] = []
        # cell id -> row of a replayed array
        self._row = torch.zeros(len(views.cells), dtype=torch.int64, device=train.device)
        self._row[train] = torch.arange(len(train), device=train.device)

    @property
    def replayed(self) -> bool:
        return self.replays is not None

    def start_epoch(self, epoch: int) -> float:
        """Load or compute the epoch's stored outputs; returns seconds spent computing them."""
        self._epoch = epoch
        if self.replays is None:
            return 0.0
        before = sum(r.seconds for r in self.replays)
        self._answers = [r.epoch(epoch) for r in self.replays]
        return sum(r.seconds for r in self.replays) - before

    def answers(self, batch: Batch) -> list[Output]:
        """Each teacher's output: for the batch's cells [B] on the views of the current epoch, or, if `live`, for
        the images of its rows [R]."""
        if self.live:
            return [self._look(t, batch) for t in self.teachers]
        cells = batch.cells
        present = [self.views.cells.present(cells, t.reads) if t.reads else None for t in self.teachers]
        if self.replays is not None:
            rows = self._row[cells]
            found = [a.select(rows).float() for a in self._answers]
            found = [replace(a, head=head) for a, head in zip(found, self.heads, strict=True)]
        else:
            found = [
                t.answer(t.seen(self.views).epoch(self._epoch), cells, p, self.maps)
                for t, p in zip(self.teachers, present, strict=True)
            ]
        return [replace(a, shown=None if p is None else p.any(1)) for a, p in zip(found, present, strict=True)]

    def _look(self, teacher: Teacher | FileTeacher, batch: Batch) -> Output:
        assert isinstance(teacher, Teacher)  # of others the planner knows that they see no image
        present = batch.present
        if present is not None:
            present = present[:, [batch.modalities.index(m) for m in teacher.reads]]
        answer = teacher.look({m: batch.images[m] for m in teacher.reads}, present, self.maps, self.inputs)
        rows = None if batch.rows is None else rows_of(batch.rows, frozenset(teacher.reads))
        return replace(answer, rows=rows, shown=None if present is None else present.any(1))
