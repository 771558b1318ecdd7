"""One router over the whole task: whom it sends away, what that costs, and its random floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.channels.routed import Composed, compose
from harness.channels.spec import parse_channel
from harness.records.schema import Sample, Timing, whole_tasks

DOUBTS = {"easy": [0.1, 0.2, 0.3, 0.0], "hard": [0.9, 0.8, 1.0, 0.7]}


def sample(task: str, number: int, channel: str, entropy: float | None) -> Sample:
    fields: dict[str, Any] = {"task": task, "doc_id": f"{task}-{number}", "position": number, "channel": channel}
    more = {"kind": "letters", "prompt_sha256": "", "key": "A", "predicted": "A", "correct": channel == "sharer"}
    return Sample(**fields, **more, entropy=entropy, prompt_tokens=10 if channel == "receiver" else 100)


def samples() -> list[Sample]:
    rows = [(task, number, doubt) for task, doubts in DOUBTS.items() for number, doubt in enumerate(doubts)]
    ours = [sample(task, number, "receiver", doubt) for task, number, doubt in rows]
    return ours + [sample(task, number, "sharer", 1.2 - doubt) for task, number, doubt in rows]


def timing(channel: str, task: str, number: int, ttft_s: float, e2e_s: float) -> Timing:
    stages = {f"{channel}_prefill": ttft_s, f"{channel}_decode": e2e_s - ttft_s}
    fields: dict[str, Any] = {"task": task, "doc_id": f"{task}-{number}", "position": number, "channel": channel}
    return Timing(**fields, stages_s=stages, ttft_s=ttft_s, e2e_s=e2e_s, tokens_out=1)


def away(composed: Composed, control: str = "") -> list[str]:
    return [s.doc_id for s in composed.samples if s.control == control and s.routed_to == "sharer"]


def routed(spec: str, timings: Sequence[Timing] = (), seed: int = 0) -> Composed:
    return compose(parse_channel(spec), samples(), timings, seed)


def test_the_share_is_of_the_whole_and_not_of_every_part() -> None:
    assert away(routed("routed")) == ["hard-0", "hard-1", "hard-2", "hard-3"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("routed:share=0.25", ["hard-0", "hard-2"]),
        ("routed:threshold=0.85", ["hard-0", "hard-2"]),
        ("routed:by=sharer_entropy:share=0.125", ["hard-2"]),
        ("routed:by=difference:threshold=0.5", ["hard-0", "hard-2"]),
        ("routed:share=0", []),
    ],
)
def test_who_is_sent_away(spec: str, expected: list[str]) -> None:
    assert away(routed(spec)) == expected


def test_the_floor_sends_as_many_away_by_chance() -> None:
    drawn = {tuple(away(routed("routed:share=0.25", seed=seed), "random")) for seed in range(8)}
    assert {len(names) for names in drawn} == {2}
    assert len(drawn) > 1
    assert away(routed("routed:share=0.25", seed=3), "random") == away(routed("routed:share=0.25", seed=3), "random")
    random_router = routed("routed:by=random:share=0.25", seed=3)
    assert away(random_router) == away(routed("routed:share=0.25", seed=3), "random")
    assert {s.control for s in random_router.samples} == {""}


def test_an_answer_without_entropy_is_doubtful() -> None:
    rows = [s.model_copy(update={"entropy": None}) if s.doc_id == "easy-0" else s for s in samples()]
    composed = compose(parse_channel("routed:share=0.125"), rows, (), 0)
    assert away(composed) == ["easy-0"]


def test_samples_are_those_of_the_model_that_answers() -> None:
    composed = routed("routed:share=0.25")
    for made in composed.samples:
        assert made.channel == "routed:share=0.25"
        assert made.correct == (made.routed_to == "sharer")
    tokens = {s.routed_to: s.prompt_tokens for s in composed.samples if not s.control}
    assert tokens == {"receiver": 10, "sharer": 110}  # the receiver has read the prompt before it doubts
    floor = {s.routed_to: s.prompt_tokens for s in composed.samples if s.control}
    assert floor == {"receiver": 10, "sharer": 100}


@pytest.mark.parametrize(
    ("spec", "ttft_s", "e2e_s"),
    [
        ("routed:threshold=0", 1.0 + 3.0, 1.0 + 7.0),  # the receiver's first token, then the sharer
        ("routed:threshold=9", 1.0, 2.0),
        ("routed:by=sharer_entropy:threshold=-9", 3.0, 7.0),
        ("routed:by=sharer_entropy:threshold=9", 3.0 + 1.0, 3.0 + 2.0),
        ("routed:by=difference:threshold=9", 3.0 + 1.0, 3.0 + 2.0),
        ("routed:by=random:share=1", 3.0, 7.0),
    ],
)
def test_a_router_pays_for_what_it_asks(spec: str, ttft_s: float, e2e_s: float) -> None:
    timings = [timing("receiver", "hard", 0, 1.0, 2.0), timing("sharer", "hard", 0, 3.0, 7.0)]
    (made,) = [t for t in routed(spec, timings).timings if not t.control]
    assert (made.ttft_s, made.e2e_s) == (ttft_s, e2e_s)
    assert made.channel == parse_channel(spec).text
    assert sum(made.stages_s.values()) == pytest.approx(e2e_s)


def test_a_question_that_only_one_model_was_asked_is_left_out() -> None:
    rows = [s for s in samples() if (s.doc_id, s.channel) != ("hard-1", "sharer")]
    assert "hard-1" not in {s.doc_id for s in compose(parse_channel("routed"), rows, (), 0).samples}


def test_every_task_belongs_to_one_whole() -> None:
    groups = {"all": ["a", "b"], "half": ["a"], "other": ["b", "c"]}
    assert list(whole_tasks(groups, ["a", "b", "c", "d"])) == [["a", "b"], ["c"], ["d"]]
