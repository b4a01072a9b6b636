"""Any timm model as a backbone: `--backbone resnet18`, `--backbone convnext_atto`, ...

Every registered timm name is accepted in place of this component's name. Embedding and stage maps come
from timm's own `forward_features` / `forward_head` / `forward_intermediates`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from wbcbench_plugins.backbones._timm_weights import load_weights

from wbcbench.contracts import Backbone, Features, Parameters, Renormalise, param
from wbcbench.data.cache import file_digest
from wbcbench.errors import DataError, IncompatibleError


class Timm(Backbone):
    """Any timm model, by its timm name."""

    name = "timm"
    source = "Wightman, PyTorch Image Models (timm)"
    family = "wbcbench_plugins.backbones._timm_names:timm_model_names"
    scalable = False

    class Params(Parameters):
        model: str = param("resnet18", "The model's timm name.")
        pretrained: bool = param(
            False, "Start from timm's weights; they must be in timm's cache already.", when="checkpoint = "
        )
        checkpoint: str = param("", "Start from a local weights file (.safetensors, or .pth without code).")
        checkpoint_sha256: str = param(
            "", "SHA-256 of the checkpoint; filled in automatically.", digest_of="checkpoint"
        )
        drop_rate: float = param(
            0.0, "Dropout before the classifier.", ge=0, lt=1, search=(0.0, 0.5), when="freeze != all"
        )
        drop_path_rate: float = param(
            0.0, "Stochastic depth.", ge=0, lt=1, search=(0.0, 0.3), when="freeze != all"
        )
        normalise: Literal["standard", "pretrained"] = param(
            "standard",
            "standard: mean 0, sd 1 over the training cells, a grey stem adapted. pretrained: mean and sd of "
            "timm's pretraining for this model, grey images repeated for its three channels.",
            later=True,
        )
        freeze: str = param(
            "none",
            "Weights that are not trained: none, all, or stages:N, the stem and the first N stages (of a "
            "transformer: blocks). Their norms keep their statistics.",
            later=True,
        )
        views: int = param(
            8,
            "Different views of each training cell that a frozen network embeds, after which they repeat.",
            ge=1,
            le=1000,
            later=True,
            when="freeze = all",
        )
        lr_decay: float = param(
            1.0,
            "Factor on the learning rate per layer, from the last one down, as in timm (0.75 is usual for "
            "transformers); 1: off.",
            gt=0,
            le=1,
            later=True,
            when="freeze != all",
        )

    params: Params

    def __init__(self, in_chans: int, image_size: int, params: Params, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        if width != 1.0:
            raise IncompatibleError(
                f"Backbone '{params.model}' has no width to scale, but width {width:g} was requested. "
                "Choose a wider timm model, or the built-in 'cellnet'."
            )
        self.renormalise: Renormalise | None = None
        if params.normalise == "pretrained":
            import timm

            config = timm.get_pretrained_cfg(params.model)
            if config is None:
                raise IncompatibleError(
                    f"timm knows no pretraining of '{params.model}', so normalise=pretrained has no mean and sd. "
                    "Leave it out."
                )
            self.renormalise = Renormalise(in_chans, config.mean, config.std)
        self.net: Any = create(
            params, self.renormalise.out_chans if self.renormalise is not None else in_chans, image_size
        )
        # The pooled width is not a uniform attribute across timm's families, so ask the model itself.
        was_training = self.net.training
        self.net.eval()
        try:
            with torch.no_grad(), _Dropouts() as dropouts:
                self.dim = int(self(torch.zeros(1, in_chans, image_size, image_size)).embedding.shape[1])
        except (RuntimeError, AssertionError, ValueError) as error:
            why = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise IncompatibleError(
                f"timm model '{params.model}' cannot read {in_chans} channels of {image_size} px: {why}. Choose "
                "another size (--image-size, of teachers --set teacher.image_size=224) or another model."
            ) from error
        if params.drop_rate and params.drop_rate not in dropouts.rates:
            raise IncompatibleError(
                f"timm model '{params.model}' has no dropout before its classifier, so drop_rate = "
                f"{params.drop_rate:g} has no effect. Leave it out."
            )
        if params.drop_path_rate and not any(getattr(m, "drop_prob", None) for m in self.net.modules()):
            raise IncompatibleError(
                f"timm model '{params.model}' has no stochastic depth, so drop_path_rate = "
                f"{params.drop_path_rate:g} has no effect. Leave it out."
            )
        self.net.train(was_training)
        self._fixed = freeze(self.net, params)
        self.train(was_training)
        # A plain list: the modules belong to `net` and must not be registered twice.
        self._parts: list[list[Any]] = take_apart(self.net)

    def train(self, mode: bool = True) -> Timm:
        """Frozen modules stay in eval mode: their norms keep their statistics, and nothing is dropped."""
        super().train(mode)
        for module in self._fixed:
            module.eval()
        return self

    @property
    def frozen_views(self) -> int:
        return self.params.views if self.params.freeze == "all" else 0

    def rate_factors(self) -> Iterator[tuple[nn.Parameter, float]]:
        if self.params.lr_decay == 1:
            return
        layers = grouped(self.net, self.params.model, coarse=False)
        for parameter, layer in layers.values():
            yield parameter, self.params.lr_decay ** (max(n for _, n in layers.values()) - layer)

    def _read(self, x: Tensor) -> Tensor:
        return x if self.renormalise is None else self.renormalise(x)

    @property
    def stage_count(self) -> int:
        return len(self._parts)

    def stage(self, number: int, x: Tensor) -> Tensor:
        x = self._read(x) if number == 0 else x
        for module in self._parts[number]:
            x = module(x)
        return x

    def forward(self, x: Tensor, maps: bool = False) -> Features:
        x = self._read(x)
        if not maps:
            return Features(self.net.forward_head(self.net.forward_features(x), pre_logits=True))
        final, stages = self.net.forward_intermediates(x, output_fmt="NCHW")
        return Features(self.net.forward_head(final, pre_logits=True), maps=tuple(stages))


class _Dropouts(TorchFunctionMode):
    """Collects the rates of dropout that a forward pass applies, or would in training."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: set[float] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").startswith("dropout"):
            self.rates |= {float(v) for v in (*args[1:2], (kwargs or {}).get("p")) if v is not None}
        return func(*args, **(kwargs or {}))


