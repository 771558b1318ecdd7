"""Names from models and data sets are inert wherever a report is shown."""

from xml.etree import ElementTree

from harness.regression.output import escape, junit, lines, markdown
from harness.regression.verdicts import Report, Verdict

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
    assert escape("`*_[x]") == "\\`\\*\\_\\[x\\]"


def test_lines_are_lines_and_steer_no_terminal() -> None:
    printed = lines(REPORT)
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
    assert lines(Report.of([])) == ["Not comparable: nothing was compared."]
