from __future__ import annotations

import sys
from subprocess import run as run_process

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import stats
from harness.records.schema import Failure, Sample, Timing
from harness.results import (
    Facts,
    bytes_text,
    effects,
    frame,
    headline,
    lost_timings,
    points_text,
    render_all,
    seconds_text,
    speed_ups,
    summarise,
    top_level,
)
from harness.results.formatting import detectable_text
from tests.support.synthetic import Plan, run


def sample(doc: int, channel: str, correct: bool | None, control: str = "", **more: object) -> Sample:
    fields = {
        "task": "quiz",
        "doc_id": str(doc),
        "position": doc,
        "channel": channel,
        "control": control,
        "kind": "generate",
        "prompt_sha256": "0",
        "key": "A",
        "predicted": None if correct is None else ("A" if correct else "B"),
        "correct": correct,
        "error": Failure(type="E", message="no") if correct is None else None,
    }
    return Sample(**{**fields, **more})


def arms(**right: str) -> list[Sample]:
    """Builds samples from words such as ``receiver="10!"``: right, wrong, error; ``_`` parts channel and control."""
    made = []
    for name, marks in right.items():
        channel, _, control = name.partition("_")
        made += [sample(i, channel, {"1": True, "0": False, "!": None}[m], control) for i, m in enumerate(marks)]
    return made


def test_an_error_stays_in_the_denominator() -> None:
    (row,) = summarise(arms(receiver="110!"))
    assert (row.n, row.errors, row.accuracy) == (4, 1, 0.5)


def test_invalid_answers_are_counted_apart_from_errors() -> None:
    answers = [sample(0, "c2c", False, predicted=None), sample(1, "c2c", None), sample(2, "c2c", True)]
    (row,) = summarise(answers)
    assert (row.invalid, row.errors, row.letters) == (1, 1, {"A": 1})


def test_single_scores_have_wilsons_interval_without_subjects() -> None:
    (row,) = summarise(arms(receiver="1100010010"))
    expected = stats.wilson(4, 10)
    assert (row.accuracy_low, row.accuracy_high) == pytest.approx((expected.low, expected.high))
    assert row.clusters == 0


def test_subjects_widen_the_interval() -> None:
    together = [sample(i, "receiver", i % 4 < 2, subject=f"s{i % 4}") for i in range(80)]
    alone = [item.model_copy(update={"subject": ""}) for item in together]
    (wide,), (narrow,) = summarise(together), summarise(alone)
    assert wide.clusters == 4
    assert wide.accuracy_high - wide.accuracy_low > narrow.accuracy_high - narrow.accuracy_low


def test_a_group_is_the_micro_average_and_ids_of_two_tasks_do_not_collide() -> None:
    first = arms(receiver="1111")
    second = [item.model_copy(update={"task": "other"}) for item in arms(receiver="00")]
    rows = summarise([*first, *second], facts=Facts({"both": ["quiz", "other"], "gone": ["absent"]}))
    assert [(row.task, row.n) for row in rows] == [("both", 6), ("other", 2), ("quiz", 4)]
    assert rows[0].accuracy == pytest.approx(4 / 6)


def test_only_the_outermost_names_are_a_headline() -> None:
    groups = {"all": ["a", "b", "c"], "stem": ["a", "b"]}
    assert top_level(groups, "abcd") == ["all", "d"]
    made = [item.model_copy(update={"task": task}) for task in "abcd" for item in arms(receiver="10")]
    assert [row.task for row in headline(summarise(made, facts=Facts(groups)), groups)] == ["all", "d"]


def test_pairs_with_an_error_on_either_side_are_left_out_and_counted() -> None:
    (effect,) = effects(arms(receiver="!0000000", c2c="1!111111"))
    assert (effect.n, effect.left_out, effect.wins, effect.difference) == (6, 2, 6, 1.0)
    assert effect.p == pytest.approx(2 * 0.5**6)


def test_a_question_that_one_side_lacks_is_left_out() -> None:
    (effect,) = effects(arms(receiver="0000", c2c="111"))
    assert (effect.n, effect.left_out) == (3, 1)


def test_the_causal_effects_have_their_signs() -> None:
    found = effects(
        arms(
            receiver="1000000000",
            t2t="1110000000",
            c2c="1111110000",
            c2c_mean="1111000000",
            c2c_mismatched="1000000000",
            c2c_self="1100000000",
        )
    )
    points = {(effect.channel, effect.kind): effect.difference for effect in found}
    assert points == pytest.approx(
        {
            ("t2t", "to_receiver"): 0.2,
            ("c2c", "to_receiver"): 0.5,
            ("c2c", "to_t2t"): 0.3,
            ("c2c", "content"): 0.2,
            ("c2c", "misinformation"): 0.3,
            ("c2c", "adaptation"): 0.3,
            ("c2c", "to_self"): 0.4,
        }
    )


