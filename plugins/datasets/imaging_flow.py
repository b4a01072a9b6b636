"""Imaging flow cytometry exported cell by cell: one file per channel, `<cell>_Ch<number>.ome.tif`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from wbcbench.contracts.dataset import (
    Cells,
    Dataset,
    Description,
    Preparation,
    Progress,
    window_square,
    window_words,
)
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.csv_table import Manifest
from wbcbench.data.folders import FileSource, list_images
from wbcbench.data.image_files import ImageIndex, ListedImages
from wbcbench.data.labels import Problems, check_names
from wbcbench.errors import DataError

_FILE = re.compile(r"(?P<cell>.+)_ch(?P<channel>\d+)(\.ome)?\.(tiff?|jpe?g|png|bmp)", re.IGNORECASE)


class ImagingFlow(Dataset):
    """Cells of an imaging flow cytometer (Amnis ImageStream): one folder per class, one file per channel.

    The layout is what IDEAS and Bio-Formats export from .cif and .rif files, and what the Jurkat cell-cycle set
    is published in (Blasi et al. 2016; BBBC048 of the Broad Bioimage Benchmark Collection, landing page
    bbbc.broadinstitute.org/BBBC048):

        G1/27934_Ch3.ome.jpg   G1/27934_Ch4.ome.jpg   G1/27934_Ch6.ome.jpg   S/...

    Nothing is ever downloaded, and .cif itself is not read: export it first (IDEAS: "Create TIFs from .cif",
    one file per channel, 16 bit). A cell that lacks a channel lacks that modality.

    Exported images are cut to each cell's own bounding box. They are not rescaled, because size is informative:
    each is placed in a window of `window` px, filled with the median of its border, and all windows are then
    resized to `--image-size` alike. Every channel is grey; colour files (some JPEG exports) are converted.

    Verified: names and folders of the Jurkat set from code that reads it (BBBC048's phases as folders,
    `<number>_Ch3|4|6.ome.jpg`), `.ome.tif` from its authors' earlier exports. Not known here: digests of the
    publisher's files, which are not checked. Labels of that set were gated on the DNA stain of channel 4.
    """

    name = "imaging_flow"
    source = "Blasi et al., Nature Communications 7:10256 (2016); BBBC048. Layout: IDEAS, Bio-Formats."
    locations = ("path",)

    class Params(Parameters):
        path: str = param("", "The folder (or a zip) with one folder per class.")
        channels: dict[str, int] = param(
            {},
            "Modality -> channel number, as in {brightfield: 3, pi: 4, darkfield: 6}; empty: ch<number> for every "
            "channel found.",
        )
        window: int = param(
            0, "Side in pixels that images are cropped or padded to; 0: the largest.", ge=0, le=1024
        )
        levels: Literal["class", "group/class", "class/group"] = param(
            "class", "What the folders above a file are; a group (donor, run) stays in one of train, val, test."
        )

    params: Params

    def describe(self) -> Description:
        """See `Dataset.describe`: the first call reads every file once, later ones only sizes and times."""
        return _Files(self.params).describe()

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`; decoded once per size, then memory-mapped. Raises `DataError`."""
        return _Files(self.params).load(image_size, progress)

    def preparation(self, modalities: Mapping[str, int]) -> Preparation:
        """See `Dataset.preparation`: the window of training, without rescaling, and files named as exported."""
        window, channels = self.params.window, dict(self.params.channels)
        if not window:
            raise DataError(
                "Expected the window that training images were placed in, but dataset.window was 0 and the "
                "record is too old to contain the side used. Give the training cells: --set dataset.path=..."
            )
        named = {channels[m] if channels else int(m.removeprefix("ch")): m for m in modalities}

        def place(path: str) -> tuple[str, str] | None:
            match = _FILE.fullmatch(PurePosixPath(path).name)
            modality = named.get(int(match["channel"])) if match else None
            return (str(PurePosixPath(path).with_name(match["cell"])), modality) if match and modality else None

        return Preparation(
            dict(modalities),
            words=window_words(window),
            square=window_square(window),
            any_colour=True,
            place=place,
        )


