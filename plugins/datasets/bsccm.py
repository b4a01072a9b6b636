"""BSCCM: single leukocytes under an LED array (brightfield, darkfield, DPC) and in fluorescence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from wbcbench_plugins.datasets._bsccm_store import INDEX, BsccmStore, Channels, gate_of

from wbcbench.contracts.dataset import (
    MIDDLE,
    RESIZE_VERSION,
    Account,
    Cells,
    Dataset,
    Description,
    LeftOut,
    Preparation,
    Progress,
    content_digest,
    resize_stack,
)
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.cache import cached_arrays
from wbcbench.data.labels import check_names
from wbcbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
_VERSION = "bsccm-1"
MODALITIES = {
    "brightfield": ["Brightfield"],
    "darkfield": ["DF_50", "DF_70", "DF_90"],
    "dpc": ["DPC_Left", "DPC_Right", "DPC_Top", "DPC_Bottom"],
    "fluorescence": [
        "Fluor_426-446", "Fluor_500-550", "Fluor_550-570", "Fluor_585-625", "Fluor_627-673", "Fluor_690-",
    ],
}  # fmt: skip


class Bsccm(Dataset):
    """Berkeley Single Cell Computational Microscopy: several measured modalities of each leukocyte.

    Download BSCCM, BSCCM-tiny (1,000 cells) or BSCCMNIST (28 px) from the authors' deposit on Dryad, DOI
    10.5061/dryad.sxksn038s, unpack it, and set `dataset.path` to the folder that holds `BSCCM_index.csv`.
    Nothing is ever downloaded. Reading it needs zarr: `pip install 'wbcbench[bsccm]'`.

    Only labelled cells are loaded. Labels come from gates on surface markers (batch 0, all antibodies), that is
    from the fluorescence channels: `fluorescence` is close to label-defining and is meant as a privileged
    modality, for teachers. `classes=3` are lymphocytes, granulocytes and monocytes as the authors merge their
    gates; `classes=10` are the ten gates by number. A cell in two gates of different classes is left out.

    Cells of one field of view are a group, since their crops may overlap: each stays in one of train, val, test.
    All labelled cells come from one batch, hence as far as is known from one preparation: no split here tests a
    new donor.

    `dpc` are the four half-annulus images (left, right, top, bottom), not the phase computed from them. The few
    cells stained for histology are not offered as a modality, nor are the coherent (single-LED) editions.

    Verified in the authors' repository (commit 98339e6c): file and column names, channel names, the paths in the
    store (zarr format 2, blosc), uint16 of 12 bits, 128 px (28 px and 8 bits in BSCCMNIST), the mapping of gates.
    Not known here: licence and digests of the archives, which are not checked.
    """

    name = "bsccm"
    source = "Pinkard et al., arXiv 2402.06191 (2024); deposit DOI 10.5061/dryad.sxksn038s."
    locations = ("path",)

    class Params(Parameters):
        path: str = param("", "The unpacked folder, with BSCCM_index.csv in it.")
        modalities: dict[str, list[str]] = param(
            MODALITIES, "Modality -> names of channels, all of the LED array or all of fluorescence."
        )
        classes: Literal[3, 10] = param(3, "3: merged types; 10: the authors' gates as they are.")
        group: Literal["fov", "none"] = param(
            "fov", "fov: a field of view stays in one of train, val, test; none: it may be divided."
        )

    params: Params

    def describe(self) -> Description:
        """See `Dataset.describe`: the first call reads every stored file once, later ones only sizes and times."""
        rows, labels, _ = self._labelled
        shapes = {m: self._store.shape(int(rows[0]), pick.array) for m, pick in self._picks.items()}
        sides = {n for shape in shapes.values() for n in shape[1:]}
        return Description(
            modalities={m: len(pick.planes) for m, pick in self._picks.items()},
            classes=gate_of(self.params.classes == 10)[0],
            cells=len(labels),
            fingerprint=self._fingerprint,
            image_size=sides.pop() if len(sides) == 1 else None,
            groups=self.params.group == "fov",
            incomplete=(),
            accounts=(self._account,),
            group_count=len(np.unique(self._fields[rows])) if self.params.group == "fov" else None,
        )

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`; resized once per size, then memory-mapped. Raises `DataError`."""
        rows, labels, notes = self._labelled

        def build() -> dict[str, Array]:
            stacks = self._store.read(rows, self._picks, progress)
            return {m: resize_stack(stack, image_size) for m, stack in stacks.items()}

        images = cached_arrays(content_digest(_VERSION, RESIZE_VERSION, self._fingerprint, image_size), build)
        index = self._store.index
        return Cells(
            images={m: images[m] for m in self._picks},
            labels=labels,
            classes=gate_of(self.params.classes == 10)[0],
            fingerprint=self._fingerprint,
            groups=self._fields[rows] if self.params.group == "fov" else None,
            ids=tuple(f"cell {index.index[row]}" for row in rows),
            notes=notes,
            accounts=(self._account,),
        ).check()

    def preparation(self, modalities: Mapping[str, int]) -> Preparation:
        """See `Dataset.preparation`: an image is one plane; a modality of several stacks them."""
        planes = {m: tuple(self.params.modalities[m]) for m in modalities}
        told = "; ".join(f"{m}: {', '.join(names)}" for m, names in planes.items())
        return Preparation(
            {name: 1 for names in planes.values() for name in names},
            words=f"{MIDDLE} Planes, in this order, 12 bits in uint16 (BSCCMNIST: 8 bits): {told}.",
            derive=lambda raw: {m: np.concatenate([raw[n] for n in names], axis=1) for m, names in planes.items()},
            made_of=planes,
        )

    def reads(self, path: Path) -> bool:
        """See `Dataset.reads`: an unpacked BSCCM. As in training, only cells of exactly one class are read."""
        return path.is_dir() and any((folder / INDEX).is_file() for folder in (path, *path.glob("*/")))

    @cached_property
    def _store(self) -> BsccmStore:
        if not self.params.path:
            raise DataError(
                "Expected BSCCM, but dataset.path is empty. Download it (DOI 10.5061/dryad.sxksn038s), unpack it, "
                "and set dataset.path to the folder with BSCCM_index.csv."
            )
        return BsccmStore(Path(self.params.path).expanduser())

    @cached_property
    def _picks(self) -> dict[str, Channels]:
        check_names(self.params.modalities)
        return {m: self._store.find(names, m) for m, names in self.params.modalities.items()}

    @cached_property
    def _labelled(self) -> tuple[NDArray[np.intp], NDArray[np.int64], list[str]]:
        """Rows of the index that have one class, their labels, and notes on the others."""
        votes = self._votes
        count = votes.sum(axis=1)
        rows = np.flatnonzero(count == 1)
        if not len(rows):
            raise DataError(f"Expected labelled cells in {self._store.path}, but no cell is in a gate.")
        notes = [f"{int((count == 0).sum())} cells of no class (not gated, or no leukocyte) were left out."]
        if (count > 1).any():
            notes.append(f"{int((count > 1).sum())} cells in gates of two classes were left out.")
        return rows, votes[rows].argmax(axis=1).astype(np.int64), notes

    @cached_property
    def _account(self) -> Account:
        """Which cells of the index are used."""
        votes = self._votes.sum(axis=1)
        ids = self._store.index.index
        gone = {
            "of no class": np.flatnonzero(votes == 0),
            "in gates of two classes": np.flatnonzero(votes > 1),
        }
        left_out = {
            why: LeftOut(len(rows), tuple(f"cell {ids[row]}" for row in rows[:5])) for why, rows in gone.items()
        }
        return Account(
            "cells", len(votes), int((votes == 1).sum()), {w: p for w, p in left_out.items() if p.count}
        )

    @cached_property
    def _votes(self) -> NDArray[np.bool_]:
        """[rows, classes]: whether a cell is in a gate of the class."""
        classes = gate_of(self.params.classes == 10)[1]
        return np.stack([self._store.gates[:, classes == c].any(axis=1) for c in range(classes.max() + 1)], axis=1)

    @cached_property
    def _fields(self) -> NDArray[np.int64]:
        """The field of view of every row of the index."""
        columns = self._store.index[["data_path", "fov_center_x", "fov_center_y"]]
        return np.asarray(columns.groupby(list(columns.columns), sort=True).ngroup(), dtype=np.int64)

    @cached_property
    def _fingerprint(self) -> str:
        rows, labels, _ = self._labelled
        picks = list(self._picks.items())
        content = self._store.digest(rows, [pick.array for _, pick in picks])
        return content_digest(_VERSION, content, picks, labels, self.params.group)
