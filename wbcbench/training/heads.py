"""Students whose classifiers a distiller replaces by their teacher's (SimKD)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from wbcbench.contracts import (
    Backbone,
    Batch,
    Distiller,
    Draw,
    Fusion,
    Output,
    Outputs,
    PairShapes,
    PerModality,
    Progress,
)
from wbcbench.errors import IncompatibleError


class ReplacedHeads(Fusion):
    """A fusion whose routes answer through a distiller's projector and the teacher's frozen classifier.

    While training, the answers carry no gradient: the student learns from the distiller's own loss alone, as
    the method has it. The student's own classifier stays, unused, and its D x K numbers are counted.
    """

    def __init__(self, inner: Fusion, projectors: Mapping[str, Distiller], heads: Mapping[str, nn.Module]) -> None:
        """`projectors` and `heads`: route -> distiller with `replaced_head`, and the teacher's classifier."""
        super().__init__(inner.task, _no_backbone, inner.params)
        self.inner = inner
        self.projectors = PerModality(projectors)
        self.heads = PerModality({r: copy.deepcopy(h).requires_grad_(False) for r, h in heads.items()})
        self.label_smoothing = inner.label_smoothing

    @property
    def routes(self) -> tuple[str, ...]:
        return self.inner.routes

    @property
    def missing(self) -> str:  # type: ignore[override]
        return self.inner.missing

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        return self.inner.assemble(batch, draw)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        outputs: Outputs = self.inner(images, present, maps)
        for route, projector in self.projectors.items():
            assert isinstance(projector, Distiller)
            if route not in outputs:
                continue
            out = outputs[route]
            logits = projector.replaced_head(out, self.heads[route])
            outputs[route] = replace(out, logits=logits.detach() if self.training else logits)
        return outputs

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        return self.inner.task_terms(outputs, batch, progress)

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        return self.inner.predict(outputs, present)

    @property
    def combines(self) -> bool:
        return self.inner.combines

    def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
        self.inner.fit_combiner(val_outputs, labels)

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        return self.inner.head_params()


def replaces(distillers: list[Distiller]) -> int | None:
    """Position of the distiller that replaces heads, if there is one."""
    found = [j for j, d in enumerate(distillers) if d.needs.head]
    return found[0] if found else None


def teacher_classifier(answer: Output) -> nn.Module:
    """The classifier of a teacher as a module. Raises `IncompatibleError` if it has none of its own."""
    if not isinstance(answer.head, nn.Module):
        raise IncompatibleError(
            "A distiller puts the teacher's classifier in place of the student's, but this teacher has no "
            "single one. Choose teachers with one backbone each (teacher.fusion=single)."
        )
    return answer.head


def rebuild(inner: Fusion, distiller: Distiller, weights: Mapping[str, Tensor], probe: Outputs) -> ReplacedHeads:
    """The network of a stored record: shapes come from its weights, `probe` is any output of `inner`.

    `distiller` is a fresh one; it is copied per route.
    """
    projectors, heads = {}, {}
    for route in inner.routes:
        weight = weights[f"heads.{route}.weight"]
        student = probe[route].embedding
        assert student is not None
        projectors[route] = copy.deepcopy(distiller)
        projectors[route].setup(
            PairShapes(
                n_classes=len(weight),
                n_cells=1,
                max_index=0,
                student_embedding=student.shape[1],
                teacher_embedding=weight.shape[1],
                student_maps=tuple((m.shape[1], m.shape[2], m.shape[3]) for m in probe[route].maps),
            )
        )
        heads[route] = nn.Linear(weight.shape[1], weight.shape[0], bias=f"heads.{route}.bias" in weights)
    return ReplacedHeads(inner, projectors, heads)


def _no_backbone(in_chans: int, *, width: float = 1.0) -> Backbone:
    raise RuntimeError("A fusion with replaced heads builds no backbone of its own.")
