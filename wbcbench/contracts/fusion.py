"""What a fusion promises: M modality images in, one prediction per route out; and its form for inference."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcbench.contracts import previous
from wbcbench.contracts.backbone import BackboneFactory
from wbcbench.contracts.needs import JOINT, FusionTraits, route_names
from wbcbench.contracts.output import Batch, Draw, Output, Outputs, Progress, Task
from wbcbench.contracts.params import Parameters
from wbcbench.errors import IncompatibleError

T = TypeVar("T", bound=nn.Module)


class PerModality(nn.ModuleDict):
    """Modules of one modality each (backbones, heads), not needed if that modality is always absent.

    `Fusion.deploy` leaves out those of absent modalities. So a fusion that keeps modules here loops over them, or
    checks `m in self.backbones`, and uses zeros for the output of an absent modality.
    """

    def __init__(self, modules: Mapping[str, nn.Module], owners: Mapping[str, str] | None = None) -> None:
        """`owners`: key -> modality, where the keys are not the modalities themselves."""
        super().__init__(modules)
        self.owners = {key: key for key in modules} if owners is None else dict(owners)


def without(module: T, absent: frozenset[str]) -> T:
    """The module without entries of `PerModality` that belong to absent modalities; parameters are shared."""
    if not any(isinstance(m, PerModality) for m in module.modules()):
        return module
    twin = copy.copy(module)
    gone = {k for k, m in module.owners.items() if m in absent} if isinstance(module, PerModality) else set()
    twin._modules = {
        name: None if child is None else without(child, absent)
        for name, child in module._modules.items()
        if name not in gone
    }
    return twin


class Deployed(nn.Module):
    """A fusion as inference runs it: images in, probabilities out."""

    def __init__(self, fusion: Fusion, present: tuple[str, ...] | None = None) -> None:
        """`present`: the modalities whose images are given, at least one; None: all."""
        super().__init__()
        self.fusion = fusion
        self.present = present

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        if self.present is None:
            return self.fusion.predict(self.fusion(images))
        task, some = self.fusion.task, images[self.present[0]]
        rows = some.shape[0]
        here = torch.tensor([m in self.present for m in task.modalities], device=some.device).expand(rows, -1)
        # The training mean is zero after normalisation; a fusion with another imputation does it itself.
        seen = {m: images[m] if m in self.present else some.new_zeros(rows, *task.shape(m)) for m in task.channels}
        return self.fusion.predict(self.fusion(seen, here), here)


class Fusion(nn.Module):
    """A way of turning modality images into predictions. Owns its backbones and its task loss.

    A subclass has a `name`, an `__init__` and a `forward`, and `Params` if it has parameters. `traits`
    declares what differs from the defaults; optional base classes are for what few fusions need: `Combiner`,
    `SolvedOnce`, `OwnHeads`, `AddsLogits`. The class attributes are read once, when the file is new or was edited,
    and cached: they may be computed, but not from anything that changes between two runs.
    """

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    """Paper and equation."""
    traits: ClassVar[FusionTraits] = FusionTraits()

    Params: ClassVar[type[Parameters]] = Parameters
    """Typed parameters: a nested `class Params(Parameters)`, each declared with `param`."""
    params: Any

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        previous.adopt(cls)

    def __init__(self, task: Task, backbone: BackboneFactory, params: Parameters) -> None:
        super().__init__()
        self.task = task
        self.params = params

    @property
    def routes(self) -> tuple[str, ...]:
        """Names of the routes that `forward` returns."""
        return route_names(self.traits.emits, self.task.modalities)

    def assemble(self, batch: Batch, draw: Draw) -> Batch:
        """Decide which cell each modality shows (set `batch.rows`). Called in training only.

        `forward` must never do this depending on `self.training`. What it must know about each row goes into
        `batch.extras[self.name]` as a mapping of tensors [R, ...]; keep `batch.extras` itself, since a policy may
        call this again to add rows. Default: the same cell everywhere.
        """
        return batch

    @abstractmethod
    def forward(self, images: dict[str, Tensor], present: Tensor | None = None, maps: bool = False) -> Outputs:
        """Predict.

        Args:
            images: modality -> [B, C_m, S, S] float, normalised to mean 0, sd 1 over training cells; [B, F_m] of a
                vector, likewise, where missing numbers are the median of the training cells.
            present: [B, M] bool, canonical modality order; None: nothing is absent.
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

    def deploy(self, present: tuple[str, ...] | None = None) -> nn.Module:
        """The module that inference runs when only the modalities `present` are given; its cost is counted.

        The module maps images (a dict) of just those modalities to probabilities [B, K]: what `predict`
        gives for cells without the others. Default: this fusion; where it is `native`, without the entries of
        `PerModality` that belong to absent modalities. One that imputes reads the filled-in images, so
        its cost is the same as with all modalities.

        Raises:
            IncompatibleError: some are absent, and this fusion refuses that.
        """
        names = self.task.modalities
        given = names if present is None else tuple(m for m in names if m in present)
        if not given or not set(present or ()) <= set(names):
            raise ValueError(f"Expected some of the modalities {names}, but got {present}.")
        if given == names:
            return Deployed(self)
        if self.traits.missing == "refuse":
            raise IncompatibleError(f"Fusion '{self.name}' needs all of {', '.join(names)}; give them all.")
        native = self.traits.missing == "native"
        return Deployed(without(self, frozenset(names) - set(given)) if native else self, given)


