"""The page in a real browser: headless Chromium, driven by playwright; skipped where there is none."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from wbcbench.boards import Options, report
from wbcbench.boards.formats import render
from wbcbench.boards.model import Report
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.records.store import Store
from wbcbench.spec import ComponentSpec
from wbcbench.testing.records import fake_predictions, fake_record, fake_trial

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>{{7*7}}$x$"
QUOTED = "\"><img src=x onerror=alert(1)>'"
FORMULA = "=1+1"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two boards; on the larger one, strangers with ideas, and one method that was examined."""
    store = Store(tmp_path_factory.mktemp("page") / "store")

    def add(trial: Any, skill: float, **more: Any) -> Any:
        predictions = fake_predictions(trial.seed, skill=skill, cells=40)
        return fake_record(store, trial, predictions=predictions, **more)

    for seed in (0, 1):
        add(fake_trial(seed, fusion="early"), 1.0, params=500)
        record = add(fake_trial(seed, fusion="early", kd="dkd"), 3.0, params=70_000, provider=HOSTILE)
        path = store.root / "evaluations" / f"{record.trial.id}.json"
        path.parent.mkdir(exist_ok=True)
        subsets = {"brightfield": {"macro_f1": 0.4}, f"brightfield+{HOSTILE}": {"macro_f1": 0.8}}
        path.write_text(
            json.dumps(
                {"version": EXAMINATION_VERSION, "digest": record.result.digest, "result": {"subsets": subsets}}
            )
        )
        add(fake_trial(seed, fusion="gated"), 2.0, params=9000)
    add(fake_trial(0, fusion=HOSTILE, kd=HOSTILE), 2.5)
    add(fake_trial(0, fusion=QUOTED, backbone=QUOTED), 2.4)
    add(fake_trial(0, fusion=FORMULA), 2.3)
    for fusion in ("early", "gated"):
        add(fake_trial(0, fusion=fusion, dataset=ComponentSpec(name=HOSTILE), fingerprint="g" * 16), 1.5)
    return report([store], Options(resamples=200, verify="files"))


@pytest.fixture(scope="module")
def html(found: Report) -> bytes:
    return render(found, "html")


def test_equal_reports_give_equal_bytes_and_no_text_of_a_stranger_is_markup(found: Report, html: bytes) -> None:
    assert html == render(found, "html")
    text = html.decode()
    assert HOSTILE not in text
    assert "<img src=x" not in text
    assert "<script>document.title" not in text
    assert "'unsafe-inline'" not in text.split("script-src")[1].split(";")[0]
    assert text.count("plotly.js v") <= 2, "the library is there once"


