"""The contract of a fusion's predictions as tests: routes, shapes, evaluation, the right label for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from wbcbench.contracts import Batch, Fusion, Output, Outputs, Progress, SolvedOnce, Task, route_names
from wbcbench.evaluation.ablation import subsets
from wbcbench.evaluation.cost import parameters
from wbcbench.testing.components import component_class, fusion_types
from wbcbench.testing.promise import BrokenPromise, promise
from wbcbench.testing.toys import build_toy, toy_batch, toy_draw, toy_task
from wbcbench.training.supervision import with_labels

_START = Progress(0, 1, 0, 1)


def check_answers_follow_images(fusion: Fusion) -> None:
    """Raise `BrokenPromise` if a prediction comes from images of other cells than the one whose label it gets.

    Checked by gradients in training mode: the logits of row i must depend on the image of the labelled cell, in
    every modality where they depend on any image (dropped modalities are allowed).
    """
    batch = fusion.assemble(toy_batch(fusion.task), toy_draw())
    shown = {m: x.requires_grad_() for m, x in _shown(batch, toy_batch(fusion.task).images).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = with_labels(fusion(shown), batch)
    for route, out in outputs.items():
        if not out.logits.requires_grad:
            continue
        for m, influence in _influence(out, shown).items():
            assert out.index is not None
            own = batch.cells_of(None if batch.rows is None else batch.rows[m])[None, :] == out.index[:, None]
            strayed = (influence.sum(1) > 0) & ((influence * own).sum(1) == 0)
            promise(
                not strayed.any(),
                f"In training, route '{route}' predicts cell {_first(out, strayed)} from the {m} image of "
                f"another cell ({int(strayed.sum())} of {len(strayed)} rows): label and image do not match.",
                "Mix cells in `assemble`, by `batch.rows`, and nowhere else; a route that reads several "
                "modalities needs the same cell in all of them, or states whose label it predicts by "
                "`Output(rows=...)`.",
                "assemble" if batch.rows is not None else "forward",
            )


def check_losses_follow_labels(fusion: Fusion) -> None:
    """Raise `BrokenPromise` if a row's task loss depends on a label of a cell that its route does not show."""
    batch = fusion.assemble(toy_batch(fusion.task), toy_draw())
    images = _shown(batch, toy_batch(fusion.task).images)
    fresh = toy_batch(fusion.task)
    promise(
        torch.equal(batch.cells, fresh.cells) and torch.equal(batch.labels, fresh.labels),
        "`assemble` changed `batch.cells` or `batch.labels`.",
        "Do not change them; set `batch.rows[modality]` to the cell of the batch that each row shows.",
        "assemble",
    )
    with torch.no_grad():
        outputs = fusion(images)
        before = fusion.task_terms(with_labels(outputs, batch), batch, _START)
        for cell in range(len(batch)):
            labels = batch.labels.clone()
            labels[cell] = (labels[cell] + 1) % fusion.task.n_classes
            changed = replace(batch, labels=labels)
            relabelled = with_labels(outputs, changed)
            after = fusion.task_terms(relabelled, changed, _START)
            for route in set(before) & set(outputs):
                rows = relabelled[route].rows
                shows = (torch.arange(len(batch)) if rows is None else rows) == cell
                if before[route].shape != shows.shape:
                    continue
                heeds = before[route] != after[route]
                promise(
                    not (heeds & ~shows).any(),
                    f"On route '{route}' the loss of {int((heeds & ~shows).sum())} rows that do not show cell "
                    f"{int(batch.cells[cell])} changes with that cell's label.",
                    "In `task_terms`, compare each route with its own `out.labels`, never with `batch.labels`.",
                    "task_terms",
                )


def _shown(batch: Batch, images: dict[str, Tensor]) -> dict[str, Tensor]:
    return {m: x.clone() if batch.rows is None else x[batch.rows[m]] for m, x in images.items()}


def _influence(out: Output, shown: dict[str, Tensor]) -> dict[str, Tensor]:
    """Modality that the route reads -> [R, R]: how much row i of the logits depends on row j of the images."""
    reads = [m for m in shown if m in out.reads]
    weights = torch.arange(1.0, out.logits.shape[1] + 1)  # plain sums of log-probabilities may not depend on much
    found: dict[str, list[Tensor]] = {m: [] for m in reads}
    for row in out.logits:
        gradients = torch.autograd.grad(
            (row * weights).sum(), [shown[m] for m in reads], retain_graph=True, allow_unused=True
        )
        for m, g in zip(reads, gradients, strict=True):
            found[m].append(torch.zeros(len(shown[m])) if g is None else g.abs().flatten(1).sum(1))
    return {m: torch.stack(rows) for m, rows in found.items()}


def _first(out: Output, rows: Tensor) -> int:
    assert out.index is not None
    return int(out.index[rows][0]) if rows.any() else -1


