"""Whether a component's parameters have an effect: what two values of one change in a few training steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args, get_origin

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from wbcbench.contracts import (
    Backbone,
    Batch,
    Combiner,
    Distiller,
    Fusion,
    Output,
    Outputs,
    PairShapes,
    Policy,
    Progress,
    Routing,
    SolvedOnce,
    TakesStep,
)
from wbcbench.contracts.needs import RouteTeachers
from wbcbench.contracts.params import condition_of, describe_params, holds, names_in
from wbcbench.errors import IncompatibleError, WbcbenchError
from wbcbench.spec import Recipe
from wbcbench.testing.promise import BrokenPromise
from wbcbench.testing.toys import build_toy, end_epoch, noise, policy_step, set_up, toy_batch, toy_draw, toy_task
from wbcbench.training.distillation import Distillation
from wbcbench.training.loop import make_optimiser, set_learning_rate

Trace = Callable[..., Tensor]
"""`trace(params, **facts)`: numbers that describe some training steps of a component with these parameters."""


def alternatives(params: type[BaseModel], given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """For every parameter, valid values other than its default, from its search space or its type."""
    found: dict[str, list[Any]] = {}
    for row in describe_params(params):
        name, default, search = row["name"], given.get(row["name"], row["default"]), row["search"]
        annotation = params.model_fields[name].annotation
        options: list[Any] = []
        if search and "choices" in search:
            options = list(search["choices"])
        elif search:
            low, high = search["low"], search["high"]
            options = [(low * high) ** 0.5 if search["log"] else (low + high) / 2, low, high]
        if isinstance(default, bool):
            options = [not default]
        elif isinstance(default, int | float):
            options = [type(default)(v) for v in [*options, default * 2 + 1, default / 2, 2, 1, 0, 0.5]]
        elif not options and "Literal" in str(get_origin(annotation)):
            options = list(get_args(annotation))
        found[name] = [v for v in options if v != default and _valid(params, {**given, name: v})]
    return {name: values for name, values in found.items() if values}


def _valid(params: type[BaseModel], values: Mapping[str, Any]) -> bool:
    try:
        params(**values)
    except ValidationError:
        return False
    return True


def contexts(
    params: type[BaseModel], given: Mapping[str, Any], name: str, facts: Mapping[str, tuple[Any, Any]]
) -> Iterator[tuple[bool, dict[str, Any], dict[str, Any]]]:
    """Where a parameter has an effect and where not: whether it should have, other parameters, facts.

    Args:
        params: the component's.
        given: parameters to test with.
        name: of the parameter.
        facts: name -> its usual value, and another one.
    """
    condition = condition_of(params.model_fields[name])
    usual = {k: v[0] for k, v in facts.items()}
    default = {row["name"]: row["default"] for row in describe_params(params)}
    options = alternatives(params, given)
    settings: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, usual)]
    for switch in names_in(condition):
        settings += [({switch: v}, usual) for v in options.get(switch, [])]
        settings += [({}, {**usual, switch: facts[switch][1]})] if switch in facts else []
    seen: set[bool] = set()
    for others, now in settings:
        on = holds(condition, {**default, **given, **others, **now})
        if on not in seen and _valid(params, {**given, **others}):
            seen.add(on)
            yield on, {**given, **others}, now
    written = [n for n in names_in(condition) if n in params.model_fields and n not in options]
    if True not in seen and not written:  # a text, such as a path, has no other values that a test could know
        raise BrokenPromise(
            f"Parameter '{name}' has an effect only where {condition}, which no setting of the component fulfils.",
            "Correct its `when`.",
        )


def check_effects(
    params: type[BaseModel],
    given: Mapping[str, Any],
    trace: Trace,
    method: str,
    facts: Mapping[str, tuple[Any, Any]] | None = None,
    exempt: Collection[str] = (),
) -> None:
    """Raise `BrokenPromise` for a parameter that changes nothing, or something where its `when` says it does not.

    A value that the component refuses with a clear error counts as an effect. Parameters in `exempt` are left out.
    """
    plain: dict[str, Tensor] = {}
    for name, values in alternatives(params, given).items():
        for on, context, now in () if name in exempt else contexts(params, given, name, facts or {}):
            key = repr((sorted(context.items(), key=str), now))
            if key not in plain:
                plain[key] = trace(context, **now)
            changing = [v for v in values if _valid(params, {**context, name: v})]
            # Elsewhere rows may come in another order, and sums be rounded differently.
            tolerance = 1e-6 if on else 1e-3
            before = plain[key]
            changed = next(
                (v for v in changing if _differs(trace, {**context, name: v}, now, before, tolerance)), None
            )
            if on and changing and changed is None:
                raise BrokenPromise(
                    f"Parameter '{name}' set to any of {changing} changes nothing: no loss, gradient, parameter, "
                    "batch or prediction.",
                    f"Use `self.params.{name}`, remove it, or declare where it has an effect: "
                    'param(..., when="other = value").',
                    method,
                )
            if not on and changed is not None:
                raise BrokenPromise(
                    f"Parameter '{name}' = {changed} has an effect although its `when` "
                    f"({condition_of(params.model_fields[name])}) does not hold.",
                    "Correct its `when`: elsewhere the program refuses the parameter.",
                    method,
                )


def _differs(
    trace: Trace, params: Mapping[str, Any], facts: Mapping[str, Any], plain: Tensor, tolerance: float = 1e-6
) -> bool:
    try:
        found = trace(params, **facts)
    except WbcbenchError:
        return True
    return found.shape != plain.shape or not torch.allclose(
        found, plain, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True
    )


def _gradients(module: nn.Module) -> Tensor:
    """One number per parameter: of its gradient, and of its value, with the order of elements."""
    numbers = []
    for p in module.parameters():
        ramp = torch.linspace(1, 2, p.numel(), dtype=torch.float64).view(p.shape)
        numbers.append((p.detach().double() * ramp).sum())
        numbers.append(numbers[-1] * 0 if p.grad is None else (p.grad.double() * ramp).sum())
    return torch.stack(numbers) if numbers else torch.zeros(0, dtype=torch.float64)


def _sgd(*modules: nn.Module) -> torch.optim.Optimizer:
    params = [p for m in modules for p in m.parameters() if p.requires_grad]
    return torch.optim.SGD(params or [torch.zeros(1)], 0.05, momentum=0.9)


SEEDS = 4
"""Networks and batches that a fusion's parameter is tried on: a choice among networks may fall on the same one."""


