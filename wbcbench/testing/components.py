"""The component under test, and the first promise of every contract: it is built, and returns what it should."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from wbcbench.contracts import (
    Batch,
    Cells,
    Dataset,
    Description,
    Distiller,
    DoesBackward,
    Features,
    Fusion,
    Output,
    PerCell,
    Policy,
    Progress,
    SolvedOnce,
    Task,
    TransformsLogits,
)
from wbcbench.errors import DataError, PluginError
from wbcbench.registry import Component, Registry
from wbcbench.registry.loading import load_plugins
from wbcbench.testing.promise import TENSORS, BrokenPromise, held, made, promise, returned, returned_terms
from wbcbench.testing.toys import noise, policy_step, toy_batch, toy_draw, toy_factory
from wbcbench.training.supervision import with_labels


@cache
def registry() -> Registry:
    """All components that are installed, loaded once per process."""
    return load_plugins()[0]


def component_class(kind: str, which: Any) -> Any:
    """The class under test.

    Args:
        kind: `fusion`, `distiller` and so on.
        which: the class itself, a registered name, or the `Path` of a plugin file that holds one of the kind.

    Raises:
        PluginError: the file cannot be imported, or holds none of the kind, or several.
    """
    if isinstance(which, str):
        return registry().load(registry().resolve(kind, which).component)
    if isinstance(which, Path):
        return Registry().load(_component_in(which, kind))
    return which


def _component_in(path: Path, kind: str) -> Component:
    from wbcbench.registry.probe import class_components
    from wbcbench.registry.provenance import import_file

    skipped: list[str] = []
    try:
        found = [c for c in class_components(import_file(path), f"local.{path.stem}", skipped) if c.kind == kind]
    except Exception as error:
        raise PluginError(
            f"Expected a {kind} in {path}, but it cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if len(found) != 1:
        names = ", ".join(c.name for c in found) or "none"
        why = " ".join([f"found {names}.", *(f"{s}." for s in skipped)])
        raise PluginError(f"Expected one {kind} in {path}, but {why} Give the test the class itself.")
    return found[0]


START = Progress(epoch=0, epochs=1, step=0, steps=1)
_OUTPUT = "Output(logits, embedding, reads=frozenset(...), head=self.head)"


def fusion_types(cls: type[Fusion], task: Task, params: Mapping[str, Any]) -> None:
    """Build a fusion and call what a step and an evaluation call."""
    fusion: Fusion = made(cls, "task, backbone, params", task, toy_factory(task), cls.Params(**params))
    batch = toy_batch(task)
    images = batch.images
    batch = _batch(fusion.assemble(batch, toy_draw()), "assemble")
    if batch.rows is not None:
        images = {m: x[batch.rows[m]] for m, x in images.items()}
    fix = f'Return a dict with one {_OUTPUT} per route, such as {{"joint": Output(...)}}.'
    outputs = returned(fusion(images), dict, "forward", "a dict of route -> Output", fix)
    for route, out in outputs.items():
        held(out, Output, f"Route '{route}'", "forward", "an Output", f"Wrap it: {_OUTPUT}.")
        _output(out, f"route '{route}'", "forward")
        rows, classes = len(next(iter(images.values()))), task.n_classes
        promise(
            out.logits.shape == (rows, classes),
            f"Route '{route}' has logits {list(out.logits.shape)} for {rows} cells and {classes} classes.",
            f"Logits are [B, K], here [{rows}, {classes}]: one row a cell, one column a class.",
            "forward",
        )
    returned_terms(fusion.task_terms(with_labels(outputs, batch), batch, START), "task_terms")
    fix = "Return probabilities [B, K]."
    returned(fusion.predict(outputs), Tensor, "predict", "a tensor", fix)
    if isinstance(fusion, SolvedOnce):
        returned(fusion.features(images, None), Tensor, "features", "a tensor", "Return features [B, F].")
    returned(fusion.deploy(), nn.Module, "deploy", "a module", "Return an nn.Module: images -> probabilities.")


def distiller_types(build: Callable[[], Distiller], student: Output, teacher: Output) -> None:
    """Call what a distiller adds to a step."""
    distiller = build()
    try:
        if isinstance(distiller, TransformsLogits):
            fix = "Return dataclasses.replace(out, logits=...)."
            _output(
                returned(distiller.transform(student), Output, "transform", "an Output", fix), "it", "transform"
            )
        returned_terms(distiller.terms(student, teacher, START), "terms")
    except (AttributeError, TypeError) as error:
        if "Output" not in str(error):
            raise
        raise BrokenPromise(
            f"It raised {type(error).__name__}: {error}.",
            "`student` and `teacher` are Outputs: read student.logits, student.embedding, student.maps.",
            "terms",
        ) from error


def backbone_types(net: Any, channels: int, size: int) -> None:
    """Call a backbone with and without maps, and stage by stage."""
    dim = getattr(net, "dim", None)
    held(dim, int, "`self.dim`", "__init__", "a whole number", "Set `self.dim`, the embedding's width, there.")
    x = noise(type(net), 2, channels, size)
    for maps in (False, True):
        fix = "Return Features(embedding, maps if asked for, else ())."
        features = returned(net(x, maps=maps), Features, "forward", "a Features", fix)
        held(features.embedding, Tensor, "The embedding", "forward", "a tensor [B, D]", TENSORS)
        _maps(features.maps, "the features", "forward")
    for number in range(net.stage_count):
        x = returned(net.stage(number, x), Tensor, "stage", "a tensor", "Return the stage's map [B, C, H, W].")


def policy_types(policy: Policy, fusion: Fusion, task: Task) -> None:
    """Run one training step with a fusion and check what each hook returns. May raise `IncompatibleError`."""
    try:
        policy.setup(fusion)
    except IndexError:
        if policy._fusion:
            raise
    promise(
        policy._fusion,
        "`setup` does not call `super().setup(fusion)`, so that there is no `self.fusion`.",
        "Write `super().setup(fusion)` as its first line.",
        "setup",
    )
    for hook in ("assemble", "images"):
        _watch(policy, hook, partial(_batch, method=hook))
    _watch(policy, "task_terms", lambda value: returned_terms(value, "task_terms"))
    fix = "Return True where it has done the backward pass, else False."
    if isinstance(policy, DoesBackward):
        _watch(policy, "backward", lambda value: returned(value, bool, "backward", "True or False", fix))
    if isinstance(policy, PerCell):
        policy.setup_cells(200)
    try:
        policy_step(fusion, [policy], toy_batch(task), Progress(0, 2, 0, 1, toy_draw()))
    except RuntimeError as error:
        if "does not require grad" not in str(error):  # reported by another promise
            raise


def dataset_types(dataset: Dataset, side: int) -> None:
    """Describe a data set and load it."""
    promise(
        "params" in vars(dataset),
        "It has no `self.params`: `__init__` does not reach `super().__init__(params)`.",
        "Write `super().__init__(params)` as its first line.",
        "__init__",
    )
    fix = "Return Description(modalities, classes, cells, fingerprint, ...)."
    said: Description = returned(dataset.describe(), Description, "describe", "a Description", fix)
    fix = "Return Cells(images, labels, classes, fingerprint, ...)."
    try:
        cells: Cells = returned(dataset.load(said.image_size or side), Cells, "load", "a Cells", fix)
    except DataError as error:
        raise BrokenPromise(str(error), "See wbcbench.contracts.Cells for every shape.", "load") from error
    held(cells.images, Mapping, "`images`", "load", "a dict of modality -> array", "Give it a name: {'image': x}.")
    arrays = {f"`images['{m}']`": x for m, x in cells.images.items()} | {"`labels`": cells.labels}
    optional = {"`groups`": cells.groups, "`split`": cells.split, "`present`": cells.present}
    for name, value in {**arrays, **{k: v for k, v in optional.items() if v is not None}}.items():
        held(value, np.ndarray, name, "load", "a numpy array", "Wrap it: numpy.asarray(...).")
    returned(dataset.public_params(), dict, "public_params", "a dict", "Return a dict that JSON can hold.")


def _batch(value: object, method: str) -> Batch:
    batch: Batch = returned(value, Batch, method, "a Batch", "Return the batch that it was given.")
    held(batch.images, dict, "`batch.images`", method, "a dict of modality -> tensor", "Replace it by a dict.")
    held(
        batch.rows, (dict, type(None)), "`batch.rows`", method, "a dict of modality -> rows",
        "Set batch.rows = {m: rows for m in ...}, [R] int64 each.",
    )  # fmt: skip
    for name, part in (("images", batch.images), ("rows", batch.rows or {})):
        for m, value in part.items():
            held(value, Tensor, f"`batch.{name}['{m}']`", method, "a tensor", TENSORS)
    return batch


def _output(out: Output, whose: str, method: str) -> None:
    held(out.logits, Tensor, f"`logits` of {whose}", method, "a tensor [B, K]", TENSORS)
    for name, kind, wanted in (
        ("embedding", Tensor, "a tensor [B, D]"), ("rows", Tensor, "a tensor [B] of positions"),
        ("head", Callable, "a callable"),
    ):  # fmt: skip
        value = getattr(out, name)
        if value is not None:
            held(value, kind, f"`{name}` of {whose}", method, wanted, f"Set Output's `{name}`.")  # type: ignore[arg-type]
    held(
        out.reads, Set, f"`reads` of {whose}", method, "a frozenset of modalities",
        "Write reads=frozenset({...}), the modalities that the route reads.",
    )  # fmt: skip
    _maps(out.maps, whose, method)


def _maps(maps: object, whose: str, method: str) -> None:
    fix = "Write maps=tuple(...), tensors [B, C, H, W] from shallow to deep, or ()."
    held(maps, (tuple, list), f"`maps` of {whose}", method, "a tuple of tensors", fix)
    for x in maps:  # type: ignore[attr-defined]
        held(x, Tensor, f"A map of {whose}", method, "a tensor", fix)


def _watch(policy: Policy, hook: str, look: Callable[[Any], object]) -> None:
    original = getattr(policy, hook)

    def watched(*given: Any) -> Any:
        value = original(*given)
        look(value)
        return value

    setattr(policy, hook, watched)
