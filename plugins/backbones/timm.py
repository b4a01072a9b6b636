"""Any timm model as a backbone: `--backbone resnet18`, `--backbone convnext_atto`, ...

Every registered timm name is accepted in place of this component's name. Embedding and stage maps come
from timm's own `forward_features` / `forward_head` / `forward_intermediates`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from wbcbench_plugins.backbones._timm_weights import load_weights

from wbcbench.contracts import Backbone, Features, Parameters, param
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
        drop_rate: float = param(0.0, "Dropout before the classifier.", ge=0, lt=1, search=(0.0, 0.5))
        drop_path_rate: float = param(0.0, "Stochastic depth.", ge=0, lt=1, search=(0.0, 0.3))

    params: Params

    def __init__(self, in_chans: int, image_size: int, params: Params, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        if width != 1.0:
            raise IncompatibleError(
                f"Backbone '{params.model}' has no width to scale, but width {width:g} was requested. "
                "Choose a wider timm model, or the built-in 'cellnet'."
            )
        self.net: Any = create(params, in_chans, image_size)
        # The pooled width is not a uniform attribute across timm's families, so ask the model itself.
        was_training = self.net.training
        self.net.eval()
        try:
            with torch.no_grad(), _Dropouts() as dropouts:
                self.dim = int(self(torch.zeros(1, in_chans, image_size, image_size)).embedding.shape[1])
        except (RuntimeError, AssertionError, ValueError) as error:
            raise IncompatibleError(
                f"timm model '{params.model}' cannot read {in_chans} channels of {image_size} px: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}. Choose another size "
                "(--image-size, of teachers --set teacher.image_size=224) or another model."
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
        # A plain list: the modules belong to `net` and must not be registered twice.
        self._parts: list[list[Any]] = take_apart(self.net)

    @property
    def stage_count(self) -> int:
        return len(self._parts)

    def stage(self, number: int, x: Tensor) -> Tensor:
        for module in self._parts[number]:
            x = module(x)
        return x

    def forward(self, x: Tensor, maps: bool = False) -> Features:
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
