"""A task's own lm-eval filter decides what is scored of a reply, here as under lm-eval itself."""

import pytest

from harness.config import RunConfig
from harness.errors import UserError
from harness.loading_tasks import answer_filter, load_benchmark
from tasks import index


def test_a_reply_is_scored_as_its_tasks_filter_leaves_it():
    benchmark = load_benchmark(RunConfig(receiver="r", tasks=("relay_one",), limit=2))
    item = benchmark.items["relay_one"][0]
    for reply, read in (
        ("popham B", "B"),
        ("? D", "D"),
        ("C", "C"),
        ("popham", "[invalid]"),
        ("A popham", "[invalid]"),
    ):
        assert item.read(reply, item.document) == read


def test_a_task_without_a_filter_is_scored_on_the_whole_reply():
    (task,) = index.load(["factworld_sharer_knows"])
    assert answer_filter(task)("popham B", {}) == "popham B"


def test_a_filter_that_leaves_several_texts_is_refused():
    (task,) = index.load(["relay_one"])
    task._filters[0].filters.pop()
    with pytest.raises(
        UserError, match="'last_letter' of task 'relay_one' makes list of a reply; end it with take_first"
    ):
        answer_filter(task)("popham B", {})
