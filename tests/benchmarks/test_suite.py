"""The suite's document and page are whole; nothing here depends on time."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from wbcbench.training.allocator import keep_freed_memory

HERE = Path(__file__).parent


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module; threads and path are as before afterwards."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    threads = torch.get_num_threads()
    import suite

    yield suite
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_document_and_page_of_every_benchmark(
    suite: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    assert suite.main(["--tiny", "--threads", "1", "--json", str(out), "--page", str(page)]) == 0

    document = json.loads(out.read_text())
    assert document["environment"]["threads"] == 1
    assert {"date", "cpu", "cores", "packages"} <= set(document["environment"])
    parts = {p["name"]: p for p in document["parts"]}
    absent = {
        "rival": find_spec("torchdistill") is None, "rival, still images": find_spec("torchdistill") is None,
        "gpu": not torch.cuda.is_available(), "allocator": not keep_freed_memory(),
    }  # fmt: skip
    assert len(parts) == len(document["parts"]) == len(suite.benchmarks())
    assert document["failed"] == []
    for name, part in parts.items():
        if absent.get(name):
            assert part["skipped"], name
        else:
            assert part["seconds"], name
    ratios = {r["name"]: r for r in parts["loop"]["ratios"]}
    step = ratios["KD live: ours / bare, step"]
    assert step["goal"] == ">= 0.97"
    assert step["met"] == (step["value"] >= 0.97)
    assert step["low"] <= step["value"] <= step["high"]
    assert ratios["replay / live, epoch"]["goal"] is None
    taken = {(n, what): times for n, p in parts.items() for what, times in p["seconds"].items()}
    assert taken.pop(("matrix", "teachers' training")) == [0.0], "the tiny matrix has no distillation"
    assert all(s > 0 for times in taken.values() for s in times)
    assert len(parts["loop"]["seconds"]["bare, live, step"]) == 2

    html = page.read_text()
    assert html.count("<section>") == len(parts)
    assert "KD live: ours / bare, step" in html
    assert "http" not in html.replace("http-equiv", "")  # asks nothing of any network
    assert "KD live: ours / bare, step" in capsys.readouterr().out


def test_a_benchmark_that_breaks_does_not_stop_the_others(suite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from measuring import Options, Part, Ratio

    def broken(_: Options) -> Part:
        raise SystemExit("no such file")

    both = {"broken": broken, "fine": lambda _: Part("fine", "", [Ratio("a / b", 2.0)])}
    monkeypatch.setattr(suite, "benchmarks", lambda: both)
    document = suite.run(["broken", "fine"], Options(threads=1))
    assert document["failed"] == ["broken"]
    assert "no such file" in suite.table(document)
    assert document["parts"][1]["ratios"][0]["value"] == 2.0
    assert "failed: SystemExit" in suite.page(document)


def test_contenders_that_differ_are_refused(suite: Any) -> None:
    import loop

    class Said:
        def __init__(self, loss: float) -> None:
            self.loss = loss

        def epoch(self, number: int) -> None:
            pass

    loop.agree(None, {"a": Said(1.0), "b": Said(1.0 + 1e-5)})
    with pytest.raises(SystemExit, match="same loss"):
        loop.agree(None, {"a": Said(1.0), "b": Said(1.1)})


def test_unknown_names_are_refused(suite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        suite.main(["--only", "lop"])
    assert "loop" in capsys.readouterr().err
