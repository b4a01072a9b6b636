"""What a fusion promises: M modality images in, one prediction per route out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts.backbone import BackboneFactory
from wbcbench.contracts.deploy import Deployed, without
from wbcbench.contracts.needs import Offer
from wbcbench.contracts.output import Batch, Draw, Output, Outputs, Progress, Task
from wbcbench.contracts.params import Parameters
from wbcbench.contracts.routes import JOINT, route_names
from wbcbench.errors import IncompatibleError


class Fusion(nn.Module):
    """A way of turning modality images into predictions. Owns its backbones and its task loss.

    The class attributes are read once, when the file is new or was edited, and kept: they may be computed, but not
    from what changes between two runs.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    """Paper and equation."""
    emits: ClassVar[tuple[Literal["joint", "modality"], ...]] = ("joint",)
    """Which routes there are: one joint head, one head per modality, or both."""
    arity: ClassVar[tuple[int, int | None]] = (1, None)
    """How many modalities it takes. A fusion of exactly one is run once per modality."""
    missing: ClassVar[Literal["native", "impute", "refuse"]] = "impute"
    """What happens to a cell that lacks a modality: the fusion leaves it out by itself (`present` is
    passed and the absent image changes nothing); the core fills the image with the training mean
    (zero after normalisation); or such cells are refused at plan time."""

    solves: ClassVar[tuple[Literal["redundant", "unique", "xor"], ...]] = ("redundant", "unique")
    """Which two-modality problems it can express (`wbcbench.testing.fusions`): either modality is
    enough; each holds what the other lacks; only both together say anything. The contract tests hold it to
    them."""

    stage_maps: ClassVar[bool] = True
    """False: some route gives no stage maps (its head stands on the embeddings of several networks, which have no
    map in common), and distillers of maps are refused at plan time. Left True, they are refused before training
    all the same, once the networks are built."""

    scales: ClassVar[str] = ""
    """Name of the parameter that is a factor on the backbone's channels, if there is one. Unless it is 1, such a
    fusion is refused at plan time with a backbone that cannot be scaled."""

    offers: ClassVar[tuple[Offer, ...] | None] = None
    """What training policies find in it (`wbcbench.contracts.needs.Offer`); what follows from `emits` need not be
    said. None: not said, and policies find out when training starts instead of while planning."""

    trained: ClassVar[Literal["gradient", "once"]] = "gradient"
    """`once`: the core calls `features` on every training cell and then `solve`, instead of the training
    loop. Such a fusion takes neither distillers nor policies."""

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__()
        self.task = task
        self.params = params

    @property
    def routes(self) -> tuple[str, ...]:
        """Names of the routes that `forward` returns."""
        return route_names(self.emits, self.task.modalities)

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        """Decide which cell each modality shows (set `batch.rows`). Called in training only.

        `forward` must never do this by asking `self.training`. What it must know of each row goes into
        `batch.extras[self.name]` as a mapping of tensors [R, ...]; keep `batch.extras` itself, since a policy may
        call this again to add rows. Default: the same cell everywhere.
        """
        return batch

    @abstractmethod
    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        """Predict.

        Args:
            images: modality -> [B, C_m, S, S] float, normalised to mean 0, sd 1 over training cells.
            present: [B, M] bool, canonical modality order; None when everything is there.
            maps: also return stage maps, where the backbones have them.
        """

    def task_terms(self, outputs: Outputs, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Named per-sample task losses [R], before class weights. Default: cross-entropy per route.

        Every route is supervised with the label of the cell that it was shown (`Output.labels`). Of a term [R]
        that is named after a route, the core leaves out the rows that had no image for it (`Output.shown`).
        """
        return {
            route: F.cross_entropy(
                out.logits, _labels(out), reduction="none", label_smoothing=self.label_smoothing
            )
            for route, out in outputs.items()
        }

    label_smoothing: float = 0.0
    """Set by the training loop from the recipe."""

    def predict(self, outputs: Outputs, present: Tensor | None = None) -> Tensor:
        """[B, K] probabilities. Default: the mean of the routes' softmax, over routes that saw an image.

        A modality route whose image is absent is left out of the mean; a cell without any such route
        gets the mean of all.
        """
        probs = torch.stack([o.logits.float().softmax(1) for o in outputs.values()])  # [R, B, K]
        if present is None:
            return probs.mean(0)
        columns = {m: i for i, m in enumerate(self.task.modalities)}
        seen = torch.stack(
            [present[:, columns[r]] if r in columns else present.any(1) for r in outputs]
        ).float()  # [R, B]
        seen = torch.where(seen.sum(0, keepdim=True) > 0, seen, torch.ones_like(seen))
        return (probs * seen[..., None]).sum(0) / seen.sum(0)[:, None]

    def modality_logits(self, outputs: Outputs) -> dict[str, Tensor]:
        """Modality -> logits [R, K] of what that modality alone says. Default: of its route, if it has one.

        Override it where one joint head adds up what the modalities say, so that these add up to its logits, and
        declare `logits` among `offers`. Empty where the parameters chosen do not allow it.
        """
        return {m: outputs[m].logits for m in self.task.modalities if m in outputs}

    def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
        """Fit whatever combines routes (weights, temperatures) on validation outputs. Default: nothing.

        They are of the validation cells that have every modality, where each class has such cells. The core calls
        it several times, each time from the state before the first: on all folds of the cells but one, to predict
        that one for the validation metrics, and at last on all of them, for the test. A fold may lack a class.
        """

    @property
    def combines(self) -> bool:
        """Whether there is a combiner to fit."""
        return type(self).fit_combiner is not Fusion.fit_combiner

    def deploy(self, present: tuple[str, ...] | None = None) -> nn.Module:
        """What inference runs when only the modalities `present` are given; its cost is counted.

        The module maps images (a dict) of just those modalities to probabilities [B, K]: what `predict` says of
        cells that have no others. Default: this fusion; where it is `native`, without the entries of
        `PerModality` that belong to absent modalities. One that imputes reads the images that are filled in for
        it, and so costs what it costs with everything there.

        Raises:
            IncompatibleError: some are absent, and this fusion refuses that.
        """
        names = self.task.modalities
        given = names if present is None else tuple(m for m in names if m in present)
        if not given or not set(present or ()) <= set(names):
            raise ValueError(f"Expected some of the modalities {names}, but got {present}.")
        if given == names:
            return Deployed(self)
        if self.missing == "refuse":
            raise IncompatibleError(f"Fusion '{self.name}' needs all of {', '.join(names)}; give them all.")
        native = self.missing == "native"
        return Deployed(without(self, frozenset(names) - set(given)) if native else self, given)

    def features(self, images: dict[str, Tensor], present: Tensor | None) -> Tensor:
        """[B, F]: what `solve` is given of each training cell. For `trained = "once"` only."""
        raise NotImplementedError(f"Fusion '{self.name}' is trained by gradient.")

    def solve(self, features: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Set the parameters from all training cells at once. For `trained = "once"` only.

        Args:
            features: [N, F], of `features`, ascending cell ids.
            labels: [N] int64.
            weights: [K], the recipe's class weights.
        """
        raise NotImplementedError(f"Fusion '{self.name}' is trained by gradient.")

    def head_params(self) -> dict[str, list[nn.Parameter]]:
        """Route -> the parameters that only this route uses. For policies that modulate gradients."""
        return {}


def _labels(out: Output) -> Tensor:
    if out.labels is None:
        raise RuntimeError("The core attaches labels to every route before the loss; this output has none.")
    return out.labels


__all__ = ["JOINT", "Deployed", "Fusion", "route_names"]
