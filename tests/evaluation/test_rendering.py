"""Runs are compared by the prompts that their models read; a template that changes them by itself is refused."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import transformers.utils.chat_template_utils as chats

from harness.benchmarks.questions import Benchmark, Item
from harness.errors import RunError, UserError
from harness.evaluation.prompt_record import check_unchanged, rendering_identity, with_renderings
from harness.evaluation.setup import Cast
from harness.inference.types import Request
from harness.models.chat import check_template, encode, render, user_turn
from harness.models.lm import LM
from tests.support.tiny import FOREIGN, fused, random_lm, shared_lm
from tests.support.work import query

DATED = "\n  {{ strftime_now('%d %b %Y %H:%M, %-d%%') }}\n"
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
ITEM = Item("t", 0, {"id": "1"}, Request(query("Why?"), options=("A", "B")))


def speaking(template: str, words: str | None = None) -> LM:
    lm = random_lm() if words is None else random_lm("llama", words=words)
    lm.tokenizer.chat_template = template
    return lm


def digest(*lms: LM, item: Item = ITEM) -> str:
    return asked(*lms, item=item).prompt_sha256


def asked(*lms: LM, item: Item = ITEM) -> Item:
    benchmark = Benchmark({"t": [item]}, {}, {}, {}, {})
    return with_renderings(benchmark, cast(*lms)).items["t"][0]


def cast(receiver: LM, *sharers: LM) -> Cast:
    return Cast(receiver, sharers, (), ())


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the day on which templates are rendered."""

    def set_day(number: int, month: int = 11, year: int = 2026) -> None:
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.datetime(year, month, number)

        monkeypatch.setattr(chats, "datetime", Clock)

    return set_day


def test_a_template_that_reads_the_clock_writes_one_date_on_every_day(day: Callable[[int], None]) -> None:
    lm, seen = speaking(DATED + CHAT), set()
    for number in (27, 28):
        day(number)
        check_template(lm)
        seen.add((render(lm, user_turn("Why?")), encode(lm, user_turn("Why?")).ids, digest(lm)))
    ((text, _, _),) = seen
    assert text.startswith("\n  26 Jul 2024 00:00, 26%\n")
    assert rendering_identity(cast(lm), chat=True)["template_date"] == "2024-07-26"
    assert "template_date" not in rendering_identity(cast(shared_lm()), chat=True)
    assert rendering_identity(cast(lm), chat=False) == {}


@pytest.mark.parametrize("form", ["%-y", "%_d.%-m", "%e %h %C", "%P %k", "%^a", "%%d %d", "100%", "%n%t", "%OH"])
def test_every_form_of_a_date_is_what_the_template_would_write_on_that_day(day: Callable[..., None], form: str) -> None:
    lm = speaking(f"{{%- set now = strftime_now %}}{{{{ now('{form}') }}}}|" + CHAT)
    day(26, 7, 2024)
    assert render(lm, user_turn("Why?")) == lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False
    )


def test_aligned_prompts_write_the_same_date(day: Callable[[int], None]) -> None:
    receiver, sharer = speaking(DATED + CHAT), speaking(DATED + CHAT, FOREIGN)
    plans = []
    for number in (27, 28):
        day(number)
        plans.append(fused(receiver, sharer, alignment="first").planner.plan(user_turn("Why?")).ids)
    assert plans[0] == plans[1]
    assert receiver.tokenizer.decode(plans[0][0]).startswith("\n  26 Jul 2024")
    assert "26 Jul 2024" in sharer.tokenizer.decode(plans[0][1])


def test_the_digest_is_of_what_is_read_and_not_of_the_source() -> None:
    plain = digest(speaking(CHAT))
    assert digest(speaking("{# a remark #}" + CHAT)) == plain
    assert digest(speaking("x" + CHAT)) != plain
    other = replace(ITEM, request=Request(query("How?"), options=("A", "B")))
    assert digest(speaking(CHAT), item=other) != plain


def test_the_prompts_of_both_models_count() -> None:
    receiver = speaking(CHAT)
    assert digest(receiver, speaking(CHAT)) != digest(receiver, speaking("x" + CHAT))


def test_how_an_earlier_exchange_is_written_counts() -> None:
    named = CHAT.replace("m['role']", "(m['role'] if m['role'] == 'user' else 'model')")
    ours, theirs = speaking(CHAT), speaking(named)
    assert digest(ours) == digest(theirs)
    assert rendering_identity(cast(ours), chat=True) != rendering_identity(cast(theirs), chat=True)


@pytest.mark.parametrize("drawn", ["{{ [1, 2] | random }}", "{{ lipsum(n=1) }}"])
def test_a_template_that_draws_is_refused(drawn: str) -> None:
    with pytest.raises(UserError, match="writes another text every time"):
        check_template(speaking(drawn + CHAT))


def test_a_prompt_that_changes_within_a_run_ends_it() -> None:
    lm = speaking(CHAT)
    item = asked(lm)
    check_unchanged(cast(lm), [item])
    lm.tokenizer.chat_template = "later " + CHAT
    with pytest.raises(RunError, match="question 1 of t is not what it was when the run began"):
        check_unchanged(cast(lm), [item])


def test_a_tokenizer_that_reads_the_clock_itself_is_caught() -> None:
    lm = speaking(CHAT)
    item, write = asked(lm), lm.tokenizer.apply_chat_template

    def dated(later: str, *arguments: Any, **more: Any) -> str:
        return later + str(write(*arguments, **more))

    lm.tokenizer.apply_chat_template = functools.partial(dated, "tomorrow ")
    with pytest.raises(RunError, match="not what it was"):
        check_unchanged(cast(lm), [item])
