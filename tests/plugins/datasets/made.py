"""Small made files in the layouts of public data sets. No measured cell is in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

LED = ("Brightfield", "DF_50", "DF_70", "DF_90", "DPC_Bottom", "DPC_Left", "DPC_Right", "DPC_Top")
FLUOR = ("Fluor_690-", "Fluor_627-673", "Fluor_585-625", "Fluor_550-570", "Fluor_500-550", "Fluor_426-446")
GATES = ("CD3_hi_CD_16_lo", "CD16_hi_CD45_mid", "CD16_hi_CD45_lomid", "CD16_hi_CD45_lo", "CD16_lo_CD45_lo",
         "CD16_none_CD45_mid_and_hi", "CD45_mid_CD_16_mid", "CD45_hi_CD_16_lo", "CD45_hi_CD_16_mid",
         "CD45_hi_CD_16_hi")  # fmt: skip
GATE_OF_CELL = (0, 0, 1, 2, 3, 7, 8, 9, 4, 5, None, (0, 7), (1, 2), 0, 9, 1)
"""Cell -> its gate or gates: four lymphocytes would be too few to tell a shift of labels."""


def bsccm(folder: Path, side: int = 12) -> Path:
    """BSCCM-tiny's files: three tables and a store of zarr format 2 with a chunk a plane."""
    import zarr
    from numcodecs import Blosc

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    metadata = {
        "name": "BSCCM-tiny",
        "led_array": {"channel_names": list(LED)},
        "fluorescence": {"channel_names": list(FLUOR)},
    }
    (folder / "BSCCM_global_metadata.json").write_text(json.dumps(metadata))
    index = ["global_index,position_in_fov_y_pix,fov_center_x,fov_center_y,batch,antibodies,slide_replicate,"
             "data_path"]  # fmt: skip
    markers = ["global_index,CD45_full_model_unmixed," + ",".join(f"selection_gated_{g}" for g in GATES)]
    store = zarr.open_group(folder / "BSCCM_images.zarr", mode="w", zarr_format=2)
    for i, gates in enumerate(GATE_OF_CELL):
        name, path = 100 + 7 * i, "batch_0/all/slide_0"
        index.append(f"{name},{50 * i},{-45523.1 + i // 2},{35464.5},0,all,0,{path}")
        mine = () if gates is None else (gates,) if isinstance(gates, int) else gates
        markers.append(f"{name},{rng.random():.3f}," + ",".join(str(g in mine) for g in range(10)))
        for array, channels in (("led_array", len(LED)), ("fluor", len(FLUOR))):
            data = rng.integers(0, 4096, (channels, side, side), dtype=np.uint16)
            data[:, 0, 0] = np.arange(channels) + 10 * i  # a plane can be told from another, and a cell too
            store.create_array(f"{path}/{array}/cell_{name}", data=data, chunks=(1, side, side),
                               compressors=Blosc(cname="zstd", clevel=9, shuffle=Blosc.SHUFFLE))  # fmt: skip
    (folder / "BSCCM_index.csv").write_text("\n".join(index) + "\n")
    (folder / "BSCCM_surface_markers.csv").write_text("\n".join(markers) + "\n")
    return folder


def medmnist(path: Path, side: int = 28, labels: tuple[int, ...] = (0, 2, 7), channels: int = 3) -> Path:
    """MedMNIST's six arrays; `labels` are those that occur."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        shape = (count, side, side, 3) if channels == 3 else (count, side, side)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array(labels, dtype=np.uint8)[np.arange(count) % len(labels), None]
    np.savez(path, **arrays)
    return path


def photo(path: Path, seed: int, size: tuple[int, int] = (20, 18), colour: bool = True) -> None:
    """A noisy image of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if colour else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def pbc(folder: Path) -> Path:
    """PBC's tree: eight classes of two images, one copied in its class, one in two classes, a hidden stray."""
    names = {"basophil": "BA", "eosinophil": "EO", "erythroblast": "ERB", "ig": "MY", "lymphocyte": "LY",
             "monocyte": "MO", "neutrophil": "BNE", "platelet": "PLATELET"}  # fmt: skip
    for i, (label, prefix) in enumerate(names.items()):
        for k in range(2):
            photo(folder / label / f"{prefix}_{1000 + k}.jpg", 10 * i + k)
    (folder / "ig" / "PMY_9.jpg").write_bytes((folder / "ig" / "MY_1000.jpg").read_bytes())
    photo(folder / "monocyte" / "MO_77.jpg", 99)
    (folder / "lymphocyte" / "LY_77.jpg").write_bytes((folder / "monocyte" / "MO_77.jpg").read_bytes())
    (folder / "neutrophil" / ".DS_169665.jpg").write_bytes(b"no image")
    return folder


def raabin(folder: Path) -> Path:
    """Raabin-WBC's three parts; TestB lacks three classes, images differ in size."""
    seed = 0
    for part, labels in (("Train", ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")),
                         ("Test-A", ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")),
                         ("TestB", ("Lymphocyte", "Neutrophil"))):  # fmt: skip
        for label in labels:
            for k in range(4 if part == "Train" else 2):
                seed += 1
                photo(folder / part / label / f"2019_{k}.jpg", seed, (20 + k, 22))
    return folder


def flow(folder: Path) -> Path:
    """The Jurkat set's names, boxes of the cells' own size, 16 bits; cell 100 lacks channel 6."""
    rng = np.random.default_rng(0)
    for i in range(8):
        for channel in (3, 4, 6):
            if i == 3 and channel == 6:
                continue
            path = folder / ("G1", "S")[i % 2] / f"{97 + i}_Ch{channel}.ome.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.full((10 + i, 12), 500 * channel, dtype=np.uint16)
            image[3:6, 3:6] = rng.integers(0, 4096, (3, 3))
            Image.fromarray(image).save(path)
    return folder
