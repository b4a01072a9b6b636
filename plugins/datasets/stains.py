"""Pseudo-modalities of any RGB set: stains or colour channels computed from one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from wbcbench.contracts.dataset import (
    RESIZE_VERSION,
    Array,
    Cells,
    Dataset,
    Description,
    Preparation,
    Progress,
    content_digest,
    registered,
)
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.cache import cached_arrays
from wbcbench.data.decode import COLOUR_VERSION, RECIPES, WINDOWS, Space, convert
from wbcbench.errors import DataError, did_you_mean
from wbcbench.spec.load import validate

_VERSION = "stains-1"


class Stains(Dataset):
    """Haematoxylin, eosin and a residual (or HSV, Lab, RGB) from one colour image; nothing new is measured.

    Images are placed as `base` does it: with `base_params.window`, `npz` and `folder` crop or pad them to a window
    without rescaling, before stains are separated.
    """

    name = "stains"
    source = "Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 23:291 (2001), as in scikit-image's rgb2hed."

    class Params(Parameters):
        base: str = param("npz", "Data set of the colour images: any with a modality of 3 channels.")
        base_params: dict[str, Any] = param({}, "Parameters of that data set, as in base_params.path=x.npz.")
        modality: str = param("", "Its modality of 3 channels; empty: the first one.")
        space: Space = param("hed", "hed: stains; hsv, lab, rgb: colour channels.")
        keep_rgb: bool = param(False, "Keep the colour image itself as a first modality, rgb.")

    def public_params(self) -> dict[str, Any]:
        """See `Dataset.public_params`; without the base's locations."""
        return {**super().public_params(), "base_params": self._base.public_params()}

    def describe(self) -> Description:
        """See `Dataset.describe`. Raises `DataError` if the base has no colour image."""
        base = self._base.describe()
        source = self._modality(base.modalities)
        modalities = {"rgb": 3} if self.params.keep_rgb else {}
        return replace(
            base,
            modalities=modalities | dict.fromkeys(WINDOWS[self.params.space], 1),
            fingerprint=self._fingerprint(base.fingerprint, source),
            pseudo_multimodal=True,
            incomplete=(),
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`; images are resized before they are converted. Raises `DataError`."""
        base = self._base.load(image_size, progress)
        source = self._modality(base.modalities)
        rgb = base.images[source]
        if base.present is not None:
            absent = int((~base.present[:, list(base.images).index(source)]).sum())
            if absent:
                raise DataError(
                    f"Expected a {source} image of every cell, but {absent} have none. Leave them out."
                )
        fingerprint = self._fingerprint(base.fingerprint, source)
        space = self.params.space
        key = content_digest("stains-arrays", RESIZE_VERSION, fingerprint, rgb.shape)
        images = cached_arrays(key, lambda: convert(rgb, space, progress))
        kept = {"rgb": rgb} if self.params.keep_rgb else {}
        others = [name for name in base.images if name != source]
        notes = [f"Pseudo-modalities: {', '.join(images)} were computed from {source}."]
        if others:
            notes.append(f"Other modalities of {self.params.base} are not used: {', '.join(others)}.")
        return replace(
            base,
            images=kept | {name: images[name] for name in WINDOWS[space]},
            fingerprint=fingerprint,
            present=None,
            pseudo_multimodal=True,
            notes=base.notes + notes,
            resolved={} if self.params.modality else {"modality": source},
        ).check()

    def preparation(self, modalities: Mapping[str, int]) -> Preparation:
        """See `Dataset.preparation`: one colour image, prepared as the base does, then converted. Nothing here is
        fitted to training cells."""
        source, space = self._colour(), self.params.space
        base = self._base.preparation({source: 3})

        def derive(raw: Mapping[str, Array]) -> Mapping[str, Array]:
            return {"rgb": raw[source], **convert(raw[source], space)}

        return replace(
            base,
            words=f"The network reads {', '.join(modalities)}, not the colour image that they are computed from. "
            f"{base.words} Then {RECIPES[space]}",
            derive=derive,
            made_of=dict.fromkeys(modalities, (source,)),
            bits=(8, 16),
        )

    @cached_property
    def _base(self) -> Dataset:
        cls: Any = registered(self.params.base)
        if cls.name == self.name:
            raise DataError("Expected a data set of colour images as dataset.base, but got stains itself.")
        base: Dataset = cls(validate(cls.Params, self.params.base_params, "dataset stains, base_params"))
        return base

    def _modality(self, modalities: dict[str, int]) -> str:
        colour = [name for name, channels in modalities.items() if channels == 3]
        wanted: str = self.params.modality or (colour[0] if colour else "")
        if wanted not in colour:
            has = ", ".join(f"{name} ({channels})" for name, channels in modalities.items())
            asked = f"{wanted!r} is not one" if wanted else "it has none"
            raise DataError(
                f"Expected a modality of 3 channels in {self.params.base}, but {asked}. "
                f"Modalities (channels): {has}."
                f"{did_you_mean(wanted, colour)} Set dataset.modality, or dataset.base_params.modalities."
            )
        return wanted

    def _colour(self) -> str:
        """The colour image's name, without its files: in old records it may have to be guessed."""
        picks = self.params.base_params.get("modalities") or {}
        named = [m for m, pick in picks.items() if isinstance(pick, str) or len(pick) == 3]
        known = {"pbc": "brightfield", "raabin_wbc": "brightfield", "synthetic": "brightfield"}
        return self.params.modality or next(iter(named), known.get(self.params.base, "image"))

    def _fingerprint(self, base: str, source: str) -> str:
        p = self.params
        return content_digest(_VERSION, COLOUR_VERSION, base, source, p.space, p.keep_rgb)
