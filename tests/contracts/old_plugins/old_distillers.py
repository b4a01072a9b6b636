"""Distillers as they were written before roles became base classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from wbcbench.contracts import Distiller, DistillerParams, Needs, Output, PairShapes, Progress, param


class OldTransform(Distiller):
    """Divides the logits that another distiller reads by their norm."""

    name = "old_transform"
    matches = "logits"
    role = "transform"
    needs = Needs(("logits",), ("logits",))

    class Params(DistillerParams):
        scale: float = param(2.0, "Norm of the logits.", gt=0)

    params: Params

    def transform(self, out: Output) -> Output:
        norm = out.logits.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return replace(out, logits=self.params.scale * out.logits / norm)

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        gap = self.transform(student).logits - self.transform(teacher).logits
        return {"distance": gap.pow(2).sum(1)}


class OldStep(Distiller):
    """Goes down the sum of both losses, half as far as the learning rate says."""

    name = "old_step"
    matches = "optimiser"
    role = "optimiser"
    needs = Needs(student=(), teacher=(), optimiser="sgd")

    def optimise(self, optimiser: torch.optim.Optimizer, task: Tensor, lessons: Tensor) -> None:
        (task + lessons).backward()
        with torch.no_grad():
            for group in optimiser.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p -= 0.5 * group["lr"] * p.grad

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {}


class OldHead(Distiller):
    """The student's embedding is projected to the teacher's and answers through the teacher's classifier."""

    name = "old_head"
    matches = "relational"
    needs = Needs(student=("embedding",), teacher=("embedding",), teacher_head=True, head=True, trainable=True)

    def setup(self, pair: PairShapes) -> None:
        assert pair.student_embedding is not None
        assert pair.teacher_embedding is not None
        self.project = nn.Linear(pair.student_embedding, pair.teacher_embedding)

    def replaced_head(self, student: Output, head: Callable[[Tensor], Tensor]) -> Tensor:
        assert student.embedding is not None
        return head(self.project(student.embedding))

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        assert student.embedding is not None
        assert teacher.embedding is not None
        return {"distance": (self.project(student.embedding) - teacher.embedding).pow(2).mean(1)}
