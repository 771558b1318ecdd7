"""The boards as GitHub shows them, on a screen and on a telephone; skipped with its reason where no browser is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness.leaderboard import add_record, write
from harness.paths import LEADERBOARDS
from tests.report.test_report_browser import browser  # noqa: F401 - a fixture
from tests.support.github_view import WIDER, html_of
from tests.support.synthetic import SUBJECTS, Plan, run
from tests.support.synthetic import write as write_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with every channel, control and time, beside the committed ones."""
    home = tmp_path_factory.mktemp("boards")
    plans = (Plan(n=60, errors=2, timed=8), Plan(n=40, task="mmlu_redux", subjects=SUBJECTS))
    add_record(home / "boards", write_run(run(plans), home / "run"))
    write(home / "boards")
    return home / "boards"


@pytest.mark.parametrize("width", [880, 390])
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "synthetic"])
def test_no_table_is_wider_than_its_box(
    browser: Any,  # noqa: F811 - the fixture
    boards: Path,
    tmp_path: Path,
    committed: bool,
    width: int,
) -> None:
    pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    folder = LEADERBOARDS if committed else boards
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for page in sorted(folder.glob("*.md")):
            shown = tmp_path / f"{page.stem}.html"
            shown.write_text(html_of(page), encoding="utf-8")
            browser.get(shown.as_uri())
            assert browser.execute_script("return document.querySelectorAll('table').length") > 0
            wider = browser.execute_script(WIDER)
            assert (page.name, wider) == (page.name, [])
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_first_screen_of_the_overview_answers_what_is_best_real_and_what_it_costs(
    browser: Any,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    shown = tmp_path / "README.html"
    shown.write_text(html_of(LEADERBOARDS / "README.md"), encoding="utf-8")
    browser.get(shown.as_uri())
    first = browser.find_element("css selector", "table tbody tr").text
    assert re.search(r"receiver [0-9.]+ \[", first)
    assert re.search(r"communicates|adapts|harms|not resolved", first.replace("\u00ad", ""))
    assert re.search(r"[0-9] (B|kB|MB)", first)
    headings = browser.find_element("css selector", "table thead").text
    assert "verdict, cost" in headings.replace("\u00ad", "")


CUT = """
const frame = document.querySelector('svg').getBoundingClientRect();
return [...document.querySelectorAll('svg text')].filter((text) => {
  const box = text.getBoundingClientRect();
  return box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom;
}).map((text) => text.textContent);
"""


@pytest.mark.parametrize("picture", sorted(path.name for path in LEADERBOARDS.glob("*-light.svg")))
def test_a_picture_cuts_no_word(browser: Any, picture: str) -> None:  # noqa: F811 - the fixture
    browser.get((LEADERBOARDS / picture).as_uri())
    assert browser.execute_script(CUT) == []
