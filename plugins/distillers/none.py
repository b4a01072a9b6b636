"""No distillation: the student learns from labels alone. The control of every distiller."""

from __future__ import annotations

from torch import Tensor

from wbcbench.contracts import Distiller, Needs, Output, Progress


class NoDistillation(Distiller):
    """No distillation; no teacher is trained for it."""

    name = "none"
    source = "control: no distillation"
    needs = Needs(student=(), teacher=())

    def terms(self, student: Output, teacher: Output, progress: Progress) -> dict[str, Tensor]:
        return {}