@pytest.fixture(scope="module")
def page(html: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    path = tmp_path_factory.mktemp("html") / "board.html"
    path.write_bytes(html)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(accept_downloads=True, viewport={"width": 1300, "height": 900})
        page.set_default_timeout(120_000)  # of a machine that has other things to do
        page.said, page.asked, page.address = [], [], path.as_uri()
        page.on("console", lambda m: page.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: page.said.append(str(e)))
        page.on("dialog", lambda d: (page.said.append(d.message), d.dismiss()))
        page.on("request", lambda r: page.asked.append(r.url))
        page.goto(page.address)
        ready(page)
        yield page
        browser.close()


@pytest.fixture
def key(found: Report) -> str:
    return found.boards[0].digest


def ready(page: Any) -> None:
    page.wait_for_selector("html[data-ready=yes]", state="attached")  # the policy forbids to poll a script


def anew(page: Any, address: str) -> None:
    """Open an address as somebody would who was sent it."""
    page.goto("about:blank")
    page.goto(address)
    ready(page)


def cells(page: Any, key: str, column: str) -> list[str]:
    script = "(all) => all.map((e) => e.textContent.trim())"
    return list(page.eval_on_selector_all(f"#board-{key}-table tbody td.c-{column}", script))


def shows(page: Any, key: str, *methods: str) -> None:
    """Wait until the table has these methods, in this order."""
    script = (
        "([id, want]) => want === [...document.querySelectorAll(id)].map((e) => e.textContent.trim()).join('|')"
    )
    page.wait_for_function(script, arg=[f"#board-{key}-table tbody td.c-method", "|".join(methods)])


def test_the_page_is_quiet_and_nothing_a_stranger_wrote_runs(page: Any, key: str, found: Report) -> None:
    assert page.said == []
    assert [u for u in page.asked if not u.startswith(("file:", "blob:", "data:"))] == []
    assert page.title() == "wbcbench leaderboard"
    assert page.locator("img").count() == 0
    assert len(cells(page, key, "method")) == len(found.boards[0].rows) == 6
    for name in (HOSTILE, QUOTED, FORMULA):
        assert any(name in shown for shown in cells(page, key, "method")), "shown as it was written"
    assert page.locator("section[id^=board-]").count() == 2
    assert HOSTILE in page.locator(f"#board-{found.boards[1].digest} h2").inner_text()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"


def test_plots_are_drawn_and_a_choice_redraws_them(page: Any, key: str) -> None:
    plots = page.locator(".plot")
    assert plots.count() == 10, "on the first board six, on the second four: no heat map, nothing examined"
    assert page.locator(".plot svg.main-svg").count() >= plots.count()
    assert page.locator(f"#pareto-{key} .scatterlayer .point").count() >= 3
    title = page.locator(f"#pareto-{key} .xtitle")
    assert title.text_content() == "MACs per cell"
    cost = page.locator(f"#board-{key} select[name$='.cost']")
    cost.focus()
    page.keyboard.press("ArrowDown")
    assert title.text_content() == "parameters"

    method = page.locator(f"#board-{key} select[name$='.method']")
    shares = page.locator(f"#confusion-{key} .heatmap-label")
    before = shares.all_text_contents()
    method.select_option(label="early")
    assert shares.all_text_contents() != before
    chosen = method.input_value()
    anew(page, page.url)
    assert page.locator(f"#board-{key} select[name$='.method']").input_value() == chosen
    assert shares.all_text_contents() != before
    assert title.text_content() == "parameters"
    assert "No critical-difference diagram" in page.locator("#across").inner_text()
    assert page.said == []


def test_sort_search_filter_columns_and_a_link_that_keeps_them(page: Any, key: str, found: Report) -> None:
    anew(page, page.address)
    assert "#" not in page.url
    assert cells(page, key, "method")[0] == "early + dkd"
    worst_first = sorted(found.boards[0].rows, key=lambda r: r.metrics["macro_f1"].mean or 0)
    button = page.get_by_role("button", name="macro-F1: Activate to sort").first
    button.focus()
    page.keyboard.press("Enter")
    shows(page, key, *(r.name for r in worst_first))

    page.get_by_role("button", name="Columns").first.click()
    page.locator(".dt-button-collection .dt-button", has_text="AUROC").first.click()
    page.keyboard.press("Escape")
    assert len(cells(page, key, "auroc")) == 6

    page.get_by_role("button", name="Filter").first.click()
    page.locator(".dtsp-searchPane td", has_text="early").first.click()
    page.keyboard.press("Escape")
    shows(page, key, "early", "early + dkd")
    page.locator(".dt-search input").first.fill("dkd")
    shows(page, key, "early + dkd")

    link = page.url
    assert len(link.split("#")[1]) < 400
    anew(page, link)
    shows(page, key, "early + dkd")  # the address holds the search and the filter
    assert len(cells(page, key, "auroc")) == 1, "and the columns"
    page.locator(".dt-search input").first.fill("")
    shows(page, key, "early", "early + dkd")  # and the order
    page.locator("nav a").first.click()
    # An anchor does not take the choices away: they are written again after its event.
    page.wait_for_function("(part) => location.hash.includes(part)", arg=f"board-{key}.fusion=early")
    page.get_by_role("button", name="Filter").first.click()
    page.get_by_role("button", name="Clear All").click()
    shows(page, key, *(r.name for r in worst_first))
    page.keyboard.press("Escape")
    assert page.said == []


def test_downloads(page: Any, found: Report) -> None:
    anew(page, page.address)
    with page.expect_download() as caught:
        page.get_by_role("button", name="CSV of what is shown").first.click()
    rows = list(csv.reader(io.StringIO(Path(caught.value.path()).read_text(encoding="utf-8-sig"))))
    assert rows[0][:2] == ["rank", "method"]
    names = [r[1] for r in rows[1:] if r]
    assert len(names) == len(found.boards[0].rows)
    assert any(HOSTILE in n for n in names), "as it was written, not as HTML writes it"
    assert not any(n.startswith("=") for n in names), "no formula in a spreadsheet"
    for link, name in (("CSV", "csv"), ("LaTeX", "latex"), ("JSON", "json")):
        with page.expect_download() as caught:
            page.locator(".downloads a", has_text=link).click()
        assert Path(caught.value.path()).read_bytes() == render(found, name)
    assert page.said == []


def test_a_phone_in_the_dark(page: Any, key: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 22, 21)"
    scroller = page.locator(f"#board-{key} .dt-scroll-body")
    assert scroller.evaluate("(e) => { e.scrollLeft = 300; return e.scrollLeft; }") > 100, "the table scrolls"
    left = page.locator(f"#board-{key}-table tbody td.c-method").first.bounding_box()["x"]
    assert 0 < left < 120, "and the method stays"
    assert page.said == []
    page.emulate_media(color_scheme="light")


def test_on_paper_the_table_is_whole(page: Any, key: str) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})
    table = page.locator(f"#board-{key}-table")
    assert table.bounding_box()["width"] <= 718
    assert table.locator("thead th").first.bounding_box()["height"] > 5, "with its head"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(f"#pareto-{key} .main-svg").first.bounding_box()["width"] <= 700
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1300, "height": 900})


