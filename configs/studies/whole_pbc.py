"""The cells of PBC that a network trained on a part of it has not seen, as an .npz that `wbcbench predict` reads.

    python configs/studies/whole_pbc.py data/pbc data/pbc_mini/labels.csv whole_pbc.npz
    wbcbench predict RECORD whole_pbc.npz -o answers.csv --set dataset.base_params.path=data/pbc_mini/data.npz

Only classes of the part, without its own images, their copies and images that stand under two labels.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def main(whole: Path, part: Path, out: Path) -> None:
    cells, known = pd.read_csv(whole / "labels.csv"), pd.read_csv(part)
    cells = cells[cells.label.isin(known.label.unique())]
    kept = cells[~cells.file.isin(known.file) & ~cells.duplicate.isin(["drop", "conflict"])]
    classes = sorted(kept.label.unique())
    with zipfile.ZipFile(whole / "images.zip") as archive:
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in kept.file]
    np.savez(
        out,
        image=np.stack(images),
        label=np.array([classes.index(x) for x in kept.label], dtype=np.int64),
        classes=np.array(classes),
    )
    print(
        f"{len(kept)} cells of {', '.join(classes)}; {len(cells) - len(kept)} known, copied or doubtful left out"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
