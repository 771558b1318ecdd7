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
from harness.results.formatting import seconds_text
from tests.support.synthetic import SUBJECTS, Plan, questions, run, write

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LONG = ":max_new_tokens=16:with_options"
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


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("report")
    folder = write(run(PLANS), home / "run")
    rows = [row for plan in PLANS for row in questions(plan, "Light number {position} " + HOSTILE)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(write_html([load_run(folder)], home / "report.html"))


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The report, as if it was opened for the first time."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.report = report
    opened(browser, report.as_uri())
    return browser


def opened(browser: Any, address: str) -> None:
    """Opens a page and waits until its questions are unpacked."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    WebDriverWait(browser, 30).until(lambda page: js(page, "return document.documentElement.dataset.ready"))


def js(page: Any, code: str) -> Any:
    return page.execute_script(code)


def page_address(page: Any, fragment: str) -> str:
    return f"{page.report.as_uri()}{fragment}"


def choose(page: Any, picker: str, value: str) -> None:
    js(page, f"byId('{picker}').value = '{value}'; byId('{picker}').dispatchEvent(new Event('change'))")


def test_the_page_draws_without_a_word_in_the_console(page: Any) -> None:
    assert js(page, "return document.documentElement.dataset.ready") == "true"
    assert page.get_log("browser") == []
    empty = js(page, "return [...document.querySelectorAll('.chart')].filter(c => !c.children.length).length")
    assert empty == 0
    gates = "return document.querySelectorAll('.result:not([hidden]) [data-part=gates] .wide .mark-tip').length"
    assert js(page, gates) == 2 * 28
    assert js(page, "return document.querySelectorAll('.result:not([hidden])').length") == 1


def test_nothing_from_a_model_runs(page: Any) -> None:
    choose(page, "task", "0")
    js(page, "document.querySelector('#list tbody button').click()")
    assert js(page, "return window.hacked ?? null") is None
    assert "<script>" in js(page, "return document.querySelector('.detail').textContent")


def test_filters_show_what_they_say(page: Any) -> None:
    choose(page, "task", "1")
    choose(page, "show", "only c2c")
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

    js(page, "document.querySelectorAll('[data-part=figures] details').forEach(d => { d.open = true })")
    head = page.find_element("css selector", ".result:not([hidden]) table.sortable th.num button")
    head.send_keys(Keys.ENTER)
    column = (
        "return [...document.querySelector('.result:not([hidden]) table.sortable').tBodies[0].rows]"
        ".map(r => +r.cells[1].dataset.value)"
    )
    values = js(page, column)
    assert values == sorted(values, reverse=True)
    head.send_keys(Keys.ENTER)
    assert js(page, column) == sorted(values)


def test_the_page_rounds_as_the_boards_do(page: Any) -> None:
    amounts = [i / 32 for i in range(4000)] + [1234.5, 999.4, 2_048_000.0, 27.25, 27.75]
    values = [amount for amount in amounts if amount]
    drawn = page.execute_script("return arguments[0].map((x) => seconds(x))", values)
    assert drawn == [seconds_text(value) for value in values]


def test_the_address_says_task_and_question_and_leads_back_to_them(page: Any) -> None:
    choose(page, "task", "1")
    name = js(page, "return DATA.runs[0].tasks[1].name")
    js(page, "document.querySelectorAll('#list tbody button')[3].click()")
    address = js(page, "return location.hash")
    assert f"task={name}" in address
    assert "question=" in address
    page.get("about:blank")
    opened(page, page_address(page, address))
    assert js(page, "return chosen().name") == name
    assert js(page, "return [...view.open]") == [3]
    assert js(page, "return document.querySelectorAll('.detail').length") == 1


def test_two_runs_stand_side_by_side_question_by_question(browser: Any, tmp_path: Path) -> None:
    runs = [run([Plan(n=12, seed=seed)], run_id=name) for name, seed in (("first", 1), ("second", 2))]
    opened(browser, write_html(runs, tmp_path / "two.html").as_uri())
    assert js(browser, "return document.querySelectorAll('.result:not([hidden])').length") == 1
    choose(browser, "beside", "1")
    assert js(browser, "return document.querySelectorAll('.result:not([hidden])').length") == 2
    names = js(browser, "return view.questions.arms.filter(a => a.base).map(a => a.name)")
    assert names == ["receiver · first"]
    shown = "return [...document.querySelectorAll('.compared:not([hidden]) h2')].map((head) => head.textContent)"
    assert js(browser, shown) == ["second minus first: openbookqa"]
    choose(browser, "beside", "")
    assert js(browser, shown) == []
    choose(browser, "beside", "1")
    both = js(browser, "return view.questions.arms.filter(a => a.channel === 'receiver').map(a => a.marks)")
    marks = ["".join("1" if s.correct else "0" for s in made.samples if s.arm == ("receiver", "")) for made in runs]
    assert both == marks


@pytest.mark.parametrize("width", [390, 880])
def test_no_table_is_wider_than_its_box(page: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.refresh()
    js(
        page,
        "document.querySelectorAll('.ranking tbody th').forEach(th => th.append(':max_new_tokens=16:with_options'))",
    )
    wide = js(
        page,
        "return [...document.querySelectorAll('.ranking')].filter(t => t.offsetParent "
        "&& t.scrollWidth > t.parentElement.clientWidth).length",
    )
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide == 0


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_sideways(page: Any, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.refresh()
    assert js(page, "return document.documentElement.scrollWidth <= innerWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_links_lead_somewhere_and_a_verdict_stands_on_a_telephone(page: Any) -> None:
    links = js(page, "return [...document.querySelectorAll('[data-section]')].map(l => [l.hidden, !sectionOf(l)])")
    assert [hidden for hidden, _ in links] == [nowhere for _, nowhere in links]
    assert [False, False] in links
    choose(page, "task", "0")
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    seen = js(page, "return document.querySelector('.result:not([hidden]) .ranking').innerText")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert "not resolved" in seen
    assert js(page, "return document.querySelector('.result:not([hidden]) .ranking').innerText").count(
        "not resolved"
    ) == seen.count("not resolved")


CUT = """
return [...document.querySelectorAll('.chart svg text')].filter((text) => {
  const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
  return box.width && (box.left < frame.left || box.right > frame.right);
}).map((text) => text.textContent);
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_no_word_of_a_figure_is_cut(browser: Any, tmp_path: Path, width: int) -> None:
    arms = [("receiver", ""), ("c2c", ""), *((f"c2c{LONG}", control) for control in ("", "mean", "mismatched"))]
    made = run([Plan(n=24, arms=arms, chances=dict.fromkeys(arms, 0.5), timed=0, subjects=SUBJECTS[:3])])
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser, write_html([made], tmp_path / "page.html").as_uri())
        assert js(browser, CUT) == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


CONTRAST = """
const scale = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const shine = (hex) => { const n = parseInt(hex.slice(1), 16);
  return 0.2126 * scale(n >> 16) + 0.7152 * scale((n >> 8) & 255) + 0.0722 * scale(n & 255); };
const style = getComputedStyle(document.documentElement), look = (name) => style.getPropertyValue(name).trim();
const ratio = (a, b) => { const [x, y] = [shine(look(a)), shine(look(b))].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05); };
const names = ['ink', 'soft', 'faint', 'good', 'bad', 'accent', 'warn'];
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
