"""What is claimed of a channel: the weakest comparison decides, and the sentence says what explains the gain."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness import cli
from harness.cli.run_flags import configuration
from harness.errors import UserError
from harness.results import Facts, arms_of, claims, compare, frame, render_all, render_ranking
from harness.results.comparisons import Claim
from harness.results.frame import COLUMNS, MOST_ROWS, ranking
from harness.results.terminal_table import fold_table, name_pieces
from tests.results.test_results import arms
from tests.support.synthetic import SUBJECTS, Plan, run, write

GOOD, BAD = "1" * 40, "0" * 40
HALF = "1" * 20 + "0" * 20


def claim(channel: str = "c2c", **right: str) -> Claim:
    (found,) = [one for one in claims(arms(**right)) if one.channel == channel]
    return found


def test_what_beats_every_rival_by_its_content_communicates() -> None:
    found = claim(receiver=HALF, sharer=HALF, ensemble=HALF, t2t=HALF, c2c=GOOD, c2c_mean=HALF)
    assert (found.verdict, found.missing) == ("communicates", ())
    assert "adds 50.0 [" in found.text


def test_the_ensemble_explains_a_gain_that_it_has_as_well() -> None:
    found = claim(receiver=BAD, sharer=HALF, ensemble="1" * 39 + "0", t2t=BAD, c2c=GOOD, c2c_mean=BAD)
    assert found.verdict == "not resolved"
    assert found.weakest is not None
    assert found.weakest.base == ("ensemble", "")
    assert "adds 2.5 [" in found.text
    assert "to the ensemble: not resolved; the ensemble explains its gain of 100.0" in found.text


def test_each_variant_of_a_rival_is_a_rival() -> None:
    rivals = {"ensemble": HALF, "ensemble:rule=product": GOOD}
    found = claim(receiver=HALF, sharer=HALF, t2t=HALF, c2c=GOOD, c2c_mean=HALF, **rivals)
    assert found.verdict == "not resolved"
    assert "to the ensemble:rule=product" in found.text


def test_a_gain_of_the_mere_form_only_adapts() -> None:
    found = claim(receiver=BAD, sharer=BAD, ensemble=BAD, t2t=BAD, c2c=GOOD, c2c_mean=GOOD)
    assert found.verdict == "adapts"
    assert "mere form" in found.text


@pytest.mark.parametrize("controls", [{}, {"c2c_zeroed": BAD}])
def test_without_a_control_of_the_content_nothing_is_said_of_it(controls: dict[str, Any]) -> None:
    found = claim(receiver=BAD, sharer=BAD, ensemble=BAD, t2t=BAD, c2c=GOOD, **controls)
    assert found.verdict == "not resolved"
    assert "neither mean nor mismatched was run, so that the mere form" in found.text


def test_what_scores_below_the_receiver_harms_and_below_another_rival_does_not() -> None:
    assert claim(receiver=GOOD, sharer=BAD, c2c=HALF, c2c_mean=BAD).verdict == "harms"
    found = claim(receiver=BAD, sharer=GOOD, c2c=HALF, c2c_mean=BAD)
    assert found.verdict == "not resolved"
    assert "points below the sharer" in found.text


def test_a_rival_that_was_not_run_is_named_and_may_explain_the_gain() -> None:
    found = claim(receiver=BAD, sharer=BAD, c2c=GOOD, c2c_mean=BAD)
    assert (found.missing, found.verdict) == (("ensemble", "t2t"), "not resolved")
    assert "not run: ensemble, t2t" in found.text
    formal = claim(receiver=BAD, sharer=BAD, t2t=BAD, c2c=GOOD, c2c_mean=GOOD)
    assert (formal.missing, formal.verdict) == (("ensemble",), "not resolved")
    failed = claim(receiver=BAD, sharer=BAD, ensemble="!" * 40, t2t=BAD, c2c=GOOD, c2c_mean=BAD)
    assert failed.missing == ("ensemble",)


def test_a_rival_that_was_run_with_options_alone_is_named_with_them() -> None:
    variant = {"ensemble:rule=product": BAD}
    found = claim(receiver=BAD, sharer=BAD, t2t=BAD, c2c=GOOD, c2c_mean=BAD, **variant)
    assert (found.missing, found.verdict) == ((), "communicates")
    assert "ensemble was run as ensemble:rule=product" in found.text
    both = claim(receiver=BAD, sharer=BAD, ensemble=BAD, t2t=BAD, c2c=GOOD, c2c_mean=BAD, **variant)
    assert "was run as" not in both.text


def test_text_is_not_its_own_rival_and_controls_are_no_claims() -> None:
    found = claims(arms(receiver=HALF, sharer=BAD, ensemble=BAD, t2t=GOOD, t2t_mismatched=BAD))
    assert [(one.channel, one.missing, one.verdict) for one in found] == [("t2t", (), "communicates")]


def test_nothing_is_corrected_inside_and_other_arms_change_no_verdict() -> None:
    few = "1" * 6 + "0" * 34
    alone = claim(receiver=BAD, sharer=BAD, ensemble=BAD, t2t=BAD, c2c=few, c2c_mean=BAD)
    extra = {f"x{i}": HALF for i in range(20)}
    beside = claim(receiver=BAD, sharer=BAD, ensemble=BAD, t2t=BAD, c2c=few, c2c_mean=BAD, **extra)
    assert alone.verdict == beside.verdict == "communicates"


def test_the_sentence_says_whether_the_majority_label_is_passed() -> None:
    made = arms(receiver=BAD, sharer=BAD, ensemble=BAD, t2t=BAD, c2c=HALF, c2c_mean=BAD)
    above, below = (
        claims([one.model_copy(update={"key": keys[one.position % len(keys)]}) for one in made], Facts(baselines=True))
        for keys in ("ABCDEFGHIJ", "A")
    )
    assert "; above the majority label" in above[-1].text
    assert "; not above the majority label" in below[-1].text
    assert (above[-1].verdict, below[-1].verdict) == ("communicates", "not resolved")


def test_the_frame_has_a_row_an_arm_and_task_and_explains_its_columns() -> None:
    made = run([Plan(n=30, errors=2), Plan(n=40, task="mmlu_redux", subjects=SUBJECTS)])
    table = frame([made])
    assert list(table.columns) == list(COLUMNS)
    assert all(COLUMNS.values())
    assert not table.duplicated(["task", "arm"]).any()
    row = table[(table["task"] == "openbookqa") & (table["arm"] == "c2c")].iloc[0]
    own = [sample for sample in made.samples if sample.task == "openbookqa" and sample.arm == ("c2c", "")]
    assert row["accuracy"] == pytest.approx(sum(bool(sample.correct) for sample in own) / len(own))
    assert row["ttft_ratio"] > 1
    oracle = table[table["arm"] == "oracle"].iloc[0]
    assert oracle["payload_bytes"] != oracle["payload_bytes"]


def test_a_ranking_is_short_and_best_first() -> None:
    chances = {("receiver", ""): 0.4, ("sharer", ""): 0.6, **{(f"t2t:b={i}", ""): i / 12 for i in range(12)}}
    rows = ranking(frame([run([Plan(n=60, arms=tuple(chances), chances=chances, timed=0)])]))
    assert len(rows) == MOST_ROWS
    assert {"receiver", "sharer"} <= set(rows["arm"])
    assert rows["accuracy"].is_monotonic_decreasing
    assert "oracle" not in set(rows["arm"])


def test_what_was_asked_for_and_is_not_shown_is_named_in_one_line() -> None:
    names = ("receiver", "sharer", "tuned", "chance", "oracle", "c2c")
    arms_run = (*((name, "") for name in names), ("c2c", "mean"))
    chances = {arm: 0.9 if arm == ("sharer", "") else 0.5 for arm in arms_run}
    said = render_ranking(frame([run([Plan(n=60, arms=arms_run, chances=chances, timed=0)])]))
    assert "\nNot shown: tuned; --all prints every row.\n" in said
    said = render_ranking(frame([run([Plan(n=60, arms=arms_run[:2], chances=chances, timed=0)])]))
    assert "Not shown" not in said


def test_terminal_tables_fold_to_80_columns() -> None:
    long = "t2t:max_new_tokens=64:with_options:and_a_long_option=of_a_plugged_in_channel"
    arms_run = (("receiver", ""), ("sharer", ""), ("c2c", ""), ("c2c", "mean"), (long, ""))
    table = frame([run([Plan(n=30, arms=arms_run, timed=0), Plan(n=40, task="mmlu_redux", subjects=SUBJECTS)])])
    for text in (render_ranking(table), render_all(table)):
        assert max(map(len, text.splitlines())) <= 80
    assert "c2c/mismatched" in render_all(table)
    assert "c2c/mismatched" not in render_ranking(table)


def test_the_legend_speaks_of_columns_that_are_there() -> None:
    alone = Plan(n=20, arms=(("receiver", ""),), timed=0)
    said = render_ranking(frame([run([alone])]))
    assert "accuracy in %" in said
    assert [word in said for word in ("gain", "TTFT")] == [False, False]
    said = render_ranking(frame([run([Plan(n=20, timed=4), replace(alone, task="mmlu_redux")])]))
    assert [word in said for word in ("gain:", "TTFT:", "payload:")] == [True, True, True]


def test_every_usual_column_with_the_widest_figures_fits_80_columns() -> None:
    usual = {"accuracy": "100.0 [96.1, 100.0]", "gain": "+73.0", "verdict": "communicates", "TTFT": "88.3 ms"}
    rows = [{"channel": name, **usual, "payload": "16.1 kB"} for name in ("receiver", "c2c:payload=int4")]
    lines = fold_table(pd.DataFrame(rows), ("channel", "verdict")).splitlines()
    assert max(map(len, lines)) <= 80
    assert [sum(line.count(name) for line in lines) for name in ("channel", "payload ")] == [1, 1]


def test_a_long_name_breaks_at_its_joints() -> None:
    assert name_pieces("t2t:max_new_tokens=16:with_options", 27) == ["t2t:max_new_tokens=16:", "with_options"]
    assert name_pieces("a_name_without_options", 12) == ["a_name_", "without_", "options"]
    assert name_pieces("jointless", 4) == ["join", "tles", "s"]
    assert name_pieces("short", 8) == ["short"]


def test_options_may_be_given_in_any_order() -> None:
    (arm, base) = arms_of("t2t:with_options:max_new_tokens=16,no_such:b:a/mean")
    assert (arm, base) == (("t2t:max_new_tokens=16:with_options", ""), ("no_such:b:a", "mean"))


def test_any_two_arms_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run([Plan(n=30)])
    (found,) = compare(made.samples, *arms_of("c2c/mean, sharer"))
    assert (found.arm, found.base, found.n) == (("c2c", "mean"), ("sharer", ""), 30)
    folder = str(write(made, tmp_path / "run"))
    assert cli.main(["report", folder, "--compare", "c2c,oracle"]) == 0
    assert "c2c − oracle" in capsys.readouterr().out
    assert cli.main(["report", folder, "--compare", "c2c,orcale"]) == 2
    assert "oracle" in capsys.readouterr().err
    for text in ("c2c", "c2c,c2c", "a,b,c", ","):
        with pytest.raises(UserError, match="two different arms"):
            arms_of(text)


def test_report_of_a_run_prints_its_ranking_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write(run([Plan(n=30)]), tmp_path / "run"))
    boards = tmp_path / "boards"
    assert cli.main(["report", folder, "--leaderboards_dir", str(boards)]) == 0
    assert "| c2c" in capsys.readouterr().out
    assert not boards.exists()
    assert cli.main(["report", folder, "--all"]) == 0
    assert "c2c/mismatched" in capsys.readouterr().out
    for flags in (["--all"], [folder, "--all", "--add"], [folder, "--all", "--compare", "a,b"], [folder, "--check"]):
        assert cli.main(["report", *flags]) == 2


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "usage: c2c-harness COMMAND" in capsys.readouterr().out


def test_a_run_without_flags_publishes_nowhere() -> None:
    parser = argparse.ArgumentParser()
    assert configuration(parser, []).leaderboards_dir is None


def test_a_report_reads_a_run_at_another_margin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(run([Plan(n=600)]), tmp_path / "run")
    asked = ["report", str(folder), "--compare", "c2c/mean,receiver"]
    assert cli.main([*asked, "--margin", "90"]) == 0
    assert "same within 90 points" in " ".join(capsys.readouterr().out.split())
    assert cli.main([*asked, "--margin", "0.01"]) == 0
    assert "same within" not in " ".join(capsys.readouterr().out.split())
    for wrong in (
        ["report", "--margin", "1"],
        [*asked, "--margin", "0"],
        ["report", str(folder), "--add", "--margin", "1"],
    ):
        assert cli.main(wrong) == 2
        assert "--margin" in capsys.readouterr().err
