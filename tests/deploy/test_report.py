"""`wbcbench report`: one page, nothing of a stranger in it is markup, equal records give equal bytes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.boards.formats.page import content_policy, packed, plotly_js
from wbcbench.deploy.report import examination, gather, metric_intervals, other_seeds, page, worst
from wbcbench.records.evaluations import checksummed
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial
from wbcbench.training.report import examined

Invoke = Callable[..., tuple[int, str, str]]
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>{{7*7}}"
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


@pytest.fixture
def html(winners: Any, invoke: Invoke, tmp_path: Path) -> Callable[..., str]:
    """Run the verb; returns the page."""

    def call(fusion: str, *args: str) -> str:
        out = tmp_path / "page.html"
        code, _, err = invoke("report", winners.ids[fusion], "--store", str(winners.root), "-o", str(out), *args)
        assert code == 0, err
        return out.read_text(encoding="utf-8")

    return call


def without_plotly(text: str) -> str:
    return re.sub("<!-- libraries -->.*<!-- /libraries -->", "", text, flags=re.DOTALL)


def test_the_page_shows_the_record(html: Any, winners: Any) -> None:
    text = html("independent", "--set", f"dataset.path={winners.cells}")
    record = winners.record("independent")
    for part in (
        record.trial.id,
        record.result.digest,
        record.result.key.fingerprint,
        *record.result.files.values(),
    ):
        assert part in text
    assert f"{record.result.metrics['test']['macro_f1']:.3f} (" in text
    assert f"{record.result.cost.params:,}" in text
    assert f"{record.result.routes['v']['auroc']:.3f}" in text
    assert "Not evaluated" in text
    wrong = worst(record, "test")
    assert without_plotly(text).count('src="data:image/png;base64,') == 2 * len(wrong)
    for name in ("losses", "validation", "confusion", "calibration", "classes"):
        assert f'id="figure-{name}"' in text


def test_equal_records_give_equal_bytes(html: Any, winners: Any) -> None:
    place = ("--set", f"dataset.path={winners.cells}")
    assert html("stacking", *place) == html("stacking", *place)


def test_no_network_and_no_script_but_its_own(html: Any) -> None:
    text = html("early")
    scripts = re.findall(r"<script type=\"module\">(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    assert packed(plotly_js()) in text
    scripts = [plotly_js(), *scripts]
    (said,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert said.replace("&#39;", "'") == content_policy(scripts)
    assert "default-src" in said
    outside = re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', without_plotly(text))
    assert outside == []


def test_without_cells_the_page_says_why_there_are_no_pictures(html: Any) -> None:
    text = html("early")
    assert "No pictures: Expected an .npz file" in text
    assert "data:image/png" not in without_plotly(text)


def test_what_an_examination_found_is_shown(html: Any, winners: Any, tmp_path: Path) -> None:
    found = winners.rebuilt("stacking")
    entry = examined(found.record, found.bench)
    text = html("stacking")
    for name in ("missing", "corruptions"):
        assert f'id="figure-{name}"' in text
    assert f"{entry['result']['shapley']['u']:.3f}" in text
    assert "Not evaluated" not in text
    for subset, cost in entry["result"]["subset_cost"].items():
        assert f'<th scope="row">{subset.replace("+", " + ")}</th>' in text
        assert f'<td class="number">{cost["params"]:,}</td><td class="number">{cost["macs"]:,}</td>' in text
    assert "imputed and read like the others" in text, "stacking imputes"
    path = winners.root / "evaluations" / f"{found.record.trial.id}.json"
    assert examination(found.record) == (entry["result"], "")
    for written, result, remark in (
        (entry, entry["result"], "The full evaluation has no checksum"),
        (checksummed(entry) | {"seed": 99}, None, f"evaluations/{path.name} is damaged"),
        (checksummed(entry | {"digest": "0" * 64}), None, "is of another record"),
        (checksummed(entry | {"version": 99}), None, "has version 99"),
        ([], None, "not a JSON object"),
    ):
        path.write_text(json.dumps(written))
        shown, why = examination(found.record)
        assert (shown, remark in why) == (result, True), why
        text = html("stacking")
        assert why in text
        assert ('id="figure-missing"' in text) == (result is not None)
    again = examined(found.record, found.bench)
    assert again["result"]["subsets"] == entry["result"]["subsets"], "made anew over what cannot be trusted"
    assert examination(found.record) == (again["result"], "")


def test_nothing_of_a_stranger_is_markup(tmp_path: Path, winners: Any) -> None:
    store = Store(tmp_path / "store")
    teacher = fake_trial(0, fusion=HOSTILE, backbone=HOSTILE, modalities=("dapi",))
    trial = fake_trial(0, fusion=HOSTILE, backbone=HOSTILE, kd=HOSTILE, teachers=(teacher,))
    record = fake_record(store, trial, provider=HOSTILE)
    path = store.root / "evaluations" / f"{trial.id}.json"
    path.parent.mkdir()
    result = {
        "subsets": {HOSTILE: {"macro_f1": 0.5}},
        "corruptions": {HOSTILE: {HOSTILE: [0.5, 0.4]}},
        "shapley": {HOSTILE: 0.1},
    }
    path.write_text(json.dumps({"digest": record.result.digest, "result": result}))
    text = page(gather(record, store, winners.rebuilt("early").bench.registry))
    rest = without_plotly(text)
    assert HOSTILE not in text
    assert "<img src=x" not in text
    assert "<script>document" not in text
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", rest, re.DOTALL)[0]
    assert "&lt;img src=x" in rest
    assert teacher.id in rest


@pytest.mark.slow
def test_a_browser_draws_it_and_asks_no_network(html: Any, winners: Any, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    html("independent", "--set", f"dataset.path={winners.cells}")
    said: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda e: said.append(str(e)))
        tab.on("request", lambda r: asked.append(r.url))
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_selector("html[data-ready=yes]", state="attached")
        plots = tab.locator(".plot .main-svg").count()
        tab.locator("select[data-plot=figure-validation]").select_option("nll")
        shown = tab.evaluate(
            "document.getElementById('figure-validation').data.filter(t => t.visible).map(t => t.meta)"
        )
        browser.close()
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert plots >= 5
    assert shown == ["nll"]


def test_the_worst_mistakes_are_the_least_probable_truths(tmp_path: Path) -> None:
    record = fake_record(Store(tmp_path / "s"), fake_trial(0))
    p, labels = record.predictions["test_probabilities"], record.predictions["test_labels"]
    rows = worst(record, "test", 4)
    given = [float(p[r, labels[r]]) for r in rows]
    wrong = np.flatnonzero(p.argmax(1) != labels)
    assert given == sorted(given)
    assert given[0] == p[wrong, labels[wrong]].min()
    assert all(p[r].argmax() != labels[r] for r in rows)


def test_intervals_cover_the_value_and_are_wider_with_few_donors(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    predictions = fake_predictions(0, cells=300)
    alone = metric_intervals(fake_record(store, fake_trial(0), predictions=predictions))
    groups = {"test_groups": np.arange(300, dtype=np.int64) // 60}
    grouped = metric_intervals(fake_record(store, fake_trial(1), predictions=predictions | groups))
    one = {"test_groups": np.zeros(300, dtype=np.int64)}
    for name, interval in alone.items():
        assert interval.low is not None
        assert interval.high is not None
        assert interval.value is not None
        assert interval.low <= interval.high
        if name != "ece":  # whose resamples are biased upwards
            assert interval.low <= interval.value <= interval.high
    assert alone["accuracy"].value == grouped["accuracy"].value
    assert (alone["accuracy"].low, alone["accuracy"].high) != (grouped["accuracy"].low, grouped["accuracy"].high)
    only = metric_intervals(fake_record(store, fake_trial(2), predictions=predictions | one))
    assert only["accuracy"].low is None


def test_other_seeds_are_of_the_same_method(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    records = [fake_record(store, fake_trial(seed), skill=2.0) for seed in (0, 1, 2)]
    fake_record(store, fake_trial(5, fusion="early"))
    found = other_seeds(records[1], store)
    assert found is not None
    assert found.seeds == (0, 1, 2)
    scores = [r.result.metrics["test"]["macro_f1"] for r in records]
    assert found.mean == pytest.approx(np.mean(scores))
    assert found.sd == pytest.approx(np.std(scores, ddof=1))
    assert other_seeds(records[1], None) is None