def test_without_a_mean_message_the_mismatched_one_is_the_control() -> None:
    kinds = [effect.kind for effect in effects(arms(receiver="10", t2t="11", t2t_mismatched="00"))]
    assert kinds == ["to_receiver", "to_mismatched"]


def test_holm_covers_everything_that_is_returned() -> None:
    found = effects(arms(receiver="0" * 40, t2t="1" * 20 + "0" * 20, c2c="1" * 12 + "0" * 28))
    assert [effect.p_holm for effect in found] == pytest.approx(stats.holm([effect.p for effect in found]))


def test_a_difference_that_holm_takes_away_is_not_called_higher() -> None:
    weak = {f"x{i}": "1" * 6 + "0" * 34 for i in range(4)}
    verdicts = {effect.verdict for effect in effects(arms(receiver="0" * 40, **weak))}
    assert verdicts == {"higher, not after Holm"}


def test_nothing_left_to_compare_is_said_and_not_scored() -> None:
    (effect,) = effects(arms(receiver="!!", c2c="11"))
    assert (effect.verdict, effect.difference, effect.p, effect.left_out) == ("nothing to compare", None, None, 2)


def timing(doc: int, channel: str, e2e_s: float, **more: object) -> Timing:
    fields = {"task": "quiz", "doc_id": str(doc), "position": doc, "channel": channel, "stages_s": {}}
    return Timing(**{**fields, "ttft_s": e2e_s / 2, "e2e_s": e2e_s, "tokens_out": 3, **more})


def test_latency_columns_are_percentiles_of_raw_seconds_at_natural_length() -> None:
    timed = [timing(i, "c2c", 1.0 + i) for i in range(11)]
    timed += [timing(i, "c2c", 99.0, equal_length=True) for i in range(11)]
    (row,) = summarise(arms(c2c="1"), timed)
    assert (row.e2e_s_p50, row.e2e_s_p90, row.latency_n, row.tpot_s_p50) == (6.0, 10.0, 11, 1.5)


def test_a_timing_that_is_no_number_is_not_timed() -> None:
    (row,) = summarise(arms(c2c="1"), [timing(0, "c2c", float("nan")), timing(1, "c2c", 2.0)])
    assert (row.latency_n, row.e2e_s_p50) == (1, 2.0)


def test_an_arm_without_timings_stays_blank() -> None:
    (row,) = summarise(arms(c2c="1"))
    assert row.e2e_s_p50 is None
    made = run([Plan(n=4, timed=0)])
    assert " 0 s" not in render_all(frame([made]))


def test_the_speed_up_pairs_questions_of_one_round() -> None:
    timed = [timing(i, "t2t", 4.0 + i) for i in range(8)] + [timing(i, "c2c", (4.0 + i) / 4) for i in range(8)]
    (found,) = speed_ups([*timed, timing(99, "c2c", 500.0)])
    assert (found.arm, found.ratio, found.n) == (("c2c", ""), pytest.approx(4.0), 8)
    assert found.low == pytest.approx(4.0, rel=0.6)


def test_numbers_in_text() -> None:
    assert [points_text(x) for x in (0.0741, -0.0, None)] == ["+7.4", "+0.0", ""]
    assert [seconds_text(x) for x in (0.0312, 1.5, 2e-5, 0.9996, None)] == ["31.2 ms", "1.5 s", "20 µs", "1 s", ""]
    assert [bytes_text(x) for x in (0.0, 310, 2_048_000, None)] == ["0 B", "310 B", "2.05 MB", ""]


@given(
    st.lists(st.sampled_from("10!"), min_size=1, max_size=30), st.lists(st.sampled_from("10!"), min_size=1, max_size=30)
)
def test_any_two_arms_give_finite_rows_and_antisymmetric_counts(left: list[str], right: list[str]) -> None:
    made = arms(receiver="".join(left), c2c="".join(right))
    assert all(0 <= row.accuracy_low <= row.accuracy <= row.accuracy_high <= 1 for row in summarise(made))
    (effect,) = effects(made)
    assert effect.n + effect.left_out == max(len(left), len(right))


def test_results_never_import_a_model_library() -> None:
    code = "import sys, harness.results; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert run_process([sys.executable, "-c", code], check=False).returncode == 0


