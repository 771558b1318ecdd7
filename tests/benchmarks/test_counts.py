"""A benchmark is scored over the questions that it declares; a question that several subjects ask counts once."""

from __future__ import annotations

import pytest

from harness.benchmarks.definitions import MMLU_REDUX, MMLU_SUBJECTS
from harness.benchmarks.questions import load_benchmark
from harness.config import RunConfig, build
from harness.errors import UserError
from harness.evaluation.accuracy_pass import to_sample
from harness.inference.types import Answer
from harness.results.grouping import cluster_names
from tests.support.task_rows import Write, listed, redux


def config(*tasks: str, limit: int | None = None) -> RunConfig:
    return build({"receiver": "x", "channels": ["receiver"], "tasks": list(tasks), "limit": limit}, "test")


def test_another_number_of_questions_is_refused_unless_limited(write: Write) -> None:
    write("allenai/openbookqa/main/test", [listed(number=1), listed(number=2)])
    with pytest.raises(UserError, match="openbookqa declares 500 questions, but its data has 2"):
        load_benchmark(config("openbookqa_letters"))
    assert len(load_benchmark(config("openbookqa", limit=1)).all_items) == 1
    assert len(load_benchmark(config("openbookqa", limit=600)).all_items) == 2


def test_the_parts_of_a_benchmark_are_counted_together(write: Write) -> None:
    for subject in (subject for members in MMLU_SUBJECTS.values() for subject in members):
        write(f"{MMLU_REDUX.hub_id}/{subject}/test", [redux()])
    with pytest.raises(UserError, match="mmlu_redux declares 5632 questions, but its data has 57"):
        load_benchmark(config("mmlu_redux"))
    assert len(load_benchmark(config("mmlu_redux_virology")).all_items) == 1


def test_a_question_of_two_subjects_is_in_one_cluster(write: Write) -> None:
    asked = {"anatomy": ["a", "shared"], "virology": ["Shared ", "b"], "marketing": ["c"]}
    for subject, questions in asked.items():
        write(f"{MMLU_REDUX.hub_id}/{subject}/test", [redux(question=question) for question in questions])
    loaded = load_benchmark(config(*(f"mmlu_redux_{subject}" for subject in asked)))
    found = {item.doc_id: item.cluster for item in loaded.all_items}
    assert found["anatomy-1"] == found["virology-0"] == "mmlu_redux_anatomy/anatomy"
    assert {found[name] for name in ("anatomy-0", "virology-1", "marketing-0")} == {""}
    samples = [to_sample(item, "receiver", "", Answer(text="B")) for item in loaded.all_items]
    assert cluster_names(samples) == [
        f"mmlu_redux_{name}/{name}" for name in ("anatomy",) * 3 + ("virology", "marketing")
    ]
