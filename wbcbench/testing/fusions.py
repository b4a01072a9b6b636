"""The contract of fusions as tests: subclass `FusionContract`, set `fusion`, run pytest."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from wbcbench.contracts import Batch, Fusion, Outputs, Progress, Task, route_names
from wbcbench.testing.components import component_class
from wbcbench.testing.graph import check_registered
from wbcbench.testing.mixing import check_answers_follow_images, check_losses_follow_labels
from wbcbench.testing.promise import promise
from wbcbench.testing.reads import no_reads
from wbcbench.testing.synthetic_sets import Problem, learns, solve, synthetic_task
from wbcbench.testing.toys import build_toy, toy_batch, toy_draw, toy_task
from wbcbench.training.supervision import task_loss, total, with_labels


class FusionContract:
    """What every fusion must hold. `fusion` is a registered name, a class, or the path of a plugin file."""

    fusion: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    """Parameters to test with, where the defaults are not enough."""

    @property
    def cls(self) -> type[Fusion]:
        return component_class("fusion", self.fusion)  # type: ignore[no-any-return]

    def count(self) -> int:
        """How many modalities to test with: two, or as many as the fusion takes."""
        low, high = self.cls.arity
        return max(low, min(2, high or 2))

    def task(self) -> Task:
        return toy_task(self.count())

    def build(self, task: Task | None = None, seed: int = 0) -> Fusion:
        return build_toy(self.cls, task or self.task(), seed, **self.params)

    def test_routes_are_those_declared(self) -> None:
        """It answers on the routes that `emits` declares."""
        fusion = self.build()
        outputs = fusion(toy_batch(fusion.task).images)
        expected = route_names(self.cls.emits, fusion.task.modalities)
        promise(
            tuple(outputs) == fusion.routes == expected,
            f"`emits = {self.cls.emits}` means the routes {expected}, but `forward` returned {tuple(outputs)}.",
            "Return one Output per declared route, in this order, or change `emits`.",
            "forward",
        )

    def test_shapes_and_reads(self) -> None:
        """Logits, embeddings and probabilities have the right shape, and each route says what it reads."""
        fusion = self.build()
        batch, classes = toy_batch(fusion.task, cells=5), fusion.task.n_classes
        for route, out in fusion(batch.images, maps=True).items():
            promise(
                out.logits.shape == (5, classes),
                f"Route '{route}' has logits {list(out.logits.shape)} for 5 cells and {classes} classes.",
                f"Logits are [B, K], here [5, {classes}]: one row a cell, one column a class.",
                "forward",
            )
            promise(
                out.reads and out.reads <= set(fusion.task.modalities),
                f"Route '{route}' says that it reads {sorted(out.reads)}.",
                f"Give its Output `reads=frozenset(...)` of the modalities {fusion.task.modalities} it looks at.",
                "forward",
            )
            shape = None if out.embedding is None else list(out.embedding.shape)
            promise(
                shape is not None and len(shape) == 2 and shape[0] == 5,
                f"Route '{route}' has the embedding {shape} for 5 cells.",
                "Give its Output `embedding=` [B, D], what its last linear layer reads.",
                "forward",
            )
        probs = fusion.predict(fusion(batch.images))
        promise(
            probs.shape == (5, classes) and torch.allclose(probs.sum(1), torch.ones(5), atol=1e-5),
            f"`predict` returned {list(probs.shape)} whose rows sum to {probs.sum(-1).tolist()}.",
            "Return probabilities [B, K] whose rows sum to 1, not logits.",
            "predict",
        )
        promise((probs >= 0).all(), "`predict` returned negative values.", "Return probabilities.", "predict")

    def test_every_parameter_is_trained_and_saved(self) -> None:
        """Every parameter is registered, gets a gradient from the loss, and is saved."""
        fusion = self.build().train()
        if self.cls.trained == "gradient":
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
            "Leave `state_dict` as nn.Module has it.",
            "state_dict",
        )

    def test_eval_is_deterministic(self) -> None:
        """In evaluation one input always gets one answer."""
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        promise(
            _equal(fusion(images), fusion(images)),
            "Two calls in evaluation mode on the same images gave different logits.",
            "Draw random numbers in training only: nn.Dropout or `F.dropout(x, training=self.training)`, no "
            "torch.rand in `forward`, no count of calls.",
            "forward",
        )

    def test_a_row_depends_on_that_row_only(self) -> None:
        """In evaluation a cell's answer does not depend on the other cells of its batch."""
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        alone = {m: x[2:3] for m, x in images.items()}
        whole, one = fusion(images), fusion(alone)
        for route in whole:
            promise(
                torch.allclose(whole[route].logits[2:3], one[route].logits, atol=1e-5),
                f"On route '{route}' a cell alone gets other logits than the same cell in a batch.",
                "Do not normalise, average or attend over the batch axis in evaluation, and do not permute rows.",
                "forward",
            )

    def test_the_order_of_the_images_dict_is_irrelevant(self) -> None:
        """The order in which modalities arrive changes nothing."""
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        promise(
            _equal(fusion(images), fusion(dict(reversed(images.items())))),
            "The same images in a dict of another order gave other logits.",
            "Loop over `self.task.modalities`, not over `images`.",
            "forward",
        )

    def test_an_absent_modality_changes_nothing_if_native(self) -> None:
        """With `missing = "native"`, the image of an absent modality changes nothing."""
        if self.cls.missing != "native" or self.count() < 2:
            return
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        present = torch.ones(8, 2, dtype=torch.bool)
        present[::2, 1] = False
        second = fusion.task.modalities[1]
        noisy = dict(images)
        noisy[second] = torch.where(present[:, 1, None, None, None], images[second], 1e3)
        before = fusion.predict(fusion(images, present), present)
        after = fusion.predict(fusion(noisy, present), present)
        promise(
            torch.equal(before, after),
            "Other pixels in an image that `present` calls absent changed the prediction.",
            'Leave absent modalities out by `present` [B, M], or declare `missing = "impute"`.',
            "forward",
        )
        if self.cls.trained == "gradient":  # a floor may say the same of every cell
            promise(
                not torch.equal(before, fusion.predict(fusion(images))),
                "It predicts the same whether a modality is there or not.",
                'Use `present` in `forward`, or declare `missing = "impute"`.',
                "forward",
            )

    def test_arity(self) -> None:
        """It takes every number of modalities that `arity` allows."""
        low, high = self.cls.arity
        for modalities in range(low, min(high or 5, 5) + 1):
            fusion = self.build(toy_task(modalities))
            probs = fusion.predict(fusion(toy_batch(fusion.task).images))
            promise(
                probs.shape == (8, fusion.task.n_classes),
                f"With {modalities} modalities, `predict` returned {list(probs.shape)}.",
                f"Return [B, K] for {low} to {high or 'any number of'} modalities, or narrow `arity`.",
                "predict",
            )

    def test_deploy_predicts_what_eval_predicts(self) -> None:
        """What is deployed predicts what was evaluated."""
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        deployed = fusion.deploy().eval()
        promise(
            torch.allclose(deployed(images), fusion.predict(fusion(images)), atol=1e-6),
            "The module that `deploy` returns predicts otherwise than `predict` of `forward`.",
            "Let `deploy` compute the same probabilities, or leave it out.",
            "deploy",
        )

    def test_labels_and_ids_follow_the_image_that_each_route_shows(self) -> None:
        """In training each answer is judged by the label of the cell whose images it was given."""
        fusion = self.build()
        check_losses_follow_labels(fusion)
        if fusion.trained == "gradient":
            check_answers_follow_images(fusion.train())

    def test_assembling_is_a_function_of_the_draw(self) -> None:
        """Which cells a step shows follows from the step's random numbers alone."""
        fusion = self.build()
        rows = [fusion.assemble(toy_batch(fusion.task), toy_draw(step=s)).rows for s in (0, 0, 1)]
        if rows[0] is None or rows[1] is None:
            return
        promise(
            all(torch.equal(rows[0][m], rows[1][m]) for m in rows[0]),
            "`assemble` chose other rows for the same draw.",
            "Take random numbers from `draw` (draw.permutation, draw.uniform), never from torch.rand.",
            "assemble",
        )

    def test_nothing_is_read_back_from_the_device(self) -> None:
        """A training step never waits for the device."""
        if self.cls.trained == "once":
            return
        fusion = self.build().train()
        batch = toy_batch(fusion.task, cells=12)
        with no_reads():
            self._loss(fusion, step=0, batch=batch)

    def test_state_survives_a_round_trip(self) -> None:
        """Stopped and resumed, it goes on exactly: all state is in the checkpoint."""
        fusion, other = self.build(seed=0), self.build(seed=1)
        self._train(fusion, steps=2)
        batch = toy_batch(fusion.task)
        with torch.no_grad():
            fusion.eval().fit_combiner(with_labels(fusion(batch.images), batch), batch.labels)
        other.load_state_dict(fusion.state_dict())
        advice = (
            "Keep what changes while training in a buffer (`self.register_buffer(name, tensor)`), not in a plain "
            "attribute: attributes are not saved."
        )
        after, again = fusion(batch.images), other.eval()(batch.images)
        promise(
            _equal(after, again) and torch.equal(fusion.predict(after), other.predict(again)),
            "After two steps, saved and loaded into a new instance, it predicts otherwise.",
            advice,
        )
        if fusion.trained == "gradient":
            with torch.random.fork_rng(devices=[]):
                losses = [_seeded(lambda net: self._loss(net, step=2), net.train()) for net in (fusion, other)]
            promise(
                torch.equal(*losses),
                "After two steps, saved and loaded into a new instance, the next training loss differs.",
                advice,
            )

    def test_overfits_a_few_cells(self) -> None:
        """It can learn twelve cells by heart."""
        fusion = self.build()
        if fusion.trained == "once":
            return
        before = float(self._loss(fusion.eval(), step=0).detach())
        self._train(fusion.train(), steps=150)
        batch = toy_batch(fusion.task, cells=12)
        right = (fusion.eval().predict(fusion(batch.images)).argmax(1) == batch.labels).float().mean()
        promise(
            right >= 0.9,
            f"Only {right:.0%} of 12 cells are right after 150 steps (the first loss was {before:.2f}).",
            "See that the loss reaches every layer and that `predict` reads the routes that were trained.",
            "task_terms",
        )

    def test_solves_the_problems_that_it_promises_to_solve(self) -> None:
        """It solves the small problems that `solves` declares."""
        modalities = self.count()
        problems: tuple[Problem, ...] = self.cls.solves if modalities > 1 else ("redundant",)
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
        batch = toy_batch(fusion.task, cells=12) if batch is None else batch
        images = batch.images
        batch = fusion.assemble(batch, toy_draw(step=step))
        if batch.rows is not None:
            batch.images = {m: x[batch.rows[m]] for m, x in images.items()}
        outputs = with_labels(fusion(batch.images, batch.present), batch)
        weights = torch.ones(fusion.task.n_classes)
        return total(task_loss(fusion, [], outputs, batch, weights, Progress(0, 1, step, 150)))

    def _train(self, fusion: Fusion, steps: int) -> None:
        if fusion.trained == "once":
            solve(fusion, toy_batch(fusion.task, cells=12))
            return
        optimiser = torch.optim.Adam(fusion.parameters(), 1e-2)
        for step in range(steps):
            optimiser.zero_grad()
            self._loss(fusion, step).backward()  # type: ignore[no-untyped-call]
            optimiser.step()


def _seeded(function: Any, net: Fusion) -> torch.Tensor:
    torch.manual_seed(0)  # dropout of both draws alike
    return function(net).detach()  # type: ignore[no-any-return]


def _equal(a: Outputs, b: Outputs) -> bool:
    return list(a) == list(b) and all(torch.equal(a[r].logits, b[r].logits) for r in a)
