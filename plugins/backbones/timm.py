"""Any timm model as a backbone: `--backbone resnet18`, `--backbone convnext_atto`, ...

Every registered timm name is accepted in place of this component's name. Embedding and stage maps come
from timm's own `forward_features` / `forward_head` / `forward_intermediates`.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wbcbench.contracts import Backbone, Features, Parameters, param
from wbcbench.data.cache import file_digest
from wbcbench.errors import DataError, IncompatibleError, UsageError

log = logging.getLogger("wbcbench")

ENOUGH = 0.9
"""Share of a network's tensors that a weights file must contain; with fewer, it belongs to another network."""


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
                "(--image-size) or another model."
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


def load_weights(net: Any, path: Path, model: str, in_chans: int) -> None:
    """Load a local weights file into a timm model without classifier, and report what was adapted.

    Raises:
        UsageError: the file cannot be read, or contains the network twice.
        IncompatibleError: the file lacks more than a tenth of the network, or has a tensor in another shape.
    """
    tensors = read_tensors(path)
    own: dict[str, Tensor] = net.state_dict()
    # Integers are counters and lookup tables, which many files leave out.
    wanted = {name: tensor.shape for name, tensor in own.items() if tensor.is_floating_point()}
    stems = {f"{name}.weight" for name in _configured(net, "first_conv")} & wanted.keys()
    stems = {name for name in stems if wanted[name][1] == in_chans}  # not those that fold pixels into channels
    prefix = common_prefix(tensors, wanted, stems, path)
    notes = [f"the prefix '{prefix}' was removed from its keys"] if prefix else []

    given = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    for name in sorted(stems & given.keys()):
        stem, given[name] = given[name], adapt_stem(given[name], wanted[name])
        if given[name] is not stem:
            notes.append(f"its first convolution, {name} {_shape(stem)}, was adapted to other channels")
    for name, tensor in resampled(net, given, wanted).items():
        notes.append(f"{name} {_shape(given[name])} was resampled to {_shape(tensor)} for this image size")
        given[name] = tensor
    fitting = {name: tensor for name, tensor in given.items() if name in own and tensor.shape == own[name].shape}
    reshaped = [name for name in wanted if name in given and name not in fitting]
    missing = [name for name in wanted if name not in given]
    unused = [key for key in tensors if not (key.startswith(prefix) and key.removeprefix(prefix) in fitting)]

    found = len(wanted) - len(missing) - len(reshaped)
    if reshaped or found < ENOUGH * len(wanted):
        shapes = [f"{name} {_shape(given[name])} instead of {_shape(own[name])}" for name in reshaped]
        raise IncompatibleError(
            f"Expected the weights of '{model}' in {path}, but of the network's {len(wanted)} tensors it has "
            f"{found}, and {len(reshaped)} in another shape{_examples(shapes)}. The file has "
            f"{_names(unused or list(tensors))}; {len(unused)} of its {len(tensors)} tensors are not used. "
            f"The network expects {_names(missing or reshaped)}. "
            + "".join(f"({note[0].upper()}{note[1:]}.) " for note in notes)
            + f"Give a state_dict of timm's '{model}', choose the backbone that the file was saved from, "
            "or leave backbone.checkpoint out."
        )
    if missing:
        notes.append(
            f"{len(missing)} of {len(wanted)} tensors are not in it and start untrained{_examples(missing)}"
        )
    # The file's classifier is not used here, whatever its classes.
    heads = tuple(f"{prefix}{name}." for name in _configured(net, "classifier"))
    if strange := [key for key in unused if not key.startswith(heads)]:
        notes.append(f"{len(strange)} of its {len(tensors)} tensors are not used{_examples(strange)}")
    if notes:
        _say_once(f"Weights of '{model}' from {path}: {'; '.join(notes)}.")
    net.load_state_dict(fitting, strict=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, those of nested mappings as `outer.inner`. Runs no code.

    Raises:
        UsageError: it is not such a file, or reading it would run code from it.
    """
    import timm

    try:
        return dict(_tensors(timm.models.load_state_dict(str(path), weights_only=True), ""))
    except Exception as error:  # a damaged file may raise anything in three parsers
        with path.open("rb") as file:
            pickled = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
        if pickled and "weights_only" in str(error):
            raise UsageError(
                f"Expected a weights file with tensors only, but {path} holds Python objects, and loading them "
                "would run code from the file. Save its tensors where you trust it: "
                "torch.save(net.state_dict(), 'weights.pth')"
            ) from error
        why = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
        raise UsageError(
            f"Expected a weights file (.safetensors, or .pth with tensors only), but {path} cannot be read: "
            f"{why}. Save it again: torch.save(net.state_dict(), 'weights.pth')"
        ) from error


def _tensors(document: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in document.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _tensors(value, f"{prefix}{name}.")


def common_prefix(tensors: dict[str, Tensor], wanted: dict[str, torch.Size], stems: set[str], path: Path) -> str:
    """The prefix of the network's own names in the file: `module.`, `model.backbone.`, mostly empty.

    Raises:
        UsageError: the file contains the whole network more than once.
    """
    fitting = Counter({"": 0})
    for key, tensor in tensors.items():
        for start in (0, *(i + 1 for i, letter in enumerate(key) if letter == ".")):
            prefix, name = key[:start], key[start:]
            if name in wanted and (name in stems or tensor.shape == wanted[name]):
                fitting[prefix] += 1
    most = max(fitting.values())
    best = [prefix for prefix, count in fitting.items() if count == most]
    if len(best) == 1 or "" in best:
        return best[0]
    if most >= ENOUGH * len(wanted):
        raise UsageError(
            f"Expected one network in {path}, but it holds several, under {_names(best)}. "
            "Save the one to start from in a file of its own."
        )
    return ""


def adapt_stem(weight: Tensor, shape: torch.Size) -> Tensor:
    """A first convolution for another number of channels, by timm's rule for pretrained ones.

    Channels are summed up to one, or repeated and scaled by the ratio of their counts. Returned unchanged if
    the shapes are equal or differ in more than the channels.
    """
    if weight.ndim != 4 or weight.shape == shape or not weight.numel():
        return weight
    have, want = weight.shape[1], shape[1]
    if weight[:, 0].shape != (shape[0], *shape[2:]):
        return weight
    if want == 1:
        return weight.float().sum(dim=1, keepdim=True)
    return weight.float().repeat(1, -(-want // have), 1, 1)[:, :want] * (have / want)


def resampled(net: Any, given: dict[str, Tensor], wanted: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Those positional embeddings that are for another image size, resampled by timm's own rule for the model."""
    others = [n for n in wanted if "pos" in n and n in given and given[n].shape != wanted[n]]
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if not others or convert is None:
        return {}
    try:
        found = convert(dict(given), net)
    except Exception as error:  # the file is not one of this model's, as its other tensors will show
        log.debug("timm cannot convert the weights: %s", error)
        return {}
    return {n: found[n] for n in others if n in found and found[n].shape == wanted[n]}


def _configured(net: Any, what: str) -> tuple[str, ...]:
    """Names of modules by timm's name for their part: `first_conv`, `classifier`."""
    names = net.pretrained_cfg.get(what) or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _names(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "") or "none"


def _examples(names: list[str]) -> str:
    return f" ({_names(names)})" if names else ""


@cache
def _say_once(text: str) -> None:
    """A network is built several times for one trial."""
    log.warning("%s", text)


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
