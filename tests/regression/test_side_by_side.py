"""Two runs beside each other: what differs, every arm of both, the questions that turned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.errors import UserError
from harness.records import LoadedRun
from harness.records.schema import Git
from harness.regression.side_by_side import render, side_by_side
from tests.support.refusals import refused
from tests.support.regression_runs import ARMS, TASK, altered, answers, run, sample, write


def turned(made: LoadedRun, *positions: int) -> LoadedRun:
    """The same run in which some answers of the arm c2c are the other ones."""
    samples = [
        sample(s.position, not s.correct) if s.arm == ("c2c", "") and s.position in positions else s
        for s in made.samples
    ]
    return replace(made, samples=samples)


def test_an_arm_that_lost_answers_shows_by_how_much_and_where() -> None:
    first = run(answers(40))
    found = side_by_side(first, turned(first, 0, 2, 4, 1))
    change = next(each for each in found.changes if each.effect.arm == ("c2c", ""))
    effect = change.effect
    assert (change.before, change.after, effect.difference) == (0.5, 0.45, pytest.approx(-0.05))
    assert (effect.n, effect.wins, effect.losses) == (40, 1, 3)
    assert effect.low is not None
    assert effect.low < -0.05 < (effect.high or 0)
    assert [(before.doc_id, after.correct) for before, after in found.turned] == [
        ("q0", False),
        ("q1", True),
        ("q2", False),
        ("q4", False),
    ]


def test_arms_are_adjusted_for_each_other_and_equal_runs_say_so() -> None:
    first = run(answers(40))
    text = render(side_by_side(first, first))
    assert "nothing that the records name" in text
    assert "No answer turned" in text
    changes = side_by_side(first, turned(first, *range(0, 20, 2))).changes
    assert {each.effect.arm for each in changes} == set(ARMS)
    one = next(each.effect for each in changes if each.effect.arm == ("c2c", ""))
    assert one.p_holm == pytest.approx((one.p or 0) * len(ARMS))


def test_what_only_one_run_has_is_said() -> None:
    first = run(answers(10))
    second = run([s for s in first.samples if s.arm != ("c2c", "mean")])
    assert side_by_side(first, second).alone == ["Only the first run has c2c/mean."]
    assert side_by_side(second, first).alone == ["Only the second run has c2c/mean."]


def test_a_run_that_has_not_finished_is_compared_as_far_as_it_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(answers(30))
    first = write(made, tmp_path / "first")
    part = run([s for s in made.samples if s.arm != ("c2c", "") or s.position < 20], status="cancelled")
    second = write(part, tmp_path / "second")
    for folders in ([first, second], [second, first]):
        assert cli.main(["report", *map(str, folders)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"{second} has not finished (stopped: " in said
        assert "left out" in said
    assert cli.main(["report", str(second)]) == 0
    assert ": 20 to 30 questions" in capsys.readouterr().out
    assert cli.main(["report", str(first)]) == 0
    assert "not finished" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        ({"limit": 9}, "--limit is 5 in the first and 9 in the second"),
        ({"seed": 1}, "--seed, by which --limit 5 draws"),
    ],
)
def test_runs_that_drew_other_questions_say_by_what(drawn: dict[str, int], said: str) -> None:
    made = run(answers(10))
    drew = {"limit": 5, "seed": 0}
    first = altered(made, config={**made.record.config, **drew})
    second = altered(made, config={**made.record.config, **drew, **drawn}, datasets={TASK: "e" * 64})
    with pytest.raises(UserError, match=said):
        side_by_side(first, second)


def test_report_of_two_runs_compares_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(answers(30))
    first = write(made, tmp_path / "first")
    second = write(turned(made, 0, 2), tmp_path / "second", git=Git(commit="b" * 40, dirty=False))
    assert cli.main(["report", str(first), str(second)]) == 0
    said = capsys.readouterr().out
    assert "code commit" in said
    assert "2 answers to 2 questions turned" in said
    assert max(map(len, said.splitlines())) <= 80 or str(tmp_path) in max(said.splitlines(), key=len)
    other = write(altered(made, datasets={TASK: "e" * 64}), tmp_path / "other")
    assert "dataset fingerprint differs" in refused(capsys, ["report", str(first), str(other)])
    assert "--margin" in refused(capsys, ["report", str(first), str(second), "--margin", "1"])
