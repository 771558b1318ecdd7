"""Rows without a model pass: chance, the majority label, the oracle; and the draw of a limited run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks.questions import load_benchmark, sample_of
from harness.config import build
from harness.records.schema import Failure, MajorityLabel, Sample, usual_label
from harness.results import Facts, effects, summarise

BOTH = Facts({"both": ["one", "two"]}, baselines=True)


def answers(channel: str, marks: str, keys: str, task: str = "one", options: int = 4) -> list[Sample]:
    """Samples of one arm: right, wrong or failed (`!`), a mark a question."""
    rows = []
    for place, (mark, key) in enumerate(zip(marks, keys, strict=True)):
        right = None if mark == "!" else mark == "1"
        fields: dict[str, Any] = {"task": task, "doc_id": str(place), "position": place, "channel": channel}
        more = {"kind": "letters", "prompt_sha256": "", "labels": list("ABCDEFGH"[:options]), "key": key}
        fault = Failure(type="E", message="no") if right is None else None
        rows.append(Sample(**fields, **more, predicted=key if right else "Z", correct=right, error=fault))
    return rows


def accuracies(samples: Sequence[Sample], facts: Facts = BOTH) -> dict[tuple[str, str], float]:
    return {(row.task, row.channel): row.accuracy for row in summarise(samples, facts=facts)}


def test_the_oracle_is_right_where_either_model_is() -> None:
    samples = [*answers("receiver", "1100!!", "ABCDAB"), *answers("sharer", "1010!1", "ABCDAB")]
    rows = {row.channel: row for row in summarise(samples, facts=BOTH)}
    assert (rows["oracle"].accuracy, rows["oracle"].n, rows["oracle"].errors) == (4 / 6, 6, 1)
    assert not rows["oracle"].model_pass
    assert rows["receiver"].model_pass


def test_no_oracle_without_both_models() -> None:
    assert "oracle" not in {row.channel for row in summarise(answers("receiver", "10", "AB"), facts=BOTH)}


def test_the_majority_label_is_one_over_the_whole_group() -> None:
    samples = [*answers("receiver", "0000", "CCAB"), *answers("receiver", "000", "AAA", task="two")]
    found = accuracies(samples)
    assert found["both", "majority"] == 4 / 7
    assert (found["one", "majority"], found["two", "majority"]) == (1 / 4, 1.0)


def test_the_majority_label_of_other_splits_goes_first() -> None:
    facts = Facts(majority={"one": MajorityLabel(label="B", source="train")}, baselines=True)
    assert accuracies(answers("receiver", "0000", "CCAB"), facts)["one", "majority"] == 1 / 4


def test_ties_go_to_the_first_label() -> None:
    assert usual_label("BBAACD") == "A"


def test_chance_knows_how_many_options_each_question_has() -> None:
    samples = [*answers("receiver", "00", "AB", options=4), *answers("receiver", "0", "A", task="two", options=2)]
    rows = {(row.task, row.channel): row for row in summarise(samples, facts=BOTH)}
    chance = rows["both", "chance"]
    assert chance.accuracy == chance.accuracy_low == chance.accuracy_high == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    bare = [sample.model_copy(update={"labels": []}) for sample in samples]
    assert ("both", "chance") not in accuracies(bare)


def test_a_mean_is_the_same_number_on_every_python() -> None:
    """`sum` of floats rounds at each step before Python 3.12 and not behind it."""
    samples = answers("receiver", "0" * 10, "A" * 10, options=5)
    assert {row.channel: row.accuracy for row in summarise(samples, facts=Facts(baselines=True))}["chance"] == 1 / 5


def test_only_those_who_ask_for_baselines_get_them() -> None:
    samples = [*answers("receiver", "10", "AB"), *answers("sharer", "01", "AB")]
    assert {row.channel for row in summarise(samples)} == {"receiver", "sharer"}
    assert {effect.channel for effect in effects(samples)} == {"sharer"}


def test_rows_without_a_model_pass_are_no_channels_of_the_family_of_tests() -> None:
    samples = [*answers("receiver", "10", "AB"), *answers("sharer", "01", "AB")]
    assert {effect.channel for effect in effects(samples, BOTH)} == {"sharer"}


def test_a_limited_run_draws_by_its_seed() -> None:
    draws = [sample_of(500, 100, seed, "openbookqa") for seed in range(3)]
    assert all(draw == sorted(draw) and len(set(draw)) == 100 for draw in draws)
    assert draws[0] != draws[1] != draws[2]
    assert draws[0] != sample_of(500, 100, 0, "arc_challenge")
    assert all(max(draw) > 400 for draw in draws)
    assert set(draws[0]) < set(sample_of(500, 200, 0, "openbookqa"))
    assert sample_of(5, 9, 0, "x") == sample_of(5, None, 0, "x") == [0, 1, 2, 3, 4]


def test_the_usual_label_is_counted_in_the_splits_that_are_not_tested(tmp_path: Path) -> None:
    folder = tmp_path / "allenai" / "openbookqa" / "main"
    folder.mkdir(parents=True)
    for split, keys in {"train": "CCB", "validation": "B", "test": "AA"}.items():
        rows = [
            {
                "id": f"{split}-{place}",
                "question_stem": f"Which is it, {place}?",
                "choices": {"text": ["w", "x", "y", "z"], "label": list("ABCD")},
                "answerKey": key,
            }
            for place, key in enumerate(keys)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = build({"tasks": ["openbookqa"], "limit": 2, "datasets_dir": str(tmp_path)})
    assert load_benchmark(config).majority["openbookqa"] == MajorityLabel(label="B", source="train, validation")
    (folder / "train.jsonl").unlink()
    (folder / "validation.jsonl").unlink()
    assert load_benchmark(config).majority["openbookqa"] == MajorityLabel(label="A", source="test")
