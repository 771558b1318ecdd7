"""The page in a real browser; skipped with its reason where none is installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.records import load_run
from harness.report.page import write_html
from harness.results.wording import bytes_text, percent_text, points_text, seconds_text
from tests.synthetic import SUBJECTS, Plan, questions, run, write

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
PLANS = (
    Plan(n=120, errors=2),
    Plan(n=90, task="mmlu_redux", subjects=SUBJECTS[:6], answer="{letter} " + HOSTILE),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium with its driver is installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield started
    started.quit()


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    folder = write(run(PLANS), tmp_path / "run")
    rows = [row for plan in PLANS for row in questions(plan, "Light number {position} " + HOSTILE)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    browser.get_log("browser")
    browser.get(write_html([load_run(folder)], tmp_path / "report.html").as_uri())
    return browser


def js(page: Any, code: str) -> Any:
    return page.execute_script(code)


def choose(page: Any, picker: str, value: str) -> None:
    js(page, f"byId('{picker}').value = '{value}'; byId('{picker}').dispatchEvent(new Event('change'))")


def test_the_page_draws_without_a_word_in_the_console(page: Any) -> None:
    assert js(page, "return document.documentElement.dataset.ready") == "true"
    assert page.get_log("browser") == []
    empty = js(page, "return [...document.querySelectorAll('.chart')].filter(c => !c.children.length).length")
    assert empty == 0
    assert js(page, "return document.querySelectorAll('[data-chart=fusion] rect').length") == 2 * 28


def test_nothing_from_a_model_runs(page: Any) -> None:
    choose(page, "task", "0")
    js(page, "document.querySelector('#list tbody button').click()")
    assert js(page, "return window.hacked ?? null") is None
    assert "<script>" in js(page, "return document.querySelector('.detail').textContent")


def test_filters_show_what_they_say(page: Any) -> None:
    choose(page, "task", "1")
    choose(page, "show", "cache")
    cells = js(
        page,
        "return [...document.querySelectorAll('#list tbody tr.row')].map(r => "
        "[...r.querySelectorAll('.mark')].map(m => m.classList.contains('right')))",
    )
    assert cells
    assert all(row == [False] * 6 + [True] for row in cells)
    choose(page, "show", "all")
    js(page, "byId('search').value = 'number 17'; refilter()")
    assert js(page, "return view.rows") == [17]


def test_pages_turn_and_hold_fifty_rows(page: Any) -> None:
    choose(page, "task", "1")
    assert js(page, "return document.querySelectorAll('#list tbody tr').length") == 50
    js(page, "[...document.querySelectorAll('#pager button')].at(-1).click()")
    assert "number 50" in js(page, "return document.querySelector('#list tbody button').textContent")


def test_tables_sort_by_number_with_the_keyboard(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    js(page, "document.querySelectorAll('#tables details').forEach(d => { d.open = true })")
    head = page.find_element("css selector", "#tables table.sortable th.num button")
    head.send_keys(Keys.ENTER)
    column = (
        "return [...document.querySelector('#tables table.sortable').tBodies[0].rows]"
        ".map(r => +r.cells[1].dataset.value)"
    )
    values = js(page, column)
    assert values == sorted(values, reverse=True)
    head.send_keys(Keys.ENTER)
    assert js(page, column) == sorted(values)


def test_the_page_rounds_as_the_boards_do(page: Any) -> None:
    shares = [sign * i / n for n in (400, 800, 1150, 8000) for i in range(n + 1) for sign in (1, -1)]
    amounts = [i / 32 for i in range(4000)] + [1234.5, 999.4, 2_048_000.0, 27.25, 27.75]
    for name, in_text, values in (
        ("percent", percent_text, [share for share in shares if share >= 0]),
        ("points", points_text, shares),
        ("size", bytes_text, amounts),
        ("seconds", seconds_text, [amount for amount in amounts if amount]),
    ):
        drawn = page.execute_script(f"return arguments[0].map((x) => {name}(x))", values)
        assert [one.replace("−", "-") for one in drawn] == [in_text(value) for value in values]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_sideways(page: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.refresh()
    assert js(page, "return document.documentElement.scrollWidth <= innerWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """
const scale = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const shine = (hex) => { const n = parseInt(hex.slice(1), 16);
  return 0.2126 * scale(n >> 16) + 0.7152 * scale((n >> 8) & 255) + 0.0722 * scale(n & 255); };
const style = getComputedStyle(document.documentElement), look = (name) => style.getPropertyValue(name).trim();
const ratio = (a, b) => { const [x, y] = [shine(look(a)), shine(look(b))].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05); };
const names = ['ink', 'soft', 'faint', 'good', 'bad', 'receiver', 'sharer', 'routed', 't2t', 'c2c'];
return names.map((name) => `--${name}`).flatMap((text) =>
  ['--card', '--page'].map((ground) => [text, ground, ratio(text, ground)]));
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_colour_has_enough_contrast(page: Any, theme: str) -> None:
    js(page, f"theme = '{theme.title()}'; applyTheme()")
    weak = [found for found in js(page, CONTRAST) if found[2] < 4.5]
    assert weak == []


def test_every_mark_control_and_table_says_what_it_is(page: Any) -> None:
    nameless = js(
        page,
        "return [...document.querySelectorAll('select, input, button, [role=img], [role=region], svg')].filter(n => "
        "!(n.getAttribute('aria-label') || n.textContent.trim() || n.closest('label')))"
        ".map(n => n.outerHTML.slice(0, 80))",
    )
    assert nameless == []