def fusion_trace(cls: type[Fusion], params: Mapping[str, Any], modalities: int = 2) -> Tensor:
    """Losses, gradients and predictions of a fusion at the start, the middle and the end of training."""
    numbers: list[Tensor] = []
    for seed in range(SEEDS if issubclass(cls, Combiner) else 1):
        fusion = build_toy(cls, toy_task(modalities), seed=seed, **params).train()
        optimiser = _sgd(fusion)
        for step, epoch in enumerate((0, 10, 19)):
            batch = toy_batch(fusion.task, cells=12, seed=seed + step)
            if isinstance(fusion, SolvedOnce):
                with torch.no_grad():
                    fusion.solve(fusion.features(batch.images, None), batch.labels, torch.tensor([1.0, 0.5, 1.5]))
                break
            torch.manual_seed(step)
            optimiser.zero_grad()
            terms, _, shown = policy_step(fusion, [], batch, Progress(epoch, 20, 0, 1, toy_draw(step=step)))
            numbers += [torch.stack([t.detach().double() for t in terms.values()]), _gradients(fusion)]
            numbers += [x.double().sum()[None] for x in shown.images.values()]
            optimiser.step()
        with torch.no_grad():
            batch = toy_batch(fusion.task, cells=24, seed=seed)
            outputs = fusion.eval()(batch.images)
            if isinstance(fusion, Combiner):
                fusion.fit_combiner(outputs, torch.arange(24).square() % 3)
            numbers.append(fusion.predict(outputs).double().flatten())
    return torch.cat([n.flatten() for n in numbers])


def policy_trace(
    cls: type[Policy], fusion_cls: type[Fusion], params: Mapping[str, Any], modalities: int = 2
) -> Tensor:
    """Losses, gradients and shown images of a policy over eight epochs of one step, the second of two.

    Two steps, because what a policy compares with the start of an epoch differs in no first step.
    """
    fusion = build_toy(fusion_cls, toy_task(modalities)).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = cls(cls.Params(**params))
        set_up(policy, fusion)
    optimiser = _sgd(fusion, policy)
    numbers = []
    for epoch in range(8):
        for step in range(2 if epoch == 1 else 1):
            progress = Progress(epoch, 8, step, 1 + step, toy_draw(step=epoch))
            torch.manual_seed(epoch)
            optimiser.zero_grad()
            terms, _, shown = policy_step(fusion, [policy], toy_batch(fusion.task, seed=epoch % 3), progress)
            numbers += [torch.stack([t.detach().double() for t in terms.values()]), _gradients(fusion)]
            numbers += [x.double().sum()[None] for x in shown.images.values()]
            optimiser.step()
        losses = {r: 2.0 - 0.1 * epoch * (i + 1) / len(fusion.routes) for i, r in enumerate(fusion.routes)}
        end_epoch(policy, fusion, progress, losses)
    return torch.cat([n.flatten() for n in numbers])


def takes(cls: type[Policy], fusion_cls: type[Fusion], params: Mapping[str, Any], modalities: int) -> bool:
    """Whether a policy accepts a fusion of so many modalities."""
    try:
        policy_trace(cls, fusion_cls, params, modalities)
    except IncompatibleError:
        return False
    return True


