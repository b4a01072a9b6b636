"""The page in a real browser: headless Chromium, driven by playwright; skipped where there is none."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wbcbench.leaderboard import Options, report
from wbcbench.leaderboard.formats import render
from wbcbench.leaderboard.model import Report
from wbcbench.records.store import Store
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
HOSTILE = "</script><img src=x onerror=document.title='owned'>{{7*7}}$x$"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    store = Store(tmp_path_factory.mktemp("page") / "store")
    for seed in (0, 1):
        for fusion, kd, skill in (("early", "none", 1.0), ("early", "dkd", 3.0), ("gated", "none", 2.0)):
            p = fake_predictions(seed, skill=skill, cells=40)
            fake_record(store, fake_trial(seed, fusion=fusion, kd=kd), predictions=p, provider=HOSTILE)
    p = fake_predictions(0, skill=2.5, cells=40)
    fake_record(store, fake_trial(0, fusion=HOSTILE), predictions=p)
    return report([store], Options(resamples=200, verify="files"))


def test_equal_reports_give_equal_bytes(found: Report) -> None:
    one, two = render(found, "html"), render(found, "html")
    assert one == two
    text = one.decode()
    assert HOSTILE not in text
    assert "<img src=x" not in text.split("</main>")[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as p:
        yield p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture(scope="module")
def file(found: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("html") / "board.html"
    path.write_bytes(render(found, "html"))
    return path


def opened(browser: Any, address: str, **options: Any) -> Any:
    page = browser.new_page(accept_downloads=True, **options)
    page.errors, page.asked = [], []
    page.on("console", lambda m: page.errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.on("request", lambda r: page.asked.append(r.url))
    page.goto(address)
    page.wait_for_function("document.documentElement.dataset.ready === 'yes'")
    return page


@pytest.fixture(scope="module")
def page(browser: Any, file: Path) -> Any:
    return opened(browser, file.as_uri(), viewport={"width": 1300, "height": 900})


def names(page: Any) -> list[str]:
    return [c.strip() for c in page.locator("#board-0-table tbody td.c-method").all_inner_texts()]


def header(page: Any, text: str) -> Any:
    return page.locator("#board-0-table_wrapper th", has_text=text).first


@pytest.mark.slow
def test_the_page_is_quiet_and_nothing_a_stranger_wrote_runs(page: Any) -> None:
    assert page.errors == []
    assert [u for u in page.asked if not u.startswith(("file:", "blob:", "data:"))] == []
    assert page.title() == "wbcbench leaderboard"
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("#board-0-table").inner_text()


@pytest.mark.slow
def test_plots_are_drawn(page: Any) -> None:
    assert page.locator(".plot").count() >= 4
    assert all(plot.locator("svg.main-svg").count() for plot in page.locator(".plot").all())
    pareto = page.locator("#pareto-0")
    assert pareto.locator(".scatterlayer .point").count() >= 3
    assert pareto.locator(".xtitle").text_content() == "MACs per cell"
    pareto.locator("text=parameters").first.click()
    page.wait_for_function("document.querySelector('#pareto-0 .xtitle').textContent === 'parameters'")


@pytest.mark.slow
def test_sort_search_filter_columns_and_a_link_that_keeps_them(browser: Any, page: Any) -> None:
    best_first = names(page)
    assert best_first[0].startswith("early + dkd")
    header(page, "macro-F1").click()
    header(page, "macro-F1").click()
    values = [float(t.split()[0]) for t in page.locator("#board-0-table tbody td.c-macro_f1").all_inner_texts()]
    assert values in (sorted(values), sorted(values, reverse=True))

    page.get_by_role("button", name="Columns").click()
    page.locator(".dt-button-collection .dt-button", has_text="AUROC").first.click()
    page.keyboard.press("Escape")
    assert page.locator("#board-0-table tbody td.c-auroc").count() == len(best_first)

    page.locator(".dt-search input").first.fill("gated")
    assert [n.split()[0] for n in names(page)] == ["gated"]
    assert "auroc" in page.inner_html("#board-0-table")
    assert "#" in page.url

    again = opened(browser, page.url)
    assert [n.split()[0] for n in names(again)] == ["gated"], "the address holds what was searched"
    assert again.locator("#board-0-table tbody td.c-auroc").count() == 1, "and which columns were chosen"
    assert again.errors == []
    again.close()
    page.locator(".dt-search input").first.fill("")

    page.get_by_role("button", name="Filter").click()
    page.locator(".dtsp-searchPane td", has_text="dkd").first.click()
    page.keyboard.press("Escape")
    assert {n.split()[2] for n in names(page)} == {"dkd"}


@pytest.mark.slow
def test_downloads(browser: Any, file: Path, found: Report) -> None:
    page = opened(browser, file.as_uri())
    with page.expect_download() as caught:
        page.get_by_role("button", name="CSV of what is shown").first.click()
    text = Path(caught.value.path()).read_text(encoding="utf-8-sig").strip()
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == 1 + len(found.boards[0].rows)
    assert "method" in rows[0]
    for link, name in (("CSV", "csv"), ("LaTeX", "latex"), ("JSON", "json")):
        with page.expect_download() as caught:
            page.locator(".downloads a", has_text=link).click()
        assert Path(caught.value.path()).read_bytes() == render(found, name)
    assert page.errors == []
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (820, "light")])
def test_narrow_screens_scroll_the_table_and_not_the_page(
    browser: Any, file: Path, width: int, scheme: str
) -> None:
    page = opened(browser, file.as_uri(), viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.close()
