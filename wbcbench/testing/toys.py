"""Small made-up inputs for contract tests (tasks, batches, backbones), and one step as in the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wbcbench.contracts import (
    Backbone,
    BackboneFactory,
    Batch,
    ChangesGradients,
    DoesBackward,
    Draw,
    Evaluated,
    Features,
    ForwardsAgain,
    Fusion,
    FusionTraits,
    Output,
    Outputs,
    Parameters,
    PerCell,
    Policy,
    Progress,
    ReadsValidation,
    StepsInTurn,
    Task,
)
from wbcbench.data.views import EpochDraws
from wbcbench.errors import IncompatibleError
from wbcbench.training.features import check_features, kept_features, with_features
from wbcbench.training.supervision import task_loss, total, with_labels
from wbcbench.training.teachers import twice_differentiable

CLASSES = ("a", "b", "c")


def toy_task(modalities: int = 2, classes: int = 3, size: int = 16) -> Task:
    """A task of up to six modalities with 3, 1, 2, 1, 3, 1 channels."""
    channels = dict(zip("uvwxyz", (3, 1, 2, 1, 3, 1), strict=True))
    return Task(
        channels={m: channels[m] for m in "uvwxyz"[:modalities]},
        classes=tuple("abcdefgh"[:classes]),
        image_size=size,
    )


def toy_batch(task: Task, cells: int = 8, seed: int = 0) -> Batch:
    """A batch of noise, images or vectors, with labels that cycle through the classes; cell ids start at 100."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        cells=torch.arange(100, 100 + cells),
        labels=torch.arange(cells) % task.n_classes,
        images={m: torch.randn(cells, *task.shape(m), generator=generator) for m in task.modalities},
        modalities=task.modalities,
    )


def toy_draw(seed: int = 0, step: int = 0) -> Draw:
    """The random numbers of one training step."""
    return EpochDraws(seed, 0, step + 1, torch.device("cpu")).step(step)


