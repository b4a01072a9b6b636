"""The contract of fusions as tests: subclass `FusionContract`, set `fusion`, run pytest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from wbcbench.contracts import Batch, Combiner, Fusion, Progress, SolvedOnce, Task
from wbcbench.contracts.needs import Problem
from wbcbench.deploy.formats import NotExportable, onnx_predictions
from wbcbench.evaluation.cost import macs_or_why
from wbcbench.testing.effects import check_effects, fusion_trace
from wbcbench.testing.fusion_answers import (
    FusionAnswers,
    check_answers_follow_images,
    check_losses_follow_labels,
    equal_logits,
)
from wbcbench.testing.promise import BrokenPromise, check_registered, no_reads, promise
from wbcbench.testing.toys import toy_batch, toy_draw, toy_factory
from wbcbench.training.supervision import task_loss, total, with_labels

_SIDE = 16


def synthetic_task(problem: Problem, modalities: int = 2) -> Task:
    """Two classes (four for `unique`); modalities beyond the second show noise."""
    classes = "abcd" if problem == "unique" else "ab"
    return Task(channels=dict.fromkeys("uvwxyz"[:modalities], 1), classes=tuple(classes), image_size=_SIDE)


def synthetic_cells(problem: Problem, task: Task, cells: int, seed: int) -> Batch:
    """New cells of the problem; labels [N], one image [N, 1, 16, 16] per modality."""
    random = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (2, cells), generator=random)
    if problem == "redundant":
        bits[1] = bits[0]
    wave = torch.sin(torch.arange(_SIDE) * torch.pi / 2 + torch.pi / 4)
    level = wave[:, None].expand(_SIDE, _SIDE)
    images = {}
    for i, m in enumerate(task.modalities):
        noise = 0.3 * torch.randn(cells, 1, _SIDE, _SIDE, generator=random)
        if i < 2:
            noise = noise + torch.where(bits[i, :, None, None, None].bool(), level.T, level)
        images[m] = noise
    return Batch(cells=torch.arange(cells), labels=_labels(problem, bits), images=images)


def learns(fusion: Fusion, problem: Problem, lr: float = 1e-2, steps: int = 400, batch: int = 48) -> float:
    """Train on new cells until 95 % of unseen ones are right, or for `steps`; returns the last accuracy."""
    if isinstance(fusion, SolvedOnce):
        solve(fusion, synthetic_cells(problem, fusion.task, 300, seed=1))
        return _accuracy(fusion, synthetic_cells(problem, fusion.task, 96, seed=10**6))
    optimiser = torch.optim.Adam(fusion.parameters(), lr)
    held_out = synthetic_cells(problem, fusion.task, 96, seed=10**6)
    accuracy = 0.0
    for step in range(1, steps + 1):
        fusion.train()
        optimiser.zero_grad()
        _loss(fusion, synthetic_cells(problem, fusion.task, batch, seed=step), step).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step % 10 == 0:
            accuracy = _accuracy(fusion, held_out)
            if accuracy >= 0.95:
                break
    return accuracy


@torch.no_grad()
def solve(fusion: SolvedOnce, batch: Batch) -> None:
    """Call `solve` of a fusion on a batch of cells."""
    features = fusion.features(batch.images, batch.present)
    fusion.solve(features, batch.labels, torch.ones(fusion.task.n_classes))  # type: ignore[attr-defined]


def _labels(problem: Problem, bits: Tensor) -> Tensor:
    if problem == "unique":
        return 2 * bits[0] + bits[1]
    return bits[0] ^ bits[1] if problem == "xor" else bits[0]


def _loss(fusion: Fusion, batch: Batch, step: int) -> Tensor:
    images = batch.images
    batch = fusion.assemble(batch, toy_draw(step=step))
    if batch.rows is not None:
        images = {m: x[batch.rows[m]] for m, x in images.items()}
    outputs = with_labels(fusion(images), batch)
    return total(
        task_loss(fusion, [], outputs, batch, torch.ones(fusion.task.n_classes), Progress(0, 1, step, 400))
    )


@torch.no_grad()
def _accuracy(fusion: Fusion, cells: Batch) -> float:
    fusion.eval()
    outputs = fusion(cells.images)
    if isinstance(fusion, Combiner):
        fusion.fit_combiner(outputs, cells.labels)
    return float((fusion.predict(outputs).argmax(1) == cells.labels).float().mean())


CELLS = 32
"""Cells to overfit: more than a head alone could separate."""


class FusionContract(FusionAnswers):
    """What every fusion must satisfy. `fusion` is a registered name, a class, or the path of a plugin file."""

    def test_every_parameter_is_trained_and_saved(self) -> None:
        """Every parameter is registered, gets a gradient from the loss, and is saved."""
        fusion = self.build().train()
        if not issubclass(self.cls, SolvedOnce):
            loss = self._loss(fusion, step=0)
            check_registered(loss, fusion)
            promise(
                loss.requires_grad,
                "The loss has no gradient at all: something between images and loss is detached.",
                "Look for .detach(), torch.no_grad(), .data, numpy or argmax on the way to the loss.",
                "task_terms",
            )
            loss.backward()  # type: ignore[no-untyped-call]
            idle = [n for n, p in fusion.named_parameters() if p.requires_grad and p.grad is None]
            promise(
                not idle,
                f"No gradient reaches {', '.join(idle)}: they stay as they were initialised.",
                "Look for .detach(), torch.no_grad() or .data on their way to the loss, or remove them.",
                "forward",
            )
        lost = {n for n, _ in fusion.named_parameters()} - set(fusion.state_dict())
        promise(
            not lost,
            f"`state_dict` lacks {sorted(lost)}.",
            "Do not override `state_dict`.",
            "state_dict",
        )

    def test_labels_and_ids_follow_the_image_that_each_route_shows(self) -> None:
        """In training each prediction gets the label of the cell whose images it was made from."""
        fusion = self.build()
        check_losses_follow_labels(fusion)
        if not isinstance(fusion, SolvedOnce):
            check_answers_follow_images(fusion.train())

    def test_assembling_is_a_function_of_the_draw(self) -> None:
        """Which cells a step shows depends only on the step's random numbers."""
        fusion = self.build()
        rows = [fusion.assemble(toy_batch(fusion.task), toy_draw(step=s)).rows for s in (0, 0, 1)]
        if rows[0] is None or rows[1] is None:
            return
        promise(
            all(torch.equal(rows[0][m], rows[1][m]) for m in rows[0]),
            "`assemble` chose different rows for the same draw.",
            "Take random numbers from `draw` (draw.permutation, draw.uniform), never from torch.rand.",
            "assemble",
        )

    def test_nothing_is_read_back_from_the_device(self) -> None:
        """A training step never waits for the device."""
        if issubclass(self.cls, SolvedOnce):
            return
        fusion = self.build().train()
        batch = toy_batch(fusion.task, cells=CELLS)
        with no_reads():
            self._loss(fusion, step=0, batch=batch)

    def test_state_survives_a_round_trip(self) -> None:
        """It resumes exactly: all state is in the checkpoint."""
        fusion, other = self.build(seed=0), self.build(seed=1)
        self._train(fusion, steps=2)
        batch = toy_batch(fusion.task)
        with torch.no_grad():
            outputs = with_labels(fusion.eval()(batch.images), batch)
            if isinstance(fusion, Combiner):
                fusion.fit_combiner(outputs, batch.labels)
        other.load_state_dict(fusion.state_dict())
        advice = (
            "Keep what changes while training in a buffer (`self.register_buffer(name, tensor)`), not in a plain "
            "attribute: attributes are not saved."
        )
        after, again = fusion(batch.images), other.eval()(batch.images)
        promise(
            equal_logits(after, again) and torch.equal(fusion.predict(after), other.predict(again)),
            "After two steps, saved and loaded into a new instance, it predicts differently.",
            advice,
        )
        if not isinstance(fusion, SolvedOnce):
            with torch.random.fork_rng(devices=[]):
                losses = [_seeded(lambda net: self._loss(net, step=2), net.train()) for net in (fusion, other)]
            promise(
                torch.equal(*losses),
                "After two steps, saved and loaded into a new instance, the next training loss differs.",
                advice,
            )

    def test_takes_a_backbone_per_modality(self) -> None:
        """If it declares `own_backbones`, each modality may have a backbone of another width."""
        if not self.cls.traits.own_backbones:
            return
        task = self.task()
        try:
            with torch.random.fork_rng(devices=[]):
                fusion = self.cls(task, toy_factory(task, unequal=True), self.cls.Params(**self.params))
            probabilities = fusion.predict(fusion.eval()(toy_batch(task).images))
        except Exception as error:
            raise BrokenPromise(
                f"With backbones of unequal widths: {type(error).__name__}: {error}",
                "Build each by `backbone(channels, modality=name)` and read its own `dim`, or take "
                "`own_backbones` out of `traits`.",
                "__init__",
            ) from error
        promise(
            bool(probabilities.isfinite().all()),
            "With backbones of unequal widths it predicts NaN or infinity.",
            "Look for layers that are left uninitialised.",
            "forward",
        )

    def test_takes_numbers(self) -> None:
        """Unless it refuses them, a modality may be numbers: in training, in evaluation, and absent."""
        if not self.cls.traits.takes_vectors:
            return
        task = replace(self.task(), vectors=frozenset(self.task().modalities[-1:]))
        advice = (
            "Read shapes from `task.shape(modality)`, mask with `over_rows(mask, x)` instead of "
            "[:, None, None, None], or declare `vectors=False` in `traits`."
        )
        try:
            with torch.random.fork_rng(devices=[]):
                fusion = self.cls(task, toy_factory(task), self.cls.Params(**self.params))
                batch = toy_batch(task)
                if isinstance(fusion, SolvedOnce):
                    solve(fusion, batch)
                else:
                    self._loss(fusion.train(), step=0, batch=batch).backward()  # type: ignore[no-untyped-call]
            given: list[Tensor | None] = [None]
            if self.cls.traits.missing != "refuse":
                given.append(torch.tensor([m not in task.vectors for m in task.modalities]).expand(len(batch), -1))
            found = [fusion.predict(fusion.eval()(batch.images, present), present) for present in given]
        except Exception as error:
            raise BrokenPromise(
                f"With numbers for a modality: {type(error).__name__}: {error}", advice, "forward"
            ) from error
        promise(
            all(bool(p.isfinite().all()) for p in found),
            "With numbers for a modality it predicts NaN or infinity.",
            "Look for a mean over pixels that a vector does not have.",
            "forward",
        )

    def test_its_cost_can_be_counted(self) -> None:
        """The multiply-accumulates of its deployed network can be counted."""
        fusion = self.build()
        images = {m: x[:1] for m, x in toy_batch(fusion.task).images.items()}
        why = macs_or_why(fusion.deploy(), images)[1]
        promise(
            not why,
            f"In the deployed network {why}.",
            "Use PyTorch's own operations in `forward` and `predict`; otherwise the column MACs stays blank.",
            "forward",
        )

    def test_it_can_be_exported_to_onnx(self) -> None:
        """Its deployed network can be exported to ONNX, and then predicts the same."""
        missing = [n for n in ("onnx", "onnxscript", "onnxruntime") if find_spec(n) is None]
        if missing:
            pytest.skip(f"{' and '.join(missing)} not installed: pip install 'wbcbench[export]'")
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        try:
            with TemporaryDirectory() as folder:
                found = onnx_predictions(fusion.deploy().eval(), images, Path(folder) / "model.onnx")
        except NotExportable as error:
            raise BrokenPromise(
                f"{error}",
                "Avoid Python branches on values of tensors and on the batch's size in `forward` and `predict`.",
                "forward",
            ) from error
        promise(
            torch.allclose(found, fusion.predict(fusion(images)), atol=1e-4),
            "The exported network predicts differently.",
            "Avoid state outside of tensors, and operations whose result depends on the size of the batch.",
            "forward",
        )

    def test_every_parameter_has_an_effect(self) -> None:
        """Every parameter changes a loss, a gradient, the batch or a prediction, where its `when` holds."""
        low, high = self.cls.traits.arity
        facts = {"modalities": (self.count(), 1)} if low <= 1 and high != 1 else {}

        def trace(params: Mapping[str, Any], modalities: int = self.count()) -> Tensor:
            return fusion_trace(self.cls, params, modalities)

        check_effects(self.cls.Params, self.params, trace, "forward", facts)

    def test_overfits_a_few_cells(self) -> None:
        """It can overfit a few cells."""
        fusion = self.build()
        if isinstance(fusion, SolvedOnce):
            return
        before = float(self._loss(fusion.eval(), step=0).detach())
        right = self._train(fusion, steps=150)
        promise(
            right >= 0.9,
            f"Only {right:.0%} of {CELLS} cells are right after 150 steps (the first loss was {before:.2f}).",
            "Check that the loss reaches every layer and that `predict` reads the routes that were trained.",
            "task_terms",
        )

    def test_solves_the_problems_that_it_promises_to_solve(self) -> None:
        """It solves the small problems that `solves` declares."""
        modalities = self.count()
        problems: tuple[Problem, ...] = self.cls.traits.solves if modalities > 1 else ("redundant",)
        for problem in problems:
            best = 0.0
            for rate in (2e-3, 1e-2):  # transformers want the lower one, small networks the higher
                best = max(best, learns(self.build(synthetic_task(problem, modalities)), problem, rate))
                if best >= 0.95:
                    break
            promise(
                best >= 0.95,
                f"{best:.0%} of unseen cells of the problem '{problem}' are right after 400 steps.",
                f"If it cannot express that problem by design, take '{problem}' out of `solves`.",
            )

    def _loss(self, fusion: Fusion, step: int, batch: Batch | None = None) -> torch.Tensor:
        batch = toy_batch(fusion.task, cells=CELLS) if batch is None else batch
        images = batch.images
        batch = fusion.assemble(batch, toy_draw(step=step))
        if batch.rows is not None:
            batch.images = {m: x[batch.rows[m]] for m, x in images.items()}
        outputs = with_labels(fusion(batch.images, batch.present), batch)
        weights = torch.ones(fusion.task.n_classes)
        return total(task_loss(fusion, [], outputs, batch, weights, Progress(0, 1, step, 150)))

    def _train(self, fusion: Fusion, steps: int) -> float:
        """Until all cells are right, or for `steps`; returns the share that was right at the last check."""
        batch = toy_batch(fusion.task, cells=CELLS)
        if isinstance(fusion, SolvedOnce):
            solve(fusion, batch)
            return 0.0
        optimiser = torch.optim.Adam(fusion.parameters(), 1e-2)
        right = 0.0
        for step in range(steps):
            optimiser.zero_grad()
            self._loss(fusion.train(), step).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if step % 10 == 9:
                found = fusion.eval().predict(fusion(batch.images)).argmax(1)
                right = float((found == batch.labels).float().mean())
                if right == 1:
                    break
        return right


def _seeded(function: Any, net: Fusion) -> torch.Tensor:
    torch.manual_seed(0)  # so that both get the same dropout
    return function(net).detach()  # type: ignore[no-any-return]