def backbone_trace(cls: type[Backbone], params: Mapping[str, Any], size: int) -> Tensor:
    """Embeddings and gradients of a backbone in two training steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = cls(2, 0 if cls.reads == "vectors" else size, cls.Params(**params), 1.0).train()
    optimiser, numbers = make_optimiser(net, Recipe(optimiser="sgd", lr=0.05)), []
    for step in range(2):
        torch.manual_seed(step)
        set_learning_rate(optimiser, 0.05)
        optimiser.zero_grad()
        embedding = net(noise(cls, 4, 2, size)).embedding
        embedding.sum().backward()
        numbers += [embedding.detach().double().flatten(), _gradients(net)]
        optimiser.step()
    return torch.cat(numbers)


def read_images(out: Output, images: Tensor, weights: Tensor) -> Output:
    """The output with logits that depend on images of a modality `u`: z (1 + tanh(x W)), so that they have an
    input gradient, which depends on z.

    Args:
        out: with logits z [B, K].
        images: x [B, ...].
        weights: W [P, K], a constant.
    """
    x = images.detach().requires_grad_()
    return replace(out, logits=out.logits * (1 + torch.tanh(x.flatten(1) @ weights)), inputs={"u": x})


class Freely(nn.Module):
    """A student whose outputs are its parameters, one set for each of two routes."""

    def __init__(self, like: Output) -> None:
        super().__init__()
        self.like = like
        random = torch.Generator().manual_seed(1)

        def near(x: Tensor) -> nn.Parameter:
            return nn.Parameter(x.detach() + 0.1 * torch.randn(x.shape, generator=random))

        self.logits = nn.ParameterList([near(like.logits) for _ in ROUTES])
        assert like.embedding is not None
        self.embeddings = nn.ParameterList([near(like.embedding) for _ in ROUTES])
        self.maps = nn.ModuleList([nn.ParameterList([near(m) for m in like.maps]) for _ in ROUTES])

    def forward(self, images: Any = None, present: Any = None) -> Outputs:
        found = {
            route: Output(
                self.logits[i] * 1.0, self.embeddings[i] * 1.0, tuple(m * 1.0 for m in self.maps[i].parameters()),
                labels=self.like.labels, index=self.like.index, head=self.like.head,
            )
            for i, route in enumerate(ROUTES)
        }  # fmt: skip
        for x in self.like.inputs.values():
            ramp = torch.linspace(-1, 1, x[0].numel() * self.like.logits.shape[1]).view(
                -1, self.like.logits.shape[1]
            )
            found = {route: read_images(out, x, ramp) for route, out in found.items()}
        return found


ROUTES = ("joint", "u")


def distillation_trace(
    build: Callable[[], list[Distiller]],
    routing: Callable[[], Routing],
    student: Output,
    teachers: list[Output],
    shapes: Callable[[Output, Output], PairShapes],
) -> Tensor:
    """Losses and gradients of distillers while a student takes optimiser steps, as in the training loop."""
    net = Freely(student)
    everyone = tuple(range(len(teachers)))
    assigned = tuple(RouteTeachers(route, everyone) for route in ROUTES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kd = Distillation(build, routing, assigned, ROUTES)
        kd.setup(net, lambda route, source: shapes(student, teachers[int(source) if source.isdigit() else 0]))  # type: ignore[arg-type]
    optimiser, numbers = _sgd(net, kd), []
    bank: Any = type("Bank", (), {"answers": lambda self, cells: teachers})()
    assert student.index is not None
    assert student.labels is not None
    batch = Batch(cells=student.index, labels=student.labels, modalities=("u",))
    for epoch in (0, 0, 5, 50):  # the first time fills memory banks
        outputs = net()
        averaged = {} if kd.average is None else kd.average.copy()
        terms = kd.terms(outputs, bank, batch, Progress(epoch, 100, 0, 1), averaged)
        task = torch.stack([o.logits.square().mean() for o in outputs.values()]).sum()
        loss = torch.stack([*terms.values(), torch.zeros(())]).sum()
        optimiser.zero_grad()
        if isinstance(kd.stepper, TakesStep):
            kd.stepper.optimise(optimiser, task, loss)
        else:
            (task + loss).backward()  # type: ignore[no-untyped-call]
            for group in optimiser.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        numbers += [
            torch.stack([t.detach().double() for t in (*terms.values(), task)]),
            _gradients(kd),
            _gradients(net),
        ]
        if not isinstance(kd.stepper, TakesStep):
            optimiser.step()
        kd.after_step(net)  # type: ignore[arg-type]
        if kd.average is not None:
            numbers.append(_gradients(kd.average))
    return torch.cat([n.flatten() for n in numbers])


__all__ = [
    "alternatives",
    "backbone_trace",
    "check_effects",
    "contexts",
    "distillation_trace",
    "fusion_trace",
    "policy_trace",
    "takes",
]
