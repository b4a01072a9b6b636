"""A call leaves its host as it was, and its results do not depend on the host."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wbcbench
from wbcbench.errors import TrialFailedError, WbcbenchError
from wbcbench.isolation import TorchSettings, guest
from wbcbench.testing.records import write_cells

TINY: dict[str, Any] = {"backbone": "cellnet:width=4", "epochs": 1, "device": "cpu", "progress": False}

VANDAL = '''
"""Changes all that is global, and fails if asked to."""
import os, random, signal, warnings
import numpy as np
import torch
from torch import nn
from wbcbench.contracts import Fusion, Output, Parameters


class Vandal(Fusion):
    """Early fusion that leaves the process in disorder."""

    name = "vandal"

    class Params(Parameters):
        fail: bool = False

    def __init__(self, task, backbone, params):
        super().__init__(task, backbone, params)
        self.trunk = backbone(sum(task.channels.values()))
        self.head = nn.Linear(self.trunk.dim, task.n_classes)

    def forward(self, images, present=None, maps=False):
        os.chdir("/")
        os.environ["VANDAL"] = "was here"
        os.environ.pop("HOST", None)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        warnings.simplefilter("ignore")
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        torch.set_num_threads(2)
        torch.backends.cudnn.benchmark = True
        torch.use_deterministic_algorithms(True, warn_only=True)
        if self.params.fail:
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            raise ValueError("failed on purpose")
        h = self.trunk(torch.cat([images[m] for m in self.task.modalities], 1)).embedding
        return {"joint": Output(self.head(h), h, reads=frozenset(self.task.modalities), head=self.head)}
'''


def state() -> dict[str, Any]:
    """All that a host may care about."""
    name, keys, *rest = np.random.get_state()
    cudnn = torch.backends.cudnn
    return {
        "random": random.getstate(),
        "numpy": (name, list(keys), *rest),
        "torch": torch.get_rng_state().tolist(),
        "cuda": [s.tolist() for s in torch.cuda.get_rng_state_all()] if torch.cuda.is_initialized() else None,
        "dtype": torch.get_default_dtype(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "matmul": torch.get_float32_matmul_precision(),
        "precisions": TorchSettings.current().precisions,
        "gradients": torch.is_grad_enabled(),
        "folder": os.getcwd(),
        # PYTEST_CURRENT_TEST is pytest's, and changes as it goes
        "environment": {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"},
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals()},
        "warnings": list(warnings.filters),
        "numpy errors": np.geterr(),
    }


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A process that has changed everything from its default; its working folder."""
    before, handler = torch.get_num_threads(), signal.getsignal(signal.SIGUSR1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOST", "mine")
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error", ResourceWarning)
        random.seed(7), np.random.seed(7), torch.manual_seed(7)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(3)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        torch.use_deterministic_algorithms(True)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        yield tmp_path
    TorchSettings.defaults(before).apply()
    signal.signal(signal.SIGUSR1, handler)


@pytest.fixture
def words(host: Path) -> dict[str, Any]:
    """Arguments of a short run with a plugin that changes everything; its store is named relatively."""
    (host / "plugins").mkdir()
    (host / "plugins" / "vandal.py").write_text(VANDAL)
    dataset = {"name": "npz", "path": str(write_cells(host / "cells.npz")), "modalities": {"u": [0], "v": [1]}}
    return {
        "dataset": dataset, "store": "store", "plugins_dir": "plugins", "set": {"batch_size": 16, "threads": 1},
        **TINY,
    }  # fmt: skip


def unchanged(call: Callable[[], Any]) -> Any:
    before = state()
    result = call()
    after = state()
    assert {k: v for k, v in after.items() if v != before[k]} == {}
    return result


def test_every_function_leaves_the_process_as_it_was(words: dict[str, Any], host: Path) -> None:
    done = unchanged(lambda: wbcbench.run(fusion="vandal,early", seeds=[0, 1], **words))
    assert done.store == host / "store"
    assert len(done.records) == 4
    record, plugins = done.records[0].trial.id, {"plugins_dir": "plugins"}
    unchanged(
        lambda: wbcbench.search(
            fusion="vandal", trials=1, winner_seeds=[0], space={"training.lr": "log(1e-4,1e-2)"}, **words
        )
    )
    (host / "study.yaml").write_text(
        json.dumps({
            "common": {k: words[k] for k in ("dataset", "backbone", "epochs", "batch_size") if k in words},
            "parts": {"one": {"fusion": ["vandal"], "seeds": [3]}},
        })
    )  # fmt: skip
    study: dict[str, Any] = {"store": "store", "device": "cpu", "set": words["set"], "progress": False, **plugins}
    assert len(unchanged(lambda: wbcbench.study("study.yaml", **study)).records) == 1
    unchanged(lambda: wbcbench.leaderboard("store", resamples=100))
    unchanged(lambda: wbcbench.compare(record, "early", "store", resamples=100))
    assert len(unchanged(lambda: wbcbench.load_records("store"))) == 7
    unchanged(lambda: wbcbench.load_record(record, "store"))
    cells = unchanged(
        lambda: wbcbench.predict(
            record, "cells.npz", store="store", output="cells.csv", device="cpu", progress=False, **plugins
        )
    )
    assert len(cells.frame()) == cells.facts["cells"]
    unchanged(lambda: wbcbench.export(record, "taken", format="safetensors", store="store", **plugins))
    unchanged(lambda: wbcbench.report(record, "page.html", store="store", **plugins))
    assert unchanged(lambda: wbcbench.check("early", only="registered")).ok
    assert {p.name for p in host.iterdir()} >= {"store", "taken", "page.html", "cells.csv"}  # and not in /


def test_a_call_that_fails_does_so_too(words: dict[str, Any]) -> None:
    def failing(call: Callable[[], Any]) -> None:
        def tried() -> None:
            with pytest.raises(WbcbenchError):
                call()

        unchanged(tried)

    with pytest.raises(TrialFailedError, match="failed on purpose"):
        wbcbench.run(fusion="vandal:fail=true", **words)
    failing(lambda: wbcbench.run(fusion="vandal:fail=true", **words))
    failing(lambda: wbcbench.run(fusion="nothing", **words))
    failing(lambda: wbcbench.search(fusion="vandal:fail=true", trials=1, **words))
    failing(lambda: wbcbench.study("missing.yaml"))
    failing(lambda: wbcbench.leaderboard("missing"))
    failing(lambda: wbcbench.compare("a", "b", "missing"))
    failing(lambda: wbcbench.load_record("a", "missing"))
    failing(lambda: wbcbench.load_records("missing"))
    failing(lambda: wbcbench.predict("a", "b.npz", store="missing"))
    failing(lambda: wbcbench.export("a", "b", format="onnx", store="missing"))
    failing(lambda: wbcbench.report("a", "b.html", store="missing"))
    failing(lambda: wbcbench.check("missing.py"))


def test_results_do_not_depend_on_the_host(words: dict[str, Any]) -> None:
    here = wbcbench.run(fusion="vandal,early", **words)
    with torch.inference_mode(), torch.device("meta"):
        there = wbcbench.run(fusion="vandal,early", **(words | {"store": "other"}))
    fresh = [
        sys.executable, "-m", "wbcbench", "run", "--fusion", "vandal,early", "--plugins-dir", "plugins", "--json",
        "--dataset", "npz", "--set", f"dataset.path={words['dataset']['path']}",
        "--set", "dataset.modalities.u=[0]", "--set", "dataset.modalities.v=[1]", "--epochs", "1",
        "--backbone", TINY["backbone"],
        "--device", "cpu", "--set", "batch_size=16", "--set", "threads=1", "--store", "third",
    ]  # fmt: skip
    document = json.loads(subprocess.run(fresh, check=True, capture_output=True, text=True).stdout)
    digests = {r.trial.id: r.result.files["predictions.npz"] for r in here.records}
    assert digests == {r.trial.id: r.result.files["predictions.npz"] for r in there.records}
    assert set(digests) == {r["trial_id"] for r in document["records"]}
    third = wbcbench.load_records("third")
    assert digests == {r.trial.id: r.result.files["predictions.npz"] for r in third}
    assert [r["path"].split(os.sep)[0] for r in document["records"]] == ["third", "third"]  # as it was typed


def test_torch_that_the_call_imported_is_left_as_new(tmp_path: Path) -> None:
    code = (
        "import os, random, sys, warnings\n"
        "random.seed(3); before = random.getstate()\n"
        "import wbcbench\n"
        "words = dict(backbone='cellnet:width=4', epochs=1, device='cpu', progress=False, store='store',\n"
        "             dataset='synthetic:cells=60', image_size=16, set={'threads': 1})\n"
        "assert 'torch' not in sys.modules\n"
        "wbcbench.run(fusion='early', **words)\n"
        "import torch\n"
        "assert random.getstate() == before\n"
        "print(torch.get_num_threads(), torch.get_default_dtype())\n"
    )
    fresh = "import torch\nprint(torch.get_num_threads(), torch.get_default_dtype())\n"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    said = [
        subprocess.run(
            [sys.executable, "-c", c], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
        ).stdout
        for c in (code, fresh)
    ]
    assert said[0] == said[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator that is tuned is glibc's")
def test_the_allocator_is_tuned_in_processes_of_our_own_only() -> None:
    code = (
        "import torch\n"
        "from wbcbench.training import allocator\n"
        "asked = []\n"
        "allocator.keep_freed_memory = lambda: asked.append(1) or True\n"
        "from wbcbench.training.workbench import Workbench\n"
        "Workbench(None, None, torch.device('cpu'))\n"
        "print(len(asked))\n"
        "import sys; sys.argv = ['wbcbench', '--version']\n"
        "from wbcbench.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "Workbench(None, None, torch.device('cpu'))\n"
        "print(len(asked))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert [done.stdout.splitlines()[i] for i in (0, -1)] == ["0", "1"]


def test_the_guard_keeps_signatures_and_works_outside_the_main_thread() -> None:
    import inspect
    from threading import Thread

    assert "fusion" in inspect.signature(wbcbench.run).parameters
    failed: list[BaseException] = []

    def inside() -> None:
        try:
            with guest():
                random.random()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=inside)
    thread.start()
    thread.join()
    assert failed == []