class FusionAnswers:
    """Which fusion is tested, and what it must satisfy in evaluation."""

    fusion: ClassVar[Any]
    params: ClassVar[dict[str, Any]] = {}
    """Parameters to test with, if the defaults are not enough."""

    @property
    def cls(self) -> type[Fusion]:
        return component_class("fusion", self.fusion)  # type: ignore[no-any-return]

    def count(self) -> int:
        """How many modalities to test with: two, or as many as the fusion takes."""
        low, high = self.cls.traits.arity
        return max(low, min(2, high or 2))

    def task(self) -> Task:
        return toy_task(self.count())

    def build(self, task: Task | None = None, seed: int = 0) -> Fusion:
        return build_toy(self.cls, task or self.task(), seed, **self.params)

    def test_types(self) -> None:
        """Its methods return what they should: `forward` a dict route -> Output, `task_terms` one name -> loss."""
        with torch.random.fork_rng(devices=[]):
            fusion_types(self.cls, self.task(), self.params)

    def test_routes_are_those_declared(self) -> None:
        """It returns the routes that `emits` declares."""
        fusion = self.build()
        outputs = fusion(toy_batch(fusion.task).images)
        expected = route_names(self.cls.traits.emits, fusion.task.modalities)
        promise(
            tuple(outputs) == fusion.routes == expected,
            f"`emits={self.cls.traits.emits}` means routes {expected}, but `forward` returned {tuple(outputs)}.",
            "Return one Output per declared route, in this order, or change `emits`.",
            "forward",
        )

    def test_shapes_and_reads(self) -> None:
        """Embeddings and probabilities have the right shape, and each route declares what it reads."""
        fusion = self.build()
        batch, classes = toy_batch(fusion.task, cells=5), fusion.task.n_classes
        for route, out in fusion(batch.images, maps=True).items():
            promise(
                out.reads and out.reads <= set(fusion.task.modalities),
                f"Route '{route}' declares that it reads {sorted(out.reads)}.",
                f"Give its Output `reads=frozenset(...)` of what it reads of {fusion.task.modalities}.",
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

    def test_eval_is_deterministic(self) -> None:
        """In evaluation the same input always gets the same prediction."""
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        promise(
            equal_logits(fusion(images), fusion(images)),
            "Two calls in evaluation mode on the same images gave different logits.",
            "Draw random numbers in training only: nn.Dropout or `F.dropout(x, training=self.training)`, no "
            "torch.rand in `forward`, no counter of calls.",
            "forward",
        )

    def test_a_row_depends_on_that_row_only(self) -> None:
        """In evaluation a cell's prediction does not depend on the other cells of its batch."""
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        alone = {m: x[2:3] for m, x in images.items()}
        whole, one = fusion(images), fusion(alone)
        for route in whole:
            promise(
                torch.allclose(whole[route].logits[2:3], one[route].logits, atol=1e-5),
                f"On route '{route}' a cell alone gets different logits from the same cell in a batch.",
                "Do not normalise, average or attend over the batch axis in evaluation, and do not permute rows.",
                "forward",
            )

    def test_the_order_of_the_images_dict_is_irrelevant(self) -> None:
        """The order of the modalities in the input changes nothing."""
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        promise(
            equal_logits(fusion(images), fusion(dict(reversed(images.items())))),
            "The same images in a dict of another order gave different logits.",
            "Loop over `self.task.modalities`, not over `images`.",
            "forward",
        )

    def test_an_absent_modality_changes_nothing_if_native(self) -> None:
        """With `missing = "native"`, the image of an absent modality changes nothing."""
        if self.cls.traits.missing != "native" or self.count() < 2:
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
            "Different pixels in an image that `present` marks as absent changed the prediction.",
            'Leave absent modalities out by `present` [B, M], or declare `missing = "impute"`.',
            "forward",
        )
        if not issubclass(self.cls, SolvedOnce):  # a baseline may predict the same for every cell
            promise(
                not torch.equal(before, fusion.predict(fusion(images))),
                "It predicts the same whether a modality is present or not.",
                'Use `present` in `forward`, or declare `missing = "impute"`.',
                "forward",
            )

    def test_arity(self) -> None:
        """It takes every number of modalities that `arity` allows."""
        low, high = self.cls.traits.arity
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
        """The deployed module predicts the same as the evaluated fusion."""
        fusion = self.build().eval()
        images = toy_batch(fusion.task).images
        deployed = fusion.deploy().eval()
        promise(
            torch.allclose(deployed(images), fusion.predict(fusion(images)), atol=1e-6),
            "The module that `deploy` returns predicts differently from `predict` of `forward`.",
            "Let `deploy` compute the same probabilities, or do not override it.",
            "deploy",
        )

    def test_deployed_for_some_modalities_it_takes_their_images_only(self) -> None:
        """Deployed for some modalities it takes only their images, and predicts the same as in evaluation."""
        high = self.cls.traits.arity[1]
        fusion = self.build(toy_task(max(self.count(), min(3, high or 3)))).eval()
        names, images = fusion.task.modalities, toy_batch(fusion.task).images
        if fusion.traits.missing == "refuse":
            return
        whole = parameters(fusion.deploy())
        for given in subsets(names):
            present = torch.tensor([m in given for m in names]).expand(8, -1)
            shown = {m: x if m in given else torch.zeros_like(x) for m, x in images.items()}
            deployed = fusion.deploy(given).eval()
            what = f"Deployed for {' and '.join(given)} of {', '.join(names)}, it"
            try:
                probs = deployed({m: images[m] for m in given})
            except KeyError as error:
                raise BrokenPromise(
                    f"{what} requires {error}.",
                    "Fill in absent images as `Deployed(fusion, present)` does, and loop over what is in a "
                    "`PerModality`, not over `self.task.modalities`.",
                    "deploy",
                ) from error
            promise(
                torch.allclose(probs, fusion.predict(fusion(shown, present), present), atol=1e-5),
                f"{what} predicts differently from `predict` of `forward` with the others absent.",
                "Put into `PerModality` only what one modality alone uses, or do not override `deploy`.",
                "deploy",
            )
            promise(
                parameters(deployed) <= whole,
                f"{what} has more parameters than if deployed for all.",
                "Let `deploy` leave out what is not needed.",
                "deploy",
            )


def equal_logits(a: Outputs, b: Outputs) -> bool:
    """Whether two outputs have the same routes, in order, and the same logits."""
    return list(a) == list(b) and all(torch.equal(a[r].logits, b[r].logits) for r in a)


__all__ = ["FusionAnswers", "check_answers_follow_images", "check_losses_follow_labels", "equal_logits"]