class Combiner:
    """Base class of fusions with something to fit on validation cells: `class Stacking(Combiner, Fusion)`."""

    @abstractmethod
    def fit_combiner(self, val_outputs: Outputs, labels: Tensor) -> None:
        """Fit whatever combines routes (weights, temperatures) on validation outputs.

        The outputs are of the validation cells that have every modality, if each class has such cells. The core
        calls this several times, each time from the initial state: on all folds but one, to predict that one for
        the validation metrics, and finally on all cells, for the test. A fold may lack a class.
        """


class SolvedOnce:
    """Base class of fusions set from all training cells at once: `class Majority(SolvedOnce, Fusion)`.

    In place of the training loop, the core calls `features` on every training cell and then `solve`. Such a fusion
    takes neither distillers nor policies.
    """

    @abstractmethod
    def features(self, images: dict[str, Tensor], present: Tensor | None) -> Tensor:
        """[B, F]: the features of each training cell that `solve` gets."""

    @abstractmethod
    def solve(self, features: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Set the parameters.

        Args:
            features: [N, F], from `features`, in ascending order of cell ids.
            labels: [N] int64.
            weights: [K], the recipe's class weights.
        """


class DrawsSlots:
    """Base class of fusions whose modalities may show any cell of the epoch, not only those of the batch."""

    @abstractmethod
    def slots(self, order: Sequence[Tensor], draw: Draw) -> dict[str, list[Tensor]] | None:
        """Which cells each modality shows in every step of an epoch; called once per epoch.

        Args:
            order: per step, the ids [R] of its cells.
            draw: random numbers of the epoch.

        Returns:
            Modality -> per step, the ids [R] that the rows show. `assemble` is then called with `batch.rows` set.
            None: `assemble` decides, as in other fusions.
        """


class OwnHeads:
    """Base class of fusions whose routes have parameters outside of an `nn.ModuleDict` by modality."""

    @abstractmethod
    def head_params(self) -> dict[str, list[nn.Parameter]]:
        """Route -> the parameters that only this route uses. For policies that modulate gradients."""


class AddsLogits:
    """Base class of fusions whose joint head sums the logits of the modalities."""

    @abstractmethod
    def modality_logits(self, outputs: Outputs) -> dict[str, Tensor]:
        """Modality -> logits [R, K] of that modality alone; they sum to those of the joint head.

        Empty if the chosen parameters do not allow it. `traits.offers` contains `logits`.
        """


def modality_logits(fusion: Fusion, outputs: Outputs) -> dict[str, Tensor]:
    """Modality -> logits [R, K] of that modality alone: of its route, or from `AddsLogits`."""
    if isinstance(fusion, AddsLogits):
        return fusion.modality_logits(outputs)
    return {m: outputs[m].logits for m in fusion.task.modalities if m in outputs}


def _labels(out: Output) -> Tensor:
    if out.labels is None:
        raise RuntimeError("The core attaches labels to every route before the loss; this output has none.")
    return out.labels


previous.keep_readable(Fusion)


__all__ = [
    "JOINT",
    "AddsLogits",
    "Combiner",
    "Deployed",
    "DrawsSlots",
    "Fusion",
    "OwnHeads",
    "PerModality",
    "SolvedOnce",
    "modality_logits",
    "route_names",
    "without",
]
