"""Who sees what, as a task's file says: what becomes of its metadata, and which files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.benchmarks.questions import load_benchmark
from harness.config import build
from harness.errors import UserError
from harness.inference.types import Query
from tests.views.build import FACTS, write_task

PAIR = {"receiver": "r", "sharers": ["s"], "channels": ["receiver", "t2t"]}


def queries(path: Path, **more: object) -> list[Query]:
    config = build({"tasks": [str(path)], **PAIR, **more})
    return [item.request.query for item in load_benchmark(config).all_items]


@pytest.mark.parametrize("chat", [True, False])
def test_the_context_stands_before_the_question_for_the_sharer_alone(tmp_path: Path, chat: bool) -> None:
    for number, query in enumerate(queries(write_task(tmp_path), chat=chat)):
        assert FACTS[number] not in query.receiver.plain
        assert query.sharer.plain == f"Box {number} holds {FACTS[number]} .\n\n{query.receiver.plain}"
        assert query.sharer.options == query.receiver.options != ()


def test_the_sharer_may_read_another_text(tmp_path: Path) -> None:
    views = 'sharer_doc_to_text: "{{fact}} is in box {{number}} . {{question}}"'
    query = queries(write_task(tmp_path, views=views))[0]
    assert query.sharer.plain == "zinc is in box 0 . What is in box 0 ?"
    assert query.receiver.plain == "What is in box 0 ? A. a metal B. a stone "
    assert query.sharer_view is not None
    assert query.sharer_view.question == query.sharer.plain


def test_the_receiver_may_read_the_question_without_its_options(tmp_path: Path) -> None:
    query = queries(write_task(tmp_path, views="receiver_hides: options"))[0]
    assert query.receiver.plain == "What is in box 0 ? A.  B.  "
    assert query.sharer.plain == "What is in box 0 ? A. a metal B. a stone "


def test_a_field_s_name_is_a_template_as_in_lm_eval(tmp_path: Path) -> None:
    assert queries(write_task(tmp_path, views="sharer_context: fact"))[1].sharer.plain.startswith("iron\n\n")


def test_views_are_part_of_a_prompt_s_identity(tmp_path: Path) -> None:
    config = {"channels": ["receiver", "t2t"], **PAIR}
    items = [
        load_benchmark(build({"tasks": [str(write_task(tmp_path / str(n), facts=facts))], **config})).all_items
        for n, facts in enumerate([FACTS, ("coal", *FACTS[1:])])
    ]
    same = [one.prompt_sha256 == other.prompt_sha256 for one, other in zip(*items, strict=True)]
    assert same == [False] + [True] * (len(FACTS) - 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"views": 'sharer_context: "{{nothing}}"'}, "sharer_context of task 'boxes' cannot be filled in"),
        ({"views": 'sharer_context: ""'}, "it is the receiver's in every row"),
        ({"views": "sharer_contex: fact"}, "has 'sharer_contex'; did you mean 'sharer_context'?"),
        ({"views": "sharer_context: 3"}, "a field's name, a template or a !function"),
        ({"views": "receiver_hides: question"}, "receiver_hides of task 'boxes' is 'question'; allowed: options"),
        ({"views": "receiver_hides: options", "text": "{{question}}"}, "its doc_to_text shows none of a row"),
        (
            {"views": "receiver_hides: options", "text": "{{number}} {{choices[0]}} or a stone"},
            "shows 'a stone' without the field",
        ),
    ],
)
def test_views_that_cannot_be_are_refused_in_a_sentence(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("?", r"\?")):
        queries(write_task(tmp_path, **changes))


def test_a_task_of_one_s_own_may_not_take_the_name_of_one_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names its task 'factworld_receiver_knows', as one of this harness"):
        queries(write_task(tmp_path, "factworld_receiver_knows"))