def create(params: Timm.Params, in_chans: int, image_size: int) -> Any:
    """A timm model without classifier; weights only from a local file or timm's own cache."""
    import timm

    kwargs: dict[str, Any] = {"in_chans": in_chans, "num_classes": 0}
    if params.drop_rate:
        kwargs["drop_rate"] = params.drop_rate
    if params.drop_path_rate:
        kwargs["drop_path_rate"] = params.drop_path_rate
    if params.checkpoint:
        path = Path(params.checkpoint)
        if not path.is_file():
            raise DataError(f"Expected a weights file, but {path} is not there. Check backbone.checkpoint.")
        if params.checkpoint_sha256 and file_digest(path) != params.checkpoint_sha256:
            raise DataError(f"The weights file {path} has changed since the trial was planned. Run it again.")
    if params.pretrained:
        _require_cached(params.model)
    try:
        net = _with_image_size(timm.create_model, params.model, image_size, params.pretrained, kwargs)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise IncompatibleError(
            f"timm model '{params.model}' cannot be built for {in_chans} channels of {image_size} px: {error}"
        ) from error
    if params.checkpoint:
        load_weights(net, Path(params.checkpoint), params.model, in_chans)
    return net


def grouped(net: Any, model: str, coarse: bool) -> dict[str, tuple[nn.Parameter, int]]:
    """Name -> parameter and its layer, by timm's own grouping: the stem is 0, then stages (`coarse`) or blocks.

    Raises:
        IncompatibleError: timm does not group the layers of this model.
    """
    import timm

    try:
        layers = timm.models.group_parameters(net, net.group_matcher(coarse=coarse), reverse=True)
    except (AttributeError, AssertionError, TypeError) as error:
        raise IncompatibleError(
            f"timm does not say how the layers of '{model}' follow each other, so freeze=stages:N and lr_decay do "
            "not work with it. Use freeze=all, or another model."
        ) from error
    return {name: (parameter, int(layers[name])) for name, parameter in net.named_parameters()}