class _Files(ListedImages[ImagingFlow.Params]):
    """The exported cells, each in its window."""

    version = "imaging_flow-1"

    def _root(self) -> Path:
        if not self.params.path:
            raise DataError("Expected a folder of exported cells, but dataset.path is empty. Set it.")
        return Path(self.params.path).expanduser()

    def _where(self) -> Path:
        return self._root()

    def _list(self, source: FileSource, problems: Problems) -> Manifest:
        found: dict[tuple[str, ...], dict[int, str]] = defaultdict(dict)
        names: dict[tuple[str, ...], str] = {}
        depth = self.params.levels.count("/") + 1
        others: list[tuple[str, str]] = []
        images = list_images(source)
        for name in images.names:
            path = PurePosixPath(name)
            match = _FILE.fullmatch(path.name)
            if match is None or len(path.parts) <= depth:
                others.append(("of another name or place", name))
                continue
            # numeric order: 100 comes after 99
            cell = match["cell"]
            key = (*path.parts[:-1], cell.zfill(12) if cell.isdigit() else cell)
            channel = int(match["channel"])
            if channel in found[key]:
                raise DataError(
                    f"Expected one file per cell and channel in {self._root()}, but found both {name} and "
                    f"{found[key][channel]}. Remove one."
                )
            found[key][channel] = name
            names[key] = str(path.parent / cell)
        channels = self._channels({c for each in found.values() for c in each})
        keys = sorted(key for key, files in found.items() if set(files) & set(channels.values()))
        if not keys:
            raise DataError(
                f"Expected images such as G1/27934_Ch3.ome.tif in {self._root()}, but found none below "
                f"{depth} folder{'s' if depth > 1 else ''} with such a name. Set dataset.path, or dataset.levels."
            )
        depths = {len(PurePosixPath(names[key]).parent.parts) for key in keys}
        like = [f for f in map(PurePosixPath, images.folders) if len(f.parts) in depths]
        wanted = set(channels.values())
        others += [
            (f"of channel {c}, which is not read", name)
            for files in found.values()
            for c, name in files.items()
            if c not in wanted
        ]
        folders = [PurePosixPath(names[key]).parent.parts[-depth:] for key in keys]
        order = self.params.levels.split("/")
        strange = sum(why == "of another name or place" for why, _ in others)
        notes = [f"{strange} images of another name or place were left out."] if strange else []
        paths = {m: [found[key].get(c, "") for key in keys] for m, c in channels.items()}
        return Manifest(
            lines=list(range(1, len(keys) + 1)),
            labels=[folder[order.index("class")] for folder in folders],
            paths=paths,
            groups=[folder[order.index("group")] for folder in folders] if "group" in order else None,
            split=None,
            ids=[names[key] for key in keys],
            notes=notes,
            account=images.account(sum(bool(path) for each in paths.values() for path in each), others),
            found={"classes": frozenset(c.parts[-depth:][order.index("class")] for c in like)},
        )

    def _channels(self, there: set[int]) -> dict[str, int]:
        wanted = dict(self.params.channels) or {f"ch{c}": c for c in sorted(there)}
        check_names(wanted)
        for modality, channel in wanted.items():
            if there and channel not in there:
                raise DataError(
                    f"Expected channel {channel} for {modality} in {self._root()}, but there are "
                    f"{', '.join(map(str, sorted(there)))}. Set dataset.channels.{modality} to one of them."
                )
        return wanted

    def _adapt(self, index: ImageIndex) -> ImageIndex:
        return replace(index, channels=dict.fromkeys(index.channels, 1))

    def _window(self, index: ImageIndex) -> int:
        return self.params.window or index.largest

    def _resolved(self, index: ImageIndex) -> dict[str, Any]:
        return {} if self.params.window else {"window": index.largest}