def facts_of_halves(right: float) -> list[Sample]:
    """Two parts of 40 questions on ten facts each: all right in the first, a share of whole facts in the second."""
    made = []
    for task in ("easy", "hard"):
        for doc in range(40):
            known = task == "easy" or doc // 4 < 10 * right
            made.append(sample(doc, "receiver", known, task=task, subject=f"fact {doc // 4}"))
    return made


def test_parts_of_fixed_size_are_strata_where_the_task_says_so() -> None:
    made, groups = facts_of_halves(0.3), {"world": ["easy", "hard"]}
    plain = summarise(made, facts=Facts(groups))[0]
    stratified = summarise(made, facts=Facts(groups, strata=["world"]))[0]
    assert (plain.task, plain.accuracy) == (stratified.task, stratified.accuracy) == ("world", 0.65)
    assert stratified.accuracy_high - stratified.accuracy_low < 0.8 * (plain.accuracy_high - plain.accuracy_low)
    alone = {row.task: row for row in summarise(made, facts=Facts(groups, strata=["world"]))}
    assert alone["hard"] == summarise([item for item in made if item.task == "hard"])[0]
    assert alone["easy"].accuracy_low == pytest.approx(stats.score([1] * 10, range(10)).interval.low)


def test_strata_enter_differences() -> None:
    made = facts_of_halves(0.3)
    better = [item.model_copy(update={"channel": "c2c", "correct": True}) for item in made]
    groups = {"world": ["easy", "hard"]}
    (plain,), (stratified,) = (effects([*made, *better], Facts(groups, strata=s)) for s in ((), ("world",)))
    assert stratified.high - stratified.low < plain.high - plain.low


def test_what_is_detectable_is_at_the_level_of_the_family() -> None:
    made = arms(receiver="0" * 40, t2t="1" * 20 + "0" * 20, c2c="1" * 12 + "0" * 28)
    found, (alone,) = effects(made), effects([item for item in made if item.channel != "t2t"])
    assert [effect.level for effect in found] == [0.05 / len(found)] * len(found)
    assert alone.level == 0.05
    assert alone.minimum_detectable < max(effect.minimum_detectable for effect in found if effect.kind == "to_receiver")
    assert f"at level {0.05 / len(found):.2g} (0.05 over {len(found)} tests)" in detectable_text(found[0].level)


def test_a_difference_that_is_shown_to_be_small_is_the_same_within_the_margin() -> None:
    made = arms(receiver="10" * 600, c2c="10" * 600)
    assert effects(made)[0].verdict == "same within 3 points"
    assert effects(made, Facts(margin=0.001))[0].verdict == "not resolved at this n"
    assert effects(arms(receiver="10" * 20, c2c="10" * 20))[0].verdict == "not resolved at this n"


def test_rounds_of_one_question_are_no_further_questions() -> None:
    rounds = [
        timing(doc, channel, seconds * (1 + 0.001 * turn), round=turn)
        for turn in range(10)
        for doc in range(5)
        for channel, seconds in (("t2t", 4.0 + doc), ("c2c", 1.0))
    ]
    (found,) = speed_ups(rounds)
    assert (found.n, found.low, found.high) == (5, None, None)
    assert found.ratio == pytest.approx(6.0)


def test_lost_timings_are_noticed() -> None:
    timed = [timing(doc, channel, 1.0 + doc) for doc in range(8) for channel in ("t2t", "c2c")]
    assert lost_timings(timed) == []
    broken = [t.model_copy(update={"e2e_s": float("nan")}) if i == 1 else t for i, t in enumerate(timed)]
    for fewer in (timed[:-1], broken):
        (found,) = speed_ups(fewer)
        assert (found.n, found.lost) == (7, 1)
        assert lost_timings(fewer) == ["c2c on quiz: 7 of 8 timings; latency is over those."]


def test_echoes_are_counted() -> None:
    texts = ["A", "The correct answer is A/B/C/D.", "A, B, C or D"]
    made = [sample(i, "receiver", True, text=text, labels=list("ABCD")) for i, text in enumerate(texts)]
    assert summarise(made)[0].echoes == 2
    assert summarise(arms(receiver="1"))[0].echoes is None


def test_a_control_with_models_of_its_own_has_its_own_choices() -> None:
    chosen = {("c2c", ""): "alignment first", ("c2c", "self"): "alignment off"}
    rows = summarise(arms(c2c="10", c2c_mean="10", c2c_self="10"), variants=chosen)
    assert {row.control: row.variant for row in rows} == {
        "": "alignment first",
        "mean": "alignment first",
        "self": "alignment off",
    }
