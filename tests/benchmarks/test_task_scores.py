"""One score a question: what a run records is what lm-eval's own evaluator finds for the same answers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate

from harness.benchmarks.answer_parsing import ScoreError, Scores, fields_of, score, scores_of
from harness.benchmarks.questions import Benchmark, Item, load_benchmark
from harness.benchmarks.requests import chat_text
from harness.config import build
from harness.evaluation.accuracy_pass import to_sample
from harness.evaluation.finalize import lm_eval_results
from harness.inference.types import Answer, Scored
from harness.records.schema import Sample
from tests.support.task_rows import Write, ceval, listed, redux

WRITTEN = {
    "openbookqa": "allenai/openbookqa/main/test",
    "arc_challenge": "allenai/ai2_arc/ARC-Challenge/test",
    "mmlu_redux_anatomy": "edinburgh-dawg/mmlu-redux-2.0/anatomy/test",
    "mmlu_redux_ok_anatomy": "edinburgh-dawg/mmlu-redux-2.0/anatomy/test",
    "ceval_accountant": "ceval/ceval-exam/accountant/test",
    "ceval_val_accountant": "ceval/ceval-exam/accountant/val",
    "factworld_receiver_knows": "",
    "factworld_sharer_knows": "",
    "relay_one": "",
}
TEXTS = ["The correct answer is B", "A/B/C/D", "Carbon dioxide", "I do not think the answer is C.", "", "D", "C. x"]


class RecordedLM(LM):  # type: ignore[misc]
    """Gives lm-eval's evaluator the answers that were recorded."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        super().__init__()
        self.samples = {(s.task, s.position): s for s in samples}
        self.places = {t: sorted(s.position for s in samples if s.task == t) for t in {s.task for s in samples}}

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        return [((self._sample(r).loglikelihoods or [])[r.idx], False) for r in requests]

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self._sample(r).text or "" for r in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        raise NotImplementedError

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        return chat_text(chat_history, add_generation_prompt)

    tokenizer_name = "recorded"

    def _sample(self, request: Any) -> Sample:
        return self.samples[request.task_name, self.places[request.task_name][request.doc_id]]


def rows(name: str, number: int) -> dict[str, Any]:
    if name.startswith("mmlu"):
        return redux(question=f"Which bone {number}?", answer=number % 4)
    if name.startswith("ceval"):
        return ceval("ABCD"[number % 4], id=number, question=f"{number}？")
    return listed("ABCD"[number % 4], number, question=f"Which {number}?", question_stem=f"Which {number}?")


@pytest.fixture
def loaded(request: pytest.FixtureRequest, write: Write) -> Benchmark:
    name: str = request.param
    if place := WRITTEN[name.removesuffix("_letters")]:
        write(place, [rows(name, number) for number in range(9)])
    return load_benchmark(build({"receiver": "x", "channels": ["receiver"], "tasks": [name], "limit": 7}, "test"))


def answered(items: Sequence[Item]) -> list[Sample]:
    chance = random.Random(3)

    def answer(item: Item) -> Answer:
        if not item.request.options:
            return Answer(text=chance.choice(TEXTS))
        return Answer(scored=tuple(Scored(chance.uniform(-9, 0), False) for _ in item.request.options))

    return [to_sample(item, "receiver", "", answer(item)) for item in items]


@pytest.mark.parametrize(
    "loaded", [n + s for n in WRITTEN for s in ("", "_letters") if n != "relay_one" or not s], indirect=True
)
def test_recorded_scores_aggregate_to_what_lm_eval_finds(loaded: Benchmark) -> None:
    samples = answered(loaded.all_items)
    assert all(s.done for s in samples)
    assert {*map(tuple, (s.metrics for s in samples))} == {("acc",)}
    found = lm_eval_results(loaded, samples, "receiver")
    lm = RecordedLM(samples)
    expected = evaluate(
        lm,
        {"tasks": loaded.loaded, "groups": {}, "group_map": {}},
        samples=dict(lm.places),
        bootstrap_iters=0,
        log_samples=False,
        apply_chat_template=True,
    )
    assert {k: v for k, v in found.items() if k != "config"} == expected


@pytest.mark.parametrize("loaded", ["factworld_sharer_knows", "factworld_sharer_knows_letters"], indirect=True)
def test_an_answer_is_scored_once_by_its_task(loaded: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    usual = ConfigurableTask.process_results

    def counted(self: Any, doc: Any, results: Any) -> Any:
        asked[doc["id"]] += 1
        return usual(self, doc, results)

    monkeypatch.setattr(ConfigurableTask, "process_results", counted)
    samples = answered(loaded.all_items)
    each = 3 if samples[0].kind == "generate" else 1  # once a filter
    assert asked == dict.fromkeys((s.doc_id for s in samples), each)
    lm_eval_results(loaded, samples, "receiver")
    assert sum(asked.values()) == each * len(samples)


class Graded:
    """A task in lm-eval's manner with two filters, of which the first lowers the case."""

    def __init__(self, value: Any = 0.25) -> None:
        self.value, self._instances = value, []

    def apply_filters(self) -> None:
        for instance in self._instances:
            instance.filtered_resps = {"lower": instance.resps[0].lower(), "none": instance.resps[0]}

    def process_results(self, doc: Any, results: Sequence[str]) -> dict[str, Any]:
        return {"f1": self.value if results[0].islower() else 1.0, "exact": results[0] == doc["key"]}


def requests() -> Iterator[Instance]:
    yield Instance("generate_until", {"key": "Paris"}, ("Where?", {}), 0, metadata=("t", 0, 1))


def test_graded_scores_of_every_filter_are_recorded() -> None:
    found = score(Graded(), list(requests()), ["Paris"])
    values = {("f1", "lower"): 0.25, ("exact", "lower"): 0.0, ("f1", "none"): 1.0, ("exact", "none"): 1.0}
    assert found == Scores(values, {"lower": "paris", "none": "Paris"})
    fields = fields_of(found)
    assert fields["metrics"] == {"f1": 0.25, "exact": 0.0, "f1,none": 1.0, "exact,none": 1.0}
    assert (fields["predicted"], fields["correct"]) == ("paris", False)
    sample = Sample(
        task="t", doc_id="0", position=0, channel="c", kind="generate", prompt_sha256="", key="Paris", **fields
    )
    assert scores_of(sample, ["lower", "none"], ["f1", "exact"]) == found.values


@pytest.mark.parametrize("value", [float("nan"), ("reference", "text"), None])
def test_a_metric_that_is_no_number_is_an_error_of_its_question(value: Any) -> None:
    with pytest.raises(ScoreError, match="Metric 'f1' of one answer is"):
        score(Graded(value), list(requests()), ["Paris"])
