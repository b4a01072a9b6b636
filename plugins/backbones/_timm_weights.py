"""Local weights files of timm models: read without running code, renamed and resampled by timm, or refused."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wbcbench.errors import IncompatibleError, UsageError

log = logging.getLogger("wbcbench")

ENOUGH = 0.9
"""Share of a network's tensors that a weights file must contain; with fewer, it belongs to another network."""


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
    before, given = given, converted(net, given)
    for name in wanted.keys() & before.keys():
        if given[name].shape != before[name].shape:
            change = f"{_shape(before[name])} was resampled to {_shape(given[name])}"
            notes.append(f"{name} {change} for this image size")
    if others := sorted(name for name in wanted if name in given and name not in before):
        notes.append(f"{len(others)} of its tensors have other names in timm{_examples(others)}")
    fitting = {name: tensor for name, tensor in given.items() if name in own and tensor.shape == own[name].shape}
    reshaped = [name for name in wanted if name in given and name not in fitting]
    missing = [name for name in wanted if name not in given]
    taken = {prefix + name for name in fitting}
    renamed = {id(tensor) for tensor in fitting.values()}
    unused = [key for key, tensor in tensors.items() if key not in taken and id(tensor) not in renamed]

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
        say_once(f"Weights of '{model}' from {path}: {'; '.join(notes)}.")
    net.load_state_dict(fitting, strict=False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name, those of nested mappings as `outer.inner`. Runs no code.

    Raises:
        UsageError: it is not such a file, or reading it would run code from it.
    """
    import timm

    try:
        # Many releases keep their command line beside the tensors, as a Namespace, which holds only attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
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

    Of a network and its moving average (`ema_model.`), that of the average.

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
    averaged = [prefix for prefix in best if "ema" in re.split(r"[._]", prefix)]
    if most >= ENOUGH * len(wanted) and len(averaged) == 1:
        return averaged[0]  # as timm does
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


_CHUNKED = re.compile(r"^blocks\.\d+\.(?=\d+\.)")
"""DINOv2 saves its blocks in chunks, `blocks.CHUNK.NUMBER.`, with numbers that do not restart."""


def converted(net: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under timm's names, with positional embeddings for this image side, by timm's own rules.

    Timm knows other releases of many models (DINOv2, MAE, ConvNeXt, CLIP, ...). A tensor that it would reshape
    but for its position in the image stays as it is: a patch of another size is another network's.
    """
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    own = net.state_dict()
    given = {name if name in own else _CHUNKED.sub("blocks.", name): tensor for name, tensor in given.items()}
    if convert is None:
        return given
    try:
        found = dict(convert(dict(given), net))
    except Exception as error:  # the file is not one of this model's, as its other tensors will show
        log.debug("timm cannot convert the weights: %s", error)
        return given
    found = {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    return given | {
        name: tensor
        for name, tensor in found.items()
        if name not in given or tensor.shape == given[name].shape or "pos" in name
    }


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
def say_once(text: str) -> None:
    """A network is built several times for one trial."""
    log.warning("%s", text)
