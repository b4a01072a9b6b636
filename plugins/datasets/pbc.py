"""The PBC set of Acevedo et al.: normal peripheral blood cells, one colour image each, as published."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from wbcbench.contracts.dataset import Cells, Dataset, Description, Progress
from wbcbench.contracts.params import Parameters, param
from wbcbench.data.cache import check_sha256
from wbcbench.data.csv_table import Manifest
from wbcbench.data.folders import FileSource, copied_files, find_folder, list_images
from wbcbench.data.image_files import ListedImages
from wbcbench.data.labels import Problems
from wbcbench.errors import DataError

CLASSES = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")
"""Names of the published folders; `ig` are immature granulocytes."""
ARCHIVE = "PBC_dataset_normal_DIB.zip"
SHA256 = "6c50b82d1ab499b0b5a6beda0d0f75e6013df4a7233f116da354351ac10ca4f8"
"""Checksum of the deposit's only file. Not read at the source, but in a public repository that compared its
download with the checksum in Mendeley Data's own file listing: github.com/EinarOlafsson/spacr, commit b4d4690d,
features/data/565_human_label_retrieval_preparation_2026-10-06: independent-archive-inventory.json holds it,
prepare_pbc_retrieval_r4.py compares."""


class Pbc(Dataset):
    """17,092 stained normal cells of eight kinds, about 360 x 363 px, JPEG, one folder per class.

    Download `PBC_dataset_normal_DIB` from the authors' deposit, Mendeley Data snkd93bnjr, DOI
    10.17632/snkd93bnjr.1, and set `dataset.path` to the folder or to the downloaded zip. Nothing is ever
    downloaded.

    Which cells come from one donor or slide is not published: a split by donor is impossible, and the one that
    wbcbench makes mixes donors across train, val and test. The deposit holds byte-identical images, some of them
    in two classes; `copies` sets what happens to them. One modality, `brightfield`, of RGB; `stains` makes
    pseudo-modalities of it.

    Verified on a public mirror of the published tree: folder names, counts of the paper, sizes, copies, a stray
    hidden file. The downloaded zip, under its published name, is compared with the deposit's SHA-256; an unpacked
    tree is not, for Mendeley Data lists no digests of single images.
    """

    name = "pbc"
    source = "Acevedo et al., Data in Brief 30:105474 (2020); deposit DOI 10.17632/snkd93bnjr.1."
    locations = ("path", "check_digest")

    class Params(Parameters):
        path: str = param("", "The folder PBC_dataset_normal_DIB, or the zip of it.")
        copies: Literal["drop", "keep"] = param(
            "drop", "drop: keep one of byte-identical images, none if they are in two classes; keep: all."
        )
        check_digest: bool = param(True, "Refuse the zip under its published name if its SHA-256 differs.")

    params: Params

    def describe(self) -> Description:
        """See `Dataset.describe`: the first call reads every file once, later ones only sizes and times."""
        return _Files(self.params).describe()

    def load(self, image_size: int | None = None, progress: Progress | None = None) -> Cells:
        """See `Dataset.load`; decoded once per size, then memory-mapped. Raises `DataError`."""
        return _Files(self.params).load(image_size, progress)


class _Files(ListedImages[Pbc.Params]):
    """The tree's cells."""

    version = "pbc-1"
    licence: ClassVar[str] = "CC-BY-4.0"

    def _root(self) -> Path:
        if not self.params.path:
            raise DataError(
                "Expected the PBC set, but dataset.path is empty. Download PBC_dataset_normal_DIB from the "
                "authors' deposit (DOI 10.17632/snkd93bnjr.1) and set dataset.path to it."
            )
        return Path(self.params.path).expanduser()

    def _classes(self) -> tuple[str, ...]:
        return CLASSES

    def _list(self, source: FileSource, problems: Problems) -> Manifest:
        root = self._root()
        if self.params.check_digest and root.is_file() and root.name == ARCHIVE:
            advice = "dataset.check_digest=false accepts the file as it is."
            check_sha256(root, SHA256, "Mendeley Data (snkd93bnjr, version 1)", advice)
        images = list_images(source)
        files = images.names
        missing = [name for name in CLASSES if find_folder(files, name) is None]
        if missing:
            raise DataError(
                f"Expected the folders {', '.join(CLASSES)} with images in {self._root()}, but "
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. "
                "Set dataset.path to PBC_dataset_normal_DIB."
            )
        gone = [("in a folder of no class", name) for name in files if _label(name) not in CLASSES]
        files = [name for name in files if _label(name) in CLASSES]
        notes = ["Donors are not known: the split has every donor on every side."]
        if self.params.copies == "drop":
            files, copies = _without_copies(source, files, self._root())
            gone += copies
            again, torn = (sum(why == reason for why, _ in copies) for reason in (COPY, TORN))
            if again:
                notes.append(f"{again} byte-identical copies were left out (dataset.copies=keep keeps them).")
            if torn:
                notes.append(f"{torn} images that occur in two classes were left out.")
        return Manifest(
            lines=list(range(1, len(files) + 1)),
            labels=[_label(name) for name in files],
            paths={"brightfield": files},
            groups=None,
            split=None,
            ids=[PurePosixPath(name).name for name in files],
            notes=notes,
            account=images.account(len(files), gone),
            found={"classes": frozenset(CLASSES)},
        )


def _label(name: str) -> str:
    return PurePosixPath(name).parent.name.lower()


COPY, TORN = "duplicates", "in two classes"


def _without_copies(source: FileSource, files: list[str], root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The files that stay, and (reason, file) of those left out."""
    try:
        same = copied_files(source, files, root)
    except OSError as error:
        raise DataError(
            f"Expected every image of {root} to be readable, but: {error}. Unpack it again."
        ) from error
    gone: dict[str, str] = {}
    for group in same:
        torn = len({_label(name) for name in group}) > 1
        gone |= dict.fromkeys(group, TORN) if torn else dict.fromkeys(group[1:], COPY)
    return [name for name in files if name not in gone], [(why, name) for name, why in gone.items()]
