"""What pages print is the file that the tests run, and their links lead somewhere."""

from __future__ import annotations

import re

import pytest

from harness.fusers.registry import FuserEntry
from harness.registry import Registry
from tests.support.low_rank import LowRank
from tests.support.pages import ROOT, pages, texts

PRINTED = [
    ("add_a_channel.md", "python", "examples/plugin_channel/kvcomm_channel.py"),
    ("add_a_channel.md", "toml", "examples/plugin_channel/pyproject.toml"),
    ("add_a_fuser.md", "python", "tests/support/low_rank.py"),
    ("ci.md", "yaml", "examples/paper_repo/.github/workflows/gate.yml"),
]


def of_page(page: str, language: str) -> list[str]:
    return texts(ROOT / "docs" / page, language)


@pytest.mark.parametrize(("page", "language", "source"), PRINTED)
def test_the_code_of_a_page_is_that_of_its_source(page: str, language: str, source: str) -> None:
    assert of_page(page, language)[0] == (ROOT / source).read_text(encoding="utf-8")


def test_the_registration_of_the_fuser_page_names_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[FuserEntry] = Registry("fuser form", "none")
    monkeypatch.setattr("harness.fusers.registry.FUSERS", registry)
    exec(of_page("add_a_fuser.md", "python")[1], {"LowRank": LowRank})
    assert registry.get("low_rank").load() is LowRank


def test_links_between_pages_lead_somewhere() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages()
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not target.startswith(("http://", "https://", "mailto:")) and not (page.parent / target).exists()
    ]
    assert missing == []