def test_a_hostile_link_does_nothing_and_the_policy_holds(page: Any, key: str) -> None:
    bad = quote("<img src=x onerror=document.title='owned'>")
    fields = "&".join(f"board-{key}.{n}={bad}" for n in ("search", "sort", "columns", "fusion", "method", "cost"))
    anew(page, f"{page.address}#{fields}")
    assert page.locator("img").count() == 0
    assert page.said == []
    # Had something been written into the page all the same:
    page.evaluate("""() => {
        document.body.insertAdjacentHTML('beforeend', '<img src="data:," onerror="document.title=1">');
        const script = document.createElement('script');
        script.textContent = 'document.title = 2';
        document.body.append(script);
    }""")
    page.wait_for_timeout(50)
    assert page.title() == "wbcbench leaderboard"
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert [u for u in page.asked if not u.startswith(("file:", "blob:", "data:", "about:"))] == []


def test_a_phone_shows_rank_method_and_score_and_the_rest_under_the_row(
    page: Any, found: Report, key: str
) -> None:
    page.said.clear()  # of the tests before
    page.set_viewport_size({"width": 390, "height": 844})
    anew(page, page.address)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    table = page.locator(f"#board-{key}-table")
    heads = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    assert heads == ["rank", "method", "macro-F1"]
    row = found.boards[0].rows[0]
    score = row.metrics["macro_f1"]
    first = table.locator("tbody tr").first
    assert f"{score.low:.3f}..{score.high:.3f}" in first.locator("td.c-macro_f1").inner_text()
    button = first.locator("button.fold")
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    folded = table.locator("tbody tr").nth(1).inner_text()
    assert "params" in folded
    assert "macro-F1" not in folded
    button.click()
    assert table.locator("tbody dl").count() == 0
    top = "(e) => { scrollTo({top: e.getBoundingClientRect().top + scrollY + 90, behavior: 'instant'}); }"
    table.evaluate(top)
    assert table.locator("thead th").first.bounding_box()["y"] == pytest.approx(0, abs=2), "the head stays"
    page.set_viewport_size({"width": 1300, "height": 900})
    anew(page, page.address)
    page.locator(f"#board-{key}-table").evaluate(top)
    head = page.locator(f"#board-{key} .dt-scroll-head").bounding_box()
    assert head["y"] == pytest.approx(0, abs=2)
    assert page.said == []
