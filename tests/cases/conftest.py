"""Small inputs, and the commands that a screen suggests, carried out on the input that provoked them."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wbcbench.api.running import RunRequest
from wbcbench.cli.run import run as run_command
from wbcbench.data.splits import Split, make_split

Invoke = Callable[..., tuple[int, str, str]]
TINY = ("--backbone", "cellnet:width=4", "--device", "cpu", "--set", "threads=1", "--epochs", "1", "--set",
        "batch_size=16", "--fusion", "early", "--kd", "none")  # fmt: skip


def picture(path: Path, seed: int, side: int = 12, bits: int = 8, height: int = 0) -> Path:
    """A noisy grey image; the seed decides its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 250, (height or side, side))
    Image.fromarray(noise.astype(np.uint8) if bits == 8 else noise.astype(np.uint16) * 200).save(path)
    return path


def pictures(root: Path, folders: Sequence[str], count: int, start: int = 0, **more: Any) -> Path:
    """`count` images `c0.png` ... in each folder, all different."""
    for k, folder in enumerate(folders):
        for i in range(count):
            picture(root / folder / f"c{i}.png", start + 1000 * k + i, **more)
    return root


def table(path: Path, header: str, rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


class Screen:
    """The command line in an own folder, and what it suggests."""

    def __init__(self, invoke: Invoke, folder: Path) -> None:
        self.invoke, self.folder = invoke, folder

    def __call__(self, *args: str, code: int = 0) -> str:
        got, out, err = self.invoke(*args)
        assert got == code, f"{args} gave {got}:\n{out}{err}"
        assert "Traceback" not in err
        return out + err

    def document(self, *args: str) -> dict[str, Any]:
        got, out, err = self.invoke(*args, "--json")
        assert got == 0, err
        return json.loads(out)  # type: ignore[no-any-return]

    def suggested(self, text: str) -> list[list[str]]:
        """The commands in a text, without `wbcbench`."""
        lines = [line.strip().removeprefix("Next: ") for line in text.splitlines()]
        return [shlex.split(line)[1:] for line in lines if line.startswith("wbcbench ")]

    def obey(self, text: str) -> Split:
        """Carry out what a screen suggests, up to training; the split of its last run."""
        split = None
        shutil.rmtree(self.folder / "my_cells", ignore_errors=True)
        for words in self.suggested(text):
            if words[0] == "run":
                split = planned(words[1:])
            else:
                self(*words)
        assert split is not None, f"no run is suggested:\n{text}"
        return split

    def train(self, text: str) -> str:
        """Carry out what a screen suggests; the screen of its last run."""
        said = ""
        for words in self.suggested(text):
            more = [*TINY, "--store", str(self.folder / "store")] if words[0] == "run" else []
            said = self(*words, *more)
        return said


def planned(words: Sequence[str]) -> Split:
    """Plan a run, load its cells at its size and divide them, as the run does before it trains."""
    given = run_command.make_context("run", list(words)).params
    known = {name: given[name] for name in ("dataset", "image_size", "config", "settings") if given.get(name)}
    planned = RunRequest(**known).plan()
    protocol = planned.plan.trials[0].trial.protocol
    cells = planned.plan.dataset.load(protocol.image_size)
    return make_split(cells, protocol.split)


@pytest.fixture
def screen(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.chdir(tmp_path)
    return Screen(invoke, tmp_path)
