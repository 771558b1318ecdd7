"""README as GitHub shows it, on a screen and on a telephone; skipped with its reason where no browser is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_report_browser import browser  # noqa: F401 - a fixture
from tests.support.github_view import WIDER, html_of
from tests.support.pages import ROOT

pytestmark = pytest.mark.browser

FIRST_SCREEN = """
const shown = (one) => one.getBoundingClientRect().bottom <= arguments[0];
return [...document.body.children].filter(shown).map((one) => one.innerText).join('\\n');
"""
CUT = """
const first = (one) => one.getBoundingClientRect().bottom <= arguments[0];
return [...document.querySelectorAll('pre')].filter((one) => first(one) && one.scrollWidth > one.clientWidth)
  .map((one) => one.innerText.slice(0, 80));
"""


@pytest.fixture(params=[880, 390])
def readme(
    request: pytest.FixtureRequest,
    browser: Any,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> Iterator[tuple[Any, int]]:
    pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    shown = tmp_path / "README.html"
    shown.write_text(html_of(ROOT / "README.md"), encoding="utf-8")
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": request.param < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(shown.as_uri())
    yield browser, request.param
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_table_is_wider_than_its_box_and_every_picture_is_there(readme: tuple[Any, int]) -> None:
    page, width = readme
    assert page.execute_script("return document.querySelectorAll('table').length") > 0
    assert page.execute_script(WIDER) == []
    pictures = "return [...document.images].map((one) => one.complete && one.naturalWidth > 0)"
    assert page.execute_script(pictures) == [True]
    if width == 880:
        assert page.execute_script(CUT, 900) == []
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("readme", [880], indirect=True)
def test_the_first_screen_says_what_for_whom_how_what_came_out_and_what_is_a_toy(readme: tuple[Any, int]) -> None:
    said = readme[0].execute_script(FIRST_SCREEN, 900)
    wanted = {
        "what": r"A benchmark and evaluation harness for",
        "whom": r"For authors",
        "install": r"pip install",
        "first command": r"make eval",
        "second command": r"make test",
        "a result with its interval": r"\d+\.\d \[\d+\.\d, \d+\.\d\]",
        "what is a toy": r"\btoys?\b",
    }
    assert [name for name, pattern in wanted.items() if not re.search(pattern, said)] == []
