"""The contract of fusions as tests: subclass `FusionContract`, set `fusion`, run pytest."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from wbcbench.contracts import Fusion, Outputs, Progress, Task, route_names
from wbcbench.testing.components import component_class
from wbcbench.testing.synthetic_sets import Problem, learns, solve, synthetic_task
from wbcbench.testing.toys import build_toy, toy_batch, toy_draw, toy_task
from wbcbench.training.supervision import task_loss, total, with_labels


class FusionContract:
    """What every fusion must hold. `fusion` is a registered name or a class."""

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
        fusion = self.build()
        outputs = fusion(toy_batch(fusion.task).images)
        assert tuple(outputs) == fusion.routes == route_names(self.cls.emits, fusion.task.modalities)

    def test_shapes_and_reads(self) -> None:
        fusion = self.build()
        batch = toy_batch(fusion.task, cells=5)
        for route, out in fusion(batch.images, maps=True).items():
            assert out.logits.shape == (5, fusion.task.n_classes), route
            assert out.reads, f"route {route} does not say which modalities it reads"
            assert out.reads <= set(fusion.task.modalities)
            assert out.embedding is not None
            assert out.embedding.shape[0] == 5
        probs = fusion.predict(fusion(batch.images))
        assert torch.allclose(probs.sum(1), torch.ones(5), atol=1e-5)
        assert (probs >= 0).all()

    def test_every_parameter_is_trained_and_saved(self) -> None:
        if self.cls.trained == "once":
            fusion = self.build()
            assert {n for n, _ in fusion.named_parameters()} <= set(fusion.state_dict())
            return
        fusion = self.build().train()
        loss = self._loss(fusion, step=0)
        loss.backward()  # type: ignore[no-untyped-call]
        idle = [n for n, p in fusion.named_parameters() if p.requires_grad and p.grad is None]
        assert not idle, f"no gradient reaches {idle}"
        saved = set(fusion.state_dict())
        assert {n for n, _ in fusion.named_parameters()} <= saved

    def test_eval_is_deterministic(self) -> None:
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        assert _equal(fusion(images), fusion(images))

    def test_a_row_depends_on_that_row_only(self) -> None:
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        alone = {m: x[2:3] for m, x in images.items()}
        whole, one = fusion(images), fusion(alone)
        for route in whole:
            assert torch.allclose(whole[route].logits[2:3], one[route].logits, atol=1e-5), route

    def test_the_order_of_the_images_dict_is_irrelevant(self) -> None:
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        assert _equal(fusion(images), fusion(dict(reversed(images.items()))))

    def test_an_absent_modality_changes_nothing_if_native(self) -> None:
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
        assert torch.equal(before, after)
        if self.cls.trained == "gradient":  # a floor may say the same of every cell
            assert not torch.equal(before, fusion.predict(fusion(images)))

    def test_arity(self) -> None:
        low, high = self.cls.arity
        for modalities in range(low, min(high or 5, 5) + 1):
            fusion = self.build(toy_task(modalities))
            outputs = fusion(toy_batch(fusion.task).images)
            assert fusion.predict(outputs).shape == (8, fusion.task.n_classes)

    def test_deploy_predicts_what_eval_predicts(self) -> None:
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        deployed = fusion.deploy().eval()
        assert torch.allclose(deployed(images), fusion.predict(fusion(images)), atol=1e-6)

    def test_labels_and_ids_follow_the_image_that_each_route_shows(self) -> None:
        fusion = self.build()
        batch = toy_batch(fusion.task)
        # every image says which cell it is, so that what a slot shows can be read off
        shape = (1, 1, fusion.task.image_size, fusion.task.image_size)
        own = batch.cells.float()[:, None, None, None]
        source = {m: own.expand(-1, c, *shape[2:]) for m, c in fusion.task.channels.items()}
        batch = fusion.assemble(batch, toy_draw())
        shown = {m: x if batch.rows is None else x[batch.rows[m]] for m, x in source.items()}
        for route, out in with_labels(fusion(shown), batch).items():
            if len(out.reads) == 1:
                (m,) = out.reads
                assert out.index is not None
                assert torch.equal(out.index.float(), shown[m][:, 0, 0, 0]), route
                assert out.labels is not None
                assert torch.equal(out.labels, (out.index - 100) % fusion.task.n_classes)

    def test_assembling_is_a_function_of_the_draw(self) -> None:
        fusion = self.build()
        rows = [fusion.assemble(toy_batch(fusion.task), toy_draw(step=s)).rows for s in (0, 0, 1)]
        if rows[0] is None or rows[1] is None:
            return
        assert all(torch.equal(rows[0][m], rows[1][m]) for m in rows[0])

    def test_state_survives_a_round_trip(self) -> None:
        fusion, other = self.build(seed=0), self.build(seed=1)
        self._train(fusion, steps=2)
        other.load_state_dict(fusion.state_dict())
        images = toy_batch(fusion.task).images
        assert _equal(fusion.eval()(images), other.eval()(images))

    def test_overfits_a_few_cells(self) -> None:
        fusion = self.build()
        if fusion.trained == "once":
            return
        before = float(self._loss(fusion.eval(), step=0).detach())
        self._train(fusion.train(), steps=150)
        batch = toy_batch(fusion.task, cells=12)
        right = (fusion.eval().predict(fusion(batch.images)).argmax(1) == batch.labels).float().mean()
        assert right >= 0.9, f"only {right:.0%} of 12 cells after 150 steps (first loss {before:.2f})"

    def test_solves_the_problems_that_it_promises_to_solve(self) -> None:
        modalities = self.count()
        problems: tuple[Problem, ...] = self.cls.solves if modalities > 1 else ("redundant",)
        for problem in problems:
            best = 0.0
            for rate in (2e-3, 1e-2):  # transformers want the lower one, small networks the higher
                best = max(best, learns(self.build(synthetic_task(problem, modalities)), problem, rate))
                if best >= 0.95:
                    break
            assert best >= 0.95, f"{best:.0%} right of unseen cells of the problem '{problem}' after 400 steps"

    def _loss(self, fusion: Fusion, step: int) -> torch.Tensor:
        batch = toy_batch(fusion.task, cells=12)
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


def _equal(a: Outputs, b: Outputs) -> bool:
    return list(a) == list(b) and all(torch.equal(a[r].logits, b[r].logits) for r in a)