def freeze(net: Any, params: Timm.Params) -> list[nn.Module]:
    """Take out of training what `params.freeze` names; returns the modules without trained parameters.

    Raises:
        IncompatibleError: another word, stages that the model does not have, or random weights would be frozen.
    """
    if params.freeze == "none":
        return []
    if not re.fullmatch(r"all|stages:[1-9]\d*", params.freeze):
        raise IncompatibleError(
            f"Expected freeze of none, all or stages:N, such as stages:2, but got {params.freeze}."
        )
    if not (params.pretrained or params.checkpoint):
        raise IncompatibleError(
            f"timm model '{params.model}' would keep random weights with freeze={params.freeze}. Start from "
            "trained ones (pretrained=true, or checkpoint=weights.safetensors), or leave freeze out."
        )
    if params.freeze == "all":
        net.requires_grad_(False)
        return [net]
    count, layers = int(params.freeze.partition(":")[2]), grouped(net, params.model, coarse=True)
    last = max(layer for _, layer in layers.values())
    if count >= last:
        raise IncompatibleError(
            f"timm model '{params.model}' has {last} stages after its stem, but freeze=stages:{count} leaves none "
            f"to train. Use 1 to {last - 1}, or freeze=all."
        )
    for parameter, layer in layers.values():
        parameter.requires_grad_(layer > count)
    return list(_untrained(net))


def _untrained(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that have parameters, none of them trained."""
    trained = [p.requires_grad for p in module.parameters()]
    if trained and not any(trained):
        yield module
    else:
        for child in module.children():
            yield from _untrained(child)


def take_apart(net: Any) -> list[list[Any]]:
    """The net's own modules, grouped by stage; empty for nets whose stages are not a plain sequence.

    Each stage ends where timm's `feature_info` reports its map.
    """
    from timm.models._features import FeatureListNet

    infos = list(getattr(net, "feature_info", None) or [])
    if len({info.get("reduction") for info in infos}) < 2:
        return []  # a plain transformer: its blocks pass tokens on, not maps
    names = [info["module"] for info in infos]
    for flatten in (False, True):
        try:
            cut = FeatureListNet(net, out_indices=tuple(range(len(names))), flatten_sequential=flatten)
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            continue
        parts: list[list[Any]] = [[]]
        for name, module in cut.items():
            parts[-1].append(module)
            if name in cut.return_layers:
                parts.append([])
        if names and len(parts) == len(names) + 1 and not parts[-1]:
            return parts[:-1]
    return []


def _with_image_size(build: Any, model: str, size: int, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    # Transformers fix the image side when they are built; convolutional models know no such argument.
    try:
        return build(model, pretrained=pretrained, img_size=size, **kwargs)
    except TypeError:
        return build(model, pretrained=pretrained, **kwargs)


def _require_cached(model: str) -> None:
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        return
    names = ("model.safetensors", "pytorch_model.bin")
    if not any(isinstance(try_to_load_from_cache(config.hf_hub_id, n), str) for n in names):
        raise DataError(
            f"Weights of '{model}' are not in timm's cache, and nothing is downloaded automatically. "
            f"Fetch them once: python -c \"import timm; timm.create_model('{model}', pretrained=True)\", "
            "or give a file: --set backbone.checkpoint=weights.safetensors"
        )
