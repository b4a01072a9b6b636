"""Every student of a store that read stains, on the cells that `whole_pbc.py` wrote: one line each, as CSV.

    python configs/studies/score_whole_pbc.py subnetworks whole_pbc.npz data/pbc_mini/data.npz whole_pbc.csv

Written after each network, so that it goes on where it was stopped.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import wbcbench

FIELDS = ("trial", "fusion", "kd", "seed", "cells", "macro_f1", "balanced_accuracy", "accuracy", "auroc")


def main(store: str, cells: str, part: str, out: Path) -> None:
    frame = wbcbench.load_records(store).frame()
    students = frame[(frame.dataset == "stains") & frame.modalities.str.contains("+", regex=False)]
    done = {row["trial"] for row in csv.DictReader(out.open())} if out.is_file() else set()
    with out.open("a", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        if not done:
            table.writeheader()
        for _, student in students.sort_values(["fusion", "kd", "seed"]).iterrows():
            if student.trial_id in done:
                continue
            found = metrics(student.trial_id, store, cells, part)
            table.writerow(
                {"trial": student.trial_id, "fusion": student.fusion, "kd": student.kd, "seed": student.seed}
                | {f: round(v, 4) if isinstance(v, float) else v for f, v in found.items() if f in FIELDS}
            )
            file.flush()


def metrics(trial: str, store: str, cells: str, part: str) -> dict[str, float | int]:
    """What `wbcbench predict` says of one network."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "wbcbench", "predict", trial, cells, "-o", f"{folder}/answers.csv",
            "--store", store, "--set", f"dataset.base_params.path={part}", "--json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    document = json.loads(done.stdout)
    return {"cells": document["cells"], **document["metrics"]}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
