"""The contract of corruptions as tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from wbcbench.contracts import CellDraws, Corruption
from wbcbench.data.counter import uniform
from wbcbench.testing.components import component_class
from wbcbench.testing.effects import check_effects
from wbcbench.testing.promise import made, promise, returned

CELLS = 6


class CorruptionContract:
    """What every corruption must satisfy. `corruption` is a registered name, a class, or a plugin file's path."""

    corruption: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    side: ClassVar[int] = 24
    """Of the images."""

    @property
    def cls(self) -> type[Corruption]:
        return component_class("corruption", self.corruption)  # type: ignore[no-any-return]

    def build(self, params: Mapping[str, Any] | None = None) -> Corruption:
        given = self.cls.Params(**(self.params if params is None else params))
        return made(self.cls, "params", given)  # type: ignore[no-any-return]

    def inputs(self) -> list[Tensor]:
        """Normalised cells of every kind that it reads: images of 1 and 3 channels, vectors."""
        found = []
        if self.cls.reads in ("images", "both"):
            found += [blobs(channels, self.side) for channels in (1, 3)]
        if self.cls.reads in ("vectors", "both"):
            found.append(torch.randn(CELLS, 5, generator=torch.Generator().manual_seed(0)))
        return found

    def apply(self, x: Tensor, strength: float, rows: slice = slice(None), seed: int = 0, **params: Any) -> Tensor:
        """What it makes of the cells `rows` of `x`, which have the ids 10, 11 and so on."""
        imputed = torch.full((x.shape[1],), 0.25) if x.ndim == 2 else None
        cells = torch.arange(10, 10 + len(x))[rows]
        draws = CellDraws(lambda purpose, at: uniform(seed, purpose, at), cells, imputed)
        corruption = self.build({**self.params, **params})
        found: Tensor = returned(
            corruption.corrupt(x[rows].clone(), strength, draws), Tensor, "corrupt", "a tensor",
            "Return the corrupted copy.",
        )  # fmt: skip
        return found

    def test_types(self) -> None:
        """`corrupt` returns a tensor of the same shape and type."""
        for x in self.inputs():
            found = self.apply(x, self.cls.strengths[-1])
            promise(
                found.shape == x.shape and found.dtype == x.dtype,
                f"`corrupt` returned {list(found.shape)} {found.dtype} for {list(x.shape)} {x.dtype}.",
                "Keep shape and type.",
                "corrupt",
            )

    def test_there_are_five_severities(self) -> None:
        """It has five different strengths, of one sign, the mildest first."""
        promise(
            len(self.cls.strengths) == 5
            and all(abs(a) < abs(b) for a, b in zip(self.cls.strengths, self.cls.strengths[1:], strict=False)),
            f"`strengths` is {self.cls.strengths}.",
            "List five numbers, from mild to severe.",
        )

    def test_severities_differ_and_grow(self) -> None:
        """Every severity changes the cells, differently from the others, and the last more than the first."""
        for x in self.inputs():
            answers = [self.apply(x, s) for s in self.cls.strengths]
            far = [float((a - x).pow(2).mean()) for a in answers]
            promise(
                min(far) > 0 and far[-1] > far[0],
                f"The mean squared changes at the five severities are {', '.join(f'{d:.3g}' for d in far)}.",
                "Let the damage grow with `strength`.",
                "corrupt",
            )
            same = [i + 1 for i in range(4) if torch.equal(answers[i], answers[i + 1])]
            promise(
                not same,
                f"Severities {same[0] if same else 0} and the next one give equal cells.",
                "Use `strength`, and choose `strengths` that differ by more than rounding.",
                "corrupt",
            )

    def test_strength_zero_changes_nothing_or_little(self) -> None:
        """At strength 0 it changes the cells less than at the first severity, or not at all."""
        for x in self.inputs():
            none, first = ((self.apply(x, s) - x).pow(2).mean() for s in (0.0, self.cls.strengths[0]))
            promise(
                none < first,
                f"At strength 0 the mean squared change is {float(none):.3g}, at the first severity "
                f"{float(first):.3g}.",
                "Scale the damage by `strength`.",
                "corrupt",
            )

    def test_values_stay_finite(self) -> None:
        """Finite cells stay finite, also constant ones and those far from the training cells."""
        for x in self.inputs():
            for cells in (x, torch.zeros_like(x), 50 * x):
                found = self.apply(cells, self.cls.strengths[-1])
                promise(
                    torch.isfinite(found).all(),
                    "Finite cells became NaN or infinite.",
                    "Look for a division by zero or a logarithm; clamp the argument.",
                    "corrupt",
                )

    def test_seeded_by_cell(self) -> None:
        """Twice the same cells are damaged twice in the same way, alone or in a batch."""
        for x in self.inputs():
            whole, again = self.apply(x, self.cls.strengths[2]), self.apply(x, self.cls.strengths[2])
            promise(
                torch.equal(whole, again),
                "Two calls for the same cells gave different ones.",
                "Draw from `draws`, not from torch.rand.",
                "corrupt",
            )
            alone = self.apply(x, self.cls.strengths[2], slice(2, 3))
            promise(
                torch.allclose(alone, whole[2:3], atol=1e-5),
                "A cell alone is damaged otherwise than in a batch.",
                "Use draws.uniform(purpose, count) for numbers of a cell, and no statistics of the batch.",
                "corrupt",
            )

    def test_the_cells_that_it_is_given_are_left_alone(self) -> None:
        """It works on a copy."""
        for x in self.inputs():
            before, draws = x.clone(), CellDraws(lambda p, at: uniform(0, p, at), torch.arange(CELLS), x[0])
            self.build().corrupt(x, self.cls.strengths[-1], draws)
            promise(
                torch.equal(x, before),
                "`corrupt` changed its input.",
                "Not `x += ...`: return x + ...",
                "corrupt",
            )

    def test_every_parameter_has_an_effect(self) -> None:
        """Every parameter changes the damage, unless its `when` says that it does not."""

        def trace(params: Mapping[str, Any], **facts: Any) -> Tensor:
            parts = [self.apply(x, self.cls.strengths[2], **params).reshape(-1) for x in self.inputs()]
            return torch.cat(parts)

        check_effects(self.cls.Params, self.params, trace, "corrupt")


def blobs(channels: int, side: int) -> Tensor:
    """[6, channels, side, side] smooth images with an edge and noise, mean 0 and sd 1."""
    at = torch.linspace(-1, 1, side)
    radius = (at[:, None] ** 2 + at[None] ** 2).sqrt()
    size = torch.linspace(0.3, 0.8, CELLS)[:, None, None]
    inside = torch.sigmoid((size - radius) * 12)[:, None].expand(CELLS, channels, side, side)
    x = inside + 0.1 * torch.randn(CELLS, channels, side, side, generator=torch.Generator().manual_seed(0))
    return (x - x.mean()) / x.std()
