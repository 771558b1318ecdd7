"""Names from models and data sets are inert wherever a report is shown."""

from xml.etree import ElementTree

import pytest

from harness.regression.check import escape_cell, junit, markdown, report_lines
from harness.regression.verdicts import Report, Verdict, p_words

NASTY = 'a|b <script>alert(1)</script> `x` *y* [z](http://evil) \x1b[31m\x00\nnext ]]> & "q"'
REPORT = Report.of(
    [
        Verdict("same", "answers", NASTY, NASTY),
        Verdict("regression", "accuracy", NASTY, NASTY),
        Verdict("not comparable", "latency", "", NASTY),
    ]
)


def test_markdown_is_inert() -> None:
    text = markdown(REPORT)
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if "alert" in line]
    assert len(rows) == 3
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)
    assert escape_cell("`*_[x]") == "\\`\\*\\_\\[x\\]"


def test_lines_are_lines_and_steer_no_terminal() -> None:
    printed = report_lines(REPORT)
    assert len(printed) == 4
    assert all(character.isprintable() for line in printed for character in line)


def test_junit_is_well_formed_and_counts() -> None:
    suite = ElementTree.fromstring(junit(REPORT)).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert len(suite.findall("testcase/failure")) == len(suite.findall("testcase/error")) == 1
    assert all(case.get("name") and case.get("classname") for case in suite)


def test_an_empty_report_says_that_nothing_was_compared() -> None:
    assert Report.of([]).exit_code == 2
    assert report_lines(Report.of([])) == ["Not comparable: nothing was compared."]


@pytest.mark.parametrize(("p", "words"), [(0.0001, "p < 0.001"), (0.014, "p = 0.014"), (1.0, "p = 1.000")])
def test_p_values_are_statements(p: float, words: str) -> None:
    assert p_words(p) == words


def test_the_headline_counts() -> None:
    verdicts = [Verdict(status, "answers", "", "") for status in ("regression", "regression", "warning", "same")]
    assert Report.of(verdicts).headline == "Regression: 2 regressions, 1 warning, 1 same."


def test_many_harmless_lines_are_folded_and_no_other() -> None:
    verdicts = [Verdict(status, "accuracy", f"task{i}", "") for status in ("warning", "regression") for i in range(100)]
    printed = report_lines(Report.of(verdicts))
    assert len(printed) == 24 + 1 + 100 + 1
    assert "and 76 more" in printed[0]
    assert "task0" in printed[24]
    assert markdown(Report.of(verdicts)).count("task") == 200
