"""A task's own lm-eval filters decide what is scored of a reply, here as under lm-eval itself."""

import pytest

from harness.benchmarks.questions import Item, load_benchmark
from harness.config import RunConfig
from harness.errors import UserError
from harness.evaluation.accuracy_pass import to_sample
from harness.inference.types import Answer
from harness.records.schema import Sample


def asked(task: str) -> Item:
    return load_benchmark(RunConfig(receiver="r", tasks=(task,), limit=2)).items[task][0]


def answered(item: Item, reply: str) -> Sample:
    return to_sample(item, "receiver", "", Answer(text=reply))


def test_a_reply_is_scored_as_its_tasks_filter_leaves_it():
    item = asked("relay_one")
    for reply, read in (("popham B", "B"), ("? D", "D"), ("C", "C"), ("popham", None), ("A popham", None)):
        sample = answered(item, reply)
        assert (sample.predicted, sample.text, sample.error) == (read, reply, None)
        assert sample.correct == (read == sample.key)


def test_a_task_without_a_filter_of_its_own_is_scored_on_the_whole_reply():
    assert answered(asked("factworld_sharer_knows"), "A popham").predicted == "A"


def test_a_filter_that_leaves_several_texts_is_refused():
    item = asked("relay_one")
    item.lm_eval_task._filters[0].filters.pop()
    with pytest.raises(UserError, match="'paper' of task 'relay_one' makes a list of a reply; end it with take_first"):
        answered(item, "popham B")
