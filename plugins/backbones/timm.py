"""Any timm model as a backbone: `--backbone resnet18`, `--backbone convnext_atto`, ...

Every registered timm name may stand where this component's name may. Embedding and stage maps come
from timm's own `forward_features` / `forward_head` / `forward_intermediates`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
        pretrained: bool = param(False, "Start from timm's weights; they must be in timm's cache already.")
        checkpoint: str = param("", "Start from a local weights file (.safetensors, or .pth without code).")
        checkpoint_sha256: str = param("", "Of the checkpoint; filled in by itself.", digest_of="checkpoint")
        drop_rate: float = param(0.0, "Dropout before the classifier.", ge=0, lt=1, search=(0.0, 0.5))
        drop_path_rate: float = param(0.0, "Stochastic depth.", ge=0, lt=1, search=(0.0, 0.3))

    params: Params

    def __init__(self, in_chans: int, image_size: int, params: Params, width: float = 1.0) -> None:
        super().__init__(in_chans, image_size, params, width)
        if width != 1.0:
            raise IncompatibleError(
                f"Backbone '{params.model}' has no width to scale, but width {width:g} was asked for. "
                "Choose a wider timm model, or the built-in 'cellnet'."
            )
        self.net: Any = create(params, in_chans, image_size)
        # The pooled width is not a uniform attribute across timm's families, so ask the model itself.
        was_training = self.net.training
        self.net.eval()
        with torch.no_grad():
            self.dim = int(self(torch.zeros(1, in_chans, image_size, image_size)).embedding.shape[1])
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
            raise DataError(f"The weights file {path} is another than the trial was planned with. Run it again.")
    if params.pretrained:
        _require_cached(params.model)
    try:
        net = _with_image_size(timm.create_model, params.model, image_size, params.pretrained, kwargs)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise IncompatibleError(
            f"timm model '{params.model}' cannot be built for {in_chans} channels of {image_size} px: {error}"
        ) from error
    if params.checkpoint:
        timm.models.load_checkpoint(net, params.checkpoint, strict=False, weights_only=True)
    return net


def take_apart(net: Any) -> list[list[Any]]:
    """The net's own modules, grouped by stage; empty for nets whose stages are not a plain sequence.

    Each stage ends where timm's `feature_info` says that its map is ready.
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
            f"Weights of '{model}' are not in timm's cache, and nothing is downloaded behind your back. "
            f"Fetch them once: python -c \"import timm; timm.create_model('{model}', pretrained=True)\", "
            "or give a file: --set backbone.checkpoint=weights.safetensors"
        )
