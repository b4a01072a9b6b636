"""Cost of every distiller: time and memory of a training step relative to plain KD, from one run.

    python tests/benchmarks/distillers.py [--threads 2] [--steps 20] [--side 64] [--batch 64] [--json]

A step is the student's forward, the task loss, the distiller's terms and the backward; the teacher's outputs are
there already. Memory is what autograd keeps for the backward. Methods are interleaved, so that a machine that
slows down slows all of them. Below the table: two losses as published code writes them, by broadcasting over
pairs of channels, against the same loss here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from wbcbench_plugins.backbones.cellnet import CellNet
from wbcbench_plugins.distillers.fsp import flow_matrix
from wbcbench_plugins.distillers.nst import selectivity_loss

from wbcbench.contracts import Distiller, Output, PairShapes, Progress
from wbcbench.testing.components import component_class, registry

CLASSES = 5


class Step:
    """One training step of a student under one distiller."""

    def __init__(self, name: str, student: CellNet, teacher: Output, images: Tensor, labels: Tensor) -> None:
        self.name, self.student, self.teacher, self.images, self.labels = name, student, teacher, images, labels
        self.head = torch.nn.Linear(student.dim, CLASSES)
        cls = component_class("distiller", name)
        self.distiller: Distiller = cls(cls.Params())
        needs = self.distiller.needs
        self.maps = "maps" in needs.student
        probe = self.output(True)
        other = probe.detach() if needs.taught_by == "self" else teacher
        shapes = [tuple((m.shape[1], m.shape[2], m.shape[3]) for m in o.maps) for o in (probe, other)]
        assert probe.embedding is not None
        assert other.embedding is not None
        self.distiller.setup(
            PairShapes(
                n_classes=CLASSES,
                n_cells=2000,
                max_index=1999,
                student_embedding=probe.embedding.shape[1],
                teacher_embedding=other.embedding.shape[1],
                student_maps=shapes[0],  # type: ignore[arg-type]
                teacher_maps=shapes[1],  # type: ignore[arg-type]
                cell_labels=torch.arange(2000) % CLASSES,
                key="0/joint/0",
            )
        )

    def output(self, maps: bool) -> Output:
        features = self.student(self.images, maps)
        out = Output(self.head(features.embedding), features.embedding, features.maps, head=self.head)
        out.labels, out.index = self.labels, torch.arange(len(self.labels))
        return out

    def __call__(self) -> None:
        out = self.output(self.maps)
        teacher = out.detach() if self.distiller.needs.taught_by == "self" else self.teacher
        terms = self.distiller.terms(out, teacher, Progress(1, 2, 0, 1))
        loss = F.cross_entropy(out.logits, self.labels) + sum(v.mean() for v in terms.values())
        loss.backward()


def kept_bytes(run: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward of one run; storage shared by several tensors counts once."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(storages.values())


def seconds(runs: dict[str, Callable[[], Any]], steps: int) -> dict[str, float]:
    """Median seconds of each, interleaved."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(steps + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn >= 2:
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def broadcast_nst(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss of neuron selectivity with every pair of channels spelled out: [B, C_s, C_t, HW] in memory."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, :, None] * b[:, None]).sum(-1).pow(2).mean()

    s, t = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def broadcast_flow(first: Tensor, second: Tensor) -> Tensor:
    """The flow matrix with every pair of channels spelled out."""
    return (first[:, :, None] * second[:, None]).mean((-1, -2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, labels = torch.randn(args.batch, 3, args.side, args.side), torch.arange(args.batch) % CLASSES
    student = CellNet(3, args.side, CellNet.Params())
    big = CellNet(3, args.side, CellNet.Params(width=32)).eval()
    head = torch.nn.Linear(big.dim, CLASSES)
    with torch.no_grad():
        features = big(images, maps=True)
        teacher = Output(head(features.embedding), features.embedding, features.maps, head=head)
    teacher.labels, teacher.index = labels, torch.arange(args.batch)

    names = [c.name for c in registry().components("distiller") if c.builtin]
    runs = {name: Step(name, student, teacher, images, labels) for name in names}
    took, kept = seconds(dict(runs), args.steps), {name: kept_bytes(run) for name, run in runs.items()}
    rows = [
        {"distiller": n, "time": took[n] / took["logits"], "memory": kept[n] / kept["logits"]}
        for n in sorted(names, key=lambda n: took[n])
    ]

    s, t = (torch.randn(args.batch, c, 8, 8, requires_grad=c == 64) for c in (64, 128))
    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "nst": (lambda: selectivity_loss(s, t).mean(), lambda: broadcast_nst(s, t)),
        "fsp": (lambda: flow_matrix(s, t).sum(), lambda: broadcast_flow(s, t).sum()),
    }
    against = []
    for name, (ours, theirs) in pairs.items():
        assert torch.allclose(ours(), theirs(), rtol=1e-4), name
        both = seconds({"ours": lambda f=ours: f().backward(), "theirs": lambda f=theirs: f().backward()}, 5)  # type: ignore[misc]
        against.append({"loss": name, "time": both["theirs"] / both["ours"]})

    if args.json:
        print(json.dumps({"relative_to_logits": rows, "broadcast_over_ours": against}))
        return
    print(f"{'distiller':16}{'time':>8}{'memory':>8}   (plain KD = 1)")
    for row in rows:
        print(f"{row['distiller']:16}{row['time']:8.2f}{row['memory']:8.2f}")
    print(f"\n{'loss':16}{'time':>8}   (written by broadcasting; ours = 1)")
    for row in against:
        print(f"{row['loss']:16}{row['time']:8.1f}")


if __name__ == "__main__":
    main()
