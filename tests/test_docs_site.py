"""The site builds strictly, loads nothing from elsewhere, and its tables sort; skipped where mkdocs is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.report.test_report_browser import browser  # noqa: F401 - a fixture
from tests.support.pages import MARKS, ROOT

PARTS = ("mkdocs", "material", "mkdocstrings_handlers")
LACKING = [name for name in PARTS if importlib.util.find_spec(name) is None]
needs_mkdocs = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {LACKING}; see docs/requirements.txt")
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\b(?:src|srcset)=\"?(https?:[^\" >]+)|<link\b([^>]*)>")
DARK = {
    "f6f8fa": "161b22",
    "d1d9e0": "3d444d",
    "1f2328": "f0f6fc",
    "59636e": "9198a1",
    "ddf4ff": "121d2f",
    "0969da": "4493f8",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def elsewhere(page: str) -> list[str]:
    """Returns what a browser would fetch from another place to show a page."""
    found = [(link[1], link[2] or "") for link in LOADED.finditer(page)]
    styles = [attributes for _, attributes in found if "http" in attributes and "canonical" not in attributes]
    return [address for address, _ in found if address] + styles


@needs_mkdocs
def test_no_page_fetches_from_elsewhere(site: Path) -> None:
    fetched = {
        str(path.relative_to(site)): elsewhere(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")
    }
    assert len(fetched) > 40
    assert {name: found for name, found in fetched.items() if found} == {}


@needs_mkdocs
def test_every_board_and_every_page_outside_docs_is_in_the_site(site: Path) -> None:
    boards = {path.stem for path in (ROOT / "leaderboards").glob("*.md")} - {"README"}
    assert boards <= {path.stem for path in (site / "leaderboards").glob("*.html")}
    wanted = ["index.html", "CHANGELOG.html", "leaderboards/index.html", "tasks/relay/index.html"]
    assert [name for name in wanted if not (site / name).is_file()] == []


@needs_mkdocs
def test_a_block_says_what_it_needs(site: Path) -> None:
    assert "needs the model hub or a package index" in (site / "quick_start.html").read_text(encoding="utf-8")


@needs_mkdocs
@pytest.mark.browser
def test_a_board_sorts_by_a_click_on_a_column(
    browser: Any,  # noqa: F811 - the fixture
    site: Path,
) -> None:
    browser.get((site / "leaderboards" / "factworld.html").as_uri())
    head = browser.find_elements("css selector", "article table button.sort")[1]
    rows = "[...document.querySelector('article table').tBodies[0].rows]"
    column = f"return {rows}.map((row) => parseFloat(row.cells[1].innerText))"
    for falling in (True, False):
        head.click()
        values = browser.execute_script(column)
        assert values == sorted(values, reverse=falling)
    assert len(set(values)) > 2


def test_each_mark_has_its_words_in_the_site() -> None:
    source = (ROOT / "docs" / "site" / "hooks.py").read_text(encoding="utf-8")
    assert set(re.findall(r'^    "(\w+)": "', source, re.MULTILINE)) == set(MARKS)


def test_every_page_of_the_docs_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w./]+\.md)$", text, re.MULTILINE))
    docs = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert docs - named == set()
    assert yaml.safe_load(text)["theme"]["font"] is False


def test_the_dark_picture_is_the_light_one_in_other_colours() -> None:
    light, dark = ((ROOT / "docs" / "pictures" / f"c2c-{name}.svg").read_text() for name in ("light", "dark"))
    assert re.sub("#([0-9a-f]{6})", lambda found: f"#{DARK[found[1]]}", light) == dark
