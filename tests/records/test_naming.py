"""Different texts have different file names, whatever the file system makes of case, spaces and dots."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.files import file_name

ALIKE = [
    "a b",
    "a-b",
    "A-b",
    "a_b",
    "a/b",
    "a--b",
    ".a-b",
    "a-b.",
    "a-b ",
    "-a-b",
    "ａ-b",
    "a\nb",
    "",
    " ",
    ".",
    "..",
    "run",
]


@pytest.mark.parametrize("name", ["20260101-101010-abcdef0123", "openbookqa_letters", "mmlu.v2"])
def test_a_plain_name_stays(name: str) -> None:
    assert file_name(name) == name


def test_names_that_are_alike_do_not_meet() -> None:
    names = [file_name(text).casefold() for text in ALIKE]
    assert len(set(names)) == len(ALIKE)


@given(st.lists(st.text(max_size=300), min_size=2, max_size=8, unique=True))
def test_no_two_texts_share_a_name(texts: list[str]) -> None:
    for one, other in combinations(texts, 2):
        assert file_name(one).casefold() != file_name(other).casefold()
    for text in texts:
        name = file_name(text)
        assert name.isascii()
        assert len(name) < 200
        assert not {"/", "\\", "\0"} & set(name)
        assert not name.startswith(".")


@pytest.mark.parametrize("name", ["readme", "README", "Readme"])
def test_a_reserved_name_is_left_to_its_owner(name: str) -> None:
    assert file_name(name, reserved=("readme",)).lower() != "readme"