class ToyBackbone(Backbone):
    """Two convolutions with group norm: fast, and each row depends on its own row even in training."""

    name = "toy"

    def __init__(self, in_chans: int, image_size: int, params: Parameters, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        self.dim = round(8 * width)
        self.stage1 = torch.nn.Conv2d(in_chans, self.dim, 3, stride=2, padding=1)
        self.norm = torch.nn.GroupNorm(1, self.dim)
        self.stage2 = torch.nn.Conv2d(self.dim, self.dim, 3, stride=2, padding=1)

    @property
    def stage_count(self) -> int:
        return 2

    def stage(self, number: int, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.stage1(x)) if number == 0 else self.stage2(x)
        return y.relu()

    def forward(self, x: Tensor, maps: bool = False) -> Features:
        first = self.stage(0, x)
        second = self.stage(1, first)
        return Features(second.mean((2, 3)), (first, second) if maps else ())


class ToyNumbers(Backbone):
    """One layer, for vectors."""

    name = "toy_numbers"
    reads = "vectors"

    def __init__(self, in_chans: int, image_size: int, params: Parameters, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        self.dim = round(8 * width)
        self.layer = torch.nn.Linear(in_chans, self.dim)

    def forward(self, x: Tensor, maps: bool = False) -> Features:
        return Features(self.layer(x).relu())


def noise(backbone: type[Backbone], cells: int, channels: int, side: int) -> Tensor:
    """Noise of the kind that a backbone reads: images, or vectors of `channels` numbers."""
    return torch.randn(cells, channels, *(() if backbone.reads == "vectors" else (side, side)))


def toy_factory(task: Task, unequal: bool = False) -> BackboneFactory:
    """A factory of toy backbones for the task's modalities; `unequal`: of another width for each."""

    def build(in_chans: int, *, width: float = 1.0, modality: str | None = None) -> Backbone:
        if unequal and modality not in task.modalities:
            raise IncompatibleError(f"A backbone was built with modality={modality!r}.")
        factor = 1 + task.modalities.index(modality) / 2 if unequal and modality else 1.0
        if modality in task.vectors or task.vectors == set(task.modalities):
            return ToyNumbers(in_chans, 0, Parameters(), width * factor)
        return ToyBackbone(in_chans, task.image_size, Parameters(), width * factor)

    return build


def build_toy(cls: type[Fusion], task: Task, seed: int = 0, **params: Any) -> Fusion:
    """A fusion on toy backbones with weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(task, toy_factory(task), cls.Params(**params))


class ToyBoth(Fusion):
    """One network and head per modality, and a joint head on all embeddings: every kind of route."""

    name = "toy_both"
    traits = FusionTraits(emits=("joint", "modality"))

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        trunks = {m: backbone(c) for m, c in task.channels.items()}
        self.backbones = torch.nn.ModuleDict(trunks)
        self.heads = torch.nn.ModuleDict({m: torch.nn.Linear(t.dim, task.n_classes) for m, t in trunks.items()})
        self.head = torch.nn.Linear(sum(t.dim for t in trunks.values()), task.n_classes)

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = {m: trunk(images[m]).embedding for m, trunk in self.backbones.items()}
        every = torch.cat(list(embeddings.values()), 1)
        outputs = {"joint": Output(self.head(every), every, reads=frozenset(embeddings), head=self.head)}
        for m, h in embeddings.items():
            outputs[m] = Output(self.heads[m](h), h, reads=frozenset({m}), head=self.heads[m])
        return outputs


class ToyJoint(ToyBoth):
    """The same networks with the joint head alone."""

    name = "toy_joint"
    traits = FusionTraits()

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__(task, backbone, params)
        del self.heads

    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        embeddings = [trunk(images[m]).embedding for m, trunk in self.backbones.items()]
        every = torch.cat(embeddings, 1)
        return {"joint": Output(self.head(every), every, reads=frozenset(self.task.modalities), head=self.head)}


def set_up(policy: Policy, fusion: Fusion, cells: int = 200, values: bool = True) -> None:
    """Set a policy up around a fusion, for cells 0..cells-1, as training does; `values`: tensors have some."""
    policy.setup(fusion)
    if "features" in policy.traits.wants and values:
        check_features(fusion)
    if isinstance(policy, PerCell):
        policy.setup_cells(cells)


def policy_step(
    fusion: Fusion,
    policies: list[Policy],
    batch: Batch,
    progress: Progress,
    kd_terms: Callable[[Outputs, Batch], Tensor] | None = None,
    maps: bool = False,
    inputs: bool = False,
) -> tuple[dict[str, Tensor], Outputs, Batch]:
    """One training step as in the loop, without the optimiser: task terms, outputs, the batch shown.

    Args:
        fusion: in training mode.
        policies: set up.
        batch: with the images of its cells.
        progress: of training.
        kd_terms: what distillers add to the loss (scalar), from outputs and batch.
        maps: request stage maps from the fusion.
        inputs: let distillers differentiate in the images.

    Returns:
        As above; gradients are left in the parameters.
    """
    images = batch.images
    batch = fusion.assemble(batch, progress.draw)
    for policy in policies:
        batch = policy.assemble(batch, progress.draw)
    if batch.rows is not None:
        batch.images = {m: x[batch.rows[m]] for m, x in images.items()}
        if batch.present is not None:
            columns = [batch.present[batch.rows[m], i] for i, m in enumerate(images)]
            batch.present = torch.stack(columns, 1)
    for policy in policies:
        batch = policy.images(batch, progress.draw)
    if inputs:
        batch.images = {m: x.detach().requires_grad_() for m, x in batch.images.items()}

    def run(images: dict[str, Tensor], present: Tensor | None, maps: bool = False) -> Outputs:
        with twice_differentiable(inputs):
            outputs = fusion(images, present, maps)
        return with_labels(outputs, replace(batch, images=images, present=present))

    outputs = with_features(fusion, policies, partial(run, batch.images, batch.present, maps), batch, progress)
    for policy in policies:
        if isinstance(policy, ForwardsAgain):
            policy.after_forward(run, outputs, batch, progress)
    weights = torch.ones(fusion.task.n_classes)
    terms = task_loss(fusion, policies, outputs, batch, weights, progress)
    rest = torch.zeros(()) if kd_terms is None else kd_terms(outputs, batch)
    doing = [p for p in policies if isinstance(p, DoesBackward)]
    stepping = [p for p in policies if isinstance(p, StepsInTurn)]
    if stepping:  # without an optimiser the weights of all turns are the same
        total({turn: total(stepping[0].of_turn(turn, terms)) for turn in stepping[0].turns}).backward()  # type: ignore[no-untyped-call]
    elif not any(policy.backward(terms, rest, fusion) for policy in doing):
        (total(terms) + rest).backward()  # type: ignore[no-untyped-call]
    for policy in policies:
        if isinstance(policy, ChangesGradients):
            policy.after_backward(fusion, outputs, batch, progress)
    return terms, outputs, batch


@torch.no_grad()
def toy_evaluated(fusion: Fusion, seed: int) -> Evaluated:
    """What a fusion makes of 24 cells of noise in evaluation mode."""
    training, batch = fusion.training, toy_batch(fusion.task, cells=24, seed=seed)
    fusion.eval()
    with kept_features(fusion) as features:
        outputs = with_labels(fusion(batch.images), batch)
    fusion.train(training)
    return Evaluated(outputs, features)


def end_epoch(policy: Policy, fusion: Fusion, progress: Progress, losses: dict[str, float] | None = None) -> None:
    """Call what a policy does at the end of an epoch; `losses`: route -> validation loss, by default one half."""
    policy.on_epoch(fusion, progress, losses or dict.fromkeys(fusion.routes, 0.5))
    if isinstance(policy, ReadsValidation):
        seen = toy_evaluated(fusion, 1)
        policy.after_validation(fusion, seen, lambda: toy_evaluated(fusion, 2), progress)
